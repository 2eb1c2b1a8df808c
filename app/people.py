"""People: who may sign in, and as what. The last admin who can sign in stays one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from . import audit, passwords, sessions, throttle
from .audit import SYSTEM, Actor, Subject
from .db import db, utcnow
from .errors import Conflict, Invalid, NotFound
from .models import CatalogEntry, User
from .oauth import keeping
from .sessions import SignedIn

ROLES = {"user": "User", "admin": "Admin"}
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,180}")


@dataclass(frozen=True, slots=True)
class _Known:
    id: str
    email: str
    password_hash: str | None = field(repr=False)
    is_disabled: bool


_NOBODY = _Known(id="", email="", password_hash=None, is_disabled=True)


def create(email: str, *, password: str | None, role: str = "user", by: Actor = SYSTEM) -> User:
    """Without a password nobody can sign in as this person yet. Raises Invalid."""
    return add(draft(email, password=password, role=role), by=by)


def draft(email: str, *, password: str | None, role: str) -> User:
    """A person with a hashed password, not stored yet. Raises Invalid; opens no transaction."""
    email = folded(email)
    if not _EMAIL.fullmatch(email) or not email.isprintable():
        raise Invalid({"email": "Enter an email address, such as ana@example.com."})
    if role not in ROLES:
        raise Invalid({"role": f"Choose one of {', '.join(ROLES)}."})
    return User(email=email, role=role, password_hash=_new_hash(password, email))


def add(user: User, *, by: Actor) -> User:
    """Raises Invalid when there is an account with this email."""
    db.session.add(user)
    try:
        db.session.flush()
    except IntegrityError as error:
        db.session.rollback()
        raise Invalid({"email": "There is already an account with this email."}) from error
    audit.record(by, "user.created", _subject(user), role=user.role)
    return user


def folded(email: str) -> str:
    return email.strip().lower()


def everybody() -> Sequence[User]:
    return db.session.scalars(sa.select(User).order_by(User.email)).all()


def find(user_id: str) -> User:
    """Raises NotFound."""
    user = db.session.get(User, user_id)
    if user is None:
        raise NotFound
    return user


def named(email: str) -> User:
    """By email. Raises NotFound."""
    user = db.session.scalar(sa.select(User).where(User.email == folded(email)))
    if user is None:
        raise NotFound("user_not_found", email=folded(email))
    return user


def admins() -> Sequence[str]:
    """Emails of those who can help: whom a page may name to people who are signed in."""
    query = sa.select(User.email).where(User.role == "admin", ~User.is_disabled)
    return db.session.scalars(query.order_by(User.email).limit(3)).all()


# -- signing in -----------------------------------------------------------------------------------


def sign_in(
    email: str,
    password: str,
    *,
    by: Actor,
    agent: str,
    is_right: Callable[[str, str | None], bool] = passwords.is_right,
) -> str | None:
    """What the cookie of a new session holds; None if the two do not belong together.

    Unknown, disabled and wrong look alike and take as long (SEC-071). Raises Busy. Commits the
    count of the try before the password is looked at; the caller commits what comes of it.
    """
    limits = throttle.sign_in(folded(email), by.address)
    pause_s = throttle.take(limits)
    known = _known(folded(email))
    if not _is_them(known, password, is_right):
        _record_failure(known, pause_s, by=by)
        return None
    fresh = _today(known, password)  # may hash, so before anything is written
    throttle.give_back(limits)
    if not _still(known, fresh):
        return None
    me = acting(by, known.id, known.email)
    audit.record(me, "login", Subject("user", known.id, known.email))
    return sessions.start(known.id, address=by.address, agent=agent)


def confirm(here: SignedIn, password: str, *, by: Actor) -> str | None:
    """Who is signed in typed the password once more: what the cookie of their session holds now.

    None if it is wrong. Raises Busy. Commits the count of the try.
    """
    email = here.caller.email
    limits = throttle.sign_in(email, by.address)
    pause_s = throttle.take(limits)
    known = _known(email)
    if not _is_them(known, password):
        _record_failure(known, pause_s, by=by)
        return None
    throttle.give_back(limits)
    audit.record(by, "login.confirmed", Subject("user", known.id, known.email))
    return sessions.renew(here.id)


def change_password(email: str, current: str, new: str, *, by: Actor, agent: str) -> str | None:
    """End all sessions of the person, start a new one, and give what its cookie holds.

    None if `current` is wrong. Raises Invalid, Busy. Commits the count of the try.
    """
    limits = throttle.sign_in(email, by.address)
    pause_s = throttle.take(limits)
    known = _known(email)
    if not _is_them(known, current):
        _record_failure(known, pause_s, by=by)
        return None
    passwords.check_new(new, email=email)
    fresh = passwords.hashed(new)
    throttle.give_back(limits)
    if not _still(known, fresh):
        return None
    sessions.end(known.id)
    audit.record(by, "user.password_changed", Subject("user", known.id, known.email))
    return sessions.start(known.id, address=by.address, agent=agent)


def acting(by: Actor, user_id: str, email: str) -> Actor:
    """The actor of a request that has just become this person's."""
    return replace(by, kind="user", id=user_id, label=email)


def _known(email: str) -> _Known:
    columns = [getattr(User, name) for name in _Known.__dataclass_fields__]
    with db.engine.connect() as link:
        row = link.execute(sa.select(*columns).where(User.email == email)).first()
    return _NOBODY if row is None else _Known(**row._mapping)


def _is_them(
    known: _Known, password: str, is_right: Callable[[str, str | None], bool] = passwords.is_right
) -> bool:
    """The password is looked at first, whoever it is."""
    return is_right(password, known.password_hash) and not known.is_disabled


def _today(known: _Known, password: str) -> str:
    """The hash to keep: the one there is, or one of today's strength."""
    kept = known.password_hash or ""
    return passwords.hashed(password) if passwords.is_outdated(kept) else kept


def _still(known: _Known, password_hash: str) -> bool:
    """Store the hash, unless an admin disabled the person or set a password meanwhile."""
    same = sa.and_(User.password_hash == known.password_hash, ~User.is_disabled)
    change = sa.update(User).where(User.id == known.id, same)
    change = change.values(password_hash=password_hash, signed_in_at=utcnow())
    return db.session.scalar(change.returning(User.id)) is not None


def _record_failure(known: _Known, pause_s: int, *, by: Actor) -> None:
    """Not what was typed as an email: people type passwords there."""
    subject = Subject("user", known.id or None, known.email)
    audit.record(by, "login", subject, outcome="failed")
    if pause_s:
        audit.record(by, "login.throttled", subject, outcome="denied", pause_s=pause_s)


# -- changes by admins ----------------------------------------------------------------------------


def set_role(user_id: str, role: str, *, by: Actor) -> None:
    """Ends their sessions (SEC-066). Raises Invalid, NotFound, and Conflict for the last admin."""
    if role not in ROLES:
        raise Invalid({"role": f"Choose one of {', '.join(ROLES)}."})
    user = find(user_id)
    if user.role == role:
        return
    _change(user, sa.update(User).values(role=role), needs_another=role != "admin")
    sessions.end(user_id)
    audit.record(by, "user.role_changed", _subject(user), role=role)


def disable(user_id: str, *, by: Actor) -> None:
    """Out everywhere within a second, API tokens too; their connections wait a week for them.

    Raises NotFound, Conflict.
    """
    user = find(user_id)
    _change(user, sa.update(User).values(is_disabled=True), needs_another=True)
    sessions.end(user_id)
    keeping.put_away(user_id, by=by)
    audit.record(by, "user.disabled", _subject(user))


def enable(user_id: str, *, by: Actor) -> None:
    """Their API tokens work again, and for a week their connections; they sign in anew.

    Raises NotFound.
    """
    user = find(user_id)
    user.is_disabled = False
    keeping.bring_back(user_id, by=by)
    audit.record(by, "user.enabled", _subject(user))


def set_password(user_id: str, password: str, *, by: Actor) -> None:
    """Ends their sessions. Raises Invalid, NotFound."""
    user = find(user_id)
    user.password_hash = _new_hash(password, user.email)
    db.session.flush()  # before the sessions go: a sign-in under way waits, and then fails
    sessions.end(user_id)
    audit.record(by, "user.password_changed", _subject(user))


def delete(user_id: str, *, by: Actor) -> None:
    """With their sessions, API tokens and connections, which end at the providers, too.

    Raises NotFound, Conflict.
    """
    user = find(user_id)
    subject = _subject(user)
    _lock_admins()  # before the person: two who delete each other would wait in a circle
    db.session.execute(sa.select(User.id).where(User.id == user_id).with_for_update())
    keeping.let_go_of(user_id)
    _change(user, sa.delete(User), needs_another=True)
    seen = sa.delete(CatalogEntry).where(CatalogEntry.owner_key == f"user:{user_id}")
    db.session.execute(seen)
    audit.record(by, "user.deleted", subject)


def _change(user: User, change: sa.Update | sa.Delete, *, needs_another: bool) -> None:
    """Raises Conflict if nobody who can administer would be left, in a race of two as well."""
    if needs_another:
        _lock_admins()
    other = sa.orm.aliased(User)
    another = sa.exists().where(other.role == "admin", ~other.is_disabled, other.id != user.id)
    harmless = sa.or_(User.role != "admin", User.is_disabled, another)
    where = sa.and_(User.id == user.id, harmless if needs_another else sa.true())
    change = change.where(where).returning(User.id).execution_options(synchronize_session=False)
    changed = db.session.scalar(change)
    if changed is None:
        raise Conflict("last_admin")
    db.session.expire_all()


def _lock_admins() -> None:
    """One removal of an admin after the other (PostgreSQL; SQLite has one writer anyway)."""
    if db.engine.dialect.name == "postgresql":
        admins = sa.select(User.id).where(User.role == "admin").order_by(User.id)
        db.session.execute(admins.with_for_update())


def _new_hash(password: str | None, email: str) -> str | None:
    if password is None:
        return None
    passwords.check_new(password, email=email)
    return passwords.hashed(password)


def _subject(user: User) -> Subject:
    return Subject("user", user.id, user.email)
