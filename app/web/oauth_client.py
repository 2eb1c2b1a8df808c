"""What a provider reads about us: our client id document, and the public keys we sign with."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from ..oauth import registering

bp = Blueprint("oauth_client", __name__, url_prefix="/oauth")


@bp.get("/client-metadata.json")
def client_metadata() -> Response:
    """A client id metadata document: its URL is our client id. The same for everybody."""
    return jsonify(registering.document())


@bp.get("/jwks.json")
def jwks() -> Response:
    """RFC 7517: of all gateways that sign, so it tells nobody which there are."""
    return jsonify(keys=registering.public_keys())


@bp.after_request
def for_an_hour(reply: Response) -> Response:
    reply.headers["Cache-Control"] = "public, max-age=3600"
    reply.headers["Referrer-Policy"] = "no-referrer"
    return reply
