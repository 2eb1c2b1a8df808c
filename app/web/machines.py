"""/metrics and /version, for machines that watch: of this host, or with an API token (SEC-031)."""

from __future__ import annotations

import ipaddress

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from .. import watching
from ..mcp.wire import OURS
from .auth import api_caller

bp = Blueprint("machines", __name__)
_FORWARDED = (  # what proxies add: then the connection says nothing of who asks
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"),
    *("X-Real-Ip", "Via"),
)


@bp.before_request
def check() -> None:
    """Raises SignInRequired; Forbidden for a token that may not read /api."""
    if not is_of_this_host():
        api_caller("api:read")


@bp.get("/metrics")
def metrics() -> Response:
    """Of this node, in the text format of Prometheus."""
    return Response(watching.page(OURS["version"]), content_type=watching.CONTENT_TYPE)


@bp.get("/version")
def version() -> ResponseReturnValue:
    return jsonify(name="MCP Gateway", version=OURS["version"])


def is_of_this_host() -> bool:
    """A program beside us that asks us directly."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
