"""Whether whoever asked is still there: a caller who hung up must not keep an upstream busy (R4).

A blocked read upstream notices nothing, and a write to a caller who is gone may still succeed. So
one thread per process looks at the callers' sockets, four times a second.
"""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

EVERY_S = 0.25
_watched: dict[int, Hangup] = {}
_thread: list[threading.Thread] = []
_guard = threading.Lock()


class Hangup:
    """One caller's connection. `then`: what is called, in another thread, when it is closed.

    `listens`: nobody waits for an answer, so the server may end it at any time. `is_ended`: it did,
    and the caller is still there to be told.
    """

    __slots__ = ("_cut", "_sock", "has_happened", "is_ended", "listens")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._cut: Callable[[], None] | None = None
        self.has_happened = self.is_ended = self.listens = False
        _watched[id(self)] = self
        if not _thread:
            _start()

    def then(self, cut: Callable[[], None]) -> None:
        self._cut = cut
        if self.has_happened or self.is_ended:
            cut()

    def end(self) -> None:
        """The server goes: what is under way upstream is cut, and the caller hears of it."""
        self.is_ended = True
        if self._cut is not None:
            self._cut()

    def over(self) -> None:
        """Nobody need look any more. May be called twice."""
        _watched.pop(id(self), None)

    def fileno(self) -> int:
        found: int = self._sock.fileno()
        return found

    def happened(self) -> None:
        self.over()
        self.has_happened = True
        if self._cut is not None:
            self._cut()


def end_all(*, listening: bool = False) -> None:
    """Every call that is open now, or those alone that only listen."""
    for one in list(_watched.values()):
        if not one.is_ended and (one.listens or not listening):
            one.end()


def _start() -> None:
    with _guard:
        if not _thread:
            _thread.append(threading.Thread(target=_look_for_ever, daemon=True, name="hangup"))
            _thread[0].start()


def _look_for_ever() -> None:
    while True:
        time.sleep(EVERY_S)
        for gone in look(list(_watched.values())):
            gone.happened()


def look(watched: list[Hangup]) -> list[Hangup]:
    """Those whose other end is closed, now."""
    poll, by_number = _poll(), {}
    for one in watched:
        number = one.fileno()
        if number >= 0:  # else the server closed it: it is done with this request
            by_number[number] = one
            poll.register(number, select.POLLRDHUP)
    return [by_number[number] for number, _ in poll.poll(0)] if by_number else []


def _poll() -> Any:
    """The system's own: gevent's stand-in knows nothing of half-closed connections."""
    patched = sys.modules.get("gevent.monkey")
    return patched.get_original("select", "poll")() if patched else select.poll()
