"""The registry: gateways as admins describe them, and what an edit does to those who use them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload

from . import aftermath, audit, edits, trust
from .audit import Actor, Subject
from .db import db, db_now_ms, utcnow
from .errors import AppError, Conflict, Invalid, NotFound
from .models import ClientRegistration, Gateway, OAuthConfig
from .oauth import sharing, signing, templates
from .oauth.discovered import PUBLISHED_AS, Discovered, contradiction, needs_metadata, spec_of
from .oauth.registration import callback_uri
from .secretbox import box, cell
from .specs import ENTER, SET, GatewaySpec, OAuthConfigSpec, plain, slug_of, typed


def find(slug: str, *, seen: datetime | None = None) -> Gateway:
    """For admins: a gateway that is off is found, too. Raises NotFound.

    `seen`: its `updated_at` as an edit of it was judged by. Raises Conflict if it is another now.
    """
    gateway = db.session.scalar(sa.select(Gateway).filter_by(slug=slug))
    if gateway is None:
        raise NotFound("gateway_not_found", gateway=slug[:100])
    if seen is not None and gateway.updated_at != seen:
        raise Conflict
    return gateway


def everything() -> list[Gateway]:
    """For admins: those that are off, too. By name, with all that `record` reads."""
    whole = selectinload(Gateway.oauth_configs).joinedload(OAuthConfig.registration)
    query = sa.select(Gateway).options(whole).order_by(Gateway.name, Gateway.slug)
    return list(db.session.scalars(query))


def create(spec: GatewaySpec, *, by: Actor, found: Discovered | None = None) -> Gateway:
    """`found`: what its URL said of how people sign in. Raises Invalid."""
    slug = spec.slug or slug_of(spec.name)
    edit = edits.between({}, plain(spec))
    wrong = trust.problems(None, spec, edit.fields) | dict(edit.asks)
    wrong |= _redirect_problem(spec, slug) | lacks(spec, found)
    if not slug:
        wrong["slug"] = "No slug can be made from this name. Choose one."
    if wrong:
        raise Invalid(wrong)
    gateway = Gateway(slug=slug)
    _write(gateway, spec, found)
    db.session.add(gateway)
    try:
        db.session.flush()
    except IntegrityError as error:  # the one thing that must be unique, seen also in a race
        db.session.rollback()
        field = "slug" if spec.slug else "name"
        sentence = f"There is already a gateway with the slug {slug}. Choose another {field}."
        raise Invalid({field: sentence}) from error
    _record(by, "gateway.created", gateway)
    return gateway


def update(
    gateway: Gateway, spec: GatewaySpec, *, by: Actor, found: Discovered | None = None
) -> int:
    """How many people are signed out by it. A secret that is not named stays.

    `found`: what its URL says now; None: nobody asked, so what was found stays while it fits.
    Raises Invalid, also where a secret must be typed again. Saving without a change does nothing.
    """
    wrong = problems(gateway, spec, found)
    if wrong:
        raise Invalid(wrong)
    found = known(gateway, spec, found)
    edit = _edit(gateway, spec, found)
    if not edit.fields:
        _now_known(gateway)
        return 0
    claim(gateway)
    signed_out = aftermath.settle(gateway, edit, by=by)
    _write(gateway, spec, found)
    aftermath.follow(gateway)
    db.session.flush()
    fields = list(edit.fields)
    _record(by, "gateway.updated", gateway, fields=fields, signed_out=signed_out)
    return signed_out


def claim(gateway: Gateway) -> None:
    """From here no other edit and no consent comes between. Raises Conflict if one did already.

    What an edit means was judged by the row as it was read.
    """
    g = Gateway
    unchanged = sa.and_(g.id == gateway.id, g.updated_at == gateway.updated_at)
    claim = sa.update(g).where(unchanged).values(updated_at=utcnow()).returning(g.id)
    if db.session.scalar(claim) is None:
        raise Conflict


def problems(
    gateway: Gateway, spec: GatewaySpec, found: Discovered | None = None
) -> dict[str, str]:
    """What stands against `update`: a path to a sentence. Changes nothing."""
    found = known(gateway, spec, found)
    edit = _edit(gateway, spec, found)
    wrong = trust.problems(gateway, spec, edit.fields) | dict(edit.asks)
    wrong |= _redirect_problem(spec, gateway.slug) | lacks(spec, found)
    if spec.slug not in (None, gateway.slug):
        wrong["slug"] = f"The slug stays {gateway.slug}, as AI clients call it by that."
    return wrong


def signed_out_by(gateway: Gateway, spec: GatewaySpec, found: Discovered | None = None) -> int:
    """How many people would have to connect again after `update`. Changes nothing."""
    edit = _edit(gateway, spec, known(gateway, spec, found))
    return aftermath.living(gateway) if edit.signs_out else 0


def known(
    gateway: Gateway, spec: GatewaySpec, found: Discovered | None = None
) -> Discovered | None:
    """What is known of its sign-in after an edit: `found`, else what was, if it is about the same.

    Whom an admin typed otherwise is another provider: what was found is nothing of theirs.
    """
    config, wanted = gateway.oauth_config, spec.oauth_config
    if wanted is None:
        return None
    if found is None and config is not None and is_asked_alike(gateway, spec):
        found = Discovered.of(config.discovered)
    if found is None or (contradiction(wanted, found) and not needs_metadata(wanted)):
        return None
    return found


def is_asked_alike(gateway: Gateway, spec: GatewaySpec) -> bool:
    """Whether its URL would be asked the same again."""
    config, wanted = gateway.oauth_config, spec.oauth_config
    if config is None or wanted is None or gateway.url != spec.url:
        return False
    names = ("grant_type", "issuer", "pkce")
    return all(config.settings[name] == getattr(wanted, name) for name in names)


def lacks(spec: GatewaySpec, found: Discovered | None) -> dict[str, str]:
    """What an admin has to say, as nobody publishes it: a path to a sentence."""
    wanted = spec.oauth_config
    if wanted is None:
        return {}
    field = contradiction(wanted, found) if found is not None else None
    if field is not None and needs_metadata(wanted):
        published = getattr(found, PUBLISHED_AS[field]) or "none"
        sentence = f"The provider publishes {published}. Leave this empty, or type all of them."
        return {f"oauth_config.{field}": sentence}
    wrong = {}
    if found is None and needs_metadata(wanted):
        names = ("authorization_url", "token_url")
        needed = names if wanted.grant_type == "authorization_code" else names[1:]
        wrong = {name: ENTER[name] for name in needed if getattr(wanted, name) is None}
    if wanted.client_id is None and not registers_us(wanted, found):
        wrong["client_id"] = ENTER["client_id"]
    return {f"oauth_config.{name}": sentence for name, sentence in wrong.items()}


def registers_us(config: OAuthConfigSpec, found: Discovered | None) -> bool:
    """Whether its provider makes a client for us by itself."""
    if found is None or config.grant_type != "authorization_code":
        return False
    is_public = str(current_app.config["PUBLIC_URL"]).startswith("https://")
    return bool(found.registration_endpoint) or (found.takes_documents and is_public)


def warnings(gateway: Gateway) -> list[str]:
    """What keeps people from signing in though all of it is valid. Of what is committed."""
    config = gateway.oauth_config
    names = sharing.waits_for(config.id) if config is not None else []
    drift = _drift(config) if config is not None else []
    if not names:
        return drift
    others = ", ".join(names)
    sentence = (
        f"Nobody can sign in yet: its provider answers at the same redirect URI as that of {others}"
        f", and neither names itself. Use {callback_uri(gateway.slug)}, or say that you trust both."
    )
    return [*drift, sentence]


def _drift(config: OAuthConfig) -> list[str]:
    """A client typed by hand knows the redirect URI of the day it was saved (redirect_drift)."""
    client, today = config.registration, config.settings.get("redirect_uri") or callback_uri()
    if client is None or client.kind != "manual" or config.grant_type != "authorization_code":
        return []
    if client.redirect_uri == today:
        return []
    return [
        f"The redirect URI has changed since this was saved: it was {client.redirect_uri}. "
        f"Add exactly {today} at the provider, then save this gateway again."
    ]


def _now_known(gateway: Gateway) -> None:
    """Who saves again what has drifted says that the provider knows today's redirect URI."""
    config = gateway.oauth_config
    if config is not None and config.registration is not None and _drift(config):
        config.registration.redirect_uri = config.settings.get("redirect_uri") or callback_uri()


def switch(gateway: Gateway, on: bool, *, by: Actor) -> None:
    """An off gateway is to everyone as if it were not there; connections stay for its return."""
    if gateway.is_enabled != on:
        gateway.is_enabled, gateway.updated_at = on, utcnow()
        _record(by, "gateway.switched_on" if on else "gateway.switched_off", gateway)


def delete(gateway: Gateway, *, by: Actor) -> None:
    """With its OAuth configs, connections, tokens and secrets."""
    claim(gateway)
    _record(by, "gateway.deleted", gateway, **asdict(aftermath.goes(gateway)))
    for config in list(gateway.oauth_configs):
        aftermath.remove(gateway, config)
    db.session.delete(gateway)
    db.session.flush()


def record(gateway: Gateway) -> dict[str, Any]:
    """As the JSON API shows it to admins: complete, but for secrets, which say "set" or null."""
    shown: dict[str, Any] = {
        "id": gateway.id,
        "slug": gateway.slug,
        "name": gateway.name,
        "description": gateway.description,
        "url": gateway.url,
        "transport": gateway.transport,
        "auth_type": gateway.auth_type,
        "enabled": gateway.is_enabled,
        "timeout_s": gateway.timeout_s,
        **trust.record(gateway),
        "mcp_url": mcp_url(gateway.slug),
        "found": None,
        "created_at": f"{gateway.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "updated_at": f"{gateway.updated_at:%Y-%m-%dT%H:%M:%SZ}",
    }
    is_set = _set(gateway.credentials_sealed)
    if gateway.auth_type == "basic":
        shown["basic"] = {"username": gateway.username, "password": is_set}
    elif gateway.auth_type == "bearer":
        shown["bearer_token"] = is_set
    elif gateway.auth_type == "headers":
        shown["headers"] = dict.fromkeys(gateway.header_names, is_set)
    elif gateway.oauth_config is not None:
        shown["oauth_config"] = _config_record(gateway.oauth_config)
        shown["found"] = _found_record(gateway.oauth_config)
    return shown


def _config_record(config: OAuthConfig) -> dict[str, Any]:
    spec, client = OAuthConfigSpec.model_validate(config.settings), config.registration
    shown = spec.settings() | {"redirect_uri": spec.redirect_uri or callback_uri()}
    shown["trusts_shared_callback"] = config.trusts_shared_callback
    if config.template is not None:
        shown |= {"template": config.template, "template_version": config.template_version}
    if client is not None and client.kind == "manual":  # another is not the admin's to say
        shown["client_id"] = client.client_id
        shown["client_secret"] = _set(client.client_secret_sealed)
        shown["client_private_key"] = _set(client.private_key_sealed)
    return shown


def _found_record(config: OAuthConfig) -> dict[str, Any] | None:
    """How it works, where an admin left that to what is published. None: all of it was typed."""
    found, client = Discovered.of(config.discovered), config.registration
    if found is None:
        return None
    works = spec_of(config.settings, config.discovered)
    names = (*PUBLISHED_AS, "scopes")
    shown = {name: getattr(works, name) for name in names}
    shown["scopes_offered"] = list(found.scopes_offered or ()) or None
    shown["resource"] = found.resource
    shown["client"] = {"kind": client.kind, "client_id": client.client_id} if client else None
    return shown


def _set(sealed: str | None) -> str | None:
    return SET if sealed else None


def mcp_url(slug: str) -> str:
    """What AI clients call."""
    return f"{current_app.config['PUBLIC_URL']}/mcp/{slug}"


def _record(by: Actor, action: str, gateway: Gateway, **details: Any) -> None:
    audit.record(by, action, Subject("gateway", gateway.id, gateway.name), **details)


def _edit(gateway: Gateway, spec: GatewaySpec, found: Discovered | None) -> edits.Edit:
    """`found`: what is known after it."""
    before, after = record(gateway), plain(spec)
    if spec.oauth_config is not None:
        after["oauth_config"]["redirect_uri"] = spec.oauth_config.redirect_uri or callback_uri()
    config = gateway.oauth_config
    old = Discovered.of(config.discovered) if config is not None else None
    said = edits.between(before, after)
    works = edits.between(edits.working(before, old), edits.working(after, found))
    return edits.both(said, works)


def _redirect_problem(spec: GatewaySpec, slug: str) -> dict[str, str]:
    sentence = templates.problem(spec.oauth_config.template) if spec.oauth_config else None
    if sentence is not None:
        return {"oauth_config.template": sentence}
    asked = spec.oauth_config and spec.oauth_config.redirect_uri
    if asked in (None, callback_uri(), callback_uri(slug)):
        return {}
    error = AppError("redirect_foreign", redirect=callback_uri())
    return {"oauth_config.redirect_uri": f"{error.message}. {error.action}"}


# -- writing ------------------------------------------------------------------------------------


def _write(gateway: Gateway, spec: GatewaySpec, found: Discovered | None) -> None:
    gateway.credentials_sealed = _credentials(gateway, spec)  # first: it reads the old header names
    gateway.name, gateway.description = spec.name, spec.description
    if gateway.url not in (None, spec.url):  # how the server before it fared says nothing
        gateway.worked_ms = gateway.failed_ms = gateway.failed_code = None
    gateway.url, gateway.transport = spec.url, spec.transport
    gateway.auth_type = spec.auth_type
    gateway.username = spec.basic.username if spec.basic else None
    gateway.header_names = list(spec.headers or ())
    gateway.is_enabled, gateway.timeout_s = spec.enabled, spec.timeout_s
    trust.write(gateway, spec)
    if spec.oauth_config is not None:
        _write_config(gateway, spec.oauth_config, found)


def _credentials(gateway: Gateway, spec: GatewaySpec) -> str | None:
    """Sealed: what was typed, or what is there already. `edits` saw to it that one of them is."""
    if spec.auth_type == "basic" and spec.basic is not None:
        new = typed(spec.basic.password)
    elif spec.auth_type == "bearer":
        new = typed(spec.bearer_token)
    elif spec.auth_type == "headers":
        new = _header_values(gateway, spec)
    else:
        return None
    if new is None:
        return gateway.credentials_sealed
    return box().seal(new, where=cell(gateway, "credentials_sealed"))


def _header_values(gateway: Gateway, spec: GatewaySpec) -> str | None:
    """A JSON object of all values; None if there is nothing new to seal."""
    given = {name: typed(secret) for name, secret in (spec.headers or {}).items()}
    kept = [name for name, value in given.items() if value is None]
    if kept == gateway.header_names == list(given):
        return None
    stored: dict[str, str] = {}
    if kept and gateway.credentials_sealed:
        where = cell(gateway, "credentials_sealed")
        stored = json.loads(box().open(gateway.credentials_sealed, where=where))
    return json.dumps({name: value or stored[name] for name, value in given.items()})


def _write_config(gateway: Gateway, spec: OAuthConfigSpec, found: Discovered | None) -> None:
    config = gateway.oauth_config
    if config is None:
        config = OAuthConfig(is_default=True, config_version=1)
        gateway.oauth_configs.append(config)
    redirect = spec.redirect_uri or callback_uri()
    own = None if redirect == callback_uri() else redirect  # null follows PUBLIC_URL
    before = sharing.of(config) if config.settings else None
    config.settings = spec.settings() | {"redirect_uri": own}
    if found != Discovered.of(config.discovered):  # what waited for an admin is of an old answer
        config.discovered, config.awaits = (found.as_json() if found else None), None
        config.asked_ms = found.fetched_ms if found else 0
    works = spec_of(config.settings, config.discovered)
    config.grant_type, config.issuer, config.token_url = (
        works.grant_type,
        works.issuer,
        works.token_url,
    )
    trusted, config.trusts_shared_callback = (
        config.trusts_shared_callback,
        spec.trusts_shared_callback,
    )
    if sharing.of(config) != before:  # another provider, or another path: it comes last there
        config.callback_since_ms = db_now_ms()
        if trusted:
            config.trusts_shared_callback = False  # that was meant for the one before
    config.template, config.template_version = spec.template, spec.template_version
    config.updated_at = utcnow()
    config.registration = _client(config, spec, redirect)


def _client(config: OAuthConfig, spec: OAuthConfigSpec, redirect: str) -> ClientRegistration | None:
    """Typed by hand; else the one that its provider made for us, as long as it is the same."""
    held = config.registration
    if spec.client_id is not None:
        return client_of(config, spec, redirect)
    if held is not None and held.kind == "manual":  # flows and connections may still name it
        held.state, held.client_secret_sealed, held.private_key_sealed = "retired", None, None
        return None
    return held if held is not None and held.issuer == config.issuer else None


def client_of(config: OAuthConfig, spec: OAuthConfigSpec, redirect: str) -> ClientRegistration:
    """The client typed by hand. It belongs to this config, and to the issuer it was typed for."""
    client_id = spec.client_id or ""
    held = config.registration
    if held is None or held.kind != "manual":
        held = ClientRegistration(
            kind="manual", oauth_config_id=config.id, generation=1, client_id=client_id
        )
    if held.client_id != client_id:
        held.client_id, held.generation = client_id, held.generation + 1
    held.issuer = config.issuer or "static:" + edits.origin_text(config.token_url or "")
    held.redirect_uri = redirect
    method, secret = spec.token_endpoint_auth_method, typed(spec.client_secret)
    if secret is not None or held.auth_method != method:  # what made it back off may be mended
        held.state, held.not_before_ms, held.last_error_code = "active", 0, None
    held.auth_method = method
    if secret is not None:
        where = cell(held, "client_secret_sealed")
        held.client_secret_sealed, held.secret_set_at = box().seal(secret, where=where), utcnow()
    elif "client_secret" in spec.model_fields_set and spec.client_secret is None:
        held.client_secret_sealed = held.secret_set_at = None
    _write_key(held, spec)
    return held


def _write_key(held: ClientRegistration, spec: OAuthConfigSpec) -> None:
    """What assertions are signed with. Raises Invalid: the key that stays cannot sign so."""
    key = typed(spec.client_private_key)
    if key is not None:
        key = signing.generate(spec.assertion_alg) if key == signing.GENERATE else key
        held.private_key_sealed = box().seal(key, where=cell(held, "private_key_sealed"))
        held.public_jwk = signing.public_jwk(key, spec.assertion_alg)
        held.key_id = held.public_jwk["kid"]
    elif "client_private_key" in spec.model_fields_set and spec.client_private_key is None:
        held.private_key_sealed = held.public_jwk = held.key_id = None
    elif held.public_jwk is not None and held.public_jwk["alg"] != spec.assertion_alg:
        stored = box().open(held.private_key_sealed or "", where=cell(held, "private_key_sealed"))
        try:
            signing.check(stored, spec.assertion_alg)
        except signing.Unsuitable as error:
            raise Invalid({"oauth_config.assertion_alg": str(error)}) from None
        held.public_jwk = signing.public_jwk(stored, spec.assertion_alg)
