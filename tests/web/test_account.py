"""One's own account."""

import pytest

from app.models import AuditEvent, BrowserSession
from app.web.me.account import browser_name
from tests.conftest import PASSWORD, Browser, person, rows

NEW = "four quiet zebras knit"


def test_it_says_who_and_where(alice, app):
    firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
    other = Browser(app)
    other.client.environ_base["HTTP_USER_AGENT"] = firefox
    other.login("alice@example.com")
    page = alice.get("/me").text
    assert "alice@example.com" in page and "This browser" in page and "Firefox on Linux" in page


def test_sec_066_a_new_password_ends_every_other_session_and_renews_this(app, alice):
    other = Browser(app).login("alice@example.com")
    reply = alice.submit("/me", current=PASSWORD, password=NEW)
    assert (reply.status_code, reply.headers["Location"]) == (303, "/me")
    page = alice.get("/me")
    assert page.status_code == 200 and "Your password was changed" in page.text
    assert other.get("/me").status_code == 302 and len(rows(app, BrowserSession)) == 1
    assert (
        Browser(app).submit("/login", email="alice@example.com", password=PASSWORD).status_code
        == 422
    )
    Browser(app).login("alice@example.com", NEW)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"current": "wrong"}, "This is not your password"),
        ({"current": ""}, "Enter your password"),
        ({"password": "short"}, "Use at least 12 characters"),
        ({"password": "Password1234"}, "easy to guess"),
    ],
)
def test_a_password_is_not_changed_by_a_wrong_form(app, alice, fields, sentence):
    page = alice.submit("/me", **({"current": PASSWORD, "password": NEW} | fields))
    assert page.status_code == 422 and sentence in page.text
    Browser(app).login("alice@example.com")


def test_sec_070_guesses_at_the_password_now_are_slowed(alice):
    codes = [alice.submit("/me", current=f"x{n}", password=NEW).status_code for n in range(12)]
    assert 429 in codes and codes.count(422) <= 10


def test_sec_067_another_browser_can_be_signed_out(app, alice):
    before = {row.id for row in rows(app, BrowserSession)}
    lost = Browser(app).login("alice@example.com")
    (row,) = [row for row in rows(app, BrowserSession) if row.id not in before]
    reply = alice.submit(f"/me/sessions/{row.id}/end", at="/me")
    assert reply.status_code == 303
    assert lost.get("/me").status_code == 302 and alice.get("/me").status_code == 200


def test_all_others_can_be_signed_out_at_once(app, alice):
    others = [Browser(app).login("alice@example.com") for _ in range(3)]
    alice.submit("/me/sessions/others/end", at="/me")
    assert [other.get("/me").status_code for other in others] == [302] * 3
    assert alice.get("/me").status_code == 200
    assert "session.ended" in {event.action for event in rows(app, AuditEvent)}


def test_sec_061_a_session_of_somebody_else_is_not_found(app, alice):
    before = {row.id for row in rows(app, BrowserSession)}
    bob = person(app, "bob@example.com")
    (his,) = [row for row in rows(app, BrowserSession) if row.id not in before]
    foreign = alice.submit(f"/me/sessions/{his.id}/end", at="/me")
    unknown = alice.submit(f"/me/sessions/{'0' * 32}/end", at="/me")
    assert foreign.status_code == unknown.status_code == 404
    assert bob.get("/me").status_code == 200


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) … Version/19.0 Safari/605",
            "Safari on Mac",
        ),
        ("Mozilla/5.0 (Windows NT 10.0) … Chrome/150.0 Safari/537 Edg/150.0", "Edge on Windows"),
        ("Mozilla/5.0 (Linux; Android 16) … Chrome/150.0 Mobile Safari/537", "Chrome on Android"),
        ("curl/8.1", "curl"),
        ("", "Unknown browser"),
    ],
)
def test_a_browser_has_a_name(agent, name):
    assert browser_name(agent) == name
