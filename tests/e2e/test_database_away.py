"""The database stops, hangs, is locked or full, has no connection left: an error, and it heals."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import requests
import sqlalchemy as sa

from app.db import db
from app.models import Gateway, User
from demo.person import Person
from tests import postgres
from tests.e2e import gateway
from tests.e2e.patience import eventually
from tests.e2e.scripted import WORKERS, Caller, caller, inside, people, workers_of
from tests.oauth import planted, strict_provider
from tests.upstream import upstream

__all__ = ["upstream"]  # the fixture
SOON = 30  # seconds: "within two" on a machine that is busy with other tests, but no hang


def get(node: gateway.Gateway, path: str, **more) -> requests.Response:
    return requests.get(node.url + path, timeout=SOON, **more)


def is_ready(node: gateway.Gateway) -> bool:
    return get(node, "/ready").status_code == 200


def code_of(reply: requests.Response) -> str:
    """Whatever clothes the error wears."""
    if reply.headers["Content-Type"].startswith("text/html"):
        return "database_away" if "database_away" in reply.text else reply.text
    error = reply.json().get("error", {})
    return error.get("data", error).get("code", "ok")


def says_so_everywhere(node: gateway.Gateway, alice: Caller) -> None:
    """Pages, the API and calls; the process itself is well."""
    unknown = {"Authorization": f"Bearer mcpg_{'x' * 43}"}
    assert get(node, "/health").json() == {"status": "ok"}
    for path, headers in (("/ready", {}), ("/login", {}), ("/api/v1/gateways", unknown)):
        reply = get(node, path, headers=headers)
        assert reply.status_code == 503 and code_of(reply) == "database_away", path
        assert int(reply.headers["Retry-After"]) >= 1
    eventually(lambda: alice.call().status_code == 503)  # what was read a second ago is still known
    assert code_of(alice.call()) == "database_away"


class Calling:
    """Somebody who calls all the time, and what they hear."""

    def __init__(self, alice: Caller) -> None:
        self.alice, self.heard = alice, Counter[str]()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._enough.is_set():
            reply = self.alice.call(timeout=SOON)
            self.heard["good" if "result" in reply.json() else code_of(reply)] += 1
            time.sleep(0.02)

    def hears(self, what: str) -> None:
        """Once more from now on."""
        before = self.heard[what]
        eventually(lambda: self.heard[what] > before)

    def __enter__(self) -> Calling:
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()


@pytest.fixture
def own_postgres() -> Iterator[Callable[..., postgres.Server]]:
    with contextlib.ExitStack() as started:
        yield lambda **settings: started.enter_context(postgres.server(**settings))


@pytest.mark.parametrize("kind", WORKERS)
def test_sec_118_and_f_24_a_database_that_crashes_is_an_error_and_heals_by_itself(
    gateway_server, upstream, own_postgres, kind
):
    """Twice, with calls going on: the second time every connection of the pool is a dead one."""
    server = own_postgres()
    node = gateway_server(database=server.create("g"), GUNICORN_CMD_ARGS=WORKERS[kind])
    (alice,) = people(node, upstream.url, "alice")
    with Calling(alice) as calls:
        for _ in range(2):
            calls.hears("good")
            server.crash()
            says_so_everywhere(node, alice)
            calls.hears("database_away")
            server.start()
            eventually(lambda: is_ready(node))
            calls.hears("good")
    assert set(calls.heard) == {"good", "database_away"}
    assert "Traceback" not in node.log()


def test_sec_118_a_call_whose_caller_is_still_known_gets_a_json_rpc_error(
    gateway_server, upstream, own_postgres
):
    """The API token was read a moment ago, the gateway was not."""
    server = own_postgres()
    node = gateway_server(database=server.create("g"))
    (alice,) = people(node, upstream.url, "alice")
    other = Caller(node.url, alice.token, "other")
    for _ in range(20):
        eventually(lambda: is_ready(node))
        assert alice.call().status_code == 200
        server.crash()
        reply = other.call(modern=False)
        server.start()
        if reply.status_code == 200:
            break
    assert reply.json()["id"] == 7 and code_of(reply) == "database_away"


class BlackHole:
    """Before a database: lets bytes through, or swallows them as a host that vanished does."""

    def __init__(self, port: int) -> None:
        self._to, self.swallows, self._open = port, False, list[socket.socket]()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._work = list[threading.Thread]()
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *ends: socket.socket) -> None:
        self._work.append(threading.Thread(target=target, args=ends))
        self._work[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._door.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._open += [client, server]
                for ends in ((client, server), (server, client)):
                    self._start(self._carry, *ends)

    def _carry(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if not self.swallows:
                    to.sendall(piece)
            to.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in (self._door, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._work:
            thread.join(SOON)
        for one in (self._door, *self._open):
            one.close()


@pytest.mark.parametrize("kind", WORKERS)
def test_sec_118_a_database_that_swallows_all_is_an_error_too(
    gateway_server, upstream, postgres_server, kind
):
    """More at once than threads and connections: none of them is held, whatever it waits for."""
    url = postgres_server.create(f"hole_{kind}")
    with contextlib.closing(BlackHole(postgres_server.port)) as hole:
        through = url.replace(str(postgres_server.port), str(hole.port))
        settings = {"DATABASE_CONNECTIONS": 4, "GUNICORN_CMD_ARGS": WORKERS[kind]}
        node = gateway_server(database=through, **settings)
        (alice,) = people(node, upstream.url, "alice")
        assert alice.call().status_code == 200
        hole.swallows = True
        with ThreadPoolExecutor(16) as pool:
            for reply in pool.map(lambda _: get(node, "/login"), range(48)):
                assert reply.status_code == 503 and code_of(reply) == "database_away"
        says_so_everywhere(node, alice)
        hole.swallows = False
        eventually(lambda: is_ready(node))
        assert alice.call().status_code == 200
    assert "Traceback" not in node.log()


# -- out of connections ----------------------------------------------------------------------------


def with_dead_tokens(
    node: gateway.Gateway, url: str, provider: strict_provider.Provider, number: int
) -> list[Caller]:
    """People at `acme` whose tokens have to be renewed before anything else."""
    with inside(node) as app:
        with app.app_context():
            planted.plant(token_url=f"{provider.url}/token")
            db.session.execute(sa.update(Gateway).values(url=url))
            db.session.commit()
        callers = [caller(app, node, f"p{index}", "acme") for index in range(number)]
        with app.app_context():
            for user in db.session.scalars(sa.select(User).where(User.email.like("p%"))).all():
                grant = provider.seed()
                tokens = {name: grant[name] for name in ("access_token", "refresh_token")}
                planted.grant(planted.DEAD, owner_key=f"user:{user.id}", **tokens)
    return callers


def test_f_25_renewals_hold_no_connection_while_they_wait_for_their_provider(
    gateway_server, upstream, postgres_server
):
    """Eight people, two connections, a provider that does not answer; and pages go on."""
    with strict_provider.serving(hold="before", expires=3600.0) as provider:
        database = postgres_server.create("few")
        node = gateway_server(database=database, DATABASE_CONNECTIONS=2)
        callers = with_dead_tokens(node, upstream.url, provider, number=8)
        with ThreadPoolExecutor(12) as pool:
            calls = [pool.submit(one.call) for one in callers]
            for _ in callers:
                assert provider.moments.acquire(timeout=60)
            pages = pool.map(lambda _: get(node, "/login").status_code, range(40))
            assert set(pages) == {200}
            provider.go_on.set()
            assert all("result" in call.result(60).json() for call in calls)
    assert provider.counts["refresh_token"] == len(callers) and not provider.revoked()


def test_f_25_a_database_without_a_free_slot_is_an_error_and_heals(
    gateway_server, upstream, own_postgres
):
    server = own_postgres(max_connections="10")
    node = gateway_server(database=server.create("g"), DATABASE_CONNECTIONS=8)
    plain = server.url("postgres").replace("+psycopg", "")
    with contextlib.ExitStack() as taken:
        first = taken.enter_context(contextlib.closing(psycopg.connect(plain, autocommit=True)))

        def take_all() -> None:
            first.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname='g'"
            )
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    taken.enter_context(contextlib.closing(psycopg.connect(plain)))

        def is_full() -> bool:
            take_all()
            return get(node, "/login").status_code == 503

        eventually(is_full)
        with ThreadPoolExecutor(16) as pool:  # more than the worker may have connections
            replies = list(pool.map(lambda _: get(node, "/login"), range(32)))
        assert {code_of(one) for one in replies if one.status_code != 200} == {"database_away"}
    eventually(lambda: is_ready(node))
    with ThreadPoolExecutor(16) as pool:
        assert {one.status_code for one in pool.map(lambda _: get(node, "/login"), range(32))} == {
            200
        }
    assert "Traceback" not in node.log()


# -- SQLite ----------------------------------------------------------------------------------------


def test_f_23_a_locked_database_refuses_writers_in_time_and_nobody_else(
    gateway_server, upstream, tmp_path
):
    """One worker with one hub: while it waits for the lock, others read and call."""
    node = gateway_server(database=f"sqlite:///{tmp_path}/gateway.db")
    admin = node.admin()
    (alice,) = people(node, upstream.url, "alice")
    alice.call()  # what a first call notes is noted
    with contextlib.closing(sqlite3.connect(tmp_path / "gateway.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        # Once a second an answer is followed by counting, which waits on its connection.
        admin.session.headers["Connection"] = "close"
        with ThreadPoolExecutor() as pool:
            form = {"email": "nobody@example.com", "password": "wrong"}
            stranger = Person(node.url)
            sent = pool.submit(stranger.submit, stranger.at("/login"), **form)
            served = 0
            while not sent.done():
                assert alice.call().json()["result"] and admin.at("/connections").status_code == 200
                assert is_ready(node)
                served += 1
        refused = sent.result()
        other.rollback()
    assert refused.status_code == 503 and code_of(refused) == "database_away"
    assert served >= 3  # in five seconds, of a hub that was not stopped
    assert stranger.submit(stranger.at("/login"), **form).status_code == 422


def test_f_22_a_full_disk_is_said_and_heals(gateway_server, upstream, tmp_path):
    """No file may grow beyond what it is: so the system refuses what does not fit."""
    path = tmp_path / "gateway.db"
    node = gateway_server(database=f"sqlite:///{path}")
    (alice,) = people(node, upstream.url, "alice")
    assert is_ready(node)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    (worker,) = workers_of(node)
    roomy = resource.prlimit(worker, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    try:
        stranger = Person(node.url)
        form = {"email": "nobody@example.com", "password": "wrong"}
        refused = stranger.submit(stranger.at("/login"), **form)
        assert refused.status_code == 503 and code_of(refused) == "database_away"
        assert get(node, "/health").status_code == 200 and not is_ready(node)
        assert alice.call().json()["result"]  # what is only read goes on
        assert "cannot write: its disk is full" in node.log()
    finally:
        resource.prlimit(worker, resource.RLIMIT_FSIZE, roomy)
    eventually(lambda: is_ready(node))
    assert stranger.submit(stranger.at("/login"), **form).status_code == 422
    assert path.stat().st_size >= size


def test_a_second_server_on_the_same_sqlite_file_does_not_start(gateway_server, tmp_path):
    """Commands and several workers are no second server, nor is the next one after a kill -9."""
    database = f"sqlite:///{tmp_path}/gateway.db"
    node = gateway_server(workers=2, database=database)
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "wsgi:app"]
    done = subprocess.run(
        command, cwd=gateway.ROOT, env=node.env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == os.EX_TEMPFAIL
    assert "another server uses" in done.stderr and "PostgreSQL" in done.stderr
    email = "admin@example.com"
    made = node.flask("users", "create-admin", email, "--password-stdin", stdin=gateway.PASSWORD)
    assert email in made
    os.kill(node.program.pid, signal.SIGKILL)
    node.restart()
    assert get(node, "/ready").status_code == 200


# -- out of handles --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WORKERS)
def test_f_43_a_worker_out_of_handles_refuses_and_heals(gateway_server, upstream, kind):
    node = gateway_server(GUNICORN_CMD_ARGS=WORKERS[kind])
    (alice,) = people(node, upstream.url, "alice")
    assert alice.call().status_code == 200
    (worker,) = workers_of(node)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (64, 64))
    to = ("127.0.0.1", int(node.url.rpartition(":")[2]))
    with contextlib.ExitStack() as opened:
        for _ in range(80):
            opened.enter_context(socket.create_connection(to, timeout=SOON))
        for _ in range(5):
            with contextlib.suppress(requests.RequestException):
                assert alice.call(timeout=1).status_code in (200, 503)
    eventually(lambda: answers(alice))
    assert get(node, "/ready").status_code == 200
    assert workers_of(node) == {worker}  # the same one: nothing was restarted


def answers(alice: Caller) -> bool:
    try:
        return "result" in alice.call(timeout=5).json()
    except requests.RequestException:
        return False
