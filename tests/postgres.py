"""A PostgreSQL of the tests' own: started on a free port, ended with the tests."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg


def _tool(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(found[-1]) if found else shutil.which(name)
    assert path, f"{name} is not here: install Debian's `postgresql`"
    return path


def _as_postgres(command: list[str]) -> list[str]:
    """The server refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


@dataclass
class Server:
    port: int
    pid: int

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def create(self, name: str) -> str:
        _admin(self.url(name), f'CREATE DATABASE "{name}"')
        return self.url(name)


@contextmanager
def server(**settings: str) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    run = _as_postgres if os.geteuid() == 0 else list
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    init = [_tool("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"]
    subprocess.run(run(init), check=True, capture_output=True, cwd=folder)
    port = _free_port()
    fast = {"fsync": "off", "max_connections": "200", "unix_socket_directories": str(folder)}
    options = [f"-c{name}={value}" for name, value in (fast | settings).items()]
    start = [_tool("postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), *options]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(run(start), stdout=log, stderr=log, cwd=folder)
    try:
        _await(process, port, folder / "log")
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def copy_of(template: str, name: str) -> Iterator[str]:
    """A database made from another one, dropped at the end."""
    base, _, original = template.rpartition("/")
    _admin(template, f'CREATE DATABASE "{name}" TEMPLATE "{original}"')
    try:
        yield f"{base}/{name}"
    finally:
        _admin(template, f'DROP DATABASE "{name}" WITH (FORCE)')


def _admin(url: str, statement: str) -> None:
    """Run one statement beside the database that `url` names."""
    plain = url.rpartition("/")[0].replace("+psycopg", "") + "/postgres"
    with psycopg.connect(plain, autocommit=True) as link:
        link.execute(statement.encode())


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < give_up:
        try:
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)  # between looks at a server that is starting
        else:
            return
    raise AssertionError(f"PostgreSQL did not start:\n{log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
