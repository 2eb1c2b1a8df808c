"""Who does a recurring piece of work now: a lease in a row, by compare-and-swap.

All times are the database's, so nodes agree without agreeing on clocks. A lease outlives the step
that it covers and is taken on with each; whoever is killed loses it when it ends, and nobody has to
free it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from . import processes
from .db import db, db_now_ms
from .models import Chore

c = Chore
FAILED = "failed: "  # and a code: what an outcome says otherwise is counts
OUTCOME_LIMIT = 200  # characters


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to do one chore, until the lease ends."""

    name: str
    holder: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a chore. Nothing has come of it yet while `ran_ms` is None."""

    name: str
    holder: str | None = None  # who has it, or had it last
    lease_ms: int = 0
    due_ms: int = 0
    ran_ms: int | None = None  # when it was done last
    outcome: str | None = None
    now_ms: int = 0

    @property
    def is_running(self) -> bool:
        return self.lease_ms > self.now_ms

    @property
    def where(self) -> str:
        """Node and process."""
        return (self.holder or "-").rpartition(" ")[0] or "-"

    @property
    def failed(self) -> bool:
        return (self.outcome or "").startswith(FAILED)

    @property
    def is_due(self) -> bool:
        return self.due_ms <= self.now_ms and not self.is_running

    @property
    def wait_s(self) -> float:
        """Until somebody may take it."""
        return max(0, max(self.due_ms, self.lease_ms) - self.now_ms) / 1000


def enter(name: str) -> None:
    """Give this chore its row, if it has none; then it is due at once. Commits."""
    if any(one.name == name for one in standings()):
        return
    try:
        with db.engine.begin() as link:
            link.execute(sa.insert(c).values(id=name))
    except IntegrityError:
        return  # another process was faster


def standings() -> Sequence[Standing]:
    """Every chore that was ever entered, by name."""
    columns = (c.holder, c.lease_ms, c.due_ms, c.ran_ms, c.outcome)
    query = sa.select(c.id.label("name"), *columns, db_now_ms().label("now_ms")).order_by(c.id)
    with db.engine.connect() as link:
        return [Standing(**row._mapping) for row in link.execute(query)]


def claim(name: str, *, lease_s: float, early: bool = False) -> Turn | None:
    """The turn, or None: another has it, or it is not due and not to be done `early`. Commits."""
    turn, now = Turn(name, _us()), db_now_ms()
    free = [c.id == name, c.lease_ms <= now, *([] if early else [c.due_ms <= now])]
    held = sa.update(c).where(*free).values(holder=turn.holder, lease_ms=_after(lease_s))
    return turn if _matched(held) else None


def hold(turn: Turn, *, lease_s: float) -> bool:
    """Take the lease on from now; whether it was still ours. Commits."""
    return _matched(_of(turn).where(c.lease_ms > db_now_ms()).values(lease_ms=_after(lease_s)))


def finish(turn: Turn, outcome: str, *, again_s: float) -> bool:
    """Say what came of it and when it is due again; whether it was still ours. Commits."""
    said = {"outcome": outcome[:OUTCOME_LIMIT], "ran_ms": db_now_ms()}
    return _matched(_of(turn).values(lease_ms=0, due_ms=_after(again_s), **said))


def _of(turn: Turn) -> sa.Update:
    return sa.update(c).where(c.id == turn.name, c.holder == turn.holder)


def _after(seconds: float) -> sa.ColumnElement[int]:
    return db_now_ms() + int(seconds * 1000)


def _matched(change: sa.Update) -> bool:
    with db.engine.begin() as link:
        found: Any = link.execute(change)
        return bool(found.rowcount)


def _us() -> str:
    """Names the node and process for people, and this one turn for compare-and-swap."""
    return f"{processes.host()[:40]} {os.getpid()} {secrets.token_hex(4)}"
