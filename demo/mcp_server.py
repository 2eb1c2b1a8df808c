"""The demo's MCP server: notes, one pad per person, for holders of the demo provider's tokens.

Streamable HTTP without sessions, for clients of both eras: 2026-07-28 (one POST for each request,
`server/discover`) and before (`initialize`). Answers are JSON, never event streams.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, current_app, request
from flask.typing import ResponseReturnValue

from .grants import Access
from .notes import Notes, Unknown

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26")
SERVER = {"name": "demo-notes", "title": "Demo notes", "version": "1.0.0"}
META = "io.modelcontextprotocol/"
CAPABILITIES: dict[str, Any] = {"tools": {}, "resources": {}, "prompts": {}}
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}  # Mcp-Name equals
LISTS = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")

Reply = dict[str, Any]
WhoIs = Callable[[str], Access | None]

bp = Blueprint("mcp", __name__)


class Fault(Exception):
    """A JSON-RPC error, and the HTTP status that it travels with."""

    def __init__(
        self, code: int, message: str, *, status: int = 400, data: object | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error: Reply = {"code": code, "message": message}
        if data is not None:
            self.error["data"] = data


def create_mcp_server(origin: str, issuer: str, who_is: WhoIs) -> Flask:
    """`who_is` tells what an access token of `issuer` stands for."""
    app = Flask(__name__)
    app.extensions["mcp"] = (origin, issuer, who_is)
    app.extensions["notes"] = Notes()
    app.register_blueprint(bp)
    return app


@bp.get("/.well-known/oauth-protected-resource/mcp")
def metadata() -> Reply:
    """RFC 9728."""
    origin, issuer, _ = current_app.extensions["mcp"]
    return {
        "resource": f"{origin}/mcp",
        "authorization_servers": [issuer],
        "scopes_supported": ["notes:read", "notes:write"],
        "bearer_methods_supported": ["header"],
        "resource_name": SERVER["title"],
    }


@bp.post("/mcp")
def mcp() -> ResponseReturnValue:
    caller = _caller()
    if caller is None:
        return _challenge()
    try:
        message = _message()
    except Fault as fault:
        return _error(None, fault)
    if "id" not in message:
        return "", 202
    try:
        result = _answer(message, caller)
    except Fault as fault:
        return _error(message["id"], fault)
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def _caller() -> Access | None:
    """Whose token this is, if it lives and was made for this very server (RFC 8707)."""
    origin, _, who_is = current_app.extensions["mcp"]
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    caller: Access | None = who_is(token) if scheme.lower() == "bearer" else None
    return caller if caller is not None and caller.audience == f"{origin}/mcp" else None


def _challenge() -> ResponseReturnValue:
    origin, _, _ = current_app.extensions["mcp"]
    where = f'resource_metadata="{origin}/.well-known/oauth-protected-resource/mcp"'
    problem = 'error="invalid_token", ' if "Authorization" in request.headers else ""
    challenge = f'Bearer {problem}{where}, scope="notes:read notes:write"'
    return {"error": "invalid_token"}, 401, {"WWW-Authenticate": challenge}


def _error(request_id: object, fault: Fault) -> ResponseReturnValue:
    return {"jsonrpc": "2.0", "id": request_id, "error": fault.error}, fault.status


def _message() -> Reply:
    try:
        message = json.loads(request.get_data())
    except (ValueError, RecursionError) as error:
        raise Fault(-32700, "This is not JSON.") from error
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        raise Fault(-32600, "One JSON-RPC request or notification, please.")
    return message


def _answer(message: Reply, caller: Access) -> Reply:
    params = message.get("params") or {}
    if not isinstance(params, dict):
        raise Fault(-32602, "params must be an object.")
    meta = params.get("_meta") or {}
    if META + "protocolVersion" in meta or request.headers.get("Mcp-Protocol-Version") == MODERN:
        return _modern(message["method"], params, meta, caller)
    return _legacy(message["method"], params, caller)


def _legacy(method: str, params: Reply, caller: Access) -> Reply:
    if method == "initialize":
        asked = params.get("protocolVersion")
        version = asked if asked in LEGACY else LEGACY[0]
        return {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": SERVER}
    if method == "ping":
        return {}
    try:
        return _operation(method, params, caller)
    except Fault as fault:
        fault.status = 200  # before 2026-07-28 an error is an answer like any other
        raise


def _modern(method: str, params: Reply, meta: Reply, caller: Access) -> Reply:
    """2026-07-28: headers and body say the same, every result says what it is."""
    _check_envelope(method, params, meta)
    if method == "server/discover":
        result: Reply = {"supportedVersions": [MODERN], "capabilities": CAPABILITIES}
    else:
        result = _operation(method, params, caller)
    result |= {"resultType": "complete", "_meta": {META + "serverInfo": SERVER}}
    if method in ("server/discover", "resources/read", *LISTS):
        result |= {"ttlMs": 0, "cacheScope": "private"}
    return result


def _check_envelope(method: str, params: Reply, meta: Reply) -> None:
    version = meta.get(META + "protocolVersion")
    if not isinstance(version, str) or META + "clientCapabilities" not in meta:
        raise Fault(-32602, "_meta needs protocolVersion and clientCapabilities.")
    said = {"Mcp-Protocol-Version": version, "Mcp-Method": method}
    if method in NAMED:
        said["Mcp-Name"] = str(params.get(NAMED[method]))
    for name, value in said.items():
        if request.headers.get(name, "").strip(" \t") != value:
            raise Fault(-32020, f"The header {name} differs from the body.")
    if version != MODERN:
        data = {"supported": [MODERN], "requested": version}
        raise Fault(-32022, "Unsupported protocol version.", data=data)


def _operation(method: str, params: Reply, caller: Access) -> Reply:
    """What both eras share."""
    if method not in OPERATIONS:
        raise Fault(-32601, "Method not found.", status=404)
    try:
        return OPERATIONS[method](current_app.extensions["notes"], caller, params)
    except Unknown as error:
        raise Fault(-32602, str(error)) from error


OPERATIONS: dict[str, Callable[[Notes, Access, Reply], Reply]] = {
    "tools/list": lambda notes, _caller, _params: {"tools": notes.tools()},
    "tools/call": lambda notes, caller, params: notes.call(caller, *_named(params)),
    "resources/list": lambda notes, _caller, _params: {"resources": notes.resources()},
    "resources/templates/list": lambda _notes, _caller, _params: {"resourceTemplates": []},
    "resources/read": lambda notes, caller, params: notes.read(caller, params.get("uri")),
    "prompts/list": lambda notes, _caller, _params: {"prompts": notes.prompts()},
    "prompts/get": lambda notes, caller, params: notes.prompt(caller, *_named(params)),
}


def _named(params: Reply) -> tuple[object, Reply]:
    arguments = params.get("arguments") or {}
    if not isinstance(arguments, dict):
        raise Fault(-32602, "arguments must be an object.")
    return params.get("name"), arguments
