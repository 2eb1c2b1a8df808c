"""Calls of our own: the browser's, in whatever era the server speaks."""

import json

import pytest

from app.errors import ConnectionNeeded, UpstreamError, UpstreamTimeout
from app.mcp import catalog, consent, relay
from app.mcp.jsonrpc import dumps
from app.mcp.memory import Memory
from app.models import CatalogEntry
from tests.conftest import rows
from tests.mcp import world
from tests.mcp.world import add, connect, oauth
from tests.upstream import (
    LEGACY,
    META,
    MODERN,
    TOOLS,
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
OLD = OldServer()


@pytest.fixture
def acme(app, upstream: Upstream):
    """Runs a function with Alice and a gateway without sign-in."""
    add(app, upstream.url)
    return lambda work, *args, **more: at(app, work, *args, **more)


def at(app, work, *args, slug="acme", **more):
    with app.app_context():
        return work(world.caller(app), world.usable(app, slug=slug), *args, **more)


SERVERS = {"dual": dual, "modern": modern, "legacy": legacy, "old": OLD}


@pytest.mark.parametrize("kind", SERVERS)
def test_era_of_upstream(app, upstream, kind):
    add(app, f"{upstream.origin}/{'sse' if kind == 'old' else 'mcp'}")
    upstream.script = SERVERS[kind]
    tools = at(app, relay.list_tools)
    assert [tool.name for tool in tools] == ["echo", "add"]
    found = at(app, relay.call_tool, "echo", {"a": 1})
    assert (found.text, found.is_error) == ("echo by None", False)
    assert found.raw["content"][0]["text"] == "echo by None" and found.took_ms >= 0
    asked = [one.rpc for one in upstream.seen]
    assert asked.count("server/discover") == 1  # the verdict is remembered
    handshakes = {"dual": 0, "modern": 0, "legacy": 1, "old": 3}  # the first is refused as a POST
    assert asked.count("initialize") == handshakes[kind]


def test_a_modern_server_is_asked_as_its_revision_wants(acme, upstream):
    upstream.script = modern
    acme(relay.call_tool, "é", {"a": 1})
    up = upstream.seen[-1]
    assert up.header("Mcp-Name") == "=?base64?w6k=?=" and up.header("Mcp-Method") == "tools/call"
    meta = up.json["params"]["_meta"]
    assert meta[f"{META}protocolVersion"] == up.header("MCP-Protocol-Version") == MODERN
    assert meta[f"{META}clientCapabilities"] == {}


def test_a_legacy_server_is_asked_as_its_revision_wants(acme, upstream):
    upstream.script = legacy
    acme(relay.call_tool, "echo", {"a": 1})
    hello, initialized, call = upstream.seen[1:]
    assert hello.json["params"]["protocolVersion"] == LEGACY
    assert hello.json["params"]["capabilities"] == {}
    assert hello.header("MCP-Protocol-Version") is None
    for one in (initialized, call):
        assert one.header("MCP-Protocol-Version") == LEGACY
        assert one.header("Mcp-Session-Id") == "up-1" and one.header("Mcp-Method") is None
    assert call.json["params"] == {"name": "echo", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("answer", "era"),
    [
        (
            says({"jsonrpc": "2.0", "error": {"code": -32000, "message": ""}, "id": None}, 400),
            "legacy",
        ),
        (Said(404, b"<html>", {"Content-Type": "text/html"}), "legacy"),
        (Said(405), "legacy"),
        (Said(400), "legacy"),
        (Said(200, b"ok", {"Content-Type": "text/plain"}), "legacy"),
        (lambda seen: says(error(seen, -32601)), "legacy"),
        (lambda seen: says(result(seen, a=1)), "legacy"),
        (lambda seen: says(error(seen, -32601), 404), "modern"),
        (lambda seen: says(error(seen, -32020), 400), "modern"),
        (lambda seen: says(error(seen, -32022, data={"supported": [MODERN]}), 400), "modern"),
        (lambda seen: says(error(seen, -32021), 400), "modern"),
        (lambda seen: streams(event(result(seen, resultType="complete"))), "modern"),
    ],
)
def test_what_an_answer_to_discover_shows(acme, upstream, answer, era):
    """V3 and the table of E5."""

    def script(seen):
        if seen.rpc == "server/discover":
            return answer(seen) if callable(answer) else answer
        return dual(seen)

    upstream.script = script
    acme(relay.call_tool, "echo", {})
    is_legacy = "initialize" in [one.rpc for one in upstream.seen]
    assert is_legacy == (era == "legacy")


@pytest.mark.parametrize("status", [0, 401, 403, 500, 503])
def test_an_outage_and_a_refusal_change_no_verdict(acme, upstream, status):
    upstream.script = lambda _: Said(status)
    with pytest.raises(UpstreamError):
        acme(relay.call_tool, "echo", {})
    assert [one.rpc for one in upstream.seen] == ["server/discover"]
    upstream.script = modern
    assert acme(relay.call_tool, "echo", {}).text == "echo by None"


def test_a_verdict_is_kept_for_a_while_and_a_changed_address_has_none(app, acme):
    with app.app_context():
        gateway = world.usable(app)
    fresh, stale = Memory(), Memory(kept_s=0)
    for memory in (fresh, stale):
        memory.learn(gateway, "legacy", {"tools": {}})
    assert fresh.server(gateway).era == "legacy" and stale.server(gateway) is None
    fresh.doubt(gateway)
    assert fresh.server(gateway) is None


def test_all_pages_of_a_list_are_read_and_kept(app, acme, upstream):
    """An empty cursor is one, too."""

    def paged(seen):
        if seen.rpc != "tools/list":
            return modern(seen)
        cursor = seen.json["params"].get("cursor")
        following = {None: "", "": "c2"}.get(cursor)
        more = {} if following is None else {"nextCursor": following}
        tool = {"name": f"tool-{cursor}", "title": "T", "description": "D", "inputSchema": {"a": 1}}
        return says(result(seen, resultType="complete", tools=[tool], **more))

    upstream.script = paged
    listed = acme(relay.list_tools)
    assert [tool.name for tool in listed] == ["tool-None", "tool-", "tool-c2"]
    first = listed[0]
    assert (first.title, first.description, first.input_schema) == ("T", "D", {"a": 1})
    with app.app_context():
        gateway = world.usable(app)
        assert catalog.known(gateway.id, gateway.owner_key) == listed
    ids = {row.id for row in rows(app, CatalogEntry)}
    acme(relay.list_tools)
    assert {row.id for row in rows(app, CatalogEntry)} == ids  # the same list changes no row


def test_pages_without_an_end_are_given_up(acme, upstream):
    upstream.script = lambda seen: (
        says(result(seen, resultType="complete", tools=[], nextCursor="again"))
        if seen.rpc == "tools/list"
        else modern(seen)
    )
    assert acme(relay.list_tools) == []
    assert len(upstream.asked("tools/list")) == relay.PAGES


@pytest.mark.parametrize(
    "tools",
    [None, "text", [1, None, {}, {"name": 5}, {"name": ""}, {"name": "x" * 501}], {"name": "a"}],
)
def test_what_is_no_tool_is_left_out(acme, upstream, tools):
    upstream.script = lambda seen: (
        says(result(seen, resultType="complete", tools=tools))
        if seen.rpc == "tools/list"
        else modern(seen)
    )
    assert acme(relay.list_tools) == []


def test_odd_members_of_a_tool_become_plain_ones(acme, upstream):
    odd = [{"name": "a", "title": 5, "description": [], "inputSchema": "x", "annotations": 3}] * 2
    upstream.script = lambda seen: (
        says(result(seen, resultType="complete", tools=odd))
        if seen.rpc == "tools/list"
        else modern(seen)
    )
    [tool] = acme(relay.list_tools)
    assert (tool.title, tool.description, tool.input_schema, tool.annotations) == ("", "", {}, {})


def test_what_each_person_was_shown_is_kept_apart(app, upstream):
    add(app, upstream.url, **oauth())
    connect(app)
    at(app, relay.list_tools)
    with app.app_context():
        mine, hers = world.usable(app), world.usable(app, "bob@example.com")
        assert [one.name for one in catalog.known(mine.id, mine.owner_key)] == ["echo", "add"]
        assert catalog.known(hers.id, hers.owner_key) == []


def test_without_a_connection_the_person_is_named_the_state(app, upstream):
    add(app, upstream.url, **oauth())
    for work, args in ((relay.list_tools, ()), (relay.call_tool, ("echo", {}))):
        with pytest.raises(ConnectionNeeded) as caught:
            at(app, work, *args)
        assert caught.value.gateway == "acme" and caught.value.state == "pending"
    assert upstream.seen == []


def test_a_list_has_its_time(acme, upstream):
    upstream.script = lambda seen: (upstream.hung_up.wait(20), Said(500))[1]
    with pytest.raises(UpstreamTimeout):
        acme(relay.list_tools, timeout_s=0.2)
    upstream.hung_up.set()


@pytest.mark.parametrize(
    ("body", "text", "is_error"),
    [
        ({"result": {"content": [{"type": "text", "text": "a"}, {"text": "b"}, 3]}}, "a\nb", False),
        ({"result": {"content": [], "isError": True}}, "", True),
        ({"result": {"content": "text"}}, "", False),
        ({"error": {"code": -32602, "message": "Unknown tool"}}, "Unknown tool", True),
        ({"error": "text"}, "", True),
    ],
)
def test_a_kept_result_is_read(body, text, is_error):
    found = relay.result_of(dumps({"jsonrpc": "2.0", "id": 1, **body}))
    assert (found.text, found.is_error) == (text, is_error)


def test_a_digest_is_of_what_is_asked_for_alone():
    def digest(raw):
        message = json.loads(raw)
        return consent.digest_of(message["method"], message["params"])

    request = relay.tool_request("echo", {"a": 1, "b": 2})
    for same in (
        b'{"id":9,"method":"tools/call","params":{"arguments":{"b":2,"a":1},"name":"echo"}}',
        b'{"method":"tools/call","params":{"name":"echo","arguments":{"a":1,"b":2},'
        b'"_meta":{"progressToken":3},"requestState":"x","inputResponses":{}}}',
    ):
        assert digest(same) == digest(request)
    for other in (("echo", {"a": 1}), ("add", {"a": 1, "b": 2}), ("echo", {"a": 1, "b": "2"})):
        assert digest(relay.tool_request(*other)) != digest(request)


def test_tools_as_listed_are_kept_whole(app, acme, upstream):
    acme(relay.list_tools)
    with app.app_context():
        gateway = world.usable(app)
        kept = catalog.known(gateway.id, gateway.owner_key)
    assert [tool.definition for tool in kept] == TOOLS
