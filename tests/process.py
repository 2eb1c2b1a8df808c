"""Start a program for a test, wait until it says that it is ready, and end it by its own pid."""

from __future__ import annotations

import atexit
import functools
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.e2e.rigs.forks import Forks

ROOT = Path(__file__).parents[1]


@functools.cache
def workers() -> Forks:
    """What starts the tests' own programs that use the app."""
    forks = Forks(sys.executable, warm=["app", "tests.conftest"], cwd=ROOT)
    atexit.register(forks.close)
    return forks


class Program:
    """A running program; all it writes is kept, so that a failure can be explained.

    Its stdin is a pipe that closes when we end, however that happens: a program that watches it
    leaves nothing behind.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        end: signal.Signals = signal.SIGTERM,
        forks: Forks | None = None,
        **popen: Any,
    ) -> None:
        """`forks`: what starts it, with `env` for its environment, instead of subprocess.Popen."""
        self._end = end  # what asks it to end
        self.command = [str(part) for part in command]
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._process = (
            forks.start(self.command, **popen) if forks else _opened(self.command, popen)
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str, *, wait: float = 30) -> re.Match[str]:
        """The first match in what it wrote. Raises RuntimeError with its output if none comes."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._find(pattern), timeout=wait)
            found = self._find(pattern)
        if found:
            return found
        self.stop()
        raise RuntimeError(f"{self.command} never wrote {pattern!r}:\n{self.log()[-5000:]}")

    def _find(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, "".join(self._lines), re.M)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """What it wrote so far."""
        with self._news:
            return "".join(self._lines)

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def wait(self, seconds: float = 30) -> int:
        """Until it ends by itself; its exit status. Raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def stop(self, *, wait: float = 20) -> int:
        """Ask it to end, and SIGKILL when that was not enough; the exit status."""
        self._process.send_signal(self._end)
        try:
            status = self._process.wait(wait)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait(wait)
        self._reader.join(wait)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return status

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()


def _opened(command: list[str], popen: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **popen,
    )
