"""Outside the gateway: a token issuer with records of all it did, and an MCP server that counts.

Every token carries MARK, so that one that leaks can be found.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.upstream import Said, Seen, dual, result, says

MARK = "chaosmark"
WHO = "who"  # the cookie by which the issuer knows a person; all consent at once


@dataclass
class Family:
    """One grant. Reuse of a refresh token later than `grace` ends it."""

    owner: str
    alive: bool = True
    # when, and by which process; 0: by one that was gone before the answer
    rotated: list[tuple[float, int]] = field(default_factory=list)
    refused: int = 0  # times that the answer was invalid_grant
    ended: float = 0.0  # when it was the first time


class Issuer:
    """An authorization server. `weather`: "" (fine), "503", "reset" or "hang"; none rotates."""

    def __init__(self, name: str, *, life: float, grace: float) -> None:
        self.name, self.life, self.grace = name, life, grace
        self.weather = ""
        self.process_of: Callable[[int], int] = lambda _: 0  # by the port that it asks from
        self.requests: Counter[str] = Counter()
        self.families: list[Family] = []
        self.url = ""
        self._lock = threading.Lock()
        self._codes: dict[str, Family] = {}
        self._access: dict[str, tuple[Family, float]] = {}
        self._refresh: dict[str, list[Any]] = {}  # token -> [family, first used at or 0]

    def answer(self, path: str, form: dict[str, str], port: int) -> tuple[int, str] | None:
        """Status and body; None: the connection just ends."""
        weather, end = self.weather, time.monotonic() + 10
        while weather == "hang" and self.weather == "hang" and time.monotonic() < end:
            time.sleep(0.05)
        if weather in ("hang", "reset"):
            return None
        if weather:
            return int(weather), "out of order"
        if path == "/revoke":
            self.revoke(form["token"])
            return 200, ""
        status, reply = self.token(form, port)
        return status, json.dumps(reply)

    def authorize(self, asked: dict[str, str], owner: str) -> str:
        """Where the browser goes next."""
        code = f"{MARK}-code-{secrets.token_hex(16)}"
        family = Family(owner)
        with self._lock:
            self._codes[code] = family
            self.families.append(family)
        back = {"code": code, "state": asked["state"]}
        return f"{asked['redirect_uri']}?{urlencode(back)}"

    def token(self, form: dict[str, str], port: int) -> tuple[int, dict[str, Any]]:
        came, process = time.time(), self.process_of(port)
        with self._lock:
            self.requests[form["grant_type"]] += 1
            if form["grant_type"] == "authorization_code":
                family = self._codes.pop(form["code"], None)
                return (200, self._mint(family)) if family else (400, {"error": "invalid_grant"})
            return self._rotate(form["refresh_token"], came, process)

    def _rotate(self, token: str, came: float, process: int) -> tuple[int, dict[str, Any]]:
        held = self._refresh.get(token)
        if held is None:
            self.requests["unknown"] += 1
            return 400, {"error": "invalid_grant"}
        family: Family = held[0]
        if held[1] and came - held[1] > self.grace:
            family.alive = False
            self.requests["reused"] += 1
        if not family.alive:
            family.refused += 1
            family.ended = family.ended or came
            return 400, {"error": "invalid_grant"}
        held[1] = held[1] or came
        family.rotated.append((came, process))
        return 200, self._mint(family)

    def _mint(self, family: Family) -> dict[str, Any]:
        access, refresh = (f"{MARK}-{kind}-{secrets.token_hex(16)}" for kind in ("at", "rt"))
        self._access[access] = family, time.time() + self.life
        self._refresh[refresh] = [family, 0.0]
        tokens = {"access_token": access, "refresh_token": refresh}
        return tokens | {"token_type": "Bearer", "expires_in": self.life}

    def revoke(self, token: str) -> None:
        with self._lock:
            family = self._refresh.get(token, [None])[0] or self._access.get(token, (None,))[0]
            if family is not None:
                family.alive = False

    def look_up(self, token: str) -> tuple[str, str]:
        """Whose it is, and why it is not good ("" if it is)."""
        with self._lock:
            family, end = self._access.get(token, (None, 0.0))
            if family is None:
                return "", "unknown"
            if not family.alive:
                return family.owner, "revoked"
            return family.owner, "" if time.time() < end else "expired"


@contextmanager
def serving(issuer: Issuer) -> Iterator[Issuer]:
    """GET /authorize, POST /token and /revoke, at `url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = {
                name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()
            }
            owner = SimpleCookie(self.headers.get("Cookie"))[WHO].value
            self._say(302, b"", Location=issuer.authorize(asked, owner))

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            form = {name: values[0] for name, values in parse_qs(text).items()}
            said = issuer.answer(self.path, form, self.client_address[1])
            if said is None:
                self.close_connection = True
            else:
                self._say(said[0], said[1].encode(), Content_Type="application/json")

        def _say(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512

        def handle_error(self, *_: Any) -> None: ...  # whoever asked was killed

    server = Server(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()


class Counting:
    """A script for tests.upstream: the tool `touch` counts its key, and says whose token came."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.ran: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()  # tokens that were shown though no good, by reason
        self._lock = threading.Lock()

    def __call__(self, seen: Seen) -> Said:
        owner, why = self.issuer.look_up((seen.header("Authorization") or "")[len("Bearer ") :])
        if why:
            with self._lock:
                self.dead[why] += 1
            return Said(401, b"", {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if seen.rpc != "tools/call":
            return dual(seen)
        with self._lock:
            self.ran[seen.json["params"]["arguments"]["key"]] += 1
        text = [{"type": "text", "text": owner}]
        return says(result(seen, content=text, resultType="complete"))
