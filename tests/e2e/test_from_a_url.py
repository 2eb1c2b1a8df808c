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


def allowed(page, node, *, back: str = "/connections/[^/]+$") -> None:
    """The provider's own pages, where it has some, until `back` is here."""
    gateway = re.escape(node.url)
    while not re.match(gateway + back, page.url):
        page.wait_for_url(re.compile(f"^(?!{gateway})|^{gateway}{back}"))
        if page.locator("[name=username][value='']").count():
            page.get_by_label("User").fill("alice")
            page.get_by_label("Password").fill("alice-pw")
        if page.get_by_role("button").count() and not page.url.startswith(node.url):
            with page.expect_navigation(wait_until="domcontentloaded"):
                page.get_by_role("button", name=re.compile("^(Sign In|Allow)$", re.I)).click()


class Counted:
    """What a person does at the gateway, counted as it is done."""

    def __init__(self, page) -> None:
        self.page, self.clicks, self.typed = page, 0, 0

    def click(self, role: str, name: str) -> None:
        """And wait for the page that this leads to."""
        self.clicks += 1
        with self.page.expect_navigation(wait_until="domcontentloaded"):
            self.page.get_by_role(role, name=name).first.click()

    def type(self, label: str, text: str) -> None:
        self.typed += 1
        self.page.get_by_label(label).fill(text)


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


@pytest.mark.parametrize("server", ["oidc"], indirect=True, ids=str)
def test_an_admin_types_a_url_and_clicks_four_times_until_a_tool_answers(
    server, gateway_server, page, probe
):
    """From an empty database, after sign-in. The provider's Allow is beside that."""
    node = gateway_server()
    node.admin()
    signed_in(page, node)
    page.goto(node.url)
    admin = Counted(page)
    admin.click("link", "Add gateway")
    admin.type("Server URL", server.url)
    admin.click("button", "Continue")
    admin.click("button", "Save and test")
    admin.click("button", f"Connect as {EMAIL}")
    allowed(page, node, back="/admin/gateways/[^/]+/checks/[^/]+$")
    page.get_by_text("Ready. 4 tools.").wait_for()
    slug, token = page.url.split("/")[5], node.token()
    for mode in MODES:
        said = probe(f"{node.url}/mcp/{slug}", "whoami", "{}", token=token, mode=mode)
        assert "alice" in said["text"]
    assert (admin.typed, admin.clicks) == (1, 4)
