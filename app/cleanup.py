"""What is over goes: in batches, each in a short transaction of its own (oauth.md 7.7).

Nothing here asks anybody over the network. Tokens that have to be ended at their provider go to
the queue for that in the same transaction as they leave the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from . import limits, sessions, throttle
from .audit import SYSTEM, Subject, record
from .db import Base, db, db_now_ms, utcnow
from .models import (
    ApiToken,
    BrowserSession,
    Connection,
    Flow,
    GatewayDraft,
    ParkedCall,
    Revocation,
    SetupCode,
    Throttle,
)
from .oauth import revocation
from .oauth.lease import UNTOKENED
from .states import LIVING

Counts = Mapping[str, int]
c = Connection

BATCH = 200  # rows in one transaction
DAY_MS = 86_400_000
SHOWN = timedelta(days=90)  # what has ended can be looked up for so long
SHOWN_MS = 90 * DAY_MS
NEEDS_REAUTH_MS, ORPHANED_MS = 30 * DAY_MS, 7 * DAY_MS  # until the tokens of these states go


def flows() -> Iterator[Counts]:
    """Sign-ins that nobody asks for any more, calls that nobody waits for, gateways not added."""
    now, p = db_now_ms(), ParkedCall
    yield from _deleted("flows", Flow, Flow.expires_ms <= now - DAY_MS)
    full = sa.or_(p.request_sealed.is_not(None), p.result_sealed.is_not(None))
    nothing = {"request_sealed": None, "result_sealed": None}
    yield from _updated("parked_calls_emptied", p, (p.expires_ms <= now, full), nothing)
    yield from _deleted("parked_calls", p, p.expires_ms <= now - DAY_MS)
    left = (sa.not_(GatewayDraft.is_kept), GatewayDraft.updated_ms <= now - DAY_MS)
    yield from _deleted("drafts", GatewayDraft, *left)


def connections() -> Iterator[Counts]:
    """Tokens that serve nobody, rows that tell nobody anything."""
    now = db_now_ms()
    over = c.state.in_(("needs_reauth", "orphaned", "revoked"))
    yield from _updated("dated", c, (over, c.state_ms == 0), {"state_ms": now})
    yield from _changed("expired", _end, *_expired(now), c.owner_key != "shared")
    stale = (c.expires_ms <= now - DAY_MS, c.owner_key == "shared")
    yield from _changed("expired_shared", _empty, *_expired(now), *stale)
    yield from _changed("emptied", _empty_and_say, *_since("needs_reauth", NEEDS_REAUTH_MS))
    yield from _changed("orphaned", _revoke_and_empty, *_since("orphaned", ORPHANED_MS))
    gone = (c.state == "revoked", c.state_ms > 0, c.state_ms <= now - SHOWN_MS)
    yield from _deleted("revoked", c, *gone)
    ended = (Revocation.state != "queued", Revocation.ended_at < utcnow() - SHOWN)
    yield from _deleted("revocations", Revocation, *ended)


def sessions_and_tokens() -> Iterator[Counts]:
    """Browser sessions, API tokens, setup codes, and what is counted against guessing."""
    now, t = db_now_ms(), Throttle
    yield from _deleted("sessions", BrowserSession, sessions.is_over())
    ended = sa.or_(ApiToken.expires_at < utcnow() - SHOWN, ApiToken.revoked_at < utcnow() - SHOWN)
    yield from _deleted("api_tokens", ApiToken, ended)
    yield from _deleted("setup_codes", SetupCode, SetupCode.expires_ms <= now)
    yield from _deleted("throttles", t, throttle.is_over())
    while count := limits.forget():
        yield {"rate_windows": count}


# -- connections -----------------------------------------------------------------------------------


def _expired(now: sa.ColumnElement[int]) -> tuple[sa.ColumnElement[bool], ...]:
    """A token that has ended, with nothing to get another by, and nobody who is on it."""
    alone = (c.access_token_sealed.is_not(None), c.refresh_token_sealed.is_(None))
    return *alone, c.state.in_(LIVING), c.lease_ms <= now, c.expires_ms <= now


def _since(state: str, ms: int) -> tuple[sa.ColumnElement[bool], ...]:
    full = sa.or_(c.access_token_sealed.is_not(None), c.refresh_token_sealed.is_not(None))
    return c.state == state, c.state_ms > 0, c.state_ms <= db_now_ms() - ms, full


def _end(row: Connection) -> None:
    row.state, row.reason, row.state_ms = "needs_reauth", "expired", _now()
    row.attempt_id, row.lease_ms = None, 0
    _empty(row)
    about = Subject("connection", row.id)
    record(SYSTEM, "connection.ended", about, outcome="failed", code="expired")


def _revoke_and_empty(row: Connection) -> None:
    revocation.queue(row, why="orphaned")
    _empty_and_say(row)


def _empty_and_say(row: Connection) -> None:
    _empty(row)
    record(SYSTEM, "connection.emptied", Subject("connection", row.id), code=row.state)


def _empty(row: Connection) -> None:
    """`token_gen` moves: what is still got for the old tokens matches no row (F-40)."""
    for name, nothing in UNTOKENED.items():
        setattr(row, name, nothing)
    row.token_gen += 1


def _now() -> Any:
    return db_now_ms()


# -- batches ---------------------------------------------------------------------------------------


def _deleted(name: str, model: type[Base], *over: sa.ColumnElement[bool]) -> Iterator[Counts]:
    change = sa.delete(model).where(_batch(model, over))
    yield from _repeated(name, change)


def _updated(
    name: str,
    model: type[Base],
    over: Sequence[sa.ColumnElement[bool]],
    values: Mapping[str, Any],
) -> Iterator[Counts]:
    """`values` must end what `over` asks for, or this would not end."""
    yield from _repeated(name, sa.update(model).where(_batch(model, over)).values(**values))


def _repeated(name: str, change: sa.Delete | sa.Update) -> Iterator[Counts]:
    """Each time one statement, so that SQLite waits for its write lock."""
    while True:
        found: Any = db.session.execute(change, execution_options={"synchronize_session": False})
        db.session.commit()
        yield {name: found.rowcount}
        if found.rowcount < BATCH:
            return


def _changed(
    name: str, act: Callable[[Connection], None], *over: sa.ColumnElement[bool]
) -> Iterator[Counts]:
    """`act` on each connection, which must end what `over` asks for.

    The rows are written before they are read: SQLite then waits for its write lock, and who read
    them before, to renew them, looks again.
    """
    mark = sa.update(c).where(_batch(c, over)).values(version=c.version + 1).returning(c.id)
    while True:
        ids = db.session.scalars(mark, execution_options={"synchronize_session": False}).all()
        rows = db.session.scalars(
            sa.select(c).where(c.id.in_(ids)).order_by(c.id),
            execution_options={"populate_existing": True},
        ).all()
        for row in rows:
            act(row)
        db.session.commit()
        yield {name: len(ids)}
        if len(ids) < BATCH:
            return


def _batch(model: type[Base], over: Sequence[sa.ColumnElement[bool]]) -> sa.ColumnElement[bool]:
    """Rows that somebody holds are left to the next run: waiting could become a circle."""
    key = model.__table__.primary_key.columns.values()  # type: ignore[attr-defined]
    some = sa.select(*key).where(*over).limit(BATCH).with_for_update(skip_locked=True)
    return (sa.tuple_(*key) if len(key) > 1 else key[0]).in_(some)
