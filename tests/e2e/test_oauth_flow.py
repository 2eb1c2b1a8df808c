"""Both grants against a real provider and a real MCP server, with tokens kept and not kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from demo.person import Person
from tests.e2e.gateway import PASSWORD, Gateway
from tests.e2e.rigs import rigs

KEPT = {"store_tokens": True, "auto_refresh": True}


@dataclass
class Place:
    """A running gateway, a provider, an MCP server that wants its tokens, and an admin."""

    op: rigs.Rig
    server: rigs.Rig
    node: Gateway
    admin: Person
    token: str
    probe: Callable[..., dict[str, Any]]

    def add(self, slug: str, *, grant: str = "authorization_code", **oauth: Any) -> None:
        is_code = grant == "authorization_code"
        config = {
            "grant_type": grant,
            "client_id": "gateway" if is_code else "machine",
            "client_secret": "gateway-secret" if is_code else "machine-secret",
            "issuer": self.op.url,
            "token_url": f"{self.op.url}/token",
            "scopes": ["mcp:tools"],
        }
        if is_code:
            config["authorization_url"] = f"{self.op.url}/auth"
        record = {"name": slug, "url": self.server.url, "auth_type": "oauth"}
        text = json.dumps(record | {"oauth_config": config | oauth})
        self.node.flask("gateways", "add", "-", stdin=text)

    def call(self, slug: str, tool: str = "whoami", **how: Any) -> dict[str, Any]:
        """As the admin's AI client, the SDK's."""
        return self.probe(f"{self.node.url}/mcp/{slug}", tool, token=self.token, **how)

    def token_requests(self) -> dict[str, int]:
        """That succeeded, by grant."""
        return self.op.debug("stats")["token"]["ok"]


@pytest.fixture
def place(stages, probe) -> Place:
    stage = stages()
    return Place(stage.op, stage.server, stage.node, stage.enter(), stage.token, probe)


def consented(place: Place, slug: str, *, allow: bool = True):
    return place.admin.connect(slug, user="alice", password="alice-pw", allow=allow)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_one_consent_serves_every_call_where_tokens_are_kept(place, mode):
    slug = f"kept-{mode}"
    place.add(slug, token_management=KEPT)
    page = consented(place, slug)
    assert page.url == f"{place.node.url}/connections/{slug}" and "is connected" in page.text
    for _ in range(2):
        assert "alice" in place.call(slug, mode=mode)["text"]
    assert place.token_requests() == {"authorization_code": 1}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_one_consent_serves_one_call_where_tokens_are_not_kept(place, mode):
    slug = f"asks-{mode}"
    place.add(slug)
    asked = json.dumps(place.call(slug, mode=mode))
    link = re.search(rf"http://[^\s\"\\]+/connections/{slug}\?ask=[\w.-]+", asked)[0]
    start = place.admin.submit(place.admin.get(link), action=f"/oauth/connect/{slug}", follow=False)
    back = place.admin.answer_provider(start, user="alice", password="alice-pw")
    page = place.admin.get(back)
    assert f"/connections/{slug}?call=" in page.url and "alice" in page.text
    assert "alice" in place.call(slug, mode=mode)["text"]  # the same call: given once, not run
    assert place.token_requests() == {"authorization_code": 1}
    assert place.server.debug("stats")["calls"] == {"whoami": 1}
    assert "ask=" in json.dumps(place.call(slug, mode=mode))


def test_a_shared_client_asks_for_each_operation_unless_tokens_are_kept(place):
    place.add("fresh", grant="client_credentials")
    place.add("stored", grant="client_credentials", token_management={"store_tokens": True})
    for _ in range(2):
        assert "machine" in place.call("stored", mode="2026-07-28")["text"]
    assert place.token_requests() == {"client_credentials": 1}
    place.call("fresh", mode="2026-07-28")
    once = place.token_requests()["client_credentials"]
    place.call("fresh", mode="2026-07-28")
    assert place.token_requests()["client_credentials"] == once + (once - 1)


def test_a_public_client_and_a_callback_of_its_own(place):
    place.add(
        "own",
        client_id="gateway-public",
        client_secret=None,
        redirect_uri=f"{place.node.url}/oauth/callback/own",
        token_management=KEPT,
    )
    assert "is connected" in consented(place, "own").text


def test_sec_002_another_browser_cannot_finish(place):
    place.add("mine", token_management=KEPT)
    start = place.admin.press_connect("mine")
    back = place.admin.answer_provider(start, user="alice", password="alice-pw")
    assert back.startswith(f"{place.node.url}/oauth/callback?") and "iss=" in back
    thief = Person(place.node.url).login("admin@example.com", PASSWORD)
    for other, status in ((Person(place.node.url), 401), (thief, 400)):
        page = other.get(back)
        assert page.status_code == status and page.headers["Referrer-Policy"] == "no-referrer"
    assert place.token_requests() == {}
    assert "is connected" in place.admin.get(back).text
    assert "failed=" in place.admin.get(back).url  # and once only
    assert place.token_requests() == {"authorization_code": 1}


def test_a_no_is_said_and_can_be_taken_back(place):
    place.add("declined", token_management=KEPT)
    page = consented(place, "declined", allow=False)
    assert "code=" not in page.url and "state=" not in page.url
    assert "You said no" in page.text and "access_denied" in page.text
    again = place.admin.submit(page, action="/oauth/connect/declined", follow=False)
    back = place.admin.answer_provider(again, user="alice", password="alice-pw")
    assert "is connected" in place.admin.get(back).text


def test_sec_012_a_lost_answer_is_not_asked_for_again(place):
    place.add("lossy", token_management=KEPT)
    start = place.admin.press_connect("lossy")
    back = place.admin.answer_provider(start, user="alice", password="alice-pw")
    place.op.debug("faults", {"path": "/token", "drop": True, "count": 5})
    page = place.admin.get(back)
    assert "failed=" in page.url and "answer was lost" in page.text
    [fault, _] = place.op.debug("faults", {"path": "/nothing"})
    assert fault["count"] == 4  # of 5: one was used up


def test_sec_111_no_log_line_holds_a_secret(stages, gateway_server, probe):
    stage, node = stages(), gateway_server(LOG_LEVEL="DEBUG")
    node.admin()
    own = replace(stage, node=node)
    place = Place(own.op, own.server, node, own.enter(), node.token(), probe)
    place.add("kept", token_management=KEPT)
    start = place.admin.press_connect("kept")
    back = place.admin.answer_provider(start, user="alice", password="alice-pw")
    place.admin.get(back)
    code, state = (re.search(rf"[?&]{name}=([^&]+)", back)[1] for name in ("code", "state"))
    place.node.stop()
    log = place.node.log()
    assert "[DEBUG]" in log or '"debug"' in log
    assert not [secret for secret in (code, state, "gateway-secret") if secret in log]
