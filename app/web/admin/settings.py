"""What this server was started with, and what it does by itself. Read-only, and no secret."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app, render_template
from flask.typing import ResponseReturnValue

from ... import housekeeping
from ...mcp.wire import OURS
from ..auth import admin_only

bp = Blueprint("settings", __name__, url_prefix="/admin/settings")

# What may be shown is named here: a setting that is new, and perhaps a secret, is not shown.
SHOWN = {
    "Addresses": {
        "PUBLIC_URL": "What people type, and redirect URIs begin with",
        "TRUSTED_PROXIES": "Proxies whose forwarded headers count",
        "MCP_ALLOWED_ORIGINS": "Web pages that may call /mcp",
        "EGRESS_ALLOW": "Private ranges that servers may live in",
    },
    "Sign-ins at providers": {
        "OAUTH_REQUEST_TIMEOUT": "Seconds for one call to a provider",
        "OAUTH_MAX_RETRIES": "Further tries inside that time",
        "OAUTH_STATE_EXPIRY": "Seconds to sign in and allow",
        "OAUTH_TOKEN_EXPIRY_THRESHOLD": "Seconds before its end a token is renewed",
        "OAUTH_TOKEN_CLEANUP_INTERVAL": "Seconds between clean-ups",
        "OAUTH_MAX_STORED_TOKENS_PER_GATEWAY": "Stored connections per gateway; 0 is no limit",
        "OAUTH_MAX_AUTHORIZATION_ATTEMPTS": "Unfinished sign-ins in ten minutes",
        "OAUTH_CLIENT_METADATA_URL": "Where providers read who we are, if not here",
    },
    "Calls to MCP servers": {
        "UPSTREAM_CONNECT_TIMEOUT": "Seconds to connect",
        "UPSTREAM_READ_TIMEOUT": "Seconds of silence in an answer",
        "HEALTH_CHECK_INTERVAL": "Seconds between looks at each server; 0 is never",
    },
    "Sessions here": {
        "SESSION_IDLE_MINUTES": "Minutes without use until a browser is signed out",
        "SESSION_MAX_HOURS": "Hours until it is in any case",
    },
    "What one caller may take": {
        "MAX_CALLS_PER_PERSON": "Calls open at once, of one person in one worker",
        "MAX_CALLS_PER_WORKER": "Calls open at once, of all in one worker",
        "MAX_STREAMS_PER_PERSON": "Streams that only listen, of one person in one worker",
        "RATE_LIMIT_TOKEN": "Requests a minute with one API token",
        "RATE_LIMIT_PERSON": "Requests a minute of one person",
        "RATE_LIMIT_ADDRESS": "Requests a minute from one address",
        "RATE_LIMIT_WRONG_TOKENS": "Wrong API tokens a minute from one address",
    },
    "Other": {
        "INSTANCE_DIR": "The folder in which this node keeps its files",
        "MAX_BODY_BYTES": "Bytes of the largest request",
        "DATABASE_CONNECTIONS": "Connections to PostgreSQL in each worker",
        "MIGRATE_AT_START": "The schema is brought up to date at the start",
        "LOG_LEVEL": "What the log holds",
    },
}
CHORES = {
    "revocations": "Ends at providers what was disconnected here",
    "keep-alive": "Renews idle sign-ins, where a gateway says so",
    "flows": "Removes sign-ins and calls that are over",
    "connections": "Removes tokens and connections that are over",
    "clients": "Renews and removes clients that we registered",
    "health": "Looks whether each server answers",
    "sessions": "Removes ended sessions, API tokens and counters",
}


@bp.get("")
@admin_only
def index() -> ResponseReturnValue:
    groups = [
        (title, [(name, about, _told(current_app.config[name])) for name, about in names.items()])
        for title, names in SHOWN.items()
    ]
    return render_template(
        "admin/settings.html",
        groups=groups,
        chores=housekeeping.standings(),
        about=CHORES,
        version=OURS["version"],
    )


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " ".join(value) or "none"
    if value in (None, ""):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
