"""What stopped the last person who tried to sign in to a gateway, as the audit trail has it.

Only a person at a provider meets a refused code, a "no" or a lost state. This brings it to where
an admin looks: the check.
"""

from __future__ import annotations

import sqlalchemy as sa

from .db import db
from .errors import texts
from .models import AuditEvent

_HARMLESS = ("state_used", "config_changed")  # after which nothing has to be mended
_DONE = ("consent.finished", "connection.connected")
e = AuditEvent


def refusal(gateway_id: str) -> str | None:
    """The code, unless somebody has signed in since. A short read of its own."""
    query = sa.select(e.action, e.details).where(e.gateway_id == gateway_id)
    query = query.where(e.action.in_(("consent.refused", *_DONE)))
    with db.engine.connect() as link:
        for action, details in link.execute(query.order_by(e.seq.desc()).limit(20)):
            code = str((details or {}).get("code") or "")
            if action in _DONE:
                return None
            if code in texts() and code not in _HARMLESS:
                return code
    return None
