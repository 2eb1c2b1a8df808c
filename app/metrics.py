"""What machines watch: counts of this process, added up over the workers of its server.

A count costs a call no more than a lock and an addition in memory. About once a second a worker
leaves its numbers in a small file beside those of its siblings, so whichever of them is asked can
answer for all. Labels are slugs of gateways and codes of ours: no person, no token, no address.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from flask import current_app

from . import processes
from .errors import AppError, ProviderError

log = logging.getLogger(__name__)

Key = tuple[str, ...]  # the name of a metric, then the values of its labels
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # upper ends of a histogram's buckets


@dataclass(frozen=True, slots=True)
class Metric:
    kind: str  # counter, gauge, histogram
    labels: tuple[str, ...]
    about: str


METRICS = {
    "mcp_calls_total": Metric(
        "counter", ("gateway", "outcome"), "MCP requests of AI clients, by how they ended."
    ),
    "oauth_token_requests_total": Metric(
        "counter", ("gateway", "grant", "outcome"), "Questions to token endpoints."
    ),
    "oauth_token_request_seconds": Metric(
        "histogram", ("gateway",), "How long token endpoints took, retries included."
    ),
    "oauth_provider_busy_total": Metric(
        "counter", ("gateway",), "Token requests that met a provider's rate limit."
    ),
    "oauth_lease_waits_total": Metric(
        "counter", (), "Callers who waited for another's renewal, without a living token."
    ),
    "oauth_flows_total": Metric(
        "counter", ("gateway", "outcome"), "Sign-ins that came back from a provider."
    ),
    "oauth_connections": Metric("gauge", ("gateway", "state"), "Connections, by state."),
    "mcp_gateway_health": Metric(
        "gauge",
        ("gateway", "health"),
        "1: how its server answers a look: up, needs_sign_in, refused, down.",
    ),
    "oauth_revocations": Metric(
        "gauge",
        ("state",),
        "Grants that were to be ended at their provider: queued, given_up, done.",
    ),
    "housekeeping_ran_timestamp_seconds": Metric(
        "gauge", ("chore",), "When a chore was done last, on any node."
    ),
    "housekeeping_failed": Metric("gauge", ("chore",), "1: the last run of this chore failed."),
    "database_up": Metric("gauge", (), "0: the database does not answer."),
    "mcp_gateway_info": Metric("gauge", ("version",), "Always 1."),
}


@dataclass
class Meter:
    """The counts of one process, and where its siblings leave theirs."""

    counts: Counter[Key] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    folder: Path | None = None  # None: there are no siblings
    file: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:8]}.json")
    shared: int = -1  # how many counts the file holds
    total: int = 0

    def add(self, *key: str, by: float = 1) -> None:
        with self.lock:
            self.counts[key] += by  # type: ignore[assignment]
            self.total += 1

    def own(self) -> Counter[Key]:
        with self.lock:
            return Counter(self.counts)

    def all(self) -> Counter[Key]:
        """With those of the siblings, as they were a moment ago; its own if they cannot be read."""
        found = self.own()
        if self.folder is None:
            return found
        try:
            with _locked(self.folder, fcntl.LOCK_SH):
                for path in self.folder.glob("*.json"):
                    if path.name != self.file:
                        found.update(_read(path))
        except OSError as error:  # the folder is gone, or there is no handle to spare
            log.warning("metrics of other workers cannot be read: %s", error.strerror)
            return self.own()
        return found


def meter() -> Meter:
    """This app's."""
    kept = current_app.extensions
    held: Meter = kept.get("metrics") or kept.setdefault("metrics", Meter())
    return held


# -- what is counted -------------------------------------------------------------------------------


def call(gateway: str, outcome: str) -> None:
    """An MCP request, by slug and code."""
    meter().add("mcp_calls_total", gateway, outcome)


def flow(gateway: str, outcome: str) -> None:
    """A browser that came back from a provider: `done`, or a code."""
    meter().add("oauth_flows_total", gateway, outcome)


def lease_wait() -> None:
    meter().add("oauth_lease_waits_total")


@contextmanager
def token_request(config_id: str, grant: str) -> Iterator[None]:
    """Around one question to a token endpoint. `config_id` becomes the gateway's slug later."""
    began, outcome = time.monotonic(), "ok"
    try:
        yield
    except AppError as error:
        outcome = error.code
        if isinstance(error, ProviderError) and error.kind == "busy":
            meter().add("oauth_provider_busy_total", config_id)
        raise
    finally:
        took, held = time.monotonic() - began, meter()
        held.add("oauth_token_requests_total", config_id, grant, outcome)
        held.add("oauth_token_request_seconds", config_id, "sum", by=took)
        within = next((f"{end:g}" for end in SECONDS if took <= end), "+Inf")
        held.add("oauth_token_request_seconds", config_id, within)


# -- siblings --------------------------------------------------------------------------------------


def join(family: str) -> None:
    """From now on, share with the workers of one server. `family`: its process id.

    What servers of this machine left behind that run no more is removed: by host and process
    id. These repeat in containers: INSTANCE_DIR is for one node alone. Where nothing can be written
    each worker answers for itself, and the log says so.
    """
    mine = f"{processes.host()} {family}"
    folder = Path(current_app.instance_path) / "metrics" / mine
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in folder.parent.iterdir():
            host, _, pid = other.name.rpartition(" ")
            ours = host == processes.host() and other != folder and pid.isdigit()
            if ours and not processes.runs(int(pid)):
                shutil.rmtree(other, ignore_errors=True)
    except OSError as error:
        log.warning("metrics cannot be shared by workers: %s", error.strerror)
        return
    meter().folder = folder


def share() -> None:
    """Leave what is new where the siblings find it."""
    held = meter()
    total = held.total
    if held.folder is None or held.shared == total:
        return
    try:
        _write(held.folder / held.file, held.own())
    except OSError as error:
        log.warning("metrics were not shared: %s", error.strerror)
    held.shared = total


def leave() -> None:
    """What this worker counted stays, among what all former ones did."""
    share()
    held = meter()
    if held.folder is None:
        return
    try:
        with _locked(held.folder, fcntl.LOCK_EX):
            former, own = held.folder / "former.json", held.folder / held.file
            if own.exists():
                _write(former, _read(former) + _read(own))
                own.unlink()
    except OSError as error:
        log.warning("metrics of this worker are lost: %s", error.strerror)
    held.folder = None


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Nobody reads while a worker's numbers move from its file to the common one."""
    file: IO[str]
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, how)
        yield


def _read(path: Path) -> Counter[Key]:
    """Empty without a file, and for one that is damaged."""
    try:
        rows = json.loads(path.read_text())
        return Counter({tuple(key): value for *key, value in rows})
    except (FileNotFoundError, ValueError, TypeError):
        return Counter()


def _write(path: Path, counts: Counter[Key]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps([[*key, value] for key, value in counts.items()]))
    new.replace(path)
