"""A gateway from the URL of its server: what is found out fills in what nobody typed (oauth.md 2).

For the form, the JSON API and the command line alike. No transaction is open while servers are
asked, and nothing here writes to the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from . import gateways, specs, trust
from .db import db
from .errors import AppError, Conflict, Invalid
from .models import Gateway
from .oauth import discovery
from .oauth.discovered import Discovered, needs_metadata
from .oauth.discovery import DiscoveryFailed, Found
from .oauth.fetching import host
from .specs import BLOCKS, ENTER, GatewaySpec, OAuthConfigSpec, TokenManagement
from .trust import Trust

CODE = {"grant_type": "authorization_code"}
KEEPING = {"token_management": {"store_tokens": True, "auto_refresh": True}}  # for people's forms
OUTSIDE = (  # the server was not met at all, so the URL is what has to be looked at
    *("dns_failed", "connect_failed", "tls_failed", "blocked_address", "redirected", "timeout"),
    *("upstream_error", "upstream_bad_answer", "upstream_timeout", "upstream_unreachable"),
)
_PLAIN = ("mcp", "www", "api", "server")  # labels of a host that say nothing of whose it is


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is known of a server from its URL alone. Plain values, and no secret."""

    url: str
    record: Mapping[str, Any]  # as the JSON API takes it
    said: tuple[str, ...]  # sentences for an admin
    provider: str | None = None  # the host that people are sent to
    registers: bool = False  # it makes a client for us by itself
    problem: AppError | None = None
    found: Discovered | None = field(default=None, repr=False)

    @property
    def is_met(self) -> bool:
        """Whether something there answered as an MCP server might."""
        return self.problem is None or self.problem.code not in OUTSIDE


def propose(url: str, *, seconds: float = 10.0) -> Proposal:
    """Ask the server at `url`. A failure is a Proposal, too. Raises Invalid for what is no URL."""
    spec = specs.read(GatewaySpec, {"name": name_of(url), "url": url, "auth_type": "none"})
    record: dict[str, Any] = {"name": spec.name, "url": spec.url}
    try:
        met = _look(spec.url, trust=None, config=None, seconds=seconds)
    except DiscoveryFailed as error:
        oauth = {"auth_type": "oauth", "oauth_config": CODE | KEEPING}
        return Proposal(spec.url, record | oauth, (), problem=error)
    if met.discovered is None:
        said = (f"{host(spec.url)} needs no sign-in.",)
        return Proposal(spec.url, record | {"auth_type": "none"}, said)
    record |= {"auth_type": "oauth", "oauth_config": CODE | KEEPING}
    config = OAuthConfigSpec.model_validate(CODE)
    return Proposal(
        spec.url,
        record,
        _said(met),
        provider=provider_of(met.discovered),
        registers=gateways.registers_us(config, met.discovered),
        found=met.discovered,
    )


def read(data: Mapping[str, Any], *, notices: list[str]) -> tuple[GatewaySpec, Discovered | None]:
    """A new gateway's record, completed from its URL where it leaves open how people sign in.

    What was found is said in `notices`. Raises Invalid, DiscoveryFailed, Conflict (client_needed).
    Ends the transaction.
    """
    whole = dict(data)
    if isinstance(whole.get("url"), str):
        whole.setdefault("name", name_of(whole["url"]))
    if "auth_type" not in whole and not {*BLOCKS} & {*whole}:
        return _of_url(whole, notices)
    if whole.get("auth_type") == "oauth":
        config = whole.get("oauth_config")
        whole["oauth_config"] = (
            {**CODE, **config} if isinstance(config, Mapping) else config or CODE
        )
    spec = specs.read(GatewaySpec, whole, notices=notices, finds_out=True)
    return spec, complete(spec, notices=notices)


def complete(
    spec: GatewaySpec, *, notices: list[str], gateway: Gateway | None = None
) -> Discovered | None:
    """What `spec` leaves open, asked of its URL. None: nothing is, or it is known already.

    `gateway`: the one that is edited. Raises Invalid, DiscoveryFailed, Conflict (client_needed).
    Ends the transaction, unless nobody has to be asked.
    """
    config = spec.oauth_config
    if config is None or not (needs_metadata(config) or config.client_id is None):
        return None
    if gateway is not None and gateways.known(gateway, spec) is not None:
        return None
    by_hand = not needs_metadata(config)
    at = _trust(gateway, spec)
    try:
        met = _look(spec.url, trust=at, config=config)
    except DiscoveryFailed:
        if by_hand:  # all but the client was typed, and nobody makes that
            raise Invalid({"oauth_config.client_id": ENTER["client_id"]}) from None
        raise
    found = met.discovered
    if found is None and not by_hand:
        hint = "It answered without one, and publishes nothing about it."
        raise DiscoveryFailed("no_sign_in_info", host=host(spec.url), hint=hint)
    wrong = gateways.lacks(spec, found)
    if (
        [*wrong] == ["oauth_config.client_id"]
        and not by_hand
        and config.grant_type == CODE["grant_type"]
    ):
        raise Conflict("client_needed")
    if wrong:
        raise Invalid(wrong)
    notices += _said(met)
    return found


def keeping(spec: GatewaySpec) -> GatewaySpec:
    """As people's forms offer it: who signs in stays connected."""
    config = spec.oauth_config
    if config is None or config.grant_type != CODE["grant_type"]:
        return spec
    kept = TokenManagement.model_validate(KEEPING["token_management"])
    return spec.model_copy(
        update={"oauth_config": config.model_copy(update={"token_management": kept})}
    )


def name_of(url: str) -> str:
    """What a gateway may be called, from its server's address alone."""
    parts = urlsplit(url.strip())
    try:
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    labels = [label for label in name.split(".") if label]
    if len(labels) < 2 or labels[-1].isdigit() or ":" in name:
        return f"{name}:{port}" if port else name
    known = [label for label in labels[:-1] if label not in _PLAIN] or labels[:1]
    return known[-1].replace("-", " ").capitalize()[:100]


def provider_of(found: Discovered) -> str:
    """The host that people will be sent to."""
    return host(found.authorization_endpoint or found.token_endpoint or found.issuer)


def sentence(error: AppError) -> str:
    """For a field of an admin's form."""
    return " ".join(
        f"{text}." if text[-1:].isalnum() else text
        for text in (error.message, error.cause, error.admin)
        if text
    )


def as_fields(error: AppError) -> dict[str, str]:
    """Beside the field of the form that mends it."""
    if error.code == "client_needed":
        return {"oauth_config.client_id": ENTER["client_id"]}
    if error.code in OUTSIDE:
        return {"url": sentence(error)}
    return {"oauth_config.token_url": sentence(error)}


def _of_url(whole: dict[str, Any], notices: list[str]) -> tuple[GatewaySpec, Discovered | None]:
    """A record that says nothing of signing in."""
    said: list[str] = []  # the same would be said twice
    plain = specs.read(GatewaySpec, {**whole, "auth_type": "none"}, notices=said)
    at = _trust(None, plain)
    met = _look(plain.url, trust=at, config=None)
    if met.discovered is None:
        notices += [*said, f"{host(plain.url)} needs no sign-in."]
        return plain, None
    whole = whole | {"auth_type": "oauth", "oauth_config": CODE}
    spec = specs.read(GatewaySpec, whole, notices=notices, finds_out=True)
    if gateways.lacks(spec, met.discovered):
        raise Conflict("client_needed")
    notices += _said(met)
    return spec, met.discovered


def _look(
    url: str,
    *,
    trust: Trust | None,
    config: OAuthConfigSpec | None,
    seconds: float = discovery.ALL_S,
) -> Found:
    db.session.rollback()
    if config is None:
        return discovery.look(url, trust=trust, seconds=seconds)
    return discovery.look(
        url,
        trust=trust,
        grant=config.grant_type,
        issuer=config.issuer,
        pkce=config.pkce,
        seconds=seconds,
    )


def _trust(gateway: Gateway | None, spec: GatewaySpec) -> Trust | None:
    """What its calls will trust once `spec` is saved. Raises Invalid, Unsealable."""
    names = ("ca_pem", "client_cert_pem")
    new = [name for name in names if getattr(spec, name) != getattr(gateway, name, None)]
    wrong = trust.problems(gateway, spec, new)
    if wrong:
        raise Invalid(wrong)
    stand_in = Gateway()  # of no session; a key is bound to the row it is stored in
    if gateway is not None:
        stand_in.id, stand_in.client_key_sealed = gateway.id, gateway.client_key_sealed
    trust.write(stand_in, spec)
    return trust.of(stand_in)


def _said(met: Found) -> tuple[str, ...]:
    found = met.discovered
    if found is None:
        return met.notes
    return (f"{host(met.url)} uses OAuth at {host(found.issuer)}.", *met.notes)
