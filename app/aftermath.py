"""What becomes of connections when their gateway is edited or deleted (oauth.md 8.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .audit import Actor, Subject, record
from .db import db
from .edits import Edit
from .models import ApiToken, CatalogEntry, ClientRegistration, Connection, Gateway, OAuthConfig
from .oauth import keeping, revocation
from .states import LIVING


def living(gateway: Gateway) -> int:
    """How many people are connected."""
    of_people = (Connection.gateway_id == gateway.id, Connection.user_id.is_not(None))
    return _count(Connection, *of_people, Connection.state.in_(LIVING))


def living_of(config: OAuthConfig) -> int:
    """The same, to one of its OAuth configs."""
    of_people = (Connection.oauth_config_id == config.id, Connection.user_id.is_not(None))
    return _count(Connection, *of_people, Connection.state.in_(LIVING))


def settle(gateway: Gateway, edit: Edit, *, by: Actor) -> int:
    """Before the edit is written: tokens go back to where they came from. How many people are
    signed out by it.
    """
    config = gateway.oauth_config
    if config is None:
        return 0
    signed_out = living(gateway) if edit.signs_out else 0
    if edit.leaves_oauth:
        remove(gateway, config)
        return signed_out
    settle_one(gateway, config, edit, by=by)
    for other in gateway.oauth_configs:
        if not other.is_default:
            _settle_further(gateway, other, edit, by=by)
    return signed_out


def settle_one(gateway: Gateway, config: OAuthConfig, edit: Edit, *, by: Actor) -> None:
    """The same for the connections of one config."""
    c, of_config = Connection, Connection.oauth_config_id == config.id
    if edit.stops_storing:
        _revoke_all(of_config, why="storage_off")
        db.session.execute(sa.delete(c).where(of_config))
    elif edit.detaches:
        _detach(gateway, of_config, by=by)
    elif edit.stops_renewing:
        forget = sa.update(c).where(of_config, c.refresh_token_sealed.is_not(None))
        moved = {"version": c.version + 1, "token_gen": c.token_gen + 1}  # a renewal writes nothing
        db.session.execute(forget.values(**moved, refresh_token_sealed=None))
    if edit.mends_client:
        waiting = sa.update(c).where(of_config, c.state == "failing")
        db.session.execute(waiting.values(version=c.version + 1, not_before_ms=0))
    if edit.outdates:
        config.config_version = OAuthConfig.config_version + 1


PLACES = (  # where a client and its tokens are known
    *("issuer", "authorization_url", "token_url", "refresh_url"),
    *("revocation_url", "userinfo_url"),
)


def has_own_client(config: OAuthConfig) -> bool:
    """Not that of the gateway's default config."""
    client = config.registration
    return client is not None and client.oauth_config_id == config.id


def _settle_further(gateway: Gateway, config: OAuthConfig, edit: Edit, *, by: Actor) -> None:
    """The default config changes: what shares its client follows it; a server that moved is
    another server to all.
    """
    if edit.detaches and (not has_own_client(config) or "url" in edit.fields):
        _detach(gateway, Connection.oauth_config_id == config.id, by=by)
    if edit.outdates:
        config.config_version = OAuthConfig.config_version + 1


def follow(gateway: Gateway) -> None:
    """After the default was written: what shares its client is at the same provider."""
    default = gateway.oauth_config
    for config in gateway.oauth_configs if default is not None else ():
        if default is None or config.is_default or has_own_client(config):
            continue
        places = {name: default.settings.get(name) for name in PLACES}
        config.settings = {**config.settings, **places}
        config.discovered, config.registration = default.discovered, default.registration
        config.issuer, config.token_url = default.issuer, default.token_url


def _detach(gateway: Gateway, of_config: sa.ColumnElement[bool], *, by: Actor) -> None:
    """What was made for something else, or by somebody else, ends where it was made (SEC-034)."""
    shared = Connection.owner_key == "shared"  # fetched anew
    _revoke_all(of_config, shared, why="gateway_changed")
    db.session.execute(sa.delete(Connection).where(of_config, shared))
    for row in keeping.locked(of_config, Connection.state != "revoked"):
        keeping.part(row, state="orphaned", reason="gateway_changed", why="gateway_changed")
        about = Subject("connection", row.id, gateway.name)
        record(by, "connection.orphaned", about, code="gateway_changed")
    db.session.execute(sa.delete(CatalogEntry).where(CatalogEntry.gateway_id == gateway.id))


def remove(gateway: Gateway, config: OAuthConfig) -> None:
    """With its connections, flows and parked calls, and the client typed for it.

    What the connections hold is put by for their providers first: the queue outlives all of it.
    The default takes the further ones along.
    """
    if config not in gateway.oauth_configs:
        return
    if config.is_default:
        for other in [one for one in gateway.oauth_configs if not one.is_default]:
            remove(gateway, other)
    of_config = Connection.oauth_config_id == config.id
    _revoke_all(of_config, why="gateway_deleted")
    db.session.execute(sa.delete(Connection).where(of_config))
    client = config.registration
    gateway.oauth_configs.remove(config)
    db.session.flush()
    if client is not None and client.kind == "manual" and client.oauth_config_id == config.id:
        db.session.execute(sa.delete(ClientRegistration).where(ClientRegistration.id == client.id))


def _revoke_all(*which: sa.ColumnElement[bool], why: str) -> None:
    for row in keeping.locked(*which):
        revocation.queue(row, why=why)


@dataclass(frozen=True, slots=True)
class Goes:
    """What a deletion takes along, in numbers."""

    connections: int
    revocable: int  # of them; the provider is asked to end these
    tools: int
    api_tokens: int  # that were good for this gateway alone


def goes(gateway: Gateway) -> Goes:
    tokens = sa.select(ApiToken.gateway_ids).where(ApiToken.revoked_at.is_(None))
    names = sa.select(CatalogEntry.name).where(
        CatalogEntry.gateway_id == gateway.id, CatalogEntry.kind == "tool"
    )
    of_it = (Connection.gateway_id == gateway.id, Connection.state != "revoked")
    return Goes(
        connections=_count(Connection, *of_it),
        revocable=_count(Connection, *of_it, Connection.revocation_url.is_not(None)),
        tools=_count(names.distinct().subquery()),
        api_tokens=sum(ids == [gateway.id] for ids in db.session.scalars(tokens)),
    )


def _count(of: Any, *where: Any) -> int:
    return db.session.scalar(sa.select(sa.func.count()).select_from(of).where(*where)) or 0
