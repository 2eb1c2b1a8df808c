"""What a provider's no means: our code, and whether it acted (oauth.md sections 5 and 6.1). Pure.

Also for the `error` that a browser brings back: `code_of`, `said`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz
from typing import Any, Literal
from urllib.parse import quote, quote_plus, urlsplit

from ..errors import SAID_LIMIT, Kind, ProviderError

PROXY_SPOKE = (408, 502, 504)  # somebody in between answered: the provider may have acted
LONGEST_WAIT, NONSENSE_WAIT = 300, 30  # seconds, of a Retry-After

Request = Literal["exchange", "refresh", "client_credentials"]
Members = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A token endpoint's. `headers` ignores case."""

    url: str  # that was asked
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.url


_WORDS = {  # RFC 6749 4.1.2.1 and 5.2, RFC 8707 2, RFC 8628 3.5, OpenID Connect Core 3.1.2.6
    "invalid_grant": "grant_ended",
    "invalid_client": "client_rejected",
    "unauthorized_client": "client_not_allowed",
    "unsupported_grant_type": "client_not_allowed",
    "unsupported_response_type": "client_not_allowed",
    "invalid_scope": "scope_rejected",
    "invalid_target": "resource_rejected",
    "interaction_required": "interaction_required",
    "login_required": "interaction_required",
    "consent_required": "interaction_required",
    "access_denied": "access_denied",
    "redirect_uri_mismatch": "redirect_not_registered",  # of no RFC, but GitHub and Google say it
    "slow_down": "provider_busy",
    "server_error": "provider_error",
    "temporarily_unavailable": "provider_error",
}
_OURS = {*_WORDS.values(), "code_rejected", "redirect_not_registered", "token_request_rejected"}
_ENDS_A_GRANT = ("grant_ended", "interaction_required")
_KINDS: dict[str, Kind] = {
    "client_rejected": "client",
    "client_not_allowed": "client",
    "provider_busy": "busy",
}


def is_known(code: object) -> bool:
    """Whether a provider's word may be mapped to `code`."""
    return code in _OURS


def words(members: Members) -> tuple[str, str] | None:
    """The `error` member and its text; None without one. Some nest both in an object."""
    error, text = members.get("error"), members.get("error_description")
    if error in (None, "", False):
        return None
    if isinstance(error, dict):
        text = text or error.get("message")
    return error if isinstance(error, str) else "", text if isinstance(text, str) else ""


def plain(text: object, limit: int) -> str:
    """One line of printable characters: no control, no bidirectional ones (SEC-009, SEC-112)."""
    shown = (one if one.isprintable() else " " for one in str(text)[: 4 * limit])
    return " ".join("".join(shown).split())[:limit]


def said(word: str, text: str) -> str | None:
    """The provider's own words. Whoever shows them escapes them."""
    return plain(": ".join(filter(None, (word, text))), SAID_LIMIT) or None


def without(said: str, secrets: Sequence[str]) -> str:
    """An echo of a secret taken out: as it is, as it was sent, or cut off at the end."""
    for secret in secrets:
        for form in dict.fromkeys((secret, quote_plus(secret), quote(secret, safe=""))):
            said = said.replace(form, "…")
            cut = next((n for n in range(len(form) - 1, 5, -1) if said.endswith(form[:n])), 0)
            said = f"{said[:-cut]}…" if cut else said
    return said


def mapped(word: str, text: str, errors: Mapping[str, str]) -> str | None:
    """Our code for a provider's word, or for Entra's number in its text, if the config has one."""
    number = re.match(r"AADSTS\d+", text)
    code = errors.get(word) or errors.get(number[0] if number else "")
    return code if code in _OURS else None


def code_of(word: str, text: str, errors: Mapping[str, str]) -> str | None:
    return mapped(word, text, errors) or _WORDS.get(word)


def redirected(answer: Answer) -> ProviderError:
    """Where to, but without the query: it could repeat what we sent."""
    target = re.split("[?#]", answer.headers.get("Location", ""))[0]
    hint = f"It is {plain(target, 200)}" if target else ""
    return ProviderError("redirected", kind="refused", host=answer.host, hint=hint)


def refuse(
    answer: Answer,
    members: Members,
    errors: Mapping[str, str],
    *,
    request: Request,
    now: float,
) -> None:
    """Raise ProviderError if the answer is a refusal. `now`: seconds, for a Retry-After's date.

    408, 429 and 5xx speak for themselves; below them an error member beats the status (SEC-018).
    """
    found = words(members)
    if answer.status < 400 and found is None:
        return
    word, text = found or ("", "")
    code, kind = _by_status(answer.status, request) or _by_word(
        answer.status, word, text, errors, request
    )
    wait = retry_after(answer.headers, now=now)
    error = ProviderError(
        code, kind=kind, said=said(word, text), retry_after=wait, host=answer.host
    )
    if kind == "busy":
        error.facts.setdefault("retry_after", NONSENSE_WAIT)  # for the text only
    raise error


def _by_status(status: int, request: Request) -> tuple[str, Kind] | None:
    if status in PROXY_SPOKE or 520 <= status < 530:
        return "exchange_unknown" if request == "exchange" else "provider_error", "unknown"
    if status >= 500:
        return "provider_error", "busy" if status == 503 else "refused"
    return ("provider_busy", "busy") if status == 429 else None


def _by_word(
    status: int, word: str, text: str, errors: Mapping[str, str], request: Request
) -> tuple[str, Kind]:
    """Only a plain 400, or a word that the config maps, ends a grant (SEC-105)."""
    code = mapped(word, text, errors)
    if code is None:
        code = _WORDS.get(word, "token_request_rejected")
        if code in _ENDS_A_GRANT and 400 < status:
            code = "token_request_rejected"  # a firewall's 403, say: nobody ended anything
    code = _IN_CONTEXT.get((code, request), code)
    if request == "refresh" and code in _ENDS_A_GRANT:
        return code, "dead"
    return code, _KINDS.get(code, "refused")


_IN_CONTEXT = {  # a code is rejected where one was sent, a grant ends where one was used
    ("grant_ended", "exchange"): "code_rejected",
    ("grant_ended", "client_credentials"): "token_request_rejected",
    ("code_rejected", "refresh"): "token_request_rejected",
    ("code_rejected", "client_credentials"): "token_request_rejected",
}


def retry_after(headers: Mapping[str, str], *, now: float) -> int | None:
    """Seconds, 1 to 300; what cannot be read counts as 30. None: nothing was said."""
    text = headers.get("Retry-After")
    if text is None:
        return None
    try:
        if re.fullmatch(r"[0-9]{1,15}", text.strip()):
            seconds = int(text)
        else:
            date = parsedate_tz(text)
            seconds = int(mktime_tz(date) - now) if date else -1
    except (ValueError, OverflowError):
        seconds = -1
    return min(max(seconds, 1), LONGEST_WAIT) if seconds >= 0 else NONSENSE_WAIT
