"""SQLite under greenlets: waiting for its write lock happens in Python, not in C.

A busy_timeout of five seconds stops every stream of a gevent worker for as long (measured: 2.0 s
for a lock of 2 s); with 50 ms and the waiting here, the longest gap was 0.06 s.
"""

import random
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE_S = 5.0


def patiently(act: Callable[[], T]) -> T:
    """`act`, again while another connection writes. A stale snapshot is no such case: raises."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return act()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(random.uniform(0.005, 0.03))  # noqa: S311  # jitter, nothing secret


class PatientCursor(sqlite3.Cursor):
    def execute(self, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
        return patiently(lambda: super(PatientCursor, self).execute(*args))

    def executemany(self, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
        return patiently(lambda: super(PatientCursor, self).executemany(*args))


class PatientConnection(sqlite3.Connection):
    """For `sqlite3.connect(factory=…)`."""

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or PatientCursor)

    def commit(self) -> None:
        patiently(super().commit)


def prepare(connection: sqlite3.Connection) -> None:
    for pragma in ("journal_mode=WAL", "busy_timeout=50", "foreign_keys=ON", "secure_delete=ON"):
        patiently(lambda text=pragma: connection.execute(f"PRAGMA {text}"))  # type: ignore[misc]
