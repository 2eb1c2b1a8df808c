"""Renewed tokens that the database could not take, in a folder of this node's until it can.

The old refresh token may be void, so these are all that is left of a grant. A file for each, sealed
as a whole, named by the connection and by the tokens that it replaces; memory, where no file can be
written. Whoever renews looks here first, so that the old refresh token is not shown again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import SQLAlchemyError

from ..access import Seen
from ..db import db
from ..errors import Unsealable
from ..models import Connection
from ..secretbox import Where, box
from . import lease, revocation
from .lease import Kept
from .replies import TokenSet
from .row import Row

log = logging.getLogger(__name__)
c = Connection
_NAME = re.compile(r"[0-9a-f]{32}\.[0-9]{1,18}")
_MOST = 1000  # in memory
_LONGEST = 1_000_000  # bytes of a file; two tokens of the longest kind, sealed twice, are 100 KB
_NO_FILE = (FileNotFoundError, NotADirectoryError)


@dataclass(slots=True)
class _Held:
    """What no file could take; and what was said about a file already."""

    texts: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    unreadable: set[str] = dataclasses.field(default_factory=set)
    settled: set[str] = dataclasses.field(default_factory=set)  # files that cannot be removed
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


def write(it: Kept) -> bool:
    """Whether it is on the disk, so that it outlives this process; else in its memory only."""
    name = _name(it.connection_id, it.token_gen)
    text = box().seal(json.dumps(dataclasses.asdict(it)), where=_where(name))
    try:
        _write(folder(), name, text)
    except OSError as error:
        with _held().lock:
            if len(_held().texts) < _MOST:
                _held().texts[name] = text
        log.critical(
            "the tokens of connection %s are in memory only: neither the database nor %s takes"
            " them (%s). Make room; do not restart before",
            *(it.connection_id, folder(), error.strerror),
        )
        return False
    log.error("the tokens of connection %s wait in the spool for the database", it.connection_id)
    return True


def find(row: Row) -> Row | None:
    """This connection with the tokens that wait for it here, if any do."""
    it = _read(_name(row.id, row.token_gen))
    if it is None:
        return None
    mine = {name: value for name, value in it.columns.items() if name in Row.__dataclass_fields__}
    return replace(row, state="active", reason=None, token_gen=row.token_gen + 1, **mine)


def recover(row: Row) -> None:
    """Write down what waits here for this connection. Commits. Raises what the database does."""
    it = _read(_name(row.id, row.token_gen))
    if it is not None:
        settle(it, lease.store(it, patience=0.0))


def apply() -> int:
    """Write down what waits here; how many were. Commits.

    Every node has to do it for itself. Stops while the database is away. What does not open, or
    cannot be written, stays; those after it are not kept waiting.
    """
    count = 0
    for name in _names():
        it = _read(name)
        if it is None:
            continue
        try:
            count += settle(it, lease.store(it, patience=0.0))
        except lease.UNWRITTEN:
            break
        except (SQLAlchemyError, Unsealable, OSError) as error:
            _complain(name, "cannot be written down", error)
    return count


def settle(it: Kept, stored: Seen | None) -> bool:
    """The tokens are in, or not wanted any more: nothing waits here. Whether they are in. Commits.

    A connection that was ended meanwhile has no use for them, so they are ended, too (F-40). Newer
    ones may hang on the same grant: then these are dropped, and never revoked.
    """
    are_in = stored is not None
    if stored is None:
        found = _now(it.connection_id)
        if found is None or found.state in ("revoked", "orphaned"):
            _end(it)
        else:  # newer ones are in, or these, if only the acknowledgement was lost
            are_in = found.fingerprint == it.columns.get("fingerprint")
        log.warning("connection %s moved on while it was renewed", it.connection_id)
    _remove(_name(it.connection_id, it.token_gen))
    return are_in


def _remove(name: str) -> None:
    """A file that cannot be removed is no harm: nobody asks for these tokens any more."""
    with _held().lock:
        _held().texts.pop(name, None)
    try:
        (folder() / name).unlink()
    except _NO_FILE:
        return
    except OSError as error:
        _complain(name, "is not needed any more, and cannot be removed", error)
        _held().settled.add(name)


def folder() -> Path:
    return Path(current_app.instance_path) / "spool"


def _end(it: Kept) -> None:
    if it.owner_key == "shared":
        return  # nobody's grant; the next is asked for anew
    opened = {}
    for name in ("access_token", "refresh_token"):
        where = Where("connection", it.connection_id, f"{name}_sealed", it.owner_key)
        sealed = it.columns.get(f"{name}_sealed")
        opened[name] = None if sealed is None else box().open(sealed, where=where)
    tokens = TokenSet(opened["access_token"] or "", opened["refresh_token"])
    revocation.drop(tokens, connection_id=it.connection_id)


def _now(connection_id: str) -> sa.Row[str, str | None] | None:
    query = sa.select(c.state, c.fingerprint).where(c.id == connection_id)
    with db.engine.connect() as link:
        return link.execute(query).first()


def _names() -> list[str]:
    found = list(_held().texts)
    with contextlib.suppress(*_NO_FILE):
        found += [path.name for path in folder().iterdir() if _NAME.fullmatch(path.name)]
    return sorted(set(found) - _held().settled)


def _read(name: str) -> Kept | None:
    """None: nothing of this name, or it does not open, which is said once."""
    text = _held().texts.get(name)
    try:
        text = _file(folder() / name) if text is None else text
        return Kept(**json.loads(box().open(text, where=_where(name))))
    except _NO_FILE:
        return None
    except TypeError as error:
        _complain(name, "was written by another release", error)
    except (OSError, ValueError, Unsealable) as error:
        _complain(name, "does not open: wrong key, or altered", error)
    return None


def _file(path: Path) -> str:
    """What a file of ours holds: no link is followed, and no pipe waited for.

    Raises OSError, ValueError.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _LONGEST:
            raise ValueError
        return os.read(number, _LONGEST).decode("ascii")
    finally:
        os.close(number)


def _complain(name: str, what: str, error: Exception) -> None:
    """Once. Never with the error's text, which may hold values."""
    if name not in _held().unreadable:
        _held().unreadable.add(name)
        log.error("%s %s (%s)", folder() / name, what, type(error).__name__)


def _write(where: Path, name: str, text: str) -> None:
    """There as a whole, and on the disk, or not at all."""
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = where / f"{name}.{secrets.token_hex(4)}.part"
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.rename(where / name)
        with _opened(where) as number:
            os.fsync(number)  # the name, too
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(where: Path) -> Iterator[int]:
    number = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield number
    finally:
        os.close(number)


def _name(connection_id: str, token_gen: int) -> str:
    return f"{connection_id}.{token_gen}"


def _where(name: str) -> Where:
    return Where("(spool)", name, "tokens", "system")  # no table has this name


def _held() -> _Held:
    """This app's."""
    held: _Held = current_app.extensions.setdefault("spool", _Held())
    return held
