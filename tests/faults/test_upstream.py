"""F-32 to F-35, F-42 and what a hostile or broken MCP server does on the wire, through /mcp/<slug>.

After each of them: one call ran at most once, the caller has an answer under its own id, nobody's
secret is anywhere else, and the next call works.
"""

from __future__ import annotations

import dataclasses
import gzip
import socket
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from app.mcp import relay
from app.models import AuditEvent, Gateway, ParkedCall
from app.oauth.replies import TokenSet
from tests.conftest import rows
from tests.mcp import world
from tests.mcp.world import CODE, SHARED, Client, add, body_of, connect, failure_of, messages_of
from tests.mcp.world import oauth as signs_in
from tests.oauth import acme
from tests.upstream import (
    JSON,
    Cut,
    Said,
    Seen,
    Upstream,
    dual,
    event,
    result,
    says,
    streams,
    upstream,
)

__all__ = ["upstream"]  # the fixture
SECRET = "s3cret-canary-91ab"
TOKENS = TokenSet("at-once", None, 3600.0)


@pytest.fixture
def other() -> Iterator[Upstream]:
    """Somebody else's server, which nobody has to ask."""
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture
def impatient(start, config):
    """Gives a silent server up at once."""
    return start(dataclasses.replace(config, UPSTREAM_READ_TIMEOUT=0.3))


# -- what goes wrong in the middle (F-33, SEC-047) ------------------------------------------------


def half_a_head(seen: Seen) -> Said:
    seen.peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: applica")
    raise Cut


def half_a_body(seen: Seen) -> Said:
    return Said(200, [b'{"jsonrpc":"2.0","id":1,', Cut()], {"Content-Type": JSON})


def half_an_event(seen: Seen) -> Said:
    return streams(event({"jsonrpc": "2.0", "method": "notifications/x"}), b'data: {"js', Cut())


def silent(seen: Seen) -> Said:
    seen.hangs_up()  # until we gave it up
    return Said(0)


def silent_in_a_body(seen: Seen) -> Said:
    def pieces() -> Iterator[bytes]:
        yield b'{"jsonrpc":"2.0",'
        seen.hangs_up()

    return Said(200, pieces(), {"Content-Type": JSON})


BREAKS: dict[str, Callable[[Seen], Said]] = {
    "reset": lambda _: Said(0),
    "reset in the head": half_a_head,
    "reset in a body": half_a_body,
    "reset in a stream": half_an_event,
    "silent": silent,
    "silent in a body": silent_in_a_body,
    **{
        str(status): lambda _, status=status: Said(status, b"", {"Retry-After": "0"})
        for status in (408, 429, 500, 502, 503, 504)
    },
}


class Counting:
    """An MCP server with a side effect. The tool runs, and then `breaks` answers."""

    def __init__(self, breaks: Callable[[Seen], Said]) -> None:
        self.ran, self.breaks = 0, breaks

    def __call__(self, seen: Seen) -> Said:
        if seen.rpc != "tools/call":
            return dual(seen)
        self.ran += 1
        return self.breaks(seen)


@pytest.mark.parametrize("way", ["modern", "attached", "detached"])
@pytest.mark.parametrize("fault", BREAKS)
def test_sec_047_f_33_a_call_that_broke_ran_once(impatient, upstream, fault, way):
    add(impatient, upstream.url)
    client = Client(impatient)
    if way == "attached":
        client.initialize()
    upstream.script = counting = Counting(BREAKS[fault])
    era = "modern" if way == "modern" else "legacy"
    said = body_of(client.call(era=era))
    assert said["id"] == client.next_id and said["error"]["code"] == -32603
    expected = {"upstream_error", "upstream_timeout"}
    if fault == "reset in the head":  # http.client takes it for a whole one
        expected = {"upstream_bad_answer"}
    assert said["error"]["data"]["code"] in expected
    assert counting.ran == 1
    upstream.script = dual
    assert "result" in body_of(client.call(era=era))


@pytest.mark.parametrize("fault", BREAKS)
def test_sec_047_a_parked_call_that_broke_ran_once(impatient, upstream, fault):
    """However often its consent, or its caller, comes back."""
    add(impatient, upstream.url, **signs_in(token_management={}))
    client = Client(impatient)
    client.call()
    [waiting] = rows(impatient, ParkedCall)
    upstream.script = counting = Counting(BREAKS[fault])
    for _ in range(3):
        with impatient.app_context():
            relay.run_parked(world.caller(impatient), world.usable(impatient), waiting.id, TOKENS)
    told = body_of(client.call())["error"]["data"]
    assert told["code"].startswith("upstream_") and counting.ran == 1


@pytest.mark.parametrize("fault", BREAKS)
def test_sec_047_a_call_from_the_browser_that_broke_ran_once(impatient, upstream, fault):
    add(impatient, upstream.url)
    upstream.script = counting = Counting(BREAKS[fault])
    with impatient.app_context():
        with pytest.raises(Exception) as caught:  # noqa: B017, PT011  # which one is said below
            relay.call_tool(world.caller(impatient), world.usable(impatient), "echo", {})
    assert getattr(caught.value, "code", "").startswith("upstream_")
    assert counting.ran == 1


def test_f_33_a_connection_that_was_closed_while_it_rested_costs_no_call(app, upstream):
    add(app, upstream.url)
    client = Client(app)
    for number in range(1, 4):
        assert "result" in body_of(client.call())
        upstream.seen[-1].peer.shutdown(socket.SHUT_RDWR)
        assert upstream.connections == number


# -- answers that are none (F-34) -----------------------------------------------------------------


@pytest.mark.parametrize("way", ["modern", "attached", "detached"])
@pytest.mark.parametrize("wrong", ["99", "text", "missing", "null", "true"])
def test_f_34_an_answer_to_another_call_is_no_answer(app, upstream, way, wrong):
    add(app, upstream.url)
    client = Client(app)
    if way == "attached":
        client.initialize()
    era = "modern" if way == "modern" else "legacy"

    def script(seen: Seen) -> Said:
        if seen.rpc != "tools/call":
            return dual(seen)
        said = result(seen, content=[], secret=SECRET)
        values = {"99": 99, "text": str(said["id"]), "null": None, "true": True}
        said.pop("id")
        return says(said if wrong == "missing" else said | {"id": values[wrong]})

    upstream.script = script
    reply = client.call(era=era)
    assert body_of(reply)["id"] == client.next_id
    assert failure_of(reply)["code"] == "upstream_bad_answer" and SECRET not in reply.text


@pytest.mark.parametrize("way", ["modern", "attached"])
def test_f_34_a_stream_of_somebody_elses_answers_ends_with_ours(app, upstream, way):
    add(app, upstream.url)
    client = Client(app)
    if way == "attached":
        client.initialize()
    upstream.script = lambda seen: streams(event({"jsonrpc": "2.0", "id": 99, "result": {}}))
    said = messages_of(client.call(era="modern" if way == "modern" else "legacy"))
    assert [one["id"] for one in said] == [99, client.next_id]
    assert said[-1]["error"]["data"]["code"] == "upstream_error"


def test_f_34_of_two_answers_the_first_counts_for_us_and_a_client_sees_both(app, upstream):
    add(app, upstream.url)
    client = Client(app)

    def twice(seen: Seen) -> Said:
        if seen.rpc != "tools/call":
            return dual(seen)
        both = [result(seen, content=[{"type": "text", "text": text}]) for text in "ab"]
        return streams(*map(event, both))

    upstream.script = twice
    said = messages_of(client.call())
    assert [one["result"]["content"][0]["text"] for one in said] == ["a", "b"]
    assert client.text(client.call(era="legacy")) == "a"
    with app.app_context():
        ours = relay.call_tool(world.caller(app), world.usable(app), "echo", {})
    assert ours.text == "a"


# -- rights that are missing (F-32) ---------------------------------------------------------------


def test_f_32_a_server_that_always_wants_more_gets_each_call_once(app, upstream, provider):
    """Also after the consent that it asked for: a link each time, and no renewal."""
    add(app, upstream.url, **signs_in())
    connect(app)
    challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="write"'}
    upstream.script = lambda _: Said(403, b"", challenge)
    client = Client(app)
    for number in range(1, 4):
        told = failure_of(client.call())
        assert told["code"] == "insufficient_scope" and "?ask=" in told["action"]
        assert len(upstream.seen) == number
        connect(app, token=f"at-{number}")
    assert provider.call_count == 0


# -- ways out (SEC-022, SEC-035) ------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_sec_035_f_15_what_a_redirect_points_to_hears_nothing(app, upstream, other, status, era):
    add(app, upstream.url, auth_type="bearer", bearer_token=SECRET)
    upstream.script = lambda _: Said(status, b"", {"Location": other.url})
    client = Client(app)
    client.initialize() if era == "legacy" else None
    told = failure_of(client.call(era=era))
    assert told["code"] == "redirected" and SECRET not in str(told)
    assert other.connections == 0 and len(upstream.asked("tools/call")) <= 1


@pytest.mark.parametrize("status", [302, 307, 308])
def test_sec_035_f_15_a_provider_that_redirects_sends_no_secret_on(app, upstream, other, status):
    provider = upstream
    provider.script = lambda _: Said(status, b"", {"Location": f"{other.origin}/token"})
    config = SHARED | {"token_url": f"{provider.origin}/token", "client_secret": SECRET}
    add(app, other.url, auth_type="oauth", oauth_config=config)
    assert failure_of(Client(app).call())["code"] == "redirected"
    assert len(provider.seen) == 1 and other.connections == 0


def test_sec_022_an_address_in_a_challenge_is_not_asked(app, upstream, other, provider):
    """Nothing is found out by itself in this release, so no address of a server's is called."""
    named = (
        f'resource_metadata="{other.origin}/.well-known/oauth-protected-resource"',
        'resource_metadata="http://169.254.169.254/latest"',
        f'authorization_uri="{other.origin}/go"',
    )
    add(app, upstream.url)
    client = Client(app)
    for part in named:
        challenge = {"WWW-Authenticate": f"Bearer {part}", "Link": f"<{other.url}>; rel=next"}
        for status, code in ((401, "sign_in_not_set_up"), (403, "upstream_forbidden")):
            upstream.script = lambda _, s=status, c=challenge: Said(s, b"", c)
            reply = client.call()
            assert failure_of(reply)["code"] == code and "WWW-Authenticate" not in reply.headers
    assert other.connections == 0 and provider.call_count == 0


# -- sizes (SEC-049, F-14) ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_sec_049_f_14_a_bomb_costs_no_more_than_the_cap(app, upstream, kind):
    """300 MiB in some 300 KB."""
    head = b'data: {"a":"' if kind != JSON else b'{"a":"'
    bomb = gzip.compress(head + b"x" * (300 << 20), compresslevel=1)
    assert len(bomb) < 3 << 20
    add(app, upstream.url)
    client = Client(app)
    client.call()
    named = {"Content-Type": kind, "Content-Encoding": "gzip"}
    upstream.script = lambda _: Said(200, bomb, named)
    tracemalloc.start()
    try:
        said = body_of(client.call())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said["error"]["data"]["code"] == "upstream_bad_answer"
    assert peak < 120 << 20
    upstream.script = dual
    assert "result" in body_of(client.call())


# -- names and addresses (F-42, SEC-093) ----------------------------------------------------------


def resolves(monkeypatch, *found: str | None) -> list[str]:
    """What each look-up says, one after the other; None: nothing. The names that were asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def answer(host, port, *rest, **more):
        if not str(host).endswith(".test"):
            return real(host, port, *rest, **more)
        address = found[min(len(asked), len(found) - 1)]
        asked.append(host)
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


def noted(app, slug: str) -> str | None:
    [row] = [row for row in rows(app, Gateway) if row.slug == slug]
    return row.failed_code


def test_f_42_a_name_that_fails_or_leads_inside_is_called_nowhere(app, upstream, monkeypatch):
    """People hear one sentence without the name of the host; admins see which step it was."""
    asked = resolves(monkeypatch, None, "10.0.0.1", "169.254.169.254")
    add(app, "https://secret-host.test/mcp")
    client = Client(app)
    told, steps = [], []
    for _ in range(3):
        reply = client.call()
        told.append({**failure_of(reply), "request_id": ""})
        assert "secret-host" not in reply.text
        reply.close()  # what is noted is noted when the answer is out
        steps.append(noted(app, "acme"))
    assert told[0] == told[1] == told[2] and told[0]["code"] == "upstream_unreachable"
    assert asked == ["secret-host.test"] * 3
    assert steps[:2] == ["dns_failed", "blocked_address"] and upstream.connections == 0


def test_f_42_a_name_that_flips_is_asked_once_for_each_connection(app, upstream, monkeypatch):
    """The one address that was checked is the one that is called; there is no second look-up."""
    port = upstream.origin.rpartition(":")[2]
    monkeypatch.setattr(
        "socket.getaddrinfo", _flipping(socket.getaddrinfo, ["127.0.0.1", "10.0.0.1"])
    )
    add(app, f"http://localhost:{port}/mcp")
    client = Client(app)
    assert "result" in body_of(client.call())
    assert "result" in body_of(client.call())  # over the same connection
    assert upstream.connections == 1


def _flipping(real, addresses):
    left = list(addresses)

    def answer(host, port, *rest, **more):
        if host != "localhost":
            return real(host, port, *rest, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (left.pop(0), port))]

    return answer


def test_sec_093_whatever_keeps_us_from_a_server_sounds_the_same(app, upstream, monkeypatch):
    resolves(monkeypatch, None)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    plain = upstream.origin.rpartition(":")[2]
    places = {
        "dns_failed": "https://nowhere.test/mcp",
        "blocked_address": "https://10.0.0.1/mcp",
        "connect_failed": f"http://127.0.0.1:{port}/mcp",
        "tls_failed": f"https://127.0.0.1:{plain}/mcp",
    }
    told = []
    for number, (step, url) in enumerate(places.items()):
        add(app, url, f"g{number}")
        reply = Client(app, slug=f"g{number}").call()
        failure = failure_of(reply)
        assert "step" not in failure and failure["gateway"] == f"g{number}"
        told.append({**failure, "request_id": "", "gateway": ""})
        reply.close()
        assert noted(app, f"g{number}") == step
    assert all(one == told[0] for one in told)
    assert told[0]["code"] == "upstream_unreachable"


def test_sec_093_an_admins_client_is_told_the_step(app, admin, monkeypatch):
    resolves(monkeypatch, None)
    add(app, "https://nowhere.test/mcp")
    assert failure_of(Client(app, email="admin@example.com").call())["step"] == "dns_failed"


@pytest.mark.parametrize("kind", ["shared", "personal"])
def test_sec_093_a_provider_that_is_not_reached_sounds_the_same(app, upstream, kind):
    """To an AI client, and to whoever comes back with a code."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    app.config["OAUTH_MAX_RETRIES"] = 0
    plain = upstream.origin.rpartition(":")[2]
    places = ("https://10.0.0.1/t", f"http://127.0.0.1:{port}/t", f"https://127.0.0.1:{plain}/t")
    told = []
    for number, url in enumerate(places):
        slug = f"g{number}"
        config = (SHARED if kind == "shared" else CODE) | {"token_url": url}
        if kind == "personal":
            config |= {"token_management": {"store_tokens": True, "auto_refresh": True}}
        add(app, upstream.url, slug, auth_type="oauth", oauth_config=config)
        if kind == "personal":
            connect(app, slug, expires_ms=1)
        failure = failure_of(Client(app, slug=slug).call())
        told.append({**failure, "request_id": "", "gateway": "", "retry_after": 0, "action": ""})
    assert all(one == told[0] for one in told), told
    assert told[0]["code"] == "provider_unreachable"


def test_sec_093_a_sign_in_whose_provider_is_not_reached_names_no_step(app, alice, admin):
    """The person reads one sentence, an admin who tries it the step, the host and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    app.config["OAUTH_MAX_RETRIES"] = 0
    acme.add(app, token_url=f"http://127.0.0.1:{port}/token")
    page, of_admin = (one.get(acme.leave(one).back().location) for one in (alice, admin))
    assert "provider_unreachable" in page.text
    assert "connect_failed" not in page.text and "127.0.0.1" not in page.text
    assert "connect_failed" in of_admin.text and "127.0.0.1" in of_admin.text


def test_sec_093_nor_does_the_page_of_a_connection(app, alice, admin):
    acme.add(app)
    for email in ("alice@example.com", "admin@example.com"):
        connect(app, email=email, state="failing", last_error_code="dns_failed")
    assert "There is no server called" not in alice.get("/connections/acme").text
    assert "There is no server called" in admin.get("/connections/acme").text


def test_nothing_of_a_fault_is_an_audit_event(app, upstream):
    """Else whoever can make a server fail could fill the activity."""
    add(app, upstream.url)
    client = Client(app)
    before = len(rows(app, AuditEvent))
    upstream.script = lambda _: Said(500)
    client.call()
    assert len(rows(app, AuditEvent)) == before
