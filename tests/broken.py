"""An MCP server and its provider, broken in twenty ways: real sockets, real TLS, real refusals.

Each way is one row of BROKEN; what is not said there works. `Setup.add` makes the gateway.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.test_checks import TOKEN, Rig
from tests.upstream import Said, Seen, says
from tests.web.registry import CODE, SHARED, add

Answer = Callable[[Rig, Seen], Said]


def refuses(error: str, status: int = 400, **more: Any) -> Answer:
    """A token endpoint that says no."""
    return lambda rig, seen: says({"error": error, **more}, status)


def status(number: int, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda rig, seen: Said(number, b"no", named)


def hangs(rig: Rig, seen: Seen) -> Said:
    """No answer to a question for a token before whoever asked has left."""
    if b"grant_type" in seen.body:
        seen.hangs_up(60)
    return Said(404)


def web_page(rig: Rig, seen: Seen) -> Said:
    return Said(200, b"<!doctype html><title>Sign in</title>", {"Content-Type": "text/html"})


def wants_more(rig: Rig, seen: Seen) -> Said:
    """It takes the token, and wants a right that nobody asked for."""
    if seen.header("Authorization") is None:
        return Said(401, headers={"WWW-Authenticate": "Bearer"})
    more = 'Bearer error="insufficient_scope", scope="write"'
    return Said(403, headers={"WWW-Authenticate": more})


def wants_a_token(rig: Rig, seen: Seen) -> Said:
    return rig.wants_token(seen)


def gives(rig: Rig, seen: Seen) -> Said:
    return says(TOKEN)


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/mcp"


@dataclass(frozen=True, kw_only=True)
class Broken:
    """`step`: where the check stops (or doubts, if `state` is "warn")."""

    e: str
    code: str
    step: int
    state: str = "bad"
    token: Answer = gives
    mcp: Answer = wants_a_token
    record: dict[str, Any] = field(default_factory=lambda: SHARED)
    oauth: dict[str, Any] = field(default_factory=dict)
    url: Callable[[], str] | None = None  # instead of the rig's
    patience_s: float | None = None  # of ours, instead of what is usual

    def set_up(self, rig: Rig) -> str:
        """The slug of the gateway."""
        rig.token = lambda seen: self.token(rig, seen)
        rig.mcp = lambda seen: self.mcp(rig, seen)
        if self.patience_s is not None:
            rig.app.config["OAUTH_REQUEST_TIMEOUT"] = self.patience_s
        if self.url is None:
            return rig.add(self.record, **self.oauth)
        return add(rig.app, {"name": "Gone", "url": self.url(), "auth_type": "none"})


BROKEN = {
    "E1 401 after OAuth": Broken(
        e="E1",
        code="token_refused_shared",
        step=6,
        mcp=status(401, WWW_Authenticate='Bearer error="invalid_token"'),
    ),
    "E2 invalid client": Broken(
        e="E2", code="client_rejected", step=4, token=refuses("invalid_client", 401)
    ),
    "E2 of a person": Broken(
        e="E2",
        code="client_rejected",
        step=4,
        record=CODE,
        token=refuses("invalid_client", 401, error_description="AADSTS7000215: wrong"),
    ),
    "E3": Broken(
        e="E3",
        code="redirect_not_registered",
        step=4,
        record=CODE,
        token=refuses("redirect_uri_mismatch"),
    ),
    "E5": Broken(e="E5", code="scope_rejected", step=4, token=refuses("invalid_scope")),
    "E5 of fewer": Broken(
        e="E5",
        code="scope_narrowed",
        step=5,
        state="warn",
        token=lambda rig, seen: says({**TOKEN, "scope": "read"}),
        oauth={"scopes": ["read", "write"]},
    ),
    "E6": Broken(e="E6", code="client_not_allowed", step=4, token=refuses("unauthorized_client")),
    "E9": Broken(e="E9", code="insufficient_scope_shared", step=6, mcp=wants_more),
    "E11 timeouts": Broken(e="E11", code="timeout", step=4, token=hangs, patience_s=1),
    "E12": Broken(
        e="E12", code="dns_failed", step=1, url=lambda: "https://no-such-host.invalid/mcp"
    ),
    "E13": Broken(e="E13", code="connect_failed", step=2, url=nobody),
    "E13 of 503": Broken(e="E13", code="provider_error", step=4, token=status(503)),
    "E17": Broken(e="E17", code="provider_busy", step=4, token=status(429, Retry_After="30")),
    "E18": Broken(e="E18", code="reply_unreadable", step=4, token=web_page),
}
