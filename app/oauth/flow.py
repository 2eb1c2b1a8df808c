"""From "connect this gateway" to tokens, across one trip of the browser (oauth.md section 3).

One browser, one person, one row: the same from the button to the tokens. All that the exchange
needs is pinned as the flow begins; what an admin changes meanwhile ends it.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import current_app

from .. import access, audit, metrics
from ..access import Caller, Usable, UsableConfig
from ..audit import Actor, Subject
from ..db import AWAY, db, db_now_ms, recent
from ..draining import draining
from ..errors import AppError, Busy, Conflict, ConsentFailed, NotFound, NotRecorded
from ..models import Flow, OAuthConfig, User
from ..secretbox import Where, box, cell
from ..specs import OAuthConfigSpec
from . import (
    asking,
    keeping,
    ladder,
    parked,
    rediscovery,
    registering,
    registration,
    revocation,
    sharing,
    stepping,
)
from .callback import Callback
from .client import OAuthClient, Registration
from .discovered import spec_of
from .replies import TokenSet

HOUR_MS = 3_600_000
WINDOW_MS = 600_000  # in which unfinished attempts are counted
KEEP_S = 20.0  # how long tokens wait for a database that is away or locked


@dataclass(frozen=True, slots=True)
class Begun:
    """What the stop-over page says, and what it makes the browser keep."""

    flow_id: str
    slug: str
    gateway_name: str
    host: str  # of the provider
    scopes: tuple[str, ...]
    cookie_name: str
    cookie_value: str = field(repr=False)
    max_age: int  # seconds


@dataclass(frozen=True, slots=True)
class Finished:
    slug: str
    gateway_name: str
    purpose: str
    return_to: str  # a path of ours
    config_id: str
    parked_call_id: str | None
    account_label: str | None
    narrowed: tuple[str, ...]  # asked for and not granted
    lost: tuple[str, ...] = ()  # granted before, and no longer
    tokens: TokenSet | None = field(default=None, repr=False)  # only if none are stored


def prepare(caller: Caller, gateway: Usable, *, by: Actor) -> Usable:
    """Before `begin`: its provider is known and knows us. The gateway as it is after that.

    Raises DiscoveryFailed, Conflict (client_needed, issuer_changed, endpoint_moved …) and what a
    registration raises. Ends the transaction, asks servers, and commits.
    """
    config = gateway.config
    if config is None or config.is_shared:
        return gateway
    db.session.rollback()
    rediscovery.fresh(config.id)
    registering.ready(config.id, by=by)
    recent().clear()  # some of it is written past the session
    return access.usable(caller, gateway.slug).for_config(config.id)


def begin(  # noqa: PLR0913  # all that one trip of the browser is about
    caller: Caller,
    gateway: Usable,
    *,
    purpose: str = "connect",
    parked_call: str | None = None,
    target: str | None = None,
    return_to: str,
    by: Actor,
) -> Begun:
    """Remember the attempt; the caller commits. `return_to` is a path of ours.

    `target`: the tool, resource or prompt that lacks rights, where one does.

    Raises NotFound without a personal sign-in, Busy (too_many_attempts), Conflict
    (callback_shared, connection_limit, client_needed, redirect_foreign).
    """
    config = gateway.config
    if config is None or config.is_shared:
        raise NotFound("gateway_not_found", gateway=gateway.slug)
    if sharing.waits_for(config.id):
        raise Conflict("callback_shared")
    _take_turn(caller)
    _limit_attempts(caller, config)
    if config.spec.stores and not keeping.has_room(config.id, gateway.id, caller.owner_key):
        raise Conflict("connection_limit")
    flow = _pinned(gateway, config)
    flow.user_id, flow.purpose, flow.parked_call_id = caller.user_id, purpose, parked_call
    needed = parked.wanted(caller, parked_call) if parked_call else ()
    flow.return_to = return_to
    flow.scopes_requested = list(dict.fromkeys([*stepping.asked_by(config.spec), *needed]))
    flow.target = (target or "")[: stepping.TARGET_LIMIT] if needed else None
    state, cookie = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    flow.state_hash, flow.cookie_hash = ladder.sha256(state), ladder.sha256(cookie)
    sealed = json.dumps({"state": state, "verifier": secrets.token_urlsafe(48)})  # 64 characters
    flow.secrets_sealed = box().seal(sealed, where=cell(flow, "secrets_sealed"))
    db.session.add(flow)
    more = {"target": flow.target, "scopes": flow.scopes_requested} if needed else {}
    _record(by, "consent.begun", flow.id, gateway.name, purpose=purpose, **more)
    return Begun(
        flow_id=flow.id,
        slug=gateway.slug,
        gateway_name=gateway.name,
        host=urlsplit(flow.authorization_url).netloc,
        scopes=tuple(flow.scopes_requested),
        cookie_name=ladder.cookie_name(flow.id),
        cookie_value=cookie,
        max_age=current_app.config["OAUTH_STATE_EXPIRY"],
    )


def onward(caller: Caller, slug: str, flow_id: str, *, cookies: Mapping[str, str]) -> str:
    """The provider's address for a flow that has begun. Changes nothing. Raises ConsentFailed."""
    seen = ladder.by_id(flow_id)
    if seen is None or seen.slug != slug:
        raise ConsentFailed("state_unknown")
    ladder.check_owner(seen, caller, cookies)
    ladder.check_open(seen)
    ladder.check_set_up(seen)
    secret = _secrets(seen)
    return _client(seen).authorize_url(
        state=secret["state"],
        verifier=secret["verifier"],
        scopes=seen.scopes_requested,
        resource=seen.resource,
    )


def finish(
    caller: Caller | None,
    callback: Callback,
    *,
    cookies: Mapping[str, str],
    by: Actor,
    patience: float = KEEP_S,
) -> Finished:
    """Redeem a callback: the first rung that breaks wins, and nothing below it runs.

    Raises ConsentFailed. Where its facts name a `flow`, `failure` tells the same again. Commits:
    the flow is taken before the provider is asked, so a state works once, whatever follows; tokens
    are kept at once, as nobody gives them twice; for `patience` seconds it is tried again.
    """
    seen = ladder.by_state(callback.state)
    try:
        person = ladder.check_owner(seen, caller, cookies)
        t0_ms = ladder.take(seen)
    except ConsentFailed as error:
        _record(by, "consent.refused", seen.id, seen.name, outcome="denied", code=error.code)
        db.session.commit()
        metrics.flow(seen.slug, error.code)
        raise
    try:
        with draining().unfinished():
            got = _exchange(seen, callback)
            finished = _settled(person, seen, *got, t0_ms=t0_ms, by=by, patience=patience)
    except AppError as error:
        raise _failed(seen, _widened(seen, error, by=by), by=by) from error
    metrics.flow(seen.slug, "done")
    return finished


def failure(caller: Caller, flow_id: str) -> ConsentFailed | None:
    """Why this person's flow failed, for a page at a clean address. None: it did not."""
    seen = ladder.by_id(flow_id)
    if seen is None or seen.user_id != caller.user_id:
        return None
    is_stuck = seen.status == "used" or (seen.status == "open" and seen.is_over)
    return ladder.late(seen) if is_stuck else ladder.failure(seen)


# -- the attempt ---------------------------------------------------------------------------------


def _take_turn(caller: Caller) -> None:
    """One begin of a person after the other, until the caller commits: each counts those before.

    A write that changes nothing locks their row, and on SQLite takes the only write lock.
    """
    mine = sa.update(User).where(User.id == caller.user_id).values(signed_in_at=User.signed_in_at)
    db.session.execute(mine, execution_options={"synchronize_session": False})


def _limit_attempts(caller: Caller, config: UsableConfig) -> None:
    """SEC-101. A success sets the count back."""
    most, now = current_app.config["OAUTH_MAX_AUTHORIZATION_ATTEMPTS"], db_now_ms()
    query = (
        sa.select(Flow.status, (Flow.created_ms + WINDOW_MS - now).label("left_ms"))
        .where(Flow.user_id == caller.user_id, Flow.oauth_config_id == config.id)
        .where(Flow.created_ms > now - WINDOW_MS)
        .order_by(Flow.created_ms.desc())
    )
    rows = db.session.execute(query).all()
    states = [row.status for row in rows]
    tried = states.index("done") if "done" in states else len(states)
    if 0 < most <= tried:
        raise Busy("too_many_attempts", retry_after=rows[most - 1].left_ms // 1000 + 1)


def _pinned(gateway: Usable, config: UsableConfig) -> Flow:
    """What callback and exchange go by, whatever is changed meanwhile (SEC-011)."""
    spec, now = config.spec, db_now_ms()
    life_ms = current_app.config["OAUTH_STATE_EXPIRY"] * 1000
    return Flow(
        oauth_config_id=config.id,
        config_version=config.version,
        created_ms=now,
        expires_ms=now + life_ms,
        issuer=spec.issuer,
        iss_required=config.found is not None and config.found.names_itself,
        authorization_url=spec.authorization_url,
        token_url=spec.token_url,
        redirect_uri=registration.redirect_uri(spec, gateway.slug),
        registration_id=config.registration_id,
        registration_generation=registration.generation(config.registration_id),
        resource=registration.resource_of(spec, gateway.url),
        audience=spec.audience,
    )


# -- the exchange --------------------------------------------------------------------------------


def _exchange(seen: ladder.Row, callback: Callback) -> tuple[TokenSet, Registration]:
    """Raises ConsentFailed and ProviderError. The account's name comes with it, if one is told."""
    spec = _spec(seen)
    code = ladder.code_in(seen, callback, spec.reply.errors)
    client, verifier = _client(seen), _secrets(seen)["verifier"]
    db.session.rollback()  # only reads so far; no transaction waits for somebody else's server
    with metrics.token_request(seen.oauth_config_id, "authorization_code"):
        token_set = client.exchange(code, verifier=verifier, resource=seen.resource)
    if token_set.account_label is None and spec.stores:
        token_set = replace(token_set, account_label=client.account(token_set.access_token))
    return token_set, client.registration


def _drop(seen: ladder.Row, token_set: TokenSet, us: Registration) -> None:
    """What is kept nowhere is ended where it came from, as whom it was asked for. Commits."""
    db.session.rollback()
    if us.spec.stores:
        gateway = (seen.gateway_id, seen.name)
        revocation.drop_unkept(
            token_set, us, flow_id=seen.id, user_id=seen.user_id, gateway=gateway
        )


def _settled(  # noqa: PLR0913  # what came, for whom, and as whom it was asked for
    caller: Caller,
    seen: ladder.Row,
    token_set: TokenSet,
    us: Registration,
    *,
    t0_ms: int,
    by: Actor,
    patience: float,
) -> Finished:
    """Again while the database is away, or records nothing: nobody gives these tokens twice."""
    give_up = time.monotonic() + patience
    while True:
        try:
            return _settle(caller, seen, token_set, t0_ms=t0_ms, by=by)
        except NotRecorded as error:
            db.session.rollback()
            if time.monotonic() > give_up:  # to revoke it would have to be recorded, too
                raise ConsentFailed("consent_not_kept", host=_host(seen)) from error
        except AppError:  # an edit came between, or there is no room any more
            _drop(seen, token_set, us)
            raise
        except AWAY:
            db.session.rollback()
            if time.monotonic() > give_up:
                raise
        time.sleep(0.2)


def _settle(
    caller: Caller, seen: ladder.Row, token_set: TokenSet, *, t0_ms: int, by: Actor
) -> Finished:
    """Keep the tokens, or hand them on; the flow is done. Commits. Raises what keep() does."""
    spec = _spec(seen)
    # An edit of the gateway is seen below, or waits for us (SEC-034).
    keeping.queue_at(seen.gateway_id, seen.user_id)
    done = sa.update(Flow).where(Flow.id == seen.id).values(status="done")
    db.session.execute(done)  # a write first: SQLite then waits for its write lock
    config = db.session.get(OAuthConfig, seen.oauth_config_id)
    flow = db.session.get(Flow, seen.id)
    if config is None or flow is None or config.config_version != seen.config_version:
        raise ConsentFailed("config_changed")  # while we asked
    lost: tuple[str, ...] = ()
    if spec.stores:
        before = keeping.granted(config.id, caller.owner_key)
        kept = keeping.keep(caller, seen.gateway_id, config, flow, token_set, t0_ms=t0_ms, by=by)
        lost = tuple(scope for scope in before if scope not in kept.scopes_granted)
    db.session.execute(asking.end_rest(seen.registration_id))
    narrowed = _narrowed(seen, spec, token_set)
    said: dict[str, Any] = {"kept": spec.stores, "narrowed": len(narrowed)}
    if seen.target is not None:
        said |= {"target": seen.target, "scopes": seen.scopes_requested, "lost": list(lost)}
    _record(by, "consent.finished", seen.id, seen.name, **said)
    db.session.commit()
    return Finished(
        slug=seen.slug,
        gateway_name=seen.name,
        purpose=seen.purpose,
        return_to=seen.return_to,
        config_id=seen.oauth_config_id,
        parked_call_id=seen.parked_call_id,
        account_label=token_set.account_label,
        narrowed=narrowed,
        lost=lost,
        tokens=None if spec.stores else token_set,
    )


def _narrowed(seen: ladder.Row, spec: OAuthConfigSpec, token_set: TokenSet) -> tuple[str, ...]:
    """Who gives a refresh token rarely lists offline_access among the scopes."""
    if token_set.scopes is None:
        return ()
    offline = spec.offline.scopes if spec.offline is not None else []
    given = {*token_set.scopes, *offline}
    return tuple(scope for scope in seen.scopes_requested if scope not in given)


def _widened(seen: ladder.Row, error: AppError, *, by: Actor) -> AppError:
    """A client of our own making may not ask for all of it yet: it is changed, once an hour
    (oauth.md 2.4). Commits, and asks the provider.
    """
    if error.code != "scope_rejected" or seen.registration_id is None:
        return error
    db.session.rollback()
    lately = (Flow.oauth_config_id == seen.oauth_config_id, Flow.error_code == "client_widened")
    query = sa.select(Flow.id).where(*lately, Flow.created_ms > db_now_ms() - HOUR_MS)
    with db.engine.connect() as link:
        was_tried = link.execute(query.limit(1)).first() is not None
    if was_tried or not registering.widen(seen.registration_id, seen.scopes_requested, by=by):
        return error
    return ConsentFailed("client_widened", said=error.said)


def _failed(seen: ladder.Row, error: AppError, *, by: Actor) -> ConsentFailed:
    """Write down why, for the page at the clean address. Commits."""
    db.session.rollback()
    metrics.flow(seen.slug, error.code)
    facts = {"redirect": seen.redirect_uri} | error.facts | {"gateway": seen.slug}
    told = {"error_code": error.code, "error_text": error.said, "error_facts": facts}
    change = sa.update(Flow).where(Flow.id == seen.id).values(status="failed", **told)
    db.session.execute(change)
    outcome = "denied" if error.code == "access_denied" else "failed"
    _record(by, "consent.refused", seen.id, seen.name, outcome=outcome, code=error.code)
    try:
        db.session.commit()
    except NotRecorded:  # which is in the log; the person is told all the same
        db.session.rollback()
        db.session.execute(change)
        db.session.commit()
    return ladder.known(seen, ConsentFailed(error.code, said=error.said, **facts))


def _host(seen: ladder.Row) -> str:
    """Of the provider, as the stop-over page named it."""
    url: str = seen.authorization_url
    return urlsplit(url).netloc


def _spec(seen: ladder.Row) -> OAuthConfigSpec:
    return spec_of(seen.settings, seen.discovered)


def _client(seen: ladder.Row) -> OAuthClient:
    return registration.client_for(
        seen.registration_id,
        _spec(seen),
        authorization_url=seen.authorization_url,
        token_url=seen.token_url,
        redirect_uri=seen.redirect_uri,
        config_id=seen.oauth_config_id,
    )


def _secrets(seen: ladder.Row) -> dict[str, str]:
    """State and PKCE verifier. Raises Unsealable."""
    where = Where("flow", seen.id, "secrets_sealed", f"user:{seen.user_id}")
    opened: dict[str, str] = json.loads(box().open(seen.secrets_sealed, where=where))
    return opened


def _record(by: Actor, action: str, flow_id: str, name: str, **details: Any) -> None:
    audit.record(by, action, Subject("flow", flow_id, name), **details)
