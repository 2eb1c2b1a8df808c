"""A scripted MCP server on loopback: it keeps every request, and answers as it is told."""

from __future__ import annotations

import contextlib
import json
import queue
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

MODERN, LEGACY = "2026-07-28", "2025-11-25"
JSON, EVENTS = "application/json", "text/event-stream"
META = "io.modelcontextprotocol/"


@dataclass
class Seen:
    """One request. `headers` are pairs, in their own spelling and order."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    peer: Any = field(default=None, repr=False)  # the connection

    def hangs_up(self, wait: float = 20) -> bool:
        """Waits until whoever asked is gone."""
        ready, _, _ = select.select([self.peer], [], [], wait)
        return bool(ready) and self.peer.recv(1, socket.MSG_PEEK) == b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def rpc(self) -> str:
        """The JSON-RPC method, or the HTTP one."""
        return str(self.json.get("method", "answer")) if self.body else self.method

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(found) if found else None


@dataclass
class Said:
    """One answer. Pieces are sent as they come; a `Cut` among them resets the connection."""

    status: int = 200
    body: bytes | Iterable[bytes | Cut] = b""
    headers: dict[str, str] = field(default_factory=dict)


class Cut(Exception):
    """The connection is reset here, as a server that was killed would."""


Script = Callable[[Seen], Said]


def says(body: Any, status: int = 200, **headers: str) -> Said:
    """JSON, of a value or of bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Said(status, raw, {"Content-Type": JSON, **named})


def result(seen: Seen, **value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": seen.json.get("id"), "result": value}


def error(seen: Seen, code: int, message: str = "no", **more: Any) -> dict[str, Any]:
    said = {"code": code, "message": message, **more}
    return {"jsonrpc": "2.0", "id": seen.json.get("id"), "error": said}


def event(message: Any, **fields: Any) -> bytes:
    lines = [f"{name}: {value}\n" for name, value in fields.items()]
    return "".join([*lines, f"data: {json.dumps(message)}\n\n"]).encode()


def streams(*pieces: bytes | Cut, **headers: str) -> Said:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Said(200, list(pieces), {"Content-Type": EVENTS, **named})


class Upstream:
    """`script` is asked for each answer; `seen` is what came; a lost peer sets `hung_up`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.script: Script = dual
        self.connections = 0
        self.hung_up = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.upstream = self
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        self.origin = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.origin}/mcp"

    def asked(self, rpc: str = "") -> list[Seen]:
        """What came: all of it, or the requests of one JSON-RPC (or HTTP) method."""
        return [one for one in self.seen if rpc in ("", one.rpc)]

    def stop(self) -> None:
        """Nobody listens here afterwards."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    upstream: Upstream

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.upstream.hung_up.set()  # writing to a peer who left


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.upstream.connections += 1

    def log_message(self, *_: Any) -> None: ...

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = Seen(self.command, self.path, list(self.headers.items()), body, self.connection)
        self.server.upstream.seen.append(seen)
        said = self.server.upstream.script(seen)
        try:
            self._send(said)
        except Cut:
            self._reset()

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def _send(self, said: Said) -> None:
        if said.status == 0:
            raise Cut
        whole = isinstance(said.body, bytes)
        self.send_response_only(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        if not whole:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in said.headers:
            self.send_header("Content-Length", str(len(said.body)))
        self.end_headers()
        if whole:
            self.wfile.write(said.body)
            return
        for piece in said.body:
            if isinstance(piece, Cut):
                raise piece
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _reset(self) -> None:
        """An RST instead of an orderly end."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.rfile.close()
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


def gone(upstream: Upstream, *, wait: float = 10) -> Iterator[bytes]:
    """Pieces of a stream that says nothing; it ends when its reader has left."""
    yield b": \n\n"
    upstream.hung_up.wait(wait)


# -- servers to script with -----------------------------------------------------------------------

TOOLS = [
    {"name": "echo", "description": "Says it again", "inputSchema": {"type": "object"}},
    {"name": "add", "inputSchema": {"type": "object"}, "annotations": {"title": "Add"}},
]
WELCOME = {
    "protocolVersion": LEGACY,
    "capabilities": {"tools": {}, "logging": {}, "prompts": {"listChanged": True}},
    "serverInfo": {"name": "scripted", "version": "1"},
}


def modern(seen: Seen) -> Said:
    """A server of 2026-07-28. Its tool says what token it was called with."""
    if seen.method != "POST":
        return Said(405)
    if seen.header("MCP-Protocol-Version") != MODERN:
        return says(error(seen, -32022, supported=[MODERN]), 400)
    return says(_answer(seen, resultType="complete"))


def legacy(seen: Seen) -> Said:
    """A server of 2025-11-25 with one session, "up-1"."""
    if seen.method == "DELETE":
        return Said(200)
    if seen.method == "GET":
        return Said(405)
    if seen.header("Mcp-Session-Id") not in (None, "up-1"):
        return says(error(seen, -32600, "Session not found"), 404)
    if seen.rpc == "initialize":
        return says(result(seen, **WELCOME), Mcp_Session_Id="up-1")
    if seen.header("Mcp-Session-Id") is None:
        refusal = {"code": -32000, "message": "Bad Request: Server not initialized"}
        return says({"jsonrpc": "2.0", "error": refusal, "id": None}, 400)
    if "id" not in seen.json:
        return Said(202)
    return says(_answer(seen))


def dual(seen: Seen) -> Said:
    """Both eras at one address, as SDK servers do it."""
    version = seen.header("MCP-Protocol-Version")
    return modern(seen) if version == MODERN else legacy(seen)


def _answer(seen: Seen, **more: Any) -> dict[str, Any]:
    params = seen.json.get("params") or {}
    if seen.rpc == "server/discover":
        known = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
        return result(seen, **known, **more)
    if seen.rpc == "tools/list":
        more |= {"ttlMs": 0, "cacheScope": "private"} if more else {}
        return result(seen, tools=TOOLS, **more)
    if seen.rpc == "tools/call":
        said = f"{params.get('name')} by {seen.header('Authorization')}"
        return result(seen, content=[{"type": "text", "text": said}], **more)
    if seen.rpc in ("ping", "logging/setLevel"):
        return result(seen, **more)
    return error(seen, -32601, "Method not found")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


class OldServer:
    """A script: the HTTP+SSE transport of 2024-11-05 at /sse, and behind it the server `legacy`.

    `before`: what it says on the stream before the answer to a tool call.
    """

    def __init__(self, endpoint: str = "/messages?s=1", *before: dict[str, Any]) -> None:
        self.endpoint, self.before = endpoint, before
        self._say: dict[str, queue.SimpleQueue[bytes | None]] = {}
        self._streams = 0
        self.ends_instead = False  # of answering a tool call
        self.refuses: set[str] = set()  # tokens

    def __call__(self, seen: Seen) -> Said:
        if seen.header("Authorization") in {f"Bearer {one}" for one in self.refuses}:
            return Said(401)
        if seen.method == "GET" and seen.path == "/sse":
            return Said(200, self._stream(), {"Content-Type": EVENTS})
        if seen.method == "POST" and seen.path.startswith("/messages"):
            self._take(seen)
            return Said(202, b"Accepted")
        return Said(405)

    def _stream(self) -> Iterator[bytes]:
        self._streams += 1
        name = self.endpoint.replace("s=1", f"s={self._streams}")
        say = self._say[name] = queue.SimpleQueue()
        yield f"event: endpoint\ndata: {name}\n\n".encode()
        while (said := say.get(timeout=10)) is not None:
            yield said

    def _take(self, seen: Seen) -> None:
        say = self._say[seen.path]
        if seen.rpc == "tools/call":
            for message in self.before:
                say.put(event(message))
            if self.ends_instead:
                say.put(None)
                return
        if seen.rpc == "initialize":
            say.put(event(result(seen, **WELCOME)))
        elif "method" in seen.json and "id" in seen.json:
            say.put(event(_answer(seen)))
