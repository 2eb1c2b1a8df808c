"""Real AI clients at real MCP servers, through gunicorn: one worker, and two that share nothing."""

from __future__ import annotations

import json
import os
import re
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from demo.person import Person
from tests.e2e.gateway import Gateway
from tests.e2e.rigs import rigs
from tests.upstream import EVENTS, MODERN, Cut, Said, dual, event, upstream

__all__ = ["upstream"]  # the fixture
KEPT = {"store_tokens": True, "auto_refresh": True}
MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])
VERSIONS = {"auto": MODERN, "legacy": "2025-11-25"}
LINK = re.compile(r"http://[^\s\"\\]+/connections/[\w-]+\?ask=[\w.-]+")


class Session:
    """The SDK's client, open."""

    def __init__(self, home: Path, url: str, token: str, *flags: str) -> None:
        script = Path(__file__).with_name("mcp_session.py")
        command = [str(script), url, token, *flags]
        self._process = rigs.sdk(home).start(command, env=os.environ, stderr=2)
        self.version = self._heard()["version"]

    def _heard(self) -> dict[str, Any]:
        ready, _, _ = select.select([self._process.stdout], [], [], 40)
        assert ready, "the client says nothing"
        line = self._process.stdout.readline()
        assert line, "the client has ended"
        return json.loads(line)

    def do(self, **step: Any) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        return self._heard()

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return self.do(call=tool, args=arguments)

    @property
    def tools(self) -> list[str]:
        return self.do(tools=True)["tools"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Place:
    """A running gateway, a provider, an MCP server that wants its tokens, and an admin."""

    home: Path
    node: Gateway
    op: rigs.Rig
    server: rigs.Rig
    admin: Person
    token: str
    probe: Callable[..., dict[str, Any]]
    opened: ExitStack

    def add(self, slug: str, *, grant: str = "authorization_code", **oauth: Any) -> None:
        is_code = grant == "authorization_code"
        config = {
            "grant_type": grant,
            "client_id": "gateway" if is_code else "machine",
            "client_secret": "gateway-secret" if is_code else "machine-secret",
            "token_url": f"{self.op.url}/token",
            "scopes": ["mcp:tools"],
        } | ({"authorization_url": f"{self.op.url}/auth"} if is_code else {})
        record = {"name": slug, "url": self.server.url, "auth_type": "oauth"}
        text = json.dumps(record | {"oauth_config": config | oauth})
        self.node.flask("gateways", "add", "-", stdin=text)

    def connect(self, slug: str) -> None:
        page = self.admin.connect(slug, user="alice", password="alice-pw")
        assert "is connected" in page.text

    def follow(self, link: str, slug: str) -> requests.Response:
        """Open a client's link, press Connect, sign in, allow; the page where it ends."""
        form = self.admin.get(link)
        start = self.admin.submit(form, action=f"/oauth/connect/{slug}", follow=False)
        return self.admin.get(self.admin.answer_provider(start, user="alice", password="alice-pw"))

    def url(self, slug: str) -> str:
        return f"{self.node.url}/mcp/{slug}"

    def session(self, slug: str, mode: str, *flags: str) -> Session:
        opened = Session(self.home, self.url(slug), self.token, f"--mode={mode}", *flags)
        return self.opened.enter_context(opened)


@pytest.fixture
def places(rig_home, stages, probe) -> Iterator[Callable[..., Place]]:
    """places(workers=2, transport="sse"): the stage of this kind; name your own gateways."""
    with ExitStack() as opened:

        def start(*, workers: int = 1, **server: Any) -> Place:
            at = stages(workers=workers, **server)
            return Place(rig_home, at.node, at.op, at.server, at.enter(), at.token, probe, opened)

        yield start


@pytest.fixture
def plain(rig_home, gateway_server, upstream, probe) -> Iterator[Callable[..., Any]]:
    """plain(workers=2): a gateway before a scripted server that wants no sign-in."""
    with ExitStack() as opened:

        def start(url: str = "", **how: Any) -> Place:
            node = gateway_server(**how)
            record = {"name": "x", "url": url or upstream.url, "auth_type": "none"}
            node.flask("gateways", "add", "-", stdin=json.dumps(record))
            who = node.admin(), node.token()
            return Place(rig_home, node, None, None, *who, probe, opened)

        yield start


# -- what works -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_both_grants_serve_clients_of_both_eras(places, workers):
    """Tools, resources, prompts and progress; every request leaves with the gateway's own token."""
    place = places(workers=workers)
    place.add("mine", token_management=KEPT)
    place.add("shared", grant="client_credentials")
    place.connect("mine")
    for slug, who in (("mine", "alice"), ("shared", "machine")):
        for mode in ("auto", "legacy"):
            found = place.probe(place.url(slug), token=place.token, mode=mode)
            assert found["version"] == VERSIONS[mode]
            assert {"whoami", "echo", "slow"} <= set(found["tools"])
            assert found["resources"] == {"rig://caller": f"read by {who}"}
            assert found["prompts"]["greeting"].endswith(f"in the name of {who}")
            with place.session(slug, mode) as client:
                for _ in range(4):
                    assert json.loads(client.call("whoami")["text"])["sub"] == who
                said = client.call("slow", steps=3, delay=0.05)
                assert (said["text"], said["progress"]) == ("done in 3 steps", [1, 2, 3])
    assert place.op.debug("stats")["token"]["ok"]["authorization_code"] == 1


@MODES
def test_old_sse_upstream(places, mode):
    """README, promise 7, with the SDK's server of the old transport."""
    place = places(workers=2, transport="sse")
    assert place.server.url.endswith("/sse")
    place.add(f"mine-{mode}", token_management=KEPT)
    place.add(f"shared-{mode}", grant="client_credentials")
    place.connect(f"mine-{mode}")
    for slug, who in ((f"mine-{mode}", "alice"), (f"shared-{mode}", "machine")):
        with place.session(slug, mode) as client:
            assert client.version == VERSIONS["legacy"]
            assert "whoami" in client.tools
            for _ in range(3):
                assert json.loads(client.call("whoami")["text"])["sub"] == who
            said = client.call("slow", steps=3, delay=0.05)
            assert (said["text"], said["progress"]) == ("done in 3 steps", [1, 2, 3])


@MODES
def test_another_server_of_the_old_transport(plain, everything_sse, mode):
    place = plain(everything_sse.url)
    with place.session("x", mode) as client:
        assert "echo" in client.tools
        assert client.call("echo", message="hé")["text"] == "Echo: hé"


# -- a sign-in on the way -------------------------------------------------------------------------


@MODES
def test_consent_in_a_running_session(places, mode):
    """One client from before the sign-in to its first real call (V7)."""
    place = places(workers=2)
    slug = f"runs-{mode}"
    place.add(slug, token_management=KEPT)
    with place.session(slug, mode) as client:
        assert client.tools == ["gateway_connect"]
        asked = client.call("gateway_connect")
        assert asked["is_error"]
        place.follow(LINK.search(asked["text"])[0], slug)
        for _ in range(4):
            assert (
                client.call("gateway_connect")["text"]
                == f"{slug} is connected. List its tools again."
            )
        assert "whoami" in client.tools
        for _ in range(4):
            assert json.loads(client.call("whoami")["text"])["sub"] == "alice"


def test_a_client_that_opens_links_goes_on_by_itself(places):
    """C2: the call that asked is the one that answers."""
    place = places(workers=2)
    place.add("opens", token_management=KEPT)
    with place.session("opens", "auto", "--opens-links") as client:
        asked = client.call("whoami")
        place.follow(asked["open"], "opens")
        assert json.loads(client.do(go=True)["text"])["sub"] == "alice"


def test_a_legacy_client_that_opens_links_is_told_one(places):
    """C3, as the SDK shows it."""
    place = places(workers=2)
    place.add("legacy", token_management=KEPT)
    with place.session("legacy", "legacy", "--opens-links") as client:
        said = client.call("whoami")["error"]
        assert said["code"] == -32042
        place.follow(said["data"]["elicitations"][0]["url"], "legacy")
        assert json.loads(client.call("whoami")["text"])["sub"] == "alice"


@MODES
def test_parked_call_runs_once(places, mode):
    """Storage off: consent, and the client's repetition has the result; the next one asks again."""
    place = places(workers=2)
    slug = f"asks-{mode}"
    place.add(slug)
    with place.session(slug, mode) as client:
        link = LINK.search(client.call("echo", text="once")["text"])[0]
        assert "echo" not in place.server.debug("stats")["calls"]
        page = place.follow(link, slug)
        assert "once" in page.text
        assert client.call("echo", text="once") == {
            "text": "once",
            "is_error": False,
            "progress": [],
        }
        assert "needs your sign-in" in client.call("echo", text="once")["text"]
        assert place.server.debug("stats")["calls"]["echo"] == 1


# -- what goes wrong ------------------------------------------------------------------------------

FAULTS = [
    lambda _: Said(502, b"<html>", {"Content-Type": "text/html"}),
    lambda _: Said(403),
    lambda _: Said(0),
    lambda _: Said(
        200, [event({"jsonrpc": "2.0", "method": "x"}), Cut()], {"Content-Type": EVENTS}
    ),
]


@MODES
def test_one_failing_call_keeps_the_connection(plain, upstream, mode):
    place = plain(workers=2)
    with place.session("x", mode) as client:
        assert client.call("echo")["text"]
        for fault in FAULTS:
            upstream.script = lambda seen, fault=fault: (
                fault(seen) if seen.rpc == "tools/call" else dual(seen)
            )
            said = client.call("echo")["error"]
            assert said["data"]["code"].startswith("upstream_") and said["message"]
            assert set(said["data"]) >= {"code", "gateway", "state", "action", "request_id"}
            upstream.script = dual
            assert client.call("echo")["text"] == "echo by None"


CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {
        "name": "echo",
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    },
}


def raw_call(place: Place, body: bytes = b"", **more: str) -> socket.socket:
    """A call on a connection of its own, which the test may close when it likes."""
    body = body or json.dumps(CALL).encode()
    headers = {
        "Host": urlsplit(place.node.url).netloc,
        "Authorization": f"Bearer {place.token}",
        "Content-Length": str(len(body)),
        **{"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "echo"},
    } | {name.replace("_", "-"): value for name, value in more.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value]
    to = urlsplit(place.node.url)
    sock = socket.create_connection((to.hostname, to.port), 20)
    sock.sendall("\r\n".join(["POST /mcp/x HTTP/1.1", *lines, "", ""]).encode() + body)
    return sock


WORKERS = {"gevent": "", "gthread": "-k gthread --threads 8"}


@pytest.mark.parametrize("moment", ["before the answer", "in a silent stream"])
@pytest.mark.parametrize("kind", WORKERS)
def test_sec_048_f_35_hang_up_closes_upstream(plain, upstream, kind, moment):
    left = []

    def silent(seen):
        if moment == "in a silent stream":
            return Said(200, quiet(seen), {"Content-Type": EVENTS})
        left.append(seen.hangs_up())
        upstream.hung_up.set()
        return Said(0)

    def quiet(seen):
        yield event({"jsonrpc": "2.0", "method": "x"})
        left.append(seen.hangs_up())
        upstream.hung_up.set()

    upstream.script = silent
    place = plain(GUNICORN_CMD_ARGS=WORKERS[kind])
    with raw_call(place) as sock:
        if moment == "in a silent stream":
            heard = b""
            while b'"x"' not in heard:
                heard += sock.recv(65536)
        else:
            while not upstream.seen:
                assert not select.select([sock], [], [], 0.01)[0]
    assert upstream.hung_up.wait(20) and left == [True]
    upstream.script = dual
    assert requests.get(f"{place.node.url}/ready").status_code == 200
    assert "Traceback" not in place.node.log()


def test_a_body_over_the_limit_is_refused_also_without_a_length(plain, upstream):
    place = plain(MAX_BODY_BYTES=100_000)
    chunk = b"%x\r\n%b\r\n" % (150_000, b" " * 150_000)
    with raw_call(
        place, chunk + b"0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked"
    ) as sock:
        assert b" 413 " in sock.recv(65536).split(b"\r\n")[0]
    assert upstream.seen == []
