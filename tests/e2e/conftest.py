"""Real parts: providers, MCP servers and clients (rigs/), PostgreSQL, gunicorn, Chromium.

A part that is missing fails the test that needs it; nothing is skipped.
"""

import contextlib
import functools
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from demo.person import Person
from tests import postgres
from tests.e2e.gateway import PASSWORD, ROOT, Gateway
from tests.e2e.rigs import rigs

RIGS = ROOT / ".rigs"


@pytest.fixture(scope="session")
def rig_home() -> Path:
    """The folder that holds what the rigs run; filled once, by `rigs/setup`."""
    done = subprocess.run([rigs.HERE / "setup", RIGS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return RIGS


@pytest.fixture
def oidc(rig_home) -> Iterator[Callable[..., rigs.Rig]]:
    """oidc(at_ttl=4, …): an authorization server."""
    with contextlib.ExitStack() as started:
        yield lambda **options: started.enter_context(rigs.oidc_provider(rig_home, **options))


@pytest.fixture
def mcp(rig_home) -> Iterator[Callable[..., rigs.Rig]]:
    """mcp(issuer=op.url, …): an MCP server that wants this issuer's tokens."""
    with contextlib.ExitStack() as started:
        yield lambda **options: started.enter_context(rigs.mcp_server(rig_home, **options))


@dataclass
class Stage:
    """A running gateway with an admin, a provider, and an MCP server that wants its tokens."""

    node: Gateway
    op: rigs.Rig
    server: rigs.Rig
    token: str
    """The admin's, for `mcp`."""

    def enter(self, **config: Any) -> Person:
        """The admin in a browser without cookies; counts, faults and options are as at the start.

        `config`: what differs at the provider. Gateways stay: each test names its own.
        """
        back = f"{self.node.url}/oauth/callback"
        usual = {"atTtl": 300, "defaultResource": None, "resources": [self.server.url]}
        self.op.debug("reset", {})
        self.op.debug("config", usual | {"redirects": [back, f"{back}/own"]} | config)
        self.server.debug("reset")
        return Person(self.node.url).login("admin@example.com", PASSWORD)


@pytest.fixture(scope="module")
def stages(rig_home, request, tmp_path_factory) -> Iterator[Callable[..., Stage]]:
    """stages(workers=2, database="postgresql", transport="sse"): one for all tests of a file."""
    with contextlib.ExitStack() as opened:

        @functools.cache
        def stage(*, workers: int = 1, database: str = "sqlite", **server: Any) -> Stage:
            url = f"sqlite:///{tmp_path_factory.mktemp('stage') / 'gateway.db'}"
            if database == "postgresql":
                postgresql, name = (
                    request.getfixturevalue("postgres_server"),
                    f"e2e_{uuid.uuid4().hex[:12]}",
                )
                opened.callback(postgresql.drop, name)
                url = postgresql.create(name)
            node = opened.enter_context(Gateway(url, workers=workers))
            op = opened.enter_context(rigs.oidc_provider(rig_home))
            upstream = opened.enter_context(rigs.mcp_server(rig_home, issuer=op.url, **server))
            node.admin()
            return Stage(node, op, upstream, node.token())

        yield stage


@pytest.fixture
def everything_sse(rig_home) -> Iterator[rigs.Rig]:
    """An MCP server on the old HTTP+SSE transport, which asks for no token."""
    with rigs.everything_sse(rig_home) as server:
        yield server


@pytest.fixture
def simple_auth(rig_home) -> Iterator[rigs.Rig]:
    """The Python SDK's example of an authorization server and an MCP server that asks it."""
    with rigs.simple_auth(rig_home) as server:
        yield server


@pytest.fixture
def ts_oauth(rig_home) -> Iterator[rigs.Rig]:
    """The TypeScript SDK's example with --oauth: everybody is let in, and nothing renews."""
    with rigs.ts_oauth(rig_home) as server:
        yield server


@pytest.fixture
def fastmcp(rig_home) -> Iterator[rigs.Rig]:
    """FastMCP with its own OAuth provider: everybody is let in, refresh tokens rotate."""
    with rigs.fastmcp(rig_home) as server:
        yield server


@pytest.fixture
def probe(rig_home) -> Callable[..., dict[str, Any]]:
    """probe(url, "tool", '{"a":1}', token=…, mode="legacy"): one run of the SDK's client."""
    return functools.partial(rigs.probe, rig_home)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        yield server


@pytest.fixture
def empty_database(request, tmp_path) -> Iterator[Callable[[str], str]]:
    """empty_database("sqlite" | "postgresql"): the URL of a database without tables."""
    dropped = []

    def make(kind: str) -> str:
        name = f"e2e_{uuid.uuid4().hex[:12]}"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / name}.db"
        server = request.getfixturevalue("postgres_server")
        dropped.append((server, name))
        return server.create(name)

    yield make
    for server, name in dropped:
        server.drop(name)


@pytest.fixture
def gateway_server(request, empty_database) -> Iterator[Callable[..., Gateway]]:
    """gateway_server(workers=2, database="postgresql", OAUTH_STATE_EXPIRY=60): a running node.

    `database` may also be the `database` of another node. SQLite, or what --database says, if
    left out.
    """
    with contextlib.ExitStack() as started:

        def start(*, workers: int = 1, database: str = "", **settings: Any) -> Gateway:
            where = database or request.config.getoption("--database")
            url = where if "://" in where else empty_database(where)
            return started.enter_context(Gateway(url, workers=workers, **settings))

        yield start


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, as the system has it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "chromium is missing: apt-get install chromium"
    quiet = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield running
        running.close()


@pytest.fixture
def tab(browser) -> Iterator[Callable[..., Page]]:
    """tab(java_script_enabled=False, …): a tab of a person's own, with a browser's options.

    A script error or a breach of the CSP fails the test.
    """
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error" and "status of" not in message.text:  # a 4xx is no error of ours
            complaints.append(f"{message.text} ({message.location.get('url')})")

    with contextlib.ExitStack() as opened:

        def open_one(**options: Any) -> Page:
            context = browser.new_context(**options)
            opened.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(15_000)
            page.on("console", listen)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            return page

        yield open_one
    assert not complaints


@pytest.fixture
def page(tab) -> Page:
    """An ordinary one."""
    return tab()
