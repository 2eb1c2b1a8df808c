"""The only source of what is put on an upstream request (oauth.md sections 4 and 7).

Plaintext lives in a Credential, for as long as one call; stored tokens are opened anew each time.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from flask import current_app

from ..access import Caller, Seen, Usable, UsableConfig
from ..errors import Conflict, ConnectionNeeded, NotFound, ProviderError, Unsealable
from ..secretbox import Where, box
from . import asking, lease, rediscovery, refresh, row
from .freshness import Need, Timing, timing_of
from .replies import TokenSet

log = logging.getLogger(__name__)

AT_ONCE = 8  # unstored token requests in flight, per token endpoint and process


@dataclass(frozen=True, slots=True)
class Credential:
    """What goes on an upstream request, for this call only.

    `is_renewable`: after a 401, credential() may find another; give it `token_gen` as `after`. Of
    a token that is in no row it is 0.
    """

    headers: Mapping[str, str] = field(repr=False)
    token_gen: int | None = None
    is_renewable: bool = False


def credential(
    caller: Caller,
    gateway: Usable,
    target: str | None = None,
    *,
    after: int | None = None,
    timing: Timing | None = None,
) -> Credential:
    """What this caller may show the MCP server: alive, and renewed if need be.

    `target` is the tool, resource or prompt, which may come to have an OAuth config of its own;
    `after` the token_gen that the server answered 401 to: it may have moved to another provider,
    which is looked at first. Raises ConnectionNeeded, TokenRefused, ProviderError, Conflict,
    Unsealable for an admin's secret. Call it with no transaction open.

    A fresh stored token costs no query. Renewing commits: a provider may void the old refresh
    token as it hands out a new one (RFC 6749 section 6).
    """
    if gateway.owner_key not in ("shared", caller.owner_key):  # what was read for somebody else
        raise NotFound("gateway_not_found", gateway=gateway.slug)
    config = gateway.config
    if config is None:
        return Credential(_fixed(gateway))
    if after is not None:
        rediscovery.after_refusal(config)
    if not config.spec.stores:
        return _unstored(gateway, config)
    need, seen = Need(config, timing or timing_of(config), after), gateway.connection
    if seen is None or not (need.is_fresh(seen) or (need.lives(seen) and not need.can_renew(seen))):
        seen = refresh.renew(gateway, after=after, timing=timing)
    try:
        return _opened(seen)
    except Unsealable:
        return _after_unreadable(gateway, config, seen, timing)


def from_tokens(token_set: TokenSet) -> Credential:
    """For one operation; the tokens are in no row (README, promise 4)."""
    return Credential(_bearer(token_set.access_token))


def _fixed(gateway: Usable) -> dict[str, str]:
    """What an admin typed. Raises Unsealable."""
    if gateway.auth_type == "none":
        return {}
    if gateway.auth_type == "oauth":
        raise Conflict("client_needed")
    where = Where("gateway", gateway.id, "credentials_sealed", f"gateway:{gateway.id}")
    secret = box().open(gateway.credentials_sealed or "", where=where)
    if gateway.auth_type == "basic":  # RFC 7617
        pair = base64.b64encode(f"{gateway.username}:{secret}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    if gateway.auth_type == "headers":
        headers: dict[str, str] = json.loads(secret)
        return headers
    return _bearer(secret)


def _unstored(gateway: Usable, config: UsableConfig) -> Credential:
    """Storage off, the default. A person has to consent each time; a client can ask by itself."""
    if not config.is_shared:
        raise row.needed(gateway, None)
    turn = _turns(config.spec.token_url or config.id)
    if not turn.acquire(timeout=current_app.config["OAUTH_REQUEST_TIMEOUT"]):
        raise ProviderError(
            "provider_unreachable", kind="unsent", retry_after=1, gateway=gateway.slug
        )
    try:
        tokens = asking.ask_provider(asking.of_config(gateway, config))
    finally:
        turn.release()
    return Credential(_bearer(tokens.access_token), 0, is_renewable=True)


def _opened(seen: Seen) -> Credential:
    where = Where("connection", seen.id, "access_token_sealed", seen.owner_key)
    token = box().open(seen.access_token_sealed or "", where=where)
    return Credential(_bearer(token), seen.token_gen, is_renewable=True)


def _after_unreadable(
    gateway: Usable, config: UsableConfig, seen: Seen, timing: Timing | None
) -> Credential:
    """One stored token does not open (SEC-079, SEC-084). A client fetches another by itself."""
    if not config.is_shared:
        lease.end(seen, "secret_unreadable")
        raise ConnectionNeeded(
            gateway=gateway.slug,
            name=gateway.name,
            state="needs_reauth",
            reason="secret_unreadable",
        )
    log.error("the token of connection %s does not open: wrong key, or altered", seen.id)
    return _opened(refresh.renew(gateway, after=seen.token_gen, timing=timing))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


_waiting: weakref.WeakValueDictionary[str, threading.BoundedSemaphore] = (
    weakref.WeakValueDictionary()
)
_waiting_guard = threading.Lock()


def _turns(endpoint: str) -> threading.BoundedSemaphore:
    with _waiting_guard:
        return _waiting.setdefault(endpoint, threading.BoundedSemaphore(AT_ONCE))
