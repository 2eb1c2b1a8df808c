"""Who else answers at a callback path (SEC-008, security.md 2.2).

A provider that does not name itself in its answer (RFC 9207) is silent. Of two silent ones at one
path, neither answer tells whose code it brings: the one that came later waits, for a path of its
own or for an admin who trusts both. One provider behind several gateways is no danger to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from ..db import db
from ..models import Gateway, OAuthConfig
from .discovered import both_of


@dataclass(frozen=True, slots=True)
class Place:
    """Where a provider sends people back to, and which one it is."""

    redirect_uri: str | None  # None: the one that all gateways share
    issuer: str | None
    token_origin: str  # whoever is there gets the codes that arrive here

    def clashes(self, other: Place) -> bool:
        return self.redirect_uri == other.redirect_uri and self != other


def place(redirect_uri: str | None, issuer: str | None, token_url: str | None) -> Place:
    parts = urlsplit(token_url or "")
    return Place(redirect_uri, issuer, f"{parts.scheme}://{parts.netloc}".lower())


def of(config: OAuthConfig | sa.Row[Any]) -> Place | None:
    """None where nobody is sent away, or comes back with a name: no danger to others."""
    if config.grant_type != "authorization_code":
        return None
    if config.discovered and config.discovered.get("names_itself"):
        found = both_of(config.settings, config.discovered)[1]
        if found is not None:
            return None
    return place(config.settings.get("redirect_uri"), config.issuer, config.token_url)


def taken(here: Place) -> list[str]:
    """Names of gateways whose silent provider is another one at this path."""
    return [row.name for row, there in _silent() if there.clashes(here)]


def waits_for(config_id: str) -> list[str]:
    """Names of gateways that stand in the way of this config's flows, as they came earlier.

    Empty when an admin trusts them all.
    """
    rows = _silent()
    mine = next((found for found in rows if found[0].id == config_id), None)
    if mine is None or mine[0].trusts_shared_callback:
        return []
    here, since = mine[1], _since(mine[0])
    return [row.name for row, there in rows if there.clashes(here) and _since(row) < since]


def _silent() -> list[tuple[sa.Row[Any], Place]]:
    """Also of gateways that are off: what their provider sends still arrives."""
    o = OAuthConfig
    query = (
        sa.select(o.id, o.grant_type, o.settings, o.issuer, o.token_url)
        .add_columns(o.discovered)
        .add_columns(o.trusts_shared_callback, o.callback_since_ms, o.created_at, Gateway.name)
        .join(Gateway, Gateway.id == o.gateway_id)
        .order_by(Gateway.name)
    )
    with db.engine.connect() as link:
        rows = [(row, of(row)) for row in link.execute(query)]
    return [(row, there) for row, there in rows if there is not None]


def _since(row: sa.Row[Any]) -> tuple[Any, ...]:
    return row.callback_since_ms, row.created_at, row.id
