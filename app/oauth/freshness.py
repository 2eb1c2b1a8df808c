"""Which stored token is good for a call, and which is due: judged without a query.

All times are by the database's clock, as far as this process can tell it (access.Seen.now).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from flask import current_app

from ..access import Seen, UsableConfig
from ..states import LIVING


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds (oauth.md 7.1). `deadline` limits one request to a provider, its retries included."""

    deadline: float = 30.0
    margin: float = 5.0  # a lease that ended before its request would have two holders
    quiet: float = 30.0  # after a lost answer: the first request must not arrive after the second
    threshold: float = 300.0
    usable: float = 5.0  # a token with less left is not handed out
    forced_gap: float = 60.0  # between two renewals that an upstream's 401 asked for
    patience: float = 5.0  # with a database that is locked or away

    @property
    def lease(self) -> float:
        return self.deadline + self.margin

    @property
    def wait(self) -> float:
        return self.deadline + 3.0


def timing_of(config: UsableConfig) -> Timing:
    kept, settings = config.spec.token_management, current_app.config
    threshold = kept.refresh_threshold_seconds
    if threshold is None:
        threshold = settings["OAUTH_TOKEN_EXPIRY_THRESHOLD"]
    if not kept.auto_refresh:
        threshold = 0  # a shared token is then used up before the next is asked for
    return Timing(deadline=settings["OAUTH_REQUEST_TIMEOUT"], threshold=threshold)


@dataclass(frozen=True, slots=True)
class Need:
    """What one caller needs; `after` is the token_gen that the MCP server answered 401 to."""

    config: UsableConfig
    timing: Timing
    after: int | None = None

    def lives(self, seen: Seen) -> bool:
        """Whether the token may be handed out."""
        return (
            seen.state in LIVING
            and seen.access_token_sealed is not None
            and seen.token_gen != self.after
            and self.fits(seen)
            and _left(seen) > min(self.timing.usable, _life(seen) / 4)
        )

    def is_fresh(self, seen: Seen) -> bool:
        """Whether nobody need think of renewing it.

        The threshold counts for half of the life at most: else a short-lived token is always due.
        """
        early = min(self.timing.threshold, _life(seen) / 2) * (1 - _jitter(seen) / 10)
        return self.lives(seen) and _left(seen) > early

    def fits(self, seen: Seen) -> bool:
        """A shared token is good for exactly the config it was asked for with (SEC-024).

        A person's grant is pinned: edits that touch it end it at once (oauth.md 8.3).
        """
        return not self.config.is_shared or seen.config_version == self.config.version

    def can_renew(self, seen: Seen) -> bool:
        """Without the person."""
        if self.config.is_shared:
            return True
        keeps = self.config.spec.token_management.auto_refresh
        return keeps and seen.refresh_token_sealed is not None


def _left(seen: Seen) -> float:
    return float("inf") if seen.expires_ms is None else (seen.expires_ms - seen.now()) / 1000


def _life(seen: Seen) -> float:
    if seen.expires_ms is None or seen.issued_ms is None:
        return 0.0
    return max(0, seen.expires_ms - seen.issued_ms) / 1000


def _jitter(seen: Seen) -> float:
    """0 to 1, the same in every process: people who came together do not renew together."""
    return zlib.crc32(f"{seen.id}{seen.token_gen}".encode()) / 0xFFFFFFFF
