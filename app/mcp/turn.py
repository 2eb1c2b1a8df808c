"""One request of a client, and all that is known when it is answered. Frozen values, no rows."""

from __future__ import annotations

from dataclasses import dataclass

from ..access import Caller, Usable
from . import wire
from .handles import Session
from .hangup import Hangup


@dataclass(frozen=True, slots=True)
class Turn:
    caller: Caller
    gateway: Usable
    call: wire.Call
    session: Session | None = None  # legacy
    hangup: Hangup | None = None
    asked: int = 0  # how often this call has asked to open its link

    @property
    def takes_urls(self) -> bool:
        """Whether the client said that it can show a link to its person."""
        if self.call.is_modern:
            return wire.takes_urls(self.call.meta.get(wire.CAPABILITIES))
        return self.session is not None and self.session.takes_urls

    @property
    def is_attached(self) -> bool:
        return self.session is not None and self.session.is_attached

    @property
    def state(self) -> str | None:
        """Of the connection."""
        return self.gateway.connection.state if self.gateway.connection else None
