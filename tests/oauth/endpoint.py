"""A token endpoint made of a socket, for what no HTTP library would do."""

import contextlib
import socket
import threading
from collections.abc import Callable


class Endpoint:
    """Reads whole requests; `script` is given the socket after each of them."""

    def __init__(self, script: Callable[[socket.socket], None], port: int = 0) -> None:
        self.requests: list[bytes] = []
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/token"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.requests.append(_read(connection))
            self._script(connection)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(); else it would go on listening
        self._listener.close()


def _read(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65_536)
    head, _, body = got.partition(b"\r\n\r\n")
    [length] = [int(line[15:]) for line in head.split(b"\r\n") if line[:15] == b"Content-Length:"]
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json", more: str = ""):
    """A script: this answer, then the end of the connection."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n{more}"
    raw = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    return lambda connection: connection.sendall(raw)


def hang(connection: socket.socket) -> None:
    """Say nothing until the other side gives up."""
    connection.recv(1)


def drip(connection: socket.socket) -> None:
    """A body that does not end, one byte at a time, until the other side gives up."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    connection.settimeout(0.01)
    while True:
        connection.sendall(b" ")
        with contextlib.suppress(TimeoutError):
            if connection.recv(1) == b"":
                return


def reset(connection: socket.socket) -> None:
    """Close with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
