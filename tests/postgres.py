"""A PostgreSQL of our own for the tests: a fresh cluster on a free port, gone when they end.

Needs Debian's `postgresql` package (the programs, not its service). Root may not run the server,
so root hands it to the user `postgres`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from tests.process import Program

# Data that nobody keeps need not reach the disk, and has no dead rows to sweep.
FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_connections": "200"}
MEMORY = Path("/dev/shm")  # every test has a database of its own: 8 MB to copy and to delete


@dataclasses.dataclass
class Server:
    """A server that runs, unless it was told to `crash`. `command` starts it; "" copies only."""

    port: int
    command: list[str | Path] = dataclasses.field(default_factory=list)
    running: Program | None = None

    def crash(self) -> None:
        """As `pg_ctl stop -m immediate`: everybody is cut off, nothing is written down."""
        assert self.running is not None
        os.kill(self.running.pid, signal.SIGQUIT)
        self.running.wait()
        self.running.stop()  # nothing is left to end; it lets go of the pipes

    def start(self) -> None:
        """Run, after a crash too, on the same port with the same data; returns when it answers."""
        # Not to be stopped by SIGTERM, which waits for its clients.
        self.running = Program(self.command, end=signal.SIGINT, cwd="/")
        self.running.wait_for("database system is ready to accept connections")

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def create(self, name: str, *, template: str = "template1") -> str:
        """A database of this name, a copy of another that nobody is connected to; its URL.

        By copying files: half the time of copying through the log, as nothing is synced.
        """
        parts = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
        self._run(
            sql.SQL("CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY").format(**parts)
        )
        return self.url(name)

    def drop(self, name: str) -> None:
        """Away with it, whoever is still connected."""
        self._run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        plain = self.url("postgres").replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as link:
            link.execute(statement)


@contextlib.contextmanager
def server(**settings: str) -> Iterator[Server]:
    """Run a server, with these settings of PostgreSQL, while the block lasts."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 1 << 30
    folder = Path(tempfile.mkdtemp(prefix="gateway-pg-", dir=MEMORY if roomy else None))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        data, port = folder / "data", _free_port()
        _do(program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
        options = [f"-c{name}={value}" for name, value in (FAST | settings).items()]
        where = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        command = [*_as_postgres(), program("postgres"), *where, *options]
        one = Server(port, command)
        one.start()
        try:
            yield one
        finally:
            one.running.stop()
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def copy_of(template: str, name: str) -> Iterator[str]:
    """A copy of the database at this URL; gives the copy's URL, and drops it at the end."""
    base, _, original = template.rpartition("/")
    port = int(base.rpartition(":")[2])
    copier = Server(port)
    url = copier.create(name, template=original)
    try:
        yield url
    finally:
        copier.drop(name)


def program(name: str) -> Path:
    """Debian keeps the server's programs off PATH, in a folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = found[-1] if found else shutil.which(name)
    assert path, f"{name} is missing: apt-get install postgresql"
    return Path(path)


def _as_postgres() -> list[str]:
    """Whatever happens to the tests, the server ends with them."""
    switch = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
    return ["setpriv", *(switch if os.geteuid() == 0 else []), "--pdeathsig=QUIT"]


def _do(*command: str | Path) -> None:
    done = subprocess.run([*_as_postgres(), *command], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
