"""The database as a whole: migrations at start, and whether it is of use now.

One process migrates, the others wait (SEC-119).
"""

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import flask_migrate
import sqlalchemy as sa
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app

from . import postgres
from .db import db, db_now_ms
from .models import RateWindow

_LOCK = 0x6D637067  # any constant number: PostgreSQL's advisory locks are told apart by it


def upgrade() -> None:
    """Bring the database to the newest revision, unless it is there. Raises what Alembic raises."""
    if is_current():
        return
    with postgres.unhurried(), _alone():
        if not is_current():
            flask_migrate.upgrade(directory=_directory())


def _directory() -> str:
    return os.path.join(current_app.root_path, "..", "migrations")


def is_current() -> bool:
    """Whether the database is at the newest revision."""
    config = AlembicConfig()
    config.set_main_option("script_location", _directory())
    with db.engine.connect() as link:
        found = MigrationContext.configure(link).get_current_heads()
    return set(found) == set(ScriptDirectory.from_config(config).get_heads())


@contextmanager
def _alone() -> Iterator[None]:
    if db.engine.dialect.name == "postgresql":
        with db.engine.connect() as link:
            link.execute(sa.select(sa.func.pg_advisory_lock(_LOCK)))
            yield
            link.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK)))
        return
    with open(f"{db.engine.url.database}.migrating", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a crash
        yield


def ping() -> None:
    """Raises what SQLAlchemy raises when the database is away, or could not be written lately."""
    with db.engine.connect() as link:
        link.execute(sa.select(1))
    if current_app.extensions.get("unwritable"):
        _try_to_write()
        current_app.extensions["unwritable"] = False


def note_failure(error: Exception) -> None:
    """What a request met. Without room, or rights, to write a server looks well until one does."""
    if _is_full(error) or _is_read_only(error):
        current_app.extensions["unwritable"] = True


def complaint(error: Exception) -> str:
    """For the operator."""
    if _is_read_only(error):
        return "the database is read-only, as a standby is, or one whose disk is full"
    if _is_full(error):
        return "the database cannot write: its disk is full, or fails"
    return "the database does not answer"


def _is_full(error: Exception) -> bool:
    cause = getattr(error, "orig", None)
    if isinstance(cause, sqlite3.Error):
        kind = (cause.sqlite_errorcode or 0) & 0xFF  # the rest tells kinds of I/O errors apart
        return kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return getattr(cause, "sqlstate", None) == "53100"


def _is_read_only(error: Exception) -> bool:
    """PostgreSQL's; SQLite says it of a file, which nothing here can mend."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == "25006"


def _try_to_write() -> None:
    """A row that is gone again at once; both take room in the journal."""
    row = {"id": f"room {uuid.uuid4().hex}", "window_ms": db_now_ms(), "count": 0}
    with db.engine.begin() as link:
        link.execute(sa.insert(RateWindow).values(**row))
    with db.engine.begin() as link:
        link.execute(sa.delete(RateWindow).where(RateWindow.id == row["id"]))
