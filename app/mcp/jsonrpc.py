"""JSON-RPC 2.0 answers: made by us, or looked at and re-addressed without a full parse."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import AppError, ConnectionNeeded

PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
FAILED = -32603
HEADER_MISMATCH, MISSING_CAPABILITY, WRONG_VERSION = -32020, -32021, -32022
ASK_FOR_URL = -32042

_FACTS = ("retry_after", "scope")  # of an error, beside its texts
Id = int | str
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_SMALL = 65_536  # bytes that are parsed whole, in 100 µs or so
_ENDS = 400  # bytes at either end of a longer answer that are looked at for its id
_ID = rb'"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9]+)\s*'
_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + rb",")
_OPENS, _CLOSES = re.compile(rb'\s*\{\s*"'), re.compile(rb"[\]}\"0-9el]\s*\}\s*$")
_TWO = re.compile(rb"\}\s*\{")  # texts, one behind the other
_LAST = re.compile(rb",\s*" + _ID + rb'(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


def is_answer(message: Any, call_id: Id | None) -> bool:
    """By type, too: 1 and "1" are two ids, and true is none."""
    if not isinstance(message, dict) or not ("result" in message or "error" in message):
        return False
    found = message.get("id")
    return type(found) is type(call_id) and found == call_id


def answers(raw: bytes, call_id: Id) -> bool:
    """Whether a JSON text is the answer to this id.

    Of a long one the ends are looked at, where every known server writes the id: an answer of a
    megabyte is not parsed to read one number. So what is wrong in its middle is not seen.
    """
    if b'"result"' not in raw and b'"error"' not in raw:
        return False
    if len(raw) > _SMALL and _ends_like(raw, json.dumps(call_id).encode()):
        return True
    try:
        return is_answer(json.loads(raw, parse_constant=_refuse), call_id)
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> None:
    """NaN and infinities are no JSON, and clients fail at them. All else is the server's matter."""
    raise ValueError(constant)


def _ends_like(raw: bytes, written: bytes) -> bool:
    """Whether this is one object with this id, as far as both ends show."""
    end = len(raw) - _ENDS
    first, last = _FIRST.match(raw, 0, _ENDS), _LAST.search(raw, end)
    if not (_OPENS.match(raw) and _CLOSES.search(raw, end)) or _TWO.search(raw, end):
        return False
    found = [one[1] for one in (first, last) if one is not None]
    return found == [written]  # two ids: a parser has to say which one counts


def with_id(raw: bytes, call_id: Id) -> bytes:
    """The same JSON object with another id; every other byte stays. Raises ValueError."""
    try:
        return _with_id(raw.decode(), call_id).encode()
    except (IndexError, RecursionError) as error:
        raise ValueError("not a JSON object") from error


def _with_id(text: str, call_id: Id) -> str:
    at = _past(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        start = _past(text, _past(text, at) + 1)  # behind the colon
        _, end = _DECODER.raw_decode(text, start)
        if name == "id":
            return text[:start] + json.dumps(call_id) + text[end:]
        at = _past(text, end)
        at = _past(text, at + 1) if text[at] == "," else at
    raise ValueError("it has no id")


def _past(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def dumps(message: Any) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def result(call_id: Id | None, value: Mapping[str, Any]) -> bytes:
    return dumps({"jsonrpc": "2.0", "id": call_id, "result": value})


def error(call_id: Id | None, number: int, message: str, data: Any = None) -> bytes:
    said = {"code": number, "message": message} | ({} if data is None else {"data": data})
    return dumps({"jsonrpc": "2.0", "id": call_id, "error": said})


def failure(problem: AppError, call_id: Id | None, **known: str | None) -> bytes:
    """One failed call: what programs count by is in `error.data`.

    `known`: gateway, state and request_id; step for admins alone (errors.for_person).
    """
    data: dict[str, Any] = {"code": problem.code, "gateway": None, "state": None, **known}
    if isinstance(problem, ConnectionNeeded):
        data |= {"state": problem.state, "reason": problem.reason}
    data |= {"action": problem.action, "who": problem.who}
    data |= {"e": problem.e} if problem.e else {}
    facts = {name: problem.facts[name] for name in _FACTS if name in problem.facts}
    said = {"said": problem.said} if problem.said else {}
    return error(call_id, FAILED, f"{problem.message}. {problem.action}", data | facts | said)
