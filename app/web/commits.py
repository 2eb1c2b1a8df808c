"""What a view changes, and its commit: once more when another transaction got in its way (F-26)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..db import again, db

T = TypeVar("T")


def committed(act: Callable[[], T]) -> T:
    """What `act` gives, when it is committed.

    `act` may run several times, each after a rollback: it reads its rows anew, asks nobody over the
    network, and changes nothing that a rollback leaves.
    """

    def once() -> T:
        made = act()
        db.session.commit()
        return made

    return again(once, undo=db.session.rollback)
