"""An endpoint that does not answer is asked by one caller at a time, and by nobody for a while.

It spares waiting and decides nothing: whoever is turned away hears what the last one heard, and as
nothing was sent, no grant can end by it. One for each app and process, so never shared by nodes.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flask import current_app

from ..errors import ProviderError

AFTER = 5  # failures in a row
FOR_S = 10.0
_MOST = 10_000  # endpoints that fail at the same time


@dataclass(slots=True)
class _Failing:
    count: int = 0
    open_until: float = 0.0
    code: str = "provider_unreachable"  # of the last failure


class Breaker:
    """By endpoint. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._failing: dict[str, _Failing] = {}

    @contextmanager
    def passing(self, url: str) -> Iterator[None]:
        """Around one request. Raises ProviderError, of something unsent, while it is open.

        Half-open: one is let through, and the others wait for what it finds, or once more as long.
        """
        self._turn_away(url)
        try:
            yield
        except ProviderError as error:
            self._note(url, error)
            raise
        with self._lock:
            self._failing.pop(url, None)

    def _turn_away(self, url: str) -> None:
        with self._lock:
            found, now = self._failing.get(url), self._clock()
            if found is None or found.count < AFTER:
                return
            if now >= found.open_until:
                found.open_until = now + FOR_S
                return
            wait = math.ceil(found.open_until - now)
        raise ProviderError(found.code, kind="unsent", retry_after=wait)

    def _note(self, url: str, error: ProviderError) -> None:
        with self._lock:
            if error.kind not in ("unsent", "unknown"):  # it speaks
                self._failing.pop(url, None)
                return
            if len(self._failing) >= _MOST:
                self._failing.clear()
            found = self._failing.setdefault(url, _Failing())
            found.count, found.code = found.count + 1, error.code
            if found.count >= AFTER:
                found.open_until = self._clock() + FOR_S


def breaker() -> Breaker:
    """This app's."""
    held: Breaker = current_app.extensions.setdefault("breaker", Breaker())
    return held
