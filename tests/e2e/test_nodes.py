"""More than one worker, more than one node: they share the database, and nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
from requests.adapters import HTTPAdapter

from demo.person import Person
from tests.e2e.gateway import PASSWORD, Gateway
from tests.e2e.patience import eventually

SECRETS = ("SECRET_KEY", "AUTH_ENCRYPTION_SECRET", "PUBLIC_URL")
KEPT = {"store_tokens": True, "auto_refresh": True, "keep_alive": True}


@pytest.fixture
def two_nodes(gateway_server) -> Callable[..., list[Gateway]]:
    """Of the same secrets, address and PostgreSQL."""

    def start(**how: Any) -> list[Gateway]:
        one = gateway_server(database="postgresql", **how)
        same = {name: one.env[name] for name in SECRETS}
        other = gateway_server(database=one.env["DATABASE_URL"], **how | same)
        return [one, other]

    return start


class Turns(HTTPAdapter):
    """A balancer that sends each request to another node than the one before."""

    def __init__(self, nodes: list[Gateway]) -> None:
        super().__init__()
        self._public, self._nodes = urlsplit(nodes[0].url).netloc, [*nodes]
        self.asked: list[str] = []

    def next_is_not(self, url: str) -> None:
        """The node at this address."""
        self._nodes.sort(key=lambda node: node.url == url)

    def send(self, request: requests.PreparedRequest, **how: Any) -> requests.Response:
        asked = request.url
        if urlsplit(asked).netloc == self._public:
            node = self._nodes[0]
            self.next_is_not(node.url)
            request.headers.update({"Host": self._public, "Connection": "close"})
            request.url = asked.replace(self._public, urlsplit(node.url).netloc, 1)
            self.asked.append(node.url)
        try:
            answer = super().send(request, **how)
        finally:
            request.url = asked
        answer.url = asked
        return answer


def connect(node: Gateway) -> psycopg.Connection:
    url = node.env["DATABASE_URL"].replace("+psycopg", "")
    return psycopg.connect(url, autocommit=True)


# -- recurring work --------------------------------------------------------------------------------


def stale(link: psycopg.Connection, count: int) -> None:
    """What the chore `sessions` removes."""
    link.execute(
        "INSERT INTO throttle (key, failures, last_ms, not_before_ms)"
        " SELECT md5(random()::text), 1, 1, 0 FROM generate_series(1, %s)",
        [count],
    )


def are_gone(link: psycopg.Connection) -> bool:
    return link.execute("SELECT count(*) FROM throttle").fetchone() == (0,)


def test_recurring_work_is_done_by_one_worker_of_all_nodes_for_each_due_time(two_nodes):
    """Four workers that run what is due each second: without the lease, four times as often."""
    one, other = two_nodes(workers=2, OAUTH_TOKEN_CLEANUP_INTERVAL=1)
    with connect(one) as link:
        stale(link, 450)
        eventually(lambda: are_gone(link))
        runs: dict[int, str] = {}

        def watch() -> bool:
            query = "SELECT ran_ms, holder FROM chore WHERE id = 'sessions' AND ran_ms IS NOT NULL"
            runs.update(link.execute(query).fetchall())
            return len(runs) >= 4

        eventually(watch)
        times = sorted(runs)
        assert min(b - a for a, b in zip(times, times[1:], strict=False)) >= 990  # ms
        os.killpg(other.program.pid, signal.SIGKILL)  # whatever it had is taken over
        stale(link, 10)
        eventually(lambda: are_gone(link))
    assert "sessions" in one.flask("housekeeping", "status")
    os.kill(one.program.pid, signal.SIGTERM)
    eventually(lambda: not one.program.running)
    assert one.stop() == 0
    assert "Traceback" not in one.log() and "SIGKILL" not in one.log()


# -- metrics ---------------------------------------------------------------------------------------


def samples(node: Gateway) -> dict[str, float]:
    page = requests.get(f"{node.url}/metrics", headers={"Connection": "close"}, timeout=30)
    assert page.status_code == 200
    lines = [line for line in page.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_each_worker_answers_for_all_also_for_those_that_are_gone(gateway_server):
    node = gateway_server(workers=2)
    node.admin()
    record = {"name": "Acme", "url": "http://127.0.0.1:1025/mcp", "auth_type": "none"}
    node.flask("gateways", "add", "-", stdin=json.dumps(record))
    bearer = {"Authorization": f"Bearer {node.token()}", "Connection": "close"}
    bearer["Accept"] = "application/json, text/event-stream"
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}
    calls, asked = 'mcp_calls_total{gateway="acme",outcome="connect_failed"}', 0

    def count(times: int) -> None:
        for _ in range(times):
            answer = requests.post(f"{node.url}/mcp/acme", json=call, headers=bearer, timeout=30)
            assert "upstream_unreachable" in answer.text

    def agree() -> bool:
        """Whoever answers, and of ten that are asked both are."""
        return {samples(node).get(calls) for _ in range(10)} == {asked}

    count(12)
    asked = 12
    eventually(agree)
    before = worker_pids(node)
    os.kill(node.program.pid, signal.SIGHUP)  # two new workers, and the old ones end
    eventually(lambda: not worker_pids(node) & before)
    count(3)
    asked = 15
    eventually(agree)


def worker_pids(node: Gateway) -> frozenset[int]:
    path = Path(f"/proc/{node.program.pid}/task/{node.program.pid}/children")
    return frozenset(int(pid) for pid in path.read_text().split())


# -- SEC-116 ---------------------------------------------------------------------------------------


@pytest.fixture
def nodes(two_nodes, oidc, mcp) -> tuple[list[Gateway], Any]:
    """With a provider, and a gateway `acme` whose MCP server wants its tokens."""
    provider, both = oidc(), two_nodes()
    server = mcp(issuer=provider.url)
    back = f"{both[0].url}/oauth/callback"
    provider.debug("config", {"resources": [server.url], "redirects": [back]})
    config = {
        **{"grant_type": "authorization_code", "issuer": provider.url},
        **{"authorization_url": f"{provider.url}/auth", "token_url": f"{provider.url}/token"},
        **{"client_id": "gateway", "client_secret": "gateway-secret"},
        **{"scopes": ["mcp:tools"], "token_management": KEPT},
    }
    record = {"name": "acme", "url": server.url, "auth_type": "oauth", "oauth_config": config}
    both[0].flask("gateways", "add", "-", stdin=json.dumps(record))
    both[0].flask(
        *("users", "create-admin", "admin@example.com", "--password-stdin"), stdin=f"{PASSWORD}\n"
    )
    return both, provider


def test_sec_116_nodes_in_turn_serve_sign_in_forms_flow_tokens_and_limits(nodes):
    both, provider = nodes
    public, turns = both[0].url, Turns(both)
    person = Person(public)
    person.session.mount(public, turns)
    # Each form comes from one node and goes to the other; so do its session and CSRF token.
    person.login("admin@example.com", PASSWORD)
    # What begins at one node ends at the other, and once at whichever.
    start = person.press_connect("acme")
    began = turns.asked[-1]
    back = person.answer_provider(start, user="alice", password="alice-pw")
    turns.next_is_not(began)
    assert "is connected" in person.get(back).text
    assert "failed=" in person.get(back).url
    assert set(turns.asked) == {node.url for node in both}
    assert provider.debug("stats")["token"]["ok"] == {"authorization_code": 1}
    # An API token that one node made works at both, and so do the tokens of the connection.
    bearer = {"Authorization": f"Bearer {both[1].token(scope='mcp')}"}
    said = [whoami(node, public, bearer) for node in both]
    assert all("alice" in one for one in said), said
    assert provider.debug("stats")["token"]["ok"] == {"authorization_code": 1}
    # What rested for two days is kept alive by any node, and used by all.
    with connect(both[0]) as link:
        link.execute("UPDATE connection SET issued_ms = issued_ms - 172800000")
    assert "renewed=1" in both[1].flask("housekeeping", "run", "--once", "keep-alive")
    said = [whoami(node, public, bearer) for node in both]
    assert all("alice" in one for one in said), said
    asked = {"authorization_code": 1, "refresh_token": 1}
    assert provider.debug("stats")["token"]["ok"] == asked
    assert provider.debug("stats")["grantsRevoked"] == 0
    # Signed out at one node is signed out at both; so is a revoked token.
    cookies = {one.name: one.value for one in person.session.cookies if one.name == "signed_in"}
    assert all(status(node, public, "/connections", cookies=cookies) == 200 for node in both)
    person.submit(person.at("/me"), action="/logout")
    eventually(
        lambda: all(status(node, public, "/connections", cookies=cookies) == 302 for node in both)
    )
    [line] = both[0].flask("tokens", "list", "admin@example.com").splitlines()
    both[0].flask("tokens", "revoke", line.split("\t")[0])
    eventually(
        lambda: all(status(node, public, "/mcp/acme", headers=bearer) == 401 for node in both)
    )
    # Guesses at both count together.
    guesser = Person(public)
    guesser.session.mount(public, Turns(both))
    fields = {"email": "admin@example.com", "password": "guess"}
    seen = [guesser.submit(guesser.at("/login"), **fields).status_code for _ in range(8)]
    assert 429 in seen and seen.count(422) <= 5


def status(node: Gateway, public: str, path: str, **how: Any) -> int:
    headers = {"Host": urlsplit(public).netloc, "Connection": "close"} | how.pop("headers", {})
    url, more = node.url + path, {"allow_redirects": False, "timeout": 30}
    return requests.get(url, headers=headers, **more, **how).status_code


def whoami(node: Gateway, public: str, bearer: dict[str, str]) -> str:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whoami"}}
    headers = {"Accept": "application/json, text/event-stream"} | bearer
    headers |= {"Host": urlsplit(public).netloc, "Connection": "close"}
    return requests.post(f"{node.url}/mcp/acme", json=call, headers=headers, timeout=60).text


# -- SEC-119 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_sec_119_of_four_workers_on_an_empty_database_one_makes_it(gateway_server, database):
    node = gateway_server(workers=4, database=database)
    eventually(lambda: len(worker_pids(node)) == 4)
    url, close = f"{node.url}/ready", {"Connection": "close"}
    assert {requests.get(url, headers=close, timeout=60).status_code for _ in range(40)} == {200}
    assert requests.get(f"{node.url}/setup", timeout=60).status_code == 200
    assert node.flask("db", "current").split()[-1] == "(head)"
    codes = re.findall(r"Setup code: ", node.log())
    assert len(codes) <= 1
    assert node.stop() == 0
    assert "Traceback" not in node.log()
