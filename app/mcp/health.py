"""When a gateway worked last, and when it failed: at most one note a minute, off the path."""

from __future__ import annotations

import logging
import time

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from ..db import db, db_now_ms
from ..models import Gateway

log = logging.getLogger(__name__)

EVERY_S = 60
_FAILURES = (  # of the server or of its set-up; what a person has to do is none
    *("upstream_unreachable", "upstream_timeout", "upstream_error", "upstream_bad_answer"),
    *("token_refused", "redirected", "sign_in_not_set_up"),
)
_due: dict[tuple[str, str], float] = {}  # gateway id and code -> when to note it again, monotonic


def is_due(gateway_id: str, code: str) -> bool:
    """Whether this process should note it now."""
    if code != "ok" and code not in _FAILURES:
        return False
    now, key = time.monotonic(), (gateway_id, code)
    if _due.get(key, 0.0) > now:
        return False
    if len(_due) >= 10_000:
        _due.clear()
    _due[key] = now + EVERY_S
    return True


def note(gateway_id: str, code: str) -> None:
    """Commits. A locked database loses the note. What calls read is not touched by it."""
    now = db_now_ms()
    values = {"worked_ms": now} if code == "ok" else {"failed_ms": now, "failed_code": code}
    change = sa.update(Gateway.__table__).where(Gateway.id == gateway_id).values(**values)  # type: ignore[arg-type]
    try:
        with db.engine.begin() as link:
            link.execute(change)
    except OperationalError:
        log.warning("how a gateway fares was not noted")
