"""How one token is ended at its provider: what is sent, and what the answer means. Pure.

RFC 7009, and what providers do instead of it. A style is a row of STYLES.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from . import refusals, replies
from .refusals import Answer

Hint = Literal["refresh_token", "access_token"]
Outcome = Literal[
    "ended",  # by us, just now
    "gone",  # was dead already
    "unsupported",  # there is no way to end this kind of token
    "later",  # not now, perhaps soon
    "refused",  # and it would be again
]


@dataclass(frozen=True, slots=True)
class Order:
    """One request. `as_client`: with the client's authentication, as for a token request."""

    method: str = "POST"
    as_client: bool = False
    form: Mapping[str, str] | None = field(default=None, repr=False)
    json: Mapping[str, str] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    code: str | None = None  # why not
    retry_after: int | None = None  # seconds, as the provider says


def order(style: str, token: str, hint: Hint) -> Order | None:
    """None: this kind of token cannot be ended here by itself."""
    make = STYLES.get(style)
    return make(token, hint) if make is not None else None


def address(url: str, client_id: str) -> str:
    """Some name the client in the path."""
    return url.replace("{client_id}", quote(client_id, safe=""))


def verdict(answer: Answer, style: str) -> Verdict:
    """RFC 7009 section 2.2; 400 with `invalid_token` is for who has read RFC 6750."""
    members = replies.object_in(answer.body) or {}
    word = (refusals.words(members) or ("", ""))[0]
    if 200 <= answer.status < 300:
        if style == "slack" and members.get("ok") is not True:
            return _slack_says_no(answer, word)
        return Verdict("ended")
    if answer.status in (408, 425, 429) or answer.status >= 500:
        code = "provider_busy" if answer.status == 429 else "provider_error"
        wait = refusals.retry_after(answer.headers, now=time.time())
        return Verdict("later", code, wait)
    if word == "unsupported_token_type":
        return Verdict("unsupported", word)
    if word == "invalid_token" or answer.status in _GONE.get(style, ()):
        return Verdict("gone")
    is_client = word == "invalid_client" or answer.status == 401
    return Verdict("refused", "client_rejected" if is_client else "token_request_rejected")


_GONE = {  # what these answer for a token that is dead already
    "github": (404, 422),
    "slack": (401,),
    "dropbox": (401,),
}


def _slack_says_no(answer: Answer, word: str) -> Verdict:
    if word in ("token_revoked", "token_expired", "invalid_auth", "account_inactive"):
        return Verdict("gone")
    if word == "ratelimited":
        return Verdict(
            "later", "provider_busy", refusals.retry_after(answer.headers, now=time.time())
        )
    return Verdict("refused", "token_request_rejected")


def _rfc7009(token: str, hint: Hint) -> Order:
    return Order(as_client=True, form={"token": token, "token_type_hint": hint})


def _github(token: str, hint: Hint) -> Order | None:
    """Delete an app token: https://docs.github.com/en/rest/apps/oauth-applications."""
    if hint == "refresh_token":
        return None
    headers = {"Accept": "application/vnd.github+json"}
    return Order("DELETE", as_client=True, json={"access_token": token}, headers=headers)


def _bearer_call(token: str, hint: Hint) -> Order | None:
    """Slack's auth.revoke, Dropbox's token/revoke: the token ends itself."""
    if hint == "refresh_token":
        return None
    return Order(headers={"Authorization": f"Bearer {token}"})


def _notion(token: str, hint: Hint) -> Order:
    del hint  # it is not asked for
    return Order(as_client=True, json={"token": token})


STYLES: Mapping[str, Callable[[str, Hint], Order | None]] = {
    "rfc7009": _rfc7009,
    "github": _github,
    "slack": _bearer_call,
    "dropbox": _bearer_call,
    "notion": _notion,
}


def together(refresh: Verdict | None, access: Verdict | None) -> Outcome:
    """What the whole grant came to. None: there was no such token, or its turn is over.

    The refresh token is the grant (RFC 7009 section 2.1). Where it cannot be ended by itself, one
    ended access token ends all of it, as these providers say.
    """
    first = None if refresh is None else refresh.outcome
    second = None if access is None else access.outcome
    if "later" in (first, second):
        return "later"
    if first is not None and (first in ("ended", "refused") or second in (None, "gone")):
        return first
    return second or "gone"
