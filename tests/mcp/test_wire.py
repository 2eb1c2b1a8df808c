"""What a request is, and whether its era allows it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from app.errors import WireError
from app.mcp import wire
from tests.upstream import LEGACY, META, MODERN

VERSION, CAPABILITIES = f"{META}protocolVersion", f"{META}clientCapabilities"
GOOD_META = {VERSION: MODERN, CAPABILITIES: {}}


def read(body, **headers: str) -> wire.Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = Headers([(name.replace("_", "-"), value) for name, value in headers.items()])
    return wire.read("POST", named, raw)


def modern(method="tools/list", meta=GOOD_META, call_id=7, version=MODERN, **more) -> wire.Call:
    params = {"_meta": meta} | more.pop("params", {})
    body = {"jsonrpc": "2.0", "id": call_id, "method": method, "params": params}
    headers = {"MCP_Protocol_Version": version, "Mcp_Method": method} | more
    return read(body, **{name: value for name, value in headers.items() if value is not None})


def refusal(*args, **kwargs) -> WireError:
    with pytest.raises(WireError) as caught:
        modern(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize(
    ("version", "is_modern"),
    [(None, False), *((one, False) for one in wire.LEGACY), (MODERN, True)],
)
def test_era_of_request(version, is_modern):
    meta = {"_meta": GOOD_META} if is_modern else {}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": meta}
    headers = {} if version is None else {"MCP_Protocol_Version": version}
    headers |= {"Mcp_Method": "tools/list"} if is_modern else {}
    assert read(body, **headers).is_modern is is_modern


@pytest.mark.parametrize("version", ["2099-01-01", "2026-07-29", "1.0", ""])
def test_an_unknown_version_is_told_which_one_is_spoken(version):
    meta = {VERSION: version, CAPABILITIES: {}}
    found = refusal(meta=meta, version=version)
    assert (found.http, found.number, found.call_id) == (400, -32022, 7)
    assert found.data == {"supported": [MODERN], "requested": version}


@pytest.mark.parametrize("version", [None, LEGACY])
def test_a_body_of_this_revision_needs_its_header(version):
    found = refusal(version=version)
    assert (found.http, found.number, found.call_id) == (400, -32020, 7)


@pytest.mark.parametrize(
    ("case", "http", "number"),
    [
        ({"meta": None}, 400, -32602),
        ({"meta": {}}, 400, -32602),
        ({"meta": {VERSION: MODERN}}, 400, -32602),
        ({"meta": {CAPABILITIES: {}}}, 400, -32602),
        ({"meta": {VERSION: LEGACY, CAPABILITIES: {}}}, 400, -32020),
        ({"Mcp_Method": None}, 400, -32020),
        ({"Mcp_Method": "Tools/list"}, 400, -32020),
        ({"Mcp_Method": "tools/call"}, 400, -32020),
        ({"method": "tools/call", "params": {"name": "a"}}, 400, -32020),
        ({"method": "tools/call", "params": {"name": "a"}, "Mcp_Name": "b"}, 400, -32020),
        ({"method": "tools/call", "params": {"name": "a"}, "Mcp_Name": "A"}, 400, -32020),
        ({"method": "resources/read", "params": {"uri": "a:b"}, "Mcp_Name": "a:c"}, 400, -32020),
        (
            {"method": "prompts/get", "params": {"name": "é"}, "Mcp_Name": "=?base64?w6?="},
            400,
            -32020,
        ),
        *(({"method": method}, 404, -32601) for method in sorted(wire.REMOVED)),
    ],
)
def test_sec_042_ladder(case, http, number):
    found = refusal(**case)
    assert (found.http, found.number, found.call_id) == (http, number, 7)


def test_meta_is_judged_before_headers_and_headers_before_the_version():
    assert refusal(meta={}, Mcp_Method=None).number == -32602
    unknown = {VERSION: "2099-01-01", CAPABILITIES: {}}
    assert refusal(meta=unknown, version="2099-01-01", Mcp_Method=None).number == -32020


@pytest.mark.parametrize("name", ["echo", "é", " a ", "=?base64?YQ==?=", "", "tab\there", "a b"])
def test_a_name_comes_as_it_is_or_wrapped(name):
    call = modern("tools/call", params={"name": name}, Mcp_Name=f" {wire.wrapped(name)}\t")
    assert call.target == name
    assert call.headers["Mcp-Name"] == wire.wrapped(name)


def test_a_client_need_not_say_who_it_is():
    assert modern().method == "tools/list"


@pytest.mark.parametrize("body", [{"result": {}}, {"error": {"code": 1, "message": ""}}])
def test_this_revision_takes_no_answers(body):
    with pytest.raises(WireError) as caught:
        read({"jsonrpc": "2.0", "id": 1, **body}, MCP_Protocol_Version=MODERN)
    assert (caught.value.http, caught.value.number) == (400, -32600)


@pytest.mark.parametrize("call_id", [0, 1, -1, 2**60, "", "0", "a-b"])
def test_ids_of_every_kind_survive(call_id):
    assert modern(call_id=call_id).id == call_id
    legacy = read({"jsonrpc": "2.0", "id": call_id, "method": "ping"})
    assert legacy.id == call_id and type(legacy.id) is type(call_id)


@pytest.mark.parametrize(
    "body",
    [
        *({"jsonrpc": "2.0", "id": one, "method": "x"} for one in (None, 1.5, True, [], {})),
        *({"jsonrpc": one, "id": 1, "method": "x"} for one in (None, "1.0", 2)),
        [{"jsonrpc": "2.0", "id": 1, "method": "ping"}],
        [],
        "text",
        7,
        None,
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "result": {}},
        {"jsonrpc": "2.0", "id": 1, "method": 5},
    ],
)
def test_what_is_no_json_rpc_request_is_refused(body):
    with pytest.raises(WireError) as caught:
        read(body)
    assert (caught.value.http, caught.value.number) == (400, -32600)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}',
        b'{"jsonrpc":"2.0","id":NaN,"method":"x"}',
        b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
        '{"jsonrpc":"2.0","id":1,"method":"x"}'.encode("utf-16"),
        b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + b'{"a":' * 65 + b"1" + b"}" * 66,
        b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"x"}',
    ],
)
def test_sec_050_what_two_readers_could_read_differently_is_refused(raw):
    with pytest.raises(WireError) as caught:
        read(raw)
    assert (caught.value.http, caught.value.number) == (400, -32700)


@pytest.mark.parametrize("params", [[], "a", 7])
def test_params_are_an_object(params):
    with pytest.raises(WireError) as caught:
        read({"jsonrpc": "2.0", "id": 3, "method": "x", "params": params})
    assert (caught.value.number, caught.value.call_id) == (-32602, 3)


def test_only_what_the_upstream_may_know_is_sent_on():
    named = {"Mcp_Name": "a", "Mcp_Param_Region": "eu", "mcp_param_x": "1", "Cookie": "a=b"}
    call = modern("tools/call", params={"name": "a"}, X_Api_Key="k", Authorization="B x", **named)
    assert {name.lower(): value for name, value in call.headers.items()} == {
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": "a",
        "mcp-param-region": "eu",
        "mcp-param-x": "1",
    }
    legacy = read({"jsonrpc": "2.0", "id": 1, "method": "x"}, Mcp_Name="a", Last_Event_ID="4")
    assert legacy.headers == {}


def test_sec_040_a_header_that_could_not_be_sent_on_is_left_out():
    call = modern("tools/call", params={"name": "a"}, Mcp_Name="a", Mcp_Param_X="caf\xe9")
    assert "Mcp-Param-X" not in call.headers


@pytest.mark.parametrize(
    ("capabilities", "takes"),
    [
        ({"elicitation": {"url": {}}}, True),
        ({"elicitation": {"form": {}, "url": {}}}, True),
        ({"elicitation": {}}, False),
        ({"elicitation": {"form": {}}}, False),
        ({"elicitation": {"url": None}}, False),
        ({"elicitation": True}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_client_takes_links_only_when_it_says_so(capabilities, takes):
    assert wire.takes_urls(capabilities) is takes


@given(st.text())
def test_every_name_can_be_put_into_a_header_and_read_back(name):
    header = wire.wrapped(name)
    assert header.isascii() and header == header.strip()
    assert wire.unwrapped(header) == name


@given(st.text(alphabet="ABCxyz+/=?!é", max_size=12))
def test_a_wrapped_name_has_one_spelling(payload):
    read_back = wire.unwrapped(f"=?base64?{payload}?=")
    assert read_back is None or wire.wrapped(read_back) in (f"=?base64?{payload}?=", read_back)


@pytest.mark.parametrize("meta", [5, "x", "io.modelcontextprotocol/protocolVersion", [1], True])
@pytest.mark.parametrize("version", [None, LEGACY, MODERN])
def test_a_meta_that_is_no_object_is_refused(meta, version):
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {"_meta": meta}}
    named = {"MCP_Protocol_Version": version, "Mcp_Method": "tools/list"}
    with pytest.raises(WireError) as caught:
        read(body, **{name: value for name, value in named.items() if value is not None})
    assert (caught.value.number, caught.value.http, caught.value.call_id) == (-32602, 400, 7)


@pytest.mark.parametrize("params", [{}, {"params": None}, {"params": {"_meta": None}}])
def test_a_legacy_request_may_come_without_params(params):
    call = read({"jsonrpc": "2.0", "id": 7, "method": "tools/call", **params})
    assert (call.target, call.meta) == (None, {})
