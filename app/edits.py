"""What an edit of a gateway means: for its secrets, and for the people who are connected.

The table of oauth.md 8.3 as a comparison of two records (gateways.record, specs.plain). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from .oauth.discovered import PUBLISHED_AS, Discovered
from .specs import BLOCKS, GIVEN, SET

Flat = dict[str, Any]  # a dotted path to a value; None is left out
_PORTS = {"https": 443, "http": 80}
_OAUTH = "oauth_config."
_TIMING = (  # neither what a token is good for nor where it comes from
    f"{_OAUTH}trusts_shared_callback",
    f"{_OAUTH}revocation_ends_all",
    *(f"{_OAUTH}template", f"{_OAUTH}template_version"),
    *(
        f"{_OAUTH}token_management.{name}"
        for name in ("auto_refresh", "refresh_threshold_seconds", "keep_alive")
    ),
)
_SECRETS = {"bearer_token", "basic.password", "client_key"} | {
    f"{_OAUTH}{name}" for name in ("client_secret", "client_private_key")
}
_CREDENTIAL = (f"{_OAUTH}client_secret", f"{_OAUTH}token_endpoint_auth_method")
_WHERE_SENT = (  # secrets and tokens
    *("issuer", "token_url", "refresh_url", "revocation_url", "userinfo_url"),
    *("client_id", "grant_type"),
)
_OF_TOKENS = ("url", "client_cert_pem")
_MADE_FOR = ("issuer", "client_id", "grant_type", "resource", "audience")


@dataclass(frozen=True, slots=True)
class Edit:
    """`fields`: paths that change, secrets by name only. `asks`: secrets to be typed first."""

    fields: tuple[str, ...]
    asks: Mapping[str, str]
    leaves_oauth: bool  # the OAuth config goes, and all connections with it
    detaches: bool  # stored tokens were made for something else, or by somebody else
    stops_storing: bool
    stops_renewing: bool
    mends_client: bool  # what failed for a wrong secret is tried again at once
    outdates: bool  # flows under way end, shared tokens are fetched anew

    @property
    def signs_out(self) -> bool:
        return self.leaves_oauth or self.detaches or self.stops_storing


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Edit:
    """`before` is the record of the gateway, {} for a new one; `after` is `specs.plain`."""
    before = {name: value for name, value in before.items() if name not in GIVEN}
    old, new = dict(_flat(before)), dict(_flat(after))
    new = {path: value for path, value in new.items() if value or path in old}  # "" over nothing
    for path in old:
        block = BLOCKS.get(path.partition(".")[0], after["auth_type"])
        if path in _SECRETS and block == after["auth_type"]:
            new.setdefault(path, old[path])  # not named: kept
    changed = {path for path in {*old, *new} if old.get(path) != new.get(path)} - {"slug"}
    was_oauth = old.get("auth_type") == "oauth"
    stays_oauth = was_oauth and new.get("auth_type") == "oauth"
    stored, renewed = (
        f"{_OAUTH}token_management.{name}" for name in ("store_tokens", "auto_refresh")
    )
    oauth_changed = {path for path in changed if path.startswith(_OAUTH)} - {*_TIMING}
    return Edit(
        fields=tuple(sorted(changed)),
        asks=_asks(old, new),
        leaves_oauth=was_oauth and not stays_oauth,
        detaches=stays_oauth and _is_made_for_another(old, new),
        stops_storing=stays_oauth and bool(old.get(stored)) and not new.get(stored),
        stops_renewing=stays_oauth and bool(old.get(renewed)) and not new.get(renewed),
        mends_client=stays_oauth and not changed.isdisjoint(_CREDENTIAL),
        # A token may be bound to the certificate it was asked with (RFC 8705 section 3).
        outdates=stays_oauth and bool(oauth_changed or not changed.isdisjoint(_OF_TOKENS)),
    )


def working(record: Mapping[str, Any], found: Discovered | None) -> Mapping[str, Any]:
    """A record with what was found where an admin said nothing: what secrets and tokens meet."""
    if found is None or "oauth_config" not in record:
        return record
    config = dict(record["oauth_config"])
    for ours, theirs in PUBLISHED_AS.items():
        if config.get(ours) is None:
            config[ours] = getattr(found, theirs)
    if config.get("resource", "auto") == "auto" and found.resource is not None:
        config["resource"] = found.resource
    return {**record, "oauth_config": config}


def both(said: Edit, works: Edit) -> Edit:
    """What changes of what is said, and what that does to what works."""
    return replace(works, fields=tuple(sorted({*said.fields, *works.fields})))


def origin(url: str | None) -> tuple[str, str, int | None] | None:
    """Scheme, host and port, in one spelling."""
    if not url:
        return None
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def origin_text(url: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(url)).lower()


def _asks(old: Flat, new: Flat) -> dict[str, str]:
    """The secrets that would go somewhere else than where they were typed for (SEC-059)."""
    server_moved = origin(old.get("url")) != origin(new.get("url"))
    moved = server_moved or any(
        old.get(_OAUTH + name) != new.get(_OAUTH + name) for name in _WHERE_SENT
    )
    asks = {}
    for path, mark in new.items():
        if mark != SET or not (path in _SECRETS or path.startswith("headers.")):
            continue
        if path not in old:
            asks[path] = "Enter it: nothing is stored here yet."
        elif path == "client_key":
            asks |= {path: "You changed where it is used. Paste it again."} if moved else {}
        elif moved if path.startswith(_OAUTH) else server_moved:
            asks[path] = "You changed where the secret is sent. Enter it again."
    return asks


def _is_made_for_another(old: Flat, new: Flat) -> bool:
    def places(flat: Flat) -> list[Any]:
        token_url = flat.get(f"{_OAUTH}token_url")
        refresh_url = flat.get(f"{_OAUTH}refresh_url", token_url)
        urls = (flat.get("url"), token_url, refresh_url)
        return [*map(origin, urls), *(flat.get(_OAUTH + name) for name in _MADE_FOR)]

    return places(old) != places(new)


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _flat(one, f"{path}{name}.")
        elif one is not None:
            yield f"{path}{name}", one
