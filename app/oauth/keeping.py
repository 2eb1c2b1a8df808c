"""Which grants a gateway keeps: a consent brings one in, its person or its end takes it out."""

from __future__ import annotations

import sqlalchemy as sa
from flask import current_app

from ..access import Caller
from ..audit import Actor, Subject, record
from ..db import db
from ..errors import Conflict
from ..models import Connection, Flow, Gateway, OAuthConfig
from ..specs import OAuthConfigSpec
from . import lease
from .replies import TokenSet

c = Connection

OVER = ("needs_reauth", "revoked", "orphaned")  # states that may lose their tokens to make room


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
    spec = OAuthConfigSpec.model_validate(config.settings)
    renews = spec.token_management.auto_refresh and token_set.refresh_token is not None
    queue_at(gateway_id)
    row = _lock_row(caller, config)
    if row is None or row.access_token_sealed is None:
        _make_room(gateway_id)
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


def has_room(config_id: str, gateway_id: str, owner_key: str) -> bool:
    """Whether keep() would find a place; asked before the person leaves for the provider."""
    limit = current_app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"]
    mine = sa.and_(c.oauth_config_id == config_id, c.owner_key == owner_key)
    query = sa.select(c.state, mine.label("mine")).where(*_holding(gateway_id))
    with db.engine.connect() as link:
        found = link.execute(query).all()
    living = sum(row.state not in OVER for row in found)
    return not limit or living < limit or any(row.mine for row in found)


def forget(caller: Caller, slug: str, *, by: Actor) -> bool:
    """Disconnect this person from the gateway. False if there was nothing; the caller commits.

    What is being renewed meanwhile is not stored any more: `token_gen` moves (F-40).
    """
    gateway_id = sa.select(Gateway.id).where(Gateway.slug == slug).scalar_subquery()
    change = (
        sa.update(c)
        .where(c.gateway_id == gateway_id, c.owner_key == caller.owner_key)
        .where(c.state != "revoked")
        .values(**lease.SETTLED | lease.UNTOKENED | {"state": "revoked"})
        .values(version=c.version + 1, token_gen=c.token_gen + 1)
        .returning(c.id)
    )
    found = db.session.scalars(change).all()
    for connection_id in found:
        record(by, "connection.disconnected", Subject("connection", connection_id, slug))
    return bool(found)


def queue_at(gateway_id: str) -> None:
    """One consent or edit after the other at a gateway (PostgreSQL; SQLite has one writer)."""
    row = sa.select(Gateway.id).where(Gateway.id == gateway_id)
    db.session.execute(row.with_for_update(key_share=True))


def _lock_row(caller: Caller, config: OAuthConfig) -> Connection | None:
    """A write, so that SQLite takes its write lock before anything is read."""
    touch = (
        sa.update(c)
        .where(c.oauth_config_id == config.id, c.owner_key == caller.owner_key)
        .values(version=c.version + 1)
        .returning(c.id)
    )
    found = db.session.execute(touch).first()
    return found and db.session.get(c, found.id, populate_existing=True)


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
    change = sa.update(c).where(c.id.in_(found)).values(**lease.UNTOKENED)
    db.session.execute(change.values(version=c.version + 1, token_gen=c.token_gen + 1))


def _holding(gateway_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return c.gateway_id == gateway_id, c.access_token_sealed.is_not(None)
