"""Which key every stored secret is under, and moving them all to a new one (SEC-082).

Online: both keys open meanwhile, and each value is swapped for itself under the new key. Whatever
stops it, the next run goes on, because a value says which key it is under.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from . import audit, keys
from .audit import Actor, Subject
from .db import Base, db
from .errors import Unsealable
from .models import CryptoMeta
from .oauth import spool
from .secretbox import PREFIX, Altered, UnknownKey, box, cell, key_of

BATCH = 200  # rows read, and written, at a time: a write lock is held for milliseconds
PASSES = 5  # over everything; what a process seals under an old key meanwhile is found by the next


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that no key of ours opens: where it is, never what it is."""

    table: str
    row: str
    column: str
    why: str


@dataclass(slots=True)
class Status:
    """`counts`: (table, column, key id) to the number of values that open under it."""

    active: str
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unreadable: list[Unreadable] = field(default_factory=list)

    @property
    def old(self) -> int:
        """Values that an old key is still needed for."""
        return sum(n for (_, _, key), n in self.counts.items() if key != self.active)


def sealed_columns() -> dict[type[Base], tuple[str, ...]]:
    """Every model with columns that are named `*_sealed`; a check row belongs to its own key."""
    found = {}
    for mapper in sorted(Base.registry.mappers, key=lambda one: one.class_.__tablename__):
        names = tuple(one.key for one in mapper.column_attrs if one.key.endswith("_sealed"))
        if names and mapper.class_ is not CryptoMeta:
            found[mapper.class_] = names
    return found


def status() -> Status:
    """Opens every stored secret once. Changes nothing."""
    told = Status(box().active)
    for model, names in sealed_columns().items():
        for row in _rows(model, *(getattr(model, name).is_not(None) for name in names)):
            for name in names:
                _count(row, name, told)
    return told


def _count(row: Any, name: str, told: Status) -> None:
    sealed = getattr(row, name)
    if sealed is None:
        return
    try:
        box().open(sealed, where=cell(row, name))
    except Unsealable as error:
        told.unreadable.append(_unreadable(row, name, error))
    else:
        told.counts[row.__tablename__, name, key_of(sealed)] += 1


def _unreadable(row: Any, name: str, error: Unsealable) -> Unreadable:
    why = "is no sealed value"
    if isinstance(error, UnknownKey):
        why = f"is sealed with key {key_of(getattr(row, name))}, which was not given"
    elif isinstance(error, Altered):
        why = "was altered, or moved from another place"
    return Unreadable(row.__tablename__, row.id, name, why)


def _rows(model: type[Base], *one_of: sa.ColumnElement[bool], batch: int = BATCH) -> Iterator[Any]:
    """Those to which one of the conditions applies, in batches by id: no transaction stays open."""
    m: Any = model
    last = ""
    while True:
        query = sa.select(m).where(m.id > last, sa.or_(*one_of)).order_by(m.id).limit(batch)
        with Session(db.engine) as session:
            rows = session.scalars(query).all()
            session.expunge_all()
        if not rows:
            return
        yield from rows
        last = rows[-1].id


# -- moving to a new key ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resealed:
    moved: int
    retired: tuple[str, ...]  # old keys that nothing needs any more
    status: Status
    waits_for: str = ""  # processes that still seal with an old key
    spooled: int = 0  # renewed tokens that wait on this node, under an old key or unreadable


def reseal(
    *, by: Actor, progress: Callable[[str, int], None] | None = None, batch: int = BATCH
) -> Resealed:
    """Bring every stored secret under the active key. Commits, batch by batch.

    It may be stopped anywhere and run again. `progress` is told the table and how many values were
    moved so far. Raises Conflict (keys_differ) before anything is sealed that a running process
    could not open.
    """
    if lacking := keys.lacking():
        raise keys.differ(lacking)
    keys.use()
    moved = 0
    for _ in range(PASSES):
        before = moved
        for model, names in sealed_columns().items():
            for count in _move(model, names, batch):
                moved += count
                if progress is not None:
                    progress(model.__tablename__, moved)
        if moved == before:
            break
    told = status()
    late = [row for row in keys.holders() if row.active_key != box().active]
    spooled = _spooled()
    retired = () if told.old or late or spooled else keys.retire()
    subject, unreadable = Subject("key", told.active, told.active), len(told.unreadable)
    audit.record(
        by, "key.resealed", subject, moved=moved, retired=list(retired), unreadable=unreadable
    )
    db.session.commit()
    return Resealed(moved, retired, told, keys.named(late), spooled)


def _spooled() -> int:
    """Of this node alone. The housekeeper empties it within seconds, if the database is there."""
    try:
        return sum(map(_needs_old_key, spool.folder().iterdir()))
    except FileNotFoundError:
        return 0  # nothing ever waited here
    except OSError:
        return 1  # or more: only the server's user looks in


def _needs_old_key(path: Path) -> bool:
    """Of what we may not read, or is no text, nobody knows: the old key stays."""
    try:
        return key_of(path.read_bytes().decode("ascii")) not in ("", box().active)
    except FileNotFoundError:
        return False  # it is in by now
    except (OSError, UnicodeDecodeError):
        return True


def _move(model: type[Base], names: tuple[str, ...], batch: int) -> Iterator[int]:
    """How many values each batch moved. A value that somebody else changed meanwhile is skipped."""
    m: Any = model
    mine = f"{PREFIX}.{box().active}."
    elsewhere = [
        sa.and_(getattr(m, name).is_not(None), ~getattr(m, name).startswith(mine, autoescape=True))
        for name in names
    ]
    swaps: list[_Swap] = []
    for number, row in enumerate(_rows(model, *elsewhere, batch=batch), 1):
        swaps += [swap for name in names if (swap := _swap(row, name)) is not None]
        if number % batch == 0:
            yield _swapped(model, swaps)
            swaps = []
    yield _swapped(model, swaps)


@dataclass(frozen=True, slots=True)
class _Swap:
    row: str
    column: str
    old: str = field(repr=False)
    new: str = field(repr=False)


def _swap(row: Any, name: str) -> _Swap | None:
    """This value under the active key, if it is not, and if it opens. Opened again to be sure."""
    sealed, where = getattr(row, name), cell(row, name)
    if sealed is None or key_of(sealed) == box().active:
        return None
    try:
        new = box().reseal(sealed, where=where)
        if box().open(new, where=where) != box().open(sealed, where=where):
            return None
    except Unsealable:
        return None  # status() names it
    return _Swap(row.id, name, sealed, new)


def _swapped(model: type[Base], swaps: list[_Swap]) -> int:
    """In one transaction, so many at a time that its write lock lasts for milliseconds."""
    table: Any = model.__table__
    columns = table.c
    given: dict[str, Any] = {name: sa.bindparam(name) for name in ("this", "old", "new")}
    count = 0
    if not swaps:
        return count
    with db.engine.begin() as link:
        for name in sorted({one.column for one in swaps}):
            same = sa.and_(columns.id == given["this"], columns[name] == given["old"])
            change = sa.update(table).where(same).values({name: given["new"]})
            mine = [one for one in swaps if one.column == name]
            values = [{"this": one.row, "old": one.old, "new": one.new} for one in mine]
            count += link.execute(change, values).rowcount
    return count
