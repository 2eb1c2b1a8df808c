"""My connections: what each person reads about their own sign-ins, and nobody else's."""

import html
import re
import time

import pytest
import sqlalchemy as sa

from app import access
from app.db import db
from app.models import Connection, Flow, User
from app.oauth import parked
from tests.conftest import rows
from tests.mcp import world
from tests.oauth.acme import GOOD, TOKEN, leave
from tests.upstream import Upstream, upstream

__all__ = ["upstream"]
NOW = int(time.time() * 1000)
UP = "https://up.test/mcp"


def row_of(page, name: str) -> str:
    """The text of one line of the list."""
    [found] = [part for part in page.text.split("<li")[1:] if f">{name}</a></h2>" in part]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", "<li" + found)))


def text_of(page) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page.text)))


def change(app, **values) -> None:
    with app.app_context():
        db.session.execute(sa.update(Connection).values(**values))
        db.session.commit()


def caller_of(app, email: str) -> access.Caller:
    with app.app_context():
        user_id = db.session.scalar(sa.select(User.id).where(User.email == email))
    return access.Caller(user_id, email, is_admin=False)


STATES = [  # what is in the row, what people read, what is offered
    ({"state": "active"}, "Connected", "Details"),
    ({"state": "refreshing"}, "Connected", "Details"),
    (
        {"state": "refreshing", "not_before_ms": NOW + 3_600_000},  # its token still serves
        "Connected",
        "Details",
    ),
    (
        {"state": "refreshing", "not_before_ms": NOW + 3_600_000, "expires_ms": NOW - 1000},
        "The provider does not answer. We try again by ourselves. Not working",
        "What happened",
    ),
    (
        {"state": "needs_reauth", "reason": "grant_ended"},
        "The provider ended your sign-in. Nothing is lost. Reconnect needed",
        "Reconnect",
    ),
    (
        {"state": "failing", "last_error_code": "client_rejected"},
        "An admin must fix the set-up.",
        "What happened",
    ),
    (
        {"state": "failing", "last_error_code": "connect_failed"},
        "The provider does not answer. We try again by ourselves.",
        "What happened",
    ),
    ({"state": "revoked", "access_token_sealed": None}, "Disconnected", "Connect"),
    (
        {"state": "orphaned", "reason": "gateway_changed"},
        "Set-up changed, connect again",
        "Connect",
    ),
    (
        {"state": "active", "refresh_token_sealed": None, "expires_ms": NOW + 3_600_000},
        "Ends soon",
        "Details",
    ),
    (
        {"state": "active", "refresh_token_sealed": None, "expires_ms": NOW - 1000},
        "Your sign-in ran out. Nothing is lost. Reconnect needed",
        "Reconnect",
    ),
]


@pytest.mark.parametrize(("values", "words", "button"), STATES, ids=lambda one: str(one)[:40])
def test_a_state_is_told_in_words_with_the_next_step(app, alice, values, words, button):
    world.add(app, UP, **world.oauth())
    world.connect(app)
    change(app, **values)
    line = row_of(alice.get("/connections"), "Acme")
    assert words in line and button in line
    page = alice.get("/connections/acme")
    assert page.status_code == 200
    assert "at-alice" not in page.text and "mg1." not in page.text


def test_a_renewal_whose_answer_was_lost_says_when_it_is_tried_again(app, alice):
    world.add(app, UP, **world.oauth())
    world.connect(app)
    change(app, state="refreshing", expires_ms=NOW - 1000, not_before_ms=NOW + 3_600_000)
    shown = text_of(alice.get("/connections/acme"))
    assert "Next try" in shown and "You need not come back" not in shown
    change(app, not_before_ms=0)  # somebody is asking now
    assert "You need not come back" in text_of(alice.get("/connections/acme"))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("grant_ended", "Your sign-in has ended The provider withdrew it: password change"),
        ("interaction_required", "The provider wants you to sign in again It no longer lets us"),
        ("secret_unreadable", "A stored secret cannot be read The encryption key changed"),
        ("expired", "Connect again Your sign-in ran out. Nothing is lost."),
    ],
)
def test_what_has_ended_says_why_and_promises_no_renewal(app, alice, reason, words):
    """Its last token may have been given for longer, and its refresh token is there."""
    world.add(app, UP, **world.oauth())
    world.connect(app)
    change(app, state="needs_reauth", reason=reason, expires_ms=NOW + 3_600_000)
    page = alice.get("/connections/acme")
    assert words in text_of(page) and "Ends it has ended" in text_of(page)
    assert "renewed" not in text_of(page) and "Refresh now" not in text_of(page)
    assert ("/help/errors/" in page.text) == (reason != "expired")


def test_without_a_connection_the_button_is_connect(app, alice):
    world.add(app, UP, **world.oauth(), description="Finds issues.")
    line = row_of(alice.get("/connections"), "Acme")
    assert "Finds issues. Not connected Connect" in line
    assert 'action="/oauth/connect/acme"' in alice.get("/connections/acme").text


def test_a_sign_in_under_way_is_pending_until_it_is_back_or_over(app, alice, bob):
    world.add(app, UP, **world.oauth())
    alice.submit("/oauth/connect/acme", at="/connections/acme")
    pending = "You began to connect and did not come back yet. Sign-in not finished Start again"
    assert pending in row_of(alice.get("/connections"), "Acme")
    assert "Not connected Connect" in row_of(bob.get("/connections"), "Acme")
    for ended in ({"status": "failed"}, {"status": "open", "expires_ms": 0}):
        with app.app_context(), db.engine.begin() as link:
            link.execute(sa.update(Flow).values(**ended))
        assert "Not connected Connect" in row_of(alice.get("/connections"), "Acme")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "No sign-in"),
        (
            {"auth_type": "bearer", "bearer_token": "t"},
            "Kept by your admins. Nothing to do. Shared account",
        ),
        (
            {"auth_type": "oauth", "oauth_config": world.SHARED},
            "Kept by your admins. Nothing to do. Shared account",
        ),
        (
            {"auth_type": "oauth", "oauth_config": world.CODE},
            "Keeps no tokens. Asks on each call Try a tool",
        ),
    ],
)
def test_a_gateway_without_personal_tokens_says_so(app, alice, record, words):
    world.add(app, UP, **record)
    assert words in row_of(alice.get("/connections"), "Acme")
    page = alice.get("/connections/acme")
    assert page.status_code == 200 and "/oauth/connect/" not in page.text


def test_what_needs_the_person_comes_first(app, alice):
    for slug in ("aaa", "bbb", "ccc"):
        world.add(app, UP, slug, **world.oauth())
    world.connect(app, "aaa")
    world.connect(app, "ccc", state="needs_reauth", reason="grant_ended")
    page = alice.get("/connections")
    assert "1 connection needs you" in page.text
    order = [page.text.index(f">{name}</a></h2>") for name in ("Ccc", "Aaa", "Bbb")]
    assert order == sorted(order)


def test_each_sees_only_their_own_and_strangers_nothing(app, alice, bob, stranger):
    world.add(app, UP, **world.oauth())
    world.connect(app, account_label="alice-at-acme")
    assert "alice-at-acme" in alice.get("/connections").text
    for url in ("/connections", "/connections/acme"):
        assert "alice-at-acme" not in bob.get(url).text
        assert stranger.get(url).status_code == 302
    assert "Not connected" in bob.get("/connections").text


def test_unknown_and_switched_off_look_alike(app, alice):
    world.add(app, UP, enabled=False)
    pages = [alice.get(f"/connections/{slug}") for slug in ("acme", "none")]
    assert [page.status_code for page in pages] == [404, 404]
    assert "There is no gateway called acme" in pages[0].text


def test_details_tell_account_rights_end_and_use(app, alice):
    world.add(app, UP, **world.oauth())
    world.connect(
        app,
        account_label="alice-at-acme",
        scopes_requested=["read", "write"],
        scopes_granted=["read"],
        last_used_ms=int(time.time() * 1000) - 330_000,
    )
    page = text_of(alice.get("/connections/acme"))
    assert "Account there alice-at-acme" in page
    assert "Granted read Not granted write" in page
    assert "renewed by itself" in page and "Last used 5 min ago" in page
    assert "Tools that need write will fail" in page and "Ask again for what is missing" in page


def test_disconnecting_deletes_the_tokens_of_this_person_only(app, alice, bob):
    world.add(app, UP, **world.oauth())
    world.connect(app)
    world.connect(app, email="bob@example.com")
    reply = alice.submit("/connections/acme/disconnect", at="/connections/acme")
    assert (reply.status_code, reply.location) == (303, "/connections/acme")
    page = alice.get(reply.location)
    assert "Acme is disconnected. Removed here. We know of no revoke at as.test" in page.text
    assert "Disconnected" in page.text
    states = {row.state: row.access_token_sealed is None for row in rows(app, Connection)}
    assert states == {"revoked": True, "active": False}
    assert "Connected" in bob.get("/connections/acme").text


@pytest.mark.parametrize("record", [{}, {"auth_type": "oauth", "oauth_config": world.SHARED}])
def test_nobody_disconnects_what_is_not_theirs(app, alice, record):
    world.add(app, UP, **record)
    world.add(app, UP, "other", **world.oauth())
    reply = alice.submit("/connections/acme/disconnect", at="/connections/other")
    assert reply.status_code == 404


# -- the link of an AI client ---------------------------------------------------------------------


@pytest.fixture
def ask(app, alice):
    """ask(): the page that Alice's AI client leads to."""

    def link(*, request: bytes | None = None, scopes: tuple[str, ...] = ()) -> str:
        with app.app_context():
            caller = caller_of(app, "alice@example.com")
            gateway = access.usable(caller, "acme")
            waits = parked.park(caller, gateway, digest="d" * 64, request=request, scopes=scopes)
            return parked.link(caller, gateway, waits.id).removeprefix("https://gw.test")

    return link


def test_the_link_of_an_ai_client_shows_what_is_asked_and_connects(app, alice, ask):
    world.add(app, UP, **world.oauth(), name="Acme")
    page = alice.get(ask(scopes=("write",)))
    assert "Your AI client waits for you to sign in" in page.text
    assert "as.test" in page.text and "<code>write</code>" in page.text
    assert 'name="ask"' in page.text and 'action="/oauth/connect/acme"' in page.text


def test_a_parked_call_is_named_on_the_page(app, alice, ask):
    world.add(app, UP, auth_type="oauth", oauth_config=world.CODE)
    call = b'{"method":"tools/call","params":{"name":"drop_<b>table","arguments":{"x":1}}}'
    page = alice.get(ask(request=call))
    assert "drop_&lt;b&gt;table" in page.text and "Sign in and run it" in page.text


def test_sec_003_the_page_writes_nothing_and_sets_no_cookie(app, alice, ask):
    world.add(app, UP, **world.oauth())
    link = ask()
    alice.get(link)
    page = alice.get(link)
    assert "flow" not in str(page.headers.getlist("Set-Cookie"))
    assert rows(app, Flow) == []


def test_a_link_passed_on_is_refused(app, bob, ask):
    world.add(app, UP, **world.oauth())
    page = bob.get(ask())
    assert page.status_code == 403 and "ask_foreign" in page.text
    assert "/oauth/connect/" not in page.text


@pytest.mark.parametrize("handle", ["rubbish", "mg1.aaaa.bbbb", "x" * 5000])
def test_a_link_that_is_over_shows_the_plain_page(app, alice, handle):
    world.add(app, UP, **world.oauth())
    page = alice.get(f"/connections/acme?ask={handle}")
    assert page.status_code == 200 and "This link is over" in page.text
    assert 'action="/oauth/connect/acme"' in page.text and 'name="ask"' not in page.text


def test_whoever_is_connected_already_is_sent_back_to_the_client(app, alice, ask):
    world.add(app, UP, **world.oauth())
    world.connect(app)
    assert "You are connected already" in alice.get(ask()).text


@pytest.mark.parametrize("more", [{}, {"params": None}, {"params": {"arguments": 5, "name": [1]}}])
def test_a_call_without_params_is_waited_for_like_any_other(
    app, alice, provider, upstream: Upstream, more
):
    unkept = {"auth_type": "oauth", "oauth_config": world.CODE}
    world.add(app, upstream.url, **unkept)
    provider.post(TOKEN, json=GOOD)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", **more}
    said = world.Client(app, email="alice@example.com").send("POST", body).text
    link = re.search(r"https://gw.test(/connections/acme\?ask=[\w.~-]+)", said)[1]
    assert alice.get(link).status_code == 200
    back = leave(alice, ask=link.partition("ask=")[2]).back()
    assert back.status_code == 303
    page = alice.get(back.location)
    assert page.status_code == 200 and "the call ran" in page.text


# -- back from the provider -----------------------------------------------------------------------


def test_coming_back_tells_who_is_connected_and_how_many_tools_are_ready(
    app, alice, provider, upstream: Upstream
):
    world.add(app, upstream.url, **world.oauth())
    provider.post(TOKEN, json=GOOD | {"refresh_token": "rt-1"})
    page = alice.get(leave(alice).back().location)
    words = text_of(page)
    assert "Acme is connected. 2 tools are ready. Your sign-in is renewed by itself." in words
    assert 'href="/tools?gateway=acme">Try a tool</a>' in page.text


def test_without_a_refresh_token_the_page_says_how_long_it_lasts(app, alice, provider):
    world.add(app, UP, **world.oauth())
    provider.post(TOKEN, json=GOOD)
    words = text_of(alice.get(leave(alice).back().location))
    assert "The provider gave no refresh token, so you sign in again in" in words


def test_fewer_rights_than_asked_are_named(app, alice, provider):
    config = world.CODE | {"scopes": ["read", "write"], "token_management": world.KEPT}
    world.add(app, UP, auth_type="oauth", oauth_config=config)
    provider.post(TOKEN, json=GOOD | {"scope": "read"})
    words = text_of(alice.get(leave(alice).back().location))
    assert "It did not grant all that was asked for. Missing: write." in words


def test_a_refused_sign_in_says_why_and_offers_another_try(app, alice):
    world.add(app, UP, **world.oauth())
    trip = leave(alice)
    said = '<img src=x onerror="alert(1)">'
    back = trip.back(code="", error="access_denied", error_description=said)
    assert "state" not in back.location
    page = alice.get(back.location)
    assert "You said no, or your organisation did" in page.text
    assert "&lt;img src=x onerror=" in page.text and "<img" not in page.text
    assert "Try again" in page.text and "/help/errors/access_denied" in page.text


def test_nobody_reads_another_persons_failure(app, alice, bob):
    world.add(app, UP, **world.oauth())
    back = leave(alice).back(code="", error="access_denied", error_description="canary")
    assert "canary" in alice.get(back.location).text
    assert "canary" not in bob.get(back.location).text


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><b onclick=x>', "{{7*7}}"])
def test_sec_056_names_are_text(app, alice, text):
    world.add(app, UP, **world.oauth(), slug="acme", name=text, description=text)
    world.connect(app, account_label=text)
    for url in ("/connections", "/connections/acme"):
        page = alice.get(url)
        assert "<script>alert" not in page.text and "<b onclick" not in page.text
        assert text in html.unescape(page.text)


def test_a_shared_account_that_fails_is_told_and_is_nobodys_to_connect(app, alice):
    kept = world.SHARED | {"token_management": {"store_tokens": True}}
    world.add(app, UP, auth_type="oauth", oauth_config=kept)
    world.connect(app, state="failing", last_error_code="client_rejected", last_error_text="no <b>")
    line = row_of(alice.get("/connections"), "Acme")
    assert "An admin must fix the set-up." in line and "Not working What happened" in line
    page = alice.get("/connections/acme")
    assert "Wrong client ID or secret" in page.text and "no &lt;b&gt;" in page.text
    assert "/oauth/connect/" not in page.text and "/disconnect" not in page.text
