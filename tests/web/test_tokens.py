"""API tokens: made, shown once, revoked, and what people paste into their clients."""

import json
import re
import shlex

import pytest

from app.db import db
from app.models import ApiToken, AuditEvent, Gateway
from app.web.me import snippets
from tests.conftest import Browser, person, rows
from tests.web.credentials import bearer, csrf_of

FIELDS = {"name": "Laptop", "ends": "90", "scopes": ["mcp"], "which": "all"}


def make(browser, **fields):
    """Fill in the form as its page came, one-use id included."""
    page = browser.get("/tokens/new")
    form_id = re.search(r'name="form_id"[^>]*value="([^"]+)', page.text)[1]
    sent = {"csrf_token": csrf_of(page), "form_id": form_id} | FIELDS | fields
    return browser.post("/tokens/new", data=sent, headers={"Referer": "https://gw.test/tokens/new"})


def shown_on(page) -> str:
    return re.search(r'<code id="token">(mcpg_[A-Za-z0-9_-]{43})</code>', page.text)[1]


@pytest.fixture
def jira(app) -> Gateway:
    return gateway(app, "jira")


def gateway(app, slug) -> Gateway:
    with app.app_context():
        row = Gateway(slug=slug, name=slug.title(), url=f"https://{slug}.test/mcp")
        row.auth_type = "none"
        db.session.add(row)
        db.session.commit()
        db.session.refresh(row)
        db.session.expunge(row)
        return row


def test_sec_045_a_token_is_shown_once_and_kept_as_a_hash(app, alice):
    page = make(alice)
    assert page.status_code == 200 and page.headers["Cache-Control"] == "no-store"
    token = shown_on(page)
    (row,) = rows(app, ApiToken)
    assert token not in repr(vars(row)) and len(row.token_hash) == 64
    assert row.hint == f"{token[:8]}…{token[-4:]}"
    for url in ("/tokens", f"/tokens/{row.id}/setup"):
        later = alice.get(url).text
        assert token not in later and row.hint in later
    assert "YOUR_TOKEN" in later


def test_it_works_at_once(app, alice, stranger):
    token = shown_on(make(alice, scopes=["mcp", "api:read"]))
    assert stranger.get("/api/v1/gateways", headers=bearer(token)).status_code == 200


def test_a_reload_of_the_once_page_makes_no_second_token(app, alice):
    page = alice.get("/tokens/new")
    form_id = re.search(r'name="form_id"[^>]*value="([^"]+)', page.text)[1]
    sent = {"csrf_token": csrf_of(page), "form_id": form_id} | FIELDS
    headers = {"Referer": "https://gw.test/tokens/new"}
    assert alice.post("/tokens/new", data=sent, headers=headers).status_code == 200
    again = alice.post("/tokens/new", data=sent, headers=headers)
    assert again.status_code == 303
    assert "This token was shown already" in alice.get("/tokens").text
    assert len(rows(app, ApiToken)) == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": ""}, "Give it a name"),
        ({"name": "x" * 101}, "1 to 100 characters"),
        ({"scopes": []}, "Choose at least one thing it may do"),
        ({"which": "chosen"}, "Choose at least one gateway"),
        ({"form_id": "mine"}, "Load this page again"),
    ],
)
def test_a_wrong_form_makes_nothing(app, alice, jira, fields, sentence):
    page = make(alice, **fields)
    assert page.status_code == 422 and sentence in page.text
    assert rows(app, ApiToken) == []


def test_a_token_may_be_for_chosen_gateways_only(app, alice, jira):
    gateway(app, "wiki")
    page = make(alice, which="chosen", gateways=[jira.id])
    (row,) = rows(app, ApiToken)
    assert row.gateway_ids == [jira.id]
    assert "/mcp/jira" in page.text and "/mcp/wiki" not in page.text


@pytest.mark.parametrize(("ends", "days"), [("30", 30), ("365", 365), ("never", None)])
def test_a_token_ends_when_it_was_said(app, alice, ends, days):
    make(alice, ends=ends)
    (row,) = rows(app, ApiToken)
    length = row.expires_at and (row.expires_at - row.created_at).total_seconds() / 86_400
    assert length == pytest.approx(days, abs=0.01) if days else length is None


def test_sec_045_a_revoked_token_is_refused_at_once_and_leaves_the_list(app, alice, stranger):
    token = shown_on(make(alice, scopes=["api:read"]))
    assert stranger.get("/api/v1/gateways", headers=bearer(token)).status_code == 200
    (row,) = rows(app, ApiToken)
    assert alice.submit(f"/tokens/{row.id}/revoke", at="/tokens").status_code == 303
    assert stranger.get("/api/v1/gateways", headers=bearer(token)).status_code == 401
    page = alice.get("/tokens").text
    assert "Laptop was revoked" in page and "No tokens yet" in page


def test_sec_061_a_token_of_somebody_else_is_not_found(app, alice):
    make(alice)
    (row,) = rows(app, ApiToken)
    bob = person(app, "bob@example.com")
    assert row.name not in bob.get("/tokens").text
    assert bob.get(f"/tokens/{row.id}/setup").status_code == 404
    assert bob.submit(f"/tokens/{row.id}/revoke", at="/me").status_code == 404
    assert rows(app, ApiToken)[0].revoked_at is None


def test_the_last_use_and_the_client_are_noted_after_the_answer(app, alice, stranger):
    token = shown_on(make(alice, scopes=["api:read"]))
    assert "waiting for the first call" in alice.get("/tokens").text
    agent = {"User-Agent": "claude-code/2.1 (cli)\x1b"}
    with stranger.get("/api/v1/gateways", headers=bearer(token) | agent) as reply:
        assert reply.status_code == 200
    (row,) = rows(app, ApiToken)
    assert row.used_at and row.used_by == "claude-code/2.1 (cli)"
    assert "claude-code/2.1 (cli)" in alice.get("/tokens").text


def test_making_and_revoking_is_recorded(app, alice):
    make(alice)
    (row,) = rows(app, ApiToken)
    alice.submit(f"/tokens/{row.id}/revoke", at="/tokens")
    seen = {(e.action, e.actor_label, e.subject_label) for e in rows(app, AuditEvent)}
    assert ("api_token.created", "alice@example.com", "Laptop") in seen
    assert ("api_token.revoked", "alice@example.com", "Laptop") in seen


def test_names_are_text(app, alice):
    make(alice, name="<script>alert(1)</script>")
    assert "<script>alert" not in alice.get("/tokens").text


# -- set-up of clients ----------------------------------------------------------------------------

TOKEN = "mcpg_" + "x" * 43
URLS = {slug: f"https://gw.test/mcp/{slug}" for slug in ("jira", "wiki")}
CLIENTS = {c.name: c for c in snippets.clients(URLS, TOKEN)}


def file_of(name):
    return json.loads(CLIENTS[name].parts[0].text)


def test_claude_code_gets_a_command_for_each_gateway():
    lines = CLIENTS["Claude Code"].parts[0].text.splitlines()
    assert shlex.split(lines[1]) == [
        *("claude", "mcp", "add", "--transport", "http", "wiki", "https://gw.test/mcp/wiki"),
        *("--header", f"Authorization: Bearer {TOKEN}"),
    ]


def test_vs_code_asks_for_the_token_so_its_file_can_be_committed():
    file = file_of("VS Code")
    assert TOKEN not in json.dumps(file)
    (asked,) = file["inputs"]
    assert asked["type"] == "promptString" and asked["password"] is True
    assert file["servers"]["jira"] == {
        "type": "http",
        "url": "https://gw.test/mcp/jira",
        "headers": {"Authorization": f"Bearer ${{input:{asked['id']}}}"},
    }


def test_cursor_takes_the_token_from_its_environment():
    file = file_of("Cursor")
    assert TOKEN not in json.dumps(file)
    assert file["mcpServers"]["wiki"]["headers"] == {
        "Authorization": "Bearer ${env:MCP_GATEWAY_TOKEN}"
    }
    assert CLIENTS["Cursor"].parts[1].text == f"export MCP_GATEWAY_TOKEN={TOKEN}"


def test_claude_desktop_goes_through_mcp_remote():
    jira = file_of("Claude Desktop")["mcpServers"]["jira"]
    assert jira["command"] == "npx" and "https://gw.test/mcp/jira" in jira["args"]
    header = jira["args"][jira["args"].index("--header") + 1]
    assert " " not in header and header == "Authorization:${AUTH_HEADER}"
    assert jira["env"]["AUTH_HEADER"] == f"Bearer {TOKEN}"


def test_curl_sends_a_message_that_can_be_read():
    words = shlex.split(CLIENTS["curl"].parts[0].text.replace("\\\n", ""))
    assert words[1] == "https://gw.test/mcp/jira"
    assert json.loads(words[words.index("-d") + 1])["method"] == "initialize"
    assert f"Authorization: Bearer {TOKEN}" in words


def test_without_a_gateway_the_snippets_say_where_its_name_goes(alice):
    assert "/mcp/GATEWAY" in make(alice).text


# -- the command ----------------------------------------------------------------------------------


def run(app, *words, stdin=""):
    return app.test_cli_runner().invoke(args=[*words], input=stdin)


def test_a_token_by_command_prints_nothing_else(app, alice, stranger):
    done = run(app, "tokens", "create", "alice@example.com", "--name", "ci", "--scope", "api:read")
    assert re.fullmatch(r"mcpg_[A-Za-z0-9_-]{43}\n", done.output)
    header = bearer(done.output.strip())
    assert stranger.get("/api/v1/gateways", headers=header).status_code == 200
    listed = run(app, "tokens", "list", "alice@example.com").output.split("\t")
    assert run(app, "tokens", "revoke", listed[0]).exit_code == 0
    assert stranger.get("/api/v1/gateways", headers=header).status_code == 401


def test_a_token_by_command_has_the_limits_it_was_given(app, alice, jira):
    words = ["--name", "ci", "--gateway", "jira", "--never"]
    run(app, "tokens", "create", "alice@example.com", *words)
    (row,) = rows(app, ApiToken)
    assert (row.scopes, row.gateway_ids, row.expires_at) == (["mcp"], [jira.id], None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tokens", "create", "nobody@example.com", "--name", "x"], "There is nobody called"),
        (["tokens", "create", "alice@example.com", "--name", ""], "name: Give it a name"),
        (["tokens", "create", "alice@example.com", "--name", "x", "--gateway", "no"], "called no"),
        (["tokens", "revoke", "0" * 32], "There is no such API token"),
        (["users", "create", "alice@example.com", "--password-stdin"], "already an account"),
        (["users", "create", "cy@example.com", "--password-stdin"], "at least 12 characters"),
    ],
)
def test_a_command_that_cannot_says_why(app, alice, words, sentence):
    stdin = "short\n" if "cy@example.com" in words else "four quiet zebras knit\n"
    done = run(app, *words, stdin=stdin)
    assert done.exit_code == 1 and sentence in done.output


def test_people_by_command_sign_in_with_the_password_as_it_was_typed(app):
    password = "  four quiet zebras "
    done = run(app, "users", "create-admin", "Ana@example.com", "--password-stdin", stdin=password)
    assert done.output == "ana@example.com can sign in, as admin.\n"
    browser = Browser(app).login("ana@example.com", password)
    assert browser.get("/admin/users").status_code == 200
    run(
        app,
        "users",
        "set-password",
        "ana@example.com",
        "--password-stdin",
        stdin="x" * 3 + "yz" * 9,
    )
    assert browser.get("/admin/users").status_code == 302
    assert "ana@example.com\tadmin\tenabled" in run(app, "users", "list").output


def test_a_password_is_asked_for_twice_and_not_shown(app):
    typed = "four quiet zebras knit\n" * 2
    done = run(app, "users", "create", "cy@example.com", stdin=typed)
    assert done.exit_code == 0 and "zebras" not in done.output
