"""PostgreSQL that does not answer: whoever asks learns it in two seconds (SEC-118).

libpq bounds connecting alone. A host that vanished, or a server that hangs, would hold a request
for as long as the kernel likes: so each wait for an answer has an end here, too.
"""

from __future__ import annotations

import contextlib
import contextvars
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

CONNECT_S = 2  # libpq takes whole seconds, and no fewer
PING_S = 1.0  # of a connection out of the pool, before it is used
STATEMENT_S = 30.0  # an answer to anything else; migrations take their time
FULL_S = 1.5  # until one of the server's connection slots is free
REST_S = 1.0  # after no answer came in time: until then, all who ask are told at once
_FULL = ("too many clients", "remaining connection slots", "too many connections")
_LINE = {"connect_timeout": CONNECT_S, "tcp_user_timeout": 5000, "keepalives_idle": 30}

_unhurried = contextvars.ContextVar("unhurried", default=False)
_guard = threading.Lock()
_silent: dict[str, float] = {}  # what was connected to, and until when nobody need try, monotonic


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Statements inside may take as long as they take."""
    token = _unhurried.set(True)
    try:
        yield
    finally:
        _unhurried.reset(token)


class PromptConnection(psycopg.Connection[Any]):
    """`where`: the server it belongs to."""

    where = ""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """What psycopg waits with. Raises OperationalError, and closes, when the time is over."""
        if timeout is None and not _unhurried.get():
            # SQLAlchemy's ping switches to autocommit, and nothing else of ours does.
            timeout = PING_S if self._autocommit else STATEMENT_S
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()  # an answer that comes yet would be taken for that of the next
            rest(self.where)
            raise psycopg.OperationalError("the database does not answer in time") from error


def connect(*args: Any, **options: Any) -> PromptConnection:
    """For SQLAlchemy. Waits a moment for a slot; raises OperationalError within two seconds."""
    where = f"{args} {options.get('host')} {options.get('port')} {options.get('dbname')}"
    give_up = time.monotonic() + FULL_S
    while True:
        if time.monotonic() < _silent.get(where, 0.0):
            raise psycopg.OperationalError("the database did not answer a moment ago")
        try:
            made = PromptConnection.connect(*args, **{**_LINE, **options})
        except psycopg.errors.ConnectionTimeout:
            rest(where)
            raise
        except psycopg.OperationalError as error:
            is_full = any(said in str(error) for said in _FULL)
            if not is_full or time.monotonic() > give_up:
                raise
            time.sleep(random.uniform(0.02, 0.1))  # noqa: S311  # jitter, nothing secret
        else:
            made.where = where
            return made


def rest(where: str) -> None:
    with _guard:
        _silent[where] = time.monotonic() + REST_S
