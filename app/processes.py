"""The processes of this host: which one we are on, and whether another still runs."""

from __future__ import annotations

import os


def host() -> str:
    return os.uname().nodename


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
