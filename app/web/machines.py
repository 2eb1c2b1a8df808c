"""/metrics and /version, for machines that watch: of this host, or with an API token (SEC-031)."""

from __future__ import annotations

import ipaddress

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from .. import watching
from ..errors import Forbidden
from ..mcp.wire import OURS
from . import auth, security

bp = Blueprint("machines", __name__)
_FORWARDED = (  # what proxies add: then the connection says nothing of who asks
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"),
    *("X-Real-Ip", "Via"),
)


@bp.before_request
def check() -> None:
    """Raises SignInRequired; Forbidden for a token that may not read /api, and not all gateways.

    Counts name the gateways they are of.
    """
    if is_of_this_host():
        return
    caller = auth.api_caller("api:read")
    if caller.gateway_ids is not None and request.endpoint == "machines.metrics":
        raise Forbidden("insufficient_token_scope", scope="for all gateways")


@bp.get("/metrics")
def metrics() -> Response:
    """Of this node, in the text format of Prometheus."""
    return Response(watching.page(OURS["version"]), content_type=watching.CONTENT_TYPE)


@bp.get("/version")
def version() -> ResponseReturnValue:
    return jsonify(name="MCP Gateway", version=OURS["version"])


def is_of_this_host() -> bool:
    """A program beside us that asks us directly: by address, and with nothing of a proxy's.

    A proxy beside us may add no header at all. It hands on the Host that it was asked by, or the
    address at which it knows us, if it is told to.
    """
    if any(name in request.headers for name in _FORWARDED):
        return False
    if not security.BY_ADDRESS.fullmatch(request.environ.get("HTTP_HOST", "")):
        return False
    try:
        return ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
