"""What happened to a connection, in words, from the audit trail. No token, no provider's text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..db import db, utcnow
from ..errors import AppError, code_for, texts
from ..models import AuditEvent

LIMIT = 10  # moments that are shown
_READ = 200  # events they are made from: renewals in a row are one moment


@dataclass(frozen=True, slots=True)
class Moment:
    """`times`: so often in a row, `at` being the last of them."""

    at: datetime
    event: str  # the action of the audit event
    kind: str  # of a badge: ok, warn, bad, off
    words: str
    times: int = 1

    @property
    def said(self) -> str:
        return self.words if self.times == 1 else f"{self.words} {self.times} times in a row."


def of(connection_id: str, *, host: str = "", limit: int = LIMIT) -> list[Moment]:
    """Newest first. A short transaction of its own. `host`: the provider, for the words."""
    e = AuditEvent
    query = (
        sa.select(e.at, e.action, e.details)
        .where(e.subject_kind == "connection", e.subject_id == connection_id)
        .order_by(e.at.desc(), e.seq.desc())
        .limit(_READ)
    )
    with db.engine.connect() as link:
        rows = link.execute(query).all()
    found: list[Moment] = []
    for row in rows:
        moment = _moment(row.at, row.action, row.details or {}, host)
        if moment is None:
            continue
        if found and (found[-1].event, found[-1].words) == (moment.event, moment.words):
            last = found.pop()
            moment = Moment(last.at, last.event, last.kind, last.words, last.times + 1)
        elif len(found) == limit:
            break
        found.append(moment)
    return found


def words(action: str, details: Mapping[str, Any], host: str = "") -> str | None:
    """What an event says; None if it says nothing to a person."""
    moment = _moment(utcnow(), action, details, host)
    return None if moment is None else moment.words


def _moment(at: datetime, action: str, details: Mapping[str, Any], host: str) -> Moment | None:
    """None: nothing that a person would want to know."""
    if action not in _WORDS:
        return None
    kind, words = _WORDS[action]
    code = str(details.get("code") or "")
    words = _BY_CODE.get(action, {}).get(code, words)
    if details.get("tokens") == "left":
        words += " We know of no revoke at {host}: it may still list this app."
    other = details.get("spared_for", "")
    said = words.format(host=host or "The provider", why=_why(code, host), other=other)
    return Moment(at, action, kind, said)


def _why(code: str, host: str) -> str:
    if code not in texts():
        return "the provider gave no token"
    told = str(code_for(code, is_admin=False))  # its owner reads this (SEC-093)
    message = AppError(told, host=host or "the provider").message.rstrip(".")
    return message[:1].lower() + message[1:]


_WORDS: Mapping[str, tuple[str, str]] = {
    "connection.connected": ("ok", "Signed in at {host}."),
    "connection.renewed": ("ok", "Renewed."),
    "connection.recovered": ("ok", "Renewed again: {host} answers."),
    "connection.failing": ("bad", "Could not be renewed: {why}. Tried again by itself."),
    "connection.uncertain": (
        *("bad", "The answer of {host} was lost: {why}. Asked again after a pause."),
    ),
    "connection.ended": ("warn", "The sign-in ended."),
    "connection.emptied": ("off", "What was stored was removed."),
    "connection.disconnected": ("off", "Disconnected."),
    "connection.orphaned": ("warn", "Put away: an admin changed this gateway."),
    "connection.returned": ("ok", "Back as before: the account is enabled again."),
    "connection.ended_at_provider": ("off", "Revoked at {host}."),
    "connection.revocation_unsupported": (
        *("warn", "{host} cannot revoke it, and may still list this app."),
    ),
    "connection.revocation_waits": (
        *("warn", "{host} did not answer when asked to revoke it. Asked again by itself."),
    ),
    "connection.revocation_given_up": (
        *("bad", "{host} would not revoke it. Remove this app there."),
    ),
}
_BY_CODE: Mapping[str, Mapping[str, str]] = {
    "connection.ended": {
        "grant_ended": "Ended by {host}.",
        "restored": "An older state of this server was put back. {host} knows a newer sign-in.",
        "interaction_required": "{host} wants the person to sign in again.",
        "expired": "Ran out, and could not be renewed.",
        "refused_by_server": "The server took it no longer.",
        "secret_unreadable": "What was stored cannot be read any more.",
    },
    "connection.revocation_unsupported": {
        "ends_all": "Not revoked at {host}: that would end the connection to {other} too.",
    },
    "connection.revocation_given_up": {
        "secret_unreadable": "What was to be revoked cannot be read. Remove this app at {host}.",
    },
    "connection.disconnected": {
        "by_admin": "Disconnected by an admin.",
    },
    "connection.orphaned": {
        "access_lost": "Put away: the account was disabled.",
        "issuer_changed": "Put away: the gateway moved to another provider.",
        "client_gone": "Put away: {host} no longer knows this server's app.",
    },
}
