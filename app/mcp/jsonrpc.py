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

Id = int | str
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_ENDS = 400  # bytes at either end of an answer that are looked at for its id
_ID = rb'"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9]+)\s*'
_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + rb",")
_LAST = re.compile(rb",\s*" + _ID + rb'(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


def is_answer(message: Any, call_id: Id | None) -> bool:
    """By type, too: 1 and "1" are two ids, and true is none."""
    if not isinstance(message, dict) or not ("result" in message or "error" in message):
        return False
    found = message.get("id")
    return type(found) is type(call_id) and found == call_id


def answers(raw: bytes, call_id: Id) -> bool:
    """Whether a JSON text is the answer to this id.

    Looks at both ends first, where every known server writes the id: an answer of a megabyte is not
    parsed to read one number.
    """
    if b'"result"' not in raw and b'"error"' not in raw:
        return False
    written = json.dumps(call_id).encode()
    for found in (_FIRST.match(raw, 0, _ENDS), _LAST.search(raw, max(0, len(raw) - _ENDS))):
        if found is not None and found[1] == written:
            return True
    try:
        return is_answer(json.loads(raw), call_id)
    except (ValueError, RecursionError):
        return False


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


def failure(
    problem: AppError, call_id: Id | None, *, gateway: str, state: str | None, request_id: str
) -> bytes:
    """One failed call: what programs count by is in `error.data`."""
    data: dict[str, Any] = {"code": problem.code, "gateway": gateway, "state": state}
    if isinstance(problem, ConnectionNeeded):
        data |= {"state": problem.state, "reason": problem.reason}
    data["action"] = problem.action
    if "retry_after" in problem.facts:
        data["retry_after"] = problem.facts["retry_after"]
    if problem.said:
        data["said"] = problem.said
    data["request_id"] = request_id
    return error(call_id, FAILED, f"{problem.message}. {problem.action}", data)
