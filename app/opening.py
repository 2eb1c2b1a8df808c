"""The database is opened once by each process: at its start, or as soon as it is there.

A worker that starts while PostgreSQL is away, as one that replaces another may, must not end the
server: it answers 503 until the database is back, and opens it then (SEC-118).
"""

from __future__ import annotations

import logging
import threading

from flask import current_app

from config import ConfigError

from . import keys, schema
from .db import AWAY, db
from .errors import Busy

log = logging.getLogger(__name__)


class Opening:
    """Whether this process has opened the database. One at a time tries to."""

    def __init__(self) -> None:
        self.is_done = False
        self._trying = threading.Lock()

    def at_start(self, *, migrates: bool) -> None:
        """Raises ConfigError for what waiting does not mend; else waits for `now`."""
        try:
            _open(migrates=migrates)
            self.is_done = True
        except AWAY as error:
            if db.engine.dialect.name == "sqlite" and "locked" not in str(error):
                raise ConfigError(f"DATABASE_URL cannot be opened: {error}") from error
            why = str(error).splitlines()[0]
            log.warning("the database cannot be opened yet: %s", why)

    def now(self, *, migrates: bool) -> None:
        """Before a request or chore, until it is done. Raises Busy, or what the database raises."""
        if not self._trying.acquire(blocking=False):
            raise Busy("database_away", retry_after=2)
        try:
            if not self.is_done:
                _open(migrates=migrates)
                self.is_done = True
                log.warning("the database is open")
        except ConfigError as error:
            log.critical("%s", error)
            raise Busy("database_away", retry_after=60) from error
        finally:
            self._trying.release()


def see_to_it() -> None:
    """Before anything uses the database, in a request or a chore. Raises what `now` raises."""
    opening: Opening = current_app.extensions["opening"]
    if not opening.is_done:
        opening.now(migrates=current_app.config["MIGRATE_AT_START"])


def _open(*, migrates: bool) -> None:
    """See that our key opens it, and bring it up to date. Raises ConfigError.

    First the key: with a wrong one nothing is written, not even a migration.
    """
    try:
        keys.check()
        if migrates:
            schema.upgrade()
        if migrates or schema.is_current():  # else `flask db upgrade` is about to come
            keys.verify()
    except ConfigError:
        db.session.remove()  # this app is not going to be used
        db.engine.dispose()
        raise
