"""What comes back from upstream, read to be understood: messages, and which of them is the answer.

Where a client of ours shares era and session with the server nothing of this is used: its bytes
pass. It is for our own requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .. import strict_json
from ..errors import UpstreamError
from ..strict_json import BadJSON
from . import jsonrpc, sse
from .upstream import MOST, Answer

BEFORE = 10_000  # messages in front of an answer to a request of our own
BUSY = (408, 429)  # 4xx that say nothing of the address or of what was asked
ASKED = 1_000  # requests of a server's, in front of any answer


@dataclass(frozen=True, slots=True)
class Message:
    raw: bytes = field(repr=False)  # a JSON text
    body: Mapping[str, Any] = field(repr=False)


def message_of(raw: bytes) -> Message:
    """Raises UpstreamError for what is no JSON-RPC message."""
    try:
        body = strict_json.loads(raw)
    except BadJSON as error:
        raise UpstreamError("upstream_bad_answer") from error
    if not isinstance(body, dict):
        raise UpstreamError("upstream_bad_answer")
    return Message(raw, body)


def messages_in(incoming: Iterator[sse.Event]) -> Iterator[Message]:
    """Events with a name of their own, and those that only carry an id, are left out."""
    for event in incoming:
        if event.name == "message" and event.data:
            yield message_of(event.data.encode())


def first_answer(answer: Answer, call_id: jsonrpc.Id) -> Message:
    """The answer to this id, whatever comes before it; then hangs up. Raises UpstreamError."""
    with answer:
        return last(until_answered(messages(answer, call_id), call_id, lambda _: None))


def last(stream: Iterator[Message]) -> Message:
    """The answer, of what until_answered gives. Raises UpstreamError, also for too much before."""
    found, size = None, 0
    for number, found in enumerate(stream):  # noqa: B007  # the last one is what is wanted
        size += len(found.raw)
        if number >= BEFORE or size > MOST:
            raise UpstreamError("upstream_bad_answer")
    if found is None:
        raise UpstreamError
    return found


def until_answered(
    stream: Iterator[Message], call_id: jsonrpc.Id, back: Callable[[bytes], None]
) -> Iterator[Message]:
    """Notifications, then the answer; requests of the server are turned down by `back`."""
    others = 0
    for message in stream:
        if jsonrpc.is_answer(message.body, call_id):
            yield message
            return
        if "method" in message.body and "id" not in message.body:
            yield message
            continue
        others += 1
        if others > ASKED:
            raise UpstreamError("upstream_bad_answer")
        if "method" in message.body:
            with suppress(UpstreamError):
                back(_turned_down(message.body))
    raise UpstreamError


def _turned_down(request: Mapping[str, Any]) -> bytes:
    if request["method"] == "ping":
        return jsonrpc.result(request["id"], {})
    return jsonrpc.error(request["id"], jsonrpc.NO_METHOD, "This client has no such method.")


def messages(answer: Answer, call_id: jsonrpc.Id) -> Iterator[Message]:
    """What an answer to a POST holds. Raises UpstreamError for what is not MCP."""
    if answer.status >= 400:
        yield refusal(answer, call_id)
    elif answer.kind == "json":
        found = message_of(answer.body())
        if not jsonrpc.is_answer(found.body, call_id):
            raise UpstreamError("upstream_bad_answer")
        yield found
    else:
        yield from messages_in(events(answer))


def refusal(answer: Answer, call_id: jsonrpc.Id) -> Message:
    """A 4xx that is a JSON-RPC error, under our id: many servers leave the id out of it."""
    body = message_of(answer.body()).body if answer.kind == "json" else {}
    said = body.get("error")
    if not isinstance(said, dict) or type(said.get("code")) is not int:
        raise UpstreamError("upstream_error" if answer.status in BUSY else "upstream_bad_answer")
    raw = jsonrpc.error(call_id, said["code"], str(said.get("message")), said.get("data"))
    return message_of(raw)


def events(answer: Answer) -> Generator[sse.Event, None, None]:
    """Of a stream that is read to be understood. Events with a name of their own are left out."""
    for block in blocks(answer):
        yield from sse.events(block)


def blocks(answer: Answer, most: float = math.inf) -> Iterator[bytes]:
    """Whole events, as they came. Raises UpstreamError, also for more than `most` bytes."""
    if answer.kind != "events":
        raise UpstreamError("upstream_bad_answer")
    splitter = sse.Splitter()
    for piece in answer.pieces(most):
        try:
            block = splitter.feed(piece)
        except sse.TooLong as error:
            raise UpstreamError("upstream_bad_answer") from error
        if block:
            yield block
