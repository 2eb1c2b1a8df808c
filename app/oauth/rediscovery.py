"""What is published now, against what was found before (oauth.md 2.3, 2.5, 7.4).

A config follows its server and provider as long as nothing that we hold goes anywhere new. What is
new waits for an admin: an endpoint on another host, a client typed for another issuer, a promise
that is taken back. Nothing is asked in a transaction, and an edit that came between wins.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .. import trust
from ..access import UsableConfig
from ..audit import SYSTEM, Actor, Subject, record
from ..db import AWAY, db, db_now_ms
from ..errors import Conflict, NotFound
from ..models import ClientRegistration, Connection, Gateway, OAuthConfig
from ..specs import OAuthConfigSpec
from ..trust import Trust
from . import discovery, keeping, revocation, sharing
from .discovered import PUBLISHED_AS, Discovered, contradiction, needs_metadata, spec_of
from .discovery import DiscoveryFailed
from .fetching import host
from .moves import Stop, judge, waiting

GAP_MS = 60_000  # between two questions that nobody pressed a button for
DENIALS = {  # of what was true before; all else is an outage, and what is known goes on
    *("issuer_mismatch", "resource_mismatch", "no_authorization_server", "blocked_address"),
    *("metadata_incomplete", "pkce_not_offered", "grant_not_offered"),
}
_NO_SYNC = {"synchronize_session": False}
o = OAuthConfig
log = logging.getLogger(__name__)


def fresh(config_id: str, *, max_age_s: int = 3600) -> None:
    """Before somebody is sent to the provider: what it publishes is known, and not older than that.

    Raises DiscoveryFailed without anything to go by; Conflict (issuer_changed, endpoint_moved,
    iss_withdrawn) as long as an admin has to look; Conflict (endpoint_differs); NotFound. Does
    nothing where an admin typed all there is to know. Commits; call it with no transaction open.
    """
    seen = _read(config_id)
    if not needs_metadata(seen.spec):
        return
    if seen.is_due(max_age_s):
        _ask(seen)
        seen = _read(config_id)
        if seen.found is None:
            raise Conflict("config_changed")
    _check(seen)


def after_refusal(config: UsableConfig) -> None:
    """The server refused a token: it may take those of another provider now (oauth.md 7.4).

    At most once a minute per config, over all nodes. Raises Conflict (issuer_changed). Commits,
    like `fresh`; a failure to look is none of the call's.
    """
    if config.found is None or config.found.resource_url is None:
        return
    seen = _read(config.id)
    found = seen.found
    if found is not None and seen.now_ms - found.fetched_ms > GAP_MS:
        try:
            if _claim(seen, GAP_MS) and _has_left(seen, found):
                _ask(seen)
                seen = _read(config.id)
        except (DiscoveryFailed, *AWAY) as error:
            db.session.rollback()
            log.warning("metadata of gateway %s was not read: %s", seen.gateway_name, error)
    if seen.awaits is not None and seen.awaits["code"] == "issuer_changed":
        raise waiting(seen.awaits)


def _has_left(seen: _Seen, found: Discovered) -> bool:
    """Whether the server names other providers now: one request. Raises DiscoveryFailed."""
    return found.issuer not in discovery.servers(found, seen.url, trust=seen.trust)


def confirm(config_id: str, *, by: Actor) -> None:
    """An admin trusts what waits. People sign in anew where the provider is another one.

    The client that was typed for the old one is forgotten: its secret goes to no other. Raises
    NotFound where nothing waits, and Conflict where the issuer is pinned by hand, or somebody was
    faster. The caller commits.
    """
    seen = _read(config_id)
    if seen.awaits is None:
        raise NotFound
    found = Discovered.of(seen.awaits["found"])
    if found is None:
        raise waiting(seen.awaits)
    if not _write(seen, found, by=by):
        raise Conflict


# -- what is known ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A config as it was read, with its gateway and its client."""

    id: str
    version: int
    spec: OAuthConfigSpec  # what the admin said
    found: Discovered | None
    awaits: Mapping[str, Any] | None
    asked_ms: int
    now_ms: int
    gateway_id: str
    gateway_name: str
    url: str
    trust: Trust | None
    client_kind: str | None
    client_issuer: str

    @property
    def typed_for(self) -> str | None:
        """The issuer that a client was typed for by hand. None: there is none, or nobody said."""
        if self.client_kind != "manual":
            return None
        if not self.client_issuer.startswith("static:"):
            return self.client_issuer
        return self.found.issuer if self.found is not None else None

    def is_due(self, max_age_s: int) -> bool:
        """What could not be read, or waits for an admin, is tried again, but not at each click."""
        if self.found is None or max_age_s == 0:
            return True
        life_ms = min(max_age_s, self.found.life_s) * 1000
        is_old = self.now_ms - self.found.fetched_ms >= life_ms
        return (is_old or self.awaits is not None) and self.now_ms - self.asked_ms >= GAP_MS


def _read(config_id: str) -> _Seen:
    """Raises NotFound. A short transaction of its own."""
    g, r = Gateway.__table__.c, ClientRegistration.__table__.c
    query = (
        sa.select(o.__table__, g.name.label("gateway_name"), g.url, db_now_ms().label("now_ms"))
        .add_columns(g.ca_pem, g.client_cert_pem, g.client_key_sealed)
        .add_columns(r.kind.label("client_kind"), r.issuer.label("client_issuer"))
        .join(Gateway.__table__, g.id == o.gateway_id)
        .outerjoin(ClientRegistration.__table__, r.id == o.registration_id)
        .where(o.id == config_id)
    )
    with db.engine.connect() as link:
        row = link.execute(query).first()
    if row is None:
        raise NotFound
    return _Seen(
        id=row.id,
        version=row.config_version,
        spec=OAuthConfigSpec.model_validate(row.settings),
        found=Discovered.of(row.discovered),
        awaits=row.awaits,
        asked_ms=row.asked_ms,
        now_ms=row.now_ms,
        gateway_id=row.gateway_id,
        gateway_name=row.gateway_name,
        url=row.url,
        trust=trust.of_gateway(row.gateway_id, *row[-5:-2]),
        client_kind=row.client_kind,
        client_issuer=row.client_issuer or "",
    )


def _check(seen: _Seen) -> None:
    """Raises Conflict: an admin has to look, or typed what the provider does not publish."""
    if seen.awaits is not None:
        raise waiting(seen.awaits)
    field = contradiction(seen.spec, seen.found) if seen.found is not None else None
    if field is not None:
        published = getattr(seen.found, PUBLISHED_AS[field]) or "none"
        typed, what = getattr(seen.spec, field), field.replace("_url", " URL")
        raise Conflict("endpoint_differs", what=what, typed=typed, published=published)


# -- asking ----------------------------------------------------------------------------------------


def _claim(seen: _Seen, gap_ms: int) -> bool:
    """The right to ask. Commits."""
    now = db_now_ms()
    mine = sa.update(o).where(o.id == seen.id, o.asked_ms <= now - gap_ms)
    with db.engine.begin() as link:
        taken: Any = link.execute(mine.values(asked_ms=now))
        return bool(taken.rowcount)


def _ask(seen: _Seen) -> None:
    """Ask, and keep what is said. Commits. Raises DiscoveryFailed."""
    _claim(seen, 0)
    try:
        new = _look(seen)
    except DiscoveryFailed as error:
        if seen.found is None or error.code in DENIALS:
            raise
        log.warning("metadata of gateway %s was not read: %s", seen.gateway_name, error.code)
        return
    stop = judge(seen.found, new, pin=seen.spec.issuer, typed_for=seen.typed_for)
    if stop is not None:
        _put_by(seen, new, stop)
    elif not _write(seen, new, by=SYSTEM):  # an edit came between, or another node
        db.session.rollback()
        return
    db.session.commit()


def _look(seen: _Seen) -> Discovered:
    """Raises DiscoveryFailed, also where nothing is published any more that was before."""
    r, old = ClientRegistration, seen.found
    shared = sa.select(r.issuer).where(r.kind != "manual", r.state == "active").distinct()
    with db.engine.connect() as link:
        know_us = link.scalars(shared).all()
    found = discovery.look(
        seen.url,
        trust=seen.trust,
        grant=seen.spec.grant_type,
        issuer=seen.spec.issuer,
        prefer=[*([old.issuer] if old else []), seen.client_issuer, *know_us],
        pkce=seen.spec.pkce,
    )
    new = found.discovered
    if new is None or (old is not None and old.resource_url and not new.resource_url):
        failed = DiscoveryFailed("no_sign_in_info", host=host(seen.url))
        failed.exchanges, failed.hosts = found.exchanges, found.hosts
        raise failed
    return new


# -- keeping ---------------------------------------------------------------------------------------


def _put_by(seen: _Seen, new: Discovered, stop: Stop) -> None:
    """For an admin; what works goes on as it is. The caller commits."""
    found = new.as_json() if stop.can_confirm else None
    awaits = {"code": stop.code, "facts": dict(stop.facts), "found": found}
    mine = sa.update(o).where(o.id == seen.id, o.config_version == seen.version)
    db.session.execute(mine.values(awaits=awaits), execution_options=_NO_SYNC)
    before = seen.awaits or {}
    if (before.get("code"), before.get("facts")) != (stop.code, awaits["facts"]):
        about = Subject("gateway", seen.gateway_id, seen.gateway_name)
        record(SYSTEM, "gateway.provider_moved", about, outcome="failed", code=stop.code)
    log.error("gateway %s waits for an admin: %s", seen.gateway_name, stop.code)


def _write(seen: _Seen, new: Discovered, *, by: Actor) -> bool:
    """What is published takes effect. False: an edit came between. The caller commits.

    The gateway's row is locked first, as an edit and a consent do it, then connections.
    """
    gateway = sa.update(Gateway).where(Gateway.id == seen.gateway_id).values(name=Gateway.name)
    db.session.execute(gateway, execution_options=_NO_SYNC)
    config = db.session.get(o, seen.id, populate_existing=True)
    if config is None or config.config_version != seen.version:
        return False
    before_it = (seen.found and seen.found.issuer, seen.typed_for)
    is_elsewhere = any(issuer not in (None, new.issuer) for issuer in before_it)
    signed_out = _leave(seen, config, by=by) if is_elsewhere else 0
    before, place = spec_of(config.settings, config.discovered), sharing.of(config)
    config.discovered, config.awaits, config.asked_ms = new.as_json(), None, new.fetched_ms
    after = spec_of(config.settings, config.discovered)
    config.issuer, config.token_url = after.issuer, after.token_url
    if sharing.of(config) != place:  # it comes last at its callback path, like any other
        config.callback_since_ms, config.trusts_shared_callback = db_now_ms(), False
    changed = [name for name, value in after if value != getattr(before, name)]
    if changed or is_elsewhere:  # what is under way goes by what was
        config.config_version = o.config_version + 1
    if changed or by != SYSTEM:
        about = Subject("gateway", seen.gateway_id, seen.gateway_name)
        record(by, "gateway.updated", about, fields=changed, signed_out=signed_out)
    db.session.flush()
    return True


def _leave(seen: _Seen, config: OAuthConfig, *, by: Actor) -> int:
    """Client and tokens of the old provider stay behind; the tokens end there. How many people."""
    ended = 0
    of_config = Connection.oauth_config_id == config.id
    for row in keeping.locked(of_config, Connection.state.not_in(("revoked", "orphaned"))):
        if row.user_id is None:
            revocation.queue(row, why="issuer_changed")
            db.session.delete(row)
            continue
        keeping.part(row, state="orphaned", reason="issuer_changed", why="issuer_changed")
        about = Subject("connection", row.id, seen.gateway_name)
        record(by, "connection.orphaned", about, code="issuer_changed")
        ended += 1
    client, config.registration = config.registration, None
    if client is not None and client.kind == "manual":  # connections are stamped with it
        client.state, client.client_secret_sealed, client.private_key_sealed = "retired", None, None
    return ended
