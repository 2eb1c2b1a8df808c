"""Long lists, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Page(Generic[T]):
    """25 of many; a number out of range is the nearest page there is."""

    SIZE = 25

    def __init__(self, all_rows: Sequence[T], asked: str | None) -> None:
        self.total = len(all_rows)
        self.last = max(1, -(-self.total // self.SIZE))
        number = int(asked) if asked and asked.isascii() and asked.isdigit() else 1
        self.number = min(max(number, 1), self.last)
        self.rows = all_rows[(self.number - 1) * self.SIZE : self.number * self.SIZE]
