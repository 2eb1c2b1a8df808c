"""One request of ours and its answer, as an admin may see them: secrets are hidden. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

HIDDEN = "[hidden]"
TASTE = 200  # characters of a body
SHOWN = (  # of an answer's headers
    *("content-type", "www-authenticate", "location", "date", "retry-after", "mcp-session-id"),
)
_SAFE_HEADERS = (  # of a request's; what is not named here is hidden
    *("accept", "accept-encoding", "content-type", "content-length", "user-agent", "host"),
    *("mcp-protocol-version", "mcp-method", "mcp-name", "connection"),
)
_SAFE_MEMBERS = (  # of a form or a reply of OAuth; what is not named here is hidden
    *("grant_type", "client_id", "redirect_uri", "scope", "resource", "audience"),
    *("token_type", "expires_in", "error", "error_description", "error_uri"),
    *("client_assertion_type", "token_endpoint_auth_method"),
)
_LONG = re.compile(r"[A-Za-z0-9+/_=.~-]{24,}")  # what may be a secret inside a text
_SECRET = re.compile(  # a member of JSON that holds one, whole or cut off
    r'"([a-z_]*(?:token|secret|assertion|password|verifier|ticket)|code|cookie)"'
    r'\s*:\s*"(?:[^"\\]|\\.)*"?',
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Exchange:
    """`sent` and `got` are text to show, escaped by whoever draws it."""

    method: str
    url: str
    status: int | None  # None: no answer came
    took_ms: int
    sent: str = ""  # headers and form, with secrets hidden
    got: str = ""  # headers that matter, and the first 200 characters of the body
    code: str | None = None  # of errors.yaml, where it failed

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        """What another release wrote beside it is left out."""
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in kept.items() if name in names})


def address(url: str) -> str:
    """Without a query, where providers and servers keep keys, and without a user name."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}" + (f"?{HIDDEN}" if parts.query else "")


def headers_sent(headers: Mapping[str, str]) -> str:
    return "\n".join(
        f"{name}: {_printable(value) if name.lower() in _SAFE_HEADERS else HIDDEN}"
        for name, value in headers.items()
    )


def headers_got(headers: Mapping[str, str]) -> str:
    """Those that tell something. A session's id opens it, so only that there is one is told."""
    told = [(name, value) for name, value in headers.items() if name.lower() in SHOWN]
    return "\n".join(
        f"{name}: {HIDDEN if name.lower() == 'mcp-session-id' else _printable(value)[:500]}"
        for name, value in told
    )


def form(body: str) -> str:
    """A token request's body, a form or JSON."""
    return "&".join(f"{name}={value}" for name, value in _members(body))


def reply(body: bytes) -> str:
    """A token endpoint's answer: a token is never shown, whatever surrounds it."""
    text = body.decode(errors="replace")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return taste(text)
    if not isinstance(said, dict):
        return HIDDEN
    safe = {name: _value(name, value) for name, value in list(said.items())[:50]}
    return json.dumps(safe, ensure_ascii=False)[: 5 * TASTE]


def taste(text: str) -> str:
    """The start of another body. What is long and without spaces might be a secret."""
    return _LONG.sub(HIDDEN, masked(_printable(text)))[:TASTE]


def masked(text: str) -> str:
    """JSON, or the start of it, without what goes by the name of a secret."""
    return _SECRET.sub(rf'"\1": "{HIDDEN}"', text)


def _members(body: str) -> list[tuple[str, str]]:
    if body.startswith("{"):
        try:
            pairs = [(str(name), value) for name, value in json.loads(body).items()]
        except ValueError:
            return [("body", HIDDEN)]
    else:
        pairs = [(name, value) for name, value in parse_qsl(body, keep_blank_values=True)]
    return [(_printable(name)[:100], str(_value(name, value))) for name, value in pairs]


def _value(name: str, value: Any) -> Any:
    if name not in _SAFE_MEMBERS:
        return HIDDEN
    if isinstance(value, str):
        return _printable(value)[:300]
    return value if isinstance(value, int | float | bool) or value is None else HIDDEN


def _printable(text: str) -> str:
    return _CONTROL.sub(" ", text)
