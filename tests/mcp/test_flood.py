"""A server that never stops talking: it costs a bounded time, and no more memory than it may."""

import json

import pytest

from app.errors import UpstreamError, UpstreamTimeout
from app.mcp import relay
from app.mcp.upstream import LONGEST_S, Exchanges
from tests.mcp import world
from tests.mcp.world import Client, add, body_of, failure_of
from tests.upstream import LEGACY, OldServer, dual, event, legacy, modern, result, streams, upstream

__all__ = ["upstream"]  # the fixture
NOISE = event({"jsonrpc": "2.0", "method": "notifications/x", "params": {"a": "b" * 500}})
PING = event({"jsonrpc": "2.0", "method": "ping", "id": 1})


@pytest.fixture
def acme(app, upstream):
    add(app, upstream.url)
    return Client(app)


def flood(piece: bytes, upstream, *, pause: float = 0):
    """Until its reader left; not for ever, as a test has to end."""
    for _ in range(300_000):
        if upstream.hung_up.wait(pause) if pause else upstream.hung_up.is_set():
            return
        yield piece


def answers_with(upstream, rpc: str, pieces, otherwise=dual):
    def script(seen):
        if seen.rpc != rpc:
            return otherwise(seen)
        said = streams()
        said.body = pieces() if callable(pieces) else pieces
        return said

    upstream.script = script


def at(app, work, *args, **more):
    with app.app_context():
        return work(world.caller(app), world.usable(app), *args, **more)


def test_a_list_has_its_time_however_much_is_said(app, acme, upstream):
    answers_with(upstream, "tools/list", lambda: flood(b": \n\n", upstream))
    with pytest.raises(UpstreamTimeout):
        at(app, relay.list_tools, timeout_s=0.3)
    assert upstream.hung_up.wait(20)


@pytest.mark.parametrize("piece", [b":" + b"x" * 60_000 + b"\n\n", NOISE], ids=["comments", "news"])
@pytest.mark.parametrize("method", ["initialize", "server/discover"])
def test_an_opening_that_never_ends_is_answered_by_us(acme, upstream, method, piece):
    answers_with(upstream, method, lambda: flood(piece, upstream))
    reply = acme.initialize() if method == "initialize" else acme.modern(method)
    if method == "initialize":
        assert body_of(reply)["result"]["serverInfo"]["name"] == "acme"
    else:
        assert reply.status_code == 400 and reply.json["error"]["code"] == -32600
    assert upstream.hung_up.wait(20)


def test_an_opening_that_drips_is_answered_by_us_when_its_time_is_over(acme, upstream):
    answers_with(upstream, "initialize", lambda: flood(b": \n\n", upstream, pause=0.001))
    assert body_of(acme.initialize())["result"]["serverInfo"]["name"] == "acme"
    assert upstream.hung_up.wait(20)


@pytest.mark.parametrize("age", [0, LONGEST_S + 1])
def test_sec_049_an_answer_has_an_hour_however_much_comes(app, acme, upstream, age):
    """Read as if it had begun that long ago."""
    upstream.script = lambda seen: streams(NOISE, event(result(seen)))
    with app.app_context():
        answer = Exchanges(world.usable(app)).send("POST", {}, b'{"id":1,"method":"x"}')
    answer._began -= age
    with answer:
        if age:
            with pytest.raises(UpstreamTimeout):
                answer.body()
        else:
            assert answer.body().startswith(NOISE)


def test_an_opening_of_one_endless_event_is_answered_by_us(acme, upstream):
    answers_with(upstream, "initialize", [b"data: ", *[b"x" * 1_000_000] * 18])
    assert body_of(acme.initialize())["result"]["serverInfo"]["name"] == "acme"


def test_an_opening_that_comes_late_in_its_stream_passes_as_it_came(acme, upstream):
    welcome = {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {"name": "far"}}
    pieces = [NOISE, event({"jsonrpc": "2.0", "id": 1, "result": welcome})]
    cut = [bytes([byte]) for byte in b"".join(pieces)]
    answers_with(upstream, "initialize", cut)
    assert acme.initialize().data == b"".join(pieces)


@pytest.mark.parametrize("rpc", ["initialize", "tools/call"])
@pytest.mark.parametrize("piece", [NOISE, PING], ids=["news", "pings"])
def test_f_34_our_own_calls_wait_for_so_many_messages_only(app, acme, upstream, rpc, piece):
    answers_with(upstream, rpc, lambda: flood(piece * 100, upstream), legacy)
    with pytest.raises(UpstreamError) as caught:
        at(app, relay.call_tool, "echo", {})
    assert caught.value.code == "upstream_bad_answer"
    assert upstream.hung_up.wait(20)


def test_a_handshake_over_the_old_transport_waits_for_so_many_messages_only(app, upstream):
    add(app, f"{upstream.origin}/sse", transport="sse")
    old = OldServer()
    take = old._take

    def noisy(seen):
        if seen.rpc == "initialize":
            for _ in range(300):
                old._say[seen.path].put(NOISE * 100)
        take(seen)

    old._take = noisy
    upstream.script = old
    with pytest.raises(UpstreamError) as caught:
        at(app, relay.list_tools)
    assert caught.value.code == "upstream_bad_answer"


def test_a_client_that_waits_on_a_session_of_ours_is_told(acme, upstream):
    acme.call(era="legacy")  # which opens the session
    answers_with(upstream, "tools/call", lambda: flood(PING * 100, upstream), legacy)
    assert failure_of(acme.call(era="legacy"))["code"] == "upstream_bad_answer"


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_news_in_front_of_an_answer_are_no_harm(app, acme, upstream, era):
    script = modern if era == "modern" else legacy
    more = {"resultType": "complete"} if era == "modern" else {}

    def noisy(seen):
        if seen.rpc != "tools/call":
            return script(seen)
        content = [{"type": "text", "text": "at last"}]
        return streams(*[NOISE * 10] * 50, event(result(seen, content=content, **more)))

    upstream.script = noisy
    assert at(app, relay.call_tool, "echo", {}).text == "at last"
    assert json.dumps(body_of(acme.call(era=era))["result"]["content"])
