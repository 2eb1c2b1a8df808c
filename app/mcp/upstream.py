"""One exchange with one MCP server: sent once, answered as the bytes come, ended when nobody waits.

No row, no era and no token is known here, but for the headers it is given.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from urllib3 import BaseHTTPResponse

from .. import egress
from ..access import Usable
from ..errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from .hangup import Hangup

MOST = 32 * 1024 * 1024  # bytes of one JSON answer, decoded
LONGEST_S = 3600.0  # one answer, streams too
_PIECE = 65_536
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
_SCOPE = re.compile(r'\bscope="([\x20\x21\x23-\x5b\x5d-\x7e]{1,1000})"')


class Exchanges:
    """What leaves for one gateway. Made within an app; streams use it when the request is over."""

    def __init__(self, gateway: Usable, hangup: Hangup | None = None) -> None:
        """When `hangup` happens, whatever is under way is cut."""
        self.url = gateway.url
        self._pool = egress.pool()
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
        with _failing(to), _on(self._line):
            response = self._pool.urlopen(
                verb, to, body=body, headers=sent, preload_content=False, timeout=self._silence
            )
        return Answer(to, response)


_JSON = {"Content-Type": "application/json"}


@contextmanager
def _on(line: egress.Line | None) -> Iterator[None]:
    if line is None:
        yield
        return
    with line.held():
        yield


@dataclass(slots=True)
class Answer:
    """The head of an answer. Read it to its end, or close it: else the connection is lost."""

    url: str
    _response: BaseHTTPResponse = field(repr=False)
    _began: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def kind(self) -> Literal["json", "events", "other"]:
        said = self._response.headers.get("Content-Type") or ""
        return _KINDS.get(said.partition(";")[0].strip().lower(), "other")

    @property
    def session_id(self) -> str | None:
        return self._response.headers.get("Mcp-Session-Id")

    @property
    def wanted_scope(self) -> str | None:
        """Of a 403: the scope that is missing (RFC 6750 section 3.1); "" if it is not named."""
        said = ", ".join(self._response.headers.getlist("WWW-Authenticate"))[:4_000]
        if not re.search(r'\berror="?insufficient_scope\b', said):
            return None
        found = _SCOPE.search(said)
        return found[1] if found else ""

    def pieces(self) -> Iterator[bytes]:
        """As they come, decoded; ends at the end. Raises UpstreamError when it breaks off."""
        response = self._response
        coding = response.headers.get("Content-Encoding")
        if coding and coding.lower() not in _ENCODINGS:
            raise UpstreamError("upstream_bad_answer")
        try:
            with _failing(self.url):
                while piece := response.read1(_PIECE, decode_content=bool(coding)):
                    yield piece
                    if time.monotonic() - self._began > LONGEST_S:
                        raise UpstreamTimeout
                    if response.length_remaining == 0 and not coding:
                        return  # the next read would only say so
        finally:
            self.close()

    def body(self, most: int = MOST) -> bytes:
        """All of it. Raises UpstreamError, also for more than `most` bytes."""
        held = bytearray()
        for piece in self.pieces():
            held += piece
            if len(held) > most:
                self.close()
                raise UpstreamError("upstream_bad_answer")
        return bytes(held)

    def close(self) -> None:
        """Hang up, unless it was read to its end: then the connection is in the pool again."""
        self._response.close()
        self._response.release_conn()


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


@contextmanager
def _failing(url: str) -> Iterator[None]:
    """What people are told: nothing was sent, no answer in time, or it broke off (SEC-093)."""
    try:
        with egress.upstream_errors(url):
            yield
    except UpstreamError as error:
        if error.__cause__ is None:  # ours already
            raise
        if egress.is_unsent(error.__cause__):
            raise UpstreamUnreachable from error
        raise (
            UpstreamTimeout if isinstance(error, UpstreamTimeout) else UpstreamError
        )() from error
