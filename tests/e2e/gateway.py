"""The product as people run it: gunicorn, gevent, gunicorn.conf.py, and its own commands."""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import requests

from demo.instance import ROOT, listen
from demo.person import Person
from tests.e2e.rigs.forks import Forks
from tests.process import Program

PASSWORD = "correct horse battery staple"
LOOPBACK = "127.0.0.0/8 ::1/128"


@functools.cache
def commands() -> Forks:
    """What runs `flask …`; that a plain start does so, too, is what test_key_change.py shows."""
    forks = Forks(sys.executable, warm=["app", "flask.cli"], cwd=ROOT)
    atexit.register(forks.close)
    return forks


class Gateway:
    """One node. `settings` are the product's own (config.py); a list becomes a list of words."""

    def __init__(
        self, database: str, *, workers: int = 1, prefix: Sequence[str] = (), **settings: Any
    ) -> None:
        """`prefix`: a command that runs the server's command, such as env or faketime."""
        self._prefix = prefix
        self._socket = listen()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        given = {name: _words(value) for name, value in settings.items()}
        self.env = {
            **_clean_environment(),
            "SECRET_KEY": secrets.token_urlsafe(32),
            "AUTH_ENCRYPTION_SECRET": secrets.token_urlsafe(32),
            "PUBLIC_URL": self.url,
            "DATABASE_URL": database,
            "EGRESS_ALLOW": LOOPBACK,
            "WEB_CONCURRENCY": str(workers),
            "INSTANCE_DIR": tempfile.mkdtemp(prefix="gateway-node-"),
            **given,
        }
        self._start()

    def _start(self) -> None:
        """It inherits a socket that listens already, so whoever asks waits for it, not in vain."""
        fd = self._socket.fileno()
        with_us = ["setpriv", "--pdeathsig=TERM"]  # it ends when the tests do, even if killed
        command = [
            *with_us,
            *self._prefix,
            sys.executable,
            "-m",
            "gunicorn",
            "--bind",
            f"fd://{fd}",
            "wsgi:app",
        ]
        self.program = Program(
            command,
            end=signal.SIGINT,
            cwd=ROOT,
            env=self.env,
            pass_fds=[fd],
            start_new_session=True,
        )
        self._socket.close()  # nobody listens once it has ended
        try:
            answer = requests.get(f"{self.url}/health", timeout=60)
        except requests.ConnectionError as error:
            self.program.stop()
            raise RuntimeError(f"the gateway did not start:\n{self.log()[-5000:]}") from error
        assert answer.status_code == 200, answer.text

    def restart(self, **settings: Any) -> None:
        """The same node again, with these settings changed."""
        self.stop()
        self._socket = listen(int(self.url.rpartition(":")[2]))
        self.env |= {name: _words(value) for name, value in settings.items()}
        self._start()

    def stop(self) -> int:
        return self.program.stop()

    def log(self) -> str:
        """All it wrote since it started."""
        return self.program.log()

    def flask(self, *command: str, stdin: str = "", **environment: str) -> str:
        """Run one of its commands, as an operator would; gives what it printed."""
        done = commands().run(
            ["-m", "flask", "--app", "wsgi", *command], stdin=stdin, env=self.env | environment
        )
        assert done.returncode == 0, f"flask {' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout

    def admin(self, email: str = "admin@example.com") -> Person:
        """An admin, made by command and signed in."""
        self.flask("users", "create-admin", email, "--password-stdin", stdin=f"{PASSWORD}\n")
        return Person(self.url).login(email, PASSWORD)

    def token(self, email: str = "admin@example.com", *, scope: str = "mcp") -> str:
        """An API token of this person, made by command."""
        made = self.flask("tokens", "create", email, "--name", "tests", "--scope", scope)
        return made.split()[-1]

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.env["INSTANCE_DIR"])


def _words(value: Any) -> str:
    return " ".join(value) if isinstance(value, list | tuple) else str(value)


def _clean_environment() -> dict[str, str]:
    """What a program needs to run, and no setting of whoever runs the tests."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
