"""A token endpoint's answer: a TokenSet, or the error it means (oauth.md section 5). Pure.

Size, redirect, JSON or form, error members, status, token: in this order, and nothing is guessed.
What was not said stays unknown, and what a provider does differently is data (`Dialect`).
"""

from __future__ import annotations

import base64
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from .. import strict_json
from ..errors import ProviderError
from . import refusals
from .refusals import Answer, Members, Request, plain

log = logging.getLogger(__name__)

BODY_LIMIT = 262_144  # bytes, decoded
TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")  # as a header can carry it (RFC 6750 section 2.1)
YEAR = 31_536_000  # seconds; who promises more says nothing we could plan with


@dataclass(frozen=True, slots=True)
class TokenSet:
    """What a token endpoint gave us. Its repr shows no secret."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in: float | None = None  # seconds from before the request was sent; None: unknown
    refresh_expires_in: float | None = None
    scopes: tuple[str, ...] | None = None  # None: not said, so as asked (RFC 6749 section 5.1)
    account_label: str | None = None  # for display only
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one provider's replies differ from the RFC. The defaults: not at all."""

    token_path: str = ""  # where members are that the top level lacks
    form: bool = False  # text/plain may be a form, too
    ok_field: str = ""  # false there is an error
    bearer_aliases: tuple[str, ...] = ()  # token types that go as Bearer
    scope_separator: str = " "
    errors: Mapping[str, str] = field(default_factory=dict)  # their word -> our code
    account_paths: tuple[str, ...] = ()
    life_default: float | None = None  # seconds, if neither reply nor token says
    life_always: float | None = None  # seconds, whatever they say
    life_in_ms: bool = False


def read(answer: Answer, dialect: Dialect, *, request: Request, now: float) -> TokenSet:
    """Raises ProviderError, and nothing else, for any answer.

    `now`: this node's clock before it asked, in seconds; only for what names a date.
    """
    if 300 <= answer.status < 400:
        raise refusals.redirected(answer)
    members = _members(answer, dialect)
    refusals.refuse(answer, members or {}, dialect.errors, request=request, now=now)
    if members is None or answer.status != 200 or _is_not_ok(members, dialect):
        raise _unreadable(answer, members)
    members = _with_inner(members, dialect.token_path)
    token, warnings = _token(answer, members), _check_type(answer, members, dialect)
    renewal = None if request == "client_credentials" else _renewal(members)
    life, doubts = _life(members, dialect, _claims(token), now)
    if life == 0 and renewal is None and request != "refresh":
        life = None  # good for the call in hand, and nothing could renew it
    sources = (members, _claims(members.get("id_token")))
    return TokenSet(
        access_token=token,
        refresh_token=renewal,
        expires_in=life,
        refresh_expires_in=_renewal_life(members),
        scopes=_scopes(members.get("scope"), dialect.scope_separator),
        account_label=account_label(dialect.account_paths, *sources),
        warnings=warnings + doubts,
    )


def object_in(body: bytes) -> Members | None:
    """The one JSON object that a body is; a byte order mark is let pass."""
    try:
        value = strict_json.loads(body.removeprefix(b"\xef\xbb\xbf"), endless=True)
    except strict_json.BadJSON:
        return None
    return value if isinstance(value, dict) else None


def account_label(paths: tuple[str, ...], *sources: Members) -> str | None:
    """The first name found, for display; nothing is decided by it (SEC-030)."""
    for path in paths:
        for source in sources:
            name = _pick(source, path)
            if isinstance(name, str | int) and not isinstance(name, bool) and plain(name, 200):
                return plain(name, 200)
    return None


def _members(answer: Answer, dialect: Dialect) -> Members | None:
    """JSON, whatever the content type says; a form only if it is called one."""
    if len(answer.body) > BODY_LIMIT:
        return None
    found = object_in(answer.body)
    is_form = answer.media_type == "application/x-www-form-urlencoded"
    if found is not None or not (is_form or (dialect.form and answer.media_type == "text/plain")):
        return found
    try:
        pairs = parse_qsl(answer.body.decode(), keep_blank_values=True, max_num_fields=100)
    except ValueError:  # not UTF-8, or too many
        return None
    form = dict(pairs)
    return form if form and len(form) == len(pairs) else None


def _is_not_ok(members: Members, dialect: Dialect) -> bool:
    return bool(dialect.ok_field) and members.get(dialect.ok_field) in (False, "false")


def _with_inner(members: Members, path: str) -> Members:
    inner = _pick(members, path) if path else None
    if not isinstance(inner, dict):
        return members
    return inner | {name: value for name, value in members.items() if value is not None}


def _pick(members: Members, path: str) -> object:
    value: object = members
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _unreadable(answer: Answer, members: Members | None, hint: str = "") -> ProviderError:
    """Of a 2xx, so the provider may have acted. The log gets names, never the body."""
    names = [plain(name, 50) for name in list(members or {})[:20]]
    about = {"content_type": plain(answer.media_type, 100), "bytes": len(answer.body)}
    log.warning(
        "token reply unreadable", extra={"facts": {"host": answer.host, "members": names} | about}
    )
    if answer.media_type == "text/html":
        hint = "It is a web page, so this may be the authorization URL."
    return ProviderError("reply_unreadable", kind="unknown", host=answer.host, hint=hint)


def _token(answer: Answer, members: Members) -> str:
    token = members.get("access_token")
    if not isinstance(token, str) or not token:
        place = next(_places(members), "")
        hint = f"It looks like {plain(place, 100)}." if place else ""
        raise ProviderError("reply_no_token", kind="unknown", host=answer.host, hint=hint)
    if not TOKEN.fullmatch(token):
        raise _unreadable(answer, members, "The token has characters no header can carry.")
    return token


def _places(members: Members, prefix: str = "", depth: int = 3) -> Iterator[str]:
    """Where else a token stands."""
    for name, value in members.items():
        if isinstance(value, dict) and depth:
            yield from _places(value, f"{prefix}{name}.", depth - 1)
        elif name == "access_token" and isinstance(value, str) and value:
            yield prefix + name


def _check_type(answer: Answer, members: Members, dialect: Dialect) -> tuple[str, ...]:
    kind = members.get("token_type")
    if kind in (None, ""):
        return ("token_type_missing",)
    if isinstance(kind, str) and (kind.lower() == "bearer" or kind in dialect.bearer_aliases):
        return ()
    raise ProviderError("token_type_unsupported", kind="unknown", host=answer.host)


def _renewal(members: Members) -> str | None:
    token = members.get("refresh_token")
    return token if isinstance(token, str) and TOKEN.fullmatch(token) else None


# -- how long, and for what ----------------------------------------------------------------------


def _life(
    members: Members, dialect: Dialect, claims: Members, now: float
) -> tuple[float | None, tuple[str, ...]]:
    """Seconds, 0 for "only just now", None for unknown; and what looked odd."""
    if dialect.life_always is not None:
        return dialect.life_always, ()
    given = members.get("expires_in")
    if given is None:
        ends = _number(claims.get("exp"))
        said = None if ends is None or not 0 < ends - now <= YEAR else ends - now
        return said or dialect.life_default, ()
    seconds = _number(given)
    if seconds is None:
        return None, ("expires_in_unreadable",)
    seconds = math.floor(seconds / 1000 if dialect.life_in_ms else seconds)
    return (float(max(seconds, 0)) if seconds <= YEAR else None), ()


def _number(value: object) -> float | None:
    """A number, or digits in a text. What a float cannot hold becomes infinity."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 10**15 else 1e15


def _renewal_life(members: Members) -> float | None:
    for name in ("refresh_token_expires_in", "refresh_expires_in"):
        seconds = _number(members.get(name))
        if seconds is not None and 0 < seconds < 1e15:
            return float(math.floor(seconds))
    return None


def _scopes(value: object, separator: str) -> tuple[str, ...] | None:
    """Compared as sets, so order does not matter. Some join by comma and do not say so."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if not isinstance(value, str):
        return None
    parts = value.split(separator) if separator != " " else re.split(r"[,\s]+", value)
    return tuple(part.strip() for part in parts if part.strip())


def _claims(token: object) -> Members:
    """What a JWT says about itself, unverified; empty for anything else."""
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3:
        return {}
    try:
        return object_in(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))) or {}
    except ValueError:
        return {}


__all__ = ["Answer", "Dialect", "Request", "TokenSet", "account_label", "object_in", "read"]
