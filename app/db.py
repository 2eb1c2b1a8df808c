"""The database handle, constraint names, row ids, both clocks, and reads that are kept a second."""

import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from flask import current_app
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import DeclarativeBase, Session, registry

from . import postgres, sqlite

T = TypeVar("T")


class UTCDateTime(sa.types.TypeDecorator[datetime]):
    """Aware UTC in Python, naive UTC in the database. SQLite would drop the offset in silence."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value and value.replace(tzinfo=UTC)


NAMES = {  # of constraints, so that migrations on SQLite and PostgreSQL can drop them
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


class Base(DeclarativeBase):
    # In the registry: Flask-SQLAlchemy copies this class, and SQLAlchemy 2.1
    # refuses a copied type_annotation_map.
    registry = registry(
        type_annotation_map={datetime: UTCDateTime}, metadata=sa.MetaData(naming_convention=NAMES)
    )


@sa.event.listens_for(Base, "init", propagate=True)
def _born_with_id(row: Base, _args: object, values: dict[str, Any]) -> None:
    """An id before the first flush: what a row seals is bound to it."""
    if hasattr(type(row), "id"):
        values.setdefault("id", uuid.uuid4().hex)


@sa.event.listens_for(sa.Engine, "connect")
def _pragmas(connection: Any, _record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        sqlite.prepare(connection)


@sa.event.listens_for(sa.Engine, "do_connect")
def _connect(dialect: sa.Dialect, _record: object, args: Any, options: Any) -> Any:
    return postgres.connect(*args, **options) if dialect.name == "postgresql" else None


@sa.event.listens_for(sa.Engine, "handle_error")
def _hide_values(context: Any) -> None:
    """PostgreSQL tells which row it refused, with all of its values; `hide_parameters` does not.

    SQLSTATE 22 and 23: data and integrity. The first line names the constraint, and stays.
    """
    error, ours = context.original_exception, context.sqlalchemy_exception
    text = str(error)
    if (getattr(error, "sqlstate", None) or "")[:2] in ("22", "23"):
        error.args = (text.partition("\n")[0],)
        if ours is not None:
            ours.args = tuple(str(one).replace(text, error.args[0]) for one in ours.args)


def plain_type(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Alembic's render_item hook. Migrations name SQL types, so they outlive this module."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UTCDateTime) else False


# What SQLAlchemy raises while the database is away, locked, read-only (PostgreSQL: InternalError),
# or has no connection to spare.
AWAY = (OperationalError, InterfaceError, InternalError, NoConnectionFree)

db = SQLAlchemy(model_class=Base)
migrate = Migrate(render_as_batch=True, render_item=plain_type)  # batch: SQLite alters by copying


def engine_options(url: str, connections: int = 20) -> dict[str, Any]:
    """For SQLALCHEMY_ENGINE_OPTIONS. `pool_pre_ping`: a database that restarted is found out.

    `hide_parameters`: an error's text, and so the log, would hold hashes and sealed values.
    `connections`: at most so many at once, in each process; who finds none free waits two seconds.
    """
    if url.startswith("sqlite"):
        patient = {"factory": sqlite.PatientConnection}
        return {"hide_parameters": True, "connect_args": patient}
    kept = (connections + 1) // 2
    pool = {"pool_pre_ping": True, "pool_size": kept, "max_overflow": connections - kept}
    pool["pool_timeout"] = 2
    return {"hide_parameters": True, **pool}


def again(act: Callable[[], T], *, undo: Callable[[], None] | None = None, more: int = 3) -> T:
    """`act`, a whole short transaction, once more when another one got in its way (F-26).

    The database undid all of it then: a deadlock, rows that cannot be had in any order, a snapshot
    too old to write from. At most `more` times; raises what is in AWAY. `undo`: before each, for an
    act whose transaction is not its own.
    """
    for left in range(more, -1, -1):
        try:
            return act()
        except OperationalError as error:
            if not left or not _was_in_the_way(error):
                raise
            if undo is not None:
                undo()
        time.sleep(random.uniform(0.01, 0.08))  # noqa: S311  # jitter, nothing secret
    raise AssertionError  # the last round returned or raised


def _was_in_the_way(error: OperationalError) -> bool:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return cause.sqlite_errorcode == sqlite3.SQLITE_BUSY_SNAPSHOT
    return getattr(cause, "sqlstate", None) in ("40001", "40P01")


def utcnow() -> datetime:
    return datetime.now(UTC)


def db_now_ms() -> sa.ColumnElement[int]:
    """Milliseconds since 1970 as the database sees them now: nodes' clocks differ, it has one.

    The moment of the statement, not the start of its transaction.
    """
    if db.engine.dialect.name == "postgresql":
        epoch = sa.extract("epoch", sa.func.clock_timestamp())
        return sa.cast(sa.func.floor(epoch * 1000), sa.BigInteger)
    return sa.cast((sa.func.julianday("now") - 2440587.5) * 86_400_000, sa.BigInteger)


class Recent:
    """Values read at most a second ago. Any commit of this process that wrote empties it.

    So a change is true here at once and in every other process within `LIFE_S`.
    """

    LIFE_S = 1.0
    MOST = 10_000  # entries; then it starts anew

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._epoch = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        """The kept value, or what `load` reads now."""
        found = self._kept.get(key)
        now = time.monotonic()
        if found is not None and now < found[0]:
            value: T = found[1]
            return value
        epoch = self._epoch
        value = load()
        with self._lock:
            if epoch == self._epoch:  # else a commit came between: this read may predate it
                if len(self._kept) >= self.MOST:
                    self._kept.clear()
                self._kept[key] = (now + self.LIFE_S, value)
        return value

    def clear(self) -> None:
        with self._lock:
            self._epoch += 1
            self._kept.clear()


def recent() -> Recent:
    """This app's."""
    held: Recent = current_app.extensions["recent"]
    return held


@sa.event.listens_for(Session, "after_flush")
def _wrote_rows(session: Session, _context: object) -> None:
    session.info["wrote"] = True


@sa.event.listens_for(Session, "do_orm_execute")
def _wrote_by_statement(state: Any) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        state.session.info["wrote"] = True


@sa.event.listens_for(Session, "after_commit")
def _forget_recent_reads(session: Session) -> None:
    if session.info.pop("wrote", False) and current_app:
        recent().clear()
