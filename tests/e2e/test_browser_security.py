"""What a browser must not do on our pages, in Chromium. One server, one hostile neighbour."""

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from playwright.sync_api import Error, Page, expect

from tests.e2e.gateway import PASSWORD, Gateway
from tests.upstream import Said, Seen, Upstream, legacy, result, says

EMAIL = "admin@example.com"
XSS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "'><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "<!--><script>alert(1)</script>-->",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<iframe src=javascript:alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "javascript:alert(1)//",
    "JaVaScRiPt:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "<body onload=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<math><mi xlink:href='javascript:alert(1)'>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><use href='data:image/svg+xml,x'/></svg>",
    "<object data=javascript:alert(1)>",
    "<embed src=javascript:alert(1)>",
    "<form action=javascript:alert(1)><button>",
    "<meta http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "<base href=https://evil.test/>",
    "<link rel=stylesheet href=https://evil.test/x.css>",
    "{{7*7}}${7*7}<%= 7*7 %>",
    '" onmouseover="alert(1)" x="',
    "' autofocus onfocus='alert(1)",
    "`${alert(1)}`<x-canary id=canary>",
]
# Nothing in a page may be what one of them would make of it.
PLANTED = """() => [...document.querySelectorAll('*')].filter(one =>
    /^(iframe|object|embed|base|math|x-canary|style)$/i.test(one.tagName)
    || (one.tagName === 'SCRIPT' && !one.src.startsWith(location.origin + '/static/'))
    || [...one.attributes].some(a => /^on/i.test(a.name) || /^\\s*(javascript|data):/i.test(a.value)
        && /^(href|src|action|formaction|xlink:href|data|srcdoc)$/i.test(a.name))
).map(one => one.outerHTML.slice(0, 200))"""


class Neighbour:
    """A hostile provider and MCP server, on another origin of this machine."""

    def __init__(self) -> None:
        self.server = Upstream()
        self.server.script = self.answer
        self.port = urlsplit(self.server.url).port
        self.url = f"http://127.0.0.1:{self.port}"
        self.denies = False
        self.pages: dict[str, str] = {}

    def answer(self, seen: Seen) -> Said:
        path, _, query = seen.path.partition("?")
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        if path == "/go":  # over a third origin, as some providers do
            return Said(302, b"", {"Location": f"http://localhost:{self.port}/hop?{query}"})
        if path == "/hop":
            back = {"state": asked["state"], "code": "the-code"}
            if self.denies:
                back = {"state": asked["state"], "error": XSS[0], "error_description": XSS[1]}
            return Said(302, b"", {"Location": f"{asked['redirect_uri']}?{urlencode(back)}"})
        if path == "/token":
            return says({"access_token": "at", "token_type": "Bearer", "expires_in": 3600})
        if path == "/me":
            return says({"name": XSS[2]})
        if path == "/html":
            return Said(200, b"<title>pwned</title>", {"Content-Type": "text/html"})
        if path in self.pages:
            return Said(200, self.pages[path].encode(), {"Content-Type": "text/html"})
        return self.tools(seen) if path == "/mcp" else Said(404)

    @staticmethod
    def tools(seen: Seen) -> Said:
        """Tools that are attacks from their names to their results."""
        if seen.rpc == "tools/list":
            return says(result(seen, tools=[tool(n, text) for n, text in enumerate(XSS)]))
        if seen.rpc == "tools/call":
            content = [{"type": "text", "text": text} for text in XSS]
            return says(result(seen, content=content, structuredContent={"x": XSS}))
        return legacy(seen)


def tool(number: int, text: str) -> dict[str, object]:
    field = {"type": "string", "title": text, "description": text, "default": text}
    chosen = {"type": "string", "enum": XSS[:3], "description": text}
    schema = {"type": "object", "properties": {"a": field, text[:60]: field, "b": chosen}}
    facts = {"title": text, "description": text, "inputSchema": schema}
    return {"name": f"t{number}-{re.sub(r'[^A-Za-z]', '', text)[:20]}", **facts}


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Neighbour]:
    one = Neighbour()
    yield one
    one.server.stop()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, neighbour) -> Iterator[Gateway]:
    """Everything that takes text holds an attack."""
    path = tmp_path_factory.mktemp("security") / "gateway.db"
    limits = {"OAUTH_MAX_AUTHORIZATION_ATTEMPTS": 1000}
    with Gateway(f"sqlite:///{path}", **limits) as running:
        admin = running.admin(EMAIL)
        running.flask(
            *("users", "create", '"><svg/onload=alert(1)>@example.com', "--password-stdin"),
            stdin=f"{PASSWORD}\n",
        )
        admin.submit(admin.at("/tokens/new"), name=XSS[1])
        token = running.token(EMAIL, scope="api:write")
        fill(running, token, neighbour)
        yield running


def fill(running: Gateway, token: str, neighbour: Neighbour) -> None:
    header = {"Authorization": f"Bearer {token}"}
    for number, text in enumerate(XSS):
        record = {
            "name": text,
            "slug": f"g{number}",
            "description": text,
            "url": f"{neighbour.url}/x",
        }
        record["oauth_config"] = {
            "grant_type": "authorization_code",
            "client_id": text,
            "client_secret": "s",
            "authorization_url": f"{neighbour.url}/go?x={number}",
            "token_url": f"{neighbour.url}/token",
            "audience": text,
            "extra_authorize_params": {"prompt": text},
            "userinfo_url": f"{neighbour.url}/me",
            "account_path": ["name"],
            "token_management": {"store_tokens": True},
        }
        send(running, header, record | {"auth_type": "oauth"})
    for name, path in (("Tools", "mcp"), ("Html", "html")):
        record = {"name": name, "slug": name.lower(), "url": f"{neighbour.url}/{path}"}
        send(running, header, record | {"auth_type": "none"})


def send(running: Gateway, header: dict[str, str], record: dict[str, object]) -> None:
    made = requests.post(f"{running.url}/api/v1/gateways", json=record, headers=header, timeout=30)
    assert made.status_code == 201, made.text


def sign_in(page: Page, gateway: Gateway, path: str = "/me") -> Page:
    page.goto(gateway.url + path)
    page.get_by_label("Email").fill(EMAIL)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile(re.escape(path)))
    return page


def flows(gateway: Gateway) -> int:
    path = gateway.env["DATABASE_URL"].removeprefix("sqlite:///")
    with sqlite3.connect(path) as link:
        return link.execute("SELECT count(*) FROM flow").fetchone()[0]


# -- SEC-056, SEC-054, SEC-063 ---------------------------------------------------------------------


def test_sec_056_054_and_063_no_text_of_anybody_becomes_more_than_text(tab, gateway, neighbour):
    """Every page, found by its links; with the network cut to all but ourselves.

    The fixture `tab` fails for a breach of the CSP and for an error in a script.
    """
    context = {"user_agent": XSS[3]}
    page = sign_in(tab(**context), gateway)
    dialogs, strangers = [], []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))

    def only_us(route):
        if not route.request.url.startswith(gateway.url + "/"):
            strangers.append(route.request.url)
            return route.abort()
        return route.continue_()

    page.route("**/*", only_us)
    waiting, seen = ["/", "/tools?gateway=tools", "/help"], set()
    while waiting:
        path = waiting.pop(0)
        kind = _kind(path)
        alike = sum(_kind(one) == kind for one in seen)
        if path in seen or alike >= MOST.get(kind, 2) or "format=csv" in path:
            continue
        seen.add(path)
        page.goto(gateway.url + path)
        found = page.evaluate(PLANTED)
        assert not found, (path, found)
        links = page.eval_on_selector_all("a[href]", "all => all.map(one => one.href)")
        for link in links:
            assert urlsplit(link).scheme in ("http", "https"), (path, link)
            if link.startswith(gateway.url + "/") and "#" not in link:
                waiting.append(link.removeprefix(gateway.url))
    assert not dialogs and not strangers
    assert len({_kind(path) for path in seen}) > 20, seen


# Lists show each string; pages of one thing are looked at for some of them, else for two.
MOST = {"/admin/gateways/*": 6, "/connections/*": 6, "/tools/tools/*": 6}


def _kind(path: str) -> str:
    """Its route, roughly: without what is different in each of many."""
    names = r"(?<=/errors/)\w+|(?<=/)[gt]\d+[^/?]*|[0-9a-f]{32}"
    return re.sub(names, "*", path.partition("?")[0])


def test_sec_056_what_a_tool_answers_and_a_provider_says_is_text(tab, gateway, neighbour):
    page = sign_in(tab(), gateway, "/tools?gateway=tools")
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.locator("a[href^='/tools/tools/']").first.click()
    page.get_by_role("button", name="Run as").click()
    expect(page.locator("#answer")).to_contain_text(XSS[0])
    assert not page.evaluate(PLANTED)
    neighbour.denies = True
    try:
        page.goto(f"{gateway.url}/connections/g0")
        page.get_by_role("button", name="Connect").first.click()
        expect(page.get_by_role("alert")).to_contain_text("onerror=alert(1)")
    finally:
        neighbour.denies = False
    assert not page.evaluate(PLANTED)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("status").first).to_contain_text("svg onload")  # the account's name
    assert not page.evaluate(PLANTED) and not dialogs


def test_sec_054_and_013_a_consent_over_a_third_origin_arrives_and_leaves_no_code(tab, gateway):
    """`form-action 'self'` holds for every redirect after a form; the stop-over page ends it."""
    page, asked = tab(), []
    page.on("request", lambda request: asked.append(request))
    sign_in(page, gateway, "/connections/g1")
    page.get_by_role("button", name="Connect").first.click()
    page.wait_for_url(f"{gateway.url}/connections/g1")
    expect(page.get_by_role("status").first).to_contain_text("is connected")
    paths = [urlsplit(one.url).path for one in asked]
    hops = [path for path in paths if path in ("/go", "/hop", "/oauth/callback")]
    assert hops == ["/go", "/hop", "/oauth/callback"]
    after = asked[paths.index("/oauth/callback") + 1 :]
    for request in after:
        assert "code=" not in request.url + request.headers.get("referer", "")
        assert "state=" not in request.headers.get("referer", "")
    history = page.evaluate("performance.getEntriesByType('navigation')[0].name")
    assert "code=" not in history and "code=" not in page.url


# -- SEC-004, SEC-057, SEC-039 ---------------------------------------------------------------------


def test_sec_004_and_057_another_origin_starts_nothing_and_frames_nothing(
    browser, gateway, neighbour
):
    """Of the same site even, as it is the same host: the browser sends our cookies along."""
    start = f"{gateway.url}/oauth/connect/g2"
    framed = ["/login", "/me", "/connections/g2", "/oauth/callback?state=x&code=y", "/help"]
    frames = "".join(f'<iframe src="{gateway.url}{path}"></iframe>' for path in framed)
    neighbour.pages |= {
        "/attack": f"""<title>attack</title><link rel=prefetch href="{start}"><img src="{start}">
            <link rel=stylesheet href="{start}">{frames}<iframe name=f></iframe>
            <form id=post method=post action="{start}" target=f><input name=ask value=""></form>
            <form id=text method=post action="{start}" enctype="text/plain" target=f></form>
            <script>post.submit(); text.submit();
            fetch("{start}", {{method: "POST", credentials: "include", mode: "no-cors"}})
              .then(() => document.title = "sent", () => document.title = "sent");</script>""",
    }
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(15_000)
        sign_in(page, gateway)
        before, hits = flows(gateway), len(neighbour.server.seen)
        posted = []
        page.on("response", lambda reply: posted.append((reply.request.method, reply.status)))
        page.goto(f"{neighbour.url}/attack")
        expect(page).to_have_title("sent")
        page.wait_for_load_state("networkidle")
        assert ("POST", 403) in posted and ("POST", 200) not in posted
        texts = [
            frame.evaluate("document.documentElement.innerText")
            for frame in page.frames[1:]
            if frame.url.startswith("chrome-error:")
        ]
        assert len(page.frames) == len(framed) + 2
        ours = [frame for frame in page.frames[1:] if frame.url.startswith(gateway.url)]
        assert not ours and len(texts) >= len(framed)
        assert not [text for text in texts if EMAIL in text]
        page.goto(start)  # a link that somebody clicks
        assert urlsplit(page.url).path == "/connections/g2"
        assert flows(gateway) == before
        reached = [seen.path for seen in neighbour.server.seen[hits:]]
        assert reached and not [path for path in reached if path.startswith("/go")]


def test_sec_039_what_a_server_sends_as_a_page_does_not_run_on_our_origin(browser, gateway):
    token = gateway.token(EMAIL)
    with browser.new_context() as context:
        page = context.new_page()
        context.set_extra_http_headers({"Authorization": f"Bearer {token}"})
        page.goto(f"{gateway.url}/help")
        told = page.evaluate(
            """async token => {
                const headers = {
                    Authorization: 'Bearer ' + token,
                    'Content-Type': 'application/json',
                    Accept: 'application/json, text/event-stream',
                };
                const body = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}';
                const reply = await fetch('/mcp/html', {method: 'POST', headers, body});
                return [reply.status, reply.headers.get('content-type'), await reply.text(),
                    reply.headers.get('x-content-type-options')];
            }""",
            token,
        )
        assert told[:2] == [200, "application/json"] and told[3] == "nosniff"
        assert "error" in json.loads(told[2]) and "pwned" not in told[2]
        with contextlib.suppress(Error):  # a refusal without a body is no page at all
            page.goto(f"{gateway.url}/mcp/html")
        assert page.title() != "pwned" and "pwned" not in page.content()


# -- SEC-065, SEC-066, SEC-067 ---------------------------------------------------------------------


def test_sec_065_after_signing_out_back_shows_nothing(tab, gateway):
    page = sign_in(tab(), gateway)
    page.goto(f"{gateway.url}/connections")
    expect(page.get_by_role("heading", name="My connections")).to_be_visible()
    page.goto(f"{gateway.url}/me")
    with page.expect_response("**/logout") as leaving:
        page.get_by_role("button", name="Sign out", exact=True).first.click()
    page.wait_for_url("**/login")
    assert leaving.value.all_headers()["clear-site-data"] == '"cache", "storage"'
    for _ in range(2):
        page.go_back()
        page.wait_for_url(re.compile("/login"))
        assert EMAIL not in page.content() and "My connections" not in page.content()


def test_sec_066_a_session_that_somebody_planted_is_not_taken_over(browser, gateway):
    """Two browsers: the attacker's cookies are in the victim's before the victim signs in."""
    with browser.new_context() as attacker, browser.new_context() as victim:
        his = attacker.new_page()
        his.goto(f"{gateway.url}/login")
        made_up = {"name": "signed_in", "value": "planted-" + "x" * 40, "url": gateway.url}
        attacker.add_cookies([made_up])
        planted = attacker.cookies()
        victim.add_cookies(planted)
        hers = sign_in(victim.new_page(), gateway)
        assert EMAIL in hers.content()
        names = {cookie["name"]: cookie["value"] for cookie in victim.cookies()}
        for cookie in planted:
            assert names[cookie["name"]] != cookie["value"], cookie["name"]
        his.goto(f"{gateway.url}/me")
        assert urlsplit(his.url).path == "/login" and EMAIL not in his.content()


def test_sec_067_a_person_ends_another_browser_from_the_page_of_the_account(tab, gateway):
    lost, mine = sign_in(tab(), gateway), sign_in(tab(), gateway)
    mine.get_by_role("button", name="Sign out all others").click()
    expect(mine.get_by_role("status").first).to_contain_text("Signed out there")
    lost.goto(f"{gateway.url}/connections")
    assert urlsplit(lost.url).path == "/login"
    assert mine.get_by_role("button", name="Sign out all others").count() == 0
