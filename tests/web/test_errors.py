"""One error, three clothes: a page, JSON, JSON-RPC."""

import pytest

from app.errors import SignInRequired, UpstreamTimeout
from app.web.errors import respond


@pytest.mark.parametrize("url", ["/api/none", "/.well-known/none"])
def test_machines_get_errors_in_json(stranger, url):
    answer = stranger.get(url)
    assert answer.status_code == 404
    assert set(answer.json["error"]) == {"code", "message", "action", "request_id"}
    assert answer.headers["X-Request-Id"] == answer.json["error"]["request_id"]


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
