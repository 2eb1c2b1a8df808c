"""How a worker ends: what is under way is finished, and who would wait in vain is told (SEC-117).

When the whole server stops, /ready says no and new calls are refused while the addresses are still
open. Then connections are taken no more, streams that only listen end, and calls run to their end;
who is not done shortly before the server would cut them gets an error as the last word. A worker
that is merely replaced (SIGHUP, --max-requests) refuses nothing. gunicorn.conf.py says when.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flask import current_app

from .errors import Busy
from .mcp import hangup

BACK_S = 5  # when to come again, as we say: another node may take the call at once


class Draining:
    def __init__(self) -> None:
        self.server_stops: Callable[[], bool] = lambda: False  # the whole server, not one worker
        self._unfinished = 0
        self._lock = threading.Condition()

    def refuse_calls(self) -> None:
        """Raises Busy while the server stops."""
        if self.server_stops():
            raise Busy("restarting", retry_after=BACK_S)

    @contextmanager
    def unfinished(self) -> Iterator[None]:
        """Around work that must not be cut: between what a provider gives once and its commit.

        The worker ends after it, within its graceful time, also when it was told to end at once.
        """
        with self._lock:
            self._unfinished += 1
        try:
            yield
        finally:
            with self._lock:
                self._unfinished -= 1
                self._lock.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether all that is `unfinished` was finished in time."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._unfinished, seconds)

    def finish(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """What listens is ended now and as it comes, all else after `seconds`."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up and not is_over():
            hangup.end_all(listening=True)
            time.sleep(0.1)
        hangup.end_all()


def draining() -> Draining:
    """This app's."""
    held: Draining = current_app.extensions["draining"]
    return held
