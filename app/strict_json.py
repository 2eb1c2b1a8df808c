"""The one JSON reader for what comes from outside (SEC-050).

RFC 8259 leaves open what two readers may then understand differently: names that stand twice, lone
surrogates, numbers without end. All of these are refused, and nesting is measured before parsing.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

DEPTH = 64
# Every quote starts a match that goes to the end of its string, or of the text: time is linear.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_OPENING = b"[{"
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class BadJSON(ValueError):
    """Its text is a sentence for whoever sent it, and quotes no value."""


def loads(data: bytes, *, endless: bool = False) -> Any:
    """The value of a JSON text in UTF-8. Raises BadJSON, and nothing else, for any bytes.

    With `endless`, a number beyond what a float holds is infinity instead of a refusal.
    """
    _measure(data)
    number = float if endless else _finite
    try:
        text = data.decode()
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=number
        )
    except UnicodeDecodeError as error:
        raise BadJSON("The JSON text must be in UTF-8.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadJSON(f"This is not JSON: look at {where}.") from error
    except BadJSON:
        raise
    except ValueError as error:  # int() of more digits than Python takes: 4,300
        raise BadJSON("A number has too many digits.") from error
    if _SURROGATE.search(text):
        _has_whole_characters(value)
    return value


def _measure(data: bytes) -> None:
    """Refuse what nests too deeply. Each round takes the innermost level away, in C."""
    if sum(data.count(one) for one in _OPENING) <= DEPTH:
        return
    left = _STRING.sub(b"", data).translate(_BRACKETS, _OTHERS)
    for _ in range(DEPTH):
        left = left.replace(b"[]", b"")
    if b"[]" in left or left.count(b"[") > DEPTH:  # other leftovers are for the parser to name
        raise BadJSON(f"The JSON text is nested deeper than {DEPTH} levels.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise BadJSON(f"The name {ascii(twice[:50])} stands twice in one object.")
    return read


def _constant(name: str) -> NoReturn:
    raise BadJSON(f"{name} is not a JSON number.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadJSON("A number is too large.")
    return number


def _has_whole_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadJSON("A text holds half a character: a lone surrogate.") from error
