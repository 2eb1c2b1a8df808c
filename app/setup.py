"""The first run: a code that only the server's log shows makes the first admin (SEC-072)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from . import audit, people, sessions, throttle
from .audit import Actor, Subject
from .db import db, db_now_ms, recent, utcnow
from .errors import Conflict, Invalid
from .models import SetupCode, User

LIFE_MS = 24 * 3_600_000
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that look alike; 8 of them are 40 bits
_THE_ONE = "setup"


def is_done() -> bool:
    """Whether there is anybody. At most a second old."""
    return recent().get("setup", _is_anybody)


def offer(*, anew: bool = False) -> str | None:
    """A fresh code, if none is open and there is nobody yet; the caller prints it. Commits.

    Of several processes that ask, one gets it. `anew`: also when one is open, which then ends.
    """
    if _is_anybody():
        return None
    code = "".join(secrets.choice(_LETTERS) for _ in range(8))
    over = sa.true() if anew else SetupCode.expires_ms <= db_now_ms()
    db.session.execute(sa.delete(SetupCode).where(over))
    new = sa.insert(SetupCode).values(id=_THE_ONE, code_hash=_hash(code))
    try:
        db.session.execute(new.values(expires_ms=db_now_ms() + LIFE_MS))
    except IntegrityError:  # one is open
        db.session.rollback()
        return None
    db.session.commit()
    return f"{code[:4]}-{code[4:]}"


def offer_at_start() -> str | None:
    """The same, but for a database that is away or empty: the form asks again. Commits."""
    try:
        return offer()
    except DBAPIError:
        db.session.rollback()
        return None


def finish(code: str, email: str, password: str, *, by: Actor, agent: str) -> str:
    """Make the first account, an admin's, and sign it in; gives what its cookie holds. Commits.

    Raises Invalid, Busy, and Conflict when there is somebody: of two at once, one wins.
    """
    limits = throttle.set_up(by.address)
    throttle.take(limits)
    if _is_anybody():
        raise Conflict("setup_done")
    _check(code)
    user = people.draft(email, password=password, role="admin")
    nobody = ~sa.exists(sa.select(User.id))
    used = sa.delete(SetupCode).where(SetupCode.code_hash == _hash(code), nobody)
    if db.session.scalar(used.returning(SetupCode.id)) is None:
        db.session.rollback()
        raise Conflict("setup_done")
    throttle.give_back(limits)
    me = people.acting(by, user.id, user.email)
    user.signed_in_at = utcnow()
    people.add(user, by=me)
    audit.record(me, "setup", Subject("user", user.id, user.email))
    cookie = sessions.start(user.id, address=by.address, agent=agent)
    db.session.commit()
    return cookie


def _check(code: str) -> None:
    """Raises Invalid for a code that is not the one, or is over."""
    query = sa.select(SetupCode.code_hash).where(SetupCode.expires_ms > db_now_ms())
    with db.engine.connect() as link:
        kept = link.scalar(query) or ""
    if not hmac.compare_digest(kept, _hash(code)):
        text = "That code does not match. Look for the line that starts with Setup code."
        raise Invalid({"code": text})


def _is_anybody() -> bool:
    with db.engine.connect() as link:
        return link.execute(sa.select(User.id).limit(1)).first() is not None


def _hash(code: str) -> str:
    """Of the letters and digits alone: people leave out the dash, or type small letters."""
    return hashlib.sha256(re.sub(r"[^A-Z0-9]", "", code.upper()).encode()).hexdigest()
