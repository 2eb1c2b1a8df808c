"""How the record of a gateway stands in a form, as texts and ticks; and back from the texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wtforms import Field
from wtforms.fields.choices import SelectChoice

from ...specs import OAuthConfigSpec

AUTH_TYPES = {
    "oauth": "OAuth 2.0",
    "bearer": "Bearer token",
    "basic": "User and password",
    "headers": "Custom headers",
    "none": "None",
}
GRANTS = {
    "authorization_code": "Each person connects their own account",
    "client_credentials": "The gateway, with one shared account",
}
TRANSPORTS = {
    "auto": "Found out by itself",
    "http": "Streamable HTTP",
    "sse": "HTTP with SSE, the old one",
}
METHODS = {
    "auto": "Chosen for me",
    "basic": "In a header (client_secret_basic)",
    "post": "In the body (client_secret_post)",
    "none": "No secret (public client)",
    "private_key_jwt": "Signed with a private key (private_key_jwt)",
}
ALGORITHMS = {
    "ES256": "ES256, with an EC key on the curve P-256",
    "RS256": "RS256, with an RSA key",
    "PS256": "PS256, with an RSA key",
}
PKCE = {
    "required": "Required",
    "unadvertised": "Sent, though the provider does not mention it",
    "off": "Off: only if the provider breaks on it",
}

RARE = (  # fields of oauth.md 1.1 that few providers need: typed as JSON
    *("refresh_url", "revocation_style", "revocation_ends_all", "userinfo_url", "account_path"),
    *("scope_separator", "scope_param", "offline", "client_id_in_body"),
    *("token_request_format", "reply", "lifetime"),
)
PLAIN = (  # of oauth_config, drawn as text or a choice
    *("grant_type", "client_id", "authorization_url", "token_url", "revocation_url"),
    *("issuer", "audience", "assertion_alg", "assertion_audience"),
    *("resource", "token_endpoint_auth_method", "pkce"),
)
OFFERED: dict[str, str | bool] = {  # to a new gateway, and to one that changes its type
    "transport": "auto",
    "auth_type": "oauth",
    "grant_type": "authorization_code",
    "keep_people": True,
    "auto_refresh": True,
    "keep_shared": False,
    "token_endpoint_auth_method": "auto",
    "pkce": "required",
    "assertion_alg": "ES256",
    "assertion_audience": "issuer",
}


def choices(words: Mapping[str, str]) -> list[SelectChoice]:
    return [SelectChoice(value, word) for value, word in words.items()]


def draw(record: Mapping[str, Any], shared: str) -> dict[str, str | bool]:
    """How the form draws what is there. A field that is not in it has nothing stored."""
    if not record:
        return {}
    names = [*("name", "slug", "description", "url", "transport", "timeout_s", "auth_type")]
    names += ["ca_pem", "client_cert_pem"]
    shown: dict[str, str | bool] = {name: _text(record[name]) for name in names}
    if "basic" in record:
        shown["username"] = record["basic"]["username"]
    if "headers" in record:
        shown["headers"] = "\n".join(f"{name}:" for name in record["headers"])
    return shown | (
        _shown_oauth(record["oauth_config"], shared) if "oauth_config" in record else {}
    )


def offered(record: Mapping[str, Any], shared: str) -> dict[str, str | bool]:
    """How the form draws the start of a record: what is not said is left as it is offered."""
    names = ("name", "slug", "description", "url", "transport", "timeout_s", "auth_type")
    shown: dict[str, str | bool] = {name: _text(record[name]) for name in names if name in record}
    if "oauth_config" in record:
        given = record["oauth_config"]
        whole = OAuthConfigSpec.model_validate(given).settings()
        whole |= {"redirect_uri": shared, "trusts_shared_callback": False}
        drawn = _shown_oauth(whole | {"client_id": given.get("client_id")}, shared)
        keep = "token_management" in given
        ticks = ("keep_people", "keep_shared", "auto_refresh", "keep_alive")
        shown |= {name: value for name, value in drawn.items() if keep or name not in ticks}
    return shown


def _shown_oauth(config: Mapping[str, Any], shared: str) -> dict[str, str | bool]:
    shown: dict[str, str | bool] = {name: _text(config.get(name)) for name in PLAIN}
    management, default = config["token_management"], _DEFAULTS
    is_code = config["grant_type"] == "authorization_code"
    keeps = "keep_people" if is_code else "keep_shared"
    rare = {name: config[name] for name in RARE if config[name] != default[name]}
    shown |= {
        "scopes": " ".join(config["scopes"] or ()),
        "own_redirect": config["redirect_uri"] != shared,
        "trusts_shared_callback": config["trusts_shared_callback"],
        keeps: management["store_tokens"],
        "refresh_threshold_seconds": _text(management["refresh_threshold_seconds"]),
        "more": json.dumps(rare, indent=2, ensure_ascii=False) if rare else "",
    }
    if is_code:
        shown |= {name: management[name] for name in ("auto_refresh", "keep_alive")}
    for name in ("extra_authorize_params", "extra_token_params"):
        shown[name] = "\n".join(f"{key}={value}" for key, value in config[name].items())
    return shown


_DEFAULTS = OAuthConfigSpec(grant_type="authorization_code").settings()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def worded(field: Field, value: str | bool) -> str:
    """A value as the form says it. None of them is a secret: those are not drawn."""
    if isinstance(value, bool):
        return "ticked" if value else "not ticked"
    words = {one.value: one.label for one in getattr(field, "choices", ())}
    return words.get(value, value) or "empty"


def unify(value: Any) -> Any:
    """Browsers send CRLF, and people leave spaces."""
    return "\n".join(lines(value)) if isinstance(value, str) else value


def lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def pairs(text: str | None, sign: str, path: str, wrong: dict[str, str]) -> dict[str, str]:
    """A name and a value per line. What cannot be read is said in `wrong`."""
    pairs: dict[str, str] = {}
    for line in lines(text):
        name, found, value = (part.strip() for part in line.partition(sign))
        if not found or not name:
            example = "Name: value" if sign == ":" else "name=value"
            wrong[path] = f"Write one in each line, as {example}."
        elif name in pairs:
            wrong[path] = f"{name} stands twice."
        pairs[name] = value
    return pairs


def replacing(old: Any, new: Any) -> Any:
    """A patch that leaves only `new`: members of an object that it does not name go."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {name: replacing(old.get(name), new.get(name)) for name in {*old, *new}}
    return new
