"""What a server says in WWW-Authenticate (RFC 9110 section 11.6.1, RFC 6750 3, RFC 9728 5.1). Pure.

Several fields, several challenges in one field, names in any case, values bare or quoted. What
cannot be read is passed over up to the next comma, and the rest still counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .refusals import plain

FIELDS, LENGTH = 20, 8_000  # fields, and characters of each, that are looked at
_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_SPACE = re.compile(r"[ \t,]*")
_SCHEME = re.compile(rf"({_NAME})(?=[ \t,]|$)")
_PARAM = re.compile(rf"[ \t]*({_NAME})[ \t]*=[ \t]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_BARE = re.compile(r"[^\s,\"]+(?=[ \t,]|$)")  # more than a token: some leave out quotes of a URL
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")  # RFC 6749 section 3.3


@dataclass(frozen=True, slots=True)
class Challenge:
    """A Bearer challenge. None: not said."""

    resource_metadata: str | None = None
    scope: str | None = None
    error: str | None = None
    error_description: str | None = None  # theirs, one line; escape it

    @property
    def scopes(self) -> tuple[str, ...]:
        """Those that can be asked for, each once."""
        found = (self.scope or "").split(" ")
        return tuple(dict.fromkeys(one for one in found if _SCOPE.fullmatch(one)))[:200]


def parse(fields: Sequence[str]) -> Challenge | None:
    """The first Bearer challenge, preferably one that names resource metadata. None: there is none.

    `fields`: the values of WWW-Authenticate, as they came. Raises nothing, for any text.
    """
    bearers = [
        _challenge(said)
        for field in fields[:FIELDS]
        for scheme, said in challenges(field[:LENGTH])
        if scheme == "bearer"
    ]
    named = [one for one in bearers if one.resource_metadata is not None]
    return next(iter(named or bearers), None)


def challenges(field: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Scheme and parameters of each challenge in one field, both in small letters.

    A parameter that stands twice with two values says nothing.
    """
    at, scheme, said = 0, "", list[tuple[str, str]]()
    while (at := _after(_SPACE, field, at)) < len(field):
        param = _param(field, at) if scheme else None
        if param is not None:
            name, value, at = param
            said.append((name, value))
            continue
        found = _SCHEME.match(field, at)
        if found is None:
            at = _past(field, at)
            continue
        if scheme:
            yield scheme, _once(said)
        scheme, said, at = found[1].lower(), [], found.end()
        if _param(field, at) is None:
            at = _after(_TOKEN68, field, at)
    if scheme:
        yield scheme, _once(said)


def _param(field: str, at: int) -> tuple[str, str, int] | None:
    """Name, value, and where it ends."""
    named = _PARAM.match(field, at)
    if named is None:
        return None
    quoted = _QUOTED.match(field, named.end())
    if quoted is not None:
        return named[1].lower(), re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), quoted.end()
    bare = _BARE.match(field, named.end())
    if bare is None or not bare[0].strip("="):  # "abc==" is a token68
        return None
    return named[1].lower(), bare[0], bare.end()


def _after(pattern: re.Pattern[str], field: str, at: int) -> int:
    found = pattern.match(field, at)
    return at if found is None else found.end()


def _past(field: str, at: int) -> int:
    """Where the junk that begins here ends: at a comma, but not at one in quotes."""
    quoted = _QUOTED.match(field, at)
    if quoted is not None:
        return quoted.end()
    ends = [end for end in (field.find(",", at + 1), field.find('"', at + 1)) if end > 0]
    return min(ends, default=len(field))


def _once(said: Sequence[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, set[str]] = {}
    for name, value in said:
        values.setdefault(name, set()).add(value)
    return {name: one.pop() for name, one in values.items() if len(one) == 1}


def _challenge(said: Mapping[str, str]) -> Challenge:
    described = said.get("error_description")
    return Challenge(
        resource_metadata=said.get("resource_metadata"),
        scope=said.get("scope"),
        error=said.get("error"),
        error_description=None if described is None else plain(described, 300),
    )
