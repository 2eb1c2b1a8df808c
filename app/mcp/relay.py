"""Whole operations on the MCP wire: a client's request to its answer, and calls of our own.

Between client and server of one era bytes pass. A legacy session that is not attached to one of the
upstream is served over sessions of our own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..access import Caller, Usable
from ..errors import AppError, ConnectionNeeded, UpstreamError, WireError
from ..oauth import parked, stepping, tokens
from ..oauth.replies import TokenSet
from ..slots import slots
from . import catalog, client, consent, jsonrpc, onward, opening, stand_in, through, wire
from .catalog import Tool
from .handles import Session, open_session
from .hangup import Hangup
from .operation import Operation
from .turn import Turn
from .upstream import within

RUN_S = 60.0  # one whole operation of our own, handshake included (oauth.md 3.6)
PAGES = 50  # of a list
_ATTACHED_ONLY = ("logging/setLevel", "resources/subscribe", "resources/unsubscribe")
Send = Callable[[Turn], wire.Reply]


def forward(
    caller: Caller, gateway: Usable, call: wire.Call, *, hangup: Hangup | None = None
) -> wire.Reply:
    """The answer to one request. A failure of the other side is an answer, too (mcp.md section 2).

    Raises WireError for a request that its era does not allow. Call it with no transaction open.
    """
    turn, reply = Turn(caller, gateway, call, hangup=hangup), None
    try:
        reply = _modern(turn) if call.is_modern else _legacy(turn)
    finally:
        if hangup is not None and not isinstance(reply and reply.chunks, through.Stream):
            hangup.over()
    if hangup is not None and hangup.has_happened and reply.code != "ok":
        return replace(reply, code="hung_up")  # what broke off was cut by us
    return reply


def _modern(turn: Turn) -> wire.Reply:
    call = turn.call
    if call.verb != "POST":
        return onward.not_allowed()
    if call.id is None:
        return wire.Reply(202, {}, [])  # N10
    if call.method == "server/discover":
        return opening.discover(turn)
    found = consent.retried(turn)
    if isinstance(found, wire.Reply):
        return found
    return _answered(consent.chosen(found), onward.to_modern)


def _legacy(turn: Turn) -> wire.Reply:
    call = turn.call
    if call.method == "initialize" and call.id is not None:
        return opening.initialize(turn)
    turn = replace(turn, session=_session(turn))
    if call.verb != "POST":
        return onward.get_or_delete(turn)
    if call.id is None:
        return onward.noted(turn)
    served = consent.chosen(turn)
    if served is not turn:  # the client's session belongs to the account that it was opened with
        return _answered(served, onward.to_own_session)
    if turn.is_attached:
        return _answered(turn, onward.to_session)
    return _detached(turn)


def _detached(turn: Turn) -> wire.Reply:
    """What needs a session of the client's own with the server is not declared, and not there."""
    call = turn.call
    if call.method == "ping":
        return stand_in.reply(call, turn.gateway, {})
    if call.method in _ATTACHED_ONLY:
        body = jsonrpc.error(call.id, jsonrpc.NO_METHOD, "Method not found")
        return wire.Reply(200, dict(stand_in.JSON), [body], "refused")
    return _answered(turn, onward.to_own_session)


def _session(turn: Turn) -> Session:
    """L2. Raises WireError 404, on which a client has to open anew."""
    call = turn.call
    if call.session is None:
        return Session(call.version or wire.ASSUMED)
    session = open_session(turn.caller, turn.gateway, call.session)
    if session is None:
        raise WireError(
            "There is no such session.", number=jsonrpc.INVALID_REQUEST, http=404, call_id=call.id
        )
    return session


def _answered(turn: Turn, send: Send) -> wire.Reply:
    """By the upstream; or by us: what is missing, or what went wrong."""
    try:
        try:
            return consent.settled(turn) or send(turn)
        except ConnectionNeeded as needed:
            return consent.ask(turn, needed)
        except UpstreamError as error:
            if error.code not in ("insufficient_scope", "token_refused"):
                raise
            if error.code == "token_refused" and not error.facts.get("scope"):
                raise
            return consent.step_up(turn, error)
    except AppError as error:
        if isinstance(error, WireError) or not error.rpc:
            raise
        return consent.failed(turn, error)


# -- of our own ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolResult:
    text: str = field(repr=False)
    is_error: bool
    raw: dict[str, Any] = field(repr=False)  # the result, or the JSON-RPC error
    took_ms: int = 0


def list_tools(caller: Caller, gateway: Usable, *, timeout_s: float | None = None) -> list[Tool]:
    """All pages, from the server itself; the catalog keeps them. Commits, by itself.

    Raises ConnectionNeeded, UpstreamError.
    """
    with slots().take(caller.user_id), within(RUN_S if timeout_s is None else timeout_s):
        tools = _listed(Operation(caller, gateway))
    catalog.keep(gateway.id, gateway.owner_key, tools)
    return tools


def call_tool(
    caller: Caller, gateway: Usable, name: str, arguments: Mapping[str, Any]
) -> ToolResult:
    """One whole operation, handshake included. Raises ConnectionNeeded, UpstreamError."""
    began, gateway = time.monotonic(), gateway.for_call("tools/call", name)
    with slots().take(caller.user_id), within(RUN_S):
        op = Operation(caller, gateway, name)
        said = client.run(op, "tools/call", {"name": name, "arguments": dict(arguments)})
    return _tool_result(said.body, took_ms=int((time.monotonic() - began) * 1000))


def run_parked(
    caller: Caller, gateway: Usable, parked_call_id: str, token_set: TokenSet | None
) -> str | None:
    """Run what waited for this consent, once, and keep what came of it. Commits.

    `gateway` is of the config that was consented to. With tokens that are in no row, or else with
    the stored ones. What goes wrong is the result; but a call that lacks rights waits again, for a
    consent that asks for them: the address of the page that does is given.
    """
    request = parked.take(parked_call_id)
    if request is None:
        return None
    message = json.loads(request)
    turn = Turn(caller, gateway, _as_call(message))
    try:
        parked.keep_result(parked_call_id, _run(caller, gateway, message, token_set), ok=True)
    except AppError as error:
        if error.code == "insufficient_scope":
            scopes = str(error.facts.get("scope", "")).split()
            if _waits_again(turn, parked_call_id, scopes):
                return parked.link(caller, gateway, parked_call_id, target=turn.call.target)
            error = consent.exhausted(scopes)
        parked.keep_result(parked_call_id, consent.failure(turn, error), ok=False)
    return None


def _waits_again(turn: Turn, parked_call_id: str, scopes: list[str]) -> bool:
    """Nothing was done upstream, so it may run once more. Commits."""
    caller, gateway, target = turn.caller, turn.gateway, turn.call.target
    already = parked.wanted(caller, parked_call_id)
    wanted = stepping.union(caller, gateway, target, scopes, already=already)
    return wanted is not None and parked.put_back(parked_call_id, wanted)


def tool_request(name: str, arguments: Mapping[str, Any]) -> bytes:
    """A call of ours, to be parked."""
    params = {"name": name, "arguments": dict(arguments)}
    return jsonrpc.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})


def result_of(raw: bytes) -> ToolResult:
    """Of what run_parked has kept."""
    return _tool_result(json.loads(raw), took_ms=0)


def _run(
    caller: Caller, gateway: Usable, message: Mapping[str, Any], token_set: TokenSet | None
) -> bytes:
    given = None if token_set is None else tokens.from_tokens(token_set)
    method, params = str(message.get("method")), message.get("params") or {}
    with within(RUN_S):
        op = Operation(caller, gateway, given=given)
        if method != "tools/list":
            return client.run(op, method, params).raw
        tools = _listed(op)
    catalog.keep(gateway.id, gateway.owner_key, tools)
    listed = {"tools": [tool.definition for tool in tools]}
    return jsonrpc.result(message.get("id"), listed)


def _listed(op: Operation) -> list[Tool]:
    """An empty cursor is one, too; the end is none at all (G10)."""
    found: list[Any] = []
    params: dict[str, Any] = {}
    for _ in range(PAGES):
        body = client.run(op, "tools/list", params).body
        result = body.get("result")
        if not isinstance(result, dict):
            raise UpstreamError(said=_said(body))
        found += result["tools"] if isinstance(result.get("tools"), list) else []
        if not isinstance(result.get("nextCursor"), str):
            break
        params = {"cursor": result["nextCursor"]}
    return catalog.tools(found)


def _tool_result(body: Mapping[str, Any], *, took_ms: int) -> ToolResult:
    result = body.get("result")
    if not isinstance(result, dict):
        error = body.get("error")
        return ToolResult(_said(body), True, error if isinstance(error, dict) else {}, took_ms)
    content = result.get("content")
    parts = [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
    text = "\n".join(str(one["text"]) for one in parts if isinstance(one.get("text"), str))
    return ToolResult(text, result.get("isError") is True, dict(result), took_ms)


def _said(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def _as_call(message: Mapping[str, Any]) -> wire.Call:
    return wire.Call("POST", False, None, {}, message=message, id=message.get("id"))
