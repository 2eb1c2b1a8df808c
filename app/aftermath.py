"""What becomes of connections when their gateway is edited or deleted (oauth.md 8.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .db import db
from .edits import Edit
from .models import ApiToken, CatalogEntry, ClientRegistration, Connection, Gateway, OAuthConfig
from .models.oauth import LIVING

_ENDED = ("pending", "revoked")  # states without tokens, which an edit leaves alone


def living(gateway: Gateway) -> int:
    """How many people are connected."""
    of_people = (Connection.gateway_id == gateway.id, Connection.user_id.is_not(None))
    return _count(Connection, *of_people, Connection.state.in_(LIVING))


def settle(gateway: Gateway, edit: Edit) -> int:
    """Before the edit is written. How many people are signed out by it."""
    config = gateway.oauth_config
    if config is None:
        return 0
    signed_out = living(gateway) if edit.signs_out else 0
    if edit.leaves_oauth:
        remove(gateway, config)
        return signed_out
    c, of_config = Connection, Connection.oauth_config_id == config.id
    moved = {
        "version": c.version + 1,
        "token_gen": c.token_gen + 1,
    }  # a late renewal writes nothing
    if edit.stops_storing:
        db.session.execute(sa.delete(c).where(of_config))
    elif edit.detaches:
        db.session.execute(sa.delete(c).where(of_config, c.owner_key == "shared"))  # fetched anew
        emptied = {"access_token_sealed": None, "refresh_token_sealed": None, "attempt_id": None}
        orphaned = {"state": "orphaned", "reason": "gateway_changed", "lease_ms": 0}
        detach = sa.update(c).where(of_config, c.state.not_in(_ENDED))
        db.session.execute(detach.values(**moved, **emptied, **orphaned))
        db.session.execute(sa.delete(CatalogEntry).where(CatalogEntry.gateway_id == gateway.id))
    elif edit.stops_renewing:
        forget = sa.update(c).where(of_config, c.refresh_token_sealed.is_not(None))
        db.session.execute(forget.values(**moved, refresh_token_sealed=None))
    if edit.mends_client:
        waiting = sa.update(c).where(of_config, c.state == "failing")
        db.session.execute(waiting.values(version=c.version + 1, not_before_ms=0))
    if edit.outdates:
        config.config_version = OAuthConfig.config_version + 1
    return signed_out


def remove(gateway: Gateway, config: OAuthConfig) -> None:
    """With its connections, flows and parked calls, and the client typed for it."""
    db.session.execute(sa.delete(Connection).where(Connection.oauth_config_id == config.id))
    client = config.registration
    gateway.oauth_configs.remove(config)
    db.session.flush()
    if client is not None and client.kind == "manual":
        db.session.execute(sa.delete(ClientRegistration).where(ClientRegistration.id == client.id))


@dataclass(frozen=True, slots=True)
class Goes:
    """What a deletion takes along, in numbers."""

    connections: int
    tools: int
    api_tokens: int  # that were good for this gateway alone


def goes(gateway: Gateway) -> Goes:
    tokens = sa.select(ApiToken.gateway_ids).where(ApiToken.revoked_at.is_(None))
    names = sa.select(CatalogEntry.name).where(
        CatalogEntry.gateway_id == gateway.id, CatalogEntry.kind == "tool"
    )
    return Goes(
        connections=_count(Connection, Connection.gateway_id == gateway.id),
        tools=_count(names.distinct().subquery()),
        api_tokens=sum(ids == [gateway.id] for ids in db.session.scalars(tokens)),
    )


def _count(of: Any, *where: Any) -> int:
    return db.session.scalar(sa.select(sa.func.count()).select_from(of).where(*where)) or 0
