"""One node of the product in a folder of its own, with fresh secrets, on SQLite."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]


def listen(port: int = 0) -> socket.socket:
    """A socket on loopback for a server to take over; who calls meanwhile waits in its queue."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections inherit it
    return listener


class NotStarted(RuntimeError):
    """The message holds the end of the log."""


class Instance:
    def __init__(self, folder: Path, url: str, **settings: str) -> None:
        """Starts from nothing: what an earlier instance left in the folder is removed."""
        self.folder = folder.resolve()
        self.url = url
        self.log = self.folder / "gateway.log"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in self.folder.glob("gateway.*"):
            old.unlink()
        self.settings = {
            "SECRET_KEY": secrets.token_urlsafe(32),
            "AUTH_ENCRYPTION_SECRET": secrets.token_urlsafe(32),
            "PUBLIC_URL": url,
            "DATABASE_URL": f"sqlite:///{self.folder}/gateway.db",
            "INSTANCE_DIR": str(self.folder),
            "EGRESS_ALLOW": "127.0.0.0/8",  # provider and MCP server are on this machine
            **settings,
        }
        self.keep("settings.env", "".join(f"{k}='{v}'\n" for k, v in self.settings.items()))

    def keep(self, name: str, text: str) -> Path:
        """A file in the folder that only we can read."""
        path = self.folder / f"gateway.{name}"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        return path

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | self.settings

    @contextlib.contextmanager
    def serve(self, listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
        """gunicorn on this socket. Raises NotStarted."""
        with serving("wsgi:app", listener, self.log, ROOT, self._environment()) as server:
            try:
                requests.get(f"{self.url}/health", timeout=60).raise_for_status()
            except requests.RequestException as error:
                raise NotStarted(f"{error}\n{self.log.read_text()[-3000:]}") from error
            yield server

    def flask(self, *command: str | Path, stdin: str = "") -> str:
        """One of the product's commands; gives what it prints. Raises NotStarted."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *command],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self._environment(),
        )
        if done.returncode:
            said = f"{done.stderr[-3000:]}{done.stdout}"
            raise NotStarted(f"flask {' '.join(map(str, command))}:\n{said}")
        return done.stdout


@contextlib.contextmanager
def serving(
    app: str, listener: socket.socket, log: Path, folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """gunicorn with gunicorn.conf.py, for `app` in `folder`, until the block ends."""
    fd = listener.fileno()
    command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "gunicorn.conf.py")]
    command += ["--chdir", str(folder), "--bind", f"fd://{fd}", app]
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, pass_fds=[fd], stdout=file, stderr=file
        )
    listener.close()
    try:
        yield server
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
