"""What breaks: workers, nodes, the provider, the database, and the key in the middle of it."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from demo.instance import ROOT
from tests.e2e.gateway import Gateway
from tests.postgres import Server

from .world import Issuer


class Weather:
    """Each method breaks one thing and mends it again."""

    def __init__(self, nodes: list[Gateway], database: Server, issuers: list[Issuer]) -> None:
        self.nodes, self.database, self.issuers = nodes, database, issuers
        self.kills: list[tuple[float, set[int]]] = []  # when, and which processes
        self.diary: list[tuple[float, str]] = []
        self.happened: dict[str, int] = {}
        self.logs: list[str] = []  # of nodes that are gone
        for issuer in issuers:
            issuer.process_of = self.process_of

    def storm(self, over: threading.Event, *, pause: float = 2.0) -> None:
        """One thing after the other; the rarer ones at least once."""
        kinds: list[Callable[[], None]] = [
            *[self.kill_a_worker] * 4,
            *[self.kill_a_node] * 2,
            *[self.lose_the_provider] * 3,
            *[self.crash_the_database] * 2,
        ]
        rotated = False
        while not over.is_set():
            random.shuffle(kinds)
            for kind in [*kinds[:4], *([] if rotated else [self.rotate_the_key]), *kinds[4:]]:
                rotated |= kind == self.rotate_the_key
                if over.wait(random.uniform(pause / 2, pause * 1.5)):
                    return
                self.diary.append((time.time(), f"{kind.__name__} …"))
                kind()
                self.diary.append((time.time(), f"… {kind.__name__}"))
                self.happened[kind.__name__] = self.happened.get(kind.__name__, 0) + 1

    def kill_a_worker(self) -> None:
        """kill -9; gunicorn starts another."""
        workers = list(_children(random.choice(self.nodes).program.pid))
        if workers:
            self._kill(random.choice(workers))

    def kill_a_node(self) -> None:
        """kill -9 of master and workers, and a new start."""
        node = random.choice(self.nodes)
        os.killpg(node.program.pid, signal.SIGSTOP)  # so that it starts no further worker
        workers = set(_children(node.program.pid))
        os.killpg(node.program.pid, signal.SIGKILL)
        self.kills.append((time.time(), workers))
        self._again(node)

    def lose_the_provider(self) -> None:
        issuer = random.choice(self.issuers)
        issuer.weather = random.choice(["503", "reset", "hang"])
        time.sleep(random.uniform(1, 4))
        issuer.weather = ""

    def crash_the_database(self) -> None:
        self.database.crash()
        time.sleep(random.uniform(0, 1.5))
        self.database.start()

    def rotate_the_key(self) -> None:
        """As the runbook says, one node after the other, and with a reseal that is killed."""
        old, new = self.nodes[0].env["AUTH_ENCRYPTION_SECRET"], secrets.token_urlsafe(32)
        self._all_restart(AUTH_ENCRYPTION_SECRETS_OLD=new)
        self._all_restart(AUTH_ENCRYPTION_SECRET=new, AUTH_ENCRYPTION_SECRETS_OLD=old)
        self._reseal(kill_after=1.5)
        self._reseal()
        self.nodes[0].flask("secrets", "status")  # fails unless the old key is unused
        self._all_restart(AUTH_ENCRYPTION_SECRETS_OLD="")

    def _reseal(self, *, kill_after: float | None = None) -> None:
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "secrets", "reseal"]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.nodes[0].env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.communicate(timeout=kill_after)
            running.kill()
        if kill_after is None and running.returncode:
            raise RuntimeError(f"reseal ended with {running.returncode}")

    def _all_restart(self, **settings: str) -> None:
        for node in self.nodes:
            self._again(node, **settings)

    def _again(self, node: Gateway, **settings: str) -> None:
        log = node.program
        node.restart(**settings)
        self.logs.append(log.log())

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills.append((time.time(), {pid}))

    def process_of(self, port: int) -> int:
        """Which process has its end of a TCP connection there; 0: none, or none any more."""
        inode = _inode(port)
        if inode == "0":
            return 0
        for node in self.nodes:
            for pid in _children(node.program.pid):
                if _holds(pid, inode):
                    return pid
        # a worker of a node that is being replaced
        return next((pid for pid in _processes() if _holds(pid, inode)), 0)


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))


def _inode(port: int) -> str:
    """Of the socket that is bound there, as the kernel knows it; "0": of no process."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = (row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port)
    return next(found, "0")


def _holds(pid: int, inode: str) -> bool:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(entry) == f"socket:[{inode}]":
                    return True
    return False
