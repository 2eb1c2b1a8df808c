"""What this process remembers of the servers it talked to; any of it can be found out again.

The era of a server, with a date (E6), and the sessions we opened ourselves (S3).
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from flask import current_app

from ..access import Caller, Usable

Era = Literal["modern", "legacy", "sse"]  # sse: the HTTP+SSE transport of 2024-11-05
KEPT_S = 24 * 3600.0
MOST = 10_000
OPENING_S = 5.0


@dataclass(frozen=True, slots=True)
class Known:
    era: Era
    capabilities: Mapping[str, Any]
    until: float  # of this process's monotonic clock


@dataclass(frozen=True, slots=True)
class Own:
    """A session of ours at an upstream. A server may do without ids."""

    id: str | None
    version: str

    @property
    def headers(self) -> dict[str, str]:
        session = {} if self.id is None else {"Mcp-Session-Id": self.id}
        return {"MCP-Protocol-Version": self.version} | session


class Memory:
    def __init__(self, kept_s: float = KEPT_S) -> None:
        self._kept_s = kept_s
        self._servers: dict[Hashable, Known] = {}
        self._sessions: dict[Hashable, Own] = {}
        self._openings: weakref.WeakValueDictionary[Hashable, threading.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._guard = threading.Lock()

    def server(self, gateway: Usable) -> Known | None:
        found = self._servers.get((gateway.id, gateway.url))
        return found if found is not None and time.monotonic() < found.until else None

    def learn(self, gateway: Usable, era: Era, capabilities: Any = None) -> None:
        """An answer without capabilities changes none that are known of the same era."""
        known = self.server(gateway)
        if not isinstance(capabilities, dict):
            capabilities = known.capabilities if known and known.era == era else {}
        _bound(self._servers)
        until = time.monotonic() + self._kept_s
        self._servers[gateway.id, gateway.url] = Known(era, capabilities, until)

    def doubt(self, gateway: Usable) -> None:
        """An answer contradicts what is known."""
        self._servers.pop((gateway.id, gateway.url), None)

    def session(self, key: Hashable) -> Own | None:
        return self._sessions.get(key)

    def keep(self, key: Hashable, own: Own) -> None:
        _bound(self._sessions)
        self._sessions[key] = own

    @contextmanager
    def opening(self, key: Hashable) -> Iterator[None]:
        """One opens a session, the others wait for it; but not for ever for one that fails."""
        with self._guard:
            lock = self._openings.setdefault(key, threading.Lock())
        is_held = lock.acquire(timeout=OPENING_S)
        try:
            yield
        finally:
            if is_held:
                lock.release()

    def drop(self, key: Hashable, own: Own) -> None:
        """Unless another one took its place meanwhile."""
        if self._sessions.get(key) == own:
            self._sessions.pop(key, None)


def memory() -> Memory:
    """This app's."""
    held: Memory | None = current_app.extensions.get("mcp_memory")
    if held is None:  # of two at once the first wins
        held = current_app.extensions.setdefault("mcp_memory", Memory())
    return held


def account(caller: Caller, gateway: Usable) -> Hashable:
    """Whose session it is: one person's, of one consent, at one address (B1)."""
    config = gateway.config
    kind = (config.id, config.version) if config else ("", 0)
    return caller.user_id, gateway.id, gateway.url, *kind, gateway.consent_gen


def _bound(kept: dict[Hashable, Any]) -> None:
    while len(kept) >= MOST:
        kept.pop(next(iter(kept)), None)
