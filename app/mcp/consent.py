"""How to ask for a connection, in each client's terms: the first rung that applies (C2 to C6).

The link leads to a page of ours that wants the person's own browser session. It carries no
credential, and opening it changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..access import Usable
from ..errors import AppError, Busy, ConnectionNeeded, UpstreamError, for_person
from ..oauth import parked, stepping, tokens
from . import catalog, jsonrpc, sse, stand_in, wire
from .handles import ROUNDS, State, open_state, seal_state
from .stand_in import CONNECT
from .turn import Turn

_OF_A_RETRY = ("inputResponses", "requestState")  # not part of what is asked for
_LIST = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}'


def keeps_nothing(gateway: Usable) -> bool:
    """Each call waits for a consent of its own (README, promise 4)."""
    config = gateway.config
    return config is not None and not config.is_shared and not config.spec.stores


def digest_of(method: str, params: Mapping[str, Any]) -> str:
    """Which call this is, told apart by method and parameters alone: a repetition has a new id."""
    asked = {k: v for k, v in params.items() if k not in (*_OF_A_RETRY, "_meta")}
    text = json.dumps([method, asked], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def chosen(turn: Turn) -> Turn:
    """With the OAuth config that serves this call. Our own tool is about the default one."""
    gateway = turn.gateway
    if not gateway.further or is_connect(turn):
        return turn
    found = gateway.for_call(turn.call.method, turn.call.target)
    return turn if found is gateway else replace(turn, gateway=found)


# -- asking ----------------------------------------------------------------------------------------


def ask(turn: Turn, needed: ConnectionNeeded) -> wire.Reply:
    """The answer to a call that only a sign-in can help. Commits, as the link names a row."""
    call = turn.call
    if call.method in wire.LISTS:
        return _list(turn)
    if call.method == "ping":  # of a session whose connection was lost: we are there
        return stand_in.reply(call, turn.gateway, {})
    link = _link(turn, str(needed.facts.get("scope", "")).split())
    needed.facts["link"] = link
    sentence = f"{needed.message}."
    shown = _shown(turn, sentence, link)
    if shown is not None:
        return shown
    if call.method == "tools/call":
        return _told(turn, f"{sentence} Open {link} , press Connect, then try again.")
    return failed(turn, needed)


def step_up(turn: Turn, error: UpstreamError) -> wire.Reply:
    """A right is missing that a new consent can give: the first rung that applies. Commits.

    A 401 of a fresh token is about rights only where it names some that were not asked for yet.
    """
    scopes = str(error.facts.get("scope", "")).split()
    wanted = stepping.union(turn.caller, turn.gateway, turn.call.target, scopes)
    if wanted is None:
        is_about_rights = error.code == "insufficient_scope"
        return failed(turn, exhausted(scopes) if is_about_rights else error)
    link = _link(turn, wanted)
    error = UpstreamError("insufficient_scope", scope=" ".join(scopes), link=link)
    shown = _shown(turn, f"{error.message}. Grant the extra right: {' '.join(scopes)}.", link)
    return shown or failed(turn, error)


def exhausted(scopes: Sequence[str]) -> UpstreamError:
    return UpstreamError("step_up_exhausted", scope=" ".join(scopes) or "not named")


def _shown(turn: Turn, sentence: str, link: str) -> wire.Reply | None:
    """C2, C3: to a client that says it can show a link to its person."""
    call = turn.call
    if not turn.takes_urls or turn.asked >= ROUNDS:
        return None
    if not call.is_modern:
        return _elicitation(call, sentence, link)
    return _input_required(turn, sentence, link) if call.method in wire.NAMED_BY else None


def failed(turn: Turn, error: AppError) -> wire.Reply:
    """C6, and every other failure of one call: HTTP 200, else clients drop the connection."""
    error = _as_told(turn, error)
    code = error.step or error.code
    return wire.Reply(200, dict(stand_in.JSON), [failure(turn, error)], code)


def failure(turn: Turn, error: AppError) -> bytes:
    call, slug, error = turn.call, turn.gateway.slug, _as_told(turn, error)
    state = str(error.facts["state"]) if "state" in error.facts else turn.state
    known = {"gateway": slug, "state": state, "request_id": call.request_id}
    if error.step is not None and turn.caller.is_admin:
        known["step"] = error.step
    return jsonrpc.failure(error, call.id, **known)


def _as_told(turn: Turn, error: AppError) -> AppError:
    """What was cut because this server goes is no fault of the upstream (SEC-117)."""
    if turn.hangup is not None and turn.hangup.is_ended:
        return Busy("restarting", retry_after=5)
    return for_person(error, is_admin=turn.caller.is_admin)


def _link(turn: Turn, scopes: Sequence[str] = ()) -> str:
    """Where nothing is kept the call itself waits. Our own tool has nothing to run but the list."""
    request = None
    if keeps_nothing(turn.gateway):
        request = _LIST if is_connect(turn) else turn.call.raw
    waits = parked.park(
        turn.caller, turn.gateway, digest=_digest(turn), request=request, scopes=scopes
    )
    return parked.link(turn.caller, turn.gateway, waits.id, target=turn.call.target)


def is_connect(turn: Turn) -> bool:
    """Whether it is our own tool that is called."""
    call = turn.call
    is_ours = call.method == "tools/call" and call.params.get("name") == CONNECT
    return is_ours and turn.gateway.signs_people_in


def _digest(turn: Turn) -> str:
    return digest_of(turn.call.method or "", turn.call.params)


def _list(turn: Turn) -> wire.Reply:
    """Never an error. Without storage: what this person's own sign-ins have shown."""
    gateway, call = turn.gateway, turn.call
    if call.method != "tools/list":
        return stand_in.listed(call, gateway, [])
    known = catalog.known(gateway.id, gateway.owner_key) if keeps_nothing(gateway) else []
    definitions = [tool.definition for tool in known if tool.name != CONNECT]
    return stand_in.listed(call, gateway, [*definitions, stand_in.connect_tool(gateway)])


def _input_required(turn: Turn, sentence: str, link: str) -> wire.Reply:
    """C2."""
    state = State(_digest(turn), turn.asked + 1)
    params = {"mode": "url", "url": link, "message": sentence}
    value = {
        "resultType": "input_required",
        "inputRequests": {"connect": {"method": "elicitation/create", "params": params}},
        "requestState": seal_state(turn.caller, turn.gateway, state),
    }
    return stand_in.reply(turn.call, turn.gateway, value, "connection_needed")


def _elicitation(call: wire.Call, sentence: str, link: str) -> wire.Reply:
    """C3."""
    entry = {"mode": "url", "elicitationId": uuid.uuid4().hex, "url": link, "message": sentence}
    body = jsonrpc.error(call.id, jsonrpc.ASK_FOR_URL, sentence, {"elicitations": [entry]})
    return wire.Reply(200, dict(stand_in.JSON), [body], "connection_needed")


def _told(turn: Turn, sentence: str) -> wire.Reply:
    """C5: what a model can pass on."""
    value = {"isError": True, "content": [{"type": "text", "text": sentence}]}
    return stand_in.reply(turn.call, turn.gateway, value, "connection_needed")


# -- what comes back -------------------------------------------------------------------------------


def retried(turn: Turn) -> Turn | wire.Reply:
    """The turn without what is ours on its call; or the answer to a "no" (C8).

    A state of the upstream's own passes untouched, and so does what answers it. Raises WireError.
    """
    call = turn.call
    if "requestState" not in call.params:
        return turn
    state = open_state(turn.caller, turn.gateway, call, _digest(turn))
    if state is None:
        return turn
    said = call.params.get("inputResponses")
    answer = said.get("connect") if isinstance(said, dict) else None
    action = answer.get("action") if isinstance(answer, dict) else None
    if action in ("decline", "cancel"):
        return _declined(turn)
    return replace(turn, call=_stripped(call), asked=state.round)


def _stripped(call: wire.Call) -> wire.Call:
    params = {k: v for k, v in call.params.items() if k not in _OF_A_RETRY}
    message = {**call.message, "params": params}
    return replace(call, message=message, raw=jsonrpc.dumps(message))


def _declined(turn: Turn) -> wire.Reply:
    gateway = turn.gateway
    if turn.call.method == "tools/call":
        return _told(turn, f"{gateway.name} is not connected: the sign-in was declined.")
    link = f"/connections/{gateway.slug}"
    error = ConnectionNeeded(gateway=gateway.slug, name=gateway.name, state="pending", link=link)
    return failed(turn, error)


def settled(turn: Turn) -> wire.Reply | None:
    """The answer, where none is wanted of the upstream any more. Raises ConnectionNeeded."""
    if keeps_nothing(turn.gateway):
        handed = _handed_over(turn)
        if handed is not None:
            return handed
    if not is_connect(turn):
        return None
    tokens.credential(turn.caller, turn.gateway)
    return connected(turn)


def _handed_over(turn: Turn) -> wire.Reply | None:
    """The result of this very call, if it ran after a consent; once (C13). Commits."""
    call = turn.call
    if call.id is None or call.method in wire.LISTS:
        return None
    found = parked.hand_over(turn.caller, turn.gateway, _digest(turn))
    if found is None:
        return None
    if is_connect(turn) and b'"result"' in found:
        return connected(turn)
    return wire.Reply(200, dict(stand_in.JSON), [jsonrpc.with_id(found, call.id)])


def connected(turn: Turn) -> wire.Reply:
    """Of our own tool, with nothing left to ask. A legacy client hears of the list (C12)."""
    said = f"{turn.gateway.name} is connected. List its tools again."
    if keeps_nothing(turn.gateway):
        said = f"The tools of {turn.gateway.name} are known now. List them again."
    content = {"content": [{"type": "text", "text": said}]}
    made = stand_in.reply(turn.call, turn.gateway, content)
    if turn.call.is_modern:
        return made
    changed = jsonrpc.dumps({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    events = [sse.event(one) for one in (changed, *made.chunks)]
    return wire.Reply(200, dict(stand_in.EVENTS), events)
