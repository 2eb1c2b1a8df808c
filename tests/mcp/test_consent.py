"""How a client is asked for a sign-in, and what becomes of the call that wanted one."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from app.mcp import relay
from app.models import ParkedCall
from app.oauth import parked
from app.oauth.replies import TokenSet
from tests.conftest import rows
from tests.mcp import world
from tests.mcp.world import Client, add, body_of, connect, failure_of, messages_of, oauth
from tests.upstream import (
    META,
    OldServer,
    Said,
    Upstream,
    dual,
    event,
    legacy,
    result,
    says,
    streams,
    upstream,
)

__all__ = ["upstream"]  # the fixture
URL, FORM = {"elicitation": {"url": {}}}, {"elicitation": {}}
TOKENS = TokenSet("at-once", None, 3600.0)
OURS = {f"{META}serverInfo": {"name": "acme", "title": "Acme", "version": "0.1.0"}}


@pytest.fixture
def acme(app, upstream: Upstream) -> Client:
    """Alice's client; she is not connected, and her tokens will be kept."""
    add(app, upstream.url, **oauth())
    return Client(app)


@pytest.fixture
def forgetful(app, upstream: Upstream) -> Client:
    """The same at a gateway that keeps no tokens."""
    add(app, upstream.url, **oauth(token_management={}))
    return Client(app)


def consent(app, email: str = "alice@example.com", tokens: TokenSet | None = TOKENS) -> None:
    """What the callback does for the call that waits."""
    [waiting] = [row for row in rows(app, ParkedCall) if row.state == "waiting"]
    with app.app_context():
        gateway = world.usable(app, email)
        relay.run_parked(world.caller(app, email), gateway, waiting.id, tokens)


def link_in(text: str) -> str:
    [link] = [word for word in text.split() if word.startswith("https://")]
    return link


# -- which rung -----------------------------------------------------------------------------------

NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
RUNGS = [
    *(("modern", URL, method, "C2") for method in NAMED),
    *(("modern", FORM, method, "C6") for method in ("prompts/get", "resources/read")),
    ("modern", FORM, "tools/call", "C5"),
    ("modern", {}, "tools/call", "C5"),
    ("modern", URL, "completion/complete", "C6"),
    ("modern", URL, "subscriptions/listen", "C6"),
    *(("legacy", URL, method, "C3") for method in (*NAMED, "completion/complete")),
    ("legacy", FORM, "tools/call", "C5"),
    ("legacy", {}, "prompts/get", "C6"),
    ("none", URL, "tools/call", "C5"),  # without a session nothing was declared
]


@pytest.mark.parametrize(("era", "asks", "method", "rung"), RUNGS)
def test_consent_ladder(acme, upstream, era, asks, method, rung):
    acme.asks = asks
    acme.initialize() if era == "legacy" else None
    params = {NAMED[method]: "x:y"} if method in NAMED else {}
    reply = getattr(acme, "modern" if era == "modern" else "legacy")(method, params)
    body = body_of(reply)
    assert body["id"] == acme.next_id and upstream.seen == []
    text = json.dumps(body)
    assert text.count("https://gw.test/connections/acme?ask=mg1.") >= 1
    assert {"C2": c2, "C3": c3, "C5": c5, "C6": c6}[rung](body)


def c2(body) -> bool:
    value = body["result"]
    params = value["inputRequests"]["connect"].pop("params")
    assert (params["mode"], params["message"]) == ("url", "Acme needs your sign-in.")
    assert params["url"].startswith("https://gw.test/connections/acme?ask=")
    assert value.pop("requestState").startswith("mg1.") and value.pop("_meta") == OURS
    asked = {"connect": {"method": "elicitation/create"}}
    return value == {"resultType": "input_required", "inputRequests": asked}


def c3(body) -> bool:
    said = body["error"]
    [entry] = said["data"]["elicitations"]
    assert set(entry) == {"mode", "elicitationId", "url", "message"} and entry["mode"] == "url"
    return said["code"] == -32042 and set(said["data"]) == {"elicitations"}


def c5(body) -> bool:
    value = body["result"]
    [content] = value["content"]
    link = link_in(content["text"])
    said = f"Acme needs your sign-in. Open {link} , press Connect, then try again."
    return value["isError"] is True and content == {"type": "text", "text": said}


def c6(body) -> bool:
    data = body["error"]["data"]
    assert body["error"]["code"] == -32603 and data["code"] == "connection_needed"
    assert data["action"] in body["error"]["message"] and data["state"] == "pending"
    return {"code", "gateway", "state", "action", "request_id"} <= set(data)


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("method", ["prompts/list", "resources/list", "resources/templates/list"])
def test_lists_are_never_an_error(app, acme, upstream, era, method):
    key = {"prompts/list": "prompts", "resources/list": "resources"}.get(
        method, "resourceTemplates"
    )
    value = body_of(getattr(acme, era)(method))["result"]
    assert value.pop(key) == [] and upstream.seen == []
    of_now = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "_meta": OURS}
    assert value == (of_now if era == "modern" else {})
    assert rows(app, ParkedCall) == []


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_the_tool_that_connects_is_listed_while_it_is_needed(app, acme, era):
    [tool] = body_of(getattr(acme, era)("tools/list"))["result"]["tools"]
    assert tool == {
        "name": "gateway_connect",
        "title": "Connect Acme",
        "description": "Acme needs your sign-in before its tools can be used. Call this tool, open "
        "the link, then list the tools again.",
        "inputSchema": {"type": "object", "additionalProperties": False},
    }
    assert "press Connect" in acme.text(acme.call("gateway_connect", era=era))
    connect(app)
    assert (
        acme.text(acme.call("gateway_connect", era=era))
        == "Acme is connected. List its tools again."
    )
    names = [one["name"] for one in body_of(getattr(acme, era)("tools/list"))["result"]["tools"]]
    assert "gateway_connect" not in names


def test_a_legacy_client_hears_that_the_list_changed(app, acme):
    connect(app)
    first, last = messages_of(acme.call("gateway_connect", era="legacy"))
    assert first == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    assert last["id"] == acme.next_id


def test_an_upstream_without_a_sign_in_may_have_a_tool_of_that_name(app, upstream):
    add(app, upstream.url)
    client = Client(app)
    assert client.text(client.call("gateway_connect")) == "gateway_connect by None"


def test_a_link_names_its_call_and_nothing_of_the_person(app, acme):
    acme.asks = URL
    value = body_of(acme.call())["result"]
    url = urlsplit(value["inputRequests"]["connect"]["params"]["url"])
    assert url.path == "/connections/acme" and set(parse_qs(url.query)) == {"ask"}
    [row] = rows(app, ParkedCall)
    with app.app_context():
        gateway = world.usable(app)
        found = parked.asked(world.caller(app), gateway, parse_qs(url.query)["ask"][0])
    assert found.id == row.id and row.request_sealed is None  # tokens are kept: nothing waits


def test_equal_calls_share_what_waits(app, forgetful):
    for era in ("modern", "legacy", "modern"):
        forgetful.call("echo", era=era, b=1, a=[2])
    forgetful.call("echo", b=1, a=[3])
    assert len(rows(app, ParkedCall)) == 2


# -- the retry of this revision (C7, C8, C9, N15) -------------------------------------------------


def ask(client: Client, name: str = "echo", **arguments) -> str:
    """A call that asks; its state."""
    client.asks = URL
    return body_of(client.call(name, **arguments))["result"]["requestState"]


def retry(client: Client, state, action="accept", name="echo", method="tools/call", **arguments):
    params = {"name": name, "arguments": arguments, "requestState": state}
    params |= {} if action is None else {"inputResponses": {"connect": {"action": action}, "x": 1}}
    return client.modern(method, params)


def test_a_retry_runs_once_the_connection_is_there_without_what_is_ours(app, upstream, acme):
    state = ask(acme, n=1)
    connect(app)
    assert acme.text(retry(acme, state, n=1)) == "echo by Bearer at-alice-acme"
    [up] = upstream.seen
    assert set(up.json["params"]) == {"name", "arguments", "_meta"}
    assert up.json["id"] == acme.next_id and up.header("Mcp-Name") == "echo"


def test_an_early_retry_is_asked_again_three_times_in_all_then_told(acme):
    state = ask(acme)
    states = [state]
    for _ in range(2):
        states.append(body_of(retry(acme, states[-1]))["result"]["requestState"])
    assert len(set(states)) == 3
    assert c5(body_of(retry(acme, states[-1])))


@pytest.mark.parametrize("action", [None, "other"])
def test_a_retry_without_an_answer_is_asked_again(acme, action):
    assert c2(body_of(retry(acme, ask(acme), action)))


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_no_is_taken_for_an_answer(app, upstream, acme, action):
    state = ask(acme)
    connect(app)  # even so
    value = body_of(retry(acme, state, action))["result"]
    assert value["isError"] is True and "not connected" in value["content"][0]["text"]
    assert "https://" not in value["content"][0]["text"] and upstream.seen == []


def test_a_no_to_what_has_no_tool_result_is_an_error(acme):
    acme.asks = URL
    state = body_of(acme.modern("prompts/get", {"name": "p"}))["result"]["requestState"]
    params = {
        "name": "p",
        "requestState": state,
        "inputResponses": {"connect": {"action": "cancel"}},
    }
    assert failure_of(acme.modern("prompts/get", params))["code"] == "connection_needed"


def test_sec_043_a_request_state_is_bound(app, upstream, acme):
    """To person, gateway, method and arguments; and to being a request state."""
    add(app, upstream.url, "other", **oauth())
    state = ask(acme, n=1)
    bob = Client(app, email="bob@example.com", asks=URL)
    other = Client(app, slug="other", asks=URL)
    for client in (acme, bob, other):
        connect(app, client.slug, client.email)
    acme.initialize()
    mark, key, body = state.split(".")
    swapped = f"{mark}.{key}.{body[:50]}{'A' if body[50] != 'A' else 'B'}{body[51:]}"
    before = len(upstream.seen)
    for reply in (
        retry(bob, state, n=1),
        retry(other, state, n=1),
        retry(acme, state, n=2),
        retry(acme, state, name="add", n=1),
        retry(acme, state, method="prompts/get", n=1),
        retry(acme, swapped, n=1),
        retry(acme, state[:-2], n=1),
        retry(acme, acme.session, n=1),
    ):
        assert reply.status_code == 400 and reply.json["error"]["code"] == -32602
    assert len(upstream.seen) == before
    assert acme.legacy("tools/list", session=state).status_code == 404
    assert retry(acme, state, n=1).status_code == 200


@pytest.mark.parametrize("state", ["upstream's own", "mg1.0123456789ab.QUJD" + "A" * 80, "", 7])
def test_a_state_of_the_upstreams_passes_byte_for_byte(app, upstream, acme, state):
    connect(app)
    acme.asks = URL
    assert retry(acme, state, n=1).status_code == 200
    params = upstream.seen[0].json["params"]
    assert params["requestState"] == state and params["inputResponses"]["x"] == 1


# -- where nothing is kept (C13) ------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy", "session"])
def test_parked_call_runs_once(app, upstream, forgetful, era):
    """And its result is given once, to the retry; with other ids, and by digest alone."""
    forgetful.initialize() if era == "session" else None
    how = "modern" if era == "modern" else "legacy"
    assert c5(body_of(forgetful.call("echo", era=how, n=1)))
    assert upstream.asked("tools/call") == []
    consent(app)
    assert [one.header("Authorization") for one in upstream.asked("tools/call")] == [
        "Bearer at-once"
    ]
    reply = forgetful.call("echo", era=how, n=1)
    assert forgetful.text(reply) == "echo by Bearer at-once"
    assert body_of(reply)["id"] == forgetful.next_id
    assert c5(body_of(forgetful.call("echo", era=how, n=1)))  # handed out: a new ask
    assert len(upstream.asked("tools/call")) == 1


def test_a_parked_result_is_fetched_by_its_state(app, upstream, forgetful):
    state = ask(forgetful, n=1)
    assert c2(body_of(retry(forgetful, state, n=1)))
    consent(app)
    reply = retry(forgetful, state, n=1)
    assert (
        forgetful.text(reply) == "echo by Bearer at-once" and len(upstream.asked("tools/call")) == 1
    )


def test_sec_047_a_parked_result_is_for_its_person_and_call_alone(app, upstream, forgetful):
    forgetful.call("echo", n=1)
    consent(app)
    bob = Client(app, email="bob@example.com")
    assert c5(body_of(bob.call("echo", n=1)))
    assert c5(body_of(forgetful.call("echo", n=2)))
    assert c5(body_of(forgetful.call("add", n=1)))
    assert "at-once" in forgetful.text(forgetful.call("echo", n=1))


def test_sec_047_a_callback_that_comes_again_runs_nothing(app, upstream, forgetful):
    forgetful.call("echo", n=1)
    [waiting] = rows(app, ParkedCall)
    for _ in range(2):
        with app.app_context():
            gateway, alice = world.usable(app), world.caller(app)
            relay.run_parked(alice, gateway, waiting.id, TOKENS)
    assert len(upstream.asked("tools/call")) == 1


@pytest.mark.parametrize("script", [dual, legacy, OldServer()], ids=["both", "legacy", "old"])
def test_what_waited_runs_in_whatever_era_the_server_speaks(app, upstream, script):
    path = "/sse" if isinstance(script, OldServer) else "/mcp"
    add(app, upstream.origin + path, **oauth(token_management={}))
    upstream.script = script
    client = Client(app)
    client.call("echo", n=1)
    consent(app)
    assert client.text(client.call("echo", n=1)) == "echo by Bearer at-once"
    [up] = upstream.asked("tools/call")
    assert up.json["params"]["arguments"] == {"n": 1}


@pytest.mark.parametrize(
    ("answer", "code"),
    [(Said(0), "upstream_error"), (Said(401), "token_refused"), (Said(500), "upstream_error")],
)
def test_what_goes_wrong_in_a_parked_call_is_its_result(app, upstream, forgetful, answer, code):
    forgetful.call("echo", n=1)
    upstream.script = lambda _: answer
    consent(app)
    assert failure_of(forgetful.call("echo", n=1))["code"] == code
    [row] = rows(app, ParkedCall)
    assert row.state == "failed"


def test_an_answer_too_large_to_keep_is_said_to_be(app, upstream, forgetful):
    forgetful.call("echo", n=1)
    upstream.script = lambda seen: says(
        result(seen, content=["x" * 1_100_000], resultType="complete")
    )
    consent(app)
    assert failure_of(forgetful.call("echo", n=1))["code"] == "too_large"


def test_a_request_too_large_to_keep_is_said_to_be(app, forgetful):
    assert failure_of(forgetful.call("echo", n="x" * 300_000))["code"] == "too_large"


def test_a_sign_in_without_storage_shows_the_tools(app, upstream, forgetful):
    """The tool that connects has nothing to run but the list."""
    names = [tool["name"] for tool in body_of(forgetful.modern("tools/list"))["result"]["tools"]]
    assert names == ["gateway_connect"]
    assert c5(body_of(forgetful.call("gateway_connect")))
    consent(app)
    said = forgetful.text(forgetful.call("gateway_connect"))
    assert said == "The tools of Acme are known now. List them again."
    names = [tool["name"] for tool in body_of(forgetful.modern("tools/list"))["result"]["tools"]]
    assert names == ["echo", "add", "gateway_connect"]
    bob = Client(app, email="bob@example.com")
    names = [tool["name"] for tool in body_of(bob.modern("tools/list"))["result"]["tools"]]
    assert names == ["gateway_connect"]
    assert [one.rpc for one in upstream.seen] == ["server/discover", "tools/list"]


def test_no_tokens_of_one_consent_are_left_for_the_next_call(app, upstream, forgetful):
    forgetful.call("echo", n=1)
    consent(app)
    forgetful.call("echo", n=2)
    consent(app, tokens=TokenSet("at-twice", None, 3600.0))
    seen = [one.header("Authorization") for one in upstream.asked("tools/call")]
    assert seen == ["Bearer at-once", "Bearer at-twice"]


@pytest.mark.parametrize("more", [{}, {"params": None}, {"params": {"arguments": 5}}])
def test_a_call_without_params_waits_and_runs_like_any_other(app, upstream, forgetful, more):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", **more}
    assert c5(forgetful.send("POST", body).json)
    consent(app)
    assert forgetful.send("POST", body).json["result"]["content"]
    [up] = upstream.asked("tools/call")
    assert "name" not in up.json["params"]


def test_an_event_id_that_no_header_can_carry_is_no_way_to_resume(app, upstream, forgetful):
    def script(seen):
        if seen.rpc != "tools/call":
            return legacy(seen)
        return streams(event({"jsonrpc": "2.0", "method": "notifications/x"}, id="\u4e16"))

    upstream.script = script
    forgetful.call("echo", n=1)
    consent(app)
    [row] = rows(app, ParkedCall)
    assert row.state == "failed"
    assert failure_of(forgetful.call("echo", n=1))["code"] == "upstream_error"
    assert upstream.asked("GET") == []
