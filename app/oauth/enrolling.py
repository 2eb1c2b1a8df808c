"""Dynamic client registration (RFC 7591) and its end (RFC 7592). Knows no rows.

All goes to the `registration_endpoint` of metadata that was checked, and to the place for changes
that its answer names, on the same origin. What is answered may hold secrets: nothing of
it is kept to show.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .. import strict_json
from ..edits import origin
from ..errors import UpstreamError
from ..trust import Trust
from .fetching import BUSY, Answer, Fetching, host
from .places import Refused, check_place
from .refusals import plain, said, words

SECONDS = 15.0  # for all requests of one registration
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_METHODS = {"client_secret_basic": "basic", "client_secret_post": "post", "none": "none"}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LONGEST = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What we ask to be registered as."""

    name: str
    home: str  # our public address
    redirect_uri: str
    scopes: Sequence[str]
    methods: Sequence[str] | None  # that the provider lists; None: it lists nothing

    def body(self) -> dict[str, Any]:
        """Oauth.md 2.4, 3."""
        is_native = urlsplit(self.home).hostname in _LOOPBACK
        made: dict[str, Any] = {
            "client_name": self.name,
            "client_uri": self.home,
            "redirect_uris": [self.redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": self.method,
            "application_type": "native" if is_native else "web",
        }
        return made | ({"scope": " ".join(self.scopes)} if self.scopes else {})

    @property
    def method(self) -> str:
        """With a secret where the provider offers one: it is more than knowing our name.

        In the body first: the MCP Python SDK's server, and so FastMCP's, refuses the header alone.
        """
        listed = ("client_secret_basic",) if self.methods is None else self.methods
        known = ("client_secret_post", "client_secret_basic", "none")
        return next((one for one in known if one in listed), "client_secret_basic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A client as the provider made it, not as we asked for it."""

    client_id: str
    client_secret: str | None = field(repr=False)
    auth_method: str
    scopes: tuple[str, ...] | None
    secret_expires_s: int | None  # since 1970, by the provider's clock; None: never
    registration_uri: str | None
    registration_token: str | None = field(repr=False)


def enrol(endpoint: str, wish: Wish, *, trust: Trust | None = None) -> Granted:
    """A new client. Asked once more, with one change, if the error names what to change.

    Raises UpstreamError: registration_refused with the provider's words, registration_unusable,
    and what egress raises. Call it with no transaction open.
    """
    check_place(endpoint)
    fetching, body = Fetching(trust, SECONDS), wish.body()
    answer = _send(fetching, "POST", endpoint, body)
    if answer.status not in (200, 201) and _changed(body, answer):
        answer = _send(fetching, "POST", endpoint, body)
    return _granted(answer, wish)


def alter(  # noqa: PLR0913  # all that the provider knows the client by
    uri: str, token: str, client_id: str, wish: Wish, *, secret: str | None, trust: Trust | None
) -> Granted:
    """The same client with other scopes (RFC 7592 section 2.2). Raises as `enrol`."""
    check_place(uri)
    body = wish.body() | {"client_id": client_id} | ({"client_secret": secret} if secret else {})
    answer = _send(Fetching(trust, SECONDS), "PUT", uri, body, token)
    return _granted(answer, wish, kept=(client_id, secret, uri, token))


def withdraw(uri: str, token: str, *, trust: Trust | None = None) -> bool:
    """Whether the client is gone at the provider (RFC 7592 section 2.3). Raises UpstreamError."""
    check_place(uri)
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    answer = Fetching(trust, SECONDS).ask("DELETE", uri, None, headers)
    return answer.status in (200, 204, 401, 404, 410)  # 401: the token went with the client


def _send(
    fetching: Fetching, method: str, url: str, body: dict[str, Any], token: str | None = None
) -> Answer:
    headers = _JSON | ({"Authorization": f"Bearer {token}"} if token else {})
    return fetching.ask(method, url, json.dumps(body).encode(), headers)


def _changed(body: dict[str, Any], answer: Answer) -> bool:
    """Whether the refusal names something to change; `body` is changed then, in that alone."""
    word = (words(_members(answer) or {}) or ("", ""))[0]
    if word == "invalid_redirect_uri":
        body["application_type"] = "web" if body["application_type"] == "native" else "native"
        return True
    return word == "invalid_client_metadata" and body.pop("scope", None) is not None


def _members(answer: Answer) -> dict[str, Any] | None:
    """The object that an answer is; None: it is none."""
    try:
        found = strict_json.loads(answer.body) if answer.is_whole else None
    except strict_json.BadJSON:
        return None
    return found if isinstance(found, dict) else None


def _granted(
    answer: Answer, wish: Wish, *, kept: tuple[str, str | None, str, str] | None = None
) -> Granted:
    """`kept`: id, secret, place and token of a client that is there; what is not said stays."""
    members = _members(answer)
    if answer.status not in (200, 201):
        raise _refused(answer, members)
    if members is None:
        raise _unusable(answer, "It is no JSON object.")
    old_id, old_secret, old_uri, old_token = kept or (None, None, None, None)
    client_id = _text(answer, members, "client_id") or old_id
    if not client_id:
        raise _unusable(answer, "It holds no client_id.")
    uris = members.get("redirect_uris", [wish.redirect_uri])
    if not isinstance(uris, list) or wish.redirect_uri not in uris:
        raise _unusable(answer, "It left out our redirect URI.")
    secret = _text(answer, members, "client_secret") or old_secret
    named = _text(answer, members, "token_endpoint_auth_method")
    method = _method(answer, named, secret, wish)
    scope = _text(answer, members, "scope")
    uri, token = _management(answer, members)
    return Granted(
        client_id=client_id,
        client_secret=None if method == "none" else secret,
        auth_method=method,
        scopes=None if scope is None else tuple(scope.split()),
        secret_expires_s=_end(answer, members) if secret else None,
        registration_uri=uri or old_uri,
        registration_token=token or old_token,
    )


def _method(answer: Answer, named: str | None, secret: str | None, wish: Wish) -> str:
    """As granted; else as the metadata says, which some follow closer than their own answer."""
    if named is None:
        only_none = wish.methods is not None and set(wish.methods) == {"none"}
        named = "none" if secret is None or only_none else wish.method
    if named not in _METHODS:
        raise _unusable(answer, f"We cannot sign in to it by {plain(named, 60)}.")
    if named != "none" and secret is None:
        raise _unusable(answer, f"It wants {named}, and gave no secret.")
    return _METHODS[named]


def _management(answer: Answer, members: dict[str, Any]) -> tuple[str | None, str | None]:
    """Where it can be changed and removed, on the origin we asked: a token goes nowhere else."""
    uri = _text(answer, members, "registration_client_uri")
    token = _text(answer, members, "registration_access_token")
    if not uri or not token:
        return None, None
    try:
        check_place(uri)
        is_same = origin(uri) == origin(answer.url)
    except (Refused, ValueError):
        is_same = False
    return (uri, token) if is_same else (None, None)


def _end(answer: Answer, members: dict[str, Any]) -> int | None:
    """0 means never (RFC 7591 section 3.2.1)."""
    said_ = members.get("client_secret_expires_at", 0)
    if isinstance(said_, bool) or not isinstance(said_, int | float) or not 0 <= said_ < 1e11:
        raise _unusable(answer, "Its client_secret_expires_at is no time.")
    return int(said_) or None


def _text(answer: Answer, members: dict[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is None:
        return None
    is_long = name == "scope"
    fits = isinstance(value, str) and len(value) <= (8 * _LONGEST if is_long else _LONGEST)
    if not fits or not value.isprintable():
        raise _unusable(answer, f"Its {name} is not text we can use.")
    return str(value)


def _refused(answer: Answer, members: dict[str, Any] | None) -> UpstreamError:
    where = host(answer.url)
    if answer.status >= 500 or answer.status in BUSY:
        return UpstreamError("provider_error", host=where)
    told = words(members or {})
    quoted = said(*told) if told else None
    hint = f"It answered {answer.status}."
    return UpstreamError("registration_refused", said=quoted, host=where, hint=hint)


def _unusable(answer: Answer, hint: str) -> UpstreamError:
    return UpstreamError("registration_unusable", host=host(answer.url), hint=hint)
