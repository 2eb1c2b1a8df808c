"""Which grants a gateway keeps: a consent brings one in, its person or its end takes it out.

What ends one locks its row first, and puts its tokens by for their provider in the same commit.
"""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa
from flask import current_app

from ..access import Caller, Usable
from ..audit import Actor, Subject, record
from ..db import db, db_now_ms
from ..errors import Conflict, TokenRefused
from ..models import Connection, Flow, Gateway, OAuthConfig, User
from ..states import LIVING, OVER, may_follow
from . import lease, refresh, revocation
from .discovered import spec_of
from .freshness import Need, timing_of
from .replies import TokenSet
from .row import needed

c = Connection
Clause = sa.ColumnElement[bool]
# Its tokens are to be revoked; cannot be, as the provider has no way to; there were none.
Parted = Literal["queued", "left", "empty"]

BACK_MS = 7 * 86_400_000  # for so long a grant waits for a person who lost their access


def keep(  # noqa: PLR0913  # all that a consent consists of
    caller: Caller,
    gateway_id: str,
    config: OAuthConfig,
    flow: Flow,
    token_set: TokenSet,
    *,
    t0_ms: int,
    by: Actor,
) -> Connection:
    """A first or renewed consent: tokens, and what was pinned as the flow began.

    `t0_ms` is the database's time before the code was sent. Raises Conflict("connection_limit").
    The caller commits. What another process still gets for the old grant then matches no row.
    """
    spec = spec_of(config.settings, config.discovered)
    renews = spec.token_management.auto_refresh and token_set.refresh_token is not None
    queue_at(gateway_id, caller.user_id)
    row = _lock_row(caller, config)
    if row is None or row.access_token_sealed is None:
        _make_room(gateway_id)
    elif _is_another_account(row, token_set):
        revocation.queue(row, why="replaced")
    if row is None:
        row = Connection(oauth_config_id=config.id, gateway_id=gateway_id, version=1, token_gen=0)
        row.user_id, row.owner_key, row.consent_gen = caller.user_id, caller.owner_key, 0
        db.session.add(row)
    columns = {
        **{name: getattr(flow, name) for name in PINNED},
        **{"refresh_url": spec.refresh_url, "revocation_url": spec.revocation_url},
        **{"scopes_granted": flow.scopes_requested, "account_label": token_set.account_label},
        **lease.sealed(row, token_set, t0_ms, can_renew=renews),
        **lease.SETTLED,
        **{"state_ms": db_now_ms(), "failing_ms": None},
        **{"forced_ms": 0, "token_gen": row.token_gen + 1, "consent_gen": row.consent_gen + 1},
    }
    if not renews:
        columns |= {"refresh_token_sealed": None, "refresh_expires_ms": None}
    for name, value in columns.items():
        setattr(row, name, value)
    record(by, "connection.connected", Subject("connection", row.id), gateway_id=gateway_id)
    db.session.flush()
    return row


PINNED = (  # from the flow: refreshing and revoking use these, never today's config
    *("config_version", "issuer", "token_url", "registration_id", "registration_generation"),
    *("resource", "audience", "scopes_requested"),
)


def granted(config_id: str, owner_key: str) -> list[str]:
    """What the grant that is kept now may do. In the caller's transaction."""
    living = c.access_token_sealed.is_not(None)
    mine = sa.select(c.scopes_granted).where(c.oauth_config_id == config_id)
    return db.session.scalar(mine.where(c.owner_key == owner_key, living)) or []


def has_room(config_id: str, gateway_id: str, owner_key: str) -> bool:
    """Whether keep() would find a place; asked before the person leaves for the provider."""
    limit = current_app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"]
    mine = sa.and_(c.oauth_config_id == config_id, c.owner_key == owner_key)
    query = sa.select(c.state, mine.label("mine")).where(*_holding(gateway_id))
    with db.engine.connect() as link:
        found = link.execute(query).all()
    living = sum(row.state not in OVER for row in found)
    return not limit or living < limit or any(row.mine for row in found)


def forget(
    caller: Caller, slug: str, *, by: Actor, config_id: str | None = None
) -> dict[str, Parted]:
    """Disconnect this person from the gateway. What ended, by id; the caller commits.

    `config_id`: only from what this OAuth config of it serves.

    What is being renewed meanwhile is not stored any more: `token_gen` moves (F-40).
    """
    gateway_id = sa.select(Gateway.id).where(Gateway.slug == slug).scalar_subquery()
    which = [c.gateway_id == gateway_id, c.owner_key == caller.owner_key]
    which += [c.oauth_config_id == config_id] if config_id is not None else []
    return _end(slug, *which, by=by)


def dismiss(connection_id: str, slug: str, *, by: Actor, own: bool) -> dict[str, Parted]:
    """The same by its id. `own`: by the person whose it is, not by an admin."""
    return _end(slug, c.id == connection_id, by=by, reason=None if own else "by_admin")


def _end(slug: str, *which: Clause, by: Actor, reason: str | None = None) -> dict[str, Parted]:
    found: dict[str, Parted] = {}
    for row in locked(*which, c.state != "revoked"):
        had = row.access_token_sealed or row.refresh_token_sealed
        queued = part(row, state="revoked", why="disconnected", reason=reason)
        found[row.id] = "queued" if queued else "left" if had else "empty"
        details = {"tokens": found[row.id]} | ({"code": reason} if reason else {})
        record(by, "connection.disconnected", Subject("connection", row.id, slug), **details)
    return found


def renew_now(gateway: Usable) -> bool:
    """Because somebody asks for it. False: it was renewed a moment ago, and is not asked for again.

    Raises Conflict (no_refresh_token), and what refresh.renew does. Commits; call it with no
    transaction open.
    """
    seen, config = gateway.connection, gateway.config
    if config is None or seen is None or seen.state not in LIVING:
        raise needed(gateway, seen)
    if not Need(config, timing_of(config)).can_renew(seen):
        raise Conflict("no_refresh_token", gateway=gateway.slug)
    try:
        return refresh.renew(gateway, after=seen.token_gen).token_gen != seen.token_gen
    except TokenRefused:
        return False


def put_away(user_id: str, *, by: Actor) -> int:
    """A person lost their access: the grants stay sealed, and are handed to nobody. How many.

    A renewal under way keeps its lease, and what it brings is kept here, too.
    """
    found = locked(c.user_id == user_id, c.state.in_(LIVING))
    for row in found:
        _turn(row, "orphaned", "access_lost")
        about = Subject("connection", row.id)
        record(by, "connection.orphaned", about, outcome="denied", code="access_lost")
    return len(found)


def bring_back(user_id: str, *, by: Actor) -> int:
    """As before, for who is back in time. How many."""
    away = sa.and_(c.state == "orphaned", c.reason == "access_lost")
    in_time = sa.and_(c.state_ms > db_now_ms() - BACK_MS, c.access_token_sealed.is_not(None))
    found = locked(c.user_id == user_id, away, in_time)
    for row in found:
        _turn(row, "active", None)
        row.not_before_ms = 0
        record(by, "connection.returned", Subject("connection", row.id))
    return len(found)


def let_go_of(user_id: str) -> int:
    """Before a person is deleted: their grants outlive them only at the providers. How many.

    Nobody can bring in another meanwhile: a connection needs its person's row.
    """
    found = locked(c.user_id == user_id)
    return sum(revocation.queue(row, why="person_deleted") > 0 for row in found)


def part(row: Connection, *, state: str, why: str, reason: str | None = None) -> int:
    """End what is kept here, and put its tokens by for their provider. How many.

    The row is locked, the caller commits. `token_gen` moves: what is still got for the old tokens
    matches no row.
    """
    count = revocation.queue(row, why=why)
    for name, value in {**lease.SETTLED, **lease.UNTOKENED}.items():
        if name != "state":
            setattr(row, name, value)
    _turn(row, state, reason)
    row.token_gen += 1
    return count


def _turn(row: Connection, state: str, reason: str | None) -> None:
    if row.state != state:
        if not may_follow(row.state, state):
            raise Conflict
        row.state, row.state_ms = state, db_now_ms()
    row.reason, row.failing_ms = reason, None


def locked(*which: Clause) -> list[Connection]:
    """These rows, as they are, and nobody else changes them until the end of the transaction.

    In one order, so that two of these never wait for each other; by a write, so that SQLite takes
    its write lock before anything is read.
    """
    if db.engine.dialect.name == "postgresql":
        db.session.execute(sa.select(c.id).where(*which).order_by(c.id).with_for_update())
    touch = sa.update(c).where(*which).values(version=c.version + 1).returning(c.id)
    ids = db.session.scalars(touch.execution_options(synchronize_session=False)).all()
    query = sa.select(c).where(c.id.in_(ids)).order_by(c.id)
    return list(db.session.scalars(query.execution_options(populate_existing=True)))


def queue_at(gateway_id: str, user_id: str) -> None:
    """One consent or edit after the other at a gateway (PostgreSQL; SQLite has one writer).

    Before anything else of a consent is written: who deletes a gateway or a person locks that row
    first, and what hangs on it last.
    """
    if db.engine.dialect.name != "postgresql":
        return
    gateway = sa.select(Gateway.id).where(Gateway.id == gateway_id)
    db.session.execute(gateway.with_for_update(key_share=True))
    person = sa.select(User.id).where(User.id == user_id)
    db.session.execute(person.with_for_update(read=True, key_share=True))


def _lock_row(caller: Caller, config: OAuthConfig) -> Connection | None:
    found = locked(c.oauth_config_id == config.id, c.owner_key == caller.owner_key)
    return found[0] if found else None


def _is_another_account(row: Connection, token_set: TokenSet) -> bool:
    """Then the old grant has no use any more. One of the same account may be the new one's own."""
    before, after = row.account_label, token_set.account_label
    return before is not None and after is not None and before != after


def _make_room(gateway_id: str) -> None:
    """Living grants are never evicted: room comes from those that are over, the oldest first."""
    limit = current_app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"]
    count = sa.select(sa.func.count()).select_from(c).where(*_holding(gateway_id))
    excess = (db.session.scalar(count) or 0) + 1 - limit
    if not limit or excess <= 0:
        return
    over = sa.select(c.id).where(*_holding(gateway_id), c.state.in_(OVER))
    oldest = over.order_by(c.issued_ms).limit(excess).with_for_update(skip_locked=True)
    found = db.session.scalars(oldest).all()
    if len(found) < excess:
        raise Conflict("connection_limit")
    for row in locked(c.id.in_(found)):
        part(row, state=row.state, reason=row.reason, why="room")


def _holding(gateway_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return c.gateway_id == gateway_id, c.access_token_sealed.is_not(None)
