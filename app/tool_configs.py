"""Further OAuth configs of a gateway: for some of its tools, other scopes or another client.

What is left out is as the gateway's default says. Without a client of its own one uses that of the
default, and then its endpoints, too: a secret goes only where it was typed for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import aftermath, audit, edits, gateways, specs
from .aftermath import PLACES, has_own_client
from .audit import Actor, Subject
from .db import db, utcnow
from .errors import Invalid
from .models import Gateway, OAuthConfig
from .oauth.registration import callback_uri
from .specs import SET, OAuthConfigSpec
from .tool_specs import ToolConfigSpec

FIELD = "tool_oauth_configs"
MOST = 20
_SECRETS = ("client_secret", "client_private_key")
_OF_NONE = ("scopes", "trusts_shared_callback")  # what a further config says for itself


def further(gateway: Gateway) -> list[OAuthConfig]:
    """In the order in which they are tried."""
    rows = [config for config in gateway.oauth_configs if not config.is_default]
    return sorted(rows, key=lambda row: (row.position, row.name))


def records(gateway: Gateway) -> list[dict[str, Any]]:
    """As the JSON API shows them to admins; secrets say "set" or null."""
    return [_record(config) for config in further(gateway)]


def whole(gateway: Gateway) -> dict[str, Any]:
    """The gateway's record, with its further configs if it has any."""
    shown = gateways.record(gateway)
    return shown | ({FIELD: records(gateway)} if further(gateway) else {})


def replace(gateway: Gateway, given: Any, *, by: Actor) -> None:
    """These, by name and in this order, instead of what is there. The caller commits.

    A secret that is not named stays, null removes it, and it has to be typed again where it would
    go somewhere else. Connections of what is left out are ended, here and at their provider.
    Raises Invalid, and Conflict if another edit came between.
    """
    plans = _planned(gateway, given)
    kept = [plan.held for plan in plans]
    if kept == further(gateway) and not any(plan.fields for plan in plans):
        return
    gateways.claim(gateway)
    for config in further(gateway):
        if config not in kept:
            aftermath.remove(gateway, config)
            _note(by, "tool_config.removed", gateway, config.name)
    for at, plan in enumerate(plans, start=1):
        _write(gateway, plan, at, by=by)
    db.session.flush()


def signed_out_by(gateway: Gateway, given: Any) -> int:
    """How many people's sign-ins `replace` would end. Changes nothing. Raises Invalid."""
    plans = _planned(gateway, given)
    kept = [plan.held for plan in plans if plan.held is not None and not plan.edit.signs_out]
    return sum(aftermath.living_of(one) for one in further(gateway) if one not in kept)


def _planned(gateway: Gateway, given: Any) -> list[Plan]:
    default, entries = gateway.oauth_config, _entries(given)
    if not entries:
        return []
    if default is None or gateway.auth_type != "oauth":
        raise Invalid({FIELD: "Only a gateway with OAuth can have further OAuth configs."})
    return _plans(gateway, default, entries)


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one: of a new one nothing is `held`."""

    held: OAuthConfig | None
    spec: ToolConfigSpec
    edit: edits.Edit
    default: OAuthConfig
    shares: bool  # the default's client

    @property
    def patterns(self) -> list[dict[str, str]]:
        return [one.model_dump() for one in self.spec.tool_patterns]

    @property
    def fields(self) -> list[str]:
        """What changes."""
        if self.held is None:
            return ["name"]
        is_new = self.held.tool_patterns != self.patterns
        return [*self.edit.fields, *(["tool_patterns"] if is_new else [])]


def _plans(gateway: Gateway, default: OAuthConfig, entries: list[Mapping[str, Any]]) -> list[Plan]:
    before = {config.name: config for config in further(gateway)}
    plans, wrong = list[Plan](), _twice(entries)
    for at, entry in enumerate(entries):
        try:
            plans.append(_read(gateway, default, before.get(str(entry.get("name"))), entry))
        except Invalid as error:
            wrong |= {f"{FIELD}.{at}.{path}": text for path, text in error.fields.items()}
    if wrong:
        raise Invalid(wrong)
    return plans


def _entries(given: Any) -> list[Mapping[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise Invalid({FIELD: "This must be a list of objects."})
    if len(given) > MOST:
        raise Invalid({FIELD: f"These are too many: at most {MOST}."})
    return given


def _twice(entries: list[Mapping[str, Any]]) -> dict[str, str]:
    names = [entry.get("name") for entry in entries]
    return {
        f"{FIELD}.{at}.name": "Another one has this name. Choose a name of its own."
        for at, name in enumerate(names)
        if name in names[:at] or name == "default"
    }


def _read(
    gateway: Gateway, default: OAuthConfig, held: OAuthConfig | None, entry: Mapping[str, Any]
) -> Plan:
    data = {name: value for name, value in entry.items() if value is not None}
    shares = not data.get("client_id")
    if shares:
        data |= _of_default(default, data)
    elif held is not None and has_own_client(held):
        kept = _kept(held)
        gone = {name: None for name in kept if name in entry and entry[name] is None}
        data = {**kept, **{k: v for k, v in data.items() if not _is_blank(k, v)}, **gone}
    is_elsewhere = data.get("token_url") not in (None, "", default.settings.get("token_url"))
    inherited = {k: v for k, v in default.settings.items() if k not in _OF_NONE and v is not None}
    if is_elsewhere:
        inherited = {"grant_type": default.grant_type}
    data = inherited | {k: v for k, v in data.items() if not (k in PLACES and v == "")}
    spec = specs.read(ToolConfigSpec, data, finds_out=shares)
    if spec.redirect_uri not in (None, callback_uri(), callback_uri(gateway.slug)):
        raise Invalid({"redirect_uri": f"Use {callback_uri()}."})
    edit = edits.between(
        _as_gateway(gateway, _plain(held)) if held is not None else {},
        _as_gateway(gateway, specs.plain(spec)),
    )
    asks = {path.removeprefix("oauth_config."): text for path, text in edit.asks.items()}
    if asks and not shares:
        raise Invalid(asks)
    return Plan(held, spec, edit, default, shares)


def _is_blank(name: str, value: Any) -> bool:
    return name in _SECRETS and value in ("", SET)


def _of_default(default: OAuthConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    """The gateway's client. Raises Invalid for a secret of another, or another place."""
    wrong = {
        name: "Enter the client ID that this secret belongs to."
        for name in _SECRETS
        if data.get(name) not in (None, "", SET)
    }
    wrong |= {
        name: "This is another place than the gateway's. Enter a client ID that is known there."
        for name in PLACES
        if data.get(name) not in (None, "", default.settings.get(name))
    }
    if wrong:
        raise Invalid(wrong)
    client = default.registration
    if client is None:
        return {}
    found = {"client_id": client.client_id}
    found |= {"client_secret": SET} if client.client_secret_sealed else {}
    return found | ({"client_private_key": SET} if client.private_key_sealed else {})


def _kept(config: OAuthConfig) -> dict[str, Any]:
    client = config.registration
    return {name: SET for name in _SECRETS if client and getattr(client, _COLUMN[name])}


_COLUMN = {"client_secret": "client_secret_sealed", "client_private_key": "private_key_sealed"}


def _as_gateway(gateway: Gateway, config: Mapping[str, Any]) -> dict[str, Any]:
    """As `edits` compares them."""
    of_config = {k: v for k, v in config.items() if k not in ("name", "tool_patterns")}
    return {"auth_type": "oauth", "url": gateway.url, "oauth_config": of_config}


def _plain(config: OAuthConfig) -> dict[str, Any]:
    """With the client that it uses, its own or not."""
    shown, client = dict(config.settings), config.registration
    shown["trusts_shared_callback"] = config.trusts_shared_callback
    if client is not None:
        shown["client_id"] = client.client_id
        shown |= {name: SET for name in _SECRETS if getattr(client, _COLUMN[name])}
    return shown


def _record(config: OAuthConfig) -> dict[str, Any]:
    spec, client = OAuthConfigSpec.model_validate(config.settings), config.registration
    shown = {"name": config.name, "tool_patterns": config.tool_patterns} | spec.settings()
    shown["trusts_shared_callback"] = config.trusts_shared_callback
    if client is not None and has_own_client(config):
        shown["client_id"] = client.client_id
        for name in _SECRETS:
            shown[name] = SET if getattr(client, _COLUMN[name]) else None
    else:
        shown["client_id"] = None
        shown |= dict.fromkeys(PLACES)
    return shown


def _write(gateway: Gateway, plan: Plan, position: int, *, by: Actor) -> None:
    config, spec, default = plan.held, plan.spec, plan.default
    if config is None:
        config = OAuthConfig(is_default=False, config_version=1, name=spec.name)
        gateway.oauth_configs.append(config)
        _note(by, "tool_config.added", gateway, spec.name)
    else:
        aftermath.settle_one(gateway, config, plan.edit, by=by)
        if plan.fields:
            _note(by, "tool_config.changed", gateway, spec.name, fields=plan.fields)
    config.position, config.tool_patterns = position, plan.patterns
    config.settings, config.grant_type = spec.settings(), spec.grant_type
    config.issuer, config.token_url = spec.issuer, spec.token_url
    config.trusts_shared_callback = spec.trusts_shared_callback
    config.updated_at = utcnow()
    if plan.shares:
        config.registration = default.registration
        aftermath.follow(gateway)
        return
    if not has_own_client(config):
        config.registration = None  # which is the default's
    if config.token_url == default.settings.get("token_url"):
        config.discovered = default.discovered
    config.registration = gateways.client_of(config, spec, spec.redirect_uri or callback_uri())


def _note(by: Actor, action: str, gateway: Gateway, name: str, **details: Any) -> None:
    subject = Subject("gateway", gateway.id, gateway.name)
    audit.record(by, action, subject, config=name, **details)
