"""One error, three clothes: a page, JSON, JSON-RPC."""

import pytest
import sqlalchemy as sa

from app.db import AWAY, db
from app.errors import SignInRequired, UpstreamTimeout
from app.web.errors import respond


@pytest.mark.parametrize("url", ["/api/none", "/.well-known/none"])
def test_machines_get_errors_in_json(stranger, url):
    answer = stranger.get(url)
    assert answer.status_code == 404
    error = answer.json["error"]
    assert set(error) == {"code", "message", "action", "request_id", "who", "help"}
    assert (error["who"], error["help"]) == ("person", "https://gw.test/help/errors/not_found")
    assert answer.headers["X-Request-Id"] == error["request_id"]


def test_people_get_a_page_with_cause_and_next_step(stranger):
    page = stranger.get("/nope")
    assert page.status_code == 404
    assert "There is nothing at this address" in page.text and "not_found" in page.text


@pytest.mark.parametrize(
    ("error", "status", "key"), [(SignInRequired, 401, "error"), (UpstreamTimeout, 200, "jsonrpc")]
)
def test_a_failed_call_is_no_http_error(app, error, status, key):
    with app.test_request_context("/mcp/acme", method="POST", json={"id": 7}):
        answer = respond(error())
    assert answer.status_code == status and key in answer.json
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


def test_sec_098_an_absolute_form_is_refused(app):
    reply = app.test_client().get(
        "/login", base_url="https://gw.test", environ_overrides={"RAW_URI": "http://evil/login"}
    )
    assert reply.status_code == 400


@pytest.mark.parametrize("kind", AWAY)
@pytest.mark.parametrize(("path", "status"), [("/x", 503), ("/api/x", 503), ("/mcp/x", 503)])
def test_sec_118_a_database_that_is_away_is_no_fault_of_ours(app, kind, path, status):
    error = kind() if kind is AWAY[-1] else kind("INSERT", {}, Exception("locked"))
    with app.test_request_context(path):
        reply = app.make_response(app.handle_user_exception(error))
    text = reply.get_data(as_text=True)
    assert reply.status_code == status and "database_away" in text and "INSERT" not in text
    assert reply.headers["Retry-After"] == "2"


def test_sec_111_the_text_of_a_database_error_holds_no_values(app):
    with app.app_context(), pytest.raises(sa.exc.DBAPIError) as caught:
        db.session.execute(sa.text("INSERT INTO nowhere VALUES (:x)"), {"x": "canary"})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["/connections/x%00", "/connections/x?call=%00", "/tools/x%00/y", "/api/v1/gateways/x%00"],
)
def test_the_character_nul_is_refused_before_the_database_sees_it(admin, url):
    assert admin.get(url).status_code == 400


def test_the_character_nul_in_a_form_is_refused(stranger, alice):
    page = stranger.submit("/login", email="a\0@example.com", password="x")
    assert page.status_code == 400 and "bad_request" in page.text


@pytest.mark.parametrize("host", ["evil.example", "gw.test:8443", ""])
def test_sec_098_a_foreign_host_is_refused(app, host):
    reply = app.test_client().get("/login", headers={"Host": host}, base_url="https://x")
    assert reply.status_code == 400 and "wrong_host" in reply.text


def test_sec_054_and_055_every_answer_carries_the_headers(stranger):
    for url in ("/health", "/nope", "/static/app.css", "/api/none"):
        with stranger.get(url) as reply:
            headers = reply.headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'"), url
        assert headers["X-Content-Type-Options"] == "nosniff", url
        assert "max-age" in headers["Strict-Transport-Security"], url
