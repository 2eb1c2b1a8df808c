"""Renewing what nobody used for a day, so that a provider's idle limit ends nothing (oauth.md 7.5).

A switch per gateway. It ends for a person who made no call for 90 days.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from .. import access
from ..access import Caller
from ..db import db, db_now_ms, utcnow
from ..errors import AppError
from ..models import Connection, Gateway, OAuthConfig, User
from . import refresh

log = logging.getLogger(__name__)

EVERY_MS = 86_400_000
SPREAD = 0.1  # of that, at most: people who connected together are not renewed together for ever
IDLE_MS = 90 * 86_400_000
MOST = 200  # looked at in one run


def steps() -> Iterator[Mapping[str, int]]:
    """One request to a provider a step; who paces the steps spaces the requests. Commits, in renew.

    A provider that fails is left alone for the rest of the run. A token that lives goes on serving.
    """
    failing: set[str] = set()
    for row in _due():
        if row.token_url in failing:
            continue
        try:
            count = _renewed(row)
        except AppError as error:
            failing.add(row.token_url)
            log.info("connection %s was not kept alive: %s", row.id, error.code)
            yield {"not_renewed": 1}
        else:
            yield {"renewed": count}


def _renewed(row: sa.Row[Any]) -> int:
    """As if its token had been refused, so by the same lease. 0: somebody else was faster.

    Raises what renew() raises.
    """
    caller = Caller(row.user_id, row.email, is_admin=row.role == "admin")
    gateway = access.usable(caller, row.slug)
    if gateway.connection is None or gateway.connection.token_gen != row.token_gen:
        return 0
    return int(refresh.renew(gateway, after=row.token_gen).token_gen != row.token_gen)


def _due() -> list[sa.Row[Any]]:
    """The longest not renewed first. Closed at once: no transaction is open while we ask."""
    c, o, now = Connection, OAuthConfig, db_now_ms()
    renewed = sa.func.coalesce(c.last_refresh_ms, c.issued_ms)
    management = o.settings["token_management"]
    used_s = utcnow().timestamp() - IDLE_MS / 1000
    query = (
        sa.select(c.id, c.user_id, c.token_gen, c.token_url, c.created_at, c.last_used_ms)
        .add_columns(User.email, User.role, Gateway.slug, (now - renewed).label("age_ms"))
        .join(o, o.id == c.oauth_config_id)
        .join(Gateway, Gateway.id == c.gateway_id)
        .join(User, User.id == c.user_id)
        .where(Gateway.is_enabled, Gateway.auth_type == "oauth", o.is_default, ~User.is_disabled)
        .where(*(management[one].as_boolean() for one in ("keep_alive", "auto_refresh")))
        .where(c.state.in_(("active", "failing")), c.refresh_token_sealed.is_not(None))
        .where(c.lease_ms <= now, c.not_before_ms <= now, renewed <= now - EVERY_MS)
        .where(sa.or_(c.last_used_ms.is_(None), c.last_used_ms > now - IDLE_MS))
        .order_by(renewed, c.id)
        .limit(MOST)
    )
    with db.engine.connect() as link:
        rows = link.execute(query).all()
    fresh = (row for row in rows if row.last_used_ms or row.created_at.timestamp() > used_s)
    return [row for row in fresh if row.age_ms >= EVERY_MS * (1 + SPREAD * _part(row.id))]


def _part(connection_id: str) -> float:
    """0 to 1, the same each day."""
    return zlib.crc32(connection_id.encode()) / 0xFFFFFFFF
