"""Between clients and servers: eras, sessions, streams, and what is sent how often."""

import dataclasses
import json
import threading

import pytest
import requests_mock as mocking
import sqlalchemy as sa

from app.db import db
from app.models import Connection
from tests.conftest import rows
from tests.mcp import world
from tests.mcp.world import SHARED, Client, add, body_of, connect, failure_of, messages_of, oauth
from tests.upstream import (
    EVENTS,
    JSON,
    LEGACY,
    META,
    MODERN,
    WELCOME,
    Cut,
    OldServer,
    Said,
    Upstream,
    dual,
    error,
    event,
    legacy,
    modern,
    result,
    says,
    streams,
    upstream,
)

__all__ = ["upstream"]  # the fixture
NEW_TOKEN = {"access_token": "at-new", "token_type": "Bearer", "expires_in": 3600}


@pytest.fixture
def acme(app, upstream: Upstream) -> Client:
    """Alice's client at a gateway without sign-in."""
    add(app, upstream.url)
    return Client(app)


@pytest.fixture
def signed_in(app, upstream: Upstream) -> Client:
    """Alice's client at a gateway that she is connected to."""
    add(app, upstream.url, **oauth())
    connect(app)
    return Client(app)


# -- what real clients send (V1 to V4) ------------------------------------------------------------

SAME = (
    '{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":'
    '{"name":"mcp","version":"0.1.0"},"io.modelcontextprotocol/clientCapabilities":{}}'
)
V1 = [
    (
        "server/discover",
        None,
        '{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":%s}}',
    ),
    ("tools/list", None, '{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"_meta":%s}}'),
    (
        "tools/call",
        "test_simple_text",
        '{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"test_simple_text",'
        '"arguments":{},"_meta":%s}}',
    ),
]
HELLO = (
    '{"jsonrpc":"2.0","id":%s,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
    '"capabilities":%s,"clientInfo":{"name":"mcp","version":"0.1.0"}}}'
)
V4 = '{"roots":{"listChanged":true},"extensions":{"io.modelcontextprotocol/tasks":{}}}'


def test_vectors_of_a_modern_client(acme, upstream):
    for method, name, body in V1:
        raw = (body % SAME).encode()
        named = {"mcp-protocol-version": MODERN, "mcp-method": method, "mcp-name": name}
        reply = acme.send("POST", raw, **named)
        assert reply.json["result"]["resultType"] == "complete"
        assert upstream.seen[-1].body == raw
    assert len(upstream.seen) == 3


@pytest.mark.parametrize("kind", ["json", "events"])
def test_an_opening_under_another_id_is_not_taken_for_the_answer(acme, upstream, kind):
    answer = {"jsonrpc": "2.0", "id": 99, "result": WELCOME}
    upstream.script = lambda _: says(answer) if kind == "json" else streams(event(answer))
    assert acme.initialize().json["result"]["serverInfo"]["name"] == "acme"
    assert acme.modern("server/discover").json["error"]["code"] == -32600


@pytest.mark.parametrize(("first", "capabilities"), [(1, "{}"), (0, "{}"), (0, V4)])
def test_vectors_of_a_legacy_client(acme, upstream, first, capabilities):
    raw = (HELLO % (first, capabilities)).encode()
    reply = acme.send("POST", raw)
    assert reply.json["id"] == first and reply.json["result"] == WELCOME
    assert upstream.seen[-1].body == raw
    session = {"Mcp-Session-Id": reply.headers["Mcp-Session-Id"], "Mcp-Protocol-Version": LEGACY}
    initialized = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    assert acme.send("POST", initialized, **session).status_code == 202
    assert acme.send("GET", None, **session, Accept=EVENTS).status_code == 405
    listed = b'{"method":"tools/list","jsonrpc":"2.0","id":%d}' % (first + 1)
    assert acme.send("POST", listed, **session).json["result"]["tools"]
    assert acme.send("DELETE", None, **session).status_code == 200
    assert [one.header("Mcp-Session-Id") for one in upstream.seen[1:]] == ["up-1"] * 4
    assert [one.rpc for one in upstream.seen[1:]] == [
        *("notifications/initialized", "GET", "tools/list", "DELETE")
    ]


def test_vectors_of_a_client_of_both_eras_at_a_legacy_server(acme, upstream):
    """The server's own refusal, with its status, makes the client open with initialize."""
    upstream.script = legacy
    reply = acme.send(
        "POST",
        (V1[0][2] % SAME).encode(),
        **{"mcp-protocol-version": MODERN, "mcp-method": "server/discover"},
    )
    assert reply.status_code == 400
    refusal = {"code": -32000, "message": "Bad Request: Server not initialized"}
    assert reply.json == {"jsonrpc": "2.0", "error": refusal, "id": None}
    assert acme.initialize().json["result"] == WELCOME
    assert acme.call(era="legacy").json["result"]["content"]


@pytest.mark.parametrize(
    "answer",
    [
        Said(404, b"<html>", {"Content-Type": "text/html"}),
        Said(405),
        Said(406),
        Said(415, b"no", {"Content-Type": "text/plain"}),
        Said(400),
        Said(200, b"hello", {"Content-Type": "text/plain"}),
    ],
)
def test_a_refusal_that_is_no_json_makes_the_client_open_anew_too(acme, upstream, answer):
    upstream.script = lambda _: answer
    reply = acme.modern("server/discover")
    assert reply.status_code == 400 and reply.json["id"] == 1 and "html" not in reply.text
    assert reply.json["error"]["code"] == -32600  # not one that a modern server sends here


def down(upstream: Upstream) -> None:
    upstream.stop()


def failing(upstream: Upstream) -> None:
    upstream.script = lambda _: Said(503)


def resetting(upstream: Upstream) -> None:
    upstream.script = lambda _: Said(0)


def slow(upstream: Upstream) -> None:
    upstream.script = lambda _: (upstream.hung_up.wait(20), Said(200))[1]


@pytest.mark.parametrize("fault", [down, failing, resetting, slow])
def test_discover_and_initialize_never_fail(start, config, upstream, fault):
    app = start(dataclasses.replace(config, UPSTREAM_READ_TIMEOUT=0.3))
    add(app, upstream.url)
    client = Client(app)
    fault(upstream)
    found = body_of(client.modern("server/discover"))["result"]
    assert found["supportedVersions"] == [MODERN] and found["resultType"] == "complete"
    assert found["_meta"][f"{META}serverInfo"]["name"] == "acme"
    reply = client.initialize()
    assert body_of(reply)["result"]["serverInfo"]["name"] == "acme" and client.session
    assert failure_of(client.call(era="legacy"))["gateway"] == "acme"
    upstream.hung_up.set()


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-06-18", "2025-06-18"),
        ("2099-01-01", LEGACY),
        (7, LEGACY),
    ],
)
def test_a_version_we_know_is_agreed_to_else_the_newest(app, upstream, asked, agreed):
    add(app, upstream.url, **oauth())
    reply = Client(app).initialize(protocolVersion=asked)
    assert reply.json["result"]["protocolVersion"] == agreed


def test_what_was_seen_to_be_there_is_declared_later(app, upstream):
    add(app, upstream.url, **oauth())
    connect(app, email="bob@example.com")
    Client(app, email="bob@example.com").initialize()
    declared = Client(app).initialize().json["result"]["capabilities"]
    assert declared == {"tools": {"listChanged": True}, "prompts": {}}


# -- sessions -------------------------------------------------------------------------------------


def altered(handle: str) -> list[str]:
    """Each part of it changed, cut or swapped."""
    mark, key, body = handle.split(".")
    other = "A" if body[40] != "A" else "B"
    changed = [f"{mark}.{key}.{body[:40]}{other}{body[41:]}", f"{mark}.{'0' * len(key)}.{body}"]
    return [*changed, handle[:-1], handle + "A", body, "up-1", "", "x" * 5000, f"mg2.{key}.{body}"]


def test_sec_043_a_session_is_404_for_everybody_else(app, acme, upstream):
    add(app, upstream.url, "other")
    acme.initialize()
    bob = Client(app, email="bob@example.com", session=acme.session)
    elsewhere = dataclasses.replace(acme, slug="other")
    before = len(upstream.seen)
    for client in (bob, elsewhere):
        for reply in (
            client.call(era="legacy"),
            client.legacy("notifications/initialized"),
            client.send("GET", None, Mcp_Session_Id=client.session),
            client.send("DELETE", None, Mcp_Session_Id=client.session),
        ):
            assert reply.status_code == 404
    for handle in altered(acme.session):
        assert acme.legacy("tools/list", session=handle).status_code == 404
    assert len(upstream.seen) == before
    assert acme.call(era="legacy").status_code == 200


def test_a_session_works_on_every_node(start, config, upstream):
    """Initialized on one, called, read and ended on the other: nothing is kept but the handle."""
    one, other = start(config), start(config)
    add(one, upstream.url)
    client = Client(one)
    client.initialize()
    client.http = other.test_client()
    assert body_of(client.call(era="legacy"))["result"]
    upstream.script = lambda seen: streams(event({"jsonrpc": "2.0", "method": "x"}))
    heard = client.send("GET", None, Mcp_Session_Id=client.session, Last_Event_ID="7")
    assert messages_of(heard) == [{"jsonrpc": "2.0", "method": "x"}]
    upstream.script = dual
    answer = {"jsonrpc": "2.0", "id": 0, "result": {"action": "accept"}}
    assert client.send("POST", answer, Mcp_Session_Id=client.session).status_code == 202
    assert client.send("DELETE", None, Mcp_Session_Id=client.session).status_code == 200
    assert {one.header("Mcp-Session-Id") for one in upstream.seen[1:]} == {"up-1"}
    assert upstream.asked("GET")[0].header("Last-Event-ID") == "7"
    assert upstream.asked("answer")[0].json == answer


def test_a_session_of_the_upstreams_that_is_over_is_told(acme, upstream):
    acme.initialize()
    upstream.script = lambda seen: says(error(seen, -32600), 404)
    reply = acme.call(era="legacy")
    assert reply.status_code == 404 and reply.json["id"] == acme.next_id
    assert acme.legacy("notifications/initialized").status_code == 404
    assert len(upstream.seen) == 3


def test_consent_in_a_running_session(app, upstream):
    """One session from before the sign-in, through it, and through another account."""
    add(app, upstream.url, **oauth())
    client = Client(app)
    client.initialize()
    names = [tool["name"] for tool in body_of(client.legacy("tools/list"))["result"]["tools"]]
    assert names == ["gateway_connect"] and upstream.seen == []
    connect(app, token="at-1")
    names = [tool["name"] for tool in body_of(client.legacy("tools/list"))["result"]["tools"]]
    assert names == ["echo", "add"]
    for _ in range(20):
        assert client.text(client.call(era="legacy")) == "echo by Bearer at-1"
    assert len(upstream.asked("initialize")) == 1
    connect(app, token="at-2")
    assert client.text(client.call(era="legacy")) == "echo by Bearer at-2"
    assert len(upstream.asked("initialize")) == 2


def test_an_attached_session_is_not_used_for_another_account(app, upstream, signed_in):
    signed_in.initialize()
    assert upstream.seen[-1].rpc == "initialize"
    connect(app, token="at-2")
    assert signed_in.text(signed_in.call(era="legacy")) == "echo by Bearer at-2"
    assert [one.rpc for one in upstream.seen][-3:] == [
        *("initialize", "notifications/initialized", "tools/call")
    ]
    assert upstream.seen[-3].json["params"]["capabilities"] == {}  # ours, of our own session


def test_a_ping_is_answered_though_the_connection_is_lost(app, upstream, signed_in):
    signed_in.asks = {"elicitation": {"url": {}}}
    signed_in.initialize()
    lose(app, "acme", signed_in.email)
    assert signed_in.legacy("ping").json["result"] == {}
    assert signed_in.legacy("ping", session=None).json["result"] == {}
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("kind", ["attached", "detached", "none"])
def test_get_and_delete(app, upstream, kind):
    add(app, upstream.url, **({} if kind == "attached" else oauth()))
    client = Client(app)
    client.initialize() if kind != "none" else None
    upstream.script = lambda seen: streams(b": hi\n\n") if seen.method == "GET" else Said(204)
    got = client.send("GET", None, Mcp_Session_Id=client.session)
    ended = client.send("DELETE", None, Mcp_Session_Id=client.session)
    attached = kind == "attached"
    assert (got.status_code, ended.status_code) == ((200, 204) if attached else (405, 405))
    assert got.data == (b": hi\n\n" if attached else b"")
    assert bool(upstream.asked("GET")) == bool(upstream.asked("DELETE")) == attached
    assert attached or got.headers["Allow"] == "POST"


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_this_revision_has_only_post(acme, upstream, verb):
    acme.initialize()
    reply = acme.send(verb, None, MCP_Protocol_Version=MODERN, Mcp_Session_Id=acme.session)
    assert reply.status_code == 405 and len(upstream.seen) == 1


@pytest.mark.parametrize("answer", [Said(0), Said(500), Said(404), Said(403), says({})])
def test_a_get_that_cannot_be_relayed_is_405_which_clients_go_on_after(acme, upstream, answer):
    acme.initialize()
    upstream.script = lambda _: answer
    assert acme.send("GET", None, Mcp_Session_Id=acme.session).status_code == 405


def test_a_session_is_neither_read_nor_given_in_this_revision(acme, upstream):
    acme.initialize()
    upstream.script = lambda seen: says(result(seen, resultType="complete"), Mcp_Session_Id="up-2")
    reply = acme.modern("tools/list", Mcp_Session_Id="nonsense", Last_Event_ID="4")
    assert reply.status_code == 200 and "Mcp-Session-Id" not in reply.headers
    assert upstream.seen[-1].header("Mcp-Session-Id") is None
    assert upstream.seen[-1].header("Last-Event-ID") is None


def test_a_request_without_a_session_is_served(acme, upstream):
    assert body_of(acme.call(era="legacy"))["result"]
    assert [one.rpc for one in upstream.seen] == [
        *("initialize", "notifications/initialized", "tools/call")
    ]
    assert upstream.seen[-1].json["id"] != acme.next_id  # ours: the session may be shared
    assert acme.legacy("ping").json == {"jsonrpc": "2.0", "id": 2, "result": {}}
    assert acme.legacy("logging/setLevel").json["error"]["code"] == -32601
    assert len(upstream.seen) == 3


def test_notifications_and_answers_are_202_and_relayed_only_with_a_session(app, upstream):
    add(app, upstream.url, **oauth())
    client = Client(app)
    client.initialize()
    for body in ({"method": "notifications/x"}, {"id": 3, "result": {}}):
        reply = client.send("POST", {"jsonrpc": "2.0", **body}, Mcp_Session_Id=client.session)
        assert reply.status_code == 202 and reply.data == b""
    modern = {"jsonrpc": "2.0", "method": "notifications/x"}
    assert client.send("POST", modern, MCP_Protocol_Version=MODERN).status_code == 202
    assert upstream.seen == []


def test_a_lost_notification_is_no_http_error(acme, upstream):
    acme.initialize()
    for answer in (Said(0), Said(500), Said(403), Said(400), Said(302)):
        upstream.script = lambda _, answer=answer: answer
        assert acme.legacy("notifications/cancelled").status_code == 202


def test_a_batch_is_refused(acme, upstream):
    reply = acme.send("POST", [{"jsonrpc": "2.0", "id": 1, "method": "ping"}])
    assert reply.status_code == 400 and reply.json["error"]["code"] == -32600
    assert upstream.seen == []


@pytest.mark.parametrize("has_id", [True, False])
def test_a_refusal_in_a_session_comes_at_200_under_the_calls_id(acme, upstream, has_id):
    acme.initialize()
    refusal = {"code": -32602, "message": "Unknown tool", "data": {"a": 1}}
    upstream.script = lambda seen: says(
        {"jsonrpc": "2.0", "id": seen.json["id"] if has_id else None, "error": refusal}, 400
    )
    assert body_of(acme.call(era="legacy")) == {
        "jsonrpc": "2.0",
        "id": acme.next_id,
        "error": refusal,
    }


# -- sessions of our own --------------------------------------------------------------------------


def test_a_session_of_our_own_that_is_over_is_opened_anew_once(acme, upstream):
    acme.call(era="legacy")
    known = {"up-2"}

    def restarted(seen):
        if seen.rpc == "initialize":
            return says(result(seen, **WELCOME), Mcp_Session_Id="up-2")
        if seen.header("Mcp-Session-Id") not in known:
            return says(error(seen, -32600), 404)
        return says(result(seen, content=[])) if seen.rpc == "tools/call" else Said(202)

    upstream.script = restarted
    assert body_of(acme.call(era="legacy"))["result"] == {"content": []}
    assert [one.header("Mcp-Session-Id") for one in upstream.asked("tools/call")] == [
        *("up-1", "up-1", "up-2")
    ]
    known.clear()
    assert "error" in body_of(acme.call(era="legacy"))
    assert len(upstream.asked("tools/call")) == 5  # asked again once, then given up


def test_callers_who_come_together_share_one_handshake(app, acme, upstream):
    all_here = threading.Barrier(6, timeout=20)

    def ask() -> None:
        client = dataclasses.replace(acme)
        all_here.wait()
        assert client.text(client.call(era="legacy")) == "echo by None"

    threads = [threading.Thread(target=ask) for _ in range(6)]
    [one.start() for one in threads]
    [one.join(30) for one in threads]
    assert len(upstream.asked("initialize")) == 1 and len(upstream.asked("tools/call")) == 6


def test_each_client_gets_its_own_answer_over_a_shared_session(app, acme, upstream):
    """Two requests under one id at once."""
    both = threading.Barrier(2, timeout=10)
    acme.call(era="legacy")

    def together(seen):
        if seen.rpc == "tools/call":
            both.wait()
        said = seen.json.get("params", {}).get("arguments")
        return says(result(seen, content=[{"type": "text", "text": json.dumps(said)}]))

    upstream.script = together
    clients = [dataclasses.replace(acme, next_id=7) for _ in range(2)]
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        client = clients[number]
        reply = client.call(era="legacy", n=number)
        assert body_of(reply)["id"] == 8
        found[number] = client.text(reply)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    [one.start() for one in threads]
    [one.join(20) for one in threads]
    assert found == {0: '{"n": 0}', 1: '{"n": 1}'}


@pytest.mark.parametrize("kind", ["json", "events"])
def test_a_session_of_our_own_keeps_its_connection(acme, upstream, kind):
    """Whatever form answers have, and through the handshake."""

    def script(seen):
        said = legacy(seen)
        if kind == "json" or said.headers.get("Content-Type") != JSON:
            return said
        return Said(
            200, [b"data: " + said.body + b"\n\n"], {**said.headers, "Content-Type": EVENTS}
        )

    upstream.script = script
    for _ in range(3):
        assert body_of(acme.call(era="legacy"))["result"]
    acme.initialize()
    acme.legacy("notifications/initialized")
    assert body_of(acme.call(era="legacy"))["result"]
    assert upstream.connections == 1


def test_what_the_server_asks_of_us_is_turned_down(acme, upstream):
    acme.call(era="legacy")

    def asks(seen):
        if seen.rpc != "tools/call":
            return Said(202)
        sampling = {"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage"}
        ping = {"jsonrpc": "2.0", "id": "p", "method": "ping"}
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
        pieces = [event(one) for one in (ping, progress, sampling, result(seen, content=[]))]
        return streams(b"id: 0\ndata:\n\n", *pieces)

    upstream.script = asks
    reply = acme.call(era="legacy")
    assert [one.get("method", "answer") for one in messages_of(reply)] == [
        *("notifications/progress", "answer")
    ]
    assert messages_of(reply)[-1]["id"] == acme.next_id
    first, second = [one.json for one in upstream.asked("answer")]
    assert first == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert second["id"] == 5 and second["error"]["code"] == -32601


def test_a_stream_of_ours_that_breaks_off_is_taken_up_again(acme, upstream):
    acme.call(era="legacy")
    call_id = []

    def breaks(seen):
        if seen.rpc == "tools/call":
            call_id.append(seen.json["id"])
            return streams(b"id: 7\nretry: 1\ndata:\n\n", Cut())
        if len(upstream.asked("GET")) == 1:
            return streams(b"id: 8\nretry: 1\ndata:\n\n")
        return streams(event({"jsonrpc": "2.0", "id": call_id[0], "result": {"content": []}}))

    upstream.script = breaks
    assert body_of(acme.call(era="legacy"))["result"] == {"content": []}
    assert [one.header("Last-Event-ID") for one in upstream.asked("GET")] == ["7", "8"]
    assert len(upstream.asked("tools/call")) == 2  # one before, one now


# -- what is sent how often -----------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize(
    "answer",
    [
        *(Said(status) for status in (0, 400, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504)),
        *(Said(status, b"", {"Location": "/mcp"}) for status in (301, 307, 308)),
        streams(Cut()),
        says(b"{"),
    ],
    ids=lambda said: str(said.status),
)
def test_sec_047_a_call_is_sent_once_whatever_comes_back(acme, upstream, era, answer):
    acme.initialize() if era == "legacy" else None
    upstream.script = lambda _: answer
    acme.call(era=era).get_data()
    assert len(upstream.asked("tools/call")) == 1


def test_a_refused_token_is_renewed_and_the_call_sent_once_more(app, upstream, signed_in, provider):
    provider.post("https://as.test/token", json=NEW_TOKEN)
    upstream.script = refusing("at-alice-acme")
    for _ in range(2):
        assert signed_in.text(signed_in.call()) == "echo by Bearer at-new"
    assert len(upstream.seen) == 3 and provider.call_count == 1


def refusing(*tokens: str):
    """Both eras, for whoever has another token."""

    def script(seen):
        if seen.header("Authorization") in {f"Bearer {one}" for one in tokens}:
            return Said(401, b"", {"WWW-Authenticate": 'Bearer realm="up"'})
        return dual(seen)

    return script


def test_a_token_that_is_refused_though_new_is_said_to_be(app, upstream, signed_in, provider):
    """F-31: two requests, then one each, and a clear word."""
    provider.post("https://as.test/token", json=NEW_TOKEN)
    upstream.script = lambda _: Said(401)
    for sent in (2, 3, 4):
        reply = signed_in.call()
        assert failure_of(reply)["code"] == "token_refused"
        assert "WWW-Authenticate" not in reply.headers
        assert len(upstream.seen) == sent
    assert provider.call_count == 1


def test_a_refused_token_with_nothing_to_follow_it_asks_for_a_sign_in(app, upstream):
    add(app, upstream.url, **oauth(token_management={"store_tokens": True}))
    connect(app, refresh_token_sealed=None)
    client = Client(app)
    upstream.script = lambda _: Said(401)
    said = client.text(client.call())
    assert "needs your sign-in. Open https://gw.test/connections/acme?ask=" in said
    [row] = rows(app, Connection)
    assert (row.state, row.reason) == ("needs_reauth", "refused_by_server")
    client.call()
    assert len(upstream.seen) == 1


def test_a_fixed_token_that_is_refused_is_no_matter_of_the_person(app, upstream):
    add(app, upstream.url, auth_type="bearer", bearer_token="s3cret")
    upstream.script = lambda _: Said(401)
    assert failure_of(Client(app).call())["code"] == "token_refused_shared"
    assert len(upstream.seen) == 1


def test_client_credentials_without_storage_ask_anew_for_each_operation(app, upstream, provider):
    add(app, upstream.url, auth_type="oauth", oauth_config=SHARED)
    tokens = [NEW_TOKEN | {"access_token": f"cc-{number}"} for number in range(9)]
    provider.post("https://as.test/token", [{"json": one} for one in tokens])
    client = Client(app)
    assert client.text(client.call()) == "echo by Bearer cc-0"
    assert client.text(client.call(era="legacy")) == "echo by Bearer cc-1"  # handshake included
    assert {one.header("Authorization") for one in upstream.seen[1:]} == {"Bearer cc-1"}
    upstream.script = refusing("cc-2")
    assert client.text(client.call()) == "echo by Bearer cc-3"
    upstream.script = lambda _: Said(401)
    assert failure_of(client.call())["code"] == "token_refused_shared"
    assert provider.call_count == 6


def test_a_provider_that_is_down_is_said_to_be(app, upstream, provider):
    add(app, upstream.url, auth_type="oauth", oauth_config=SHARED)
    provider.post("https://as.test/token", status_code=503, headers={"Retry-After": "7"})
    client = Client(app)
    data = failure_of(client.call())
    assert data["code"].startswith("provider_") and upstream.seen == []
    assert client.initialize().status_code == client.modern("server/discover").status_code == 200


def test_f_32_a_right_that_is_missing_leads_to_a_link_that_asks_for_it(app, upstream, signed_in):
    challenge = (
        'Bearer error="insufficient_scope", scope="read write", resource_metadata="https://x"'
    )
    upstream.script = lambda _: Said(403, b"", {"WWW-Authenticate": challenge})
    reply = signed_in.call()
    data = failure_of(reply)
    assert data["code"] == "insufficient_scope" and "WWW-Authenticate" not in reply.headers
    assert "https://gw.test/connections/acme?ask=" in data["action"]
    assert len(upstream.seen) == 1
    with app.app_context():
        [wanted] = db.session.scalars(sa.text("SELECT scopes_wanted FROM parked_call"))
    assert "write" in str(wanted)


def test_a_right_that_is_missing_without_a_person_has_no_link(app, upstream, acme):
    challenge = 'Bearer error="insufficient_scope"'
    upstream.script = lambda _: Said(403, b"", {"WWW-Authenticate": challenge})
    data = failure_of(acme.call())
    assert data["code"] == "insufficient_scope_shared"
    assert data["action"].startswith("An admin must") and "link" not in data["action"]


@pytest.mark.parametrize(
    ("status", "code"), [(401, "token_refused_shared"), (403, "insufficient_scope_shared")]
)
def test_what_a_shared_account_lacks_is_for_an_admin_to_give(app, upstream, status, code):
    add(app, upstream.url, auth_type="oauth", oauth_config=SHARED)
    add(app, upstream.url, "static", auth_type="bearer", bearer_token="s3cret")
    connect(app)
    challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="write"'}
    upstream.script = lambda _: Said(status, b"", challenge)
    with mocking.Mocker() as provider:
        provider.post(SHARED["token_url"], json=NEW_TOKEN)
        for slug in ("acme", "static"):
            data = failure_of(Client(app, slug=slug).call())
            assert data["code"] == code and data["action"].startswith("An admin must")


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_events_are_not_held(app, acme, upstream, era):
    """Each arrives before the next one is said; meanwhile nothing of the database is held."""
    acme.initialize() if era == "legacy" else None
    go = threading.Semaphore(0)
    said = [event({"jsonrpc": "2.0", "method": "x", "params": {"n": n}}) for n in range(3)]

    def pieces():
        for one in said:
            go.acquire(timeout=10)
            yield one

    upstream.script = lambda _: Said(200, pieces(), {"Content-Type": EVENTS})
    reply = acme.call(era=era)
    coming = iter(reply.response)
    for one in said:
        go.release()
        assert next(coming) == one
        with app.app_context():
            assert db.engine.pool.checkedout() == 0
    reply.close()


def test_a_reader_who_leaves_ends_the_upstreams_stream(acme, upstream):
    def endless():
        while not upstream.hung_up.wait(0.01):
            yield b": still here\n\n"

    upstream.script = lambda _: Said(200, endless(), {"Content-Type": EVENTS})
    reply = acme.call()
    next(iter(reply.response))
    reply.close()
    assert upstream.hung_up.wait(10)


def test_a_stream_nobody_began_to_read_is_ended_as_well(acme, upstream):
    test_a_reader_who_leaves_ends_the_upstreams_stream(acme, upstream)
    upstream.hung_up.clear()
    acme.call().close()
    assert upstream.hung_up.wait(10)


def test_a_warm_call_asks_no_database_and_no_provider(app, upstream, signed_in, provider):
    signed_in.call()
    statements = []
    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for _ in range(3):
        assert signed_in.call().status_code == 200
    assert statements == [] and provider.call_count == 0 and upstream.connections == 1


def lose(app, slug: str, email: str) -> None:
    with app.app_context():
        gateway = world.usable(app, email, slug)
        change = sa.update(Connection).where(Connection.gateway_id == gateway.id)
        mine = Connection.owner_key == gateway.owner_key
        db.session.execute(change.where(mine).values(state="revoked", access_token_sealed=None))
        db.session.commit()


# -- eras of servers ------------------------------------------------------------------------------


def test_a_modern_call_at_a_legacy_server_says_to_open_anew(acme, upstream):
    upstream.script = legacy
    assert failure_of(acme.call())["code"] == "older_protocol"
    assert len(upstream.asked("tools/call")) == 1


@pytest.mark.parametrize("transport", ["auto", "sse"])
@pytest.mark.parametrize("kept", [True, False])
def test_old_sse_upstream(app, upstream, provider, transport, kept):
    """README, promise 7: both grants of an address that ends in /sse, for clients of both eras."""
    grant = oauth() if kept else {"auth_type": "oauth", "oauth_config": SHARED}
    add(app, f"{upstream.origin}/sse", transport=transport, **grant)
    connect(app) if kept else None
    provider.post("https://as.test/token", json=NEW_TOKEN)
    upstream.script = OldServer()
    client = Client(app)
    refused = client.modern("server/discover")
    assert refused.status_code == 400 and refused.json["error"]["code"] == -32600
    declared = client.initialize().json["result"]
    assert declared["serverInfo"]["name"] == "acme"
    assert declared["capabilities"] == {"tools": {"listChanged": True}, "prompts": {}}
    token = "at-alice-acme" if kept else "at-new"
    assert client.text(client.call(era="legacy")) == f"echo by Bearer {token}"
    names = [tool["name"] for tool in body_of(client.legacy("tools/list"))["result"]["tools"]]
    assert names == ["echo", "add"]
    assert {one.header("Authorization") for one in upstream.seen} == {f"Bearer {token}"}
    posts = [one for one in upstream.seen if one.method == "POST" and one.path == "/sse"]
    assert len(posts) == (2 if transport == "auto" else 0)  # discover and initialize, never again
    assert client.send("GET", None, Mcp_Session_Id=client.session).status_code == 405


def test_progress_of_an_old_server_comes_as_it_is_said(app, upstream):
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
    asks = {"jsonrpc": "2.0", "id": 3, "method": "roots/list"}
    add(app, f"{upstream.origin}/sse")
    upstream.script = OldServer("/messages?s=1", progress, asks)
    client = Client(app)
    reply = client.call(era="legacy")
    assert reply.content_type == EVENTS
    first, last = messages_of(reply)
    assert first == progress and last["id"] == client.next_id
    [turned_down] = [one.json for one in upstream.seen if one.rpc == "answer"]
    assert turned_down["error"]["code"] == -32601


@pytest.mark.parametrize("before", [(), ({"jsonrpc": "2.0", "method": "notifications/x"},)])
def test_an_old_server_that_hangs_up_is_not_asked_again(app, upstream, before):
    add(app, f"{upstream.origin}/sse")
    upstream.script = OldServer("/messages?s=1", *before)
    upstream.script.ends_instead = True
    client = Client(app)
    said = body_of(client.call(era="legacy"))
    assert said["id"] == client.next_id and said["error"]["data"]["code"] == "upstream_error"
    assert len(upstream.asked("tools/call")) == 1


def test_an_old_server_is_told_no_token_of_where_it_points_to(app, upstream):
    other = Upstream()
    add(app, f"{upstream.origin}/sse", **oauth())
    connect(app)
    upstream.script = OldServer(f"{other.origin}/messages?s=1")
    assert failure_of(Client(app).call(era="legacy"))["code"] == "upstream_bad_answer"
    assert other.seen == []
    other.stop()


def test_an_old_server_that_refuses_a_token_gets_a_new_one(app, upstream, provider):
    add(app, f"{upstream.origin}/sse", **oauth())
    connect(app)
    provider.post("https://as.test/token", json=NEW_TOKEN)
    upstream.script = OldServer()
    upstream.script.refuses.add("at-alice-acme")
    client = Client(app)
    assert client.text(client.call(era="legacy")) == "echo by Bearer at-new"
    upstream.script.refuses.add("at-new")
    assert failure_of(client.call(era="legacy"))["code"] == "token_refused"
    assert provider.call_count == 1


@pytest.mark.parametrize(
    "script",
    [
        lambda _: Said(405),
        lambda seen: Said(405) if seen.method == "POST" else streams(event({"a": 1})),
        lambda seen: Said(405) if seen.method == "POST" else streams(),
        lambda seen: Said(405) if seen.method == "POST" else says({}),
    ],
)
def test_what_is_no_server_of_either_transport_is_said_to_be_none(app, upstream, script):
    add(app, upstream.url)
    upstream.script = script
    client = Client(app)
    assert client.initialize().status_code == 200
    assert failure_of(client.call(era="legacy"))["code"] == "upstream_bad_answer"


def test_modern_at_modern_only(acme, upstream):
    upstream.script = modern
    assert body_of(acme.modern("server/discover"))["result"]["supportedVersions"] == [MODERN]
    assert body_of(acme.call())["result"]["resultType"] == "complete"
