"""More than a worker takes: who is refused hears when to come again, all others are served."""

from __future__ import annotations

import contextlib
import time
from collections import Counter

import pytest
import requests

from tests.e2e.scripted import WORKERS, Caller, Held, people
from tests.upstream import EVENTS, Cut, Said, event, upstream

__all__ = ["upstream"]  # the fixture
FEW = {"MAX_CALLS_PER_WORKER": 6}  # what eight threads carry, two of them kept free
LOST = {"jsonrpc": "2.0", "method": "notifications/first"}


def refusal(reply: requests.Response) -> str:
    error = reply.json()["error"]
    assert reply.json()["id"] == 7 and error["data" if "data" in error else "message"]
    assert int(reply.headers["Retry-After"]) >= 1
    return error["data"]["code"]


def served_again(caller: Caller) -> bool:
    """A slot comes back when the gateway has noticed; that may take a moment, not for ever."""
    for _ in range(200):
        if caller.call().status_code == 200:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("kind", WORKERS)
def test_sec_100_and_f_35_streams_are_capped_for_each_person_and_worker(
    gateway_server, upstream, kind
):
    """Of six, one person gets four. Pages go on, and what ends makes room however it ended."""
    held = Held(upstream)
    node = gateway_server(GUNICORN_CMD_ARGS=WORKERS[kind], **FEW)
    alice, bob = people(node, upstream.url, "alice", "bob")
    with contextlib.ExitStack() as opened:

        def open_one(caller: Caller, name: str = "silent"):
            return opened.enter_context(contextlib.closing(caller.stream(name)))

        first, *_ = [open_one(alice, "subscriptions/listen") for _ in range(2)]
        refused = alice.call("subscriptions/listen")
        assert refused.status_code == 503 and refusal(refused) == "too_many_streams"
        second, _ = [open_one(alice) for _ in range(2)]
        refused = alice.call("silent")
        assert refused.status_code == 503 and refusal(refused) == "too_many_calls"
        older = alice.call("silent", modern=False)
        assert older.status_code == 200 and refusal(older) == "too_many_calls"
        for _ in range(2):
            open_one(bob)
        refused = bob.call()
        assert refused.status_code == 503 and refusal(refused) == "server_full"
        for path in ("/ready", "/login", "/static/app.css"):  # two threads are free for these
            assert requests.get(node.url + path, timeout=60).status_code == 200
        for stream in (first, second):  # hung up
            stream.close()
            assert served_again(bob)
            open_one(bob)
        held.go_on.set()  # all others come to their end
        assert served_again(alice) and served_again(bob)
    broken = iter([event(LOST), Cut()])
    upstream.script = lambda _: Said(200, [next(broken), Cut()], {"Content-Type": EVENTS})
    with contextlib.closing(alice.stream()) as stream:
        assert b"upstream_error" in stream.rest()
    upstream.script = held.answer
    assert served_again(alice)
    assert "Traceback" not in node.log()


def test_sec_101_and_116_a_burst_over_two_nodes_meets_one_limit(gateway_server, upstream):
    """Each node would let in twenty by itself. They add up once a second."""
    most, at_once = 20, 4
    first = gateway_server(database="postgresql", RATE_LIMIT_TOKEN=most)
    same = {name: first.env[name] for name in ("SECRET_KEY", "AUTH_ENCRYPTION_SECRET")}
    second = gateway_server(database=first.env["DATABASE_URL"], RATE_LIMIT_TOKEN=most, **same)
    (alice,) = people(first, upstream.url, "alice")
    good: Counter[int] = Counter()  # by the minute
    for _ in range(8):
        for number in range(at_once):
            node = (first, second)[number % 2]
            reply = Caller(node.url, alice.token).call()
            if reply.status_code == 200:
                good[int(time.time() // 60)] += 1
                continue
            assert reply.status_code == 429 and refusal(reply) == "too_many_requests"
            assert 1 <= int(reply.headers["Retry-After"]) <= 60
        time.sleep(1.05)
    assert sum(good.values()) >= most - at_once
    assert max(good.values()) <= most + at_once
