"""Gateways as an admin's pages list them: what each needs. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from .access import Caller
from .db import db
from .models import CatalogEntry, CheckRun, Connection, Gateway, OAuthConfig
from .states import LIVING

Status = Literal["failing", "needs_sign_in", "ready", "off"]
STATUSES: tuple[Status, ...] = ("failing", "needs_sign_in", "ready", "off")  # who needs someone
NOTED_EVERY_MS = 60_000  # a good call is noted at most so often: it may be as much later


@dataclass(frozen=True, slots=True)
class Row:
    """One gateway, as it stands for the admin who looks."""

    slug: str
    name: str
    url: str
    auth_type: str
    grant_type: str | None  # None: not OAuth
    stores: bool
    is_enabled: bool
    tools: int  # that are known
    people: int  # that are connected
    worked_ms: int | None
    failed_ms: int | None
    failed_code: str | None
    health: str | None  # as app/health.py saw it; None: never looked
    health_ms: int | None  # so since
    check: str | None  # how its newest check ended that was not cut off; None: there is none
    check_ms: int | None
    state: str | None  # of the connection of the admin who looks, or of the shared one

    @property
    def status(self) -> Status:
        """Worked out, not stored (ui.md section 7)."""
        if not self.is_enabled:
            return "off"
        worked_until = (self.worked_ms or 0) + NOTED_EVERY_MS
        if self.state == "failing" or (self.failed_ms or 0) > worked_until:
            return "failing"
        if self.health in ("refused", "down") and (self.health_ms or 0) > worked_until:
            return "failing"
        if self.check == "bad" and (self.check_ms or 0) > worked_until:
            return "failing"
        if self.is_personal and self.stores and self.state not in LIVING:
            return "needs_sign_in"
        return "ready"

    @property
    def is_personal(self) -> bool:
        """Each person signs in for themselves."""
        return self.grant_type == "authorization_code"


def rows(caller: Caller) -> list[Row]:
    """Every gateway; those that need someone first, then by name."""
    found = [_row(row._asdict()) for row in db.session.execute(_query(caller))]
    return sorted(found, key=lambda row: (STATUSES.index(row.status), row.name.casefold()))


def row(caller: Caller, gateway: Gateway) -> Row:
    query = _query(caller).where(Gateway.id == gateway.id)
    return _row(db.session.execute(query).one()._asdict())


def _query(caller: Caller) -> sa.Select[Any]:
    g, o, c = Gateway, OAuthConfig, Connection
    owner = sa.case((o.grant_type == "client_credentials", "shared"), else_=caller.owner_key)
    entry = CatalogEntry
    tools = (
        sa.select(entry.gateway_id, sa.func.count(entry.name.distinct()).label("number"))
        .where(entry.kind == "tool")
        .group_by(entry.gateway_id)
        .subquery()
    )
    people = (
        sa.select(c.gateway_id, sa.func.count().label("number"))
        .where(c.user_id.is_not(None), c.state.in_(LIVING))
        .group_by(c.gateway_id)
        .subquery()
    )
    own = (g.slug, g.name, g.url, g.auth_type, g.is_enabled)
    return (
        sa.select(*own, g.worked_ms, g.failed_ms, g.failed_code, g.health, g.health_ms)
        .add_columns(o.grant_type, o.settings, c.state)
        .add_columns(_newest(CheckRun.outcome, "check"), _newest(CheckRun.ended_ms, "check_ms"))
        .add_columns(sa.func.coalesce(tools.c.number, 0).label("tools"))
        .add_columns(sa.func.coalesce(people.c.number, 0).label("people"))
        .outerjoin(o, sa.and_(o.gateway_id == g.id, o.is_default))
        .outerjoin(c, sa.and_(c.oauth_config_id == o.id, c.owner_key == owner))
        .outerjoin(tools, tools.c.gateway_id == g.id)
        .outerjoin(people, people.c.gateway_id == g.id)
    )


def _newest(column: sa.orm.InstrumentedAttribute[Any], name: str) -> sa.Label[Any]:
    """Of the newest check that came to an end of its own."""
    k = CheckRun
    query = sa.select(column).where(k.gateway_id == Gateway.id, k.state == "done")
    query = query.where(sa.or_(k.code.is_(None), k.code != "internal_error"))
    query = query.order_by(k.started_ms.desc(), k.id).limit(1).correlate(Gateway)
    return query.scalar_subquery().label(name)


def _row(values: dict[str, Any]) -> Row:
    settings = values.pop("settings") or {}
    stores = bool(settings.get("token_management", {}).get("store_tokens"))
    return Row(**values, stores=stores)
