"""The product in Chromium, beside a real provider and a real MCP server.

SCREENSHOTS=DIR keeps a picture of every page, wide and narrow, light and dark.
"""

import json
import os
import re
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.gateway import PASSWORD, ROOT, Gateway
from tests.upstream import dual, upstream
from tests.web.registry import NONE

__all__ = ["upstream"]  # the fixture
PICTURES = os.environ.get("SCREENSHOTS")
WIDE = 1280
SIZES = ((WIDE, 800), (360, 740))
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
EMAIL = "ana@example.com"
NO_PAGES = (  # these lead on, or are for programs
    *("/", "/static/<path:filename>", "/oauth/connect/<slug>", "/oauth/callback/<slug>"),
    *("/health", "/ready", "/metrics", "/version", "/mcp/<slug>", "/api/openapi.json"),
    "/.well-known/oauth-protected-resource/mcp/<slug>",
    *("/admin/gateways/<slug>/checks/<run_id>.txt", "/oauth/client-metadata.json"),
    "/oauth/jwks.json",
)
looked_at: set[str] = set()


@pytest.fixture
def axe(rig_home) -> str:
    return (rig_home / "node" / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture
def world(oidc, mcp):
    """A provider, and an MCP server that takes its tokens."""
    provider = oidc(refresh="always")
    server = mcp(issuer=provider.url)
    provider.debug("config", {"resources": [server.url]})
    return provider, server


class Walk:
    """Somebody who uses one gateway with a browser."""

    def __init__(self, page: Page, gateway: Gateway, provider, server) -> None:
        self.page, self.gateway = page, gateway
        self.provider, self.server = provider, server
        provider.debug("config", {"redirects": [f"{gateway.url}/oauth/callback"]})

    def go(self, path: str) -> None:
        self.page.goto(self.gateway.url + path)

    def press(self, name: str) -> None:
        """And wait for the page that this leads to, its script included."""
        with self.page.expect_navigation(wait_until="domcontentloaded"):
            self.page.get_by_role("button", name=name, exact=False).first.click()

    def follow(self, link: Locator) -> None:
        with self.page.expect_navigation(wait_until="domcontentloaded"):
            link.click()

    def set_up(self) -> None:
        self.go("/")
        code = self.gateway.program.wait_for(r"Setup code: (\S+)")[1]
        self.page.get_by_label("Setup code").fill(code)
        self.page.get_by_label("Your email").fill(EMAIL)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.press("Create admin account")
        expect(self.page.get_by_role("heading", name="Gateways", exact=True)).to_be_visible()

    def add_gateway(self, name: str, *, keep: bool = True) -> None:
        """By hand, with the fields that a person fills in."""
        self.go("/admin/gateways/new?template=by-hand")
        fill = {
            "Name": name,
            "Server URL": self.server.url,
            "Client ID": "gateway",
            "Client secret": "gateway-secret",
            "Scopes": "mcp:tools",
            "Authorization URL": f"{self.provider.url}/auth",
            "Token URL": f"{self.provider.url}/token",
        }
        for label, text in fill.items():
            self.page.get_by_label(re.compile(rf"^{label}( optional)?$")).fill(text)
        self.page.get_by_label("Keep people connected").set_checked(keep)
        if not keep and self.page.get_by_label("Refresh tokens before").is_visible():
            self.page.get_by_label("Refresh tokens before").set_checked(False)
        self.press("Save and test")
        self.go("/".join(urlsplit(self.page.url).path.split("/")[:4]))  # past its first check
        expect(self.page.get_by_role("heading", name=name)).to_be_visible()

    def consent(self, *, allow: bool = True) -> None:
        """From the stop-over page, which goes on by itself, through the provider, and back."""
        self.page.wait_for_url(f"{self.provider.base}/**")
        if self.page.locator("[name=password]").count():
            self.page.get_by_label("User").fill("alice")
            self.page.get_by_label("Password").fill("alice-pw")
            self.press("Sign in")
        self.press("Allow" if allow else "Deny")
        self.page.wait_for_url(f"{self.gateway.url}/**")


@pytest.fixture
def walk(tab, gateway_server, world):
    def start(**options) -> Walk:
        return Walk(tab(**options), gateway_server(), *world)

    return start


def keep_picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES, f"{name}.png"), full_page=True)


def assert_fits(page: Page, width: int) -> None:
    """Q7: nothing is wider than the screen, and what is pressed is large enough."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width, page.url
    if width < 400:
        small = page.evaluate(
            "[...document.querySelectorAll('.btn, .nav a')]"
            ".filter(x => x.offsetHeight && x.offsetHeight < 44).map(x => x.outerHTML)"
        )
        assert not small, page.url


def assert_clean(page: Page, axe: str) -> None:
    """Q1, by evaluation: a script tag would be stopped by the CSP."""
    page.evaluate(axe)
    found = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)["violations"]
    told = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]
    assert not told, page.url


def look(page: Page, axe: str, name: str) -> None:
    """At a page, wide and narrow, light and dark."""
    looked_at.add(urlsplit(page.url).path)
    for width, height in SIZES:
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no half-way colours
            assert_fits(page, width)
            if (width == WIDE) == (scheme == "light"):  # each of the four once; half the time
                assert_clean(page, axe)
            keep_picture(page, f"{name}-{width}-{scheme}")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(color_scheme="light")


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_from_set_up_to_the_first_call_and_out_again(walk, script):
    """Done means, 3: set-up → add gateway → connect → consent → try a tool → disconnect."""
    me = walk(java_script_enabled=script)
    page = me.page
    me.set_up()
    me.add_gateway("Rig")

    me.go("/connections")
    expect(page.locator("li", has_text="Rig")).to_contain_text("Not connected")
    me.press("Connect")
    me.consent()
    expect(page.get_by_role("status").first).to_contain_text("Rig is connected")
    expect(page.get_by_role("status").first).to_contain_text("tools are ready")
    assert urlsplit(page.url).path == "/connections/rig" and "code=" not in page.url
    expect(page.get_by_role("heading", name="You are connected")).to_be_visible()

    me.follow(page.get_by_role("status").first.get_by_role("link", name="Try a tool"))
    me.follow(page.get_by_role("link", name="echo", exact=True))
    me.press("Run as")
    expect(page.get_by_role("alert")).to_contain_text("text is required.")
    page.get_by_label("text").fill("hello <b>there</b>")
    me.press("Run as")
    expect(page.get_by_text("The tool answered")).to_be_visible()
    assert page.locator("#answer").inner_text() == "hello <b>there</b>"

    me.go("/tools/rig/whoami")
    me.press("Run as")
    assert '"alice"' in page.locator("#answer").inner_text()

    me.go("/connections/rig")
    me.press("Disconnect")
    expect(page.get_by_role("status").first).to_contain_text("Rig is disconnected")
    expect(page.get_by_text("Disconnected", exact=True)).to_be_visible()


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_a_call_without_stored_tokens_goes_by_the_provider_and_comes_back_with_its_result(
    walk, script
):
    """The sequence of the specification, as one unbroken path of the browser (README promise 8)."""
    me = walk(java_script_enabled=script)
    page = me.page
    me.set_up()
    me.add_gateway("Rig", keep=False)

    me.go("/connections")
    me.follow(page.locator("li", has_text="Asks on each call").get_by_role("link").last)
    me.press("Sign in and list its tools")
    me.consent()
    me.follow(page.get_by_role("link", name="echo", exact=True))
    page.get_by_label("text").fill("once")
    me.press("Sign in and run")  # the provider knows her by now, and asks nothing
    page.wait_for_url(re.compile(r"/tools/rig/echo\?call="))
    expect(page.get_by_role("status").first).to_contain_text("the token is gone")
    assert page.locator("#answer").inner_text() == "once"
    assert me.server.debug("stats")["calls"] == {"echo": 1}

    page.reload()
    assert page.locator("#answer").inner_text() == "once"
    assert me.server.debug("stats")["calls"] == {"echo": 1}


def test_a_right_that_is_missing_is_granted_on_the_way_and_the_call_runs(walk):
    me = walk()
    page = me.page
    me.set_up()
    me.add_gateway("Rig")
    me.go("/connections/rig")
    me.press("Connect")
    me.consent()
    me.go("/tools/rig/secret_scope")
    me.press("Run as")
    expect(page.get_by_role("alert")).to_contain_text("this needs more rights")
    me.press("Grant it and run")
    me.consent()
    expect(page.get_by_role("status").first).to_contain_text("the call ran")
    assert page.locator("#answer").inner_text() == "the secret, for alice"


def test_who_says_no_is_told_so_and_can_try_again(walk):
    me = walk()
    page = me.page
    me.set_up()
    me.add_gateway("Rig")
    me.go("/connections/rig")
    me.press("Connect")
    me.consent(allow=False)
    expect(page.get_by_role("alert")).to_contain_text("You said no")
    expect(page.get_by_role("alert")).to_contain_text("the user said no")
    assert "state=" not in page.url
    me.press("Try again")
    me.consent()
    expect(page.get_by_role("status").first).to_contain_text("Rig is connected")


def test_q1_q7_q10_every_page_is_clean_wide_and_narrow_light_and_dark(walk, axe):
    me = walk()
    page = me.page
    me.go("/setup")
    look(page, axe, "setup")
    me.press("Create admin account")
    look(page, axe, "setup-errors")
    me.set_up()
    for name, path in {
        "gateways-none": "/admin/gateways",
        "connections-none": "/connections",
        "tools-none": "/tools",
        "tokens-none": "/tokens",
        "gateway-new-by-hand": "/admin/gateways/new?template=by-hand",
        "gateway-new-template": "/admin/gateways/new?template=auth0",
        "gateway-new": "/admin/gateways/new",
    }.items():
        me.go(path)
        look(page, axe, name)
    me.press("Continue")
    look(page, axe, "gateway-new-errors")
    me.add_gateway("Rig")
    look(page, axe, "gateway")
    me.go("/connections")
    look(page, axe, "connections-not-connected")
    me.go("/connections/rig")
    look(page, axe, "connection-not-connected")
    page.route("**/oauth/connect/rig?flow=*", lambda route: route.fulfill(status=204))
    me.press("Connect")
    page.get_by_role("heading", name="Going to").wait_for()
    look(page, axe, "going")
    page.unroute("**/oauth/connect/rig?flow=*")
    page.get_by_role("link", name="Continue").click()
    me.consent(allow=False)
    look(page, axe, "connection-refused")
    me.press("Try again")
    me.consent()
    look(page, axe, "connection-welcome")
    for name, path in {
        "gateways": "/admin/gateways",
        "gateway-edit": "/admin/gateways/rig/edit",
        "gateway-people": "/admin/gateways/rig/people",
        "gateway-delete": "/admin/gateways/rig/delete",
        "connections": "/connections",
        "connection": "/connections/rig",
        "tools": "/tools",
        "tools-of-one": "/tools?gateway=rig",
        "tools-no-match": "/tools?q=nothing",
        "tool": "/tools/rig/echo",
        "tool-with-an-odd-name": "/tools/rig/?name=echo",
        "activity": "/admin/activity",
        "activity-none": "/admin/activity?from=2999-01-01",
        "activity-errors": "/admin/activity?from=yesterday",
        "settings": "/admin/settings",
        "users": "/admin/users",
        "user-new": "/admin/users/new",
        "account": "/me",
        "token-new": "/tokens/new",
        "help": "/help",
        "help-error": "/help/errors/client_rejected",
        "help-providers": "/help/providers",
        "help-provider": "/help/providers/github",
        "config-new": "/admin/gateways/rig/configs/new",
        "not-found": "/nope",
        "no-such-gateway": "/connections/jra",
    }.items():
        me.go(path)
        look(page, axe, name)
    me.go("/admin/gateways/rig/configs/new")
    page.get_by_label("Name").fill("Writing")
    page.get_by_label("Which tools").fill("write_*")
    me.press("Save")
    me.go("/admin/gateways/rig")
    me.follow(page.get_by_role("link", name="Edit Writing"))
    look(page, axe, "config")
    me.go(f"{urlsplit(page.url).path}/delete")
    look(page, axe, "config-delete")
    me.go("/admin/gateways/rig/checks")
    look(page, axe, "checks-none")
    me.press("Run check")
    expect(page.get_by_role("status").first).to_contain_text("Ready.")
    look(page, axe, "check")
    me.go("/tools/rig/slow")
    me.press("Run as")
    look(page, axe, "tool-ran")
    me.go("/tools/rig/echo")
    me.press("Run as")
    look(page, axe, "tool-errors")
    me.go("/tools/rig/secret_scope")
    me.press("Run as")
    look(page, axe, "tool-refused")
    me.go("/tokens/new")
    page.get_by_label("Name").fill("Laptop")
    me.press("Make token")
    look(page, axe, "token-once")
    me.go("/tokens")
    look(page, axe, "tokens")
    me.follow(page.get_by_role("link", name="Laptop"))
    look(page, axe, "token-setup")
    me.go("/admin/users/new")
    me.press("Add user")
    look(page, axe, "user-new-errors")
    page.get_by_label("Email").fill("bo@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    me.press("Add user")
    me.go("/admin/users")
    me.follow(page.get_by_role("link", name="bo@example.com"))
    look(page, axe, "user")
    user = urlsplit(page.url).path
    for step in ("password", "delete"):
        me.go(f"{user}/{step}")
        look(page, axe, f"user-{step}")
    me.go("/connections/rig")
    me.press("Refresh now")
    look(page, axe, "connection-refreshed")
    me.server.stop()
    me.go("/admin/gateways/rig")
    me.press("Run check")
    expect(page.get_by_role("status").first).to_contain_text("Stopped at step 2 of 7.")
    page.reload()
    look(page, axe, "check-failed")
    me.go("/admin/gateways/rig/checks")
    look(page, axe, "checks")
    me.go("/tools?gateway=rig")
    look(page, axe, "tools-server-down")
    me.go("/tools/rig/echo")
    page.get_by_label("text").fill("x")
    me.press("Run as")
    look(page, axe, "tool-server-down")
    me.go("/admin/gateways/rig/people")
    me.follow(page.get_by_role("link", name=EMAIL).last)
    look(page, axe, "gateway-person")
    me.press("Disconnect this person")
    look(page, axe, "gateway-person-disconnected")
    page.context.clear_cookies()
    me.go("/login")
    look(page, axe, "login")
    me.press("Sign in")
    look(page, axe, "login-errors")
    me.go("/help")
    look(page, axe, "help-signed-out")
    me.go("/oauth/callback?state=x&code=y")
    look(page, axe, "callback-unknown")
    assert not_looked_at() == []


def not_looked_at() -> list[str]:
    """Pages of docs/pages.md, which a test compares with the routes of the application."""
    rows = re.findall(r"^\| `(/[^`]*)` \| GET", (ROOT / "docs" / "pages.md").read_text(), re.M)
    patterns = {rule: re.sub(r"<[^>]+>", "[^/]+", rule) for rule in rows if rule not in NO_PAGES}
    return [
        rule
        for rule, pattern in patterns.items()
        if not any(re.fullmatch(pattern, path) for path in looked_at)
    ]


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_each_step_of_a_check_is_seen_while_the_next_one_runs(
    tab, gateway_server, upstream, script
):
    seen, gateway = threading.Event(), gateway_server()

    def holds_its_tools(asked):
        if asked.rpc == "tools/list":
            seen.wait(60)
        return dual(asked)

    upstream.script = holds_its_tools
    gateway.flask("gateways", "add", "-", stdin=json.dumps(NONE | {"url": upstream.url}))
    page, admin = tab(java_script_enabled=script), gateway.admin()
    jar = [{"name": k.name, "value": k.value, "url": gateway.url} for k in admin.session.cookies]
    page.context.add_cookies(jar)
    page.goto(f"{gateway.url}/admin/gateways/open")
    page.get_by_role("button", name="Run check").click()
    steps = page.get_by_role("list").filter(has_text="Find the server").get_by_role("listitem")
    expect(steps.filter(has_text="Start an MCP session")).to_contain_text("protocol")
    assert not steps.filter(has_text="List tools").count()
    keep_picture(page, f"check-running-{script}")
    seen.set()
    expect(steps.filter(has_text="List tools")).to_be_visible()
    expect(page.get_by_role("status").first).to_be_visible()


def test_q8_the_menu_opens_by_keyboard_and_the_skip_link_comes_first(walk):
    me = walk(viewport={"width": 360, "height": 740})
    page = me.page
    me.set_up()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.get_by_role("button", name="Menu").press("Enter")
    link = page.get_by_role("link", name="My connections")
    expect(link).to_be_visible()
    page.keyboard.press("Escape")
    expect(link).to_be_hidden()


def test_q7_long_words_without_a_break_make_no_page_wider_than_the_screen(tab, gateway_server):
    gateway, name = gateway_server(), "W" * 100
    email = f"{'a' * 60}@{'b' * 63}.{'c' * 63}.example"
    page, admin = tab(viewport={"width": 360, "height": 740}), gateway.admin()
    gateway.flask("gateways", "add", "-", stdin=json.dumps(NONE | {"name": name, "slug": "long"}))
    new = admin.at("/admin/users/new")
    assert admin.submit(new, email=email, role="user", password=PASSWORD + "!").ok
    user = re.findall(r"/admin/users/[0-9a-f]{32}", admin.at("/admin/users").text)
    jar = [{"name": k.name, "value": k.value, "url": gateway.url} for k in admin.session.cookies]
    page.context.add_cookies(jar)
    paths = ["/connections", "/tools", "/admin/gateways", "/admin/users", "/admin/activity"]
    paths += ["/connections/long", "/tools?gateway=long", "/connections/" + "x" * 200]
    paths += [f"/admin/gateways/long{step}" for step in ("", "/edit", "/people", "/delete")]
    paths += [f"{one}{step}" for one in set(user) for step in ("", "/password", "/delete")]
    for path in paths:
        page.goto(gateway.url + path)
        assert_fits(page, 360)
        wide = (
            "[...document.querySelectorAll('main td, main th, main a')].filter(x => x.offsetWidth"
        )
        cut = page.evaluate(
            f"{wide} && x.getBoundingClientRect().right > 360).map(x => x.outerHTML)"
        )
        assert not cut, path  # nor cut off


def test_q9_a_failed_form_takes_the_focus_to_its_problems_and_keeps_what_was_typed(walk):
    me = walk()
    page = me.page
    me.set_up()
    me.go("/admin/gateways/new?template=by-hand")
    page.get_by_label("Server URL").fill("ftp://nowhere")
    me.press("Save")
    expect(page).to_have_title(re.compile("^Error: "))
    expect(page.locator(".sum")).to_be_focused()
    field = page.get_by_label("Server URL")
    assert field.input_value() == "ftp://nowhere"
    assert field.get_attribute("aria-invalid") == "true"
    named = field.get_attribute("aria-describedby").split()
    assert any("https://" in page.locator(f"#{one}").inner_text() for one in named)
    page.get_by_role("link", name="https://").first.click()
    expect(field).to_be_focused()
