"""Connections as pages and the JSON API list them: whose, where, in which state. Never a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, overload
from urllib.parse import urlsplit

import sqlalchemy as sa

from .access import Caller, Held
from .db import db
from .errors import NotFound
from .models import Connection, Gateway, OAuthConfig, User
from .states import LIVING


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Held):
    """A connection with whose it is, and where."""

    gateway_id: str
    slug: str
    gateway_name: str
    is_enabled: bool  # the gateway
    user_id: str | None  # None: the shared account of a gateway
    email: str | None
    state_ms: int  # in this state since; 0: unknown
    failing_ms: int | None  # since the first failure of those in a row
    last_refresh_ms: int | None
    config_id: str
    config_name: str | None  # of an OAuth config for some tools; None: the gateway's own
    settings: dict[str, Any]

    @property
    def since_ms(self) -> int:
        """In this state since; 0: unknown. Each try of one that fails begins its state anew."""
        return (self.state == "failing" and self.failing_ms) or self.state_ms

    @property
    def since(self) -> datetime | int:
        """As people read the state: a renewal is no news to them."""
        return self.created_at if self.state in ("active", "refreshing") else self.since_ms

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


class Found(Sequence[Connected]):
    """By gateway, then by email address. Counted and read as it is asked for, page by page."""

    def __init__(self, *which: sa.ColumnElement[bool]) -> None:
        self._which = which

    def __len__(self) -> int:
        joined = sa.select(sa.func.count()).select_from(Connection)
        joined = joined.join(Gateway, Gateway.id == Connection.gateway_id).where(*self._which)
        with db.engine.connect() as link:
            return link.execute(joined).scalar_one()

    @overload
    def __getitem__(self, part: int) -> Connected: ...
    @overload
    def __getitem__(self, part: slice) -> list[Connected]: ...
    def __getitem__(self, part: int | slice) -> Connected | list[Connected]:
        if isinstance(part, int):
            return self[part : part + 1][0]
        return _read(*self._which, part=part)


def of_gateway(gateway: Gateway) -> Found:
    """Everyone who ever connected to it, by email address."""
    return Found(Connection.gateway_id == gateway.id, Connection.user_id.is_not(None))


def listed(caller: Caller, *, everybodys: bool, slug: str | None = None) -> Found:
    """The caller's own, or for admins everybody's; with an API token, where that is good for."""
    which: list[sa.ColumnElement[bool]] = []
    if not (everybodys and caller.is_admin):
        which += [Connection.user_id == caller.user_id, Gateway.is_enabled.is_(True)]
    if slug is not None:
        which.append(Gateway.slug == slug)
    if caller.gateway_ids is not None:
        which.append(Gateway.id.in_(caller.gateway_ids))
    return Found(*which)


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


def _read(*which: sa.ColumnElement[bool], part: slice = slice(None)) -> list[Connected]:
    c, g, o = Connection, Gateway, OAuthConfig
    names = [name for name in Held.__dataclass_fields__ if not name.startswith("has_")]
    held = [getattr(c, name) for name in (*names, "gateway_id", "user_id", "state_ms")]
    query = (
        sa.select(*held, c.failing_ms, c.last_refresh_ms, User.email, o.settings)
        .add_columns(o.id.label("config_id"))
        .add_columns(sa.case((o.is_default, None), else_=o.name).label("config_name"))
        .add_columns(g.slug, g.name.label("gateway_name"), g.is_enabled)
        .add_columns(c.access_token_sealed.is_not(None).label("has_access"))
        .add_columns(c.refresh_token_sealed.is_not(None).label("has_refresh"))
        .join(g, g.id == c.gateway_id)
        .join(o, o.id == c.oauth_config_id)
        .outerjoin(User, User.id == c.user_id)
        .where(*which)
        .order_by(g.slug, User.email, c.id)
        .slice(part.start or 0, part.stop)
    )
    with db.engine.connect() as link:
        return [Connected(**row._mapping) for row in link.execute(query)]
