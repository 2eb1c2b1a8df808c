"""Who did what: written in the transaction of the change, so neither is there without the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from . import chain
from .db import db, utcnow
from .models import AuditEvent


@dataclass(frozen=True, slots=True)
class Actor:
    kind: str  # user, token, system, anonymous
    id: str | None = None
    label: str = ""  # an email address
    address: str = ""
    request_id: str = ""


SYSTEM = Actor("system")


@dataclass(frozen=True, slots=True)
class Subject:
    kind: str  # user, session, api_token, gateway, connection, flow
    id: str | None = None
    label: str = ""


def record(
    actor: Actor, action: str, subject: Subject, *, outcome: str = "ok", **details: Any
) -> None:
    """Whoever commits the change commits the event; a commit without it raises NotRecorded.

    `details` are names of changed fields, codes and counts: never a value, never a secret.
    """
    stage(db.session(), entry(actor, action, subject, outcome=outcome, **details))


def stage(session: Session, event: AuditEvent) -> None:
    """The same for a change that has a session of its own."""
    chain.stage(session, event)


def entry(
    actor: Actor, action: str, subject: Subject, *, outcome: str = "ok", **details: Any
) -> AuditEvent:
    return AuditEvent(
        at=utcnow(),
        actor_kind=actor.kind,
        actor_id=actor.id,
        actor_label=actor.label,
        action=action,
        subject_kind=subject.kind,
        subject_id=subject.id,
        subject_label=subject.label,
        outcome=outcome,
        details=details,
        request_id=actor.request_id,
        address=actor.address,
        gateway_id=None,  # these two are looked up as it is written
        person_id=None,
    )
