"""The demo MCP server speaks both eras, to holders of tokens made for it."""

import pytest

from demo.grants import Access
from demo.mcp_server import MODERN, create_mcp_server

ORIGIN, ISSUER = "http://127.0.0.1:2", "http://127.0.0.1:1"
CAN = ("notes:read", "notes:write")
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
TOKENS = {
    "ana": Access("1", "ana", "Ana Example", "gateway", CAN, f"{ORIGIN}/mcp"),
    "bo": Access("2", "bo", "Bo Example", "gateway", CAN, f"{ORIGIN}/mcp"),
    "reader": Access("3", "bo", "Bo Example", "gateway", CAN[:1], f"{ORIGIN}/mcp"),
    "elsewhere": Access("4", "ana", "Ana Example", "gateway", CAN, "http://127.0.0.1:3/mcp"),
    "anywhere": Access("5", "ana", "Ana Example", "gateway", CAN, None),
}


@pytest.fixture
def server():
    return create_mcp_server(ORIGIN, ISSUER, TOKENS.get).test_client()


def post(server, method, token="ana", headers=(), **params):
    sent = {"Authorization": f"Bearer {token}", **dict(headers)}
    body = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params}
    return server.post("/mcp", json=body, headers=sent)


def modern(server, method, headers=(), meta=META, **params):
    said = {"Mcp-Protocol-Version": MODERN, "Mcp-Method": method}
    said |= {"Mcp-Name": params["name"]} if "name" in params else {}
    return post(server, method, headers=said | dict(headers), _meta=meta, **params)


def text(reply):
    assert reply.status_code == 200, reply.text
    return reply.json["result"]["content"][0]["text"]


@pytest.mark.parametrize("token", ["nobody", "elsewhere", "anywhere"])
def test_a_token_that_is_not_for_this_server_gets_401_and_the_way_to_one(server, token):
    reply = post(server, "tools/list", token)
    assert reply.status_code == 401
    where = f"{ORIGIN}/.well-known/oauth-protected-resource/mcp"
    assert f'resource_metadata="{where}"' in reply.headers["WWW-Authenticate"]
    assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]
    metadata = server.get("/.well-known/oauth-protected-resource/mcp").json
    assert metadata["resource"] == f"{ORIGIN}/mcp"
    assert metadata["authorization_servers"] == [ISSUER]


def test_without_a_token_no_error_is_named(server):
    challenge = server.post("/mcp", json={}).headers["WWW-Authenticate"]
    assert "resource_metadata" in challenge and "error=" not in challenge


def test_a_legacy_client_shakes_hands_and_calls(server):
    hello = post(server, "initialize", protocolVersion="2025-06-18", capabilities={})
    assert hello.json["result"]["protocolVersion"] == "2025-06-18"
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (
        server.post("/mcp", json=note, headers={"Authorization": "Bearer ana"}).status_code == 202
    )
    assert "Ana Example" in text(post(server, "tools/call", name="whoami"))
    unknown = post(server, "tools/unknown")
    assert (unknown.status_code, unknown.json["error"]["code"]) == (200, -32601)


def test_a_modern_client_discovers_and_calls(server):
    found = modern(server, "server/discover").json["result"]
    assert found["supportedVersions"] == [MODERN] and found["cacheScope"] == "private"
    reply = modern(server, "tools/call", name="whoami")
    assert reply.json["result"]["resultType"] == "complete"
    assert "Ana Example" in reply.json["result"]["content"][0]["text"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"headers": {"Mcp-Method": "tools/call"}}, 400, -32020),
        ({"headers": {"Mcp-Protocol-Version": "2027-01-01"}}, 400, -32020),
        ({"meta": {}}, 400, -32602),
        ({"meta": {"io.modelcontextprotocol/protocolVersion": MODERN}}, 400, -32602),
    ],
)
def test_an_envelope_that_contradicts_itself_is_refused(server, changes, status, code):
    reply = modern(server, "tools/list", **changes)
    assert (reply.status_code, reply.json["error"]["code"]) == (status, code)


def test_a_revision_to_come_is_told_which_ones_there_are(server):
    meta = META | {"io.modelcontextprotocol/protocolVersion": "2027-01-01"}
    reply = modern(server, "tools/list", headers={"Mcp-Protocol-Version": "2027-01-01"}, meta=meta)
    assert reply.json["error"]["code"] == -32022
    assert reply.json["error"]["data"] == {"supported": [MODERN], "requested": "2027-01-01"}


def test_initialize_is_gone_in_the_modern_era(server):
    reply = modern(server, "initialize")
    assert (reply.status_code, reply.json["error"]["code"]) == (404, -32601)


def test_a_pad_belongs_to_its_person(server):
    post(server, "tools/call", name="add_note", arguments={"text": "buy tea"})
    assert text(post(server, "tools/call", name="list_notes")) == "- buy tea"
    assert "no notes" in text(post(server, "tools/call", "bo", name="list_notes"))
    mine = post(server, "resources/read", uri="notes://mine").json["result"]
    assert mine["contents"][0]["text"] == "- buy tea"
    prompt = post(server, "prompts/get", name="sum-up", arguments={"tone": "merry"}).json["result"]
    assert "merry" in prompt["messages"][0]["content"]["text"]


@pytest.mark.parametrize("arguments", [{}, {"text": ""}, {"text": 1}, {"text": "x" * 1001}])
def test_bad_arguments_are_told_in_the_result(server, arguments):
    reply = post(server, "tools/call", name="add_note", arguments=arguments)
    assert reply.json["result"]["isError"]


def test_a_reader_cannot_write(server):
    reply = post(server, "tools/call", "reader", name="add_note", arguments={"text": "x"})
    assert reply.json["result"]["isError"] and "notes:write" in text(reply)


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", -32700), (b"[]", -32600), (b'"x"', -32600), (b'{"method":1}', -32600)],
)
def test_what_is_no_request_is_refused(server, body, code):
    reply = server.post("/mcp", data=body, headers={"Authorization": "Bearer ana"})
    assert (reply.status_code, reply.json["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "nothing"}),
        ("tools/call", {"name": "echo", "arguments": []}),
        ("tools/call", {"name": "echo", "arguments": [1]}),
        ("resources/read", {"uri": "notes://yours"}),
        ("prompts/get", {"name": "nothing"}),
    ],
)
def test_unknown_names_and_shapes_are_answered_not_crashed(server, method, params):
    reply = post(server, method, **params)
    assert reply.status_code == 200
    assert "error" in reply.json or reply.json["result"]["isError"]
