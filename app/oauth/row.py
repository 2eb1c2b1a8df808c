"""A connection as whoever renews it has to see it: read anew, in short transactions."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from ..access import Seen, Usable, UsableConfig
from ..db import db, db_now_ms
from ..errors import Conflict, ConnectionNeeded, NotFound
from ..models import Connection, OAuthConfig
from ..states import LIVING
from . import asking
from .discovered import both_of
from .freshness import Need

c = Connection


@dataclass(frozen=True, slots=True)
class Row(Seen):
    """A connection with what only renewing needs, pinned at the consent."""

    gateway_id: str
    registration_id: str | None
    token_url: str | None
    refresh_url: str | None
    revocation_url: str | None
    resource: str | None
    attempt_ms: int
    failing_ms: int | None
    refused_count: int
    refused_ms: int | None
    last_error_code: str | None
    last_error_text: str | None

    @property
    def is_refused_for_long(self) -> bool:
        """Whether waiting seems vain: the provider names no end, and gives no token (oauth.md 6.2).

        What some say to a dead refresh token is no `invalid_grant`. So nothing ends by itself, but
        the person may connect again.
        """
        since = self.now() if self.refused_ms is None else self.refused_ms
        return asking.is_for_long(self.refused_count, (self.now() - since) / 1000)

    @property
    def is_paused(self) -> bool:
        """Whether the provider is left in peace. A clock that was set back prolongs no pause."""
        return self.now() < self.not_before_ms and self.attempt_ms <= self.now()


def look(gateway: Usable, need: Need) -> tuple[Row | None, Need]:
    """The connection and the config as they are, in a short transaction of its own.

    Raises ConnectionNeeded if only the person can go on; a shared connection has no person.
    """
    at = time.monotonic()
    mine = sa.and_(c.oauth_config_id == OAuthConfig.id, c.owner_key == gateway.owner_key)
    o = OAuthConfig
    today = (o.config_version, o.registration_id, o.settings, o.discovered)
    query = (
        sa.select(
            *columns(Row),
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
    now = [values.pop(f"today_{one.key}") for one in today]
    row = Row(**values, read_at=at) if values["id"] else None
    need = replace(need, config=_today(need.config, *now))
    if need.config.is_shared != (gateway.owner_key == "shared"):
        raise Conflict("config_changed")
    if not need.config.is_shared and (row is None or row.state not in LIVING):
        raise needed(gateway, row)
    return row, need


def _today(
    config: UsableConfig,
    version: int,
    registration_id: str | None,
    settings: dict[str, Any],
    kept: dict[str, Any] | None,
) -> UsableConfig:
    """What the caller holds may be a second old; a change that tokens depend on has a version."""
    if (config.version, config.registration_id) == (version, registration_id):
        return config
    return UsableConfig(config.id, version, registration_id, *both_of(settings, kept))


def needed(gateway: Usable, seen: Seen | None) -> ConnectionNeeded:
    state, reason = (seen.state, seen.reason) if seen is not None else ("pending", None)
    return ConnectionNeeded(
        gateway=gateway.slug, name=gateway.name, state=state, reason=reason or ""
    )


def columns(of: type[Seen]) -> list[Any]:
    computed = ("now_ms", "read_at")
    return [getattr(c, name) for name in of.__dataclass_fields__ if name not in computed]
