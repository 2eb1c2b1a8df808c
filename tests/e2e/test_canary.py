"""The canary job: the product under gunicorn at LOG_LEVEL=DEBUG, with every secret marked.

Every form and flow is driven, and faults whose text repeats secrets. Then logs, pages, JSON,
metrics, process lists, database and files are searched. A planted canary proves the search.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests

from demo.person import Person
from tests.e2e import canaries
from tests.e2e.canaries import Canaries, hits
from tests.e2e.gateway import Gateway
from tests.process import Program
from tests.upstream import EVENTS, JSON, Said, Seen, Upstream, dual, says

KEPT = {"store_tokens": True, "auto_refresh": True}
HREF = re.compile(r'href="(/[^"#]*)')
SKIP = ("/logout", "/static/", "/oauth/")


class Provider:
    """A token endpoint whose every token is marked, and whose faults repeat what they were sent."""

    def __init__(self, marked: Canaries) -> None:
        self.marked, self.echoes = marked, False
        self.server = Upstream()
        self.server.script = self.answer
        self.url = self.server.origin

    def answer(self, seen: Seen) -> Said:
        form = {name: values[0] for name, values in parse_qs(seen.body.decode()).items()}
        if "code_verifier" in form:
            self.marked.note("PKCE verifier", form["code_verifier"])
        if self.echoes:
            return self._echo(seen, form)
        if seen.path == "/revoke":
            return Said(200)
        tokens = {"access_token": self.marked.mark("access token"), "token_type": "Bearer"}
        if form["grant_type"] != "client_credentials":
            tokens["refresh_token"] = self.marked.mark("refresh token")
        return says(tokens | {"expires_in": 3600})

    def _echo(self, seen: Seen, form: dict[str, str]) -> Said:
        """As a careless server does: what came, in several spellings."""
        basic = (seen.header("Authorization") or "Basic ").partition(" ")[2]
        sent = [*form.values(), base64.b64decode(basic).decode(), basic]
        said = " | ".join([*sent, *map(quote, sent), seen.body.decode()])
        return says({"error": "invalid_request", "error_description": said}, 400)


class Server:
    """An MCP server. It can fail with the credential in its text, and refuse every token."""

    def __init__(self) -> None:
        self.server = Upstream()
        self.server.script = self.answer
        self.url = self.server.url
        self.fault = ""

    def answer(self, seen: Seen) -> Said:
        shown = seen.header("Authorization") or str(seen.headers)
        if self.fault == "500":
            return Said(500, f"no: {shown}".encode(), {"Content-Type": "text/plain"})
        if self.fault == "401":
            challenge = f'Bearer error="invalid_token", error_description="{shown[:80]}"'
            return Said(401, shown.encode(), {"WWW-Authenticate": challenge})
        quiet = [pair for pair in seen.headers if pair[0].lower() != "authorization"]
        return dual(dataclasses.replace(seen, headers=quiet))


@dataclasses.dataclass
class Stage:
    """The product, all it talks to, and what was seen of it."""

    marked: Canaries
    planted: str
    node: Gateway
    provider: Provider
    server: Server
    temporary: Path
    admin: Person = dataclasses.field(init=False)
    token: str = ""
    pages: list[bytes] = dataclasses.field(default_factory=list)
    answers: list[bytes] = dataclasses.field(default_factory=list)  # JSON
    printed: list[bytes] = dataclasses.field(default_factory=list)  # by commands

    def see(self, reply: requests.Response) -> requests.Response:
        """Keep it for the search: body and headers, but for the cookies it sets."""
        heads = [f"{k}: {v}" for k, v in reply.headers.items() if k.lower() != "set-cookie"]
        kind = reply.headers.get("Content-Type", "")
        kept = self.answers if JSON in kind or EVENTS in kind else self.pages
        kept.append("\n".join(heads).encode() + b"\n\n" + reply.content)
        for step in reply.history:
            self.see(step)
        return reply

    def note_cookies(self, person: Person) -> None:
        for cookie in person.session.cookies:
            if cookie.value and len(cookie.value) >= 16:
                self.marked.note(f"cookie {cookie.name}", cookie.value)

    def fill(self, path: str, **fields: str | bool) -> requests.Response:
        return self.see(self.admin.submit(self.see(self.admin.at(path)), **fields))

    def flask(self, *command: str, stdin: str = "") -> None:
        self.printed.append(self.node.flask(*command, stdin=stdin).encode())

    def api(self, method: str, path: str, body: object = None) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.node.url}{path}"
        return self.see(requests.request(method, url, json=body, headers=headers, timeout=30))

    def call(self, slug: str, *, seen: bool = True, **arguments: str) -> requests.Response:
        """One tool call, as an AI client sends it."""
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        message |= {"params": {"name": "echo", "arguments": arguments}}
        headers = {"Authorization": f"Bearer {self.token}", "Accept": f"{JSON}, {EVENTS}"}
        url = f"{self.node.url}/mcp/{slug}"
        reply = requests.post(url, json=message, headers=headers, timeout=30)
        assert reply.status_code == 200, reply.text
        return self.see(reply) if seen else reply

    def leave(self, slug: str, at: str = "") -> str:
        """Press Connect and go on; the state that the provider gets."""
        page = self.see(self.admin.press_connect(slug, at=at or f"/connections/{slug}"))
        onward = re.search(r'href="(/oauth/connect/[^"]+)', page.text)[1].replace("&amp;", "&")
        gone = self.admin.get(self.node.url + onward, follow=False)
        self.note_cookies(self.admin)
        assert gone.status_code == 302, gone.text
        return self.marked.note(
            "state", parse_qs(urlsplit(gone.headers["Location"]).query)["state"][0]
        )

    def come_back(self, **query: str) -> requests.Response:
        given = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        return self.see(self.admin.get(f"{self.node.url}/oauth/callback?{given}"))


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request, tmp_path, empty_database, gateway_server) -> Iterator[Stage]:
    marked = Canaries()
    provider, server = Provider(marked), Server()
    url = empty_database(request.param)
    if request.param == "postgresql":
        url = url.replace("postgres@", f"postgres:{marked.mark('database password')}@")
    (tmp_path / "temporary").mkdir()
    settings = {"LOG_LEVEL": "DEBUG", "TMPDIR": tmp_path / "temporary", "OAUTH_MAX_RETRIES": 0}
    node = gateway_server(workers=2, database=url, **settings)
    for name in ("SECRET_KEY", "AUTH_ENCRYPTION_SECRET"):
        marked.note(name, node.env[name])
    planted = Canaries().mark("planted")
    yield Stage(marked, planted, node, provider, server, tmp_path / "temporary")
    provider.server.stop()
    server.server.stop()


def test_sec_111_sec_077_no_secret_is_anywhere(stage):
    people(stage)
    gateways(stage)
    flows(stage)
    calls(stage)
    faults(stage)
    crawl(stage)
    plant(stage)
    argument = [sys.executable, "-c", "input()", stage.planted]
    with Program(argument) as shown:
        places = searched(stage, shown.pid)
        assert hits(stage.marked, places) == []
        found = hits({"planted": stage.planted}, places)
        everywhere = places.keys() - {"metrics"}  # which have nothing but numbers of ours
        assert found == sorted(f"planted in {place}" for place in everywhere)
    assert "[DEBUG]" in stage.node.log()
    assert len(stage.marked) > 40 and len(stage.pages) > 60 and len(stage.answers) > 20


def people(stage: Stage) -> None:
    """Everything that takes a password, right and wrong, and a token by form."""
    marked, node = stage.marked, stage.node
    password = marked.mark("password")
    stage.admin = Person(node.url)
    code = re.search(r"Setup code: (\S+)", node.log())
    assert code, "the set-up page cannot be tried without its code"
    first = {"email": "admin@example.com", "password": password}
    stage.fill("/setup", code="WRNG-CODE", **first)
    stage.fill("/setup", code=code[1], **first)
    wrong = marked.mark("wrong password", odd=True)
    stage.see(Person(node.url).submit(Person(node.url).at("/login"), email="a@b.c", password=wrong))
    stage.note_cookies(stage.admin)
    new = marked.mark("new password", odd=True)
    stage.fill("/me", current=wrong, password=new)
    stage.fill("/me", current=password, password=new)
    stage.note_cookies(stage.admin)
    stage.fill("/admin/users/new", email="no address", password=marked.mark("first password"))
    theirs = marked.mark("first password")
    stage.fill("/admin/users/new", email="bo@example.com", password=theirs)
    stage.flask("users", "set-password", "bo@example.com", "--password-stdin", stdin=f"{new}\n")
    scopes = [part for scope in ("mcp", "api:read", "api:write") for part in ("--scope", scope)]
    made = node.flask("tokens", "create", "admin@example.com", "--name", "x", *scopes)
    stage.token = marked.note("API token", made.strip())
    made = stage.admin.submit(
        stage.admin.at("/tokens/new"), name="laptop"
    )  # the one page that shows it: not kept
    marked.note("API token", re.search(r"mcpg_[\w-]{43}", made.text)[0])


def gateways(stage: Stage) -> None:
    """By form, by API and by command; each also with something wrong beside the secret."""
    marked, url = stage.marked, stage.server.url
    kinds = {
        "bearer": {"bearer_token": "bearer token"},
        "basic": {"password": "basic password"},
        "headers": {"headers": "header value"},
    }
    for kind, [(field, name)] in ((kind, list(fields.items())) for kind, fields in kinds.items()):
        for address in ("ftp://wrong", url):
            secret = marked.mark(name)
            typed = f"X-Key: {secret}" if kind == "headers" else secret
            more = {"username": "us"} if kind == "basic" else {}
            given = {"name": kind, "url": address, "auth_type": kind, field: typed}
            stage.fill("/admin/gateways/new?template=by-hand", **given, **more)
    stage.flask("gateways", "add", "-", stdin=json.dumps(oauth(stage, "kept", KEPT)))
    once = oauth(stage, "once", {})
    assert stage.api("POST", "/api/v1/gateways", once).status_code == 201
    shared = oauth(stage, "shared", {"store_tokens": True}, grant="client_credentials")
    assert stage.api("POST", "/api/v1/gateways", shared | {"url": "ftp://x"}).status_code == 422
    assert stage.api("POST", "/api/v1/gateways", shared).status_code == 201
    again = {"oauth_config": {"client_secret": marked.mark("client secret", odd=True)}}
    assert stage.api("PATCH", "/api/v1/gateways/shared", again).status_code == 200
    stage.api("PATCH", "/api/v1/gateways/shared", {"no_such": marked.mark("client secret")})
    stage.fill("/admin/gateways/kept/edit", client_secret=marked.mark("client secret"))
    wrong = {"client_secret": marked.mark("client secret"), "token_url": "ftp://wrong"}
    stage.fill("/admin/gateways/kept/edit", **wrong)


def oauth(stage: Stage, slug: str, kept: object, *, grant: str = "authorization_code") -> dict:
    config = {
        "grant_type": grant,
        "client_id": f"client-of-{slug}",
        "client_secret": stage.marked.mark("client secret", odd=True),
        "token_url": f"{stage.provider.url}/token",
        "revocation_url": f"{stage.provider.url}/revoke",
        "token_management": kept,
        "trusts_shared_callback": True,
    }
    if grant == "authorization_code":
        config["authorization_url"] = f"{stage.provider.url}/authorize"
    record = {"name": slug, "slug": slug, "url": stage.server.url, "auth_type": "oauth"}
    return record | {"oauth_config": config}


def flows(stage: Stage) -> None:
    """Refused, failed, forged, repeated, and good."""
    marked = stage.marked
    stage.come_back(state=stage.leave("kept"), error="access_denied", error_description="no & no")
    stage.provider.echoes = True
    stage.come_back(state=stage.leave("kept"), code=marked.mark("code"))
    stage.provider.echoes = False
    stage.come_back(state=marked.mark("state"), code=marked.mark("code"))
    good = {"state": stage.leave("kept"), "code": marked.mark("code")}
    assert "is connected" in stage.come_back(**good).text
    stage.come_back(**good)


def calls(stage: Stage) -> None:
    """An answer for each kind of gateway, and a call that waits for a sign-in."""
    for slug in ("bearer", "basic", "headers", "kept", "shared"):
        answer = stage.call(slug, text=stage.marked.mark("argument", odd=True))
        assert '"result"' in answer.text, (slug, answer.text)
    for fails in (True, False):
        waits = stage.call("once", text=stage.marked.mark("parked argument", odd=True))
        ask = re.search(r"/connections/once\?ask=[\w.-]+", waits.text)[0]
        stage.provider.echoes = fails
        state, code = stage.leave("once", at=ask), stage.marked.mark("code")
        # The page with the result shows its person what they sent: it is not kept.
        seen = stage.admin.at(f"/oauth/callback?code={code}&state={state}")
        assert ("echo by None" in seen.text) != fails, seen.text
    stage.call("once", text=stage.marked.mark("parked argument", odd=True))  # stays parked


def faults(stage: Stage) -> None:
    """Texts that repeat what was sent to them."""
    stage.server.fault = "500"
    for slug in ("bearer", "basic", "headers", "kept", "shared"):
        assert '"error"' in stage.call(slug).text
    stage.server.fault, stage.provider.echoes = "401", True
    for slug in ("bearer", "kept", "shared"):
        assert '"error"' in stage.call(slug).text
    stage.server.fault, stage.provider.echoes = "", False
    token = {"access_token": stage.token}
    path = f"{stage.node.url}/mcp/kept"
    assert stage.see(requests.post(path, params=token, timeout=30)).status_code == 401
    basic = {"Authorization": "Basic " + base64.b64encode(stage.token.encode()).decode()}
    stage.see(requests.post(path, headers=basic, data=b'{"a": NaN}', timeout=30))


def crawl(stage: Stage) -> None:
    """Every page that links lead to, and all JSON that can be read."""
    waiting, known = ["/", "/admin/settings"], set()
    while waiting:
        path = waiting.pop()
        page = stage.see(stage.admin.at(path))
        assert page.status_code in (200, 401, 404), (path, page.status_code)
        if "html" not in page.headers.get("Content-Type", ""):
            continue
        for link in (one.replace("&amp;", "&") for one in HREF.findall(page.text)):
            if link not in known and not link.startswith(SKIP):
                known.add(link)
                waiting.append(link)
    for path in ("gateways", "gateways/kept", "gateways/bearer", "connections"):
        assert stage.api("GET", f"/api/v1/{path}").status_code == 200, path
    for path in ("/api/openapi.json", "/version", "/health", "/ready"):
        assert stage.api("GET", path).status_code == 200, path
    stage.api("GET", "/api/v1/gateways/nothing")
    stage.flask("secrets", "status")


def plant(stage: Stage) -> None:
    """What is no secret, put where one could have got."""
    planted = stage.planted
    assert stage.admin.at(f"/nothing/{planted}").status_code == 404  # the log names the path
    record = {"name": "Planted", "slug": "planted", "url": stage.server.url, "auth_type": "none"}
    record |= {"description": planted}
    stage.flask("gateways", "add", "-", stdin=json.dumps(record))
    stage.flask("gateways", "show", "planted")
    assert stage.api("GET", "/api/v1/gateways/planted").status_code == 200
    assert planted in stage.see(stage.admin.at("/admin/gateways/planted")).text
    coded = base64.b64encode(f"x{planted}".encode())
    (stage.temporary / "file").write_bytes(coded)


def searched(stage: Stage, other: int) -> dict[str, list[bytes]]:
    """All places, by name. The database as it is while the server runs, with its journals."""
    url = stage.node.env["DATABASE_URL"]
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        database = [one.read_bytes() for one in path.parent.glob(f"{path.name}*")]
        assert any(one.name.endswith("-wal") for one in path.parent.glob("*"))
    else:
        database = [canaries.dump(url)]
    family = canaries.processes(stage.node.program.pid)
    assert len(family) >= 3, "a master and two workers"
    metrics = requests.get(f"{stage.node.url}/metrics", timeout=30)
    assert metrics.status_code == 200 and "_total" in metrics.text
    return {
        "log": [stage.node.log().encode()],
        "pages": stage.pages,
        "JSON": stage.answers,
        "metrics": [metrics.content],
        "commands": stage.printed,
        "processes": [canaries.command_line(pid) for pid in (*family, other)],
        "database": database,
        "files": [*canaries.files(stage.temporary, Path(stage.node.env["INSTANCE_DIR"]))],
    }


@pytest.mark.parametrize("odd", [False, True])
def test_sec_111_the_search_finds_every_spelling(odd):
    """So that finding nothing means something."""
    marked = Canaries()
    secret = marked.mark("x", odd=odd)
    for before in ("", "a", "ab", "client:"):
        text = f"{before}{secret} and more".encode()
        for coded in (
            base64.b64encode(text),
            base64.urlsafe_b64encode(text),
            text,
            text.hex().encode(),
        ):
            assert hits(marked, {"here": [b"--" + coded + b"--"]}) == ["x 0 in here"]
    for coded in (quote(secret), quote(secret, safe=""), json.dumps({"a": secret})):
        assert hits(marked, {"here": [coded.encode()]}) == ["x 0 in here"]
    assert hits(marked, {"here": [b"canary-x-0123456789abcdef"]}) == []
