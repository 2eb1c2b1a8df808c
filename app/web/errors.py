"""The one place where an error becomes a response: a page, JSON, or JSON-RPC."""

from __future__ import annotations

import logging
import uuid
from typing import Any
from urllib.parse import quote

from flask import (
    Flask,
    Response,
    current_app,
    g,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from .. import schema
from ..db import AWAY
from ..errors import (
    AppError,
    Busy,
    ConnectionNeeded,
    Invalid,
    SignInRequired,
    WireError,
    for_person,
    texts,
)
from ..mcp import jsonrpc
from . import where

log = logging.getLogger(__name__)


def request_id() -> str:
    """What a person can quote to an admin. Made when first asked for: no hook may come too late."""
    name: str | None = g.get("request_id")
    if name is None:
        name = g.request_id = uuid.uuid4().hex[:12]
    return name


def as_html(error: AppError) -> AnyResponse:
    if isinstance(error, SignInRequired):
        return _to_sign_in()
    if isinstance(error, ConnectionNeeded):
        error.facts["link"] = f"{current_app.config['PUBLIC_URL']}/connections/{error.gateway}"
    page = render_template("error.html", error=error, request_id=request_id(), way=_way(error))
    return make_response(page, error.status)


def _way(error: AppError) -> tuple[str, str] | None:
    """Words and address of the button to where this is mended, for who may go there."""
    text, here = texts()[error.code], g.get("signed_in")
    slug = error.facts.get("gateway") or (request.view_args or {}).get("slug", "")
    named = quote(str(slug), safe="")
    link = text.link.format(gateway=named) if slug else text.link.partition("/{gateway}")[0]
    if not (link and here) or (link.startswith("/admin") and not here.caller.is_admin):
        return None
    return text.button, link


def _to_sign_in() -> AnyResponse:
    """And back again. 303 after a form: what it held is lost, so its page is asked for anew."""
    url = url_for("people.login", next=where.here())
    return redirect(url, 302 if request.method in ("GET", "HEAD") else 303)


def as_json(error: AppError) -> Response:
    reply = make_response(jsonify(error=_facts(error)), error.status)
    if isinstance(error, SignInRequired) or error.code == "insufficient_token_scope":
        reply.headers["WWW-Authenticate"] = challenge(error)
    return reply


def as_mcp(error: AppError) -> Response:
    """A failed call is a JSON-RPC error under HTTP 200: clients drop the connection on a 5xx."""
    if isinstance(error, WireError):
        said = jsonrpc.error(error.call_id, error.number, error.message, error.data)
        return _rpc(said, error.http)
    if not error.rpc or _is_for_nobody(error):
        return as_json(error)
    is_ours = isinstance(error, Busy) and error.code != "database_away"
    status = 200
    if is_ours and (g.is_modern or request.method != "POST"):
        status = error.status  # a limit of ours; a client of before would drop all it does
    gateway = error.facts.get("gateway")
    known = {"gateway": None if gateway is None else str(gateway), "request_id": request_id()}
    return _rpc(jsonrpc.failure(error, g.get("call_id"), **known), status)


def _is_for_nobody(error: AppError) -> bool:
    """Before the call was read, and while nobody can tell who calls, there is no call to answer."""
    if error.code == "database_away":
        return g.get("api_caller") is None
    return isinstance(error, Busy) and "call_id" not in g


def challenge(error: AppError) -> str:
    """`WWW-Authenticate` of RFC 6750 section 3; under /mcp with the pointer of RFC 9728 5.1."""
    parts = ['realm="MCP Gateway"']
    if error.code == "insufficient_token_scope":
        parts += ['error="insufficient_scope"', f'scope="{error.facts["scope"]}"']
    elif "Authorization" in request.headers:
        parts += ['error="invalid_token"']
    if request.path.startswith("/mcp"):
        metadata = f"{current_app.config['PUBLIC_URL']}/.well-known/oauth-protected-resource"
        parts += [f'resource_metadata="{metadata}{request.path}"']
    if request.path.startswith("/mcp") and isinstance(error, SignInRequired):
        parts += ['scope="mcp"']
    return "Bearer " + ", ".join(parts)


# The first prefix that matches wins. By path, because a 404 belongs to no blueprint.
RENDERERS = (
    ("/mcp", as_mcp),
    *((path, as_json) for path in ("/api/", "/.well-known/", "/metrics", "/version")),
    ("/", as_html),
)


def respond(error: AppError) -> AnyResponse:
    if isinstance(error, ConnectionNeeded) and not error.facts.get("link"):
        error.facts["link"] = f"{current_app.config['PUBLIC_URL']}/connections/{error.gateway}"
    g.refused = error  # denials.py writes down who was kept out
    why = error.__cause__ and type(error.__cause__).__name__
    log.info("%s: %s", error.code, why, extra=_extra(code=error.code, e=error.e))
    render = next(render for prefix, render in RENDERERS if request.path.startswith(prefix))
    reply = render(for_person(error, is_admin=_is_admin()))
    if isinstance(error, Busy):
        reply.headers["Retry-After"] = str(error.retry_after)
    reply.headers["X-Request-Id"] = request_id()
    return reply


def _is_admin() -> bool:
    machine, here = g.get("api_caller"), g.get("signed_in")
    caller = machine or (here and here.caller)
    return bool(caller and caller.is_admin)


_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def from_werkzeug(error: HTTPException) -> AnyResponse:
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


def from_database(error: Exception) -> AnyResponse:
    """It is away or locked: nothing was saved, and it heals by itself (SEC-118)."""
    schema.note_failure(error)
    log.error("%s: %s", schema.complaint(error), type(error).__name__, extra=_extra())
    return respond(Busy("database_away", retry_after=2))


def register(app: Flask) -> None:
    app.register_error_handler(AppError, respond)
    app.register_error_handler(HTTPException, from_werkzeug)
    for kind in AWAY:
        app.register_error_handler(kind, from_database)


def _rpc(said: bytes, status: int) -> Response:
    return Response(said, status, content_type="application/json")


def _facts(error: AppError) -> dict[str, Any]:
    facts: dict[str, Any] = {"code": error.code, "message": error.message, "action": error.action}
    facts |= {"who": error.who, "help": _help(error)} | ({"e": error.e} if error.e else {})
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


def _help(error: AppError) -> str:
    return f"{current_app.config['PUBLIC_URL']}/help/errors/{error.code}"


def _extra(**more: str) -> dict[str, Any]:
    known = {"request_id": request_id(), "method": request.method, "path": request.path}
    return {"facts": known | {name: value for name, value in more.items() if value}}
