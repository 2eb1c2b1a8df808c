"""The keys that seal: whether ours open this database, and which running process has which.

A check row for each key in use stops a start without it (SEC-081).
"""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import IntegrityError

from config import ConfigError

from . import audit, processes
from .audit import SYSTEM, Subject
from .db import db, db_now_ms
from .errors import AppError, Conflict, Unsealable
from .models import CryptoMeta, KeyHolder
from .secretbox import UnknownKey, box, cell, key_of

ANNOUNCE_S = 20  # between two signs of life of a process
LATE_MS = 90_000  # without one it counts as gone
_DAY_MS = 86_400_000
_KNOWN = "MCP Gateway"
k, h = CryptoMeta, KeyHolder


# -- at the start ----------------------------------------------------------------------------------


def check() -> None:
    """Open the check row of every key in use. Raises ConfigError; writes nothing.

    Before migrations too: a database without the table has nothing sealed yet.
    """
    if not sa.inspect(db.engine).has_table(k.__tablename__):
        return
    query = sa.select(k.id, k.check_sealed).where(k.state == "active").order_by(k.id)
    with db.engine.connect() as link:
        rows = link.execute(query).all()
    missing = []
    for row in rows:
        known = CryptoMeta(id=row.id)
        try:
            box().open(row.check_sealed, where=cell(known, "check_sealed"))
        except UnknownKey:
            missing.append(row.id)
        except Unsealable as error:
            raise ConfigError(
                f"The check row of key {row.id} does not open: the database was altered"
            ) from error
    if missing:
        keys, are = ", ".join(missing), "keys" if missing[1:] else "key"
        raise ConfigError(
            f"AUTH_ENCRYPTION_SECRET (key {box().active}) does not open this database, which was "
            f"sealed with {are} {keys}. Give that secret, or list it in AUTH_ENCRYPTION_SECRETS_OLD"
        )


def verify() -> list[sa.Row[Any]]:
    """check(), then see that the active key has a row in use. Commits. Raises ConfigError.

    Not while a running process lacks it: these are returned, and nothing may be sealed then. They
    could not read it, and with their settings none would start any more.
    """
    check()
    active = box().active
    if _states().get(active) == "active":
        return []
    found = lacking()
    if not found:
        use()
    return found


def use() -> None:
    """See that the active key has a row in use. Commits.

    From then on nobody starts without this key, until it is retired.
    """
    active, states = box().active, _states()
    if states.get(active) == "active":
        return
    if active in states:
        _use_again(active)
        return
    row = CryptoMeta(id=active)
    row.check_sealed = box().seal(_KNOWN, where=cell(row, "check_sealed"))
    db.session.add(row)
    if states:  # not the first of all: somebody changes the key
        audit.record(SYSTEM, "key.added", Subject("key", active, active))
    try:
        db.session.commit()
    except IntegrityError:  # another worker was faster, with the same key
        db.session.rollback()


def _states() -> dict[str, str]:
    with db.engine.connect() as link:
        return {row.id: row.state for row in link.execute(sa.select(k.id, k.state))}


def demand(*sealed: str | None) -> None:
    """Whether this process was started without a key that the database uses. Raises AppError.

    Then it can judge nobody's tokens: they are fine, and it must be started again (SEC-082).
    """
    named = {key_of(value) for value in sealed if value} - {"", *box().key_ids}
    query = sa.select(k.id).where(k.id.in_(named))
    with db.engine.connect() as link:
        found = link.scalars(query).first() if named else None
    if found is not None:
        raise AppError("key_missing", key=found)


# -- who has which ---------------------------------------------------------------------------------


def announce() -> None:
    """Say that this server runs, and with which keys. Commits. Due every ANNOUNCE_S seconds."""
    me, ring = current_app.extensions["process_id"], box()
    now = db_now_ms()
    seen = sa.update(h).where(h.id == me).values(seen_ms=now)
    born = sa.insert(h).values(id=me, host=_host(), pid=os.getpid(), seen_ms=now)
    with db.engine.begin() as link:
        if not link.execute(seen).rowcount:
            link.execute(born.values(active_key=ring.active, key_ids=list(ring.key_ids)))
        link.execute(sa.delete(h).where(h.seen_ms < now - _DAY_MS))
    use()  # it was retired by somebody who did not see us, or we began beside one without it


def _use_again(active: str) -> None:
    change = sa.update(k).where(k.id == active, k.state != "active").values(state="active")
    with db.engine.begin() as link:
        link.execute(change)


def holders() -> list[sa.Row[Any]]:
    """The processes that run, but for this one. Those of this host are looked at."""
    me = current_app.extensions["process_id"]
    query = sa.select(h.__table__).where(h.id != me, h.seen_ms > db_now_ms() - LATE_MS)
    with db.engine.connect() as link:
        rows = link.execute(query.order_by(h.host, h.pid)).all()
    return [row for row in rows if row.host != _host() or processes.runs(row.pid)]


def lacking() -> list[sa.Row[Any]]:
    """The running processes that could not open what we seal."""
    return [row for row in holders() if box().active not in row.key_ids]


def differ(processes: list[sa.Row[Any]]) -> Conflict:
    """For those that lack the active key."""
    return Conflict("keys_differ", key=box().active, processes=named(processes))


def _host() -> str:
    return processes.host()[:64]


def named(rows: list[sa.Row[Any]]) -> str:
    return ", ".join(f"{row.host} (process {row.pid})" for row in rows)


def retire() -> tuple[str, ...]:
    """The old keys, which no longer stop a start without them. The caller commits.

    A process that still seals with one takes it back within ANNOUNCE_S.
    """
    over = sa.update(k).where(k.id != box().active, k.state == "active").values(state="retired")
    return tuple(sorted(db.session.scalars(over.returning(k.id)).all()))
