"""Who did what: written in the transaction of the change, so neither is there without the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .db import db
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
    """Add the event to the session; whoever commits the change commits it.

    `details` are names of changed fields, codes and counts: never a value, never a secret.
    """
    db.session.add(entry(actor, action, subject, outcome=outcome, **details))


def entry(
    actor: Actor, action: str, subject: Subject, *, outcome: str = "ok", **details: Any
) -> AuditEvent:
    """The same for a change that has a session of its own."""
    return AuditEvent(
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
    )
