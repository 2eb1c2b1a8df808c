"""/api/v1/gateways. Admins' API tokens read all and write; others read what they may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from ... import access, gateways, people, proposals, specs, strict_json, tool_configs
from ...access import Caller
from ...db import db
from ...errors import AppError, Forbidden, Invalid, NotFound
from ...models import Gateway
from ...specs import GatewaySpec
from .. import auth, security
from ..commits import committed

bp = Blueprint("api_gateways", __name__, url_prefix="/api/v1/gateways")
PAGE_SIZE = 100


@bp.get("")
def index() -> ResponseReturnValue:
    caller = auth.api_caller("api:read")
    found = gateways.everything() if caller.is_admin else access.may_use(caller)
    mine = [gateway for gateway in found if _is_within(caller, gateway)]
    number = _page_number(request.args.get("page", "1"))
    rows = mine[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
    shown = [_record(gateway, caller) for gateway in rows]
    pages = max(1, -(-len(mine) // PAGE_SIZE))
    return jsonify(gateways=shown, page=number, pages=pages, total=len(mine))


@bp.post("")
def create() -> ResponseReturnValue:
    caller = _writer()
    if caller.gateway_ids is not None:  # it is good for chosen gateways, and this is another one
        raise Forbidden("insufficient_token_scope", scope="for all gateways")
    notices: list[str] = []
    body = _body()
    further = body.pop(tool_configs.FIELD, None)
    spec, found = proposals.read(body, notices=notices)
    gateway = gateways.create(spec, by=auth.actor(), found=found)
    tool_configs.replace(gateway, further, by=auth.actor())
    db.session.commit()
    notices += gateways.warnings(gateway)
    reply = jsonify(tool_configs.whole(gateway) | {"notices": notices})
    return reply, 201, {"Location": f"{bp.url_prefix}/{gateway.slug}"}


@bp.get("/<slug>")
def show(slug: str) -> ResponseReturnValue:
    caller = auth.api_caller("api:read")
    return jsonify(_record(_find(slug, caller), caller))


@bp.route("/<slug>", methods=["PATCH", "PUT"])
def update(slug: str) -> ResponseReturnValue:
    """Both merge (RFC 7396), as a record that was read holds no secrets to send back."""
    gateway, notices = _find(slug, _writer()), list[str]()
    record, body = gateways.record(gateway), _body()
    further = {one: body.pop(one) for one in (tool_configs.FIELD,) if one in body}
    whole = _merged(record, body)
    spec = specs.read(GatewaySpec, whole, notices=notices, finds_out=True)
    seen = gateway.updated_at
    found = proposals.complete(spec, notices=notices, gateway=gateway)

    def write() -> int:
        row = gateways.find(slug, seen=seen)
        count = gateways.update(row, spec, by=auth.actor(), found=found)
        for given in further.values():
            tool_configs.replace(row, given, by=auth.actor())
        return count

    signed_out = committed(write)
    notices += gateways.warnings(gateway)
    return jsonify(tool_configs.whole(gateway) | {"notices": notices, "signed_out": signed_out})


@bp.delete("/<slug>")
def delete(slug: str) -> ResponseReturnValue:
    caller = _writer()
    committed(lambda: gateways.delete(_find(slug, caller), by=auth.actor()))
    return "", 204


def _writer() -> Caller:
    """Raises Forbidden for API tokens of people who are no admins."""
    caller = auth.api_caller("api:write")
    if not caller.is_admin:
        raise Forbidden(admins=", ".join(people.admins()))
    return caller


def _find(slug: str, caller: Caller) -> Gateway:
    """Raises NotFound for unknown and forbidden alike; for others than admins, for off, too."""
    gateway = gateways.find(slug)
    if _is_within(caller, gateway) and (caller.is_admin or gateway.is_enabled):
        return gateway
    raise NotFound("gateway_not_found", gateway=slug[:100])


def _is_within(caller: Caller, gateway: Gateway) -> bool:
    """An API token may be good for chosen gateways only."""
    return caller.gateway_ids is None or gateway.id in caller.gateway_ids


def _record(gateway: Gateway, caller: Caller) -> dict[str, Any]:
    """Whole for admins; for others what they need to use it, and no more."""
    if caller.is_admin:
        return tool_configs.whole(gateway)
    names = ("id", "slug", "name", "description", "auth_type")
    shown = {name: getattr(gateway, name) for name in names}
    return shown | {"mcp_url": gateways.mcp_url(gateway.slug)}


def _body() -> dict[str, Any]:
    """Raises AppError for what is no JSON, Invalid for what is no object."""
    try:
        body = strict_json.loads(security.body())
    except strict_json.BadJSON as error:
        raise AppError("bad_json", hint=str(error)) from None
    if not isinstance(body, dict):
        raise Invalid({"record": "This must be an object."})
    return body


def _merged(record: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """What a read gave and nobody may change is taken back as it was, and only so."""
    whole = specs.merge(record, patch)
    changed = {name: "This cannot be changed." for name in specs.GIVEN if name != "found"}
    changed = {name: text for name, text in changed.items() if whole.get(name) != record[name]}
    if changed:
        raise Invalid(changed)
    return {name: value for name, value in whole.items() if name not in specs.GIVEN}


def _page_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):
        raise Invalid({"page": "This must be a whole number from 1."})
    return int(text)
