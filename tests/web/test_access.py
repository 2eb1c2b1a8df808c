"""What the gate lets through, and who the rest of the app is told it is."""

import re

import pytest

from app.db import db
from app.errors import SignInRequired
from app.web import auth
from tests.conftest import PASSWORD, Browser
from tests.web.credentials import bearer, csrf_of, token_of

OPEN = {  # reviewed: what anybody may ask for without a credential (SEC-031)
    *("/static/<path:filename>", "/health", "/ready", "/login", "/setup"),
    *("/oauth/callback", "/oauth/callback/<slug>", "/oauth/client-metadata.json"),
    *("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"),
    *("/.well-known/oauth-protected-resource/mcp/<slug>", "/help", "/help/"),
    *("/help/errors/<code>", "/help/providers/<template>"),
}
ORIGIN = "https://gw.test"
ALICE = {"email": "alice@example.com", "password": PASSWORD}


def routes(app):
    """Every route and method, with something in the place of its variables."""
    for rule in app.url_map.iter_rules():
        url = re.sub(r"<[^>]+>", "a" * 32, rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            yield rule.rule, method, url


def test_sec_031_without_a_credential_every_route_is_closed_unless_reviewed(app, alice, stranger):
    for rule, method, url in routes(app):
        if rule in OPEN:
            continue
        reply = stranger.client.open(url, method=method, base_url=ORIGIN)
        assert reply.status_code in (401, 302, 303), (rule, method)
        if reply.status_code != 401:
            assert reply.headers["Location"].startswith("/login?next=/"), (rule, method)


def test_sec_031_what_is_open_is_what_was_reviewed(app):
    opened = {rule for rule, _, _ in routes(app) if auth.PUBLIC.fullmatch(rule)}
    assert opened | set(auth.WITHOUT_COOKIES) <= OPEN


def test_sec_061_pages_for_admins_are_closed_for_others(app, admin, alice):
    for rule, method, url in routes(app):
        if rule.startswith("/admin") and method == "GET":
            page = alice.get(url)
            assert page.status_code == 403 and "admin@example.com" in page.text, rule


def test_sec_052_every_unsafe_method_wants_the_token_of_this_session(app, admin, alice):
    """None, and another session's."""
    foreign, came_from = csrf_of(admin.get("/me")), {"Referer": f"{ORIGIN}/me"}
    alice.get("/me")
    for rule, method, url in routes(app):
        if auth.is_for_machines(rule) or method == "GET" or rule.startswith("/admin"):
            continue
        for token in ("", foreign):
            sent = {"data": {"csrf_token": token}, "headers": came_from}
            reply = alice.client.open(url, method=method, base_url=ORIGIN, **sent)
            assert reply.status_code == 403 and "csrf" in reply.text, (rule, method)


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


def everything(app):
    with app.app_context(), db.engine.connect() as link:
        tables = db.metadata.sorted_tables
        return {table.name: sorted(map(repr, link.execute(table.select()))) for table in tables}


def test_sec_053_getting_a_page_changes_nothing(app, admin):
    before = everything(app)
    for rule, method, url in routes(app):
        if method == "GET" and rule not in OPEN:
            assert admin.get(url).status_code < 500, rule
    assert everything(app) == before


def test_sec_051_cookies_are_host_only_secure_and_hidden_from_scripts(app, alice):
    page = Browser(app).submit("/login", **ALICE)
    cookies = page.headers.getlist("Set-Cookie")
    names = {cookie.partition("=")[0] for cookie in cookies}
    assert names == {"__Host-signed_in", "__Host-session"}
    for cookie in cookies:
        flags = {part.strip() for part in cookie.split(";")[1:]}
        assert flags >= {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"}, cookie
        assert "Domain" not in cookie


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
