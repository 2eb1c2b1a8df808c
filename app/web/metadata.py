"""/.well-known: what AI clients read to find out how to sign in here."""

from __future__ import annotations

import re

from flask import Blueprint, Response, abort, jsonify

from .. import gateways

bp = Blueprint("metadata", __name__, url_prefix="/.well-known")

_SLUG = re.compile(r"[a-z][a-z0-9-]{0,31}")


@bp.get("/oauth-protected-resource/mcp/<slug>")
def protected_resource(slug: str) -> Response:
    """RFC 9728. Made of the path alone, so it tells nobody which gateways there are.

    Without authorization_servers, which section 2 leaves open: people make their tokens by hand.
    """
    if not _SLUG.fullmatch(slug):
        abort(404)
    return jsonify(
        resource=gateways.mcp_url(slug),
        scopes_supported=["mcp"],
        bearer_methods_supported=["header"],
        resource_name=slug,
    )


@bp.after_request
def for_any_page(reply: Response) -> Response:
    """An inspector in a browser reads this, too. There is nothing here that is not public."""
    reply.headers["Access-Control-Allow-Origin"] = "*"
    reply.headers["Access-Control-Allow-Headers"] = "MCP-Protocol-Version"
    return reply
