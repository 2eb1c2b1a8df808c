"""Two transactions that meet: whether one waits for the other, and whether they did in a circle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from app.db import db

PATIENCE_S = 30.0


class Deadlocks:
    """`found`: what PostgreSQL undid because two waited for each other, even if it was repeated."""

    def __init__(self, app) -> None:
        self.found: list[str] = []
        self._pause = threading.Event()
        with app.app_context():
            self._is_postgresql = db.engine.dialect.name == "postgresql"
            self._engine = sa.create_engine(db.engine.url, isolation_level="AUTOCOMMIT")
            sa.event.listen(db.engine, "handle_error", self._note)

    def _note(self, context) -> None:
        if getattr(context.original_exception, "sqlstate", None) == "40P01":
            self.found.append("deadlock")

    def somebody_waits(self) -> bool:
        """For a lock in this database. SQLite does not tell; it has one writer, and no circles."""
        if not self._is_postgresql:
            return True
        query = sa.text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with self._engine.connect() as link:
            waits = bool(link.scalar(query))
        self._engine.dispose()
        return waits

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """The database has no event for it, so it is asked again and again."""
        give_up = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < give_up, "nobody came"
            self._pause.wait(0.02)
