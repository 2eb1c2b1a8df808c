"""Tools: what each person can call, the form to call one, and what came of it."""

import html
import json
import re
from urllib.parse import urljoin

import pytest

from app.db import db
from app.models import Connection, ParkedCall
from tests.conftest import rows
from tests.mcp import world
from tests.oauth.acme import GOOD, TOKEN, Trip, leave
from tests.upstream import Said, Upstream, dual, error, result, says, upstream

__all__ = ["upstream"]
SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "times": {"type": "integer", "minimum": 1}},
    "required": ["text"],
}
EVIL = "<script>alert(1)</script>"
UNKEPT = {"auth_type": "oauth", "oauth_config": world.CODE}


def text_of(page) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page.text)))


def offers(upstream: Upstream, *tools: dict, answer=None) -> None:
    """The server lists these; `answer` makes its reply to a call."""

    def script(seen) -> Said:
        said = dual(seen)
        if seen.rpc == "tools/list" and said.status == 200:
            listed = json.loads(said.body)["result"]
            return says(result(seen, **listed | {"tools": list(tools)}))
        if seen.rpc == "tools/call" and said.status == 200 and answer:
            modern = (
                {"resultType": "complete"}
                if "resultType" in json.loads(said.body)["result"]
                else {}
            )
            return says(answer(seen, modern))
        return said

    upstream.script = script


def tool(name: str = "echo", **more) -> dict:
    return {"name": name, "description": "Says it again.", "inputSchema": SCHEMA} | more


def answer_of(page) -> str:
    return html.unescape(re.search(r'<pre id="answer"[^>]*>(.*?)</pre>', page.text, re.S)[1])


def calls(upstream: Upstream) -> list[dict]:
    return [seen.json["params"] for seen in upstream.asked("tools/call")]


@pytest.fixture
def acme(app, alice, upstream):
    """A gateway that Alice is connected to."""
    world.add(app, upstream.url, **world.oauth())
    world.connect(app)


# -- the list -------------------------------------------------------------------------------------


def test_tools_stand_under_their_gateway_with_what_they_do(app, alice, acme, upstream):
    offers(
        upstream,
        tool("read", annotations={"readOnlyHint": True}),
        tool("write", annotations={"readOnlyHint": False, "destructiveHint": False}),
        tool("drop", annotations={"destructiveHint": True}),
        tool("plain", description="First. Second."),
    )
    words = text_of(alice.get("/tools"))
    assert "Acme 4 tools" in words
    assert "read Says it again. Reads only" in words
    assert "write Says it again. Changes data" in words
    assert "drop Says it again. Can delete" in words
    assert "plain First. " in words and "Second." not in words


def test_the_list_is_quick_as_it_comes_from_the_catalog(alice, acme, upstream):
    alice.get("/tools")
    asked = len(upstream.seen)
    alice.get("/tools")
    assert len(upstream.seen) == asked
    alice.get("/tools?gateway=acme")
    assert len(upstream.asked("tools/list")) == 2


def test_search_looks_at_names_and_descriptions(alice, acme, upstream):
    offers(upstream, tool("read"), tool("write", description="Changes a page."))
    words = text_of(alice.get("/tools?q=PAGE"))
    assert "write" in words and "1 tool of 2" in words
    assert "No tool here matches “nothing”." in text_of(alice.get("/tools?q=nothing"))


def test_a_problem_of_one_gateway_stops_no_other(app, alice, acme, upstream):
    nobody = Upstream()
    nobody.stop()
    world.add(app, nobody.url, "down")
    world.add(app, upstream.url, "other", **world.oauth())
    world.add(app, upstream.url, "unkept", **UNKEPT)
    page = alice.get("/tools")
    words = text_of(page)
    assert page.status_code == 200 and "Acme 2 tools" in words
    assert "Down The MCP server could not be reached" in words
    assert "Other needs your sign-in" in words and 'action="/oauth/connect/other"' in page.text
    assert "Unkept keeps no tokens" in words and 'action="/tools/unkept"' in page.text


def test_what_was_known_is_shown_when_the_server_is_down(alice, acme, upstream):
    alice.get("/tools")
    upstream.script = lambda seen: Said(500)
    words = text_of(alice.get("/tools?gateway=acme"))
    assert "The MCP server failed" in words and "Acme 2 tools" in words


def test_each_sees_only_what_their_own_sign_in_lists(app, alice, bob, stranger, acme, upstream):
    offers(upstream, tool("secret_of_alice"))
    assert "secret_of_alice" in alice.get("/tools").text
    assert "secret_of_alice" not in bob.get("/tools").text
    assert bob.get("/tools/acme/secret_of_alice").status_code == 401
    assert stranger.get("/tools").status_code == 302
    assert stranger.get("/tools/acme/secret_of_alice").status_code == 302


def test_an_unknown_gateway_or_tool_is_not_found(alice, acme):
    for url in ("/tools?gateway=none", "/tools/none/echo", "/tools/acme/none"):
        assert alice.get(url).status_code == 404, url


# -- the form -------------------------------------------------------------------------------------


def test_a_call_shows_answer_time_raw_reply_and_the_same_as_curl(alice, acme, upstream):
    offers(
        upstream,
        tool(),
        answer=lambda seen, more: result(seen, content=[{"type": "text", "text": "hi"}], **more),
    )
    page = alice.submit("/tools/acme/echo", a0="it's", a1="2")
    assert page.status_code == 200
    assert "The tool answered" in page.text and re.search(r"\d+ ms", page.text)
    assert answer_of(page) == "hi"
    assert calls(upstream)[0]["arguments"] == {"text": "it's", "times": 2}
    curl = html.unescape(re.search(r'<pre id="curl"[^>]*>(.*?)</pre>', page.text, re.S)[1])
    assert "https://gw.test/mcp/acme" in curl and "YOUR_TOKEN" in curl
    assert "it'\"'\"'s" in curl  # quoted for a shell
    assert "at-alice" not in page.text


def test_a_mistake_calls_nothing_and_keeps_what_was_typed(alice, acme, upstream):
    offers(upstream, tool())
    page = alice.submit("/tools/acme/echo", a0="", a1="none")
    assert page.status_code == 422 and "<title>Error: echo" in page.text
    assert "text is required." in page.text and "times must be a whole number." in page.text
    assert 'value="none"' in page.text
    assert calls(upstream) == []


def test_what_the_tool_refuses_is_told_apart_from_what_the_gateway_could_not(alice, acme, upstream):
    offers(
        upstream,
        tool(),
        answer=lambda seen, more: result(
            seen, isError=True, content=[{"type": "text", "text": "no such page"}], **more
        ),
    )
    page = alice.submit("/tools/acme/echo", a0="x")
    assert page.status_code == 200
    assert "The tool said no" in page.text and answer_of(page) == "no such page"
    upstream.script = lambda seen: Said(500)
    page = alice.submit("/tools/acme/echo", a0="x", a1="7")
    assert page.status_code == 502
    assert "The gateway could not call it" in page.text and "The tool said no" not in page.text
    assert "The MCP server failed" in page.text and 'value="7"' in page.text


def test_a_protocol_error_of_the_server_is_its_no(alice, acme, upstream):
    offers(upstream, tool(), answer=lambda seen, more: error(seen, -32602, "bad arguments"))
    page = alice.submit("/tools/acme/echo", a0="x")
    assert "The tool said no" in page.text and answer_of(page) == "bad arguments"


def test_a_tool_that_can_delete_asks_for_a_tick(alice, acme, upstream):
    offers(upstream, tool("drop", annotations={"destructiveHint": True}))
    page = alice.submit("/tools/acme/drop", a0="x")
    assert page.status_code == 422 and "Tick the box to run it." in page.text
    assert calls(upstream) == []
    assert alice.submit("/tools/acme/drop", a0="x", sure="y").status_code == 200
    assert len(calls(upstream)) == 1


def test_a_forged_form_runs_nothing(alice, acme, upstream):
    offers(upstream, tool())
    alice.get("/tools/acme/echo")
    assert alice.post("/tools/acme/echo", data={"a0": "x"}).status_code == 403
    assert calls(upstream) == []


ODD = ["a/b", "what?", "ein Löffel", "x&y=1", "%2e", "a#b", ".", "..", "../x", "/lead", "////z"]
ODD += ["a//b", "a/../b", "b/", "c\\d", "%2F", " e", "+", "x;y=1"]


@pytest.mark.parametrize("name", ODD)
def test_a_tool_may_have_an_odd_name(alice, acme, upstream, name):
    offers(upstream, tool(name))
    link = re.search(r'href="(/tools/acme/[^"]+)"', alice.get("/tools").text)[1]
    href = html.unescape(link)
    assert urljoin("https://gw.test/tools", href) == f"https://gw.test{href}"  # as browsers do
    assert "/../" not in href and "//" not in href
    page = alice.submit(href, a0="x")
    assert page.status_code == 200 and calls(upstream)[0]["name"] == name
    assert f'action="{link}"' in page.text


@pytest.mark.parametrize("name", ["..", "/lead", "a b"])
def test_the_call_of_an_odd_name_waits_and_comes_back(app, alice, upstream, provider, name):
    world.add(app, upstream.url, **UNKEPT)
    offers(upstream, tool(name))
    provider.post(TOKEN, json=GOOD)
    run(alice, "/tools/acme", at="/tools?gateway=acme").back()
    link = re.search(r'href="(/tools/acme/[^"]+)"', alice.get("/tools").text)[1]
    back = run(alice, html.unescape(link), a0="x").back()
    page = alice.get(back.location)
    assert "the call ran" in page.text and calls(upstream)[0]["name"] == name
    with app.app_context():
        db.session.query(ParkedCall).update({"expires_ms": 1})
        db.session.commit()
    over = alice.get(back.location)
    assert link in over.text and "Fill it in again" in over.text


def test_no_name_is_no_tool(alice, acme, upstream):
    offers(upstream, tool())
    assert alice.get("/tools/acme/").status_code == 404


BAD_NAMES = ["nul\0x", "line\nbreak", "turn\u202e", "\x7f", "tab\t"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_cannot_be_printed_is_left_out(app, alice, upstream, provider, name):
    """And what its server says is kept on every database."""
    bad = tool(name, description="a\0b")
    offers(upstream, bad, tool("good", description="a\0b", title="\\u0000"))
    world.add(app, upstream.url, **world.oauth())
    world.add(app, upstream.url, "other")
    provider.post(TOKEN, json=GOOD)
    assert leave(alice).back().status_code == 303
    for _ in range(2):
        words = text_of(alice.get("/tools"))
        assert "Acme 1 tool" in words and "Other 1 tool" in words and "ab" in words
    page = alice.get("/connections/acme")
    assert page.status_code == 200 and "Connected" in page.text


def test_a_right_that_a_shared_account_lacks_is_not_asked_of_the_person(app, alice, upstream):
    world.add(app, upstream.url, auth_type="bearer", bearer_token="s3cret")
    offers(upstream, tool())
    alice.get("/tools")
    challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="write"'}
    upstream.script = lambda _: Said(403, b"", challenge)
    page = alice.submit("/tools/acme/echo", a0="x")
    words = text_of(page)
    assert page.status_code == 403 and "Grant it" not in words and "(link)" not in words
    assert "An admin must add the scope" in words and "write" in words


def test_sec_056_the_words_of_a_server_are_text_and_its_links_are_dead(alice, acme, upstream):
    link = "[here](https://evil.test) https://evil.test javascript:alert(1)"
    nasty = tool(
        f"x{EVIL}",
        title=f"{EVIL} \u202egnp.exe",
        description=f"{EVIL} {link}",
        inputSchema={
            "properties": {
                EVIL: {"description": EVIL, "enum": [EVIL, '"><img src=x>']},
                '" onfocus="x': {"type": "object", "description": link, "title": EVIL},
            }
        },
    )
    said = [{"type": "text", "text": f"{EVIL} {link}"}]
    offers(upstream, nasty, answer=lambda seen, more: result(seen, content=said, **more))
    listed = alice.get("/tools")
    href = html.unescape(re.search(r'href="(/tools/acme/[^"]+)"', listed.text)[1])
    page = alice.get(href)
    ran = alice.submit(href, a0="", a1="")
    assert ran.status_code == 200 and EVIL in answer_of(ran)
    for one in (listed, page, ran):
        assert "<script>alert" not in one.text and "<img src=x" not in one.text
        assert ' onfocus="x' not in one.text and "\u202e" not in one.text
        assert not re.search(r'href="[^"]*evil', one.text)
        assert 'href="javascript' not in one.text


# -- a call that needs a sign-in ------------------------------------------------------------------


def run(alice, url: str, **fields) -> Trip:
    """Press [Sign in and run], and follow the stop-over page to the provider."""
    page = alice.submit(url, **fields)
    assert page.status_code == 200 and "Going to" in page.text, page.text
    onward = html.unescape(re.search(r'href="(/oauth/connect/[^"]+)', page.text)[1])
    gone = alice.get(onward)
    state = re.search(r"state=([^&]+)", gone.location)[1]
    return Trip(alice, "", page, {"state": state})


@pytest.fixture
def unkept(app, alice, upstream, provider):
    """A gateway that keeps no token, whose tools Alice has listed."""
    world.add(app, upstream.url, **UNKEPT)
    offers(upstream, tool())
    provider.post(TOKEN, json=GOOD)
    run(alice, "/tools/acme", at="/tools?gateway=acme").back()


def test_a_gateway_that_keeps_no_tokens_lists_its_tools_after_a_sign_in(
    app, alice, unkept, upstream
):
    [listed] = upstream.asked("tools/list")
    assert listed.header("Authorization") == "Bearer at-1"
    assert "Acme 1 tool" in text_of(alice.get("/tools"))
    assert rows(app, Connection) == []


def test_the_parked_call_runs_after_the_callback_and_its_result_stands_on_the_page(
    app, alice, unkept, upstream
):
    page = alice.get("/tools/acme/echo")
    assert "Sign in and run" in page.text and "keeps no tokens" in page.text
    back = run(alice, "/tools/acme/echo", a0="canary").back()
    assert back.location.startswith("/tools/acme/echo?call=")
    page = alice.get(back.location)
    assert "You signed in, the call ran, and the token is gone" in page.text
    assert answer_of(page) == "echo by Bearer at-1"
    assert "canary" in page.text  # what was typed is still in the form
    alice.get(back.location)
    assert [one["arguments"] for one in calls(upstream)] == [{"text": "canary"}]
    assert rows(app, Connection) == []


def test_each_press_of_the_button_runs_the_call(alice, unkept, upstream):
    for _ in range(2):
        run(alice, "/tools/acme/echo", a0="same").back()
    assert len(calls(upstream)) == 2


def test_with_storage_the_first_call_connects_and_runs(app, alice, upstream, provider):
    world.add(app, upstream.url, **world.oauth())
    provider.post(TOKEN, json=GOOD | {"refresh_token": "rt-1"})
    world.connect(app)
    alice.get("/tools")
    alice.submit("/connections/acme/disconnect", at="/connections/acme")
    back = run(alice, "/tools/acme/echo", a0="").back()
    page = alice.get(back.location)
    assert "You are connected, and the call ran" in page.text
    assert alice.get("/connections/acme").text.count("Connected")


def test_a_call_that_fails_after_the_sign_in_is_told_as_such(alice, unkept, upstream):
    upstream.script = lambda seen: Said(500)
    back = run(alice, "/tools/acme/echo", a0="x").back()
    page = alice.get(back.location)
    assert "The gateway could not call it" in page.text and "The tool said no" not in page.text


def test_a_sign_in_that_is_refused_leaves_the_call_waiting(alice, unkept, upstream):
    trip = run(alice, "/tools/acme/echo", a0="canary")
    trip.back(code="", error="access_denied")
    assert calls(upstream) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"expires_ms": 1}, "Your call waited 10 minutes and was dropped Nothing was sent."),
        ({"state": "running"}, "It is not known whether this ran"),
        ({"state": "running", "lease_ms": 2**52}, "Your call is running Look again in a moment."),
        ({"state": "waiting"}, "Your call waits for your sign-in Nothing was sent."),
    ],
)
def test_a_call_without_a_result_says_what_became_of_it(app, alice, unkept, values, words):
    run(alice, "/tools/acme/echo", a0="canary")
    [row] = [one for one in rows(app, ParkedCall) if one.state == "waiting"]
    with app.app_context():
        found = db.session.get(ParkedCall, row.id)
        for name, value in values.items():
            setattr(found, name, value)
        db.session.commit()
    page = alice.get(f"/tools/acme/echo?call={row.id}")
    assert page.status_code == 200 and words in text_of(page)
    assert ("canary" in page.text) == ("expires_ms" not in values)


def test_nobody_reads_another_persons_result(app, alice, bob, unkept):
    back = run(alice, "/tools/acme/echo", a0="canary").back()
    call_id = back.location.partition("call=")[2]
    for url in (
        back.location,
        f"/connections/acme?call={call_id}",
        f"/tools?gateway=acme&call={call_id}",
    ):
        page = bob.get(url)
        assert page.status_code in (401, 404) and "canary" not in page.text


def test_a_result_is_shown_with_its_own_tool_only(alice, unkept, upstream):
    back = run(alice, "/tools/acme/echo", a0="canary").back()
    offers(upstream, tool(), tool("other"))
    run(alice, "/tools/acme", at="/tools?gateway=acme").back()
    call_id = back.location.partition("call=")[2]
    assert alice.get(f"/tools/acme/other?call={call_id}").status_code == 404


def test_a_right_that_is_missing_is_asked_for_and_the_call_runs(
    app, alice, acme, upstream, provider
):
    offers(upstream, tool())
    alice.get("/tools")
    listed = upstream.script

    def wants_more(seen) -> Said:
        if seen.rpc == "tools/call" and seen.header("Authorization") != "Bearer at-2":
            challenge = 'Bearer error="insufficient_scope", scope="write"'
            return Said(403, b"", {"WWW-Authenticate": challenge})
        return listed(seen)

    upstream.script = wants_more
    page = alice.submit("/tools/acme/echo", a0="x")
    assert page.status_code == 403 and "Grant it and run" in page.text
    assert 'name="grant" value="write"' in page.text
    provider.post(TOKEN, json=GOOD | {"access_token": "at-2", "scope": "write"})
    back = run(alice, "/tools/acme/echo", a0="x", grant="write").back()
    assert answer_of(alice.get(back.location)) == "echo by Bearer at-2"


def test_a_right_that_is_missing_after_the_sign_in_is_named(alice, unkept, upstream):
    challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="write"'}
    upstream.script = lambda _: Said(403, b"", challenge)
    back = run(alice, "/tools/acme/echo", a0="x").back()
    words = text_of(alice.get(back.location))
    assert "Grant the extra right: write" in words and "If you say no, all stays as it is" in words


def test_a_call_moves_last_used_of_whoever_made_it(app, alice, bob, acme, upstream):
    world.connect(app, email="bob@example.com")
    offers(upstream, tool())
    alice.submit("/tools/acme/echo", a0="x")
    used = {row.user_id: row.last_used_ms is not None for row in rows(app, Connection)}
    assert sorted(used.values()) == [False, True]
    assert "Last used now" in text_of(alice.get("/connections/acme"))
    assert "Last used never" in text_of(bob.get("/connections/acme"))


def test_a_tool_that_is_not_known_yet_leads_to_connecting_first(app, alice, upstream):
    world.add(app, upstream.url, **world.oauth())
    page = alice.get("/tools/acme/echo")
    assert page.status_code == 401
    assert "Open https://gw.test/connections/acme, press Connect, then try again." in page.text
    assert 'href="/connections/acme"' in page.text
