"""What renewing writes about a connection: short transactions, each of one compare-and-swap.

A claim matches only the row that was read, a failure only the attempt that holds the lease, tokens
only the tokens they replace. So no order of events can end, delay or undo a newer grant.
"""

from __future__ import annotations

import hashlib
import logging
import random
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .. import keys
from ..access import Seen, Usable, UsableConfig
from ..audit import SYSTEM, Subject, entry, stage
from ..db import AWAY, db, db_now_ms
from ..errors import AppError, NotRecorded
from ..models import AuditEvent, Connection
from ..secretbox import Where, box
from ..states import LIVING
from . import asking
from .freshness import Need, Timing
from .replies import TokenSet
from .row import Row, columns

log = logging.getLogger(__name__)
c = Connection

RESTORED = "restored"  # the reason of a living grant out of a backup: the first clear no ends it
PATIENCE_S = Timing().patience
UNWRITTEN = (*AWAY, NotRecorded)  # nothing of the change is kept, not yet
SETTLED = {  # what every row with new tokens says
    **{"state": "active", "reason": None, "attempt_id": None, "lease_ms": 0, "not_before_ms": 0},
    **{"fail_count": 0, "failing_ms": None, "refused_count": 0, "refused_ms": None},
    **{"last_error_code": None, "last_error_text": None},
}
_TOKENS = ("access_token_sealed", "refresh_token_sealed", "issued_ms", "expires_ms")
UNTOKENED = dict.fromkeys((*_TOKENS, "refresh_expires_ms", "fingerprint"))


def new_attempt() -> str:
    """A name for it: random, after the time of this machine that nobody can set."""
    return f"{_machine_ms():012x}{secrets.token_hex(10)}"


def is_held(row: Row, timing: Timing) -> bool:
    """Whether an attempt may be under way.

    SQLite's clock is this machine's, which may be set meanwhile (F-38): a jump must neither end a
    lease nor prolong one. But all who share the file share the time since this machine was started.
    """
    if db.engine.dialect.name == "sqlite" and row.state == "refreshing" and row.attempt_id:
        try:
            age = _machine_ms() - int(row.attempt_id[:12], 16)
        except ValueError:
            return row.now() < row.lease_ms
        return 0 <= age < ms(timing.lease)  # below: it was started anew, and the holder is gone
    return row.now() < row.lease_ms


def claim(need: Need, row: Row, attempt: str) -> int | None:
    """When the lease began, in ms; None if another has it or the row moved on. Commits.

    Tokens count from here: their life begins at the provider, before the answer is with us.
    """
    now = db_now_ms()
    is_free = c.lease_ms <= now if db.engine.dialect.name != "sqlite" else sa.true()  # is_held()
    claim = (
        sa.update(c)
        .where(c.id == row.id, c.version == row.version, is_free, c.state.in_(LIVING))
        .values(**became("refreshing"), attempt_id=attempt, attempt_ms=now, version=c.version + 1)
        .values(lease_ms=now + ms(need.timing.lease))
        .values(forced_ms=now if need.after == row.token_gen else c.forced_ms)
        .returning(c.attempt_ms)
    )
    taken = _write(claim, patience=0.0 if need.lives(row) else need.timing.patience)
    if taken is None:  # lost, unless only the acknowledgement of the commit was
        mine = sa.select(c.attempt_ms).where(c.id == row.id, c.attempt_id == attempt)
        with db.engine.connect() as link:
            taken = link.execute(mine).first()
    return None if taken is None else taken.attempt_ms


@dataclass(frozen=True, slots=True)
class Kept:
    """Tokens as their connection will hold them, and which tokens they replace."""

    connection_id: str
    owner_key: str
    token_gen: int  # of those before
    action: str  # for the audit trail
    columns: Mapping[str, Any] = field(repr=False)


def kept(need: Need, row: Row, tokens: TokenSet, t0: int) -> Kept:
    values = sealed(row, tokens, t0, can_renew=need.can_renew(row))
    if tokens.refresh_token is None or need.config.is_shared:  # RFC 6749 section 6: it stays
        del values["refresh_token_sealed"], values["refresh_expires_ms"]
    action = "connection.recovered" if row.fail_count else "connection.renewed"
    return Kept(row.id, row.owner_key, row.token_gen, action, values)


def store(it: Kept, *, patience: float) -> Seen | None:
    """One commit for all of it; None if the tokens that they replace are not there any more.

    The attempt plays no part: an answer that comes late is kept while no newer one is in. So is one
    for a person who lost their access meanwhile: the grant stays put away, and whole. Commits.
    """
    away = sa.and_(c.state == "orphaned", c.reason == "access_lost")
    settled = {**it.columns, **SETTLED, **became("active")}
    for name in ("state", "reason", "state_ms"):
        settled[name] = sa.case((away, getattr(c, name)), else_=settled[name])
    change = (
        sa.update(c)
        .where(c.id == it.connection_id, c.token_gen == it.token_gen)
        .where(sa.or_(c.state.not_in(("revoked", "orphaned")), away))
        .values(**settled, last_refresh_ms=db_now_ms())
        .values(version=c.version + 1, token_gen=c.token_gen + 1)
        .returning(*columns(Seen), db_now_ms().label("now_ms"))
    )
    stored = _write(change, patience=patience, note=_Note(it.connection_id, it.action))
    return None if stored is None else Seen(**stored._mapping, read_at=time.monotonic())


def let_go(row: Row, attempt: str) -> None:
    """The lease, if the attempt is over and still holds it: an edit moved the tokens. Commits."""
    mine = sa.update(c).where(c.id == row.id, c.attempt_id == attempt, c.state == "refreshing")
    change = mine.values(**became("active"), attempt_id=None, lease_ms=0, version=c.version + 1)
    _write(change.returning(c.id), patience=PATIENCE_S)


def give_back(need: Need, row: Row, attempt: str, error: AppError) -> bool:
    """The end of an attempt that got nothing; whether it was still the one. Commits.

    A late loser matches no row, so it can neither end nor delay a newer grant (SEC-104).
    """
    kind, shared = asking.kind_of(error), need.config.is_shared
    again = error.code == row.last_error_code
    values = _refusals(row, error, again=again)
    is_stale = row.reason == RESTORED and asking.is_refusal(error)
    if (kind == "dead" or is_stale) and not shared:
        asked = error.code == "interaction_required"
        ended = RESTORED if row.reason == RESTORED else "grant_ended"
        values |= became("needs_reauth") | {"reason": error.code if asked else ended}
        note = _Note(row.id, "connection.ended", "failed", values["reason"])
    elif kind == "unknown" and not shared:
        # Stays `refreshing`: the provider may have acted, and the first request may still arrive.
        values |= became("refreshing") | {"not_before_ms": db_now_ms() + ms(need.timing.quiet)}
        note = _Note(row.id, "connection.uncertain", "failed", error.code)
    else:
        refused_s = (row.now() - (row.refused_ms or row.now())) / 1000
        tired = asking.is_for_long(values["refused_count"], refused_s)
        pause = asking.pause_after(error, failures=row.fail_count, tired=tired)
        values |= became("failing") | {"not_before_ms": db_now_ms() + ms(pause)}
        note = _Note(row.id, "connection.failing", "failed", error.code)
    change = (
        sa.update(c)
        .where(c.id == row.id, c.attempt_id == attempt, c.token_gen == row.token_gen)
        .where(c.state.in_(LIVING))  # back within one renewal: active, and the attempt still ours
        .values(attempt_id=None, lease_ms=0, fail_count=c.fail_count + 1, version=c.version + 1)
        .values(failing_ms=sa.func.coalesce(c.failing_ms, db_now_ms()))
        .values(last_error_code=error.code, last_error_text=error.said, **values)
        .returning(c.id)
    )
    level = logging.ERROR if kind == "client" else logging.WARNING  # the admins' matter
    log.log(level, "connection %s was not renewed: %s (%s)", row.id, error.code, kind)
    return _write(change, patience=need.timing.patience, note=None if again else note) is not None


def _refusals(row: Row, error: AppError, *, again: bool) -> dict[str, Any]:
    """How often in a row the provider said the very same, and since when."""
    if not asking.is_refusal(error):
        return {"refused_count": 0, "refused_ms": None}
    if again and row.refused_ms is not None:
        return {"refused_count": row.refused_count + 1, "refused_ms": row.refused_ms}
    return {"refused_count": 1, "refused_ms": db_now_ms()}


def end(seen: Seen, reason: str) -> None:
    """Only the person can go on. Commits; does nothing if newer tokens are in.

    Raises AppError (key_missing) where not the tokens are at fault, but this process's keys.
    """
    if reason == "secret_unreadable":
        keys.demand(seen.access_token_sealed, seen.refresh_token_sealed)
    change = (
        sa.update(c)
        .where(c.id == seen.id, c.token_gen == seen.token_gen, c.state.in_(LIVING))
        .values(**became("needs_reauth"), reason=reason, attempt_id=None, lease_ms=0)
        .values(version=c.version + 1)
        .returning(c.id)
    )
    if reason == "secret_unreadable":
        log.error("a token of connection %s does not open: wrong key, or altered", seen.id)
    _write(change, patience=PATIENCE_S, note=_Note(seen.id, "connection.ended", "failed", reason))


def start_over(gateway: Usable, config: UsableConfig, row: Row | None) -> None:
    """A shared connection without tokens, for the config of today (SEC-024). Commits."""
    today = {**SETTLED, **UNTOKENED, "config_version": config.version, "forced_ms": 0}
    if row is not None:
        change = sa.update(c).where(c.id == row.id, c.version == row.version)
        change = change.values(**today | became("active"))
        change = change.values(version=c.version + 1, token_gen=c.token_gen + 1)
        _write(change.returning(c.id), patience=PATIENCE_S)
        return
    whose = {"gateway_id": gateway.id, "owner_key": gateway.owner_key}
    try:
        with Session(db.engine) as session, session.begin():
            born = Connection(oauth_config_id=config.id, **whose, **today)
            born.state_ms = db_now_ms()
            session.add(born)
    except IntegrityError:
        return  # another was faster, or the gateway is gone


def sealed(
    row: Seen | Connection, tokens: TokenSet, t0_ms: int, *, can_renew: bool
) -> dict[str, Any]:
    """The columns that hold these tokens. `t0_ms`: the database's time before they were asked for.

    "Ends at once" is taken at its word only if the token can be renewed.
    """
    life = tokens.expires_in
    if life is not None and life <= 0 and not can_renew:
        life = None

    def shut(column: str, token: str | None) -> str | None:
        where = Where("connection", row.id, column, row.owner_key)
        return None if token is None else box().seal(token, where=where)

    known = {} if tokens.scopes is None else {"scopes_granted": list(tokens.scopes)}
    until = tokens.refresh_expires_in
    return {
        "access_token_sealed": shut("access_token_sealed", tokens.access_token),
        "refresh_token_sealed": shut("refresh_token_sealed", tokens.refresh_token),
        "issued_ms": t0_ms,
        "expires_ms": None if life is None else t0_ms + max(0, ms(life)),
        "refresh_expires_ms": None if until is None else t0_ms + ms(until),
        "fingerprint": hashlib.sha256(tokens.access_token.encode()).hexdigest()[:8],
        **known,
    }


@dataclass(frozen=True, slots=True)
class _Note:
    """For the audit trail, in the transaction of the change."""

    connection_id: str
    action: str
    outcome: str = "ok"
    code: str = ""

    def event(self) -> AuditEvent:
        about = {"code": self.code} if self.code else {}
        subject = Subject("connection", self.connection_id)
        return entry(SYSTEM, self.action, subject, outcome=self.outcome, **about)


def _write(change: Any, *, patience: float, note: _Note | None = None) -> sa.Row[Any] | None:
    """What the change returns; None if no row matched. Commits, and empties recent().

    A locked or absent database is asked again for `patience` seconds. The change opens its
    transaction, so that SQLite waits for its write lock.
    """
    give_up = time.monotonic() + patience
    while True:
        try:
            with Session(db.engine) as session, session.begin():
                found = session.execute(change).first()
                if found is not None and note is not None:
                    stage(session, note.event())
        except UNWRITTEN:
            if time.monotonic() > give_up:
                raise
        else:
            return found
        time.sleep(between(0.01, 0.05))


def became(state: str) -> dict[str, Any]:
    """The columns of this state, and since when, by the database's clock."""
    return {"state": state, "state_ms": sa.case((c.state == state, c.state_ms), else_=db_now_ms())}


def _machine_ms() -> int:
    """Since this machine was started; the same for all its processes."""
    return time.monotonic_ns() // 1_000_000


def between(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311  # jitter, nothing secret


def ms(seconds: float) -> int:
    return int(seconds * 1000)
