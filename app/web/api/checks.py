"""/api/v1/gateways/<slug>/checks, for admins' API tokens."""

from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from ... import access, check_runs, gateways, people
from ...access import Caller
from ...db import db
from ...errors import Forbidden, NotFound
from ...models import Gateway
from .. import auth

bp = Blueprint("api_checks", __name__, url_prefix="/api/v1/gateways")


@bp.post("/<slug>/checks")
def create(slug: str) -> ResponseReturnValue:
    """Runs it, which takes 20 seconds at most, and answers with all steps."""
    caller = _admin("api:write")
    gateway = _find(slug, caller)
    seen = access.checkable(caller, slug)
    with check_runs.turn():
        run_id = check_runs.begin(gateway, by=auth.actor(), user_id=caller.user_id)
        db.session.commit()
        check_runs.take(run_id)
        for _ in check_runs.steps(run_id, seen, caller, by=auth.actor()):
            pass
    kept = check_runs.find(run_id)
    return jsonify(kept.as_json()), 201, {"Location": f"{bp.url_prefix}/{slug}/checks/{run_id}"}


@bp.get("/<slug>/checks")
def index(slug: str) -> ResponseReturnValue:
    gateway = _find(slug, _admin("api:read"))
    return jsonify(checks=[one.as_json() for one in check_runs.of_gateway(gateway.id)])


@bp.get("/<slug>/checks/<run_id>")
def show(slug: str, run_id: str) -> ResponseReturnValue:
    gateway = _find(slug, _admin("api:read"))
    return jsonify(check_runs.find(run_id, gateway.id).as_json())


def _admin(scope: str) -> Caller:
    """Raises Forbidden for API tokens of people who are no admins."""
    caller = auth.api_caller(scope)
    if not caller.is_admin:
        raise Forbidden(admins=", ".join(people.admins()))
    return caller


def _find(slug: str, caller: Caller) -> Gateway:
    """Raises NotFound, also where the API token is good for others only."""
    gateway = gateways.find(slug)
    if caller.gateway_ids is not None and gateway.id not in caller.gateway_ids:
        raise NotFound("gateway_not_found", gateway=slug[:100])
    return gateway
