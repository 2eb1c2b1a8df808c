"""Reads that are kept for a second, and the clock of the database."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from app import schema
from app.db import AWAY, Recent, again, db, db_now_ms, recent
from app.models import Gateway, Throttle
from tests.conftest import rows


def test_a_value_is_read_once_until_something_is_written(app_ctx):
    reads = []

    def load() -> int:
        reads.append(1)
        return len(reads)

    assert [recent().get("k", load) for _ in range(3)] == [1, 1, 1]
    db.session.add(Throttle(key="x"))
    db.session.commit()
    assert recent().get("k", load) == 2
    db.session.execute(sa.update(Throttle).values(failures=1))
    db.session.commit()
    assert recent().get("k", load) == 3
    db.session.scalars(sa.select(Throttle)).all()
    db.session.commit()
    assert recent().get("k", load) == 3


def test_a_read_that_a_commit_overtook_is_not_kept():
    kept = Recent()

    def overtaken() -> str:
        kept.clear()  # as a commit does, while this read is under way
        return "old"

    assert kept.get("k", overtaken) == "old"
    assert kept.get("k", lambda: "new") == "new"


def test_the_database_tells_the_time_in_milliseconds(app_ctx):
    with db.engine.connect() as link:
        first = link.scalar(sa.select(db_now_ms()))
    assert abs(first - time.time() * 1000) < 60_000


def test_a_row_has_its_id_before_it_is_flushed():
    assert len(Gateway(slug="x").id) == 32 and Gateway().id != Gateway().id


def test_f_26_transactions_that_block_each_other_are_done_again(app):
    """Two orders of two rows: a deadlock, or a snapshot too old to write from."""
    with app.app_context():
        db.session.add_all([Throttle(key="a"), Throttle(key="b")])
        db.session.commit()
    both_have_read, tries = threading.Barrier(2, timeout=30), []

    def count(read: str, written: str) -> None:
        tries.append(read)
        with db.engine.begin() as link:
            if link.dialect.name == "sqlite":
                link.exec_driver_sql("BEGIN")
            of = sa.select(Throttle.failures).where(Throttle.key == read)
            link.execute(of.with_for_update()).one()
            if tries.count(read) == 1:
                both_have_read.wait()
            change = sa.update(Throttle).where(Throttle.key == written)
            link.execute(change.values(failures=Throttle.failures + 1))

    def work(*keys: str) -> None:
        with app.app_context():
            again(lambda: count(*keys))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, "ab", "ba"))
    assert len(tries) == 3  # one of the two was undone
    assert {row.key: row.failures for row in rows(app, Throttle)} == {"a": 1, "b": 1}


def test_f_26_what_fails_for_another_reason_is_not_done_again(app_ctx):
    tries = []

    def act() -> None:
        tries.append(1)
        with db.engine.begin() as link:
            link.exec_driver_sql("SELECT nothing FROM nowhere")

    with pytest.raises(sa.exc.DBAPIError):
        again(act)
    assert len(tries) == 1


def test_f_22_a_full_disk_is_told_from_a_database_that_is_away(app_ctx):
    """SQLite says so itself; what the server's own disk says has a code of its own."""
    if db.engine.dialect.name == "sqlite":
        with db.engine.connect() as link:
            link.exec_driver_sql("PRAGMA max_page_count=1")
            with pytest.raises(sa.exc.OperationalError) as caught:
                link.exec_driver_sql("CREATE TABLE too_much AS SELECT zeroblob(100000) AS x")
            link.invalidate()
        error = caught.value
    else:
        error = sa.exc.OperationalError("INSERT", {}, psycopg.errors.DiskFull("no space left"))
    assert "disk is full" in schema.complaint(error)
    assert "disk" not in schema.complaint(sa.exc.OperationalError("X", {}, Exception("gone")))


def test_f_24_a_server_that_became_read_only_is_told_from_one_that_is_away(app_ctx):
    """And looks for itself from then on, as one whose disk is full."""
    cause = psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE")
    error = sa.exc.InternalError("UPDATE", {}, cause)
    assert isinstance(error, AWAY) and "read-only" in schema.complaint(error)
    schema.note_failure(error)
    assert app_ctx.extensions["unwritable"]
    schema.ping()
    assert not app_ctx.extensions["unwritable"]
