"""Requests that carry no secret, to servers that are not known yet: what they answer, kept to show.

Each goes through egress, once, within its own time and the time of all; no redirect is followed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import requests

from .. import egress, exchanges
from ..errors import UpstreamError, UpstreamTimeout
from ..exchanges import Exchange
from ..mcp import sse
from ..trust import Trust

BODY_LIMIT = 262_144  # bytes, decoded
REQUEST_S = 5.0
SHORTEST_S, LONGEST_S = 300, 3600  # that a document is believed for
BUSY = (408, 425, 429)  # 4xx that say nothing of what was asked
STREAM = "text/event-stream"
ENDPOINT = b"endpoint "  # and what the stream of an old server names first
_TASTED = 2_000  # bytes of a body that may be shown in part


@dataclass(frozen=True, slots=True)
class Answer:
    url: str
    status: int
    headers: Mapping[str, str] = field(repr=False)  # ignores case
    challenges: tuple[str, ...]  # the values of WWW-Authenticate
    body: bytes = field(repr=False)  # of an event stream: the data of the event that answers
    is_whole: bool  # else it was too long, and is left out

    @property
    def media_type(self) -> str:
        return _media_type(self.headers)

    @property
    def life_s(self) -> int:
        """For how long it may be believed: as it says, within bounds (RFC 9111 section 5.2)."""
        for piece in (self.headers.get("Cache-Control") or "").lower().split(","):
            name, _, value = piece.strip().partition("=")
            if name in ("no-store", "no-cache"):
                return SHORTEST_S
            if name == "max-age" and value.isascii() and value.isdigit():
                return min(LONGEST_S, max(SHORTEST_S, int(value[:9])))
        return LONGEST_S


class Fetching:
    """One run: its deadline, and what was asked so far."""

    def __init__(self, trust: Trust | None, seconds: float) -> None:
        self._trust, self._ends = trust, time.monotonic() + seconds
        self.exchanges: list[Exchange] = []
        self.hosts: dict[str, None] = {}  # in order
        self.life_s = LONGEST_S

    def get(self, url: str) -> Answer:
        """A document. The shortest time that one is good for counts for all."""
        answer = self.ask("GET", url, None, {"Accept": "application/json"})
        if answer.status == 200:
            self.life_s = min(self.life_s, answer.life_s)
        return answer

    def ask(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Raises UpstreamError, Unsealable."""
        began = time.monotonic()
        left = min(REQUEST_S, self._ends - began)
        if left <= 0:
            raise UpstreamTimeout("timeout", host=host(url))
        self.hosts.setdefault(host(url))
        answer, code = None, None
        try:
            with egress.upstream_errors(url), egress.call(left):
                answer = self._send(method, url, body, headers, left)
        except UpstreamError as error:
            code = error.code
            raise
        finally:
            took = int((time.monotonic() - began) * 1000)
            sent = exchanges.headers_sent(headers) + (f"\n\n{body.decode()}" if body else "")
            status, got = (None, "") if answer is None else (answer.status, _got(answer))
            shown = exchanges.address(url)
            self.exchanges.append(Exchange(method, shown, status, took, sent, got, code))
        return answer

    def blame(self, code: str) -> None:
        """The last answer is what it failed at."""
        if self.exchanges and self.exchanges[-1].code is None:
            self.exchanges[-1] = replace(self.exchanges[-1], code=code)

    def _send(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], left: float
    ) -> Answer:
        said = {"User-Agent": "mcp-gateway", "Accept-Encoding": "identity", **headers}
        with egress.session(self._trust) as session:
            request = session.prepare_request(requests.Request(method, url, said, data=body))
            request.url = url  # as it was checked: requests would spell it in its own way
            # Of a redirect the session would read all there is, before it refuses to follow.
            adapter = session.get_adapter(url)
            with adapter.send(request, stream=True, timeout=(left, left)) as reply:
                got, is_whole = _read(reply)
                named = tuple(reply.raw.headers.getlist("WWW-Authenticate"))
                return Answer(url, reply.status_code, reply.headers, named, got, is_whole)


def host(url: str) -> str:
    """With the port, if it is named: what people are shown."""
    return urlsplit(url).netloc.lower() or url


def _read(reply: requests.Response) -> tuple[bytes, bool]:
    """The body, or what answers us in a stream that may go on; and whether that is all."""
    body, splitter = bytearray(), sse.Splitter(BODY_LIMIT)
    is_stream = _media_type(reply.headers) == STREAM
    while piece := reply.raw.read1(65_536, decode_content=True):
        egress.in_time()
        body += piece
        if len(body) > BODY_LIMIT:
            return b"", False
        for event in sse.events(splitter.feed(piece)) if is_stream else ():
            if event.name == "endpoint":
                return ENDPOINT + event.data.encode(), True
            if '"result"' in event.data or '"error"' in event.data:
                return event.data.encode(), True
    return bytes(body), True


def _media_type(headers: Mapping[str, str]) -> str:
    return (headers.get("Content-Type") or "").partition(";")[0].strip().lower()


def _got(answer: Answer) -> str:
    taste = exchanges.taste(answer.body[:_TASTED].decode(errors="replace"))
    return exchanges.headers_got(answer.headers) + (f"\n\n{taste}" if taste else "")
