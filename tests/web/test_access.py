"""What the gate lets through, and who the rest of the app is told it is.

The walks over all routes are in tests/security.
"""

import pytest

from app.errors import SignInRequired
from app.web import auth
from tests.conftest import PASSWORD, Browser
from tests.web.credentials import bearer, csrf_of, token_of

ORIGIN = "https://gw.test"
ALICE = {"email": "alice@example.com", "password": PASSWORD}


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://gw.test", "https://gw.te"])
def test_sec_052_a_form_of_a_foreign_origin_is_refused(alice, origin):
    headers = {"Origin": origin, "Referer": f"{ORIGIN}/me"}
    sent = {"csrf_token": csrf_of(alice.get("/me"))}
    assert alice.post("/logout", data=sent, headers=headers).status_code == 403
    assert alice.get("/me").status_code == 200


def test_sec_052_our_own_origin_may(alice):
    headers = {"Origin": ORIGIN, "Referer": f"{ORIGIN}/me"}
    sent = {"csrf_token": csrf_of(alice.get("/me"))}
    assert alice.post("/logout", data=sent, headers=headers).status_code == 303


def test_sec_029_a_hostile_next_is_not_followed(app, alice):
    for url in ("//evil.test", "https://evil.test/", "/\\evil.test"):
        stranger = Browser(app)
        asked = {"query_string": {"next": url}}
        sent = ALICE | {"csrf_token": csrf_of(stranger.get("/login", **asked))}
        reply = stranger.post("/login", data=sent, headers={"Referer": f"{ORIGIN}/"}, **asked)
        assert (reply.status_code, reply.headers["Location"]) == (303, "/")


@pytest.mark.parametrize("path", ["/tokens", "/tokens?gateway=jira&q=a%20b", "/me"])
def test_after_signing_in_people_are_where_they_wanted_to_be(alice, stranger, path):
    to_login = stranger.get(path).headers["Location"]
    sent = ALICE | {"csrf_token": csrf_of(stranger.get(to_login))}
    reply = stranger.post(to_login, data=sent, headers={"Referer": f"{ORIGIN}/login"})
    assert reply.headers["Location"] == path


def test_pages_take_no_api_token(app, alice, stranger):
    header = bearer(token_of(app, "alice@example.com"))
    assert stranger.get("/me", headers=header).status_code == 302


def test_machines_take_no_cookie(alice):
    assert alice.get("/api/v1/gateways").status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        *("", "Bearer", "Bearer ", "Bearer mcpg_", "Basic {token}", "{token}", "Bearer  {token}"),
        *("Bearer {token} ", "Bearer {token}, Bearer {token}", "Bearer {token}x"),
        *("bearer\t{token}", "Bearer token={token}"),
    ],
)
def test_sec_046_only_a_bearer_in_the_header_counts(app, alice, stranger, header):
    token = token_of(app, "alice@example.com")
    said = {"Authorization": header.format(token=token)} if header else {}
    reply = stranger.get(f"/api/v1/gateways?access_token={token}", headers=said)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"].startswith('Bearer realm="MCP Gateway"')
    assert ("invalid_token" in reply.headers["WWW-Authenticate"]) == bool(header)


def test_sec_044_a_missing_scope_is_named(app, alice, stranger):
    header = bearer(token_of(app, "alice@example.com", scopes=["mcp"]))
    reply = stranger.get("/api/v1/gateways", headers=header)
    assert reply.status_code == 403
    assert reply.json["error"]["code"] == "insufficient_token_scope"
    assert 'error="insufficient_scope", scope="api:read"' in reply.headers["WWW-Authenticate"]


def test_the_audit_names_who_acts(app, alice):
    header = bearer(token_of(app, "alice@example.com"))
    with app.test_request_context("/api/v1/gateways", base_url=ORIGIN, headers=header):
        app.preprocess_request()
        actor = auth.actor()
    assert (actor.kind, actor.label) == ("token", "alice@example.com")
    with app.test_request_context("/login", base_url=ORIGIN):
        app.preprocess_request()
        assert auth.actor().kind == "anonymous" and auth.someone() is None
        with pytest.raises(SignInRequired):
            auth.person()
