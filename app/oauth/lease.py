"""What renewing writes about a connection: short transactions, each of one compare-and-swap.

A claim matches only the row that was read, a failure only the attempt that holds the lease, tokens
only the tokens they replace. So no order of events can end, delay or undo a newer grant.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..access import Seen, Usable, UsableConfig
from ..audit import SYSTEM, Subject, entry
from ..db import AWAY, db, db_now_ms
from ..errors import AppError, Conflict, ConnectionNeeded, NotFound
from ..models import AuditEvent, Connection, OAuthConfig
from ..models.oauth import LIVING
from ..secretbox import Where, box
from ..specs import OAuthConfigSpec
from . import asking
from .freshness import Need
from .replies import TokenSet

log = logging.getLogger(__name__)
c = Connection

PATIENCE_S = 5.0  # with a database that is locked or away
SETTLED = {  # what every row with new tokens says
    **{"state": "active", "reason": None, "attempt_id": None, "lease_ms": 0, "not_before_ms": 0},
    **{"fail_count": 0, "last_error_code": None, "last_error_text": None},
}
_TOKENS = ("access_token_sealed", "refresh_token_sealed", "issued_ms", "expires_ms")
UNTOKENED = dict.fromkeys((*_TOKENS, "refresh_expires_ms", "fingerprint"))


@dataclass(frozen=True, slots=True)
class Row(Seen):
    """A connection with what only renewing needs, pinned at the consent."""

    registration_id: str | None
    token_url: str | None
    refresh_url: str | None
    resource: str | None
    last_error_code: str | None
    last_error_text: str | None


def look(gateway: Usable, need: Need) -> tuple[Row | None, Need]:
    """The connection and the config as they are, in a short transaction of its own.

    Raises ConnectionNeeded if only the person can go on; a shared connection has no person.
    """
    at = time.monotonic()
    mine = sa.and_(c.oauth_config_id == OAuthConfig.id, c.owner_key == gateway.owner_key)
    today = (OAuthConfig.config_version, OAuthConfig.registration_id, OAuthConfig.settings)
    query = (
        sa.select(
            *_columns(Row),
            db_now_ms().label("now_ms"),
            *(one.label(f"today_{one.key}") for one in today),
        )
        .select_from(OAuthConfig)
        .outerjoin(Connection, mine)
        .where(OAuthConfig.id == need.config.id)
    )
    with db.engine.connect() as link:
        found = link.execute(query).mappings().first()
    if found is None:
        raise NotFound("gateway_not_found", gateway=gateway.slug)
    values = dict(found)
    version, registration_id, settings = (values.pop(f"today_{one.key}") for one in today)
    row = Row(**values, read_at=at) if values["id"] else None
    need = replace(need, config=_today(need.config, version, registration_id, settings))
    if need.config.is_shared != (gateway.owner_key == "shared"):
        raise Conflict("config_changed")
    if not need.config.is_shared and (row is None or row.state not in LIVING):
        raise needed(gateway, row)
    return row, need


def _today(
    config: UsableConfig, version: int, registration_id: str | None, settings: dict[str, Any]
) -> UsableConfig:
    """What the caller holds may be a second old; a change that tokens depend on has a version."""
    if (config.version, config.registration_id) == (version, registration_id):
        return config
    return UsableConfig(
        config.id, version, registration_id, OAuthConfigSpec.model_validate(settings)
    )


def claim(need: Need, row: Row, attempt: str) -> int | None:
    """When the lease began, in ms; None if another has it or the row moved on. Commits.

    Tokens count from here: their life begins at the provider, before the answer is with us.
    """
    now = db_now_ms()
    claim = (
        sa.update(c)
        .where(c.id == row.id, c.version == row.version)
        .where(c.lease_ms <= now, c.state.in_(LIVING))
        .values(state="refreshing", attempt_id=attempt, attempt_ms=now, version=c.version + 1)
        .values(lease_ms=now + ms(need.timing.lease))
        .values(forced_ms=now if need.after == row.token_gen else c.forced_ms)
        .returning(c.attempt_ms)
    )
    taken = _write(claim, patience=0.0 if need.lives(row) else PATIENCE_S)
    if taken is None:  # lost, unless only the acknowledgement of the commit was
        mine = sa.select(c.attempt_ms).where(c.id == row.id, c.attempt_id == attempt)
        with db.engine.connect() as link:
            taken = link.execute(mine).first()
    return None if taken is None else taken.attempt_ms


def store(need: Need, row: Row, tokens: TokenSet, t0: int, *, patience: float) -> Seen | None:
    """One commit for all of it, repeated until the lease ends: the old refresh token may be void.

    The attempt plays no part: an answer that comes late is kept while no newer one is in. Commits.
    """
    kept = sealed(row, tokens, t0, can_renew=need.can_renew(row))
    if tokens.refresh_token is None or need.config.is_shared:  # RFC 6749 section 6: it stays
        del kept["refresh_token_sealed"], kept["refresh_expires_ms"]
    change = (
        sa.update(c)
        .where(c.id == row.id, c.token_gen == row.token_gen)
        .where(c.state.not_in(("revoked", "orphaned")))
        .values(**kept, **SETTLED, last_refresh_ms=db_now_ms())
        .values(version=c.version + 1, token_gen=c.token_gen + 1)
        .returning(*_columns(Seen), db_now_ms().label("now_ms"))
    )
    action = "connection.recovered" if row.fail_count else "connection.renewed"
    stored = _write(change, patience=patience, note=_Note(row.id, action))
    if stored is not None:
        return Seen(**stored._mapping, read_at=time.monotonic())
    # They are in, and only the acknowledgement was lost; or newer ones; or somebody ended it.
    log.warning("connection %s moved on while it was renewed", row.id)
    return None


def let_go(row: Row, attempt: str) -> None:
    """The lease, if the attempt is over and still holds it: an edit moved the tokens. Commits."""
    mine = sa.update(c).where(c.id == row.id, c.attempt_id == attempt, c.state == "refreshing")
    change = mine.values(state="active", attempt_id=None, lease_ms=0, version=c.version + 1)
    _write(change.returning(c.id), patience=PATIENCE_S)


def give_back(need: Need, row: Row, attempt: str, error: AppError) -> bool:
    """The end of an attempt that got nothing; whether it was still the one. Commits.

    A late loser matches no row, so it can neither end nor delay a newer grant (SEC-104).
    """
    kind, shared = asking.kind_of(error), need.config.is_shared
    again = error.code == row.last_error_code
    values: dict[str, Any]
    if kind == "dead" and not shared:
        asked = error.code == "interaction_required"
        values = {"state": "needs_reauth", "reason": error.code if asked else "grant_ended"}
        note = _Note(row.id, "connection.ended", "failed", values["reason"])
    elif kind == "unknown" and not shared:
        # Stays `refreshing`: the provider may have acted, and the first request may still arrive.
        values = {"not_before_ms": db_now_ms() + ms(need.timing.quiet)}
        note = _Note(row.id, "connection.uncertain", "failed", error.code)
    else:
        pause = asking.pause_after(error, failures=row.fail_count, again=again)
        values = {"state": "failing", "not_before_ms": db_now_ms() + ms(pause)}
        note = _Note(row.id, "connection.failing", "failed", error.code)
    change = (
        sa.update(c)
        .where(c.id == row.id, c.attempt_id == attempt, c.token_gen == row.token_gen)
        .values(attempt_id=None, lease_ms=0, fail_count=c.fail_count + 1, version=c.version + 1)
        .values(last_error_code=error.code, last_error_text=error.said, **values)
        .returning(c.id)
    )
    log.warning("connection %s was not renewed: %s (%s)", row.id, error.code, kind)
    return _write(change, patience=PATIENCE_S, note=None if again else note) is not None


def end(seen: Seen, reason: str) -> None:
    """Only the person can go on. Commits; does nothing if newer tokens are in."""
    change = (
        sa.update(c)
        .where(c.id == seen.id, c.token_gen == seen.token_gen, c.state.in_(LIVING))
        .values(state="needs_reauth", reason=reason, attempt_id=None, lease_ms=0)
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
        change = sa.update(c).where(c.id == row.id, c.version == row.version).values(**today)
        change = change.values(version=c.version + 1, token_gen=c.token_gen + 1)
        _write(change.returning(c.id), patience=PATIENCE_S)
        return
    whose = {"gateway_id": gateway.id, "owner_key": gateway.owner_key}
    try:
        with Session(db.engine) as session, session.begin():
            session.add(Connection(oauth_config_id=config.id, **whose, **today))
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


def needed(gateway: Usable, seen: Seen | None) -> ConnectionNeeded:
    state, reason = (seen.state, seen.reason) if seen is not None else ("pending", None)
    return ConnectionNeeded(
        gateway=gateway.slug, name=gateway.name, state=state, reason=reason or ""
    )


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
                    session.add(note.event())
        except AWAY:
            if time.monotonic() > give_up:
                raise
        else:
            return found
        time.sleep(between(0.01, 0.05))


def _columns(of: type[Seen]) -> list[Any]:
    computed = ("now_ms", "read_at")
    return [getattr(c, name) for name in of.__dataclass_fields__ if name not in computed]


def between(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311  # jitter, nothing secret


def ms(seconds: float) -> int:
    return int(seconds * 1000)
