"""What happened here, for admins: the audit trail in words, looked for and counted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from .db import db, utcnow
from .errors import AppError, Invalid, NotFound, texts
from .models import ApiToken, AuditEvent, Gateway, User
from .oauth import timeline

e = AuditEvent

TYPES = {  # what a filter offers -> beginnings of actions
    "sign-in": ("log", "session.", "setup"),
    "denied": ("access.",),
    "connections": ("connection.", "consent."),
    "gateways": ("gateway.", "tool_config.", "client."),
    "users": ("user.",),
    "tokens": ("api_token.",),
    "server": ("key.", "audit.", "backup.", "tokens."),
}
OUTCOMES = {"ok": "Done", "denied": "Denied", "failed": "Failed"}
IN_FILE = 5_000  # events, at most
EXPLAINED = 1_000  # failures whose causes are counted: reading a row takes long enough to notice


@dataclass(frozen=True, slots=True)
class Filter:
    """`person` is an email, `gateway` a slug, `since` a moment, `before` the number of an event."""

    person: str = ""
    gateway: str = ""
    type: str = ""
    outcome: str = ""
    since: datetime | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    seq: int
    at: datetime
    action: str
    words: str
    who: str
    outcome: str
    gateway: str | None  # its name
    slug: str | None  # None: no gateway, or one that is gone
    subject: str
    details: Mapping[str, Any]
    request_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Failures of one kind at one gateway."""

    code: str
    message: str
    gateway: str | None
    times: int
    people: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the last day. `hours`: label, done, not done; the oldest first."""

    hours: Sequence[tuple[str, int, int]]
    done: int
    not_done: int
    causes: Sequence[Cause] = field(default=())


def read_filter(given: Mapping[str, str]) -> Filter:
    """Of a query. Raises Invalid for what cannot be one of ours."""
    wrong, since, before = {}, None, None
    for name, known in (("type", TYPES), ("outcome", OUTCOMES)):
        if given.get(name) and given[name] not in known:
            wrong[name] = f"Choose one of {', '.join(known)}."
    if given.get("from"):
        since = _day(given["from"])
        if since is None:
            wrong["from"] = "from must look like 2026-11-23."
    if given.get("before"):
        text = given["before"]
        before = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
        if before is None:
            wrong["before"] = "before must be the number of an event."
    if wrong:
        raise Invalid(wrong)
    names = ("person", "gateway", "type", "outcome")
    return Filter(
        **{name: given.get(name, "").strip() for name in names}, since=since, before=before
    )


def _day(text: str) -> datetime | None:
    """Its beginning. Python reads weeks and dates without dashes, too, which nobody was told of."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        return None
    try:
        return datetime.fromisoformat(f"{text}T00:00:00+00:00")
    except ValueError:
        return None


def events(wanted: Filter, *, limit: int) -> list[Event]:
    """The newest first. Raises NotFound for a gateway nobody knows."""
    g = Gateway
    query = (
        sa.select(e, g.name.label("gateway_name"), g.slug.label("gateway_slug"))
        .outerjoin(g, g.id == e.gateway_id)
        .where(*_conditions(wanted))
        .order_by(e.seq.desc())
        .limit(limit)
    )
    with db.engine.connect() as link:
        return [_event(row) for row in link.execute(query).mappings()]


def summary(wanted: Filter, *, now: datetime | None = None) -> Summary:
    """What the filter finds of the last 24 hours, whatever moment or page it names."""
    now = now or utcnow()
    first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=23)
    day = Filter(wanted.person, wanted.gateway, wanted.type, wanted.outcome, since=first)
    hour, is_good = sa.extract("hour", e.at), e.outcome == "ok"  # an hour comes once in 24
    until = e.at < first + timedelta(hours=24)  # a node's clock may be ahead
    counts = sa.select(hour, is_good, sa.func.count()).where(*_conditions(day), until)
    failures = (
        sa.select(e.at, e.details, e.person_id, Gateway.name.label("gateway"))
        .outerjoin(Gateway, Gateway.id == e.gateway_id)
        .where(*_conditions(day), e.outcome == "failed")
        .order_by(e.seq.desc())
        .limit(EXPLAINED)
    )
    with db.engine.connect() as link:
        found = link.execute(counts.group_by(hour, is_good)).all()
        failed = link.execute(failures).all()
    count = {(int(at), bool(good)): number for at, good, number in found}
    hours = [
        (f"{at:%H:%M}", count.get((at.hour, True), 0), count.get((at.hour, False), 0))
        for at in (first + timedelta(hours=number) for number in range(24))
    ]
    done, not_done = (sum(column) for column in list(zip(*hours, strict=True))[1:])
    return Summary(hours, done, not_done, _causes(failed))


def _conditions(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    """Only what has a place in the chain: everything, but for events from before there was one."""
    found: list[sa.ColumnElement[bool]] = [e.seq.is_not(None)]
    if wanted.person:
        found.append(_by_or_about(wanted.person.lower()))
    if wanted.gateway:
        gateway_id = db.session.scalar(sa.select(Gateway.id).filter_by(slug=wanted.gateway))
        if gateway_id is None:
            raise NotFound("gateway_not_found", gateway=wanted.gateway[:100])
        found.append(e.gateway_id == gateway_id)
    if wanted.type:
        found.append(sa.or_(*(e.action.startswith(start) for start in TYPES[wanted.type])))
    if wanted.outcome:
        found.append(e.outcome == wanted.outcome)
    if wanted.since is not None:
        found.append(e.at >= wanted.since)
    if wanted.before is not None:
        found.append(e.seq < wanted.before)
    return found


def _by_or_about(email: str) -> sa.ColumnElement[bool]:
    """A person, their API tokens, and what was done to their account; by name after it is gone."""
    named = sa.or_(e.actor_label == email, e.subject_label == email)
    user_id = db.session.scalar(sa.select(User.id).filter_by(email=email))
    if user_id is None:
        return named
    tokens = sa.select(ApiToken.id).where(ApiToken.user_id == user_id)
    return sa.or_(named, e.person_id == user_id, e.actor_id.in_(tokens), e.actor_id == user_id)


def _causes(found: Sequence[Any]) -> list[Cause]:
    """The most frequent first."""
    kinds: dict[tuple[str, str | None], list[Any]] = {}
    for row in found:
        code = str((row.details or {}).get("code") or "")
        if code in texts():
            kinds.setdefault((code, row.gateway), []).append(row)
    causes = [
        Cause(
            code=code,
            message=_message(code, gateway),
            gateway=gateway,
            times=len(rows),
            people=len({row.person_id for row in rows if row.person_id}),
            last_at=max(row.at for row in rows),
        )
        for (code, gateway), rows in kinds.items()
    ]
    return sorted(causes, key=lambda cause: -cause.times)[:5]


# -- words ----------------------------------------------------------------------------------------

_WORDS = {  # of an action, or of an action with an outcome
    "login": "Signed in",
    "login failed": "Could not sign in",
    "login.confirmed": "Entered the password again",
    "login.confirmed failed": "Entered a wrong password",
    "login.throttled": "Is slowed down after wrong passwords",
    "logout": "Signed out",
    "setup": "Set this server up",
    "session.ended": "Signed browsers out",
    "access.denied": "Was kept out of {subject}",
    "user.created": "Added the account {subject}",
    "user.deleted": "Deleted the account {subject}",
    "user.disabled": "Disabled the account {subject}",
    "user.enabled": "Enabled the account {subject}",
    "user.role_changed": "Changed the role of {subject}",
    "user.password_changed": "Changed the password of {subject}",
    "api_token.created": "Made the API token {subject}",
    "api_token.revoked": "Revoked the API token {subject}",
    "gateway.created": "Added the gateway {subject}",
    "gateway.updated": "Changed the gateway {subject}",
    "gateway.deleted": "Deleted the gateway {subject}",
    "gateway.checked": "Checked the gateway {subject}",
    "gateway.switched_on": "Switched {subject} on",
    "gateway.switched_off": "Switched {subject} off",
    "gateway.provider_moved": "Left {subject} waiting for an admin",
    "tool_config.added": "Added an OAuth config for some tools of {subject}",
    "tool_config.changed": "Changed an OAuth config for some tools of {subject}",
    "tool_config.removed": "Removed an OAuth config for some tools of {subject}",
    "gateway.client_chosen": "Chose the client of {subject}",
    "client.registered": "Registered a client at {subject}",
    "client.refused": "Got no client from the provider of {subject}",
    "client.widened": "Registered a client for more rights at {subject}",
    "client.removed": "Removed a client at {subject}",
    "client.forgotten": "Found that a provider had forgotten a client",
    "consent.begun": "Went to sign in at {subject}",
    "consent.finished": "Signed in at {subject}",
    "consent.refused": "Did not get through the sign-in at {subject}",
    "connection.revocation_queued": "Tokens wait to be revoked.",
    "key.added": "A new encryption key is in use",
    "key.resealed": "Secrets were sealed with the new key",
    "audit.begun_anew": "Began a new chain of records",
    "backup.restored": "A backup was restored",
    "tokens.revoked": "Revoked all tokens",
}


def knows(action: str) -> bool:
    return action in _WORDS or timeline.words(action, {}) is not None


def _event(row: Mapping[Any, Any]) -> Event:
    details = row["details"] or {}
    return Event(
        seq=row["seq"],
        at=row["at"],
        action=row["action"],
        words=_words(row, details),
        who=_who(row),
        outcome=row["outcome"],
        gateway=row["gateway_name"] or (row["subject_label"] if row["gateway_id"] else None),
        slug=row["gateway_slug"],
        subject=row["subject_label"],
        details=details,
        request_id=row["request_id"],
        address=row["address"],
    )


def _words(row: Mapping[Any, Any], details: Mapping[str, Any]) -> str:
    action, subject = row["action"], row["subject_label"] or "an unknown account"
    known = _WORDS.get(f"{action} {row['outcome']}") or _WORDS.get(action)
    if known is None:  # of a connection, whose page uses the same words
        host = row["gateway_name"] or "the provider"
        return timeline.words(action, details, host) or action.replace(".", ": ").replace("_", " ")
    code = str(details.get("code") or "")
    more = [str(details["config"])] if "config" in details else []
    more += [_plain(path) for path in details.get("fields", ())]
    more += [str(details["role"])] if "role" in details else []
    more += [_message(code, row["gateway_name"])] if code in texts() else []
    said = known.format(subject=subject)
    return f"{said}: {', '.join(more)}" if more else said


def _plain(path: str) -> str:
    """A field as people say it: of oauth_config.client_secret, client secret."""
    return path.rpartition(".")[2].replace("_", " ")


def _message(code: str, gateway: str | None) -> str:
    name = gateway or "the gateway"
    return AppError(code, host="the provider", gateway=name, name=name).message


def _who(row: Mapping[Any, Any]) -> str:
    kind, label = row["actor_kind"], row["actor_label"]
    if kind == "token":
        return f"{label}, by API token"
    return label or {"anonymous": "Somebody not signed in"}.get(kind, "The gateway itself")
