"""A strict token endpoint: a refresh token works once; used again, its whole family is dead.

In this process and on a port of its own. `hold` names a moment ("before" or "after" the tokens
rotate) at which it stops until `go_on` is set; `arrived` is set when a request is there.

It counts `reused` refresh tokens, and as `early` what came within a tenth of a token's life after
the request before: nobody needs a new token then.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

Reply = tuple[int, dict[str, Any]]
FAULTS = {"drop", "html"}  # no answer at all, an answer nobody can read


@dataclasses.dataclass
class Provider:
    delay: float = 0.05  # seconds before the tokens rotate, and after
    tail: float = 0.05
    grace: float = 0.0  # for how long a used refresh token is forgiven
    expires: float = 2.0
    hold: str = ""
    # for the next requests: a status, "drop" or "html"; the tokens do rotate under the latter two
    misbehave: deque[str] = dataclasses.field(default_factory=deque)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    arrived: threading.Event = dataclasses.field(default_factory=threading.Event)
    go_on: threading.Event = dataclasses.field(default_factory=threading.Event)
    # released as a request comes, and as its tokens have rotated
    moments: threading.Semaphore = dataclasses.field(default_factory=lambda: threading.Semaphore(0))
    url: str = ""
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    _alive: dict[str, bool] = dataclasses.field(default_factory=dict)  # family -> not revoked
    _access: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)  # family, end
    _refresh: dict[str, tuple[str, float | None]] = dataclasses.field(default_factory=dict)
    _asked: dict[str, float] = dataclasses.field(default_factory=dict)  # family, the last arrival

    def seed(self) -> dict[str, Any]:
        """A new grant, as after a consent."""
        with self._lock:
            family = secrets.token_hex(4)
            self._alive[family] = True
            return self._mint(family)

    def revoked(self) -> int:
        """How many families were ended because a token was used again."""
        with self._lock:
            return sum(not alive for alive in self._alive.values())

    def look_up(self, token: str) -> str:
        """What an MCP server would find: active, expired, revoked or unknown."""
        with self._lock:
            family, end = self._access.get(token, ("", 0.0))
            if not family:
                return "unknown"
            if not self._alive[family]:
                return "revoked"
            return "active" if end > time.time() else "expired"

    def reply(self, path: str, form: dict[str, str]) -> Reply:
        if path == "/look_up":
            return 200, {"why": self.look_up(form["token"])}
        arrived = time.time()
        self.moments.release()
        self._wait("before", self.delay)
        with self._lock:
            self.counts[form["grant_type"]] += 1
            fault = self.misbehave.popleft() if self.misbehave else ""
            is_status = fault.isdigit()
            reply = (int(fault), {"error": "no"}) if is_status else self._answer(form, arrived)
        self.moments.release()
        self._wait("after", self.tail)
        return (0, {"fault": fault}) if fault in FAULTS else reply

    def _wait(self, moment: str, seconds: float) -> None:
        if self.hold == moment:
            self.arrived.set()
            self.go_on.wait(30)
        else:
            time.sleep(seconds)

    def _answer(self, form: dict[str, str], arrived: float) -> Reply:
        if form["grant_type"] == "client_credentials":
            self._alive["client"] = True
            reply = self._mint("client")
            del reply["refresh_token"]
            return 200, reply
        return self._rotate(form["refresh_token"], arrived)

    def _rotate(self, token: str, arrived: float) -> Reply:
        family, used = self._refresh.get(token, ("", None))
        self.counts["early"] += arrived - self._asked.get(family, 0.0) < self.expires / 10
        self._asked[family] = arrived
        if not self._alive.get(family):
            return 400, {"error": "invalid_grant"}
        if used is not None and time.time() - used > self.grace:
            self.counts["reused"] += 1
            self._alive[family] = False
            return 400, {"error": "invalid_grant"}
        self._refresh[token] = family, used or time.time()
        return 200, self._mint(family)

    def _mint(self, family: str) -> dict[str, Any]:
        access, refresh = secrets.token_hex(8), secrets.token_hex(8)
        self._access[access] = family, time.time() + self.expires
        self._refresh[refresh] = family, None
        about = {"token_type": "Bearer", "expires_in": self.expires}
        return {"access_token": access, "refresh_token": refresh, **about}


@contextmanager
def serving(**settings: Any) -> Iterator[Provider]:
    """POST /token, and /look_up with token=…, at `url`."""
    provider = Provider(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            form = {name: values[0] for name, values in parse_qs(text).items()}
            self.answer(*provider.reply(self.path, form))

        def answer(self, status: int, reply: dict[str, Any]) -> None:
            if reply.get("fault") == "drop":
                self.close_connection = True
                return
            html = reply.get("fault") == "html"
            body = b"<h1>Bad gateway</h1>" if html else json.dumps(reply).encode()
            self.send_response(status or 200)
            self.send_header("Content-Type", "text/html" if html else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256  # a short queue resets connections, which looks like a fault

        def handle_error(self, *_: Any) -> None:
            pass  # a killed client is part of the exercise

    server = Server(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield provider
    finally:
        provider.go_on.set()
        server.shutdown()
        server.server_close()
