"""What we hand out and take back: session ids and request states. Sealed, so nothing is stored.

A handle opens for the person and the gateway it was made for, on any node; for anybody else it is
as if it had never been. It is no credential: who asks is known before a handle is looked at.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from ..access import Caller, Usable
from ..errors import Unsealable
from ..secretbox import Bound, Facts, UnknownKey, box
from . import wire

SESSION_LIFE_S = 365 * 86_400  # S6: as good as none, as clients stay broken after a 404
STATE_LIFE_S = 600  # as long as what waits for the consent
ROUNDS = 3  # how often one call asks to open its link (C7)
_MARK = "mg1."  # what every handle begins with


@dataclass(frozen=True, slots=True)
class Session:
    """A legacy session. Attached: it carries a session of the upstream (S2)."""

    version: str
    is_attached: bool = False
    upstream_id: str | None = None  # a server may have none
    takes_urls: bool = False  # the client declared elicitation.url
    config_id: str = ""
    consent_gen: int = 0
    place: int = 0  # of the upstream's address

    def at(self, gateway: Usable) -> Session:
        """Attached only to what it was attached to: the same account at the same address (S4)."""
        same = (self.config_id, self.consent_gen, self.place) == _account(gateway)
        return self if same or not self.is_attached else replace(self, is_attached=False)


def attached(
    gateway: Usable, *, version: str, upstream_id: str | None, takes_urls: bool
) -> Session:
    return Session(version, True, upstream_id, takes_urls, *_account(gateway))


def seal_session(caller: Caller, gateway: Usable, session: Session) -> str:
    facts: Facts = {
        **{"v": session.version, "a": session.is_attached, "u": session.upstream_id},
        **{"e": session.takes_urls, "c": session.config_id, "g": session.consent_gen},
        **{"p": session.place},
    }
    bound = _bound("mcp-session", caller, gateway)
    return box().seal_handle(facts, bound=bound, life_s=SESSION_LIFE_S)


def open_session(caller: Caller, gateway: Usable, handle: str) -> Session | None:
    """None: altered, over, somebody else's or of another gateway, all alike (SEC-043)."""
    try:
        facts = box().open_handle(handle, bound=_bound("mcp-session", caller, gateway))
    except Unsealable:
        return None
    upstream_id = facts["u"]
    return Session(
        version=str(facts["v"]),
        is_attached=bool(facts["a"]),
        upstream_id=None if upstream_id is None else str(upstream_id),
        takes_urls=bool(facts["e"]),
        config_id=str(facts["c"]),
        consent_gen=int(facts["g"] or 0),
        place=int(facts["p"] or 0),
    ).at(gateway)


def _account(gateway: Usable) -> tuple[str, int, int]:
    config_id = gateway.config.id if gateway.config else ""
    return config_id, gateway.consent_gen, zlib.crc32(gateway.url.encode())


# -- request states -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """What a retry brings back (C9): which call it is of, and how often it was asked."""

    digest: str
    round: int


def seal_state(caller: Caller, gateway: Usable, state: State) -> str:
    facts: Facts = {"d": state.digest, "r": state.round}
    bound = _bound("request-state", caller, gateway)
    return box().seal_handle(facts, bound=bound, life_s=STATE_LIFE_S)


def open_state(caller: Caller, gateway: Usable, call: wire.Call, digest: str) -> State | None:
    """None: not ours, so it is the upstream's. Raises WireError for one of ours that is not good.

    A state under a key we never had is that of another gateway behind this one.
    """
    said = call.params.get("requestState")
    if not isinstance(said, str) or not said.startswith(_MARK):
        return None
    try:
        facts = box().open_handle(said, bound=_bound("request-state", caller, gateway))
    except UnknownKey:
        return None
    except Unsealable as error:
        raise wire.bad_params("This requestState is not good here.", call) from error
    if facts["d"] != digest:
        raise wire.bad_params("This requestState belongs to another call.", call)
    return State(digest, int(facts["r"] or 0))


def _bound(purpose: str, caller: Caller, gateway: Usable) -> Bound:
    return Bound(purpose, caller.user_id, gateway.id)
