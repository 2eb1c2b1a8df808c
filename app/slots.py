"""How many calls may be open at once in one worker: of one person, and of all (SEC-100).

A call holds its slot until its answer is out, and a stream is an answer that may take an hour.
Those that only listen wait for nothing, so they get no more than half of it.
"""

from __future__ import annotations

import threading

from flask import current_app

from .errors import Busy

BACK_S = 2  # when to come again, as we say


class Slots:
    def __init__(self, most: int, each: int, listening: int) -> None:
        """Calls of all, of each person, and the streams of each that listen. 0 is no limit."""
        self._calls = _Table(most, each)
        self._listening = _Table(most // 2, listening)

    def at_most(self, number: int) -> None:
        """What the server can carry, whatever is set; three quarters of it for one person."""
        for table, part in ((self._calls, number), (self._listening, number // 2)):
            table.most = min(table.most or part, part)
            mine = max(1, table.most * 3 // 4)
            table.each = min(table.each or mine, mine)

    def take(self, who: str, *, listens: bool = False) -> Slot:
        """Raises Busy when all slots are taken, or all of this person's."""
        self._calls.take(who, "too_many_calls")
        if not listens:
            return Slot(who, self._calls)
        try:
            self._listening.take(who, "too_many_streams")
        except Busy:
            self._calls.give_back(who)
            raise
        return Slot(who, self._calls, self._listening)


class _Table:
    def __init__(self, most: int, each: int) -> None:
        self.most, self.each = most, each
        self._of: dict[str, int] = {}
        self._all = 0
        self._lock = threading.Lock()

    def take(self, who: str, code: str) -> None:
        with self._lock:
            mine = self._of.get(who, 0)
            if 0 < self.each <= mine:
                raise Busy(code, retry_after=BACK_S, most=self.each)
            if 0 < self.most <= self._all:
                raise Busy("server_full", retry_after=BACK_S)
            self._of[who] = mine + 1
            self._all += 1

    def give_back(self, who: str) -> None:
        with self._lock:
            self._all -= 1
            left = self._of[who] - 1
            if left:
                self._of[who] = left
            else:
                del self._of[who]


class Slot:
    """One that is taken. Freed where the block ends, unless somebody took it over."""

    __slots__ = ("_tables", "_who")

    def __init__(self, who: str, *tables: _Table) -> None:
        self._who, self._tables = who, tables

    def free(self) -> None:
        """May be called twice."""
        tables, self._tables = self._tables, ()
        for table in tables:
            table.give_back(self._who)

    def hand_over(self) -> Slot:
        """To who calls free() later."""
        later = Slot(self._who, *self._tables)
        self._tables = ()
        return later

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


def slots() -> Slots:
    """This app's."""
    held: Slots = current_app.extensions["slots"]
    return held
