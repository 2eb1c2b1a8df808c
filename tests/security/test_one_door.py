"""Every connection that leaves this process leaves through egress.py, whatever it is made for."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app import egress, housekeeping
from app.db import db
from app.models import Connection
from tests.mcp.world import SHARED, Client, body_of
from tests.mcp.world import add as add_open
from tests.oauth import acme
from tests.upstream import OldServer, Said, Seen, Upstream, dual, says, upstream

__all__ = ["upstream"]  # the fixture

DOOR = egress.__file__
OUT = {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}
OTHERS = {"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "urllib.Request"}
APP = str(Path(DOOR).parent)
_seen: list[tuple[str, bool]] | None = None  # what happened, and whether through the door


def _hook(event: str, _args: object) -> None:
    """An audit hook cannot be taken out again, so it sleeps outside of `watching`."""
    if _seen is None or (event not in OUT and event not in OTHERS):
        return
    frame, files = sys._getframe(), set()
    while frame is not None:
        files.add(frame.f_code.co_filename)
        frame = frame.f_back  # type: ignore[assignment]
    if event in OTHERS or any(file.startswith(APP) or file == __file__ for file in files):
        _seen.append((event, DOOR in files and event not in OTHERS))


sys.addaudithook(_hook)


@contextlib.contextmanager
def watching() -> Iterator[list[tuple[str, bool]]]:
    global _seen  # noqa: PLW0603  # the hook has no other way to know
    _seen = found = []
    try:
        yield found
    finally:
        _seen = None


def test_the_watch_sees_what_goes_around_the_door(upstream: Upstream) -> None:
    """Else the test below would prove nothing."""
    port = int(upstream.origin.rpartition(":")[2])
    plain = http.client.HTTPConnection("127.0.0.1", port)
    for around in (
        lambda: socket.create_connection(("127.0.0.1", port)).close(),
        plain.connect,
        lambda: requests.get(upstream.url, timeout=5),
    ):
        with watching() as found, contextlib.closing(plain):
            around()
        assert ("socket.connect", False) in found
        assert not any(is_guarded for _, is_guarded in found)


class Provider:
    """A script: all that is asked of a provider, beside an MCP server of either kind."""

    def __init__(self) -> None:
        self.old = OldServer()
        self.given = 0

    def __call__(self, seen: Seen) -> Said:
        if seen.path == "/token":
            self.given += 1
            tokens = {"access_token": f"at-{self.given}", "refresh_token": f"rt-{self.given}"}
            return says(tokens | {"token_type": "Bearer", "expires_in": 3600})
        if seen.path == "/userinfo":
            return says({"email": "alice@there.test"})
        if seen.path == "/revoke":
            return Said(200)
        return self.old(seen) if seen.path.startswith(("/sse", "/messages")) else dual(seen)


def test_sec_089_all_that_leaves_goes_through_the_one_door(app, alice, admin, upstream) -> None:
    """Consent, userinfo, exchange, tools, renewal, both eras and transports, chores, revocation."""
    upstream.script = Provider()
    with watching() as found:
        _live(app, alice, upstream)
    asked = {seen.path for seen in upstream.seen}
    assert asked >= {"/token", "/userinfo", "/revoke", "/mcp", "/sse", "/messages?s=1"}
    ways = [seen.body.decode() for seen in upstream.seen if seen.path == "/token"]
    for grant in ("authorization_code", "refresh_token", "client_credentials"):
        assert any(f"grant_type={grant}" in way for way in ways), grant
    connects = [is_guarded for event, is_guarded in found if event == "socket.connect"]
    assert len(connects) >= 6 and all(is_guarded for _, is_guarded in found), found


def _live(app, alice, upstream: Upstream) -> None:
    urls = {
        "token_url": f"{upstream.origin}/token",
        "userinfo_url": f"{upstream.origin}/userinfo",
        "revocation_url": f"{upstream.origin}/revoke",
        "account_path": ["email"],
    }
    acme.add(app, url=upstream.url, **urls)
    assert acme.leave(alice).back().status_code == 303
    mine = Client(app)
    assert "result" in body_of(mine.call())
    mine.initialize()
    assert "result" in body_of(mine.call(era="legacy"))
    assert alice.get("/tools?gateway=acme").status_code == 200
    _age(app)
    assert "at-2" in mine.text(mine.call())
    shared = {"auth_type": "oauth", "oauth_config": SHARED | {"token_url": urls["token_url"]}}
    add_open(app, upstream.url, "shared", **shared)
    assert "result" in body_of(Client(app, slug="shared").call())
    add_open(app, f"{upstream.origin}/sse", "old", transport="sse")
    assert "result" in body_of(Client(app, slug="old").call(era="legacy"))
    left = alice.submit("/connections/acme/disconnect", at="/connections/acme")
    assert left.status_code == 303
    with app.app_context():
        for chore in housekeeping.CHORES.values():
            for _ in chore.steps():
                pass


def _age(app) -> None:
    """The token is over."""
    with app.app_context():
        db.session.query(Connection).update({"issued_ms": 1, "expires_ms": 2})
        db.session.commit()
    app.extensions["recent"].clear()


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_sec_092_a_whole_call_heeds_no_proxy_variable(app, upstream, monkeypatch, name) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    shared = {
        "auth_type": "oauth",
        "oauth_config": SHARED | {"token_url": f"{upstream.origin}/token"},
    }
    upstream.script = Provider()
    add_open(app, upstream.url, **shared)
    client = Client(app)
    assert client.text(client.call()) == "echo by Bearer at-1"
