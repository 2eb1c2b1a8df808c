"""/api/v1/connections: one's own, and everybody's for admins. States and moments, never a token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Blueprint, g, jsonify, request
from flask.typing import ResponseReturnValue

from ... import access, connections, people
from ...connections import Connected
from ...db import db
from ...errors import Forbidden, Invalid, code_for
from ...oauth import keeping, timeline
from .. import auth
from ..commits import committed
from ..partings import ask_to_revoke
from ..words import iso

bp = Blueprint("api_connections", __name__, url_prefix="/api/v1/connections")
PAGE_SIZE = 100


@bp.get("")
def index() -> ResponseReturnValue:
    """`?gateway=` is a slug. Admins see everybody's with it, or with `?all=true`."""
    caller = auth.api_caller("api:read")
    slug, everything = request.args.get("gateway"), request.args.get("all", "false")
    if everything not in ("true", "false"):
        raise Invalid({"all": "This must be true or false."})
    if everything == "true" and not caller.is_admin:
        raise Forbidden(admins=", ".join(people.admins()))
    everybodys = everything == "true" or slug is not None
    found = connections.listed(caller, everybodys=everybodys, slug=slug)
    number = _page_number(request.args.get("page", "1"))
    shown = [_record(one) for one in found[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]]
    total = len(found)
    pages = max(1, -(-total // PAGE_SIZE))
    return jsonify(connections=shown, page=number, pages=pages, total=total)


@bp.get("/<connection_id>")
def show(connection_id: str) -> ResponseReturnValue:
    caller = auth.api_caller("api:read")
    return jsonify(_whole(connections.find(caller, connection_id)))


@bp.post("/<connection_id>/refresh")
def refresh(connection_id: str) -> ResponseReturnValue:
    """A new token now. `renewed` is false if that was a moment ago."""
    caller = auth.api_caller("api:write")
    one = connections.find(caller, connection_id)
    owner = replace(caller, user_id=one.user_id or caller.user_id, email=one.email or "")
    gateway = access.usable(owner, one.slug).for_config(one.config_id)
    db.session.rollback()  # only reads so far; nothing waits for somebody else's server
    is_new = keeping.renew_now(gateway)
    return jsonify(_whole(connections.find(caller, connection_id)) | {"renewed": is_new})


@bp.delete("/<connection_id>")
def disconnect(connection_id: str) -> ResponseReturnValue:
    """`at_provider` says what the provider made of it."""
    caller = auth.api_caller("api:write")
    one = connections.find(caller, connection_id)
    is_own = one.user_id == caller.user_id
    ended = committed(lambda: keeping.dismiss(one.id, one.slug, by=auth.actor(), own=is_own))
    parting = ask_to_revoke(ended, name=one.gateway_name, host=one.host)
    said = {"at_provider": parting.at_provider, "message": parting.message}
    return jsonify(_whole(connections.find(caller, connection_id)) | said)


def _record(one: Connected) -> dict[str, Any]:
    return {
        "id": one.id,
        "gateway": one.slug,
        "gateway_name": one.gateway_name,
        "config": one.config_name,  # None: the gateway's own
        "person": one.email,  # None: the shared account
        "state": one.state,
        "reason": one.reason,
        "since": _time(one.since_ms),
        "account": one.account_label,
        "scopes_requested": one.scopes_requested,
        "scopes_granted": one.scopes_granted,
        "renews_itself": one.renews,
        "expires_at": _time(one.expires_ms),
        "next_try_at": _time(one.not_before_ms) if one.state == "failing" else None,
        "error": code_for(one.last_error_code, is_admin=g.api_caller.is_admin),
        "connected_at": iso(one.created_at),
        "last_refresh_at": _time(one.last_refresh_ms),
        "last_used_at": _time(one.last_used_ms),
    }


def _whole(one: Connected) -> dict[str, Any]:
    moments = [
        {
            "at": iso(moment.at),
            "event": moment.event,
            "message": moment.words,
            "times": moment.times,
        }
        for moment in timeline.of(one.id, host=one.host)
    ]
    return _record(one) | {"timeline": moments}


def _time(ms: int | None) -> str | None:
    return iso(ms) if ms else None


def _page_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):
        raise Invalid({"page": "This must be a whole number from 1."})
    return int(text)
