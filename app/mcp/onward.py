"""A client's request onward to the upstream, in the way of its era and its session."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator

from ..errors import AppError, UpstreamError
from . import client, consent, jsonrpc, opening, sse, stand_in, through, wire
from .answers import Message
from .operation import Operation
from .turn import Turn

log = logging.getLogger(__name__)


def not_allowed() -> wire.Reply:
    return wire.Reply(405, {"Allow": "POST"}, [], "method_not_allowed")


def to_modern(turn: Turn) -> wire.Reply:
    call = turn.call
    if opening.era(turn) == "sse":
        raise UpstreamError("older_protocol")
    op = _operation(turn)
    answer = op.send("POST", call.headers, call.raw)
    if answer.status < 400:
        return through.passed(turn, answer)
    try:
        return through.modern_refusal(answer)
    except UpstreamError:
        op.memory.doubt(turn.gateway)
        raise


def to_session(turn: Turn) -> wire.Reply:
    answer = _operation(turn).send("POST", _up(turn), turn.call.raw)
    if answer.status >= 400:
        return through.legacy_refusal(turn, answer)
    return through.passed(turn, answer)


def noted(turn: Turn) -> wire.Reply:
    """A notification, or an answer to the server (L3). What goes wrong cannot be told."""
    if not turn.is_attached:
        return wire.Reply(202, {}, [])
    try:
        answer = _operation(turn).send("POST", _up(turn), turn.call.raw)
    except AppError as error:
        log.info("a notification was lost: %s", error.code)
        return wire.Reply(202, {}, [], error.code)
    if answer.status >= 400:
        return through.legacy_refusal(turn, answer)
    answer.let_go()
    return wire.Reply(202, {}, [], "ok")


def get_or_delete(turn: Turn) -> wire.Reply:
    """L6, L7: of an attached session; 405 is what every client goes on after."""
    call = turn.call
    if not turn.is_attached:
        return not_allowed()
    try:
        answer = _operation(turn).send(call.verb, _up(turn), None)
    except AppError as error:
        log.info("%s was not relayed: %s", call.verb, error.code)
        return not_allowed()
    if call.verb == "GET" and answer.status < 300 and answer.kind == "events":
        return through.passed(turn, answer)
    answer.let_go()
    if call.verb == "DELETE" and answer.status != 405:
        return wire.Reply(answer.status, {}, [], "ok")
    return not_allowed()


def _operation(turn: Turn) -> Operation:
    return Operation(turn.caller, turn.gateway, turn.call.target, hangup=turn.hangup)


def _up(turn: Turn) -> dict[str, str]:
    """With the upstream's session, out of its handle."""
    session_id = turn.session.upstream_id if turn.session else None
    known = {} if session_id is None else {"Mcp-Session-Id": session_id}
    return {**turn.call.headers, **known}


# -- over sessions of our own ----------------------------------------------------------------------


def to_own_session(turn: Turn) -> wire.Reply:
    """O5: JSON if the answer comes first, an event stream if anything comes before it."""
    call_id = client.new_id()
    raw = jsonrpc.with_id(turn.call.raw, call_id)
    coming = client.converse(_operation(turn), raw, call_id)
    first = next(coming)
    if "method" in first.body:
        pieces = _as_events(turn, first, coming)
        return wire.Reply(
            200, dict(stand_in.EVENTS), through.stream(turn, pieces, coming.close), "ok"
        )
    next(coming, None)  # there is no more; it lets go of what it holds
    return wire.Reply(200, dict(stand_in.JSON), [_with_their_id(turn, first)], "ok")


def _as_events(
    turn: Turn, first: Message, coming: Iterator[Message]
) -> Generator[bytes, None, None]:
    yield sse.event(first.raw)
    try:
        for message in coming:
            is_answer = "method" not in message.body
            yield sse.event(_with_their_id(turn, message) if is_answer else message.raw)
    except UpstreamError as error:
        yield sse.event(consent.failure(turn, error))


def _with_their_id(turn: Turn, message: Message) -> bytes:
    call_id = turn.call.id
    return message.raw if call_id is None else jsonrpc.with_id(message.raw, call_id)
