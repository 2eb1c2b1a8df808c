"""Renewing what nobody used for a day, so that a provider's idle limit ends nothing (oauth.md 7.5).

A switch per gateway. It ends for a person who made no call for 90 days.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from .. import access
from ..access import Caller
from ..db import db, db_now_ms, utcnow
from ..errors import AppError, Kind
from ..models import Connection, Gateway, OAuthConfig, User
from . import asking, refresh
from .asking import Asking
from .replies import TokenSet

log = logging.getLogger(__name__)

EVERY_MS = 86_400_000
SPREAD = 0.1  # of that, at most: people who connected together are not renewed together for ever
IDLE_MS = 90 * 86_400_000
MOST = 200  # looked at in one run
_OF_ALL: tuple[Kind, ...] = ("unsent", "busy", "unknown", "client")  # of no single grant


def steps() -> Iterator[Mapping[str, int]]:
    """One request to a provider a step; who paces the steps spaces the requests. Commits, in renew.

    A provider that fails is left alone for the rest of the run; one that only refuses a grant is
    not. A token that lives goes on serving.
    """
    failing: set[str | None] = set()
    for row in _due():
        if row.endpoint in failing:
            continue

        def ask(what: Asking, endpoint: str | None = row.endpoint) -> TokenSet:
            try:
                return asking.ask_provider(what)
            except AppError as error:
                if asking.kind_of(error) in _OF_ALL:
                    failing.add(endpoint)
                raise

        try:
            count = _renewed(row, ask)
        except AppError as error:
            log.info("connection %s was not kept alive: %s", row.id, error.code)
            yield {"not_renewed": 1}
        else:
            yield {"renewed": count}


def _renewed(row: sa.Row[Any], ask: asking.Ask) -> int:
    """As if its token had been refused, so by the same lease. 0: somebody else was faster.

    Raises what renew() raises.
    """
    caller = Caller(row.user_id, row.email, is_admin=row.role == "admin")
    gateway = access.usable(caller, row.slug).for_config(row.config_id)
    if gateway.connection is None or gateway.connection.token_gen != row.token_gen:
        return 0
    return int(refresh.renew(gateway, after=row.token_gen, ask=ask).token_gen != row.token_gen)


def _due() -> list[sa.Row[Any]]:
    """Of each endpoint the longest not renewed first, and of all endpoints in turn.

    So none that is dead hides the others. Closed at once: no transaction is open while we ask.
    """
    c, o, now = Connection, OAuthConfig, db_now_ms()
    renewed = sa.func.coalesce(c.last_refresh_ms, c.issued_ms)
    management = o.settings["token_management"]
    is_new = sa.and_(
        c.last_used_ms.is_(None), c.created_at > utcnow() - timedelta(milliseconds=IDLE_MS)
    )
    endpoint = sa.func.coalesce(c.refresh_url, c.token_url)
    turn = sa.func.row_number().over(partition_by=endpoint, order_by=(renewed, c.id))
    query = (
        sa.select(c.id, c.user_id, c.token_gen, endpoint.label("endpoint"), turn.label("turn"))
        .add_columns(User.email, User.role, Gateway.slug, (now - renewed).label("age_ms"))
        .add_columns(o.id.label("config_id"))
        .join(o, o.id == c.oauth_config_id)
        .join(Gateway, Gateway.id == c.gateway_id)
        .join(User, User.id == c.user_id)
        .where(Gateway.is_enabled, Gateway.auth_type == "oauth", ~User.is_disabled)
        .where(*(management[one].as_boolean() for one in ("keep_alive", "auto_refresh")))
        .where(c.state.in_(("active", "failing")), c.refresh_token_sealed.is_not(None))
        .where(c.lease_ms <= now, c.not_before_ms <= now, renewed <= now - EVERY_MS)
        .where(sa.or_(is_new, c.last_used_ms > now - IDLE_MS))
        .order_by("turn", renewed, c.id)
        .limit(MOST)
    )
    with db.engine.connect() as link:
        rows = link.execute(query).all()
    return [row for row in rows if row.age_ms >= EVERY_MS * (1 + SPREAD * _part(row.id))]


def _part(connection_id: str) -> float:
    """0 to 1, the same each day."""
    return zlib.crc32(connection_id.encode()) / 0xFFFFFFFF
