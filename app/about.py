"""Which gateway and whose account an audit event is about, so that both can be looked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .models import ApiToken, AuditEvent, Connection, Flow, OAuthConfig

_SUBJECT: sa.BindParameter[str] = sa.bindparam("subject")
_OF: Mapping[str, Any] = {  # kind of a subject -> its gateway and person, while its row is there
    "connection": sa.select(Connection.gateway_id, Connection.user_id).where(
        Connection.id == _SUBJECT
    ),
    "flow": sa.select(OAuthConfig.gateway_id, Flow.user_id)
    .join(OAuthConfig, OAuthConfig.id == Flow.oauth_config_id)
    .where(Flow.id == _SUBJECT),
    "api_token": sa.select(sa.null(), ApiToken.user_id).where(ApiToken.id == _SUBJECT),
}


def of(session: Session, event: AuditEvent) -> tuple[str | None, str | None]:
    """Gateway and person; where the subject names nobody, the person who acted."""
    kind, subject = event.subject_kind, event.subject_id
    found = session.execute(_OF[kind], {"subject": subject}).first() if kind in _OF else None
    gateway, person = found or (subject if kind == "gateway" else None, None)
    if kind == "user":
        person = subject
    return gateway, person or (event.actor_id if event.actor_kind == "user" else None)
