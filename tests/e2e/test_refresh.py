"""Stored tokens: a real provider that rotates and revokes on reuse, a real MCP server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from demo.person import Person
from tests.e2e.gateway import Gateway
from tests.e2e.rigs import rigs

MODERN, META = "2026-07-28", "io.modelcontextprotocol/"
KEPT = {"store_tokens": True, "auto_refresh": True}
CALLERS = 20

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"])


@dataclass
class Place:
    """A gateway of two workers, a provider, an MCP server that wants its tokens, and an admin."""

    op: rigs.Rig
    server: rigs.Rig
    node: Gateway
    admin: Person
    token: str

    def add(self, slug: str, **oauth: Any) -> None:
        config = {
            **{"grant_type": "authorization_code", "issuer": self.op.url},
            **{"authorization_url": f"{self.op.url}/auth", "token_url": f"{self.op.url}/token"},
            **{"client_id": "gateway", "client_secret": "gateway-secret"},
            **{"scopes": ["mcp:tools"], "token_management": KEPT},
        }
        record = {"name": slug, "url": self.server.url, "auth_type": "oauth"}
        text = json.dumps(record | {"oauth_config": config | oauth})
        self.node.flask("gateways", "add", "-", stdin=text)

    def connect(self, slug: str) -> None:
        page = self.admin.connect(slug, user="alice", password="alice-pw")
        assert "is connected" in page.text

    def whoami(self, slug: str) -> str:
        """One POST of the present era; the answer, whatever it says."""
        meta = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}
        params = {"name": "whoami", "arguments": {}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            **{"Authorization": f"Bearer {self.token}", "MCP-Protocol-Version": MODERN},
            **{"Mcp-Method": "tools/call", "Mcp-Name": "whoami"},
            "Accept": "application/json, text/event-stream",
        }
        url = f"{self.node.url}/mcp/{slug}"
        return requests.post(url, json=body, headers=headers, timeout=60).text

    def token_requests(self) -> dict[str, int]:
        """That succeeded, by grant."""
        stats = self.op.debug("stats")
        assert stats["token"]["error"] == {} and stats["grantsRevoked"] == 0  # no reuse
        return stats["token"]["ok"]

    def refused(self) -> int:
        """How often the MCP server said 401 to a token."""
        return self.server.debug("stats")["verify_fail"]


@pytest.fixture
def start(stages) -> Callable[..., Place]:
    """start("postgresql", atTtl=3): the stage of this database, its provider so configured."""

    def started(database: str, **config: Any) -> Place:
        stage = stages(workers=2, database=database)
        return Place(stage.op, stage.server, stage.node, stage.enter(**config), stage.token)

    return started


@both_databases
def test_a_token_that_ends_is_renewed_before_the_server_sees_it(start, database):
    place = start(database, atTtl=3)
    place.add("ends")
    place.connect("ends")
    end = time.monotonic() + 60
    while place.token_requests().get("refresh_token", 0) < 2:
        assert time.monotonic() < end
        assert "alice" in place.whoami("ends")
    assert place.token_requests()["authorization_code"] == 1


@both_databases
def test_f_30_a_token_that_the_server_refuses_is_renewed_and_the_call_has_its_result(
    start, database
):
    """We believe that it lives an hour; the server knows better."""
    place = start(database, atTtl=2)
    place.add("refused", lifetime={"always": 3600})
    place.connect("refused")
    end = time.monotonic() + 60
    while not place.refused():
        assert time.monotonic() < end
        assert "alice" in place.whoami("refused")
    assert place.token_requests() == {"authorization_code": 1, "refresh_token": 1}


def test_f_31_a_server_that_refuses_every_token_causes_one_renewal(start):
    """The token is for something else: no resource is named, and the provider's default differs."""
    place = start("sqlite", defaultResource="https://elsewhere.test/mcp")
    place.op.debug("config", {"resources": [place.server.url, "https://elsewhere.test/mcp"]})
    place.add("elsewhere", resource="never")
    place.connect("elsewhere")
    for _ in range(3):
        before = place.refused()
        assert "token_refused" in place.whoami("elsewhere")
        assert place.refused() - before <= 2
    assert place.token_requests() == {"authorization_code": 1, "refresh_token": 1}


@both_databases
def test_sec_103_twenty_callers_at_two_workers_over_several_expiries(start, database):
    """No request in vain, and the provider never sees a refresh token twice."""
    place = start(database, atTtl=4)
    place.add("busy")
    before = place.node.flask("audit", "list").count("connection.renewed")
    place.connect("busy")
    enough = threading.Event()

    def caller(number: int) -> list[str]:
        wrong = []
        while not enough.is_set():
            said = place.whoami("busy")
            wrong += [] if "alice" in said else [said]
            if number == 0 and place.token_requests().get("refresh_token", 0) >= 3:
                enough.set()
        return wrong

    with ThreadPoolExecutor(CALLERS) as pool:
        wrong = sum(pool.map(caller, range(CALLERS)), [])
    assert wrong == []
    # Each answer replaced the tokens before it: nobody asked for what another had got already.
    renewed = place.token_requests()["refresh_token"]
    recorded = place.node.flask("audit", "list").count("connection.renewed") - before
    assert recorded == renewed >= 3


@both_databases
def test_sec_103_twenty_first_callers_of_a_shared_client_ask_once(start, database):
    place = start(database)
    shared = {"client_id": "machine", "client_secret": "machine-secret"}
    kept = {"token_management": {"store_tokens": True}, "authorization_url": None}
    place.add("shared", grant_type="client_credentials", **shared, **kept)
    with ThreadPoolExecutor(CALLERS) as pool:
        said = list(pool.map(lambda _: place.whoami("shared"), range(CALLERS)))
    assert [one for one in said if "machine" not in one] == []
    assert place.token_requests() == {"client_credentials": 1}
