"""One file of providers/, read with the line of each key, so that a mistake is found at its place.

Pure: what a template is for stands in templates.py.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..specs import OAuthConfigSpec, faults
from . import refusals

NAMES = re.compile(r"\{(\w+)\}")
REDIRECT = "redirect"  # a placeholder of steps: the address to paste at the provider
_OURS = {"client_id"}  # of revocation URLs, filled in when one is called
_NOT_HERE = {  # a template is for everyone; these belong to one gateway
    *("grant_type", "client_id", "client_secret", "client_private_key", "redirect_uri"),
    *("trusts_shared_callback", "revocation_ends_all", "token_management", "template"),
    *("template_version", "tool_patterns"),
}
_SAFE = yaml.constructor.SafeConstructor()
Keys = tuple[str, ...]
Rule = tuple[str, Callable[[Any], bool]]


class BadTemplate(Exception):
    """A file that cannot be used: its name, the line, the key and what is wrong with it."""

    def __init__(self, path: Path, line: int, keys: Keys, sentence: str) -> None:
        where = f" {'.'.join(keys)}:" if keys else ""
        super().__init__(f"{path.name}, line {line}:{where} {sentence}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _one_of(*names: str) -> Rule:
    return f"one of: {', '.join(names)}", lambda value: value in names


def _some_of(*names: str) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(one in names for one in value)

    return f"a list of some of: {', '.join(names)}", fits


def _or_null(rule: Rule) -> Rule:
    return f"{rule[0]}, or null", lambda value: value is None or rule[1](value)


def _map_of(rule: Rule) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(map(rule[1], value.values()))

    return f"an object of {rule[0]}", fits


TEXT: Rule = ("text", _is_text)
TEXTS: Rule = ("a list of text", lambda v: isinstance(v, list) and all(map(_is_text, v)))
COUNT: Rule = ("a whole number", _is_count)
FLAG: Rule = ("true or false", lambda v: isinstance(v, bool))
DATE: Rule = ("a date", lambda v: type(v) is datetime.date)
OBJECT: Rule = ("an object", lambda v: isinstance(v, dict))
CODE: Rule = ("codes that a provider's word may mean", refusals.is_known)

SHAPE: Mapping[str, Rule] = {
    **{"id": TEXT, "name": TEXT, "version": COUNT, "checked": _or_null(DATE), "docs": TEXT},
    **{"hosts": TEXTS, "mcp_url": TEXT, "steps": TEXTS, "check": TEXTS, "why": _map_of(TEXT)},
    **{"vars": _map_of(OBJECT), "config": OBJECT, "api": OBJECT, "errors": OBJECT},
    **{"revoke": OBJECT, "life": OBJECT, "redirect": _one_of("shared", "own")},
    "register": _some_of("cimd", "dcr", "manual"),
    "grants": _some_of("authorization_code", "client_credentials"),
}
INSIDE: Mapping[str, Mapping[str, Rule]] = {
    "revoke": {"ends_all": FLAG, "page": TEXT},
    "life": {
        **dict.fromkeys(("access", "idle", "grace"), _or_null(COUNT)),
        "rotates": _or_null(FLAG),
    },
}
VAR: Mapping[str, Rule] = {"label": TEXT, "example": TEXT, "pattern": TEXT}
NEEDED = ("id", "name", "version", "checked", "register", "config", "steps")


def read(path: Path) -> dict[str, Any]:
    """Raises BadTemplate for the first thing that is wrong."""
    row, lines = parse(path)

    def fail(keys: Keys, sentence: str) -> BadTemplate:
        known = next((keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in lines), ())
        return BadTemplate(path, lines[known], keys, sentence)

    for keys, sentence in _faults(row, path.stem):
        raise fail(keys, sentence)
    return row


def parse(path: Path) -> tuple[dict[str, Any], dict[Keys, int]]:
    """The file's object, and the line of each key. Raises BadTemplate."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadTemplate(path, line, (), f"This is no YAML: {error.problem}.") from error
    lines: dict[Keys, int] = {(): 1}
    if not isinstance(root, yaml.MappingNode):
        raise BadTemplate(path, 1, (), "The file must hold one object.")
    row: dict[str, Any] = _plain(path, root, (), lines)
    return row, lines


def _plain(path: Path, node: yaml.Node, keys: Keys, lines: dict[Keys, int]) -> Any:
    if isinstance(node, yaml.SequenceNode):
        listed = [((*keys, str(place)), one) for place, one in enumerate(node.value)]
        lines |= {place: one.start_mark.line + 1 for place, one in listed}
        return [_plain(path, one, place, lines) for place, one in listed]
    if not isinstance(node, yaml.MappingNode):
        return _SAFE.construct_object(node)
    found: dict[str, Any] = {}
    for name_node, value in node.value:
        name, line = str(name_node.value), name_node.start_mark.line + 1
        if name in found:  # YAML would take the last
            raise BadTemplate(path, line, (*keys, name), "This stands twice.")
        lines[(*keys, name)] = line
        found[name] = _plain(path, value, (*keys, name), lines)
    return found


Found = Iterator[tuple[Keys, str]]


def _faults(row: Mapping[str, Any], stem: str) -> Found:
    """What is wrong, in the order in which it makes sense to look."""
    yield from _misshapen((), row, SHAPE)
    for name in NEEDED:
        if name not in row:
            yield (name,), "This is required."
    if row["id"] != stem:
        yield ("id",), f"This must be the name of the file, {stem}."
    for name, shape in INSIDE.items():
        yield from _misshapen((name,), row.get(name, {}), shape)
    yield from _bad_vars(row)
    for word, code in row.get("errors", {}).items():
        if not refusals.is_known(code):
            yield ("errors", word), f"{code} is no code that a provider's word may mean."
    for name in ("config", "api"):
        yield from _bad_config(row, name)
    yield from _bad_names(row)


def _misshapen(keys: Keys, row: Mapping[str, Any], shape: Mapping[str, Rule]) -> Found:
    for name, value in row.items():
        if name not in shape:
            yield (*keys, name), "There is no such key."
        elif not shape[name][1](value):
            yield (*keys, name), f"This must be {shape[name][0]}."


def _bad_vars(row: Mapping[str, Any]) -> Found:
    for name, var in row.get("vars", {}).items():
        yield from _misshapen(("vars", name), var, VAR)
        for needed in ("label", "example"):
            if needed not in var:
                yield ("vars", name, needed), "This is required."
        try:
            fits = re.fullmatch(var.get("pattern", ".+"), var["example"])
        except re.error:
            yield ("vars", name, "pattern"), "This is no regular expression."
        else:
            if not fits:
                yield ("vars", name, "example"), "This does not fit the pattern."


def _bad_config(row: Mapping[str, Any], name: str) -> Found:
    """What the rule of a config says of it, filled with the examples."""
    chosen = row.get(name, {})
    for key in chosen:
        if key in _NOT_HERE:
            yield (name, key), "This belongs to one gateway, not to a template."
    if "errors" in (chosen.get("reply") or {}):
        yield (name, "reply", "errors"), "Write this under errors, beside config."
    examples = {one: var["example"] for one, var in row.get("vars", {}).items()}
    for grant in row.get("grants", ["authorization_code"]):
        whole = {"grant_type": grant, **filled(chosen, examples)}
        for path, sentence in faults(OAuthConfigSpec, whole).items():
            yield (name, *path.split(".")), sentence


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """`{x}` replaced wherever it stands; a name that is not in `values` stays as it is."""
    if isinstance(value, str):
        return NAMES.sub(lambda found: values.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {name: filled(one, values) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, values) for one in value]
    return value


def _bad_names(row: Mapping[str, Any]) -> Found:
    """A placeholder that nothing fills, a variable that fills nothing, a reason for no field."""
    known, used = {*row.get("vars", {})}, set[str]()
    for name in ("config", "api", "mcp_url"):
        for keys, found in _named(row.get(name), (name,)):
            used.add(found)
            if found not in known | _OURS:
                yield keys, f"Nothing fills {{{found}}}."
    for keys, found in _named(row["steps"], ("steps",)):
        if found != REDIRECT:
            yield keys, f"Nothing fills {{{found}}}."
    yield from ((("vars", name), "Nothing uses this.") for name in sorted(known - used))
    reasons = {*row.get("why", {})} - {*OAuthConfigSpec.model_fields, "life", "token_type"}
    yield from ((("why", name), "There is no such field to give a reason for.") for name in reasons)


def _named(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        for found in NAMES.findall(value):
            yield keys, found
    for name, one in value.items() if isinstance(value, dict) else ():
        yield from _named(one, (*keys, name))
    for place, one in enumerate(value if isinstance(value, list) else ()):
        yield from _named(one, (*keys, str(place)))
