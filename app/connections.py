"""Connections as pages and the JSON API list them: whose, where, in which state. Never a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from .access import Caller
from .db import db
from .errors import NotFound
from .models import Connection, Gateway, OAuthConfig, User
from .states import LIVING


@dataclass(frozen=True, slots=True)
class Connected:
    """One connection. Times in ms by the database's clock; None: never, or not told."""

    id: str
    gateway_id: str
    slug: str
    gateway_name: str
    is_enabled: bool  # the gateway
    user_id: str | None  # None: the shared account of a gateway
    email: str | None
    state: str
    reason: str | None
    state_ms: int  # in this state since; 0: unknown
    account: str | None
    scopes_requested: list[str]
    scopes_granted: list[str]
    expires_ms: int | None
    last_used_ms: int | None
    last_refresh_ms: int | None
    not_before_ms: int
    last_error_code: str | None
    connected_ms: int
    has_access: bool
    has_refresh: bool
    settings: dict[str, Any]

    @property
    def since_ms(self) -> int:
        """As people read the state: a renewal is no news to them."""
        return self.connected_ms if self.state in ("active", "refreshing") else self.state_ms

    @property
    def host(self) -> str:
        """Of the provider."""
        known = (self.settings.get(name) for name in ("authorization_url", "issuer", "token_url"))
        return urlsplit(next(filter(None, known), "")).netloc

    @property
    def renews(self) -> bool:
        """Without the person."""
        keeps = self.settings.get("token_management", {})
        is_on = bool(keeps.get("store_tokens") and keeps.get("auto_refresh"))
        return self.state in LIVING and (self.user_id is None or (is_on and self.has_refresh))


def of_gateway(gateway: Gateway) -> list[Connected]:
    """Everyone who ever connected to it, by email address."""
    return _read(Connection.gateway_id == gateway.id, Connection.user_id.is_not(None))


def listed(caller: Caller, *, everybodys: bool, slug: str | None = None) -> list[Connected]:
    """The caller's own, or for admins everybody's; by gateway, then by email address."""
    which: list[sa.ColumnElement[bool]] = []
    if not (everybodys and caller.is_admin):
        which += [Connection.user_id == caller.user_id, Gateway.is_enabled.is_(True)]
    if slug is not None:
        which.append(Gateway.slug == slug)
    return [one for one in _read(*which) if _is_within(caller, one)]


def find(caller: Caller, connection_id: str) -> Connected:
    """Raises NotFound for unknown, off and somebody else's alike; admins find all."""
    found = _read(Connection.id == connection_id)
    if found and _is_within(caller, found[0]):
        if caller.is_admin or (found[0].user_id == caller.user_id and found[0].is_enabled):
            return found[0]
    raise NotFound


def find_at(gateway: Gateway, connection_id: str) -> Connected:
    """One person's, on an admin's page. Raises NotFound."""
    for one in _read(Connection.id == connection_id, Connection.gateway_id == gateway.id):
        return one
    raise NotFound


def _is_within(caller: Caller, one: Connected) -> bool:
    """An API token may be good for chosen gateways only."""
    return caller.gateway_ids is None or one.gateway_id in caller.gateway_ids


def _read(*which: sa.ColumnElement[bool]) -> list[Connected]:
    c, g, o = Connection, Gateway, OAuthConfig
    query = (
        sa.select(c.id, c.gateway_id, g.slug, g.name, g.is_enabled, c.user_id, User.email)
        .add_columns(c.state, c.reason, c.state_ms, c.account_label)
        .add_columns(c.scopes_requested, c.scopes_granted, c.expires_ms, c.last_used_ms)
        .add_columns(c.last_refresh_ms, c.not_before_ms, c.last_error_code, c.created_at)
        .add_columns(c.access_token_sealed.is_not(None), c.refresh_token_sealed.is_not(None))
        .add_columns(o.settings)
        .join(g, g.id == c.gateway_id)
        .join(o, o.id == c.oauth_config_id)
        .outerjoin(User, User.id == c.user_id)
        .where(*which)
        .order_by(g.slug, User.email, c.id)
    )
    with db.engine.connect() as link:
        rows = [list(row) for row in link.execute(query)]
    for row in rows:
        row[18] = int(row[18].timestamp() * 1000)
    return [Connected(*row) for row in rows]
