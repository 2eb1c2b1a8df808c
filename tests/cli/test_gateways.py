"""flask gateways …"""

import json

import pytest

from app.models import AuditEvent, ClientRegistration, Gateway, OAuthConfig
from tests.conftest import rows
from tests.oauth.published import published
from tests.web.registry import CANARY, CODE, KINDS, NONE, add

__all__ = ["published"]  # the fixture


@pytest.fixture
def run(app):
    def run(*args, stdin=None):
        return app.test_cli_runner().invoke(args=["gateways", *args], input=stdin)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_from_stdin_is_added_and_shown_without_its_secret(app, run, kind):
    added = run("add", "-", stdin=json.dumps(KINDS[kind]))
    assert added.exit_code == 0, added.output
    slug = rows(app, Gateway)[0].slug
    assert f"https://gw.test/mcp/{slug}" in added.output
    shown = run("show", slug)
    assert json.loads(shown.output)["name"] == KINDS[kind]["name"]
    assert CANARY not in added.output + shown.output
    assert rows(app, AuditEvent)[0].actor_label == "command line"


def test_a_file_brings_oauth_configs_for_tools_along(app, run):
    writing = {"name": "Writing", "tool_patterns": [{"match": "write_*"}], "scopes": ["w"]}
    own = {"name": "Own", "tool_patterns": [{"match": "own"}], "client_id": "app-9"}
    own |= {"client_secret": f"{CANARY}-own", "authorization_url": "https://as.test/go"}
    own |= {"token_url": "https://as.test/token"}
    added = run("add", "-", stdin=json.dumps(CODE | {"tool_oauth_configs": [writing, own]}))
    assert added.exit_code == 0, added.output
    shown = run("show", "github-mcp")
    further = json.loads(shown.output)["tool_oauth_configs"]
    assert [(one["name"], one.get("client_secret")) for one in further] == [
        ("Writing", None),
        ("Own", "set"),
    ]
    assert further[0]["scopes"] == ["w"] and CANARY not in added.output + shown.output


def test_a_fault_in_an_oauth_config_for_tools_adds_nothing(app, run):
    wrong = {"name": "Writing", "tool_patterns": [], "scopes": ["w"]}
    ran = run("add", "-", stdin=json.dumps(CODE | {"tool_oauth_configs": [wrong]}))
    assert ran.exit_code == 1 and "tool_oauth_configs.0.tool_patterns: " in ran.output
    assert not rows(app, Gateway) and not rows(app, OAuthConfig)


def test_faults_are_named_by_field_and_nothing_is_added(app, run, tmp_path):
    record = {**CODE, "url": "ftp://x", "oauth_config": {**CODE["oauth_config"], "x": 1}}
    (tmp_path / "record.json").write_text(json.dumps(record))
    ran = run("add", str(tmp_path / "record.json"))
    assert ran.exit_code == 1
    assert "url: Start with https://" in ran.output
    assert "oauth_config.x: There is no such field." in ran.output
    assert CANARY not in ran.output and "Traceback" not in ran.output
    assert not rows(app, Gateway)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "a", "name": "b"}'])
def test_a_file_that_is_no_record_is_said_so(app, run, text):
    ran = run("add", "-", stdin=text)
    assert ran.exit_code == 1 and ran.output.startswith("Error: ")
    assert not rows(app, Gateway)


@pytest.mark.parametrize(
    "args",
    [
        ("add",),
        ("add", "/nowhere/record.json"),
        ("add", "-", "--url", "https://x.test"),
        ("show",),
        ("what",),
    ],
)
def test_wrong_usage_is_exit_status_2(run, args):
    assert run(*args).exit_code == 2


def test_what_was_changed_on_the_way_in_is_told(run):
    url = "https://as.test/token?scope=x"
    record = {**CODE, "oauth_config": {**CODE["oauth_config"], "token_url": url}}
    ran = run("add", "-", stdin=json.dumps(record))
    assert "Cut from the token URL, as the gateway sets it: scope." in ran.stderr


def test_the_list_has_a_line_for_each(app, run):
    add(app, NONE)
    add(app, CODE)
    assert run("list").output.splitlines() == [
        "github-mcp\ton\toauth\thttps://github-mcp.example.com/sse",
        "open\ton\tnone\thttps://open.example.com/mcp",
    ]


def test_a_deletion_asks_unless_told_yes(app, run):
    slug = add(app, CODE)
    assert run("delete", slug, stdin="n\n").exit_code == 1
    assert len(rows(app, Gateway)) == 1
    assert run("delete", slug, "--yes").exit_code == 0
    assert not rows(app, Gateway) + rows(app, ClientRegistration)


@pytest.mark.parametrize("command", [("show", "nothing"), ("delete", "nothing", "--yes")])
def test_an_unknown_gateway_is_said_so(run, command):
    ran = run(*command)
    assert ran.exit_code == 1 and "There is no gateway called nothing" in ran.output


def test_a_pasted_url_needs_no_other_field(app, run, published):
    server, provider = published()
    added = run("add", "--url", server.url)
    assert added.exit_code == 0, added.output
    assert f"People will be sent to {provider.origin.removeprefix('http://')}." in added.stderr
    config = rows(app, OAuthConfig)[0]
    assert config.token_url == f"{provider.origin}/token"
    assert config.settings["token_management"]["auto_refresh"] is True
    assert run("list").output.startswith(rows(app, Gateway)[0].slug)


def test_a_name_and_nothing_kept_can_be_asked_for(app, run, published):
    server, _ = published()
    assert run("add", "--url", server.url, "--name", "Jira", "--no-keep").exit_code == 0
    assert rows(app, Gateway)[0].slug == "jira"
    assert rows(app, OAuthConfig)[0].settings["token_management"]["store_tokens"] is False


def test_a_url_where_nobody_is_at_home_is_said_so(app, run, published):
    server, _ = published()
    server.server.stop()
    ran = run("add", "--url", server.url)
    assert ran.exit_code == 1 and "is not taking calls now" in ran.output
    assert not rows(app, Gateway)
