"""What of a caller's raw bytes reaches an MCP server, through the server as people run it."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import authority
from tests.e2e.gateway import Gateway
from tests.upstream import MODERN, Said, Upstream, dual

CANARY = "canary-5d17"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "echo", "_meta": META},
}
BODY = json.dumps(CALL).encode()
UP = {  # all that a call of this revision takes along (mcp.md section 2)
    *("host", "content-length", "accept", "accept-encoding", "user-agent", "content-type"),
    *("mcp-protocol-version", "mcp-method", "mcp-name"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    started = Upstream()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def node(server, tmp_path_factory) -> Iterator[Any]:
    where = tmp_path_factory.mktemp("wire") / "gateway.db"
    with Gateway(f"sqlite:///{where}") as started:
        record = json.dumps({"name": "x", "url": server.url, "auth_type": "none"})
        started.flask("gateways", "add", "-", stdin=record)
        started.admin()
        started.api_token = started.token()
        yield started


def ask(node, *lines: str, path: str = "/mcp/x", body: bytes = BODY, end: bytes = b"") -> bytes:
    """One request with these lines besides those that it needs; what came back."""
    with begin(node, *lines, path=path, body=body, end=end) as sock:
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while not _is_whole(found) and (piece := sock.recv(65_536)):
                found += piece
        return found


def _is_whole(answer: bytes) -> bool:
    """As far as its length is said; nothing here waits for the end of the connection."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    return bool(end) and (length is None or len(body) >= int(length[1]))


def begin(
    node, *lines: str, path: str = "/mcp/x", body: bytes = BODY, end: bytes = b""
) -> socket.socket:
    to = urlsplit(node.url)
    given = [f"Host: {to.netloc}", f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: tools/call"]
    given += ["Mcp-Name: echo", "Content-Type: application/json", "Connection: close"]
    names = {line.partition(":")[0].strip().lower() for line in lines}
    if "authorization" not in names:
        given.append(f"Authorization: Bearer {node.api_token}")
    if "transfer-encoding" not in names:
        given.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([f"POST {path} HTTP/1.1", *lines, *given, "", ""])
    sock = socket.create_connection((to.hostname, to.port), 20)
    sock.sendall(head.encode("latin-1") + body + end)
    return sock


def spellings() -> list[tuple[str, ...]]:
    names = [
        *("Cookie", "COOKIE", "cookie", "Cookie2", "X-API-Key", "x-api-key", "X-Api-KEY"),
        *("X_API_Key", "Api-Key", "Apikey", "Proxy-Authorization", "proxy-authorization"),
        *("PROXY-AUTHORIZATION", "Proxy_Authorization", "X-Authorization", "Authorization2"),
        *("X-Forwarded-Authorization", "X-Original-Authorization", "X-Access-Token"),
        *("X-Auth-Token", "Access-Token", "Token", "X-Goog-Api-Key", "X-Amz-Security-Token"),
        *("Ocp-Apim-Subscription-Key", "X-Forwarded-User", "X-Remote-User", "Remote-User"),
        *("X-Csrf-Token", "Mcp-Session-Id", "Mcp-Param", "Mcp-Name2", "WWW-Authenticate"),
    ]
    plain = [(f"{name}: {CANARY}",) for name in names]
    odd = [
        ("Cookie:" + CANARY,),
        (f"Cookie:\t{CANARY}",),
        (f"Cookie: a=b; session={CANARY}", f"Cookie: signed_in={CANARY}"),
        (f"Connection: close, {CANARY}",),
        ("Connection: authorization", f"X-API-Key: {CANARY}"),
        (f"Cookie : {CANARY}",),
        ("Cookie: a", f" {CANARY}"),
        (f"Authorization: Bearer {CANARY}",),
        (f"Authorization: Basic {CANARY}",),
    ]
    return [*plain, *odd]


def test_sec_032_no_spelling_of_a_credential_reaches_the_server(node, server) -> None:
    server.script, before = dual, len(server.seen)
    every = spellings()
    assert len(every) >= 30
    for lines in every:
        ask(node, *lines)
    for query in ("access_token", "api_key", "Authorization", "token"):
        ask(node, path=f"/mcp/x?{query}={CANARY}")
    twice = f"Authorization: Bearer {node.api_token}"
    ask(node, twice, f"authorization: Bearer {CANARY}")
    chunked = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
    trailer = f"Authorization: Bearer {CANARY}\r\nCookie: {CANARY}\r\n\r\n".encode()
    ask(node, "Transfer-Encoding: chunked", body=chunked, end=trailer)
    seen = server.seen[before:]
    assert len(seen) >= 30  # most of them are no reason to refuse the call
    for one in seen:
        text = f"{one.path} {one.headers} {one.body!r}"
        assert CANARY not in text and node.api_token not in text
        assert {name.lower() for name, _ in one.headers} <= UP, one.headers


def test_sec_036_no_header_of_the_hop_goes_further(node, server) -> None:
    server.script, before = dual, len(server.seen)
    names = "mcp-name, mcp-method, mcp-protocol-version, content-type, authorization, x-request-id"
    hop = ("Keep-Alive: 5", "TE: trailers", "Upgrade: websocket", "Proxy-Connection: close")
    answer = ask(node, f"Connection: {names}", *hop)
    assert b" 200 " in answer.split(b"\r\n")[0] and b"X-Request-Id" in answer
    [one] = server.seen[before:]
    assert {name.lower() for name, _ in one.headers} == UP
    assert one.header("Mcp-Name") == "echo"


PATHS = [
    *("/mcp/x/..", "/mcp/x/../x", "/mcp/../mcp/x", "/mcp/x/%2e%2e", "/mcp/x/%2e%2e%2fadmin"),
    *("/mcp/%2e%2e/mcp/x", "/mcp//x", "//mcp/x", "//evil.test/mcp/x", "/mcp/x//", "/mcp/x/y"),
    *("/mcp/x%2f..%2f", "/mcp/x%2fy", "/mcp%2fx", "/mcp/x%5c..", "/mcp/x\\..", "/mcp/x;a=b"),
    *("/mcp/x;/../y", "/mcp/x%3b", "/mcp/x%23y", "/mcp/x#y", "/mcp/x?u=/../y", "/mcp/x?http://e"),
    *("/mcp/x%00", "/mcp/x%0d%0aX:%20y", "/mcp/x%20", "/mcp/X", "/mcp/%78", "/mcp/x%252e%252e"),
    *("http://evil.test/mcp/x", "https://evil.test:443/mcp/x", "/mcp/x@evil.test", "*", "/."),
]


def test_sec_038_no_path_leaves_the_address_of_the_server(node, server) -> None:
    server.script, before = dual, len(server.seen)
    for path in PATHS:
        ask(node, path=path)
    assert server.seen[before:]  # a query is no reason to refuse
    assert {one.path for one in server.seen[before:]} == {"/mcp"}


def test_sec_094_a_gateway_trusts_and_shows_what_its_file_says(node, tmp_path) -> None:
    """As workers run it, gevent's TLS included: a server that asks for a certificate of our CA."""
    ca = authority.Authority()
    us = ca.signs("gateway", client=True)
    private = Upstream(authority.server(ca.signs("127.0.0.1"), tmp_path, clients_of=ca))
    try:
        trusting = {"url": private.url, "ca_pem": ca.pem}
        shown = {"client_cert_pem": us.pem, "client_key": us.key}
        for name, more in (("ours", trusting | shown), ("bare", trusting)):
            record = {"name": name, "url": private.url, "auth_type": "none"} | more
            node.flask("gateways", "add", "-", stdin=json.dumps(record))
        for name, works in (("ours", True), ("bare", False), ("ours", True)):
            assert (b'"result"' in ask(node, path=f"/mcp/{name}")) == works, name
        assert len(private.seen) == 2
        assert "PRIVATE" not in node.log()
    finally:
        private.stop()


def test_sec_048_f_35_a_caller_who_hangs_up_is_no_fault_of_the_server(node, server) -> None:
    """The line to it is cut, the log says why, and the gateway counts as working."""
    left = []

    def silent(seen) -> Said:
        left.append(seen.hangs_up())
        server.hung_up.set()
        return Said(0)

    server.hung_up.clear()
    server.script, before, said = silent, len(server.seen), len(node.log())
    with begin(node):
        end = time.monotonic() + 20
        while len(server.seen) == before and time.monotonic() < end:
            time.sleep(0.01)
    assert server.hung_up.wait(20) and left == [True]
    codes = _codes_of_calls(node, until="hung_up", after=said)
    assert codes[-1] == "hung_up" and "upstream_error" not in codes
    server.script = dual
    assert b" 200 " in ask(node).split(b"\r\n")[0]


def _codes_of_calls(node, *, until: str, after: int = 0) -> list[str]:
    """Of its log; what stood there before is left out."""
    end, found = time.monotonic() + 20, []
    while until not in found and time.monotonic() < end:
        since = node.log()[after:].splitlines()
        lines = [json.loads(line) for line in since if line.startswith("{")]
        found = [line["code"] for line in lines if line["message"] == "mcp"]
        time.sleep(0.05)
    return found
