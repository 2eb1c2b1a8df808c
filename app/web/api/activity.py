"""/api/v1/activity: who did what, for admins. Names of changed fields, never their values."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from ... import activity, people
from ...activity import Event
from ...errors import Forbidden, Invalid
from .. import auth
from ..words import iso

bp = Blueprint("api_activity", __name__, url_prefix="/api/v1/activity")
MOST = 500


@bp.get("")
def index() -> ResponseReturnValue:
    """The newest first. `next` is the `before` of the next page, null on the last one.

    Not for an API token of chosen gateways: what is written down goes beyond them.
    """
    caller = auth.api_caller("api:read")
    if not caller.is_admin:
        raise Forbidden(admins=", ".join(people.admins()))
    if caller.gateway_ids is not None:
        raise Forbidden("insufficient_token_scope", scope="for all gateways")
    wanted, limit = activity.read_filter(request.args), _limit(request.args.get("limit", "100"))
    found = activity.events(wanted, limit=limit + 1)
    shown = found[:limit]
    return jsonify(
        activity=[_record(event) for event in shown],
        next=shown[-1].seq if len(found) > limit else None,
    )


def _record(event: Event) -> dict[str, Any]:
    return {
        "number": event.seq,
        "at": iso(event.at),
        "action": event.action,
        "message": event.words,
        "who": event.who,
        "outcome": event.outcome,
        "gateway": event.slug,
        "gateway_name": event.gateway,
        "subject": event.subject,
        "details": event.details,
        "address": event.address,
        "request_id": event.request_id,
    }


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 5 and 0 < int(text) <= MOST):
        raise Invalid({"limit": f"This must be a whole number from 1 to {MOST}."})
    return int(text)
