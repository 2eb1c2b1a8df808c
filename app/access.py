"""Who may see and use which gateway, and the read set of one call: frozen values, no rows.

Everything here is at most a second old (db.Recent), so one call costs no query when warm.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa

from . import trust
from .db import db, db_now_ms, recent
from .errors import NotFound
from .models import Connection, Flow, Gateway, OAuthConfig
from .oauth.discovered import Discovered, both_of, spec_of
from .specs import OAuthConfigSpec
from .trust import Trust


@dataclass(frozen=True, slots=True)
class Caller:
    """A person, and what they came with: an API token with its limits, or a browser session."""

    user_id: str
    email: str
    is_admin: bool
    token_id: str | None = None  # None: a browser session
    scopes: frozenset[str] = frozenset()  # of the API token
    gateway_ids: frozenset[str] | None = None  # None: all the person may use

    @property
    def owner_key(self) -> str:
        return f"user:{self.user_id}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A connection as it was read. `read_at` is this process's monotonic clock, in seconds."""

    id: str
    owner_key: str
    state: str
    reason: str | None
    config_version: int
    access_token_sealed: str | None = field(repr=False)
    refresh_token_sealed: str | None = field(repr=False)
    issued_ms: int | None
    expires_ms: int | None
    refresh_expires_ms: int | None
    version: int
    token_gen: int
    consent_gen: int
    attempt_id: str | None
    lease_ms: int
    not_before_ms: int
    forced_ms: int
    fail_count: int
    now_ms: int  # by the database's clock, when it was read
    read_at: float

    def now(self) -> int:
        """The database's time now, in ms; this node's own clock plays no part."""
        return self.now_ms + int((time.monotonic() - self.read_at) * 1000)


@dataclass(frozen=True, slots=True)
class UsableConfig:
    """One OAuth config of a gateway."""

    id: str
    version: int
    registration_id: str | None
    spec: OAuthConfigSpec  # as it works: what the admin said, over what was found
    found: Discovered | None = None

    @property
    def is_shared(self) -> bool:
        return self.spec.grant_type == "client_credentials"


@dataclass(frozen=True, slots=True)
class Further:
    """An OAuth config that serves some calls of a gateway instead of the default one."""

    config: UsableConfig
    patterns: Sequence[Mapping[str, str]]  # kind: tool, resource, prompt; match: a glob

    def serves(self, kind: str, target: str) -> bool:
        """Letter by letter, but for * ? and [...], in names and URIs as they are sent."""
        return any(
            one["kind"] == kind and fnmatchcase(target, one["match"]) for one in self.patterns
        )


KINDS = {  # of what a method is about
    "tools/call": "tool",
    "prompts/get": "prompt",
    "resources/read": "resource",
}


@dataclass(frozen=True, slots=True)
class Usable:
    """A gateway this caller may use, with the person's connection as it was a moment ago."""

    id: str
    slug: str
    name: str
    url: str
    transport: str
    auth_type: str
    username: str | None
    credentials_sealed: str | None = field(repr=False)
    timeout_s: float | None
    config: UsableConfig | None  # the default OAuth config; None without OAuth
    owner_key: str  # whose connection: "user:<id>" or "shared"
    connection: Seen | None
    trust: Trust | None = None  # a CA or certificate of its own
    person_key: str = ""  # "user:<id>" of who asks, whatever the config in hand
    further: tuple[Further, ...] = ()  # by position; empty for nearly all gateways

    def for_call(self, method: str | None, target: str | None) -> Usable:
        """With the config that serves this call: the first whose pattern fits, else this one.

        Costs nothing for a gateway of one config; another's connection is at most a second old.
        """
        if not self.further or target is None:
            return self
        kind = KINDS.get(method or "")
        for one in self.further:
            if kind is not None and one.serves(kind, target):
                return self._with(one.config)
        return self

    def for_config(self, config_id: str | None) -> Usable:
        """With this config, None: the default. Raises NotFound for one of another gateway."""
        if config_id is None or (self.config is not None and self.config.id == config_id):
            return self
        for one in self.further:
            if one.config.id == config_id:
                return self._with(one.config)
        raise NotFound("gateway_not_found", gateway=self.slug)

    def _with(self, config: UsableConfig) -> Usable:
        owner = "shared" if config.is_shared else self.person_key
        held = recent().get(("seen", config.id, owner), lambda: seen(config.id, owner))
        return replace(self, config=config, owner_key=owner, connection=held)

    @property
    def consent_gen(self) -> int:
        return self.connection.consent_gen if self.connection else 0

    @property
    def signs_people_in(self) -> bool:
        """Else nobody signs in, or all use one account that the admins keep."""
        return self.config is not None and not self.config.is_shared


def usable(caller: Caller, slug: str) -> Usable:
    """Raises NotFound for unknown, off and forbidden alike. Opens no transaction that stays."""
    found = recent().get(("usable", slug, caller.user_id), lambda: _usable(caller, slug))
    if found is None or not _within(caller, found.id):
        raise NotFound("gateway_not_found", gateway=slug)
    return found


def checkable(caller: Caller, slug: str) -> Usable:
    """For a check by an admin: as it stands now, also while it is off. Raises NotFound."""
    found = _usable(caller, slug, even_off=True) if caller.is_admin else None
    if found is None or not _within(caller, found.id):
        raise NotFound("gateway_not_found", gateway=slug)
    return found


def may_use(caller: Caller) -> list[Gateway]:
    """Every gateway this caller may use, by name. Rows, for pages."""
    rows = db.session.scalars(sa.select(Gateway).where(Gateway.is_enabled).order_by(Gateway.name))
    return [row for row in rows if _within(caller, row.id)]


@dataclass(frozen=True, slots=True)
class Held:
    """A connection as its person may see it: no token, not even a sealed one."""

    id: str
    state: str
    reason: str | None
    scopes_requested: list[str]
    scopes_granted: list[str]
    account_label: str | None
    expires_ms: int | None
    last_used_ms: int | None
    not_before_ms: int
    last_error_code: str | None
    last_error_text: str | None
    created_at: datetime
    has_access: bool
    has_refresh: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How one person stands with one gateway they may use. For pages."""

    slug: str
    name: str
    description: str
    auth_type: str
    spec: OAuthConfigSpec | None  # of the default OAuth config; None without OAuth
    held: Held | None  # theirs, or the shared one
    is_signing_in: bool  # they began, and did not come back yet


def standings(caller: Caller) -> list[Standing]:
    """With every gateway this caller may use, by name. One query, no transaction that stays."""
    with db.engine.connect() as link:
        rows = link.execute(_standing(caller)).all()
    return [_stands(row) for row in rows if _within(caller, row.gateway_id)]


def standing(caller: Caller, slug: str, *, even_off: bool = False) -> Standing:
    """Raises NotFound for unknown, off and forbidden alike. `even_off` is for admins."""
    query = _standing(caller, even_off=even_off and caller.is_admin)
    with db.engine.connect() as link:
        row = link.execute(query.where(Gateway.slug == slug)).first()
    if row is None or not _within(caller, row.gateway_id):
        raise NotFound("gateway_not_found", gateway=slug)
    return _stands(row)


_HELD = [name for name in Held.__dataclass_fields__ if not name.startswith("has_")]


def _standing(caller: Caller, *, even_off: bool = False) -> sa.Select[Any]:
    g, o, c = Gateway, OAuthConfig, Connection
    default = sa.and_(o.gateway_id == g.id, o.is_default, g.auth_type == "oauth")
    owner = sa.case((o.grant_type == "client_credentials", "shared"), else_=caller.owner_key)
    columns: list[Any] = [
        *(g.id.label("gateway_id"), g.slug, g.name, g.description, g.auth_type),
        *(o.settings, o.discovered),
        *(getattr(c, name).label(f"held_{name}") for name in _HELD),
        c.access_token_sealed.is_not(None).label("held_has_access"),
        c.refresh_token_sealed.is_not(None).label("held_has_refresh"),
    ]
    begun = sa.exists().where(Flow.user_id == caller.user_id, Flow.oauth_config_id == o.id)
    begun = begun.where(Flow.status == "open", Flow.expires_ms > db_now_ms())
    query = sa.select(*columns, begun.label("is_signing_in")).outerjoin_from(g, o, default)
    query = query.outerjoin(c, sa.and_(c.oauth_config_id == o.id, c.owner_key == owner))
    query = query.where(sa.true() if even_off else g.is_enabled)
    return query.order_by(sa.func.lower(g.name), g.slug)


def _stands(row: sa.Row[Any]) -> Standing:
    facts = {name: getattr(row, f"held_{name}") for name in Held.__dataclass_fields__}
    return Standing(
        slug=row.slug,
        name=row.name,
        description=row.description,
        auth_type=row.auth_type,
        spec=None if row.settings is None else spec_of(row.settings, row.discovered),
        held=None if row.held_id is None else Held(**facts),
        is_signing_in=row.is_signing_in,
    )


def seen(config_id: str, owner_key: str) -> Seen | None:
    """The connection as it is now. A short transaction of its own, closed at once."""
    at = time.monotonic()
    columns = [getattr(Connection, name) for name in _SEEN]
    query = sa.select(*columns, db_now_ms().label("now_ms")).where(
        Connection.oauth_config_id == config_id, Connection.owner_key == owner_key
    )
    with db.engine.connect() as link:
        row = link.execute(query).first()
    return None if row is None else Seen(**row._mapping, read_at=at)


_SEEN = [name for name in Seen.__dataclass_fields__ if name not in ("now_ms", "read_at")]


def _within(caller: Caller, gateway_id: str) -> bool:
    return caller.gateway_ids is None or gateway_id in caller.gateway_ids


def _usable(caller: Caller, slug: str, *, even_off: bool = False) -> Usable | None:
    g, c = Gateway.__table__.c, OAuthConfig.__table__.c
    query = (
        sa.select(Gateway.__table__, c.id.label("config_id"), c.config_version, c.settings)
        .add_columns(c.registration_id, c.discovered)
        .add_columns(_HAS_FURTHER)
        .outerjoin(OAuthConfig.__table__, sa.and_(c.gateway_id == g.id, c.is_default))
        .where(g.slug == slug, sa.true() if even_off else g.is_enabled)
    )
    with db.engine.connect() as link:
        row = link.execute(query).first()
    if row is None:
        return None
    config = _config(row) if row.auth_type == "oauth" and row.config_id else None
    further = _further(row.id) if config is not None and row.has_further else ()
    owner_key = "shared" if config is None or config.is_shared else caller.owner_key
    return Usable(
        id=row.id,
        slug=row.slug,
        name=row.name,
        url=row.url,
        transport=row.transport,
        auth_type=row.auth_type,
        username=row.username,
        credentials_sealed=row.credentials_sealed,
        timeout_s=row.timeout_s,
        config=config,
        owner_key=owner_key,
        connection=seen(config.id, owner_key) if config else None,
        trust=trust.of_gateway(row.id, row.ca_pem, row.client_cert_pem, row.client_key_sealed),
        person_key=caller.owner_key,
        further=further,
    )


_more = sa.orm.aliased(OAuthConfig)
_HAS_FURTHER = (
    sa.exists()
    .where(_more.gateway_id == Gateway.id, ~_more.is_default)
    .correlate(Gateway)
    .label("has_further")
)


def _further(gateway_id: str) -> tuple[Further, ...]:
    o = OAuthConfig
    query = (
        sa.select(o.id.label("config_id"), o.config_version, o.registration_id, o.settings)
        .add_columns(o.discovered, o.tool_patterns)
        .where(o.gateway_id == gateway_id, ~o.is_default)
        .order_by(o.position, o.name)
    )
    with db.engine.connect() as link:
        rows = link.execute(query).all()
    return tuple(Further(_config(row), row.tool_patterns or ()) for row in rows)


def _config(row: sa.Row[Any]) -> UsableConfig:
    both = both_of(row.settings, row.discovered)
    return UsableConfig(row.config_id, row.config_version, row.registration_id, *both)
