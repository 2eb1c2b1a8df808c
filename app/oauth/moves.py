"""Whether what is published now may be followed without an admin (oauth.md 2.3, 2.5). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..edits import origin
from ..errors import Conflict
from .discovered import Discovered
from .metadata import ENDPOINTS


@dataclass(frozen=True, slots=True)
class Stop:
    """Why an admin has to look; whether a button is enough, or the set-up has to be edited."""

    code: str
    facts: Mapping[str, str]
    can_confirm: bool = True


def waiting(awaits: Mapping[str, Any]) -> Conflict:
    """What `OAuthConfig.awaits` says, to be raised or shown."""
    return Conflict(awaits["code"], **awaits["facts"])


def judge(
    old: Discovered | None, new: Discovered, *, pin: str | None, typed_for: str | None
) -> Stop | None:
    """None: it can be followed. `pin`: the issuer that an admin typed; `typed_for`: the one that a
    client was typed for by hand.

    A new issuer gets a new client and nothing of the old one, so it may be followed. What is held
    for an issuer must not move without a word, not even within it.
    """
    if pin is not None:
        if old is not None and pin in old.servers and new.servers and pin not in new.servers:
            return Stop("issuer_changed", {"was": pin, "now": new.servers[0]}, False)
    elif typed_for not in (None, new.issuer):
        return Stop("issuer_changed", {"was": str(typed_for), "now": new.issuer})
    if old is None or old.issuer != new.issuer:
        return None
    if old.names_itself and not new.names_itself:
        return Stop("iss_withdrawn", {"issuer": new.issuer})
    return _moved(old, new)


def _moved(old: Discovered, new: Discovered) -> Stop | None:
    """Of one issuer: an endpoint where none was before (SEC-021)."""
    before = {name: getattr(old, name) for name in ENDPOINTS}
    known = {origin(url) for url in (old.issuer, *before.values())}
    for name, was in before.items():
        now = getattr(new, name)
        if now is not None and origin(now) not in (known if was is None else {origin(was)}):
            facts = {"what": name.replace("_", " "), "was": was or "no address", "now": now}
            return Stop("endpoint_moved", facts)
    return None
