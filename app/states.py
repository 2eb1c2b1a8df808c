"""The states of a connection (oauth.md 6.2): which may follow which, and what people read. Pure.

Their names are the same in UI, API, metrics and JSON-RPC error data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LIVING = ("active", "refreshing", "failing")  # whose grant we may use
OVER = ("needs_reauth", "revoked", "orphaned")  # that may lose their tokens to make room


@dataclass(frozen=True, slots=True)
class State:
    """`kind` is the badge's. `line` is said where the reason says nothing better."""

    kind: str
    word: str
    line: str
    reasons: Mapping[str, str]
    follows: tuple[str, ...]  # the states it may come from; "" is: no row

    def why(self, reason: str | None) -> str:
        """To the person whose connection it is."""
        return self.reasons.get(reason or "", self.line)


_ANY = ("", *LIVING, *OVER)
STATES: Mapping[str, State] = {
    "pending": State(  # of a person without a connection; no row is in it
        *("draft", "Sign-in not finished", "You began to connect and did not come back yet."),
        reasons={},
        follows=(),
    ),
    "active": State(  # new tokens, from anywhere: a consent; `access_lost` is over
        *("ok", "Connected", ""),
        reasons={},
        follows=_ANY,
    ),
    "refreshing": State(
        *("ok", "Connected", ""),
        reasons={},
        follows=LIVING,  # again: its holder died, and the lease is over
    ),
    "failing": State(
        *("bad", "Not working", "The provider does not answer. We try again by ourselves."),
        reasons={},
        follows=("refreshing", "failing"),
    ),
    "needs_reauth": State(
        *("warn", "Reconnect needed", "Your sign-in has ended."),
        reasons={
            "grant_ended": "The provider ended your sign-in.",
            "restored": "This server was put back to an older state, without your last sign-in.",
            "interaction_required": "The provider wants you to sign in again.",
            "expired": "Your sign-in ran out.",
            "refused_by_server": "The server no longer takes your sign-in.",
            "secret_unreadable": "What was stored of your sign-in cannot be read any more.",
        },
        follows=LIVING,
    ),
    "revoked": State(
        *("draft", "Disconnected", "You ended this connection."),
        reasons={"by_admin": "An admin ended this connection."},
        follows=tuple(one for one in _ANY if one not in ("", "revoked")),
    ),
    "orphaned": State(
        *("warn", "Set-up changed, connect again", "An admin changed this gateway."),
        reasons={
            "gateway_changed": "An admin changed this gateway, so your old sign-in was put away.",
            "issuer_changed": "This gateway moved to another sign-in provider.",
            "client_gone": "The provider no longer knows this server's app.",
            "access_lost": "Your access was taken away for a while.",
        },
        follows=(*LIVING, "needs_reauth", "orphaned"),
    ),
}


def may_follow(before: str, after: str) -> bool:
    """`before`: "" for no row yet."""
    return before in STATES[after].follows


def badge(state: str, reason: str | None = None) -> tuple[str, str]:
    """Kind and word, for lists."""
    if reason == "access_lost":
        return "off", "Put away"  # an account was disabled: nobody has to connect again
    return STATES[state].kind, STATES[state].word
