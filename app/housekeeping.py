"""Recurring work: what is due, on which node, and what came of it.

Each chore is done by one node at a time (schedule.py), in steps: a batch in a short transaction, or
one question to a provider with none open. After each step the lease is taken on, or the chore ends:
because another has it, its time is over, or the process is asked to go.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from flask import current_app
from sqlalchemy.exc import SQLAlchemyError

from . import cleanup, health, keys, metrics, opening, schedule
from .db import AWAY
from .draining import draining
from .errors import AppError, Busy
from .oauth import keep_alive, registering, revocation, spool
from .schedule import Standing, Turn

log = logging.getLogger(__name__)

RUN_S = 60.0  # after which a chore makes way; what is left is done in its next run
MARGIN_S = 60.0  # that a lease lasts beyond the longest step
PAUSE_S = 60.0  # before a chore that failed is tried again; sooner if it is due more often
BEAT_S, LOOK_S = 1.0, 15.0  # seconds between beats, and between looks at the schedule at most
STOP_S = 20.0  # that a process which ends waits for a step under way

# What a chore may meet before its first step: the database is away, or not brought up to this
# release yet, or not opened; no thread or handle to spare (F-43). It is tried again.
LATER = (SQLAlchemyError, Busy, RuntimeError, OSError)

Step = Iterator[Mapping[str, int]]
Context = Callable[[], AbstractContextManager[Any]]  # the app's `app_context`


@dataclass(frozen=True, slots=True)
class Recurring:
    """`every`: seconds, or the setting that holds them. `steps` yields counts after each step."""

    every: float | str
    steps: Callable[[], Step]
    pace_s: float = 0.0  # between two steps
    on_each_node: bool = False  # what it works on is not in the database

    @property
    def every_s(self) -> float:
        given = self.every
        return float(current_app.config[given]) if isinstance(given, str) else given


def _spool() -> Step:
    yield {"applied": spool.apply()}


def _revocations() -> Step:
    while sum((done := revocation.work_off(limit=5)).values()):  # so few fit into a lease
        yield done


def _keys() -> Step:
    keys.announce()
    yield {}


_CLEAN_UP = "OAUTH_TOKEN_CLEANUP_INTERVAL"
CHORES: dict[str, Recurring] = {
    "spool": Recurring(BEAT_S, _spool, on_each_node=True),
    "keys": Recurring(keys.ANNOUNCE_S, _keys, on_each_node=True),
    "revocations": Recurring(30, _revocations),
    "keep-alive": Recurring(60, keep_alive.steps, pace_s=1.0),
    "clients": Recurring(600, registering.steps),
    "health": Recurring(30, health.steps),
    "flows": Recurring(_CLEAN_UP, cleanup.flows),
    "connections": Recurring(_CLEAN_UP, cleanup.connections),
    "sessions": Recurring(_CLEAN_UP, cleanup.sessions_and_tokens),
}


@dataclass(frozen=True, slots=True)
class Report:
    outcome: str  # counts, or "failed" and a code
    failed: bool


class Housekeeper:
    """Does chores in this process: one after the other, until it is asked to stop."""

    def __init__(
        self,
        context: Context,
        *,
        chores: Mapping[str, Recurring] = CHORES,
        run_s: float = RUN_S,
        margin_s: float = MARGIN_S,
        is_needed: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_needed` is asked between two steps, and once a second."""
        self._context, self._chores, self._run_s = context, chores, run_s
        self._is_needed = is_needed
        with context():
            self._lease_s = margin_s + current_app.config["OAUTH_REQUEST_TIMEOUT"]
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._own: threading.Thread | None = None  # beside it, for what is this node's own

    def run(self, name: str, *, early: bool = False) -> Report | None:
        """Do it now, if it is due or `early`; None: it is not, or another has it. Commits.

        Raises Busy and what the database raises; what the chore raises is its outcome. Nothing is
        done before it was seen that our key opens the database, by us if no request came (SEC-081).
        """
        chore = self._chores[name]
        with self._context():
            opening.see_to_it()
        if chore.on_each_node:
            report, _ = self._do(name, chore, lambda: True)
            return report
        with self._context():
            schedule.enter(name)
            turn = schedule.claim(name, lease_s=self._lease_s, early=early)
        if turn is None:
            return None
        report, is_done = self._do(name, chore, lambda: self._hold(turn))
        with self._context():
            wait_s = self._pause(chore) if report.failed else chore.every_s if is_done else BEAT_S
            if not schedule.finish(turn, report.outcome, again_s=wait_s):
                log.warning("chore %s outlasted its lease, and another began it anew", name)
        return report

    def start(self) -> None:
        """Keep at it, in a thread of its own (a greenlet, under gevent)."""
        self._thread = threading.Thread(target=self.keep_at_it, name="housekeeping", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return all(one is not None and one.is_alive() for one in (self._thread, self._own))

    def ask_to_stop(self) -> None:
        """After the step under way. Waits for nothing."""
        self._stopping.set()

    def stop(self) -> None:
        """Ask it to stop, and wait for the step under way."""
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def keep_at_it(self) -> None:
        """Until it is asked to stop. The first look comes a little later: others start, too.

        What is this node's own has a thread beside it: it is not to wait for a long chore.
        """
        self._see_to_own()
        look_at = time.monotonic() + random.uniform(0.5, 1.5)  # noqa: S311  # jitter
        while not self._wait(BEAT_S):
            self._see_to_own()
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + self._look()
        if self._own is not None:
            self._own.join(STOP_S)

    def _see_to_own(self) -> None:
        """Start the thread beside this one, if there is none."""
        if self._own is not None and self._own.is_alive():
            return
        own = threading.Thread(target=self._keep_beating, name="housekeeping-own", daemon=True)
        try:
            own.start()
        except RuntimeError as error:  # no thread to spare: at the next beat, then
            log.warning("the chores of this node wait: %s", error)
        else:
            self._own = own

    def _keep_beating(self) -> None:
        due: dict[str, float] = {}  # monotonic
        own = {name: one for name, one in self._chores.items() if one.on_each_node}
        while not self._wait(BEAT_S):
            with self._context():
                metrics.share()
            for name, chore in own.items():
                if time.monotonic() >= due.get(name, 0.0):
                    failed = self._run_quietly(name)
                    with self._context():
                        wait_s = self._pause(chore) if failed else chore.every_s
                    due[name] = time.monotonic() + wait_s
        with self._context():
            metrics.leave()

    def _look(self) -> float:
        """Do what is due; seconds until the next look."""
        try:
            with self._context():
                opening.see_to_it()
                shared = [name for name, one in self._chores.items() if not one.on_each_node]
                waiting = {one.name for one in schedule.standings() if not one.is_due}
            for name in (name for name in shared if name not in waiting):
                if self._wait(0):
                    break
                self._run_quietly(name)
            with self._context():
                waits = [one.wait_s for one in schedule.standings() if one.name in shared]
        except LATER as error:
            log.warning("chores wait: %s", type(error).__name__)
            return LOOK_S
        return min([LOOK_S, *waits])

    def _run_quietly(self, name: str) -> bool:
        """Whether it failed. What is missing for a while costs this run, not the others."""
        try:
            report = self.run(name)
        except LATER as error:
            log.warning("chore %s waits: %s", name, type(error).__name__)
            return True
        return report is not None and report.failed

    def _hold(self, turn: Turn) -> bool:
        with self._context():
            return schedule.hold(turn, lease_s=self._lease_s)

    def _pause(self, chore: Recurring) -> float:
        return min(PAUSE_S, max(10 * BEAT_S, chore.every_s))

    def _do(self, name: str, chore: Recurring, hold: Callable[[], bool]) -> tuple[Report, bool]:
        """What came of its steps, and whether none was left.

        In a thread of its own, whose error is a value: a mistake in one chore ends no other.
        """
        counts: Counter[str] = Counter()
        is_done, error = self._in_thread(name, lambda: self._steps(chore, hold, counts))
        if error is None:
            said = " ".join(f"{what}={count}" for what, count in counts.items() if count)
            if said:
                log.info("chore %s: %s", name, said)
            return Report(said or "nothing to do", False), is_done
        code = _code_of(error)
        trace = None if isinstance(error, (AppError, *AWAY)) else error
        log.error("chore %s failed: %s", name, code, exc_info=trace)
        return Report(f"{schedule.FAILED}{code}", True), True

    def _in_thread(self, name: str, work: Callable[[], bool]) -> tuple[bool, BaseException | None]:
        """What it gave and what it raised, also for want of a thread."""
        with ThreadPoolExecutor(1, thread_name_prefix=f"chore-{name}") as pool:
            try:
                future = pool.submit(work)
            except RuntimeError as none_left:
                return False, none_left
        error = future.exception()
        return error is None and future.result(), error

    def _steps(self, chore: Recurring, hold: Callable[[], bool], counts: Counter[str]) -> bool:
        end = time.monotonic() + self._run_s
        with self._context():
            steps = chore.steps()
            while True:
                with draining().unfinished():  # a renewal that is cut may cost a sign-in
                    done = next(steps, None)
                if done is None:
                    return True
                counts.update(done)
                if self._wait(chore.pace_s) or time.monotonic() > end or not hold():
                    return False

    def _wait(self, seconds: float) -> bool:
        """Whether it is time to go."""
        return self._stopping.wait(seconds) or not self._is_needed()


def _code_of(error: BaseException) -> str:
    if isinstance(error, AppError):
        return error.code
    return "database_away" if isinstance(error, AWAY) else type(error).__name__


def standings() -> list[Standing]:
    """The chores that nodes share, in the order of CHORES. Changes nothing."""
    known = {one.name: one for one in schedule.standings()}
    shared = [name for name, one in CHORES.items() if not one.on_each_node]
    return [known.get(name) or Standing(name) for name in shared]


def start(context: Context, *, is_needed: Callable[[], bool]) -> Housekeeper:
    """For a server's worker, after it was forked. `is_needed`: whether that goes on."""
    with context():
        metrics.join(str(os.getppid()))
    keeper = Housekeeper(context, is_needed=is_needed)
    atexit.register(keeper.stop)
    keeper.start()
    return keeper
