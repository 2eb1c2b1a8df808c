"""Requests that two parsers may read in two ways, or that claim to come from elsewhere.

As bytes, at gunicorn and through nginx: what is refused here is never seen by the product, and the
connection is over, so that nothing behind it is taken for a request.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.nginx import in_front
from tests.e2e.scripted import WORKERS
from tests.upstream import upstream

__all__ = ["upstream"]  # the fixture
CLOSE = "Host: HOST\r\nConnection: close\r\n"
NEXT = f"GET /smuggled HTTP/1.1\r\n{CLOSE}\r\n"  # what an attacker would hide behind the first
POST = "POST /mcp/x HTTP/1.1\r\nHost: HOST\r\n"


@dataclass
class Door:
    """Where bytes go in, and how they have to name the server."""

    port: int
    host: str
    node: Gateway
    trust: Path | None = None

    def said(self, sent: str) -> bytes:
        """All that comes back until the connection ends."""
        link = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        if self.trust is not None:
            trusted = ssl.create_default_context(cafile=self.trust)
            link = trusted.wrap_socket(link, server_hostname="localhost")
        heard = b""
        with link:
            with contextlib.suppress(OSError):  # it may hang up before it has heard all
                link.sendall(sent.replace("HOST", self.host).encode())
            with contextlib.suppress(OSError):
                while piece := link.recv(65536):
                    heard += piece
        return heard

    def statuses(self, sent: str) -> list[int]:
        return [int(one) for one in re.findall(rb"HTTP/1\.[01] (\d{3})", self.said(sent))]


# What is sent, and all statuses that come back: of gunicorn, and of nginx before it. 404 is the
# request behind it, taken for one; which is right only where nobody can doubt where the first ends.
AMBIGUOUS = {
    "both lengths": (
        POST + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        [400],
        [400],
    ),
    "two lengths": (POST + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", [400], [400]),
    "signed length": (POST + "Content-Length: +2\r\n\r\nab", [400], [400]),
    "two hosts": (POST + "Host: evil.example\r\nContent-Length: 0\r\n\r\n", [400], [400]),
    "space before the colon": (POST + "Content-Length : 0\r\n\r\n", [400], [400]),
    "folded header": (POST + "X-One: a\r\n b\r\nContent-Length: 0\r\n\r\n", [400], [400]),
    "NUL in a header": (POST + "X-One: a\0b\r\nContent-Length: 0\r\n\r\n", [400], [400]),
    "NUL in a name": (POST + "X\0One: a\r\nContent-Length: 0\r\n\r\n", [400], [400]),
    "unknown coding": (POST + "Transfer-Encoding: gzip, rot13\r\n\r\n0\r\n\r\n", [501], [501]),
    "coding on chunked": (
        POST + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        [400],
        [501],
    ),
    # gunicorn takes it for chunked, as it is; others might not
    "disguised coding": (
        POST + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        [401, 404],
        [501],
    ),
    # 401 before the body is read; then that fails, and nothing behind it counts
    "bad chunk size": (
        POST + "Transfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
        [401, 400],
        [400],
    ),
    # nginx reads it and writes it anew
    "bare LF": ("GET /login HTTP/1.1\nHost: HOST\n\n", [400], [302, 404]),
    "another version": ("GET /login HTTP/3.7\r\nHost: HOST\r\n\r\n", [400], [505]),
    "too many headers": (
        POST + "".join(f"X-{n}: a\r\n" for n in range(101)) + "Content-Length: 0\r\n\r\n",
        [431],
        [431, 404],
    ),
    "a large header": (POST + f"X-One: {'a' * 40_000}\r\n\r\n", [431], [400]),
    "a long line": (f"GET /{'a' * 40_000} HTTP/1.1\r\nHost: HOST\r\n\r\n", [414], [414]),
}


@pytest.fixture(scope="module")
def doors(tmp_path_factory) -> Iterator[dict[str, Door]]:
    """gunicorn with either kind of worker, and nginx before one."""
    folder, opened = tmp_path_factory.mktemp("doors"), dict[str, Door]()
    with contextlib.ExitStack() as started:
        for kind, flags in WORKERS.items():
            node = Gateway(f"sqlite:///{folder}/{kind}.db", GUNICORN_CMD_ARGS=flags)
            started.enter_context(node)
            host = node.url.removeprefix("http://")
            opened[kind] = Door(int(host.rpartition(":")[2]), host, node)
        front = started.enter_context(in_front(folder))
        host = front.https.removeprefix("https://")
        opened["nginx"] = Door(front.port, host, front.node, front.certificate)
        yield opened


KINDS = pytest.mark.parametrize("kind", [*WORKERS, "nginx"])


@KINDS
@pytest.mark.parametrize("probe", AMBIGUOUS)
def test_sec_097_no_two_parsers_can_read_it_in_two_ways(doors, kind, probe):
    sent, by_gunicorn, by_nginx = AMBIGUOUS[probe]
    expected = by_nginx if kind == "nginx" else by_gunicorn
    assert doors[kind].statuses(sent + NEXT) == expected


@KINDS
@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("GET /login", ""),
        ("GET /login", "Host: evil.example\r\n"),
        ("GET http://evil.example/login", "Host: HOST\r\n"),
        ("GET http://evil.example/login", "Host: evil.example\r\n"),
    ],
)
def test_sec_098_another_server_is_not_answered_for(doors, kind, line, host):
    said = doors[kind].statuses(f"{line} HTTP/1.1\r\n{host}Connection: close\r\n\r\n")
    assert said in ([400], [421])


@KINDS
def test_sec_037_nothing_a_client_says_of_itself_moves_a_path_or_signs_it_in(doors, kind):
    door = doors[kind]
    moved = "SCRIPT_NAME: /x\r\nScript-Name: /x\r\nX-Script-Name: /x\r\nX-Forwarded-Prefix: /x\r\n"
    assert door.statuses(f"GET /x/login HTTP/1.1\r\n{moved}{CLOSE}\r\n") == [404]
    names = ("X_Forwarded_User", "X-Forwarded-User", "Remote_User", "REMOTE-USER", "X-Remote-User")
    claims = "".join(f"{name}: admin@example.com\r\n" for name in names)
    said = door.said(f"GET /connections HTTP/1.1\r\n{claims}{CLOSE}\r\n")
    assert b" 302 " in said and b"Location: /setup" in said  # nobody is known here
    assert door.statuses(f"GET /api/v1/gateways HTTP/1.1\r\n{claims}{CLOSE}\r\n") == [401]


@KINDS
def test_sec_102_methods_for_proxies_and_debugging_are_refused(doors, kind):
    door = doors[kind]
    assert door.statuses(f"TRACE /login HTTP/1.1\r\n{CLOSE}\r\n") == [405]
    assert door.statuses(f"CONNECT HOST HTTP/1.1\r\n{CLOSE}\r\n") in ([400], [405])


@KINDS
@pytest.mark.parametrize("path", ["/login", "/mcp/x", "/api/v1/gateways"])
def test_sec_049_a_body_over_the_limit_is_refused_with_a_length_or_without(doors, kind, path):
    """Who has no right to the address hears that first, and is not read either."""
    door, form = doors[kind], "Content-Type: application/x-www-form-urlencoded\r\n"
    head = f"POST {path} HTTP/1.1\r\n{form}{CLOSE}"
    refused = [413] if path == "/login" or kind == "nginx" else [401]
    assert door.statuses(f"{head}Content-Length: 99999999\r\n\r\n") == refused
    chunks = f"100000\r\n{'a' * 0x100000}\r\n" * 7 + "0\r\n\r\n"
    said = door.statuses(f"{head}Transfer-Encoding: chunked\r\n\r\n{chunks}")
    assert said[:1] == refused
