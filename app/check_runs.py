"""Checks as they are kept: begun, taken on step by step, ended, compared with the last good one.

A row is written after each step, in a transaction of its own; it holds no secret.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from . import audit, checks
from .access import Caller, Usable
from .audit import Actor, Subject
from .db import db, db_now_ms
from .errors import Busy, NotFound
from .models import CheckRun, Gateway, User
from .oauth.replies import TokenSet
from .steps import LAST, Outcome, Step, outcome_of

log = logging.getLogger(__name__)

KEPT = 20  # of each gateway
AT_ONCE = 2  # on a node: each may hold a thread for 20 s
STALE_MS = 60_000  # after which one that says it is running was cut off
WAITS_MS = 900_000  # for somebody to come back from a provider
_turns = threading.BoundedSemaphore(AT_ONCE)
k = CheckRun


@dataclass(frozen=True, slots=True)
class Kept:
    """One check, as it was written down."""

    id: str
    gateway_id: str
    user_id: str | None  # who asked; None: a command
    by: str  # an email, or the command line
    state: str  # queued, running, waiting, done
    outcome: Outcome | None
    code: str | None
    steps: tuple[Step, ...]
    started_ms: int
    ended_ms: int | None

    @property
    def took_ms(self) -> int:
        return sum(step.took_ms for step in self.steps)

    @property
    def bad(self) -> Step | None:
        return next((step for step in self.steps if step.state == "bad"), None)

    @property
    def verdict(self) -> str:
        """One sentence or two."""
        bad = self.bad
        if bad is not None:
            return f"Stopped at step {bad.number} of {LAST}. {bad.says}"
        if self.state == "waiting":
            return "So far all is well. To go on, connect your own account."
        if self.state != "done":
            return "This check is not finished."
        if self.code == "internal_error":
            return "The check stopped by itself. This is our fault."
        tools = next((step.says for step in self.steps if step.key == "tools"), "")
        doubts = sum(step.state == "warn" for step in self.steps)
        if doubts:
            return f"It works, with {'one doubt' if doubts == 1 else f'{doubts} doubts'}. {tools}"
        return f"Ready. {tools}"

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": self.id, "by": self.by, "state": self.state}
        shown |= {"outcome": self.outcome, "code": self.code, "verdict": self.verdict}
        shown |= {"started_ms": self.started_ms, "ended_ms": self.ended_ms}
        return shown | {"steps": [step.as_json() for step in self.steps]}


def begin(gateway: Gateway, *, by: Actor, user_id: str | None) -> str:
    """The id of a check that waits for somebody to run it. The caller commits."""
    run = CheckRun(id=uuid.uuid4().hex, gateway_id=gateway.id, user_id=user_id, state="queued")
    run.started_ms, run.steps = db.session.scalar(sa.select(db_now_ms())) or 0, []
    db.session.add(run)
    audit.record(by, "gateway.checked", Subject("gateway", gateway.id, gateway.name))
    db.session.flush()
    newest = sa.select(k.id).where(k.gateway_id == gateway.id)
    newest = newest.order_by(k.started_ms.desc(), k.id).limit(KEPT)
    old = sa.delete(k).where(k.gateway_id == gateway.id, k.id.not_in(newest.scalar_subquery()))
    db.session.execute(old, execution_options={"synchronize_session": False})
    return run.id


def take(run_id: str, state: str = "queued") -> bool:
    """Whether it is ours to run now: of all who ask, one. Commits."""
    claim = sa.update(k).where(k.id == run_id, k.state == state).values(state="running")
    with db.engine.begin() as link:
        return bool(link.execute(claim).rowcount)


@contextmanager
def turn() -> Iterator[None]:
    """One of few at once on this node. Raises Busy."""
    if not _turns.acquire(blocking=False):
        raise Busy(retry_after=5)
    try:
        yield
    finally:
        _turns.release()


def steps(
    run_id: str, gateway: Usable, caller: Caller, *, given: TokenSet | None = None, by: Actor
) -> Iterator[Step]:
    """Run what was taken, from where it stands; each step is written as it is done. Commits.

    However it ends, the row ends with it: also where the reader goes, or where we made a mistake.
    """
    done = [step for step in find(run_id).steps if step.state != "waiting"]
    with _Ending(run_id, done) as ending:
        for step in checks.run(gateway, caller, first=len(done), given=given, by=by):
            done.append(step)
            _write(run_id, done, "running")
            yield step
        ending.is_whole = True
    if ending.failed is not None:
        yield ending.failed


class _Ending:
    """The last word on a check. A mistake of ours becomes a step, and goes to the log."""

    def __init__(self, run_id: str, done: list[Step]) -> None:
        self._run_id, self._done = run_id, done
        self.is_whole = False
        self.failed: Step | None = None

    def __enter__(self) -> _Ending:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        is_ours = isinstance(error, Exception)  # else the reader went
        if is_ours:
            log.error("a check stopped by itself", exc_info=error)
            says = "The check stopped by itself. This is our fault."
            number = min(len(self._done), LAST)
            self.failed = Step(number=number, state="bad", says=says, code="internal_error")
            self._done.append(self.failed)
        waits = bool(self._done) and self._done[-1].state == "waiting"
        state = "waiting" if waits and self.is_whole else "done"
        code = None if self.is_whole or is_ours else "internal_error"
        db.session.rollback()
        _write(self._run_id, self._done, state, code)
        return is_ours


def _write(run_id: str, done: Sequence[Step], state: str, code: str | None = None) -> None:
    values: dict[str, Any] = {"steps": [step.as_json() for step in done], "state": state}
    if state != "running":
        bad = next((step for step in done if step.state == "bad"), None)
        values |= {"ended_ms": db_now_ms(), "code": bad.code if bad else code}
        values["outcome"] = "bad" if code else outcome_of(list(done))
    with db.engine.begin() as link:
        link.execute(sa.update(k).where(k.id == run_id).values(**values))


# -- read ------------------------------------------------------------------------------------------


def find(run_id: str, gateway_id: str | None = None) -> Kept:
    """Raises NotFound. A short read of its own."""
    query = _query().where(k.id == run_id)
    if gateway_id is not None:
        query = query.where(k.gateway_id == gateway_id)
    with db.engine.connect() as link:
        row = link.execute(query).first()
    if row is None:
        raise NotFound
    return _kept(row)


def of_gateway(gateway_id: str, most: int = KEPT) -> list[Kept]:
    """The newest first."""
    query = _query().where(k.gateway_id == gateway_id).order_by(k.started_ms.desc(), k.id)
    query = query.limit(most)
    with db.engine.connect() as link:
        return [_kept(row) for row in link.execute(query)]


def last(gateway_id: str) -> Kept | None:
    return next(iter(of_gateway(gateway_id, 1)), None)


def last_good(kept: Kept) -> Kept | None:
    """The newest check before this one in which the step that failed now had worked."""
    bad = kept.bad
    if bad is None:
        return None
    return next(
        (
            one
            for one in of_gateway(kept.gateway_id)
            if one.started_ms < kept.started_ms
            and any(step.number == bad.number and step.state == "ok" for step in one.steps)
        ),
        None,
    )


def differences(now: Kept, then: Kept) -> list[str]:
    """What else the two found, as sentences."""
    was = {step.number: step for step in then.steps}
    return [
        f"{step.name}: it was “{was[step.number].says}”"
        for step in now.steps
        if step.number in was
        and step.state in ("ok", "warn")
        and (step.says, step.state) != (was[step.number].says, was[step.number].state)
    ]


def report(kept: Kept, name: str, url: str) -> str:
    """To paste into a message: no secret, nothing to click."""
    at = datetime.fromtimestamp(kept.started_ms / 1000, UTC)
    lines = [f"Check of {name}", url, f"{at:%Y-%m-%d %H:%M} UTC, by {kept.by}", "", kept.verdict]
    for step in kept.steps:
        lines += ["", f"{step.number}. {step.name}: {step.state} ({step.took_ms} ms)"]
        lines += [f"   {line}" for line in told(step)]
        for one in step.exchanges:
            lines += ["", *_exchange(one.method, one.url, one.status, one.took_ms)]
            lines += [f"   > {line}" for line in one.sent.splitlines()]
            lines += [f"   < {line}" for line in one.got.splitlines()]
    return "\n".join(lines) + "\n"


def told(step: Step) -> Iterable[str]:
    """What a step says, a line each."""
    if step.says:
        yield step.says
    error = step.error
    if error is not None:
        yield error.cause
        yield f"What to do ({step.who}): {error.admin or error.action}"
        yield f"Code: {error.code}"
    if step.said:
        yield f"The other side said: {step.said}"
    yield from step.notes


def _exchange(method: str, url: str, status: int | None, took_ms: int) -> list[str]:
    return [f"   {method} {url}", f"   {status or 'no answer'}, {took_ms} ms"]


def _query() -> sa.Select[Any]:
    columns = (
        k.id,
        k.gateway_id,
        k.user_id,
        k.state,
        k.outcome,
        k.code,
        k.steps,
        k.started_ms,
        k.ended_ms,
    )
    query = sa.select(*columns, User.email, db_now_ms().label("now_ms"))
    return query.outerjoin(User, User.id == k.user_id)


def _kept(row: sa.Row[Any]) -> Kept:
    """One that says it is running for too long was cut off with its process."""
    state, age = row.state, row.now_ms - row.started_ms
    is_cut = state in ("running", "queued") and age > STALE_MS + (WAITS_MS if row.steps else 0)
    return Kept(
        id=row.id,
        gateway_id=row.gateway_id,
        user_id=row.user_id,
        by=row.email or "the command line",
        state="done" if is_cut else state,
        outcome="bad" if is_cut else row.outcome,
        code="internal_error" if is_cut else row.code,
        steps=tuple(Step.of(one) for one in row.steps),
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
    )
