"""SEC-043: what we hand out opens for one person, gateway and purpose, unaltered, in its time."""

from __future__ import annotations

import base64

import pytest

from app.db import db
from app.models import Gateway
from app.secretbox import Bound, box
from tests.conftest import rows
from tests.mcp.world import Client, add, body_of, connect, oauth, user
from tests.upstream import Upstream, upstream

__all__ = ["upstream"]  # the fixture
URL = {"elicitation": {"url": {}}}


def gateway_id(app, slug: str = "acme") -> str:
    return next(row.id for row in rows(app, Gateway) if row.slug == slug)


def swapped(handle: str, other: str) -> list[str]:
    """Each part of one handle beside the others of another; and each third of its body."""
    (mark, key, body), (_, _, others) = handle.split("."), other.split(".")
    raw, foreign = (
        base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) for text in (body, others)
    )
    parts = [
        foreign[:16] + raw[16:],  # the salt
        raw[:16] + foreign[16:28] + raw[28:],  # the nonce
        raw[:28] + foreign[28:-16] + raw[-16:],  # what it says
        raw[:-16] + foreign[-16:],  # the tag
        raw[:-1],
        raw + b"\0",
    ]
    texts = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts]
    return [*(f"{mark}.{key}.{text}" for text in texts), f"{mark}.{key[::-1]}.{body}", body]


@pytest.fixture
def acme(app, upstream: Upstream) -> Client:
    add(app, upstream.url)
    client = Client(app)
    client.initialize()
    return client


def test_sec_043_a_session_with_a_part_of_another_is_none(app, upstream, acme):
    """Even of the same person and gateway."""
    second = Client(app)
    second.initialize()
    before = len(upstream.seen)
    for handle in swapped(acme.session, second.session):
        assert acme.legacy("tools/list", session=handle).status_code == 404
    assert len(upstream.seen) == before
    assert acme.legacy("tools/list").status_code == 200


def test_sec_043_a_session_past_its_end_is_none(app, upstream, acme):
    """Opened by us with what it says, and sealed again so that it is over."""
    bound = Bound("mcp-session", user(app), gateway_id(app))
    with app.app_context():
        facts = box().open_handle(acme.session, bound=bound)
        over, living = (box().seal_handle(facts, bound=bound, life_s=s) for s in (-1, 60))
    before = len(upstream.seen)
    for verb in ("POST", "GET", "DELETE"):
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"} if verb == "POST" else None
        assert acme.send(verb, body, Mcp_Session_Id=over).status_code == 404
    assert len(upstream.seen) == before
    assert acme.legacy("tools/list", session=living).status_code == 200


def test_sec_043_a_request_state_past_its_end_is_refused(app, upstream):
    add(app, upstream.url, **oauth())
    client = Client(app, asks=URL)
    params = {"name": "echo", "arguments": {}}
    state = body_of(client.modern("tools/call", params))["result"]["requestState"]
    other = body_of(client.modern("tools/call", params))["result"]["requestState"]
    bound = Bound("request-state", user(app), gateway_id(app))
    with app.app_context():
        facts = box().open_handle(state, bound=bound)
        over = box().seal_handle(facts, bound=bound, life_s=-1)
    connect(app)
    yes = {"inputResponses": {"connect": {"action": "accept"}}}
    ours = [text for text in swapped(state, other) if text.startswith("mg1.")]
    known = [text for text in ours if text.split(".")[1] == state.split(".")[1]]
    for bad in (over, *known):
        reply = client.modern("tools/call", params | yes | {"requestState": bad})
        assert (reply.status_code, reply.json["error"]["code"]) == (400, -32602)
    assert upstream.asked("tools/call") == []
    assert "result" in body_of(client.modern("tools/call", params | yes | {"requestState": state}))


def test_sec_043_a_link_past_its_end_or_altered_starts_nothing(app, alice, bob, upstream):
    add(app, upstream.url, **oauth())
    client = Client(app)
    links = [client.text(client.call(n=n)).split("?ask=")[1].split()[0] for n in (1, 2)]
    with app.app_context():
        bound = Bound("ask", "*", gateway_id(app))
        facts = box().open_handle(links[0], bound=bound)
        over = box().seal_handle(facts, bound=bound, life_s=-1)
        elsewhere = box().seal_handle(facts, bound=Bound("ask", "*", "g-2"), life_s=60)
        db.session.rollback()
    for handle in (over, elsewhere, *swapped(*links)):
        page = alice.submit("/oauth/connect/acme", at="/connections/acme", ask=handle)
        assert page.status_code == 400 and "ask_over" in page.text
    stranger = bob.submit("/oauth/connect/acme", at="/connections/acme", ask=links[0])
    assert stranger.status_code == 403 and "ask_foreign" in stranger.text
    page = alice.submit("/oauth/connect/acme", at="/connections/acme", ask=links[0])
    assert page.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.test", "gw.test.evil.test", "127.0.0.1", "gw.test:8443", ""]
)
def test_sec_041_a_rebound_host_reaches_no_gateway(app, upstream, acme, host):
    """A name of a hostile page that resolves to us: its requests carry its name."""
    before = len(upstream.seen)
    reply = acme.send("POST", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, Host=host)
    assert reply.status_code == 400 and len(upstream.seen) == before
