"""When a gateway worked last, for whom, and when it failed: a note a minute, off the path."""

from __future__ import annotations

import logging
import time

import sqlalchemy as sa

from ..access import Usable
from ..db import AWAY, db, db_now_ms
from ..errors import STEPS
from ..models import Connection, Gateway

log = logging.getLogger(__name__)

EVERY_S = 60
_FAILURES = (  # of the server or of its set-up; what a person has to do is none
    *("upstream_unreachable", "upstream_timeout", "upstream_error", "upstream_bad_answer"),
    *("token_refused", "token_refused_shared", "redirected", "sign_in_not_set_up"),
    *STEPS,
)
# gateway id, whose connection, and code -> when to note it again, monotonic
_due: dict[tuple[str, str, str], float] = {}


def is_due(gateway: Usable, code: str) -> bool:
    """Whether this process should note it now."""
    if code != "ok" and code not in _FAILURES:
        return False
    now, key = time.monotonic(), (gateway.id, gateway.owner_key, code)
    if _due.get(key, 0.0) > now:
        return False
    if len(_due) >= 10_000:
        _due.clear()
    _due[key] = now + EVERY_S
    return True


def note(gateway: Usable, code: str) -> None:
    """Commits. A locked database loses the note. What calls read is not touched by it."""
    now, row, used = db_now_ms(), Gateway.__table__, Connection.__table__
    values = {"worked_ms": now} if code == "ok" else {"failed_ms": now, "failed_code": code}
    changes = [sa.update(row).where(row.c.id == gateway.id).values(**values)]  # type: ignore[arg-type]
    if code == "ok" and gateway.connection is not None:
        mine = sa.update(used).where(used.c.id == gateway.connection.id)  # type: ignore[arg-type]
        changes.append(mine.values(last_used_ms=now))
    try:
        with db.engine.begin() as link:
            for change in changes:
                link.execute(change)
    except AWAY:
        log.warning("how a gateway fares was not noted")
