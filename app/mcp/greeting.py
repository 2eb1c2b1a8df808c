"""Meeting a server for the first time, for a check: who it is, and what it lists.

With a memory of its own, so that nothing is believed of an earlier meeting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import exchanges
from ..access import Caller, Usable
from ..errors import UpstreamError
from ..exchanges import Exchange
from ..oauth.tokens import Credential
from . import answers, client, wire
from .catalog import Tool, tools
from .memory import Era, Memory, Own
from .operation import Operation
from .upstream import Answer

TOOLS_MOST, PAGES_MOST = 1_000, 50


@dataclass(frozen=True, slots=True)
class Greeting:
    """How a server introduced itself: untrusted text."""

    era: Era
    name: str
    version: str
    protocol: str


class Watched(Operation):
    """An operation whose every request and answer is told to `watch`, secrets hidden."""

    def __init__(
        self,
        caller: Caller,
        gateway: Usable,
        watch: Callable[[Exchange], None],
        *,
        given: Credential | None = None,
    ) -> None:
        super().__init__(caller, gateway, given=given)
        self.memory = Memory()
        self.era: Era | None = None
        self._watch = watch

    def send_as_it_is(
        self, verb: str, headers: Mapping[str, str], body: bytes | None, url: str | None = None
    ) -> Answer:
        began, to = time.monotonic(), exchanges.address(url or self.gateway.url)
        status, got, code = None, "", None
        try:
            answer = super().send_as_it_is(verb, headers, body, url)
            status, got = answer.status, exchanges.headers_got(answer.headers)
        except UpstreamError as error:
            code = error.step or error.code
            raise
        finally:
            shown = {**self._credential.headers, **headers}
            sent = exchanges.headers_sent(shown)
            if body:
                sent += "\n\n" + exchanges.taste(body.decode(errors="replace"))
            took = int((time.monotonic() - began) * 1000)
            self._watch(Exchange(verb, to, status, took, sent, got, code))
        return answer


def greet(op: Watched) -> Greeting:
    """The newer era's first call, or the handshake of the older ones. Raises UpstreamError."""
    if op.gateway.transport != "sse":
        call_id = client.new_id()
        raw, headers = wire.request(call_id, "server/discover", {}, is_modern=True)
        answer = op.send("POST", headers, raw)
        body = _read(answer, call_id)
        if wire.is_modern_answer(answer.status, body):
            op.era = "modern"
            return _modern(op, body.get("result") or {})
    return _legacy(op)


def list_tools(op: Watched) -> list[Tool]:
    """All pages, up to 1,000 tools. Raises UpstreamError."""
    found: list[Any] = []
    params: dict[str, Any] = {}
    for _ in range(PAGES_MOST):
        body = client.run(op, "tools/list", params).body
        result = body.get("result")
        if not isinstance(result, dict) or not isinstance(result.get("tools"), list):
            raise UpstreamError("upstream_bad_answer")
        found += result["tools"]
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str) or not cursor or len(found) >= TOOLS_MOST:
            break
        params = {"cursor": cursor}
    return tools(found)[:TOOLS_MOST]


def part(op: Watched) -> None:
    """End the session of this check, where there is one. Raises UpstreamError."""
    own = op.memory.session(op.key)
    if own is not None and own.id is not None:
        op.send_as_it_is("DELETE", own.headers, None).let_go()


def _read(answer: Answer, call_id: int) -> Mapping[str, Any]:
    """Empty: it is no message."""
    try:
        return answers.first_answer(answer, call_id).body
    except UpstreamError as error:
        if error.code != "upstream_bad_answer":
            raise
        return {}


def _modern(op: Watched, result: Mapping[str, Any]) -> Greeting:
    op.memory.learn(op.gateway, "modern", result.get("capabilities"))
    meta = result.get("_meta")
    info = meta.get(f"{wire.META}serverInfo") if isinstance(meta, dict) else None
    return _named("modern", info or result.get("serverInfo"), wire.MODERN)


def _legacy(op: Watched) -> Greeting:
    call_id = client.new_id()
    if op.gateway.transport == "sse":
        return _old(op)
    answer = op.send("POST", {}, client.hello(call_id))
    if answer.status in client.NOT_HERE:
        answer.let_go()
        return _old(op)
    result = answers.first_answer(answer, call_id).body.get("result")
    if not isinstance(result, dict) or result.get("protocolVersion") not in wire.LEGACY:
        raise UpstreamError("upstream_bad_answer")
    if answer.session_id is not None and not wire.is_session_id(answer.session_id):
        raise UpstreamError("upstream_bad_answer")
    own = Own(answer.session_id, result["protocolVersion"])
    op.send("POST", own.headers, client.INITIALIZED).let_go()
    op.memory.keep(op.key, own)
    op.memory.learn(op.gateway, "legacy", result.get("capabilities"))
    op.era = "legacy"
    return _named("legacy", result.get("serverInfo"), own.version)


def _old(op: Watched) -> Greeting:
    """The transport of 2024-11-05, which introduces itself anew for each request."""
    client.look(op)
    op.era = "sse"
    return Greeting("sse", "", "", "2024-11-05")


def _named(era: Era, info: Any, protocol: str) -> Greeting:
    said = info if isinstance(info, dict) else {}
    texts = [said.get(name) for name in ("name", "version")]
    name, version = (exchanges.taste(text)[:80] if isinstance(text, str) else "" for text in texts)
    return Greeting(era, name, version, protocol)
