"""Waiting for what happens in another process, where no event can tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 150  # this machine may be busy, and a lease lasts 90 s


def eventually(found: Callable[[], T]) -> T:
    """What it gives once it is true."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError("it never came to that")
