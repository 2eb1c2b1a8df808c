"""Messages of both eras: what a request is, whether we can take it, what we answer. Pure.

Rule numbers (E1, N3 …) are those of the protocol page. The received bytes stay beside what was read
from them: they are what goes up, so nothing is lost or changed by reading.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .. import strict_json
from ..errors import WireError
from ..strict_json import BadJSON
from .jsonrpc import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MISSING_CAPABILITY,
    NO_METHOD,
    PARSE_ERROR,
    WRONG_VERSION,
    Id,
    dumps,
)

MODERN = "2026-07-28"
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
ASSUMED = "2025-03-26"  # E4: neither a version header nor a session
NEWEST_LEGACY = "2025-11-25"
OURS = {"name": "mcp-gateway", "version": "0.1.0"}

META = "io.modelcontextprotocol/"
VERSION, CAPABILITIES = f"{META}protocolVersion", f"{META}clientCapabilities"
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}  # in Mcp-Name
LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
# N6: of older revisions, so no modern server has them.
REMOVED = {
    *("initialize", "ping", "logging/setLevel"),
    *("resources/subscribe", "resources/unsubscribe"),
}
_MODERN_REFUSALS = (HEADER_MISMATCH, MISSING_CAPABILITY, WRONG_VERSION)
_WRAPPED = re.compile(r"=\?base64\?(.*)\?=")
_PLAIN = re.compile(r"[\x20-\x7e]*")
_VISIBLE = re.compile(r"[\x21-\x7e]{1,2048}")  # S7: of an upstream's session id


class Headers(Protocol):
    """Names ignore case."""

    def get(self, name: str, /) -> str | None: ...
    def keys(self) -> Iterable[str]: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to an MCP endpoint. GET and DELETE have no message."""

    verb: str
    is_modern: bool
    version: str | None  # as the header said
    headers: Mapping[str, str] = field(repr=False)  # those that go up as they came
    session: str | None = None  # the handle shown to us, still sealed
    raw: bytes = field(default=b"", repr=False)
    message: Mapping[str, Any] = field(default_factory=dict, repr=False)
    id: Id | None = None  # None: a notification, or the answer to a server's request
    method: str | None = None  # None: the answer to a server's request
    request_id: str = ""  # ours, for people to quote

    @property
    def params(self) -> Mapping[str, Any]:
        given: Mapping[str, Any] = self.message.get("params") or {}
        return given

    @property
    def target(self) -> str | None:
        """The tool, prompt or resource that is meant."""
        named = self.params.get(NAMED_BY.get(self.method or "", ""))
        return named if isinstance(named, str) else None

    @property
    def meta(self) -> Mapping[str, Any]:
        given = self.params.get("_meta")
        return given if isinstance(given, dict) else {}


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    chunks: Iterable[bytes]
    # For the log, as the status says nothing: "ok" from the upstream, "own", or of errors.yaml.
    code: str = "own"


def read(verb: str, headers: Headers, body: bytes, *, request_id: str = "") -> Call:
    """Raises WireError with the number and status the protocol has for what is wrong."""
    version = _header(headers, "MCP-Protocol-Version")
    is_modern = version is not None and version not in LEGACY  # E1, E2
    up = {} if version is None else {"MCP-Protocol-Version": version}
    session = headers.get("Mcp-Session-Id")
    if verb != "POST":
        last = _header(headers, "Last-Event-ID")
        up |= {} if last is None else {"Last-Event-ID": last}
        return Call(verb, is_modern, version, up, session, request_id=request_id)
    message, call_id, method = _message(body)
    params = message.get("params")
    if params is not None and not isinstance(params, dict):
        raise WireError("params must be an object.", number=INVALID_PARAMS, call_id=call_id)
    meta = (params or {}).get("_meta")
    if meta is not None and not isinstance(meta, dict):
        raise WireError("_meta must be an object.", number=INVALID_PARAMS, call_id=call_id)
    if is_modern and call_id is not None:
        _climb(headers, version or "", message, call_id)
        up["Mcp-Method"] = message["method"]
        up |= _mirrored(headers, method)
    elif not is_modern and VERSION in (meta or ()):  # E3
        raise _mismatch("MCP-Protocol-Version", call_id)
    elif is_modern and method is None:
        raise WireError("No answers are expected here.", number=INVALID_REQUEST)  # N1
    return Call(
        verb, is_modern, version, up, session, body, message, call_id, method, request_id=request_id
    )


def _header(headers: Headers, name: str) -> str | None:
    """Trimmed; one that could not be sent on counts as absent (SEC-040)."""
    value = headers.get(name)
    if value is None:
        return None
    value = value.strip(" \t")
    return value if _PLAIN.fullmatch(value) else None


def _message(body: bytes) -> tuple[dict[str, Any], Id | None, str | None]:
    """The JSON-RPC object, its id and method. Ids are compared by type: 0 is one, true is none."""
    try:
        message = strict_json.loads(body)
    except BadJSON as error:
        raise WireError(str(error), number=PARSE_ERROR) from error
    if not isinstance(message, dict):
        raise WireError("Send one JSON-RPC message, not a batch.", number=INVALID_REQUEST)
    call_id, method = message.get("id"), message.get("method")
    has_id = "id" in message
    if message.get("jsonrpc") != "2.0" or (has_id and type(call_id) not in (int, str)):
        raise WireError("This is no JSON-RPC 2.0 message.", number=INVALID_REQUEST)
    if isinstance(method, str):
        return message, call_id, method
    if method is None and has_id and ("result" in message or "error" in message):
        return message, None, None
    raise WireError("A message needs a method.", number=INVALID_REQUEST, call_id=call_id)


# -- the ladder of 2026-07-28 ------------------------------------------------------------


def _climb(headers: Headers, version: str, message: dict[str, Any], call_id: Id) -> None:
    """N2, N3, N4, N6. Header names ignore case, values do not."""
    method = message["method"]
    params = message.get("params") or {}
    meta = params.get("_meta")
    if not isinstance(meta, dict) or VERSION not in meta or CAPABILITIES not in meta:
        sentence = f"params._meta needs {VERSION} and {CAPABILITIES}."
        raise WireError(sentence, number=INVALID_PARAMS, call_id=call_id)
    if meta[VERSION] != version:
        raise _mismatch("MCP-Protocol-Version", call_id)
    if _header(headers, "Mcp-Method") != method:
        raise _mismatch("Mcp-Method", call_id)
    named = params.get(NAMED_BY.get(method, ""))
    if named is not None and unwrapped(headers.get("Mcp-Name")) != named:
        raise _mismatch("Mcp-Name", call_id)
    if version != MODERN:
        data = {"supported": [MODERN], "requested": version}
        raise WireError(
            "Unsupported protocol version", number=WRONG_VERSION, data=data, call_id=call_id
        )
    if method in REMOVED:
        raise WireError("Method not found", number=NO_METHOD, http=404, call_id=call_id)


def bad_params(sentence: str, call: Call) -> WireError:
    return WireError(sentence, number=INVALID_PARAMS, call_id=call.id)


def _mismatch(name: str, call_id: Id | None) -> WireError:
    sentence = f"{name} is missing, or differs from the body."
    return WireError(sentence, number=HEADER_MISMATCH, call_id=call_id)


def _mirrored(headers: Headers, method: str | None) -> dict[str, str]:
    """Mcp-Name and Mcp-Param-*, as they came."""
    if method not in NAMED_BY:
        return {}
    names = ["Mcp-Name"]
    if method == "tools/call":
        names += [name for name in headers.keys() if name[:10].lower() == "mcp-param-"]
    values = {name: _header(headers, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def unwrapped(value: str | None) -> str | None:
    """A header's value, out of `=?base64?…?=` if it is wrapped; None if that is undecodable."""
    if value is None:
        return None
    value = value.strip(" \t")
    found = _WRAPPED.fullmatch(value)
    if found is None:
        return value
    try:
        raw = base64.b64decode(found[1], validate=True)
        text = raw.decode()
    except (binascii.Error, ValueError):
        return None
    return text if base64.b64encode(raw).decode() == found[1] else None  # one spelling only


def wrapped(value: str) -> str:
    """The other way: as it is if a header can carry it."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _WRAPPED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def takes_urls(capabilities: Any) -> bool:
    """Whether a client can be asked to open a link; `elicitation: {}` alone means forms."""
    asks = capabilities.get("elicitation") if isinstance(capabilities, dict) else None
    return isinstance(asks, dict) and isinstance(asks.get("url"), dict)


def is_modern_answer(status: int, body: Mapping[str, Any]) -> bool:
    """Of an answer to any modern request (E5)."""
    result, problem = body.get("result"), body.get("error")
    if isinstance(result, dict):
        return "resultType" in result
    number = problem.get("code") if isinstance(problem, dict) else None
    return number in _MODERN_REFUSALS or (status == 404 and number == NO_METHOD)


def is_session_id(text: str) -> bool:
    return _VISIBLE.fullmatch(text) is not None


# -- requests of our own ------------------------------------------------------------


def request(
    call_id: Id, method: str, params: Mapping[str, Any], *, is_modern: bool
) -> tuple[bytes, dict[str, str]]:
    """A request of our own, and the headers that belong to it (N19)."""
    if is_modern:
        meta = {VERSION: MODERN, f"{META}clientInfo": OURS, CAPABILITIES: {}}
        params = {**params, "_meta": {**(params.get("_meta") or {}), **meta}}
    body = {"jsonrpc": "2.0", "id": call_id, "method": method} | (
        {"params": params} if params else {}
    )
    return dumps(body), modern_headers(method, params) if is_modern else {}


def modern_headers(method: str, params: Mapping[str, Any]) -> dict[str, str]:
    named = params.get(NAMED_BY.get(method, ""))
    name = {"Mcp-Name": wrapped(named)} if isinstance(named, str) else {}
    return {"MCP-Protocol-Version": MODERN, "Mcp-Method": method} | name


def without_era(params: Mapping[str, Any], drop: Sequence[str] = ()) -> dict[str, Any]:
    """Without what belongs to 2026-07-28 alone (B4), and without these members."""
    left = {name: value for name, value in params.items() if name not in drop}
    meta = left.pop("_meta", None)
    kept = {k: v for k, v in (meta or {}).items() if not k.startswith(META)}
    return left | ({"_meta": kept} if kept else {})
