"""How a server ends, and how its workers are replaced: what is under way comes to its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import sqlalchemy as sa

from app.db import db
from app.models import Gateway
from tests.e2e import gateway
from tests.e2e.patience import eventually
from tests.e2e.scripted import WORKERS, Caller, Held, caller, inside, people, workers_of
from tests.oauth import planted, strict_provider
from tests.upstream import upstream

__all__ = ["upstream"]  # the fixture
kinds = pytest.mark.parametrize("kind", WORKERS)


def is_open(node: gateway.Gateway) -> bool:
    try:
        requests.get(f"{node.url}/health", timeout=30)
    except requests.ConnectionError:
        return False
    return True


def last_event(heard: bytes) -> dict:
    return json.loads(heard.rpartition(b"data: ")[2].partition(b"\n")[0])


@kinds
def test_sec_117_a_server_that_stops_says_so_finishes_its_calls_and_ends_its_streams(
    gateway_server, upstream, kind
):
    held = Held(upstream)
    node = gateway_server(GUNICORN_CMD_ARGS=WORKERS[kind], STOP_NOTICE=20)
    (alice,) = people(node, upstream.url, "alice")
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as opened:
        listens = [opened.enter_context(contextlib.closing(alice.listen()))]
        listens += [opened.enter_context(contextlib.closing(alice.stream("subscriptions/listen")))]
        call = pool.submit(alice.call, "slow")
        stream = opened.enter_context(contextlib.closing(alice.stream()))
        assert held.waiting.acquire(timeout=60)
        os.kill(node.program.pid, signal.SIGTERM)
        eventually(lambda: requests.get(f"{node.url}/ready", timeout=60).status_code == 503)
        refused = alice.call()
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["data"]["code"] == "restarting"
        assert requests.get(f"{node.url}/login", timeout=60).status_code == 200
        os.kill(node.program.pid, signal.SIGTERM)  # enough of the notice
        eventually(lambda: not is_open(node))
        for one in listens:
            assert one.rest().endswith(b"\r\n0\r\n\r\n")
        assert listens[0].heard.count(b"data: ") == 1  # nobody waits on it for an answer
        told = last_event(listens[1].heard)
        assert told["id"] == 7 and told["error"]["data"]["code"] == "restarting"
        assert not call.done()
        held.go_on.set()
        assert call.result(60).json()["result"]["content"] == []
        assert last_event(stream.rest())["result"]["content"] == []
        assert stream.heard.endswith(b"\r\n0\r\n\r\n")
    assert node.program.wait() == 0
    assert "Traceback" not in node.log() and "graceful timeout" not in node.log()


@kinds
def test_sec_117_who_is_not_done_in_time_gets_an_error_as_the_last_word(
    gateway_server, upstream, kind
):
    """One call waits for the first byte of its answer, the other in the middle of a stream."""
    held = Held(upstream)
    few = f"{WORKERS[kind]} --graceful-timeout 7"  # 2 s to finish, 5 s to be told
    node = gateway_server(GUNICORN_CMD_ARGS=few)
    (alice,) = people(node, upstream.url, "alice")
    with ThreadPoolExecutor() as pool, contextlib.closing(alice.stream()) as stream:
        call = pool.submit(alice.call, "slow")
        assert held.waiting.acquire(timeout=60)
        os.kill(node.program.pid, signal.SIGTERM)
        for told in (call.result(60).json(), last_event(stream.rest())):
            assert told["id"] == 7 and told["error"]["data"]["code"] == "restarting"
        assert stream.heard.endswith(b"\r\n0\r\n\r\n")
    assert node.program.wait() == 0
    assert "Traceback" not in node.log()


def connected(url: str, provider: strict_provider.Provider) -> None:
    """Alice's connection to `acme` at this server, whose token is over."""
    planted.plant(token_url=f"{provider.url}/token")
    db.session.execute(sa.update(Gateway).values(url=url))
    grant = provider.seed()
    tokens = {name: grant[name] for name in ("access_token", "refresh_token")}
    planted.grant(planted.DEAD, **tokens)


def connected_caller(node: gateway.Gateway, url: str, provider) -> Caller:
    with inside(node) as app:
        with app.app_context():
            connected(url, provider)
        return caller(app, node, "alice", "acme")


@kinds
def test_f_36_a_renewal_under_way_is_kept_when_the_server_is_cut(gateway_server, upstream, kind):
    """Ctrl-C: its call is cut, and what the provider gave is written down all the same."""
    with strict_provider.serving(hold="after", expires=3600.0) as provider:
        node = gateway_server(GUNICORN_CMD_ARGS=WORKERS[kind])
        alice = connected_caller(node, upstream.url, provider)
        with ThreadPoolExecutor() as pool:
            call = pool.submit(alice.call)
            assert provider.arrived.wait(60)
            os.kill(node.program.pid, signal.SIGINT)
            node.program.wait_for("Worker exiting")
            provider.go_on.set()
            with contextlib.suppress(requests.ConnectionError):
                call.result(60)
        assert node.program.wait() == 0
    with inside(node) as app, app.app_context():
        row = planted.stored()
        token = planted.token_of(row)
    assert row.state == "active" and provider.look_up(token) == "active"
    assert provider.counts["refresh_token"] == 1 and provider.revoked() == 0


@kinds
def test_f_36_a_renewal_under_way_is_kept_when_the_server_stops(gateway_server, upstream, kind):
    """The provider has voided the old refresh token, and answers only when we are ending."""
    with strict_provider.serving(hold="after", expires=3600.0) as provider:
        node = gateway_server(GUNICORN_CMD_ARGS=WORKERS[kind], STOP_NOTICE=0.1)
        alice = connected_caller(node, upstream.url, provider)
        with ThreadPoolExecutor() as pool:
            call = pool.submit(alice.call)
            assert provider.arrived.wait(60)
            os.kill(node.program.pid, signal.SIGTERM)
            eventually(lambda: not is_open(node))
            provider.go_on.set()
            said = call.result(60).json()
        assert node.program.wait() == 0
    with inside(node) as app, app.app_context():
        row = planted.stored()
        token = planted.token_of(row)
    assert said["result"]["content"][0]["text"] == f"echo by Bearer {token}"
    assert row.state == "active" and provider.look_up(token) == "active"
    assert provider.counts["refresh_token"] == 1 and provider.revoked() == 0


# -- workers that are replaced --------------------------------------------------------------------


class Callers:
    """Four who call all the time: two on a connection they keep, two on a new one each time."""

    def __init__(self, alice: Caller) -> None:
        self.alice, self.said = alice, Counter[str]()
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._work = [self._pool.submit(self._call, number % 2 == 0) for number in range(4)]

    def _call(self, keeps: bool) -> None:
        session = requests.Session() if keeps else None
        while not self._enough.is_set():
            reply = self.alice.call(session=session or requests)
            good = reply.status_code == 200 and "result" in reply.json()
            self.said["good" if good else f"{reply.status_code} {reply.text}"] += 1
        if session is not None:
            session.close()

    def reach(self, number: int) -> None:
        eventually(lambda: self.said["good"] >= number or any(one.done() for one in self._work))

    def stop(self) -> Counter[str]:
        """What they heard. Raises what one of them met."""
        self._enough.set()
        for one in self._work:
            one.result(60)
        self._pool.shutdown()
        return self.said


@kinds
@pytest.mark.parametrize("why", ["SIGHUP", "--max-requests 50"])
def test_f_37_no_call_fails_while_workers_are_replaced(gateway_server, upstream, kind, why):
    flags = "" if why == "SIGHUP" else why
    node = gateway_server(workers=2, GUNICORN_CMD_ARGS=f"{WORKERS[kind]} {flags}")
    (alice,) = people(node, upstream.url, "alice")
    first = workers_of(node)
    callers = Callers(alice)
    callers.reach(40)
    if why == "SIGHUP":
        os.kill(node.program.pid, signal.SIGHUP)
    eventually(lambda: len(workers_of(node)) == 2 and not workers_of(node) & first)
    callers.reach(callers.said["good"] + 40)
    assert set(callers.stop()) == {"good"}
    os.kill(node.program.pid, signal.SIGTERM)  # those of the second generation end as gently
    assert node.program.wait(60) == 0
    assert "Traceback" not in node.log() and "graceful timeout" not in node.log()
