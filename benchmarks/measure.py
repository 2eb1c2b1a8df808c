"""What a server costs: wrk from outside, /proc for its whole process tree. Linux only."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SCRIPT = Path(__file__).with_name("mcp.lua")


@dataclasses.dataclass(frozen=True)
class Target:
    name: str
    url: str
    bearer: str
    pid: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One visit of the load generator to one target."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # user and system time of the target for each good answer
    peak_mib: float  # PSS: shared pages are counted once
    bad: int
    sample: str  # the first bad answer


def run(target: Target, *, connections: int, seconds: int) -> Run:
    """Load it for that long, with that many callers who each wait for their answer."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    with Watch(target.pid) as watch:
        done = subprocess.run(
            [*command, "-s", SCRIPT, target.url],
            env=os.environ | {"BEARER": target.bearer},
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.M)
    if found is None:
        raise RuntimeError(f"wrk failed: {done.stderr}{done.stdout}")
    said = {k: float(v) for k, v in (pair.split("=") for pair in found[1].split())}
    sample = re.search(r"^SAMPLE (.*)$", done.stdout, re.M)
    return Run(
        per_second=said["ok"] / said["dur"],
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
        cpu_ms=watch.cpu_s * 1000 / max(said["ok"], 1),
        peak_mib=watch.peak_mib,
        bad=int(said["bad"] + said["sock"]),
        sample=sample[1] if sample else "",
    )


class Watch:
    """CPU time of a process tree over a block, and the most memory that it held."""

    cpu_s = peak_mib = 0.0

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._before = _cpu_s(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._settle()
        self.cpu_s = _cpu_s(self._pid) - self._before

    def _look(self) -> None:
        while True:
            self.peak_mib = max(self.peak_mib, _pss_mib(self._pid))
            if self._over.wait(0.25):
                return

    def _settle(self) -> None:
        """What was in flight when the time was up belongs to this run, not to the next one."""
        for _ in range(40):
            before = _cpu_s(self._pid)
            time.sleep(0.1)
            if _cpu_s(self._pid) - before < 0.02:
                return


def _tree(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        if facts := _stat(entry):
            children.setdefault(int(facts[1]), []).append(int(entry.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def _stat(path: Path) -> list[str]:
    """The fields after the name, which may hold spaces; empty when the process is gone."""
    try:
        text = path.read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _cpu_s(pid: int) -> float:
    facts = [_stat(Path(f"/proc/{one}/stat")) for one in _tree(pid)]
    return sum(int(one[11]) + int(one[12]) for one in facts if one) / TICKS


def _pss_mib(pid: int) -> float:
    total = 0
    for one in _tree(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+)", text, re.M)
        total += int(found[1]) if found else 0
    return total / 1024
