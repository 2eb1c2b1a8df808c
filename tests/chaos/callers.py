"""People who call tools all the time, at either node, and connect anew when they are asked to."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field

import requests

from demo.person import Person
from demo.visitor import Stuck
from tests.e2e.gateway import PASSWORD, Gateway
from tests.upstream import META, MODERN

from .world import WHO

ANSWER_S = 30.0  # the deadline of a call: everything a gateway may wait for, on a busy machine


@dataclass
class Tally:
    """What all people saw together."""

    good: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # JSON-RPC or HTTP, by code
    cut_off: int = 0  # no answer at all: the node was gone
    strangers: list[str] = field(default_factory=list)  # answers with somebody else's name (I2)
    late: list[float] = field(default_factory=list)  # seconds, of answers after the deadline (I6)
    slowest: float = 0.0
    asked_to_connect: Counter[str] = field(default_factory=Counter)  # by gateway
    reconnected: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Somebody:
    """One person with a browser and an AI client."""

    def __init__(self, email: str, token: str, nodes: list[Gateway], tally: Tally) -> None:
        self.email, self.tally, self.nodes = email, tally, nodes
        self.public_url = nodes[0].url  # both nodes are known by the first one's address
        self._links = [requests.Session() for _ in nodes]
        for link in self._links:
            link.trust_env = False
            link.headers.update(
                {
                    **{"Authorization": f"Bearer {token}", "MCP-Protocol-Version": MODERN},
                    **{"Mcp-Method": "tools/call", "Mcp-Name": "touch"},
                    **{"Accept": "application/json, text/event-stream"},
                    "Host": self.public_url.partition("//")[2],
                }
            )
        self.person: Person | None = None

    def connect(self, slug: str) -> bool:
        """Through the browser, as a person does; False if that did not work out just now."""
        try:
            if self.person is None:
                self.person = Person(self.public_url).login(self.email, PASSWORD)
                self.person.session.cookies.set(WHO, self.email)
            page = self.person.press_connect(slug)
            back = self.person.consent(
                page, f"{self.public_url}/oauth/callback", user="", password=""
            )
            return "is connected" in self.person.get(back).text
        except (requests.RequestException, Stuck):
            self.person = None  # the next time from the front page
            return False

    def call(self, slug: str, node: int) -> str:
        """One tool call: "" if it went well, else why not. Kept in the tally."""
        meta = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}
        params = {"name": "touch", "arguments": {"key": uuid.uuid4().hex}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        began = time.monotonic()
        try:
            reply = self._links[node].post(
                f"{self.nodes[node].url}/mcp/{slug}", json=body, timeout=ANSWER_S * 2
            )
            said = reply.json()
        except (requests.RequestException, ValueError):
            with self.tally.lock:
                self.tally.cut_off += 1
            return "cut_off"
        return self._note(slug, said, reply.status_code, time.monotonic() - began)

    def _note(self, slug: str, said: dict[str, object], status: int, took: float) -> str:
        tally = self.tally
        with tally.lock:
            tally.slowest = max(tally.slowest, took)
            if took > ANSWER_S:
                tally.late.append(took)
            if isinstance(result := said.get("result"), dict) and result.get("isError"):
                # A client that cannot be asked otherwise gets the link in a tool's words.
                said = {"error": {"code": "connection_needed"}}
            elif isinstance(result, dict):
                owner = result["content"][0]["text"]
                tally.good += 1
                if owner != self.email:
                    tally.strangers.append(f"{self.email} got {owner}'s answer")
                return ""
            error = said.get("error")
            data = (error.get("data") or error) if isinstance(error, dict) else {}
            code = str(data.get("code", status))
            tally.errors[code] += 1
            if code == "connection_needed":
                tally.asked_to_connect[slug] += 1
            return code

    def live(self, slugs: list[str], over: threading.Event) -> None:
        """Call, now here, now there, until it is over."""
        while not over.is_set():
            slug, node = random.choice(slugs), random.randrange(len(self.nodes))
            why = self.call(slug, node)
            if why == "connection_needed" and self.connect(slug):
                with self.tally.lock:
                    self.tally.reconnected[slug] += 1
            over.wait(0.3 if why else 0.1)
