"""Signed-in browsers: a row each, known by the hash of what its cookie holds (SEC-067)."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from flask import current_app

from .access import Caller
from .db import AWAY, db, recent, utcnow
from .models import BrowserSession, User

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignedIn:
    id: str
    caller: Caller
    confirmed_at: datetime  # when the password was typed last


def start(user_id: str, *, address: str, agent: str) -> str:
    """A new session; gives what its cookie holds. Whoever calls decides who it is, and commits."""
    cookie = secrets.token_urlsafe(32)
    row = BrowserSession(user_id=user_id, token_hash=_hash(cookie))
    row.address, row.agent = address[:45], agent[:200]
    db.session.add(row)
    db.session.execute(sa.delete(BrowserSession).where(is_over()))
    return cookie


def current(cookie: str) -> SignedIn | None:
    """Whose cookie this is; None for unknown, ended, idle and disabled. At most a second old."""
    token_hash = _hash(cookie)
    return recent().get(("browser_session", token_hash), lambda: _load(token_hash))


def of(user_id: str) -> Sequence[BrowserSession]:
    """Those that still hold, the last used first."""
    s = BrowserSession
    query = sa.select(s).where(s.user_id == user_id, ~is_over()).order_by(s.seen_at.desc())
    return db.session.scalars(query).all()


def renew(session_id: str) -> str | None:
    """The password was typed: what the cookie holds from now on; None if it ended meanwhile."""
    cookie, s = secrets.token_urlsafe(32), BrowserSession
    fresh = sa.update(s).where(s.id == session_id, ~is_over())
    fresh = fresh.values(token_hash=_hash(cookie), confirmed_at=utcnow())
    return cookie if db.session.scalar(fresh.returning(s.id)) else None


def end(user_id: str, *, session_id: str | None = None, keep: str | None = None) -> int:
    """End one session of this person, or all but `keep`; gives how many there were."""
    s = BrowserSession
    which = s.id == session_id if session_id else s.id != (keep or "")
    over = sa.delete(s).where(s.user_id == user_id, which).returning(s.id)
    return len(db.session.scalars(over).all())


def _load(token_hash: str) -> SignedIn | None:
    s, u = BrowserSession, User
    query = (
        sa.select(s.id, s.seen_at, s.confirmed_at, s.user_id, u.email, u.role)
        .join(u, u.id == s.user_id)
        .where(s.token_hash == token_hash, ~u.is_disabled, ~is_over())
    )
    with db.engine.connect() as link:
        row = link.execute(query).first()
    if row is None:
        return None
    _note_seen(row.id, row.seen_at)
    caller = Caller(user_id=row.user_id, email=row.email, is_admin=row.role == "admin")
    return SignedIn(row.id, caller, row.confirmed_at)


def is_over() -> sa.ColumnElement[bool]:
    """Idle too long, or as old as a session may get (SEC-068)."""
    idle = timedelta(minutes=current_app.config["SESSION_IDLE_MINUTES"])
    most = timedelta(hours=current_app.config["SESSION_MAX_HOURS"])
    now, s = utcnow(), BrowserSession
    return sa.or_(s.seen_at < now - idle, s.created_at < now - most)


def _note_seen(session_id: str, seen_at: datetime) -> None:
    """At most once a minute, or more often for a short idle time. A locked database loses it."""
    idle = timedelta(minutes=current_app.config["SESSION_IDLE_MINUTES"])
    now = utcnow()
    if seen_at > now - min(timedelta(minutes=1), idle / 4):
        return
    change = sa.update(BrowserSession).where(BrowserSession.id == session_id).values(seen_at=now)
    try:
        with db.engine.begin() as link:
            link.execute(change)
    except AWAY:
        log.warning("the use of a browser session was not noted")


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
