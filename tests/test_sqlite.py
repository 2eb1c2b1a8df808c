"""What a writer does while another one holds SQLite's lock."""

import sqlite3
import threading
from pathlib import Path

import pytest

from app import sqlite


def connect(path: Path) -> sqlite3.Connection:
    link = sqlite3.connect(path, factory=sqlite.PatientConnection, check_same_thread=False)
    sqlite.prepare(link)
    return link


def test_a_write_waits_in_python_until_the_lock_is_free(tmp_path):
    first, second = connect(tmp_path / "a.db"), connect(tmp_path / "a.db")
    first.execute("CREATE TABLE t (n INTEGER)")
    first.execute("BEGIN IMMEDIATE")
    second.create_function("noted", 0, lambda: 1)
    done = threading.Event()

    def write() -> None:
        second.cursor().execute("INSERT INTO t VALUES (noted())")
        second.commit()
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.2)  # longer than the busy_timeout of 50 ms: it is waiting in Python
    first.commit()
    thread.join(5)
    assert done.is_set()
    assert first.execute("SELECT count(*) FROM t").fetchone() == (1,)
    first.close()
    second.close()


def test_a_stale_snapshot_is_not_waited_for(tmp_path):
    first, second = connect(tmp_path / "a.db"), connect(tmp_path / "a.db")
    first.execute("CREATE TABLE t (n INTEGER)")
    second.execute("BEGIN")
    second.execute("SELECT * FROM t").fetchall()
    first.execute("INSERT INTO t VALUES (1)")
    first.commit()
    with pytest.raises(sqlite3.OperationalError):
        second.cursor().execute("INSERT INTO t VALUES (2)")
    first.close()
    second.close()


@pytest.mark.parametrize("pragma", ["journal_mode", "foreign_keys"])
def test_the_database_is_set_up_as_designed(tmp_path, pragma):
    link = connect(tmp_path / "a.db")
    found = link.execute(f"PRAGMA {pragma}").fetchone()[0]
    link.close()
    assert found in ("wal", 1)
