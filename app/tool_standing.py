"""How a person stands with the further OAuth configs of a gateway (oauth.md 1.1). For pages."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from .access import Caller
from .db import db
from .models import Connection, Gateway, OAuthConfig
from .oauth.discovered import spec_of


@dataclass(frozen=True, slots=True)
class Part:
    """One config, and the person's connection to it, or the shared one."""

    config_id: str
    name: str
    serves: tuple[str, ...]  # in words
    scopes: tuple[str, ...]  # asked for
    granted: tuple[str, ...]
    state: str | None  # None: not connected
    has_tokens: bool
    is_personal: bool
    keeps: bool


def parts(caller: Caller, slug: str) -> list[Part]:
    """In the order in which they are tried."""
    return every(caller, slug).get(slug, [])


def every(caller: Caller, slug: str | None = None) -> dict[str, list[Part]]:
    """Of every gateway that has some, by slug. One query, no transaction that stays."""
    o, c = OAuthConfig, Connection
    owner = sa.case((o.grant_type == "client_credentials", "shared"), else_=caller.owner_key)
    query = (
        sa.select(o.id, o.name, o.tool_patterns, o.grant_type, o.settings, o.discovered)
        .add_columns(Gateway.slug)
        .add_columns(c.state, c.scopes_granted, c.access_token_sealed.is_not(None).label("has"))
        .join(Gateway, Gateway.id == o.gateway_id)
        .outerjoin(c, sa.and_(c.oauth_config_id == o.id, c.owner_key == owner))
        .where(Gateway.is_enabled, Gateway.auth_type == "oauth")
        .where(~o.is_default)
        .order_by(o.position, o.name)
    )
    if slug is not None:
        query = query.where(Gateway.slug == slug)
    found: dict[str, list[Part]] = {}
    with db.engine.connect() as link:
        for row in link.execute(query):
            found.setdefault(row.slug, []).append(_part(row))
    return found


def _part(row: sa.Row) -> Part:  # type: ignore[type-arg]
    spec = spec_of(row.settings, row.discovered)
    return Part(
        config_id=row.id,
        name=row.name,
        serves=tuple(_words(one["kind"], one["match"]) for one in row.tool_patterns or ()),
        scopes=tuple(spec.scopes or ()),
        granted=tuple(row.scopes_granted or ()) if row.has else (),
        state=row.state,
        has_tokens=bool(row.has),
        is_personal=row.grant_type == "authorization_code",
        keeps=spec.stores,
    )


def _words(kind: str, match: str) -> str:
    return match if kind == "tool" else f"the {kind} {match}"
