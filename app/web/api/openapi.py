"""/api/openapi.json: the JSON API, described from the specs that validate it."""

from __future__ import annotations

from typing import Any, get_args

from flask import Blueprint, current_app, jsonify
from flask.typing import ResponseReturnValue

from ...errors import Who
from ...specs import GatewaySpec
from ...states import LIVING, OVER
from ...steps import State
from ...tool_configs import FIELD, MOST
from ...tool_specs import ToolConfigSpec
from ..partings import AtProvider

bp = Blueprint("openapi", __name__)
Schema = dict[str, Any]


@bp.get("/api/openapi.json")
def openapi() -> ResponseReturnValue:
    return jsonify(description())


def description() -> Schema:
    """OpenAPI 3.1."""
    whole = GatewaySpec.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas: Schema = whole.pop("$defs", {})
    of_tools = ToolConfigSpec.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= of_tools.pop("$defs", {}) | {"ToolConfigSpec": of_tools}
    whole["properties"][FIELD] = _FURTHER
    schemas |= {"GatewaySpec": whole, "Gateway": _GATEWAY, "Error": _ERROR}
    schemas |= {"Connection": _CONNECTION, "Moment": _MOMENT, "Event": _EVENT}
    schemas["Check"] = _CHECK
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MCP Gateway",
            "version": "1",
            "description": 'Secrets are write-only: a read says "set", and sending that keeps it.',
        },
        "servers": [{"url": current_app.config["PUBLIC_URL"]}],
        "security": [{"api_token": []}],
        "paths": _PATHS,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "api_token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token with api:read, or api:write where it changes.",
                }
            },
        },
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _operation(summary: str, replies: Schema, body: str = "") -> Schema:
    """One operation; every one of them can fail in the same ways."""
    failures = {
        "400": _json(_ref("Error"), "Not JSON."),
        "401": _json(_ref("Error"), "No API token that is good."),
        "403": _json(_ref("Error"), "The API token lacks the scope, or its owner is no admin."),
        "404": _json(_ref("Error"), "Unknown, or not meant for the owner of the API token."),
        "422": _json(_ref("Error"), "Some fields need another look: error.fields."),
    }
    operation: Schema = {"summary": summary, "responses": replies | failures}
    if body:
        schema = {"content": {"application/json": {"schema": _ref(body)}}, "required": True}
        operation["requestBody"] = schema
    return operation


def _parameter(name: str, where: str, kind: str) -> Schema:
    return {"name": name, "in": where, "required": where == "path", "schema": {"type": kind}}


_TEXT: Schema = {"type": "string"}
_GATEWAY: Schema = {
    "description": "A GatewaySpec as it is stored, and these. Others than admins read less.",
    "type": "object",
    "properties": {
        name: _TEXT for name in ("id", "slug", "name", "mcp_url", "created_at", "updated_at")
    },
}
_FURTHER: Schema = {
    "description": "For some of its tools; the first that fits serves a call. Left out: they stay.",
    "type": ["array", "null"],
    "items": {"$ref": "#/components/schemas/ToolConfigSpec"},
    "maxItems": MOST,
}
_ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "action", "who", "help", "request_id"],
            "properties": {
                **{name: _TEXT for name in ("code", "message", "action", "request_id", "said")},
                "e": {"type": "string", "description": "The number of its kind: E1 to E20."},
                "who": {"type": "string", "enum": list(get_args(Who)), "description": "Can mend."},
                "help": {"type": "string", "format": "uri"},
                "fields": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"field": _TEXT, "message": _TEXT}},
                },
            },
        }
    },
}
_MOMENT: Schema = {
    "description": "`times`: so often in a row, `at` being the last of them.",
    "type": "object",
    "properties": {name: _TEXT for name in ("at", "event", "message")}
    | {"times": {"type": "integer"}},
}
_OR_NULL: Schema = {"type": ["string", "null"]}
_CONNECTION: Schema = {
    "description": "Never a token. `person` is null for the shared account of a gateway.",
    "type": "object",
    "properties": {
        **{name: _TEXT for name in ("id", "gateway", "gateway_name")},
        "state": {"type": "string", "enum": [*LIVING, *OVER]},
        **{name: _OR_NULL for name in ("person", "config", "reason", "since", "account")},
        "error": _OR_NULL,
        **{name: _OR_NULL for name in ("expires_at", "next_try_at", "connected_at")},
        **{name: _OR_NULL for name in ("last_refresh_at", "last_used_at")},
        **{
            name: {"type": "array", "items": _TEXT}
            for name in ("scopes_requested", "scopes_granted")
        },
        "renews_itself": {"type": "boolean"},
        "timeline": {"type": "array", "items": _ref("Moment")},
        "renewed": {"type": "boolean"},
        "at_provider": {
            "type": "string",
            "enum": list(get_args(AtProvider)),
        },
        "message": _TEXT,
    },
}


def _list(name: str, schema: str) -> Schema:
    return {
        "type": "object",
        "properties": {
            name: {"type": "array", "items": _ref(schema)},
            **{name: {"type": "integer"} for name in ("page", "pages", "total")},
        },
    }


_EVENT: Schema = {
    "description": "Details are names of changed fields, codes and counts; never a value.",
    "type": "object",
    "properties": {
        "number": {"type": "integer"},
        **{name: _TEXT for name in ("at", "action", "message", "who", "subject", "address")},
        **{name: _OR_NULL for name in ("gateway", "gateway_name")},
        "outcome": {"type": "string", "enum": ["ok", "denied", "failed"]},
        "details": {"type": "object"},
        "request_id": _TEXT,
    },
}
_ACTIVITY: Schema = {
    "type": "object",
    "properties": {
        "activity": {"type": "array", "items": _ref("Event")},
        "next": {"type": ["integer", "null"]},
    },
}
_NO_CONTENT: Schema = {"204": {"description": "It is gone."}}
_ONE = {"200": _json(_ref("Gateway"), "The gateway.")}
_THIS = _json(_ref("Connection"), "The connection, with its timeline.")
_MERGE = _operation("Change a gateway: merged with what is there (RFC 7396)", _ONE, "GatewaySpec")
_STEP: Schema = {
    "type": "object",
    "properties": {
        "number": {"type": "integer", "description": "0: without asking anybody; 1 to 7."},
        **{name: _TEXT for name in ("key", "name", "says", "message", "cause", "action", "who")},
        "state": {"type": "string", "enum": list(get_args(State))},
        "code": {"type": ["string", "null"], "description": "As in errors, where it failed."},
        "took_ms": {"type": "integer"},
        "exchanges": {"type": "array", "items": {"type": "object"}},
    },
}
_CHECK: Schema = {
    "type": "object",
    "properties": {
        **{name: _TEXT for name in ("id", "by", "verdict")},
        "state": {"type": "string", "enum": ["queued", "running", "waiting", "done"]},
        "outcome": {"type": ["string", "null"], "enum": ["ok", "warn", "bad", None]},
        "code": {"type": ["string", "null"]},
        "started_ms": {"type": "integer"},
        "ended_ms": {"type": ["integer", "null"]},
        "steps": {"type": "array", "items": _STEP},
    },
}
_CHECKS: Schema = {"checks": {"type": "array", "items": _ref("Check")}}
_PATHS: Schema = {
    "/api/openapi.json": {
        "get": _operation("This description", {"200": _json({"type": "object"}, "OpenAPI 3.1.")})
    },
    "/api/v1/gateways": {
        "get": _operation(
            "List gateways, by name", {"200": _json(_list("gateways", "Gateway"), "100 a page.")}
        )
        | {"parameters": [_parameter("page", "query", "integer")]},
        "post": _operation(
            "Add a gateway; a url alone is enough, how people sign in is asked of the server",
            {
                "201": _json(_ref("Gateway"), "It was added; found and notices say how."),
                "409": _json(_ref("Error"), "The provider registers nobody: client_needed."),
                "502": _json(_ref("Error"), "The server or its provider could not be asked."),
            },
            "GatewaySpec",
        ),
    },
    "/api/v1/gateways/{slug}": {
        "parameters": [_parameter("slug", "path", "string")],
        "get": _operation("Read a gateway", _ONE),
        "patch": _MERGE,
        "put": _MERGE,
        "delete": _operation("Delete a gateway, with all its connections", _NO_CONTENT),
    },
    "/api/v1/gateways/{slug}/checks": {
        "parameters": [_parameter("slug", "path", "string")],
        "get": _operation(
            "List the last checks, the newest first; for admins",
            {"200": _json({"type": "object", "properties": _CHECKS}, "Up to 20.")},
        ),
        "post": _operation(
            "Check a gateway step by step; takes up to 20 seconds",
            {"201": _json(_ref("Check"), "It was run, whatever came of it.")},
        ),
    },
    "/api/v1/gateways/{slug}/checks/{run_id}": {
        "parameters": [_parameter(name, "path", "string") for name in ("slug", "run_id")],
        "get": _operation("Read a check", {"200": _json(_ref("Check"), "With its steps.")}),
    },
    "/api/v1/connections": {
        "get": _operation(
            "List one's own connections; for admins with ?gateway= or ?all=true everybody's",
            {"200": _json(_list("connections", "Connection"), "100 a page, without timelines.")},
        )
        | {
            "parameters": [
                _parameter("gateway", "query", "string"),
                _parameter("all", "query", "boolean"),
                _parameter("page", "query", "integer"),
            ]
        },
    },
    "/api/v1/activity": {
        "get": _operation(
            "What happened, the newest first; for admins",
            {"200": _json(_ACTIVITY, "`next` is the `before` of the next page, or null.")},
        )
        | {
            "parameters": [
                *(_parameter(name, "query", "string") for name in ("person", "gateway", "type")),
                *(_parameter(name, "query", "string") for name in ("outcome", "from")),
                *(_parameter(name, "query", "integer") for name in ("before", "limit")),
            ]
        },
    },
    "/api/v1/connections/{connection_id}": {
        "parameters": [_parameter("connection_id", "path", "string")],
        "get": _operation("Read a connection", {"200": _THIS}),
        "delete": _operation(
            "Disconnect: delete its tokens here, then revoke them at the provider", {"200": _THIS}
        ),
    },
    "/api/v1/connections/{connection_id}/refresh": {
        "parameters": [_parameter("connection_id", "path", "string")],
        "post": _operation("Renew it now; once a minute", {"200": _THIS}),
    },
}
