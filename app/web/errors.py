"""The one place where an error becomes a response: a page, JSON, or JSON-RPC."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, make_response, render_template, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException

from ..errors import AppError, Busy, ConnectionNeeded, Invalid, SignInRequired, WireError

log = logging.getLogger(__name__)


def request_id() -> str:
    """What a person can quote to an admin. Made when first asked for: no hook may come too late."""
    name: str = g.setdefault("request_id", uuid.uuid4().hex[:12])
    return name


def as_html(error: AppError) -> Response:
    page = render_template("error.html", error=error, request_id=request_id())
    return make_response(page, error.status)


def as_json(error: AppError) -> Response:
    return make_response(jsonify(error=_facts(error)), error.status)


def as_mcp(error: AppError) -> Response:
    """A failed call is a JSON-RPC error under HTTP 200: clients drop the connection on a 5xx."""
    if isinstance(error, SignInRequired):
        reply = as_json(error)
        reply.headers["WWW-Authenticate"] = challenge(error)
        return reply
    if isinstance(error, WireError):
        return _rpc(error.number, error.message, error.data, error.call_id, status=error.http)
    if not error.rpc:
        return as_json(error)
    sentence = f"{error.message}. {error.action}"
    return _rpc(-32603, sentence, _facts(error), g.get("call_id"), status=200)


def challenge(error: AppError) -> str:
    """`WWW-Authenticate` of RFC 6750 section 3, with the pointer of RFC 9728 section 5.1."""
    metadata = f"{current_app.config['PUBLIC_URL']}/.well-known/oauth-protected-resource"
    parts = [f'resource_metadata="{metadata}{request.path}"', 'scope="mcp"']
    if "Authorization" in request.headers:
        parts.insert(0, 'error="invalid_token"')
    return "Bearer " + ", ".join(parts)


# The first prefix that matches wins. By path, because a 404 belongs to no blueprint.
RENDERERS = (("/mcp", as_mcp), ("/api/", as_json), ("/.well-known/", as_json), ("/", as_html))


def respond(error: AppError) -> Response:
    log.info(
        "%s: %s", error.code, error.__cause__ and type(error.__cause__).__name__, extra=_extra()
    )
    render = next(render for prefix, render in RENDERERS if request.path.startswith(prefix))
    reply = render(error)
    if isinstance(error, Busy):
        reply.headers["Retry-After"] = str(error.retry_after)
    reply.headers["X-Request-Id"] = request_id()
    return reply


_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def from_werkzeug(error: HTTPException) -> Response:
    """Flask's own 404, 405, 413 and 500 wear the same clothes as ours."""
    if error.code is not None and error.code < 400:
        return make_response(error.get_response())  # a redirect to the canonical URL
    if isinstance(error, CSRFError):
        return respond(_plain("csrf"))
    if (error.code or 500) >= 500:
        log.error("unhandled", exc_info=getattr(error, "original_exception", error), extra=_extra())
    ours = _plain(_CODES.get(error.code or 500, "bad_request" if (error.code or 500) < 500 else ""))
    reply = respond(ours)
    if error.code == 405:
        reply.headers["Allow"] = ", ".join(getattr(error, "valid_methods", None) or ())
    return reply


def _plain(code: str) -> AppError:
    error = AppError(code or "internal_error", limit=current_app.config["MAX_BODY_BYTES"])
    error.rpc = error.status >= 500
    return error


def register(app: Flask) -> None:
    app.register_error_handler(AppError, respond)
    app.register_error_handler(HTTPException, from_werkzeug)


def _rpc(number: int, message: str, data: Any, call_id: Any, *, status: int) -> Response:
    error = {"code": number, "message": message} | ({"data": data} if data is not None else {})
    text = json.dumps({"jsonrpc": "2.0", "id": call_id, "error": error})
    return Response(text, status, content_type="application/json")


def _facts(error: AppError) -> dict[str, Any]:
    facts: dict[str, Any] = {"code": error.code, "message": error.message, "action": error.action}
    if isinstance(error, Invalid):
        rows = sorted(error.fields.items())
        facts["fields"] = [{"field": field, "message": text} for field, text in rows]
    if isinstance(error, ConnectionNeeded):
        facts |= {"gateway": error.gateway, "state": error.state, "reason": error.reason}
    if error.said:
        facts["said"] = error.said
    for name in ("gateway", "retry_after"):
        if name in error.facts:
            facts[name] = error.facts[name]
    return facts | {"request_id": request_id()}


def _extra() -> dict[str, Any]:
    return {"facts": {"request_id": request_id(), "method": request.method, "path": request.path}}
