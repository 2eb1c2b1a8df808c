"""Who was kept out of what is written down, where we know who it was (SEC-113).

Once a minute for each person, token and reason, so that a client that tries on and on fills no
table. The log has every single one.
"""

from __future__ import annotations

import logging
import time

from flask import Flask, Response, g, request

from .. import audit
from ..audit import Subject
from ..db import AWAY, db
from ..errors import AppError, NotRecorded
from .auth import actor

log = logging.getLogger(__name__)

AGAIN_S = 60.0
_CODES = ("forbidden", "insufficient_token_scope", "csrf")
_MOST = 10_000
_noted: dict[tuple[str | None, str], float] = {}  # who and why -> until when, monotonic


def register(app: Flask) -> None:
    app.after_request(note)


def note(reply: Response) -> Response:
    """Nothing else is under way in the session: what failed was rolled back, or is now. Commits."""
    refused: AppError | None = g.get("refused")
    if refused is None or refused.code not in _CODES:
        return reply
    by, now = actor(), time.monotonic()
    if by.kind == "anonymous" or _noted.get((by.id, refused.code), 0.0) > now:
        return reply
    if len(_noted) >= _MOST:
        _noted.clear()
    _noted[by.id, refused.code] = now + AGAIN_S
    where = Subject("page", None, f"{request.method} {request.path}"[:200])
    db.session.rollback()
    try:
        audit.record(by, "access.denied", where, outcome="denied", code=refused.code)
        db.session.commit()
    except (NotRecorded, *AWAY):
        db.session.rollback()
        log.warning("a denial was not recorded")
    return reply
