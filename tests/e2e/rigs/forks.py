"""Programs that start at once: forks of one that has imported what they all import.

    forks = Forks(python, warm=["app"], cwd=ROOT)
    done = forks.run(["-m", "flask", "--app", "wsgi", "users", "list"], env={…})
    server = forks.start(["server.py", "--port=0"], env={…}, stdin=PIPE, stdout=PIPE)

An operator's command, an SDK's client and its server spend a second on imports and a tenth of it on
their work, and the tests run hundreds of them. Each is a process of its own, with the arguments,
environment and streams that it would have had.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

AS_MODULE = "-m"


class Forks:
    """`run` may be called from several threads. Ends with the process that made it."""

    def __init__(self, python: str | Path, *, warm: Sequence[str], cwd: str | Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forks-")
        self._at = f"{self._folder.name}/door"
        command = [str(python), str(Path(__file__).resolve()), self._at, *warm]
        self._process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"READY\n", "the imports failed"

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: str = "",
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """`command` is a script's path, or "-m" and a module, and the arguments.

        Raises subprocess.TimeoutExpired.
        """
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin.encode())
            files[0].seek(0)
            running = Running(self._at, command, env, [one.fileno() for one in files])
            status = opened.enter_context(contextlib.closing(running)).wait(timeout)
            return subprocess.CompletedProcess([*command], status, *map(_text, files[1:]))

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str], stderr: int | None = None
    ) -> Running:
        """As `run`, with pipes to its stdin and from its stdout; its stderr goes there, or to this
        descriptor.
        """
        ours, theirs = [-1, -1], [-1, -1]
        theirs[0], ours[0] = os.pipe()
        ours[1], theirs[1] = os.pipe()
        try:
            running = Running(
                self._at, command, env, [*theirs, theirs[1] if stderr is None else stderr]
            )
        finally:
            for one in theirs:
                os.close(one)
        running.stdin = open(ours[0], "w", encoding="utf-8")
        running.stdout = open(ours[1], encoding="utf-8", errors="replace")
        return running

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._folder.cleanup()


class Running:
    """A program that runs; the part of subprocess.Popen that the tests use."""

    stdin: IO[str] | None = None
    stdout: IO[str] | None = None
    returncode: int | None = None

    def __init__(
        self, at: str, command: Sequence[str], env: Mapping[str, str], streams: Sequence[int]
    ) -> None:
        self._command = [*command]
        self._door = socket.socket(socket.AF_UNIX)
        self._door.connect(at)
        asked = json.dumps({"command": self._command, "env": {**env}}).encode()
        socket.send_fds(self._door, [b"%08d" % len(asked)], streams)
        self._door.sendall(asked)
        self.pid = self._number(60)

    def _number(self, timeout: float | None) -> int:
        """The next one that the process which forks tells: first the pid, then the status."""
        self._door.settimeout(timeout)
        try:
            said = self._door.recv(8, socket.MSG_WAITALL)
        except TimeoutError as error:
            raise subprocess.TimeoutExpired(self._command, timeout or 0) from error
        assert len(said) == 8, f"{self._command} died"
        return int(said)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._door], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._number(timeout)
            self._door.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self._door.close()


def _text(stream) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


# -- the process that forks ------------------------------------------------------------------------


def serve(at: str, warm: Sequence[str]) -> None:
    sys.path[0] = os.getcwd()  # as `python -m` has it
    for name in warm:
        __import__(name)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(at)
        door.listen(64)
        os.write(1, b"READY\n")
        while 0 not in (ready := _readable(door)):
            while _reaped():
                pass
            if ready:
                caller, _ = door.accept()
                if os.fork() == 0:
                    door.close()
                    _serve_one(caller)
                caller.close()


def _readable(door: socket.socket) -> list[int]:
    found, _, _ = select.select([0, door], [], [], 5)
    return [0 if one == 0 else 1 for one in found]


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _serve_one(caller: socket.socket) -> None:
    """In a fork: run what is asked in another one, and say how it ended."""
    try:
        size, streams, _, _ = socket.recv_fds(caller, 8, 3)
        with caller.makefile("rb") as rest:
            asked = json.loads(rest.read(int(size)))
        child = os.fork()
        if child == 0:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            caller.close()
            os.closerange(3, max(streams) + 1)
            _become(asked["command"], asked["env"])
        for stream in streams:
            os.close(stream)
        caller.sendall(b"%8d" % child)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        caller.sendall(b"%8d" % status)
    finally:
        os._exit(0)


def _become(command: list[str], env: dict[str, str]) -> None:
    """Never returns."""
    import runpy

    status = 1
    os.environ.clear()
    os.environ.update(env)
    try:
        if command[0] == AS_MODULE:
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = command, os.path.dirname(command[0])
            runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = _status(ended.code)
    except BaseException:  # noqa: BLE001  # as the interpreter itself does at its end
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _status(code: object) -> int:
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    return 1


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
