"""/mcp/<slug>: one gateway for AI clients. What is checked before a message is read stands here."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Blueprint, Flask, Response, current_app, g, request
from werkzeug.exceptions import MethodNotAllowed

from .. import access, metrics
from ..access import Usable
from ..db import AWAY
from ..draining import draining
from ..errors import Forbidden
from ..mcp import health, relay, wire
from ..mcp.hangup import Hangup
from ..slots import slots
from . import pace, security
from .auth import api_caller, client_is
from .errors import request_id

log = logging.getLogger(__name__)
bp = Blueprint("proxy", __name__)
_AT_ONCE = 65_536  # bytes that fit between us and a client who does not read yet
VERBS = ("POST", "GET", "DELETE")


def register(app: Flask) -> None:
    """Before the sign-in is looked at (mcp.md section 2): a foreign page learns nothing here."""
    app.before_request(refuse_foreign_origins)


def refuse_foreign_origins() -> None:
    """SEC-041. No Origin is normal: most clients are no browsers. "null" is everybody."""
    origin = request.headers.get("Origin")
    if origin is None or not request.path.startswith("/mcp"):
        return
    config = current_app.config
    if origin == "null" or origin not in (config["PUBLIC_URL"], *config["MCP_ALLOWED_ORIGINS"]):
        raise Forbidden("origin_refused")


@bp.route("/mcp/<slug>", methods=VERBS, provide_automatic_options=False)
def one(slug: str) -> Response:
    """MCP Streamable HTTP through one gateway (mcp.md section 2)."""
    began = time.monotonic()
    if request.method not in VERBS:  # HEAD, which comes with GET
        raise MethodNotAllowed(VERBS)
    caller = api_caller("mcp")
    try:
        gateway = access.usable(caller, slug)
    except AWAY:
        _read()  # the answer names the call
        raise
    call = _read()
    pace.count(caller)
    draining().refuse_calls()
    _note_client(call)
    listens = call.verb == "GET" or call.method == "subscriptions/listen"
    with slots().take(caller.user_id, listens=listens) as slot:
        reply = relay.forward(caller, gateway, call, hangup=_hangup(listens=listens))
        _log(gateway, call, reply, began)
        response = _response(gateway, reply)
        if not _is_as_good_as_sent(reply):
            response.call_on_close(slot.hand_over().free)
    return response


def _is_as_good_as_sent(reply: wire.Reply) -> bool:
    """The system takes it whole. Else a client with its next call would be ahead of its slot."""
    chunks = reply.chunks
    return isinstance(chunks, list) and sum(len(chunk) for chunk in chunks) <= _AT_ONCE


def _read() -> wire.Call:
    """Raises WireError, and AppError (too_large)."""
    call = wire.read(request.method, _Headers(), security.body(), request_id=request_id())
    g.call_id, g.is_modern = call.id, call.is_modern
    return call


class _Headers:
    """Those of this request, each looked up where the server put it."""

    def __init__(self) -> None:
        self._environ: Mapping[str, Any] = request.environ

    def get(self, name: str, /) -> str | None:
        value: str | None = self._environ.get(f"HTTP_{name.upper().replace('-', '_')}")
        return value

    def keys(self) -> Iterable[str]:
        """Of arguments that are mirrored; nobody asks for others that they do not know."""
        found = (key[5:] for key in self._environ if key.startswith("HTTP_MCP_PARAM_"))
        return [key.title().replace("_", "-") for key in found]


def _hangup(*, listens: bool) -> Hangup | None:
    """A way to hear that the caller is gone; only gunicorn gives its socket away."""
    sock = request.environ.get("gunicorn.socket")
    if sock is None:
        return None
    hangup = Hangup(sock)
    hangup.listens = listens
    return hangup


def _note_client(call: wire.Call) -> None:
    info = call.meta.get(f"{wire.META}clientInfo") if call.is_modern else None
    if call.method == "initialize":
        info = call.params.get("clientInfo")
    name = info.get("name") if isinstance(info, dict) else None
    if isinstance(name, str):
        client_is(name)


def _response(gateway: Usable, reply: wire.Reply) -> Response:
    response = Response(reply.chunks, reply.status, reply.headers)
    response.headers["X-Request-Id"] = request_id()
    if health.is_due(gateway, reply.code):
        app = current_app._get_current_object()  # type: ignore[attr-defined]

        def note() -> None:  # when the answer is out
            with app.app_context():
                health.note(gateway, reply.code)

        response.call_on_close(note)
    return response


def _log(gateway: Usable, call: wire.Call, reply: wire.Reply, began: float) -> None:
    metrics.call(gateway.slug, reply.code)
    facts = {
        **{"request_id": call.request_id, "gateway": gateway.slug, "verb": call.verb},
        **{"mcp_method": call.method, "era": "modern" if call.is_modern else "legacy"},
        **{"code": reply.code, "status": reply.status},
        "ms": round((time.monotonic() - began) * 1000, 1),
    }
    log.info("mcp", extra={"facts": facts})
