"""Errors show a code, a sentence, a next step and a request id; nothing of the inside (SEC-064)."""

import html
import importlib.metadata
import re

import pytest
import sqlalchemy as sa
from flask import render_template_string

from app.db import db
from app.errors import AppError, for_person, texts
from app.models import Gateway
from app.web.errors import respond
from tests.conftest import person
from tests.mcp import world
from tests.upstream import upstream
from tests.web.credentials import bearer, token_of

__all__ = ["upstream"]  # the fixture
HERE = "https://gw.test"
INSIDE = re.compile(
    r"Traceback|File \"|\.py\b|/site-packages|/app/|/tmp/|/home/|\bSELECT\b|\bINSERT\b|\bUPDATE\b"
    r"|sqlalchemy|sqlite|psycopg|postgres|werkzeug|jinja|gunicorn|urllib3|Python/|canary"
    r"|Error:|Exception|object at 0x"
)


def no_row(_app) -> None:
    with db.engine.connect() as link:
        link.execute(sa.text("SELECT canary FROM nowhere"))


def no_value(_app) -> None:
    raise KeyError("canary")


def no_page(_app) -> None:
    render_template_string("{{ canary.of.nothing }}")


def no_file(app) -> None:
    with open(f"{app.root_path}/canary"):
        pass


def no_memory(_app) -> None:
    raise MemoryError("canary")


def no_end(app) -> None:
    no_end(app)


def no_model(_app) -> None:
    db.session.add(Gateway(slug=None, name="canary"))
    db.session.commit()


def not_said(_app) -> None:
    raise AssertionError("canary at /app/secret.py")


LAYERS = [no_row, no_value, no_page, no_file, no_memory, no_end, no_model, not_said]
DOORS = {"page": "/boom", "api": "/api/boom", "mcp": "/mcp/boom"}


@pytest.fixture
def broken(app):
    """Views that fail in a layer each, behind every door; errors are answered as in production."""
    app.testing = False

    def fails(layer: str) -> str:
        next(one for one in LAYERS if one.__name__ == layer)(app)
        return "fine"

    for name, path in DOORS.items():
        app.add_url_rule(f"{path}/<layer>", f"boom_{name}", fails, methods=["GET", "POST"])
    return app


@pytest.mark.parametrize("layer", [one.__name__ for one in LAYERS])
@pytest.mark.parametrize("door", DOORS)
def test_sec_064_what_breaks_inside_is_not_shown(broken, door, layer, caplog):
    alice = person(broken, "alice@example.com")
    known = bearer(token_of(broken, "alice@example.com"))
    path = f"{DOORS[door]}/{layer}"
    if door == "page":
        reply = alice.get(path)
    else:
        reply = broken.test_client().get(path, headers=known, base_url=HERE)
    shown = reply.text + repr(reply.headers)
    assert reply.status_code >= 500 or (door == "mcp" and reply.json["error"]["code"] == -32603)
    assert not INSIDE.search(shown), INSIDE.search(shown)
    for package in ("flask", "jinja2", "werkzeug", "sqlalchemy", "gevent", "pydantic"):
        assert importlib.metadata.version(package) not in shown
    number = reply.headers["X-Request-Id"]
    assert number in reply.text  # and in the log, with the cause
    assert number in {getattr(record, "facts", {}).get("request_id") for record in caplog.records}
    assert any(record.exc_info or "does not answer" in record.message for record in caplog.records)


SPOILED = {  # what somebody left in a row that the code does not expect
    "a config": "UPDATE oauth_config SET settings = '[1]'",
    "a kind of sign-in": "UPDATE gateway SET auth_type = 'canary'",
    "header names": "UPDATE gateway SET header_names = '7', auth_type = 'headers'",
    "an address": "UPDATE gateway SET url = 'canary://x'",
    "rights of a token": "UPDATE api_token SET scopes = '3'",
}


@pytest.mark.parametrize("what", SPOILED)
def test_sec_064_a_row_that_makes_no_sense_shows_nothing_of_itself(app, admin, what):
    world.add(app, "https://mcp.test/mcp", **world.oauth())
    client = world.Client(app)
    api = token_of(app, "admin@example.com")
    app.testing = False
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.text(SPOILED[what]))
    pages = ["/admin/gateways", "/admin/gateways/acme", "/connections", "/connections/acme"]
    replies = [admin.get(url) for url in [*pages, "/tools", "/tokens", "/admin/activity"]]
    http = app.test_client()
    for url in ("/api/v1/gateways", "/api/v1/gateways/acme", "/api/v1/connections"):
        replies.append(http.get(url, headers=bearer(api), base_url=HERE))
    replies.append(client.call())
    for reply in replies:
        assert not re.search(INSIDE.pattern.replace("|canary", ""), reply.text), reply.request.path
    assert any(reply.status_code >= 500 or "error" in reply.text for reply in replies)


# -- SEC-115 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", texts())
def test_sec_115_each_error_says_code_sentence_next_step_and_request_id(app, code):
    """As a page, as JSON and as JSON-RPC; the request id is a header, too."""
    facts = {"gateway": "acme", "name": "Acme", "retry_after": 7, "scope": "mcp"}
    # what only admins may know has a code of its own for others
    error = for_person(AppError(code, said="their words", **facts), is_admin=False)
    for path in ("/somewhere", "/api/v1/somewhere", "/mcp/acme"):
        with app.test_request_context(path, base_url=HERE):
            reply = respond(AppError(code, said="their words", **facts))
        number, text = reply.headers["X-Request-Id"], reply.get_data(as_text=True)
        if path == "/somewhere":
            words = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", text)))
            assert all(part in words for part in (error.code, error.message, error.action, number))
            assert f"/help/errors/{error.code}" in text
            continue
        said = reply.json["error"]
        if "jsonrpc" in reply.json:
            assert reply.status_code == 200 and error.message in said["message"]
            assert error.action in said["message"] + str(said["data"])
            said = said["data"]
        else:
            assert path.startswith("/api/") or code == "database_away"
            assert (said["message"], said["action"]) == (error.message, error.action)
        assert (said["code"], said["request_id"]) == (error.code, number)


def test_sec_115_a_code_that_was_published_stays():
    """Programs and help pages know them. Add; rename and remove with a note in CHANGES.md."""
    published = {
        *(
            "not_found",
            "forbidden",
            "sign_in_required",
            "invalid",
            "csrf",
            "bad_request",
            "bad_json",
        ),
        *(
            "rate_limited",
            "too_large",
            "conflict",
            "database_away",
            "internal_error",
            "not_recorded",
        ),
        *("connection_needed", "state_unknown", "state_used", "state_expired", "wrong_browser"),
        *("wrong_person", "issuer_mismatch_reply", "access_denied", "code_rejected"),
        *("provider_error", "provider_unreachable", "upstream_error", "upstream_timeout"),
        *("upstream_unreachable", "token_refused", "secret_unreadable"),
    }
    assert published <= texts().keys()
