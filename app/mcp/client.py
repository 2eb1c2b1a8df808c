"""We as MCP client: one request in whatever era the server speaks, and the messages that come back.

We declare no capabilities, so what a server asks of us all the same is turned down (L11).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any

from ..errors import UpstreamError
from . import jsonrpc, sse, wire
from .answers import Message, events, first_answer, last, messages, messages_in, until_answered
from .memory import Era, Own
from .operation import Operation
from .upstream import Answer, within

HANDSHAKE_S = 30.0  # until a session of ours is open
ENDPOINT_S = 10.0  # until an old server's stream has named its endpoint (O2)
RESUMES, RESUME_MS, RESUME_MOST_MS = 3, 1000, 5000  # of a stream with event ids (L12)
NOT_HERE = (400, 404, 405)  # what a server of the old transport says to a POST (E5)
INITIALIZED = jsonrpc.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
_STREAM = {"Accept": "text/event-stream"}


class NotStreamable(UpstreamError):
    """The server takes no POST here, so it may be one of the old transport."""

    code = "upstream_bad_answer"


def run(op: Operation, method: str, params: Mapping[str, Any]) -> Message:
    """A whole operation of our own: era found out, session opened, answer read. UpstreamError."""
    call_id = new_id()
    is_modern = find_era(op) == "modern"
    if is_modern:
        raw, headers = wire.request(call_id, method, params, is_modern=True)
        stream = _once(op, raw, call_id, headers)
    else:
        raw, _ = wire.request(call_id, method, wire.without_era(params), is_modern=False)
        stream = converse(op, raw, call_id)
    with closing(stream):
        return last(stream)


def new_id() -> int:
    """Of our own requests: a session may be shared by several clients, whose ids are alike (B5)."""
    return secrets.randbits(48)


# -- which era (E5) -------------------------------------------------------------------------------


def find_era(op: Operation) -> Era:
    """A "legacy" that is not yet known may turn out to be the old transport."""
    if op.gateway.transport == "sse":
        return "sse"
    known = op.memory.server(op.gateway)
    if known is not None:
        return known.era
    call_id = new_id()
    raw, headers = wire.request(call_id, "server/discover", {}, is_modern=True)
    answer = op.send("POST", headers, raw)
    try:
        body = first_answer(answer, call_id).body
    except UpstreamError as error:
        if error.code != "upstream_bad_answer":
            raise
        body = {}
    if not wire.is_modern_answer(answer.status, body):
        return "legacy"
    result = body.get("result")
    op.memory.learn(op.gateway, "modern", result.get("capabilities") if result else None)
    return "modern"


# -- one request ----------------------------------------------------------------------------------


def _once(
    op: Operation, raw: bytes, call_id: jsonrpc.Id, headers: Mapping[str, str]
) -> Generator[Message, None, None]:
    with op.send("POST", headers, raw) as answer:
        yield from until_answered(messages(answer, call_id), call_id, lambda _: None)


def converse(op: Operation, raw: bytes, call_id: jsonrpc.Id) -> Generator[Message, None, None]:
    """One legacy request, over a session of our own or over the old transport; the answer is last.

    `raw` carries `call_id`. Raises UpstreamError and ConnectionNeeded, mostly at the first step.
    """
    known = op.memory.server(op.gateway)
    if op.gateway.transport == "sse" or (known is not None and known.era == "sse"):
        yield from over_old_transport(op, raw, call_id)
        return
    try:
        answer, own = _in_session(op, raw)
    except NotStreamable:
        if op.gateway.transport == "http":
            raise
        yield from over_old_transport(op, raw, call_id)
        return

    def back(said: bytes) -> None:
        op.send_as_it_is("POST", own.headers, said).let_go()

    with closing(_resumed(op, own, answer, call_id)) as stream:
        yield from until_answered(stream, call_id, back)


def _resumed(
    op: Operation, own: Own, answer: Answer, call_id: jsonrpc.Id
) -> Generator[Message, None, None]:
    """The messages of an answer. A stream with event ids that breaks off is resumed (L12)."""
    if answer.kind != "events" or answer.status >= 400:
        with answer:
            yield from messages(answer, call_id)
        return
    at, pause = "", RESUME_MS
    for _ in range(RESUMES + 1):
        problem = UpstreamError()
        with answer:
            try:
                for event in events(answer):
                    at = at if event.id is None else event.id
                    pause = pause if event.retry_ms is None else event.retry_ms
                    yield from messages_in(iter([event]))
            except UpstreamError as error:
                problem = error
        if not wire.is_session_id(at):  # none, or one that no header can carry
            raise problem
        time.sleep(min(pause, RESUME_MOST_MS) / 1000)
        again = {**own.headers, **_STREAM, "Last-Event-ID": at}
        answer = op.send_as_it_is("GET", again, None)
        if answer.status != 200:
            answer.let_go()
            raise problem


def _in_session(op: Operation, raw: bytes) -> tuple[Answer, Own]:
    """Where a session is unknown nothing ran: it is opened anew and asked again, once (L13)."""
    own = op.memory.session(op.key)
    if own is not None:
        answer = op.send("POST", own.headers, raw)
        if answer.status != 404 or own.id is None:
            return answer, own
        answer.let_go()
        op.memory.drop(op.key, own)
    with op.memory.opening(op.key):
        with within(HANDSHAKE_S):
            own = op.memory.session(op.key) or open_session(op)
    return op.send("POST", own.headers, raw), own


def open_session(op: Operation) -> Own:
    """L10. Raises NotStreamable and other UpstreamErrors."""
    call_id = new_id()
    answer = op.send("POST", {}, hello(call_id))
    if answer.status in NOT_HERE:
        answer.let_go()
        raise NotStreamable
    result = _welcome(first_answer(answer, call_id).body)
    if answer.session_id is not None and not wire.is_session_id(answer.session_id):
        raise UpstreamError("upstream_bad_answer")
    own = Own(answer.session_id, result["protocolVersion"])
    op.send("POST", own.headers, INITIALIZED).let_go()
    op.memory.keep(op.key, own)
    op.memory.learn(op.gateway, "legacy", result.get("capabilities"))
    return own


def hello(call_id: jsonrpc.Id) -> bytes:
    said = {
        "protocolVersion": wire.NEWEST_LEGACY,
        "capabilities": {},
        "clientInfo": wire.OURS,
    }
    return wire.request(call_id, "initialize", said, is_modern=False)[0]


def _welcome(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result of an initialize that we can go on with."""
    result = body.get("result")
    if not isinstance(result, dict) or result.get("protocolVersion") not in wire.LEGACY:
        raise UpstreamError("upstream_bad_answer")
    return result


def over_old_transport(op: Operation, raw: bytes, call_id: jsonrpc.Id) -> Iterator[Message]:
    """O3: the stream, the handshake, the request, and what comes until it is answered."""
    with ExitStack() as opened:
        stream = _OldStream(op, opened)
        yield from stream.ask(raw, call_id)


def look(op: Operation) -> None:
    """Whether it is a server of the old transport, and what it can do. Raises UpstreamError."""
    if op.gateway.transport == "http":
        raise NotStreamable
    with ExitStack() as opened:
        _OldStream(op, opened)


class _OldStream:
    """An open stream with its handshake done. Closed by `opened`."""

    def __init__(self, op: Operation, opened: ExitStack) -> None:
        self._op = op
        self._headers: dict[str, str] = {}
        with within(ENDPOINT_S):
            answer = opened.enter_context(closing(op.send("GET", _STREAM)))
            self._incoming = opened.enter_context(closing(events(answer)))
            self._url = _endpoint(answer, self._incoming)
        hello_id = new_id()
        with within(HANDSHAKE_S):
            result = _welcome(last(self.ask(hello(hello_id), hello_id)).body)
        op.memory.learn(op.gateway, "sse", result.get("capabilities"))
        self._headers["MCP-Protocol-Version"] = result["protocolVersion"]
        self._back(INITIALIZED)

    def ask(self, raw: bytes, call_id: jsonrpc.Id) -> Iterator[Message]:
        """The answer to a POST says nothing; what is said comes on the stream."""
        with self._op.send("POST", self._headers, raw, self._url) as answer:
            if answer.status >= 400:
                raise UpstreamError
        return until_answered(messages_in(self._incoming), call_id, self._back)

    def _back(self, raw: bytes) -> None:
        with self._op.send_as_it_is("POST", self._headers, raw, self._url) as answer:
            if answer.status >= 300:
                raise UpstreamError


def _endpoint(answer: Answer, incoming: Iterator[sse.Event]) -> str:
    """O2: what the first event names."""
    if answer.status >= 400 or answer.kind != "events":
        raise UpstreamError("upstream_bad_answer")
    first = next(incoming, None)
    if first is None or first.name != "endpoint":
        raise UpstreamError("upstream_bad_answer")
    try:
        return sse.endpoint(answer.url, first.data)
    except sse.Foreign as error:
        raise UpstreamError("upstream_bad_answer") from error
