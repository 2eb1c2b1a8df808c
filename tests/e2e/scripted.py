"""A node before a scripted server, and calls that a test holds open, reads raw, or cuts."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from flask import Flask

from app import create_app
from app.db import db
from config import Config
from tests.e2e.gateway import Gateway
from tests.mcp import world
from tests.upstream import EVENTS, META, MODERN, Said, Seen, Upstream, dual, event, result, says

WORKERS = {"gevent": "", "gthread": "-k gthread --threads 8"}
FIRST = {"jsonrpc": "2.0", "method": "notifications/first"}
MINE = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}


@dataclass
class Held:
    """A server whose tools wait: `silent` streams its first event at once, `slow` says nothing."""

    upstream: Upstream
    go_on: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.upstream.script = self.answer

    def answer(self, seen: Seen) -> Said:
        name = seen.json["params"].get("name") if seen.rpc == "tools/call" else seen.rpc
        if name in ("silent", "subscriptions/listen", "GET"):
            return Said(200, self._silent(seen), {"Content-Type": EVENTS})
        if name == "slow":
            self.waiting.release()
            self._wait(seen)
            return says(result(seen, content=[], resultType="complete"))
        return dual(seen)

    def _silent(self, seen: Seen) -> Iterator[bytes]:
        yield event(FIRST)
        self._wait(seen)
        if seen.body:
            yield event(result(seen, content=[], resultType="complete"))

    def _wait(self, seen: Seen) -> None:
        """Until the test says so, or whoever asked has left."""
        for _ in range(1200):
            if self.go_on.wait(0.05) or select.select([seen.peer], [], [], 0)[0]:
                return


@dataclass
class Caller:
    """Somebody with an API token at a node."""

    url: str
    token: str
    slug: str = "x"

    def call(
        self, name: str = "echo", *, modern: bool = True, session: Any = requests, **how: Any
    ) -> requests.Response:
        headers, body = self.request(name, modern=modern)
        return session.post(
            f"{self.url}/mcp/{self.slug}", headers=headers, data=body, **{"timeout": 60, **how}
        )

    def request(self, name: str = "echo", *, modern: bool = True) -> tuple[dict[str, str], bytes]:
        listens = name == "subscriptions/listen"
        params: dict[str, Any] = {"notifications": {}} if listens else {"name": name}
        method = name if listens else "tools/call"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        headers["Accept"] = "application/json, text/event-stream"
        if modern:
            params["_meta"] = MINE
            headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
            headers |= {} if listens else {"Mcp-Name": name}
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        return headers, json.dumps(message).encode()

    def stream(self, name: str = "silent", **how: Any) -> Stream:
        """Open, with its first event read."""
        headers, body = self.request(name, **how)
        opened = Stream(self.url, "POST", headers, body)
        opened.until(b"notifications/first")
        return opened

    def listen(self) -> Stream:
        """The stream of a legacy session."""
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        headers = {"Authorization": f"Bearer {self.token}", "Accept": EVENTS}
        said = requests.post(f"{self.url}/mcp/x", json=message, headers=headers, timeout=60)
        headers["Mcp-Session-Id"] = said.headers["Mcp-Session-Id"]
        opened = Stream(self.url, "GET", headers)
        opened.until(b"notifications/first")
        return opened


class Stream:
    """One request on a connection of its own, and its answer as it came over the wire."""

    def __init__(self, url: str, verb: str, headers: dict[str, str], body: bytes = b"") -> None:
        to = urlsplit(url)
        named = {"Host": to.netloc, "Content-Length": str(len(body)), **headers}
        lines = [f"{verb} /mcp/x HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
        self.sock = socket.create_connection((to.hostname, to.port), 60)
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        self.heard = b""

    def until(self, text: bytes) -> bytes:
        while text not in self.heard:
            piece = self.sock.recv(65536)
            assert piece, self.heard
            self.heard += piece
        return self.heard

    def rest(self) -> bytes:
        """To the end of the answer: its last chunk, or of the connection."""
        while not self.heard.endswith(b"\r\n0\r\n\r\n") and (piece := self.sock.recv(65536)):
            self.heard += piece
        return self.heard

    def close(self) -> None:
        self.sock.close()


@contextlib.contextmanager
def inside(node: Gateway) -> Iterator[Flask]:
    """An app with the database and the keys of this node."""
    app = create_app(Config.from_env(node.env))
    yield app
    with app.app_context():
        db.engine.dispose()


def people(node: Gateway, url: str, *names: str) -> list[Caller]:
    """The gateway `x` at this address, and people with an API token each."""
    with inside(node) as app:
        world.add(app, url, "x")
        return [caller(app, node, name) for name in names]


def caller(app: Flask, node: Gateway, name: str, slug: str = "x") -> Caller:
    return Caller(node.url, world.Client(app, email=f"{name}@example.com").token, slug)


def workers_of(node: Gateway) -> set[int]:
    path = f"/proc/{node.program.pid}/task/{node.program.pid}/children"
    with open(path, encoding="ascii") as file:
        return {int(pid) for pid in file.read().split()}
