"""How a client opens: server/discover, or initialize with a session. Neither ever fails (N14, L1).

A client that cannot open says little of why; one that is open can be told. So whatever keeps the
upstream from answering in time, we answer in its place.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import AppError, ConnectionNeeded, UpstreamError, WireError
from . import answers, client, jsonrpc, sse, stand_in, wire
from .answers import Message
from .handles import Session, attached, seal_session
from .memory import Era, memory
from .operation import Operation
from .stand_in import EVENTS, JSON
from .turn import Turn
from .upstream import Answer, within

OPEN_S = 5.0  # for the upstream, after which we answer
MOST = 1024 * 1024  # bytes of what a server says of itself
LOOK_S = 10.0  # for an upstream of the old transport, whose handshake takes three requests


def discover(turn: Turn) -> wire.Reply:
    """What the upstream says, with its status: a client of both eras reads from a 4xx that it has
    to open with initialize (V3).
    """
    is_connected, code = True, "own"
    try:
        op = _operation(turn)
        if era(turn) == "sse":
            return stand_in.older(turn.call)
        with within(OPEN_S):
            return _discovered(op, turn)
    except ConnectionNeeded:
        is_connected = False
    except AppError as error:
        code = _expected(error)
    if era(turn) in ("legacy", "sse"):
        return stand_in.older(turn.call)
    made = stand_in.discover(turn.call, turn.gateway, is_connected=is_connected)
    return replace(made, code=code)


def initialize(turn: Turn) -> wire.Reply:
    """S2: attached to a session of the upstream if it has one for this person now; else S3."""
    takes_urls = wire.takes_urls(turn.call.params.get("capabilities"))
    is_connected, code, reply = True, "own", None
    try:
        op = _operation(turn)
        if era(turn) != "sse":
            with within(OPEN_S):
                reply = _attached(op, turn, takes_urls=takes_urls)
        if reply is None and memory().server(turn.gateway) is None:
            with within(LOOK_S):
                client.look(op)
    except ConnectionNeeded:
        is_connected = False
    except AppError as error:
        code = _expected(error)
    if reply is not None:
        return reply
    made = _detached(turn, takes_urls=takes_urls, is_connected=is_connected)
    return replace(made, code=code)


def era(turn: Turn) -> Era | None:
    """As far as it is known without asking."""
    if turn.gateway.transport == "sse":
        return "sse"
    known = memory().server(turn.gateway)
    return known.era if known else None


def _operation(turn: Turn) -> Operation:
    return Operation(turn.caller, turn.gateway, hangup=turn.hangup)


def _expected(error: AppError) -> str:
    """A failure of the other side, which we answer. Raises any other."""
    if isinstance(error, WireError) or not error.rpc:
        raise error
    return error.step or error.code


def _discovered(op: Operation, turn: Turn) -> wire.Reply:
    call = turn.call
    answer = op.send("POST", call.headers, call.raw)
    try:
        raw, message = _whole(answer, call.id)
    except UpstreamError as error:
        if error.code != "upstream_bad_answer":
            raise
        return stand_in.older(call)
    if wire.is_modern_answer(answer.status, message.body):
        op.memory.learn(
            op.gateway, "modern", (message.body.get("result") or {}).get("capabilities")
        )
    headers = dict(EVENTS if answer.kind == "events" else JSON)
    return wire.Reply(200 if answer.status < 400 else answer.status, headers, [raw], "ok")


def _attached(op: Operation, turn: Turn, *, takes_urls: bool) -> wire.Reply | None:
    """None: there is no session to be had. What upstream says goes down as it came."""
    call, gateway = turn.call, turn.gateway
    answer = op.send("POST", call.headers, call.raw)
    if answer.status >= 400:
        answer.let_go()
        return None
    raw, message = _whole(answer, call.id)
    headers = dict(EVENTS if answer.kind == "events" else JSON)
    result, upstream_id = message.body.get("result"), answer.session_id
    if isinstance(result, dict):
        if upstream_id is not None and not wire.is_session_id(upstream_id):
            raise UpstreamError("upstream_bad_answer")
        version = str(result.get("protocolVersion"))
        session = attached(gateway, version=version, upstream_id=upstream_id, takes_urls=takes_urls)
        headers["Mcp-Session-Id"] = seal_session(turn.caller, gateway, session)
        op.memory.learn(gateway, "legacy", result.get("capabilities"))
    return wire.Reply(200, headers, [raw], "ok")


def _detached(turn: Turn, *, takes_urls: bool, is_connected: bool) -> wire.Reply:
    made, version = stand_in.initialize(turn.call, turn.gateway, is_connected=is_connected)
    session = Session(version, takes_urls=takes_urls)
    made.headers["Mcp-Session-Id"] = seal_session(turn.caller, turn.gateway, session)
    return made


def _whole(answer: Answer, call_id: jsonrpc.Id | None) -> tuple[bytes, Message]:
    """An opening's answer as it came, up to the message that matters, and that message."""
    with answer:
        if answer.kind == "json":
            raw = answer.body(MOST)
            message = answers.message_of(raw)
            if answer.status >= 400 or jsonrpc.is_answer(message.body, call_id):
                return raw, message  # a refusal often names no id (V3)
            raise UpstreamError("upstream_bad_answer")
        held = []
        for block in answers.blocks(answer, MOST):
            held.append(block)
            for message in answers.messages_in(sse.events(block)):
                if jsonrpc.is_answer(message.body, call_id):
                    return b"".join(held), message
    raise UpstreamError("upstream_bad_answer")
