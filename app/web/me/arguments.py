"""What a tool's JSON schema asks for, in kinds a form can show, and how to read what was typed.

Schemas come from other people's servers: nothing in them is trusted, their patterns are not run,
and what is not known here is typed as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from ... import strict_json

Schema = Mapping[str, Any]
Kind = Literal["text", "long", "whole", "number", "tick", "choice", "lines", "json"]

MOST_FIELDS = 60  # a schema with more arguments is typed as JSON
ABOUT_LIMIT = 400  # characters of a server's description
_LONG_TEXT = 200  # characters; a text that may have more gets a large box
_LARGE = {"body", "content", "text", "message", "comment", "markdown", "html", "code", "sql"}
_OPTIONS = ("anyOf", "oneOf", "allOf")
_SCALARS = ("string", "integer", "number")


@dataclass(frozen=True, slots=True)
class Argument:
    name: str  # "" is all arguments at once
    kind: Kind
    schema: Schema  # without references, and without the null of an optional value
    is_required: bool = False
    choices: Mapping[str, tuple[str, Any]] = field(default_factory=dict)  # key -> label, value

    def read(self, typed: str) -> Any:
        """The value to send. Raises ValueError: what is wrong, to follow the name."""
        if self.kind == "choice":
            if typed not in self.choices:
                raise ValueError("must be one of the choices.")
            return self.choices[typed][1]
        value = _READERS[self.kind](typed, self.schema)
        if not self.name and not isinstance(value, dict):
            raise ValueError("must be a JSON object, such as {}.")
        return value

    def show(self, value: Any) -> str:
        """The text of a value, as a person would have typed it."""
        if self.kind == "lines" and isinstance(value, list):
            return "\n".join(str(one) for one in value)
        if self.kind in ("text", "long") and isinstance(value, str):
            return value
        return json.dumps(value, indent=2 if self.kind == "json" else None, ensure_ascii=False)

    @property
    def default(self) -> Any:
        return self.schema.get("default")

    @property
    def schema_text(self) -> str:
        return json.dumps(self.schema, indent=2, ensure_ascii=False)

    @property
    def about(self) -> str:
        """The server's description, and what may be typed."""
        said = str(self.schema.get("description") or "")[:ABOUT_LIMIT].strip()
        parts = [part for part in (said, _may_be(self)) if part]
        return " ".join(part if part[-1] in ".!?" else f"{part}." for part in parts)


def arguments(schema: Schema) -> list[Argument]:
    """One for each property, or a single one that takes them all as JSON."""
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    if len(properties) > MOST_FIELDS or not (properties or _takes_nothing(schema)):
        return [Argument("", "json", schema)]
    needed = schema.get("required")
    required = set(map(str, needed)) if isinstance(needed, list) else set()
    return [_argument(name, said, schema, required) for name, said in properties.items()]


def _takes_nothing(schema: Schema) -> bool:
    return "properties" in schema or schema.get("additionalProperties") is False


def _argument(name: str, said: Any, root: Schema, required: set[str]) -> Argument:
    schema = _plain(said, root)
    choices = _choices(schema)
    kind = "choice" if choices else _kind(name, schema)
    return Argument(name, kind, schema, name in required, choices)


def _kind(name: str, schema: Schema) -> Kind:
    kind, items = schema.get("type"), schema.get("items")
    if kind == "string":
        limit = schema.get("maxLength")
        is_long = limit > _LONG_TEXT if isinstance(limit, int) else name.lower() in _LARGE
        return "long" if is_long else "text"
    if kind == "array" and isinstance(items, dict) and items.get("type") in _SCALARS:
        return "lines"
    simple: dict[Any, Kind] = {"integer": "whole", "number": "number", "boolean": "tick"}
    return simple.get(kind if isinstance(kind, str) else None, "json")


def _plain(schema: Any, root: Schema) -> dict[str, Any]:
    """The schema with its references followed, and an optional value's null left out."""
    found = dict(schema) if isinstance(schema, dict) else {}
    for _ in range(5):  # what refers further is typed as JSON
        target = _target(found.get("$ref"), root)
        rest = {key: said for key, said in found.items() if key not in ("$ref", *_OPTIONS)}
        options = [one for one in _options(found) if one != {"type": "null"}]
        if target is not None:
            found = {**target, **rest}
        elif len(options) == 1 and isinstance(options[0], dict):
            found = {**options[0], **rest}
        else:
            break
    kinds = found.get("type")
    if isinstance(kinds, list):
        kinds = [kind for kind in kinds if kind != "null"]
        found["type"] = kinds[0] if len(kinds) == 1 else None
    return found


def _options(schema: Schema) -> list[Any]:
    lists = (schema.get(name) for name in _OPTIONS)
    return next((list(one) for one in lists if isinstance(one, list)), [])


def _target(ref: Any, root: Schema) -> dict[str, Any] | None:
    """What a local reference names; None for any other."""
    if not isinstance(ref, str) or not ref.startswith("#/"):
        return None
    place: Any = root
    for part in ref[2:].split("/"):
        place = place.get(part) if isinstance(place, dict) else None
    return place if isinstance(place, dict) else None


def _choices(schema: Schema) -> dict[str, tuple[str, Any]]:
    """Empty if it is no list of plain values."""
    given = schema.get("enum")
    if isinstance(given, list):
        pairs = [(None, value) for value in given]
    else:
        options = _options(schema)
        if not all(isinstance(one, dict) and "const" in one for one in options):
            return {}
        pairs = [(one.get("title"), one["const"]) for one in options]
    if any(isinstance(value, dict | list) for _, value in pairs):
        return {}
    values = [(title, value) for title, value in pairs if value is not None]
    return {json.dumps(value): (str(title or _label(value)), value) for title, value in values}


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(typed: str, schema: Schema) -> str:
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(most, int) and len(typed) > most:
        raise ValueError(f"can have at most {most} characters.")
    if isinstance(least, int) and len(typed) < least:
        raise ValueError(f"needs at least {least} characters.")
    return typed


def _whole(typed: str, schema: Schema) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,30}", typed.strip()):
        raise ValueError("must be a whole number.")
    return int(_within(int(typed), schema))


def _number(typed: str, schema: Schema) -> int | float:
    try:
        value = Decimal(typed.strip())
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or abs(value.adjusted()) > 300:
        raise ValueError("must be a number.")
    is_whole = value == value.to_integral_value() and abs(value) < 2**53
    return _within(int(value) if is_whole else float(value), schema)


def _within(value: int | float, schema: Schema) -> int | float:
    least, most = schema.get("minimum"), schema.get("maximum")
    if isinstance(least, int | float) and value < least:
        raise ValueError(f"must be at least {least}.")
    if isinstance(most, int | float) and value > most:
        raise ValueError(f"must be at most {most}.")
    return value


def _lines(typed: str, schema: Schema) -> list[Any]:
    items = schema["items"]
    read = {"string": _text, "integer": _whole, "number": _number}[items["type"]]
    return [read(line.strip(), items) for line in typed.split("\n") if line.strip()]


def _json(typed: str, _schema: Schema) -> Any:
    try:
        return strict_json.loads(typed.encode())
    except strict_json.BadJSON as error:
        raise ValueError(f"cannot be read. {error}") from error


_READERS: dict[str, Callable[[str, Schema], Any]] = {
    "text": _text,
    "long": _text,
    "whole": _whole,
    "number": _number,
    "lines": _lines,
    "json": _json,
}


def _may_be(argument: Argument) -> str:
    schema = argument.schema
    words = {"whole": "A whole number", "number": "A number", "lines": "One per line"}
    if not argument.name:
        return "All arguments as one JSON object"
    if argument.kind == "json":
        return "As JSON"
    found = words.get(argument.kind, "")
    if argument.kind in ("whole", "number"):
        least, most = schema.get("minimum"), schema.get("maximum")
        if least is not None and most is not None:
            return f"{found} from {least} to {most}"
        limits = [("at least", least), ("at most", most)]
        found += "".join(f", {word} {limit}" for word, limit in limits if limit is not None)
    return found
