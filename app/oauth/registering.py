"""How we come to a client id at a provider (oauth.md 2.4): typed by hand, else our document (CIMD),
else dynamic registration (RFC 7591), else an admin is asked.

A client of our own making belongs to issuer, redirect URI and generation, and all gateways of that
issuer share it. Who makes it holds a lease in its row, so any number of begins make one. No
transaction is open while a provider is asked.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .. import trust
from ..audit import SYSTEM, Actor, Subject, entry, record, stage
from ..db import db, db_now_ms
from ..errors import AppError, Conflict, NotFound, UpstreamError
from ..models import ClientRegistration, Connection, Flow, Gateway, OAuthConfig
from ..secretbox import box, cell
from ..specs import OAuthConfigSpec
from ..states import LIVING
from ..trust import Trust
from . import enrolling, keeping, registration
from .discovered import OFFLINE, Discovered, spec_of
from .enrolling import Granted, Wish

LEASE_S = enrolling.SECONDS + 5.0
WAIT_S = 0.1  # between two looks at what another process is making
PAUSE_S = 60  # after a refusal, for all nodes
HOUR_MS = 3_600_000  # between two clients at one issuer that nobody pressed a button for
SOON_MS = 24 * HOUR_MS  # before its end a secret is replaced
DOCUMENT, KEYS = "/oauth/client-metadata.json", "/oauth/jwks.json"
_NO_SYNC = {"synchronize_session": False}
r = ClientRegistration
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A config as it was read, with the client it has."""

    id: str
    spec: OAuthConfigSpec
    found: Discovered | None
    redirect_uri: str
    gateway_id: str
    gateway_name: str
    trust: Trust | None
    client: ClientRegistration | None  # of no session
    now_ms: int

    @property
    def issuer(self) -> str:
        return self.found.issuer if self.found is not None else self.spec.issuer or ""

    @property
    def works(self) -> bool:
        """Whether its client can be used as it is."""
        us = self.client
        if us is None or us.kind == "manual":
            return us is not None
        is_here = us.issuer == self.issuer and us.redirect_uri == self.redirect_uri
        return is_here and is_alive(us, self.now_ms)


def is_alive(us: ClientRegistration, now_ms: int) -> bool:
    if us.state != "active" or (us.kind == "cimd" and us.client_id != document_url()):
        return False
    return us.secret_expires_ms is None or us.secret_expires_ms > now_ms


def ready(config_id: str, *, by: Actor) -> str:
    """The id of a usable ClientRegistration, made now if need be. Commits.

    Raises Conflict (client_needed; client_rejected within an hour of the last one), UpstreamError
    (registration_refused, registration_unusable, and what egress says), NotFound. Call it with no
    transaction open.
    """
    seen = _read(config_id)
    if seen.client is not None and seen.works:
        return seen.client.id
    us = _document(seen) or _enrolled(seen, by=by)
    _attach(seen, us, by=by)
    return us


def again(config_id: str, *, by: Actor) -> str:
    """A new client, because an admin says so. Connections of the old one keep it. Commits.

    Raises NotFound for a client that was typed by hand, and what `ready` raises.
    """
    seen = _read(config_id)
    if seen.client is None or seen.client.kind == "manual":
        raise NotFound
    _set(seen.client.id, state="retired")
    return ready(config_id, by=by)


def widen(registration_id: str, scopes: list[str] | tuple[str, ...], *, by: Actor = SYSTEM) -> bool:
    """A client that may ask for these, too: changed (RFC 7592), else a new one at the next begin.

    False: it may already, was typed by hand, or is our document, and nothing was done. Commits.
    Raises nothing that a provider says.
    """
    us, config_id = _by_id(registration_id), _user_of(registration_id)
    if us.kind != "dcr" or config_id is None or set(scopes) <= set(us.scopes or ()):
        return False
    seen = _read(config_id)
    wanted = tuple(dict.fromkeys([*(us.scopes or ()), *_scopes(seen), *scopes]))
    if us.registration_uri is None:
        _set(us.id, state="retired", scopes=list(wanted))
        return True
    secret, token = _opened(us, "client_secret_sealed"), _opened(us, "registration_token_sealed")
    try:
        granted = enrolling.alter(
            us.registration_uri,
            token or "",
            us.client_id,
            _wish(seen, wanted),
            secret=secret,
            trust=seen.trust,
        )
    except UpstreamError as error:
        log.warning("client at %s was not changed: %s", us.issuer, error.code)
        _set(us.id, state="retired", scopes=list(wanted))
        return True
    with Session(db.engine) as session, session.begin():
        row = session.get_one(r, us.id)
        _write(row, granted)
        stage(session, entry(by, "client.widened", Subject("client", us.id, us.issuer)))
    return True


def document_url() -> str:
    """Where our client id metadata document stands, and so what our client id is there."""
    given: str = current_app.config["OAUTH_CLIENT_METADATA_URL"]
    return given or f"{current_app.config['PUBLIC_URL']}{DOCUMENT}"


def keys_url() -> str:
    """Where providers read the public part of what we sign with."""
    return f"{current_app.config['PUBLIC_URL']}{KEYS}"


def document() -> dict[str, Any]:
    """It names no gateway (oauth.md 2.4, 2)."""
    public = current_app.config["PUBLIC_URL"]
    return {
        "client_id": document_url(),
        "client_name": "MCP Gateway",
        "client_uri": public,
        "redirect_uris": [registration.callback_uri()],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    }


def public_keys() -> list[dict[str, Any]]:
    """Of every client that signs with a key of its own."""
    query = sa.select(r.public_jwk).where(r.public_jwk.is_not(None)).order_by(r.key_id)
    with db.engine.connect() as link:
        return list({one["kid"]: one for one in link.scalars(query)}.values())


# -- what is known ---------------------------------------------------------------------------------


def _read(config_id: str) -> _Seen:
    """Raises NotFound, Conflict (redirect_foreign). A short transaction of its own."""
    o, g = OAuthConfig.__table__.c, Gateway.__table__.c
    query = (
        sa.select(o.settings, o.discovered, o.registration_id, db_now_ms().label("now_ms"))
        .add_columns(g.id, g.name, g.slug, g.ca_pem, g.client_cert_pem, g.client_key_sealed)
        .join(Gateway.__table__, g.id == o.gateway_id)
        .where(o.id == config_id)
    )
    with db.engine.connect() as link:
        row = link.execute(query).first()
    if row is None:
        raise NotFound
    spec = spec_of(row.settings, row.discovered)
    found = Discovered.of(row.discovered)
    client = _by_id(row.registration_id) if row.registration_id else None
    return _Seen(
        id=config_id,
        spec=spec,
        found=found,
        redirect_uri=registration.redirect_uri(spec, row.slug),
        gateway_id=row.id,
        gateway_name=row.name,
        trust=trust.of_gateway(row.id, row.ca_pem, row.client_cert_pem, row.client_key_sealed),
        client=client,
        now_ms=row.now_ms,
    )


def _by_id(registration_id: str) -> ClientRegistration:
    with Session(db.engine, expire_on_commit=False) as session:
        row = session.get(r, registration_id)
    if row is None:
        raise NotFound
    return row


def _user_of(registration_id: str) -> str | None:
    """A config that uses it."""
    o = OAuthConfig
    query = sa.select(o.id).where(o.registration_id == registration_id).order_by(o.id).limit(1)
    with db.engine.connect() as link:
        return link.scalar(query)


def _opened(us: ClientRegistration, column: str) -> str | None:
    sealed = getattr(us, column)
    return None if sealed is None else box().open(sealed, where=cell(us, column))


def _set(registration_id: str, **values: Any) -> None:
    """Commits."""
    with Session(db.engine) as session, session.begin():
        change = sa.update(r).where(r.id == registration_id).values(**values)
        session.execute(change, execution_options=_NO_SYNC)


# -- our document ----------------------------------------------------------------------------------


def _document(seen: _Seen) -> str | None:
    """The row of our document at this provider; None where it does not do. Commits."""
    found, url = seen.found, document_url()
    if found is None or seen.spec.grant_type != "authorization_code" or not found.takes_documents:
        return None
    is_shared = seen.redirect_uri == registration.callback_uri()
    if not is_shared or "none" not in (found.auth_methods or ()) or not _is_public(url):
        return None
    mine = (r.kind == "cimd", r.issuer == seen.issuer, r.redirect_uri == seen.redirect_uri)
    with Session(db.engine) as session:
        row = session.scalar(sa.select(r).where(*mine))
        if row is not None and row.state == "rejected":
            return None
        if row is None:
            row = r(kind="cimd", issuer=seen.issuer, redirect_uri=seen.redirect_uri)
            row.auth_method = "none"
            session.add(row)
        row.client_id, row.state = url, "active"
        try:
            session.commit()
        except IntegrityError:  # another begin was faster
            session.rollback()
            return session.scalar(sa.select(r.id).where(*mine))
        return row.id


def _is_public(url: str) -> bool:
    """Whether a provider may be able to read it: https, and a name that is no address of ours."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    is_local = name in ("localhost", "::1") or name.endswith((".localhost", ".local", ".internal"))
    is_address = ":" in name or name.replace(".", "").isdigit()
    return parts.scheme == "https" and "." in name and not is_local and not is_address


# -- dynamic registration --------------------------------------------------------------------------


def _scopes(seen: _Seen) -> tuple[str, ...]:
    """All we may ask for, also later: strict servers refuse what a client did not register."""
    found, spec = seen.found, seen.spec
    asked = [*(spec.scopes or ()), *(spec.offline.scopes if spec.offline else ())]
    if found is not None:
        asked += [*found.challenge_scopes, *found.resource_scopes]
        asked += [OFFLINE] if OFFLINE in (found.scopes_offered or ()) else []
    return tuple(dict.fromkeys(asked))


def _wish(seen: _Seen, scopes: tuple[str, ...]) -> Wish:
    return Wish(
        name="MCP Gateway",
        home=current_app.config["PUBLIC_URL"],
        redirect_uri=seen.redirect_uri,
        scopes=scopes,
        methods=seen.found.auth_methods if seen.found is not None else None,
    )


def _enrolled(seen: _Seen, *, by: Actor) -> str:
    """The id of a living client at this provider: found, waited for, or made. Commits."""
    endpoint = seen.found.registration_endpoint if seen.found is not None else None
    if endpoint is None or seen.spec.grant_type != "authorization_code":
        raise Conflict("client_needed", redirect=seen.redirect_uri)
    give_up = time.monotonic() + LEASE_S + 5.0
    while True:
        us, now = _newest(seen)
        if us is not None and is_alive(us, now):
            return us.id
        if us is not None and us.not_before_ms > now:
            wait = (us.not_before_ms - now) // 1000 + 1
            hint = f"It is asked again in {wait} s."
            code = us.last_error_code or "registration_refused"
            raise UpstreamError(code, host=urlsplit(endpoint).netloc, hint=hint)
        if us is None or us.state != "making":
            _prepare(seen, us, now)
        elif (attempt := _claim(us.id)) is not None:
            return _make(seen, endpoint, us.id, attempt, by=by)
        elif time.monotonic() > give_up:
            raise UpstreamError("timeout", host=urlsplit(endpoint).netloc)
        else:
            time.sleep(WAIT_S)


def _newest(seen: _Seen) -> tuple[ClientRegistration | None, int]:
    mine = (r.kind == "dcr", r.issuer == seen.issuer, r.redirect_uri == seen.redirect_uri)
    query = sa.select(r).where(*mine).order_by(r.generation.desc()).limit(1)
    with Session(db.engine, expire_on_commit=False) as session:
        now: int = session.execute(sa.select(db_now_ms())).scalar_one()
        return session.scalar(query), now


def _prepare(seen: _Seen, old: ClientRegistration | None, now_ms: int) -> None:
    """A row for the next generation; nobody holds it yet. Commits. Raises AppError."""
    if old is not None and old.state == "rejected":
        made_ms = old.registered_ms or 0
        if now_ms - made_ms < HOUR_MS:  # never again and again
            raise AppError("client_rejected", hint="A new client is made once an hour at most.")
    row = r(kind="dcr", issuer=seen.issuer, redirect_uri=seen.redirect_uri, client_id="")
    row.generation, row.state = (old.generation + 1 if old else 1), "making"
    row.scopes = old.scopes if old is not None else None
    try:
        with Session(db.engine) as session, session.begin():
            session.add(row)
    except IntegrityError:
        return  # another begin was faster


def _claim(registration_id: str) -> str | None:
    """The right to make it; None: another has it. Commits."""
    now, attempt = db_now_ms(), secrets.token_hex(16)
    free = (r.id == registration_id, r.state == "making", r.lease_ms <= now)
    change = sa.update(r).where(*free).values(attempt_id=attempt)
    change = change.values(lease_ms=now + int(LEASE_S * 1000)).returning(r.id)
    with Session(db.engine) as session, session.begin():
        taken = session.scalar(change.execution_options(synchronize_session=False))
    return attempt if taken is not None else None


def _make(seen: _Seen, endpoint: str, registration_id: str, attempt: str, *, by: Actor) -> str:
    """Commits. Nothing is kept of an answer that cannot be used."""
    mine = sa.update(r).where(r.id == registration_id, r.attempt_id == attempt)
    try:
        granted = _granted(seen, endpoint, registration_id)
    except AppError as error:
        pause = db_now_ms() + PAUSE_S * 1000
        change = mine.values(lease_ms=0, attempt_id=None, not_before_ms=pause)
        about = Subject("gateway", seen.gateway_id, seen.gateway_name)
        with Session(db.engine) as session, session.begin():
            session.execute(change.values(last_error_code=error.code), execution_options=_NO_SYNC)
            stage(session, entry(by, "client.refused", about, outcome="failed", code=error.code))
        raise
    with Session(db.engine) as session, session.begin():
        row = session.get(r, registration_id, with_for_update=True)
        is_ours = row is not None and row.attempt_id == attempt and row.state == "making"
        if row is not None and is_ours:
            _write(row, granted)
            row.registered_ms = db_now_ms()
            about = Subject("client", row.id, seen.issuer)
            stage(session, entry(by, "client.registered", about, gateway=seen.gateway_name))
    if not is_ours:  # the lease ended meanwhile, and another made one
        withdraw_granted(granted, trust=seen.trust)
        raise Conflict("config_changed")
    return registration_id


def _granted(seen: _Seen, endpoint: str, registration_id: str) -> Granted:
    """With the scopes that its forerunner came to need, too; with none named where those are
    refused, as all gateways of this issuer hang on it.
    """
    more = _by_id(registration_id).scopes or ()
    scopes = tuple(dict.fromkeys([*_scopes(seen), *more]))
    try:
        return enrolling.enrol(endpoint, _wish(seen, scopes), trust=seen.trust)
    except UpstreamError as error:
        # The lease is no longer than one wait for a provider that does not answer.
        if not more or error.code != "registration_refused":
            raise
        log.warning("no wider client at %s: %s", seen.issuer, error.code)
    return enrolling.enrol(endpoint, _wish(seen, ()), trust=seen.trust)


def _write(row: ClientRegistration, granted: Granted) -> None:
    def shut(column: str, secret: str | None) -> str | None:
        return None if secret is None else box().seal(secret, where=cell(row, column))

    row.client_id, row.auth_method = granted.client_id, granted.auth_method
    row.client_secret_sealed = shut("client_secret_sealed", granted.client_secret)
    row.registration_token_sealed = shut("registration_token_sealed", granted.registration_token)
    row.registration_uri = granted.registration_uri
    row.scopes = None if granted.scopes is None else list(granted.scopes)
    ends = granted.secret_expires_s
    row.secret_expires_ms = None if ends is None else ends * 1000
    row.state, row.attempt_id, row.lease_ms = "active", None, 0
    row.not_before_ms, row.last_error_code = 0, None


def withdraw_granted(granted: Granted, *, trust: Trust | None) -> None:
    """Best effort."""
    if granted.registration_uri and granted.registration_token:
        try:
            enrolling.withdraw(granted.registration_uri, granted.registration_token, trust=trust)
        except UpstreamError as error:
            log.warning("a client that nobody needs was not removed: %s", error.code)


def _attach(seen: _Seen, registration_id: str, *, by: Actor) -> None:
    """The config uses it from now on. Commits. Raises Conflict: an edit came between."""
    o = OAuthConfig
    was = seen.client.id if seen.client is not None else None
    mine = sa.update(o).where(o.id == seen.id, o.registration_id.is_not_distinct_from(was))
    done: Any = db.session.execute(
        mine.values(registration_id=registration_id), execution_options=_NO_SYNC
    )
    if not done.rowcount:
        db.session.rollback()
        now = _read(seen.id).client
        if now is None or now.id != registration_id:
            raise Conflict("config_changed")
        return
    about = Subject("gateway", seen.gateway_id, seen.gateway_name)
    record(by, "gateway.client_chosen", about, client=registration_id)
    db.session.commit()


# -- by itself -----------------------------------------------------------------------------------


def steps() -> Iterator[Mapping[str, int]]:
    """A chore: clients that nobody uses, whose secret ends within a day, or that a provider may
    have forgotten. One at a time. Commits.
    """
    for registration_id in unused():
        yield {"removed": int(remove(registration_id))}
    for registration_id in _ending():
        yield {"renewed": int(_renew(registration_id))}
    for registration_id in _doubted():
        yield {"forgotten": int(settle_doubt(registration_id))}


def _ending() -> list[str]:
    now = db_now_ms()
    is_old = r.registered_ms < now - HOUR_MS
    query = sa.select(r.id).where(r.kind == "dcr", r.state == "active", is_old)
    with db.engine.connect() as link:
        return list(link.scalars(query.where(r.secret_expires_ms < now + SOON_MS)))


def _renew(registration_id: str) -> bool:
    """The old one serves on as long as there is no new one."""
    users = sa.select(OAuthConfig.id).where(OAuthConfig.registration_id == registration_id)
    with db.engine.connect() as link:
        configs = list(link.scalars(users.order_by(OAuthConfig.id)))
    _set(registration_id, state="retired")
    try:
        for config_id in configs:
            ready(config_id, by=SYSTEM)
    except AppError as error:
        log.warning("a client whose secret ends was not replaced: %s", error.code)
        _set(registration_id, state="active")
        return False
    return bool(configs)


def _doubted() -> list[str]:
    """Refused twice, for a connection or in sign-ins, and not probed within the hour."""
    c, f, now = Connection, Flow, db_now_ms()
    refused = sa.exists().where(
        c.registration_id == r.id, c.last_error_code == "client_rejected", c.refused_count >= 2
    )
    failed = (
        sa.select(sa.func.count())
        .where(f.registration_id == r.id, f.error_code == "client_rejected")
        .where(f.created_ms > now - HOUR_MS)
        .scalar_subquery()
    )
    query = sa.select(r.id).where(r.kind != "manual", r.state.in_(("active", "retired")))
    query = query.where(sa.or_(refused, failed >= 2), r.probed_ms <= now - HOUR_MS)
    with db.engine.connect() as link:
        return list(link.scalars(query.order_by(r.id)))


def settle_doubt(registration_id: str) -> bool:
    """Ask the provider with a made-up code whether it knows the client; whether it does not.

    Then the next begin makes a new one, and connections of the old one are put away, as nothing
    can renew them (oauth.md 2.4). Commits.
    """
    now, config_id = db_now_ms(), _user_of(registration_id)
    mine = sa.update(r).where(r.id == registration_id, r.probed_ms <= now - HOUR_MS)
    with Session(db.engine) as session, session.begin():
        taken = session.scalar(
            mine.values(probed_ms=now).returning(r.id), execution_options=_NO_SYNC
        )
    if taken is None or config_id is None:
        return False
    spec = _read(config_id).spec
    client = registration.client_for(registration_id, spec, config_id=config_id)
    if client.probe(resource=spec.resource if "://" in spec.resource else None).known is not False:
        return False
    _set(registration_id, state="rejected")
    hang_on_it = (Connection.registration_id == registration_id, Connection.state.in_(LIVING))
    for row in keeping.locked(*hang_on_it):
        keeping.part(row, state="orphaned", reason="client_gone", why="client_gone")
        record(SYSTEM, "connection.orphaned", Subject("connection", row.id), code="client_gone")
    record(SYSTEM, "client.forgotten", Subject("client", registration_id), outcome="failed")
    db.session.commit()
    return True


# -- who is not needed any more --------------------------------------------------------------------


def unused(*, limit: int = 20) -> list[str]:
    """Registrations of our own making that nothing hangs on."""
    o, c, f = OAuthConfig, Connection, Flow
    query = sa.select(r.id).where(r.kind == "dcr", r.state != "making")
    for other in (o, c, f):
        query = query.where(~sa.exists().where(other.registration_id == r.id))
    with db.engine.connect() as link:
        return list(link.scalars(query.order_by(r.id).limit(limit)))


def remove(registration_id: str) -> bool:
    """Here, and at the provider as best effort (RFC 7592 section 2.3). Whether it was. Commits."""
    us = _by_id(registration_id)
    with Session(db.engine) as session, session.begin():
        mine = [r.id == us.id]
        for other in (OAuthConfig, Connection, Flow):
            mine.append(~sa.exists().where(other.registration_id == us.id))
        gone: Any = session.execute(sa.delete(r).where(*mine), execution_options=_NO_SYNC)
        if not gone.rowcount:
            return False
        stage(session, entry(SYSTEM, "client.removed", Subject("client", us.id, us.issuer)))
    token = _opened(us, "registration_token_sealed")
    if us.registration_uri and token:
        try:
            enrolling.withdraw(us.registration_uri, token)
        except UpstreamError as error:
            log.warning("client at %s was not removed there: %s", us.issuer, error.code)
    return True
