"""Everything this app raises on purpose.

AppError
├── NotFound                 unknown, off and forbidden look alike
├── Forbidden
├── SignInRequired           no or no good credential of ours
├── Invalid                  what a person or program sent; a sentence per field
├── Conflict                 right in itself, but not in this state
├── NotRecorded              a change that cannot be written into the audit trail is not made
├── Busy                     a limit of ours, with the seconds to wait
├── WireError                not a JSON-RPC or MCP message we can take (mcp.md sections 2, 5)
├── ConsentFailed            the callback was refused, stale or forged
├── ConnectionNeeded         only the person can go on
├── Unsealable               no key of ours fits, or the value was altered or moved
└── UpstreamError            a server we called failed
    ├── UpstreamTimeout
    ├── UpstreamUnreachable
    ├── TokenRefused         a fresh token, and the MCP server still says 401
    └── ProviderError        a token endpoint did not give a token; `kind` says what that means

The class is for code to catch, the code for people to read. What a code says, and its status, are
rows of errors.yaml, which pages, JSON, JSON-RPC and the help pages share; app/web/errors.py makes
the response. The cause stays on __cause__, for the log.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

SAID_LIMIT = 300  # characters of a provider's own words


Who = Literal["person", "admin", "nobody"]


@dataclass(frozen=True, slots=True)
class Text:
    """What one code says. `{names}` in it are filled from the error's facts."""

    status: int  # HTTP, outside /mcp
    message: str  # what happened
    cause: str  # why, for people
    action: str  # the next step, for the person
    admin: str = ""  # the next step, for an admin
    who: Who = (
        "person"  # who can mend it; "nobody": it passes, or is for those who run the provider
    )
    e: str = ""  # of E1 to E20 (ui.md section 9); "" for what has no number
    button: str = ""  # what leads to the place where it is mended …
    link: str = ""  # … a path of ours, {gateway} being its slug
    sure: str = "Repeat what failed. This error does not come back."  # how to be sure
    words: tuple[str, ...] = ()  # what other programs call it, for those who search for that


@functools.cache
def texts() -> Mapping[str, Text]:
    """Every code with its text. Raises at the first error of a malformed file, not later."""
    rows = yaml.safe_load(Path(__file__).with_name("errors.yaml").read_text(encoding="utf-8"))
    return {
        code: Text(**row | {"words": tuple(row.get("words", ()))}) for code, row in rows.items()
    }


def code_of(reason: str | None) -> str | None:
    """Of the reason for which a connection has ended; None for one that has no text of its own."""
    code = "token_refused" if reason == "refused_by_server" else reason
    return code if code in texts() else None


class _Facts(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        # A text never fails for want of a fact, and a hint is there or not.
        return "" if name == "hint" else f"({name})"


class AppError(Exception):
    """`code` is stable, for machines and help pages. `facts` fill the texts; never a secret."""

    code = "internal_error"
    rpc = True  # under /mcp: a JSON-RPC error at HTTP 200; else plain JSON with `status`
    step: str | None = None  # what admins and the log are told, where people are told less

    def __init__(
        self, code: str | None = None, /, *, said: str | None = None, **facts: str | int
    ) -> None:
        self.code = code or self.code
        self.said = said[:SAID_LIMIT] if said else None  # the other side's words; escape them
        self.facts = facts
        super().__init__(self.code)

    @property
    def status(self) -> int:
        return texts()[self.code].status

    @property
    def message(self) -> str:
        return self._filled(texts()[self.code].message)

    @property
    def cause(self) -> str:
        return self._filled(texts()[self.code].cause)

    @property
    def action(self) -> str:
        return self._filled(texts()[self.code].action)

    @property
    def admin(self) -> str:
        return self._filled(texts()[self.code].admin)

    @property
    def e(self) -> str:
        """The number of its kind, E1 to E20, or ""."""
        return texts()[self.code].e

    @property
    def who(self) -> Who:
        return texts()[self.code].who

    def _filled(self, text: str) -> str:
        return text.format_map(_Facts(self.facts)).strip()  # an absent hint leaves a space


class NotFound(AppError):
    code, rpc = "not_found", False


class Forbidden(AppError):
    code, rpc = "forbidden", False


class SignInRequired(AppError):
    code, rpc = "sign_in_required", False


class Invalid(AppError):
    """`fields`: a path such as "oauth_config.token_url" to one sentence."""

    code, rpc = "invalid", False

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self.fields = dict(fields)


class Conflict(AppError):
    code = "conflict"


class NotRecorded(AppError):
    """The audit event of a change could not be written, so the change was rolled back."""

    code = "not_recorded"


class Busy(AppError):
    """`retry_after`: seconds."""

    code = "rate_limited"

    def __init__(self, code: str | None = None, /, *, retry_after: int, **facts: str | int) -> None:
        super().__init__(code, said=None, retry_after=retry_after, **facts)
        self.retry_after = retry_after


class WireError(AppError):
    """`number` is the JSON-RPC error code, `http` the status the transport demands for it."""

    code = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        number: int,
        http: int = 400,
        data: Mapping[str, Any] | None = None,
        call_id: str | int | None = None,
    ) -> None:
        super().__init__()
        self.number, self.http, self.data, self.call_id = number, http, data, call_id
        self._sentence = message

    @property
    def message(self) -> str:
        return self._sentence


class ConsentFailed(AppError):
    code = "state_unknown"


class ConnectionNeeded(AppError):
    """`state` and `reason` as in oauth.md 6.2; `gateway` is the slug, `name` what people read.

    `link` is the absolute address of the page that connects; whoever answers the caller sets it.
    """

    code = "connection_needed"

    def __init__(
        self, *, gateway: str, name: str, state: str, reason: str = "", link: str = ""
    ) -> None:
        super().__init__(gateway=gateway, name=name, state=state, reason=reason, link=link)
        self.gateway, self.name, self.state, self.reason = gateway, name, state, reason

    @property
    def e(self) -> str:
        """That of the reason: a grant that ended is E8, a secret that does not open E20."""
        code = code_of(self.reason)
        return texts()[code].e if code else ""


class Unsealable(AppError):
    """A stored value that does not open. One text for every cause: it may reach a page."""

    code = "secret_unreadable"


class UpstreamError(AppError):
    code = "upstream_error"


class UpstreamTimeout(UpstreamError):
    code = "upstream_timeout"


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class TokenRefused(UpstreamError):
    code = "token_refused"


STEPS = (  # of a call out; each tells something of the network that we stand in
    *("dns_failed", "connect_failed", "tls_failed", "blocked_address", "timeout"),
    "client_certificate_refused",
)


def code_for(code: str | None, *, is_admin: bool) -> str | None:
    """Of a failure that was noted, as `for_person` tells it."""
    return "provider_unreachable" if code in STEPS and not is_admin else code


def for_person(error: AppError, *, is_admin: bool) -> AppError:
    """What is said of a provider that was not reached: to others than admins always the same.

    Else whoever may sign in could tell from outside what this server can reach (SEC-093).
    """
    if is_admin or error.code not in STEPS:
        return error
    told = UpstreamUnreachable("provider_unreachable")
    told.facts = {"retry_after": 30} | error.facts | {"host": ""}
    told.step, told.__cause__ = error.code, error.__cause__
    return told


Kind = Literal["unsent", "busy", "refused", "client", "unknown", "dead"]


class ProviderError(UpstreamError):
    """`kind` is the failure class of oauth.md 6.1; `retry_after` in seconds, if they said so.

    Only `dead` ends a grant, and only for the attempt that owns the row.
    """

    code = "provider_error"

    def __init__(
        self,
        code: str | None = None,
        /,
        *,
        kind: Kind,
        said: str | None = None,
        retry_after: int | None = None,
        **facts: str | int,
    ) -> None:
        wait = {} if retry_after is None else {"retry_after": retry_after}
        super().__init__(code, said=said, **wait, **facts)
        self.kind: Kind = kind
        self.retry_after = retry_after
