"""How an MCP server answers somebody without a token (oauth.md 2.1, mcp.md E5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import strict_json
from ..errors import UpstreamError
from ..mcp import wire
from . import challenge as challenges
from .challenge import Challenge
from .fetching import BUSY, ENDPOINT, STREAM, Answer, Fetching, host
from .places import Refused

TURNED_AWAY = (401, 403)
_JSON = {"Content-Type": "application/json", "Accept": f"application/json, {STREAM}"}


@dataclass(frozen=True, slots=True)
class Door:
    """How the server answers somebody without a token."""

    is_open: bool
    era: str | None
    status: int = 200
    challenge: Challenge | None = None

    @classmethod
    def of(cls, answer: Answer, era: str) -> Door:
        """Of one that understood us, or turned us away."""
        if answer.status in TURNED_AWAY:
            return cls(False, None, answer.status, challenges.parse(answer.challenges))
        return cls(True, era)

    @property
    def scopes(self) -> tuple[str, ...]:
        return self.challenge.scopes if self.challenge is not None else ()


def knock(fetching: Fetching, url: str) -> Door:
    """A request of the newest era, then of those before, until one is understood (mcp.md E5).

    Raises UpstreamError for an outage.
    """
    raw, more = wire.request(1, "server/discover", {}, is_modern=True)
    answer = _call(fetching, url, "POST", raw, _JSON | more)
    if answer.status in TURNED_AWAY or wire.is_modern_answer(answer.status, _message(answer)):
        return Door.of(answer, "modern")
    said = {"protocolVersion": wire.NEWEST_LEGACY, "capabilities": {}, "clientInfo": wire.OURS}
    raw, _ = wire.request(2, "initialize", said, is_modern=False)
    answer = _call(fetching, url, "POST", raw, _JSON)
    if answer.status in TURNED_AWAY or _message(answer):
        return Door.of(answer, "legacy")
    if answer.status in (400, 404, 405):
        answer = _call(fetching, url, "GET", None, {"Accept": STREAM})
        if answer.status in TURNED_AWAY or answer.body.startswith(ENDPOINT):
            return Door.of(answer, "sse")
    return Door(False, None, answer.status)


def _call(
    fetching: Fetching, url: str, method: str, body: bytes | None, headers: Mapping[str, str]
) -> Answer:
    answer = fetching.ask(method, url, body, headers)
    if 300 <= answer.status < 400:
        there = f"It redirects to {answer.headers.get('Location')}."
        raise Refused("redirected", host=host(url), hint=there)
    if answer.status >= 500 or answer.status in BUSY:
        raise UpstreamError("upstream_error")
    return answer


def _message(answer: Answer) -> Mapping[str, Any]:
    """The JSON-RPC answer that a body is; empty: it is none."""
    try:
        read = strict_json.loads(answer.body)
    except strict_json.BadJSON:
        return {}
    is_answer = isinstance(read, dict) and ("result" in read or "error" in read)
    return read if is_answer and read.get("jsonrpc") == "2.0" else {}
