"""One exchange with one MCP server: sent once, answered as the bytes come, ended when nobody waits.

No row, no era and no token is known here, but for the headers it is given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from urllib3 import BaseHTTPResponse

from .. import egress
from ..access import Usable
from ..errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from ..oauth import challenge
from ..oauth.challenge import Challenge
from .hangup import Hangup

MOST = 32 * 1024 * 1024  # bytes of one JSON answer, decoded
LONGEST_S = 3600.0  # one answer, streams too
_PIECE = 65_536
_AT_ONCE_S, _FEW = 0.05, 4  # seconds and pieces, for the rest of an answer that nobody wants
_KINDS: Mapping[str, Literal["json", "events"]] = {
    "application/json": "json",
    "text/event-stream": "events",
}
_ENCODINGS = ("gzip", "deflate", "x-gzip")  # those that are decoded under a cap
_OURS = {
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "identity",
    "User-Agent": "mcp-gateway",
}
_OF_TLS = ("tls_failed", "client_certificate_refused")


class Exchanges:
    """What leaves for one gateway. Made within an app; streams use it when the request is over."""

    def __init__(self, gateway: Usable, hangup: Hangup | None = None) -> None:
        """When `hangup` happens, whatever is under way is cut.

        Raises Unsealable, and UpstreamError where no TLS can be made of what the admin pasted.
        """
        self.url = gateway.url
        with _Failing(gateway.url):
            self._pool = egress.pool(gateway.trust)
        self._silence = egress.silence(gateway.timeout_s)
        self._line: egress.Line | None = None
        if hangup is not None:
            self._line = egress.Line()
            hangup.then(self._line.cut)

    def send(
        self, verb: str, headers: Mapping[str, str], body: bytes | None, url: str | None = None
    ) -> Answer:
        """Sent once. `url`: another address of the same server. Raises UpstreamError."""
        to = url or self.url
        sent = {**_OURS, **headers} if body is None else {**_OURS, **_JSON, **headers}
        with _Failing(to):
            if self._line is None:
                return Answer(to, self._ask(verb, to, body, sent))
            with self._line:
                return Answer(to, self._ask(verb, to, body, sent), self._line)

    def _ask(
        self, verb: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> BaseHTTPResponse:
        return self._pool.urlopen(
            verb, url, body=body, headers=headers, preload_content=False, timeout=self._silence
        )


_JSON = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Answer:
    """The head of an answer. Read it to its end, or close it: else the connection is lost."""

    url: str
    _response: BaseHTTPResponse = field(repr=False)
    _line: egress.Line | None = field(default=None, repr=False)
    _began: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def kind(self) -> Literal["json", "events", "other"]:
        said = self._response.headers.get("Content-Type") or ""
        return _KINDS.get(said.partition(";")[0].strip().lower(), "other")

    @property
    def session_id(self) -> str | None:
        return self._response.headers.get("Mcp-Session-Id")

    @property
    def challenge(self) -> Challenge | None:
        return challenge.parse(self._response.headers.getlist("WWW-Authenticate"))

    @property
    def missing(self) -> tuple[str, ...] | None:
        """The scopes that a 403 wants (RFC 6750 section 3.1), () if unnamed; None: no such 403."""
        said = self.challenge
        is_said = said is not None and said.error == "insufficient_scope"
        return said.scopes if said is not None and is_said else None

    def pieces(self, most: float = math.inf) -> Iterator[bytes]:
        """As they come, decoded; ends at the end.

        Raises UpstreamError when it breaks off, and for more than `most` bytes.
        """
        size = 0
        while piece := self._piece():
            if size:  # else a server that is never silent would keep all others off (gevent)
                time.sleep(0)
            size += len(piece)
            if size > most:
                self.close()
                raise UpstreamError("upstream_bad_answer")
            yield piece
            if self._is_read:
                return  # the next read would only say so

    def body(self, most: int = MOST) -> bytes:
        """All of it. Raises UpstreamError, also for more than `most` bytes."""
        first = self._piece()
        if self._is_read:  # as most answers are: small, and of a length that was said
            return first
        return b"".join([first, *self.pieces(most - len(first))])

    def _piece(self) -> bytes:
        """Of the body; empty at its end."""
        try:
            return self._read()
        except UpstreamError:
            self.close()
            raise

    def _read(self) -> bytes:
        coding = self._response.headers.get("Content-Encoding")
        if time.monotonic() - self._began > LONGEST_S:
            raise UpstreamTimeout
        if coding and coding.lower() not in _ENCODINGS:
            raise UpstreamError("upstream_bad_answer")
        if self._line is not None and self._line.expired:  # nobody waits for it
            raise UpstreamError
        with _Failing(self.url):
            egress.in_time()
            return self._response.read1(_PIECE, decode_content=bool(coding))

    @property
    def _is_read(self) -> bool:
        """Whether the end is known to be reached, and the connection in the pool again."""
        is_coded = "Content-Encoding" in self._response.headers
        return self._response.length_remaining == 0 and not is_coded

    def let_go(self) -> None:
        """Nothing more is wanted. What is left is read if it comes at once, to keep the line."""
        sock = getattr(self._response.connection, "sock", None)
        if sock is not None:
            sock.settimeout(_AT_ONCE_S)
            with suppress(UpstreamError):
                for _ in range(_FEW):
                    if not self._piece():
                        break
        self.close()

    def close(self) -> None:
        """Hang up, unless it was read to its end: then the connection is in the pool again."""
        self._response.close()
        self._response.release_conn()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """A reader that stops early has what it wanted."""
        if kind in (None, GeneratorExit):
            self.let_go()
        else:
            self.close()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """A deadline for all exchanges inside, bodies too. Raises UpstreamTimeout."""
    call: egress.Call | None = None
    try:
        with egress.call(seconds) as call:
            yield
    except egress.DeadlineExceeded as error:
        raise UpstreamTimeout from error
    except UpstreamError as error:
        if call is not None and call.expired:
            raise UpstreamTimeout from error
        raise


class _Failing:
    """What people are told: nothing was sent, no answer in time, or it broke off (SEC-093).

    A class, as it is entered twice for each call.
    """

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: object
    ) -> None:
        if error is None:
            return
        try:
            with egress.upstream_errors(self._url):
                raise error
        except UpstreamError as ours:
            raise _told(ours, error) from error


def _told(error: UpstreamError, cause: BaseException) -> UpstreamError:
    if not egress.is_unsent(cause):
        told = UpstreamTimeout() if isinstance(error, UpstreamTimeout) else UpstreamError()
        told.step = error.code if error.code in _OF_TLS else None
        return told
    told = UpstreamUnreachable()
    told.step = "connect_failed" if isinstance(error, UpstreamTimeout) else error.code
    return told
