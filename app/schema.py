"""Migrations at start: one process runs them, the others wait (SEC-119)."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import flask_migrate
import sqlalchemy as sa
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app

from .db import db

_LOCK = 0x6D637067  # any constant number: PostgreSQL's advisory locks are told apart by it


def upgrade() -> None:
    """Bring the database to the newest revision, unless it is there. Raises what Alembic raises."""
    if is_current():
        return
    with _alone():
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
    """Raises what SQLAlchemy raises when the database is away."""
    with db.engine.connect() as link:
        link.execute(sa.select(1))
