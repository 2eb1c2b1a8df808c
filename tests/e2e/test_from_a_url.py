"""From the URL of a server to a call of its tools: nobody types what the server says of itself."""

from __future__ import annotations

import functools
import json
import re

import pytest

from demo.person import Person
from tests.e2e.gateway import PASSWORD

EMAIL = "admin@example.com"
LINK = re.compile(r"http://[^\s\"\\]+/connections/rig\?ask=[\w.-]+")
MODES = ("auto", "legacy")
TOOLS = {
    "oidc": ("whoami", "{}", "alice"),
    "simple_auth": ("get_time", "{}", "current_time"),
    "ts_oauth": ("greet", '{"name": "Ana"}', "Hello, Ana!"),
    "fastmcp": ("whoami", "{}", "with mcp:tools"),
}


@pytest.fixture
def server(request):
    """The MCP server of this case; its provider knows of no gateway."""
    if request.param != "oidc":
        return request.getfixturevalue(request.param)
    op = request.getfixturevalue("oidc")()
    server = request.getfixturevalue("mcp")(issuer=op.url)
    op.debug("config", {"resources": [server.url]})
    return server


def signed_in(page, node) -> None:
    """Once a day, so not counted."""
    jar = Person(node.url).login(EMAIL, PASSWORD).session.cookies
    page.context.add_cookies([{"name": k.name, "value": k.value, "url": node.url} for k in jar])


def pressed(page, button: str) -> None:
    with page.expect_navigation(wait_until="commit"):
        page.get_by_role("button", name=button).click()


def allowed(page, node) -> None:
    """The provider's own pages, where it has some."""
    while not page.url.startswith(f"{node.url}/connections/"):
        page.wait_for_url(re.compile(rf"^(?!{re.escape(node.url)})|/connections/"))
        if page.locator("[name=username][value='']").count():
            page.get_by_label("User").fill("alice")
            page.get_by_label("Password").fill("alice-pw")
        if page.get_by_role("button").count() and not page.url.startswith(node.url):
            with page.expect_navigation(wait_until="domcontentloaded"):
                page.get_by_role("button", name=re.compile("^(Sign In|Allow)$", re.I)).click()


@pytest.mark.parametrize("server", TOOLS, indirect=True, ids=str)
def test_a_url_and_one_press_of_connect_serve_clients_of_both_eras(
    request, server, gateway_server, page, probe
):
    """Tokens are kept. Nothing is typed at the gateway, and one button pressed."""
    node = gateway_server()
    node.admin()
    node.flask("gateways", "add", "--url", server.url, "--name", "Rig")
    signed_in(page, node)
    page.goto(f"{node.url}/connections")
    pressed(page, "Connect")
    allowed(page, node)
    assert "Rig is connected" in page.inner_text("main")
    tool, arguments, answer = TOOLS[request.node.callspec.params["server"]]
    token = node.token()
    for mode in MODES:
        said = probe(f"{node.url}/mcp/rig", tool, arguments, token=token, mode=mode)
        assert answer in said["text"]


@pytest.mark.parametrize("server", TOOLS, indirect=True, ids=str)
def test_where_tokens_are_not_kept_each_call_of_both_eras_asks_and_runs(
    request, server, gateway_server, page, probe
):
    node = gateway_server()
    node.admin()
    node.flask("gateways", "add", "--url", server.url, "--name", "Rig", "--no-keep")
    signed_in(page, node)
    tool, arguments, answer = TOOLS[request.node.callspec.params["server"]]
    token = node.token()
    for mode in MODES:
        call = functools.partial(probe, f"{node.url}/mcp/rig", tool, arguments, token=token)
        asked = json.dumps(call(mode=mode))
        assert answer not in asked
        page.goto(LINK.search(asked)[0])
        pressed(page, "Sign in and run it")
        allowed(page, node)
        assert answer in page.inner_text("main")
        assert answer in call(mode=mode)["text"]
