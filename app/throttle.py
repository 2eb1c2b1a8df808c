"""What slows down guessing: failed tries, counted in the database, shared by all workers (SEC-070).

A try is counted before it is looked at, so that a hundred at once are not a hundred free ones, and
taken back when it was right. Delays grow and end; nobody is ever locked out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from .addresses import whose
from .db import again, db, db_now_ms
from .errors import Busy
from .models import Throttle

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
FORGET_MS = 3_600_000  # without a try, the count starts anew


@dataclass(frozen=True, slots=True)
class Limit:
    """What is limited, how many tries are free, and how long the longest pause is."""

    key: str
    free: int
    longest_s: int


def sign_in(email: str, address: str) -> tuple[Limit, ...]:
    """Wide for an account as a whole: strangers elsewhere may slow its owner by seconds only."""
    where = whose(address)
    return (
        Limit(_key("pair", email, where), free=5, longest_s=900),
        Limit(_key("address", where), free=30, longest_s=900),
        Limit(_key("account", email), free=50, longest_s=5),
    )


def set_up(address: str) -> tuple[Limit, ...]:
    where = whose(address)
    return (
        Limit(_key("setup", where), free=5, longest_s=900),
        Limit(_key("setup"), free=50, longest_s=5),
    )


def take(limits: Sequence[Limit]) -> int:
    """Count a try under each limit; gives the pause in seconds that now begins, 0 if none.

    Raises Busy while an earlier pause lasts; then nothing is counted. Commits. All tries take
    their rows in the same order, so none waits for the other in a circle.
    """
    return again(lambda: _take(limits), undo=db.session.rollback)


def _take(limits: Sequence[Limit]) -> int:
    longest = 0
    for limit in limits:
        pause_ms = _count(limit)
        if pause_ms is None:
            wait_s = _left_s(limit)
            db.session.rollback()
            raise Busy(retry_after=wait_s)
        longest = max(longest, pause_ms)
    db.session.commit()
    return (longest + 500) // 1000  # each statement looks at the clock twice


def give_back(limits: Sequence[Limit]) -> None:
    """The try was right. The first limit, the narrowest, starts anew; the others forget the try."""
    t = Throttle
    for limit in limits[1:]:
        fewer = sa.case((t.failures > 0, t.failures - 1), else_=0)
        change = sa.update(t).where(t.key == limit.key).values(failures=fewer, not_before_ms=0)
        db.session.execute(change)
    # Rows that somebody holds are left to the next: waiting for each other would be a deadlock.
    stale = sa.select(t.key).where(is_over()).with_for_update(skip_locked=True)
    db.session.execute(sa.delete(t).where(sa.or_(t.key == limits[0].key, t.key.in_(stale))))


def is_over() -> sa.ColumnElement[bool]:
    """Whether the count of a key would start anew."""
    now = db_now_ms()
    return sa.and_(Throttle.last_ms < now - FORGET_MS, Throttle.not_before_ms < now)


def _count(limit: Limit) -> int | None:
    """The pause in ms after this try; None while one lasts. One statement, so no try slips by."""
    t, now = Throttle, db_now_ms()
    count = sa.case((t.last_ms < now - FORGET_MS, 1), else_=t.failures + 1)
    pause = _pause_ms(count, limit)
    insert = _INSERTS[db.engine.dialect.name]
    first = insert(t).values(key=limit.key, failures=1, last_ms=now, not_before_ms=now)
    again = first.on_conflict_do_update(
        index_elements=[t.key],
        set_={"failures": count, "last_ms": now, "not_before_ms": now + pause},
        where=t.not_before_ms <= now,
    )
    pause_ms: int | None = db.session.scalar(again.returning(t.not_before_ms - t.last_ms))
    return pause_ms


def _pause_ms(count: sa.ColumnElement[int], limit: Limit) -> sa.ColumnElement[int]:
    """None, 1 s, 2 s, 4 s, … up to the longest."""
    steps, pause_s = [(count <= limit.free - 1, 0)], 1
    while pause_s < limit.longest_s:
        steps.append((count <= limit.free - 1 + len(steps), pause_s * 1000))
        pause_s *= 2
    return sa.case(*steps, else_=limit.longest_s * 1000)


def _left_s(limit: Limit) -> int:
    left = sa.select(Throttle.not_before_ms - db_now_ms()).where(Throttle.key == limit.key)
    return max(1, -(-(db.session.scalar(left) or 0) // 1000))


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
