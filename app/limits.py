"""How many requests a minute: of one API token, one person, one address (SEC-101).

Counted in memory; at most once a second a worker adds its counts to those of all workers and nodes,
in one statement, and learns how many there are. So a call costs no query, and a burst over several
workers passes a limit by what they take in a second. What is guessed at is counted one by one.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.dialects import postgresql, sqlite

from .db import AWAY, again, db, db_now_ms
from .errors import Busy
from .models import RateWindow

log = logging.getLogger(__name__)

WINDOW_MS = 60_000
EVERY_S = 1.0  # between two looks at the database
MOST = 50_000  # keys counted at once in one worker; then it starts anew
KEPT_MS = 2 * 3_600_000  # of windows that are over; the longest strict one is an hour
_PIECE = 300  # rows in one statement
_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
w = RateWindow

Key = tuple[str, str]  # what is counted, and of whom


class Rates:
    """This worker's share. Threads may lose a count to each other: it is a limit, not a bill."""

    def __init__(self, most: Mapping[str, int]) -> None:
        """How many of what a minute; 0 is any number."""
        self._most = dict(most)
        self._window = 0  # its beginning, ms by the database's clock
        self._fresh: dict[Key, int] = {}  # since the last look
        self._known: dict[Key, int] = {}  # of all workers, at the last look
        self._ahead_ms = 0  # of our clock: the database's
        self._due = 0.0  # the next look, monotonic

    def count(self, keys: Sequence[Key]) -> None:
        """One more under each. Raises Busy for one too many; then nothing is counted."""
        now = int(time.time() * 1000) + self._ahead_ms
        if not self._window <= now < self._window + WINDOW_MS:
            self._window = now - now % WINDOW_MS
            self._fresh, self._known = {}, {}
        fresh, known, limits = self._fresh, self._known, self._most
        for key in keys:
            if 0 < limits[key[0]] <= fresh.get(key, 0) + known.get(key, 0):
                wait_s = (self._window + WINDOW_MS - now) // 1000 + 1
                raise Busy("too_many_requests", retry_after=wait_s)
        if len(fresh) >= MOST:
            fresh.clear()
        for key in keys:
            fresh[key] = fresh.get(key, 0) + 1

    def is_due(self) -> bool:
        """Whether it is this request's turn to share(), when its answer is out."""
        now = time.monotonic()
        if now < self._due or not self._fresh:
            return False
        self._due = now + EVERY_S
        return True

    def share(self) -> None:
        """Add up with the other workers. Commits. A database that is away loses nothing."""
        window, counts, self._fresh = self._window, self._fresh, {}
        try:
            rows = again(lambda: _add(window, counts))
        except AWAY as error:
            log.warning("requests are counted in this worker alone: %s", type(error).__name__)
            if window == self._window:
                for key, number in counts.items():
                    self._fresh[key] = self._fresh.get(key, 0) + number
            return
        by_name = {_name(key): key for key in counts}
        if window == self._window:
            self._known = {**self._known, **{by_name[row.id]: row.count for row in rows}}
        if rows:
            self._ahead_ms = rows[-1].now_ms - int(time.time() * 1000)


def rates() -> Rates:
    """This app's."""
    held: Rates = current_app.extensions["rates"]
    return held


def strictly(what: str, who: str, *, most: int, window_ms: int = WINDOW_MS) -> None:
    """Count one here and now, for all workers. Raises Busy when there were too many. Commits."""
    # The clock is read once: between two readings it may go on, to the end of another window.
    window = db_now_ms() // window_ms * window_ms
    counted = _upsert([{"id": _name((what, who)), "window_ms": window, "count": 1}])

    def add() -> Any:
        with db.engine.begin() as link:
            return link.execute(counted).one()

    row = again(add)
    if row.count > most > 0:
        ends_ms = row.window_ms + window_ms - row.now_ms
        raise Busy("too_many_requests", retry_after=max(1, -(-ends_ms // 1000)))


def forget() -> int:
    """Remove windows that are long over. Commits; how many rows."""
    # Rows that somebody holds are left to the next: waiting for each other would be a deadlock.
    old = sa.select(w.id, w.window_ms).where(w.window_ms < db_now_ms() - KEPT_MS)
    old = old.limit(5_000).with_for_update(skip_locked=True)
    with db.engine.begin() as link:
        return link.execute(
            sa.delete(w).where(sa.tuple_(w.id, w.window_ms).in_(old)),
        ).rowcount


def _add(window: int, counts: dict[Key, int]) -> list[Any]:
    """In one order of rows, as others do the same at once (F-26)."""
    rows = sorted((_name(key), number) for key, number in counts.items())
    found: list[Any] = []
    with db.engine.begin() as link:
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            values = [{"id": name, "window_ms": window, "count": n} for name, n in piece]
            found += link.execute(_upsert(values)).all()
    return found


def _upsert(values: list[dict[str, Any]]) -> Any:
    first = _INSERTS[db.engine.dialect.name](w).values(values)
    more = {"count": w.count + first.excluded["count"]}
    added = first.on_conflict_do_update(index_elements=[w.id, w.window_ms], set_=more)
    return added.returning(w.id, w.window_ms, w.count, db_now_ms().label("now_ms"))


def _name(key: Key) -> str:
    return hashlib.sha256("\0".join(key).encode()).hexdigest()
