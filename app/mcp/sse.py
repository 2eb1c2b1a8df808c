"""Event streams: whole events out of whatever pieces they come in, and what stands in them.

Also the pure part of the old HTTP+SSE transport, whose stream names the address to POST to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

MOST = 16 * 1024 * 1024  # bytes of one event
_BLANK = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")  # atomic: \r\n is one line end
_LINE = re.compile(r"\r\n|\n|\r")
_WHOLE = (b"\n\n", b"\r\n\r\n")


class TooLong(ValueError):
    """An event without an end."""


class Foreign(ValueError):
    """The stream names an address that is not its own server's: a token would go elsewhere."""


@dataclass(frozen=True, slots=True)
class Event:
    name: str  # "message" if the stream does not say
    data: str
    id: str | None = None
    retry_ms: int | None = None


class Splitter:
    """Gives back the bytes it was fed, cut where an event ends. All three line ends occur."""

    def __init__(self, most: int = MOST) -> None:
        self._rest = bytearray()
        self._most = most

    def feed(self, piece: bytes) -> bytes:
        """As many whole events as there are now; empty if there is none. Raises TooLong."""
        if not self._rest and piece.endswith(_WHOLE):
            return piece  # the common case: a server writes an event at a time
        end, start = 0, max(0, len(self._rest) - 3)  # what was there before holds no end
        self._rest += piece
        for found in _BLANK.finditer(self._rest, start):
            end = found.end()
        whole = bytes(self._rest[:end])
        del self._rest[:end]
        if len(self._rest) > self._most:
            raise TooLong
        return whole


def events(block: bytes) -> Iterator[Event]:
    """Those of a block of whole events; comments are left out."""
    name, said_id, retry = "", None, None
    data: list[str] = []
    for line in _LINE.split(block.decode(errors="replace").removeprefix("\ufeff")):
        if not line:
            if data or said_id is not None or retry is not None:
                yield Event(name or "message", "\n".join(data), said_id, retry)
            name, data, said_id, retry = "", [], None, None
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            said_id = value
        elif field == "retry" and value.isascii() and value.isdigit() and len(value) < 10:
            retry = int(value)


def event(data: bytes) -> bytes:
    """One message as an event. A line break in it starts another `data` line."""
    lines = re.split(rb"\r\n|\n|\r", data)
    return b"event: message\n" + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def has_id(block: bytes) -> bool:
    """Whether an event here can be resumed from."""
    return block.startswith(b"id:") or b"\nid:" in block or b"\rid:" in block


def endpoint(stream_url: str, said: str) -> str:
    """Where to POST to (O2): same scheme, host and port as the stream. Raises Foreign."""
    try:
        url = urljoin(stream_url, said.strip())
        there, here = urlsplit(url), urlsplit(stream_url)
        same = (there.scheme, there.hostname, _port(there.scheme, there.port)) == (
            *(here.scheme, here.hostname),
            _port(here.scheme, here.port),
        )
    except ValueError as error:
        raise Foreign from error
    if not same or there.username is not None or re.search(r"[\x00-\x20\x7f\\]", url):
        raise Foreign
    return url.partition("#")[0]


def _port(scheme: str, port: int | None) -> int | None:
    return port if port is not None else {"https": 443, "http": 80}.get(scheme)
