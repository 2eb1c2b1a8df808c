"""Signing in and out, through the front door."""

import datetime
import threading

import pytest
import sqlalchemy as sa

from app.db import db, recent, utcnow
from app.models import AuditEvent, BrowserSession, User
from tests.conftest import PASSWORD, Browser, rows
from tests.web.credentials import csrf_of

ORIGIN = "https://gw.test"
COOKIE = "__Host-signed_in"
ALICE = {"email": "alice@example.com", "password": PASSWORD}


def cookie_of(browser, name=COOKIE):
    found = browser.client.get_cookie(name, domain="gw.test")
    return found and found.value


def with_cookie(app, value):
    browser = Browser(app)
    browser.client.set_cookie(COOKIE, value, domain="gw.test", secure=True)
    return browser


def age(app, **columns):
    """Move moments of every session into the past."""
    with app.app_context():
        moved = {name: utcnow() - by for name, by in columns.items()}
        db.session.execute(sa.update(BrowserSession).values(**moved))
        db.session.commit()


def test_the_cookie_is_kept_only_as_a_hash(app, alice):
    (row,) = rows(app, BrowserSession)
    assert len(cookie_of(alice)) >= 43
    assert cookie_of(alice) not in repr(vars(row))


def test_sec_065_signing_out_ends_the_session_on_the_server(app, alice):
    cookie = cookie_of(alice)
    reply = alice.submit("/logout", at="/me")
    assert (reply.status_code, reply.headers["Location"]) == (303, "/login")
    assert reply.headers["Clear-Site-Data"] == '"cache", "storage"'
    assert not cookie_of(alice) and rows(app, BrowserSession) == []
    assert with_cookie(app, cookie).get("/me").status_code == 302


def test_sec_066_signing_in_makes_a_new_session_and_ends_the_old(app, alice):
    """With a form of this browser that was open already: the page itself leads on."""
    old, token = cookie_of(alice), csrf_of(alice.get("/me"))
    assert alice.get("/login").status_code == 302
    sent = ALICE | {"csrf_token": token}
    assert alice.post("/login", data=sent, headers={"Referer": f"{ORIGIN}/"}).status_code == 303
    assert cookie_of(alice) != old and len(rows(app, BrowserSession)) == 1
    assert with_cookie(app, old).get("/me").status_code == 302
    assert alice.get("/me").status_code == 200


def test_sec_066_a_planted_session_is_not_taken_over(app, alice):
    planted = "planted-by-somebody-else-0123456789abcdefghijk"
    victim = with_cookie(app, planted)
    victim.login("alice@example.com")
    assert cookie_of(victim) != planted
    assert with_cookie(app, planted).get("/me").status_code == 302


def test_a_form_of_before_the_sign_in_is_void_after_it(app, alice):
    stranger = Browser(app)
    before = csrf_of(stranger.get("/login"))
    stranger.login("alice@example.com")
    headers = {"Referer": f"{ORIGIN}/me"}
    assert stranger.post("/logout", data={"csrf_token": before}, headers=headers).status_code == 403


def test_a_form_of_an_ended_sign_in_is_void(app, alice):
    token, flask_cookie = csrf_of(alice.get("/me")), cookie_of(alice, "__Host-session")
    alice.submit("/logout", at="/me")
    alice.login("alice@example.com")
    alice.client.set_cookie("__Host-session", flask_cookie, domain="gw.test", secure=True)
    headers = {"Referer": f"{ORIGIN}/me"}
    assert alice.post("/logout", data={"csrf_token": token}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("ago", "signed_in"),
    [
        ({"seen_at": datetime.timedelta(minutes=29)}, True),
        ({"seen_at": datetime.timedelta(minutes=31)}, False),
        ({"created_at": datetime.timedelta(hours=11)}, True),
        ({"created_at": datetime.timedelta(hours=13)}, False),
    ],
)
def test_sec_068_a_session_ends_when_idle_and_when_old(app, alice, ago, signed_in):
    age(app, **ago)
    assert alice.get("/me").status_code == (200 if signed_in else 302)


def test_use_keeps_a_session_alive_and_is_written_once_a_minute(app, alice):
    age(app, seen_at=datetime.timedelta(minutes=20))
    alice.get("/me")
    (first,) = rows(app, BrowserSession)
    assert utcnow() - first.seen_at < datetime.timedelta(minutes=1)
    with app.app_context():
        recent().clear()
    alice.get("/me")
    assert rows(app, BrowserSession)[0].seen_at == first.seen_at


@pytest.mark.parametrize("email", ["ALICE@example.com", " alice@example.com "])
def test_an_email_is_taken_as_people_type_it(app, alice, email):
    assert Browser(app).submit("/login", email=email, password=PASSWORD).status_code == 303


def test_sec_071_unknown_disabled_and_wrong_look_alike(app, alice, bob):
    with app.app_context():
        db.session.execute(sa.update(User).where(User.email.like("bob%")).values(is_disabled=True))
        db.session.commit()
    tries = {"nobody@example.com": PASSWORD, "bob@example.com": PASSWORD, "alice@example.com": "x"}
    pages = [Browser(app).submit("/login", email=e, password=p) for e, p in tries.items()]
    assert {page.status_code for page in pages} == {422}
    bodies = {
        page.text.replace(csrf_of(page), "").replace(email, "")
        for page, email in zip(pages, tries, strict=True)
    }
    assert len(bodies) == 1 and "Email or password is wrong" in bodies.pop()


def test_a_password_is_never_sent_back(app, alice):
    page = Browser(app).submit("/login", email="alice@example.com", password="w0rd-that-is-wrong")
    assert "w0rd-that-is-wrong" not in page.text and "alice@example.com" in page.text


@pytest.mark.parametrize("fields", [{"email": ""}, {"password": ""}])
def test_an_empty_field_is_named(app, alice, fields):
    sent = {"email": "alice@example.com", "password": PASSWORD} | fields
    page = Browser(app).submit("/login", **sent)
    assert page.status_code == 422
    assert "There is a problem" in page.text and "<title>Error: " in page.text


def guess(browser, times, email="alice@example.com"):
    return [
        browser.submit("/login", email=email, password=f"guess {n}").status_code
        for n in range(times)
    ]


def from_address(app, address):
    browser = Browser(app)
    browser.client.environ_base["REMOTE_ADDR"] = address
    return browser


def test_sec_070_guesses_are_slowed_and_the_owner_elsewhere_gets_in(app, alice):
    attacker = from_address(app, "203.0.113.6")
    answers = []
    for _ in range(30):
        page = attacker.get("/login")
        sent = {"csrf_token": csrf_of(page), "email": "alice@example.com", "password": "guess"}
        answers.append(attacker.post("/login", data=sent, headers={"Referer": f"{ORIGIN}/login"}))
    codes = [answer.status_code for answer in answers]
    assert codes.count(422) <= 10 and codes.count(429) >= 20
    last = answers[-1]
    assert int(last.headers["Retry-After"]) >= 1 and "Try again in" in last.text
    owner = from_address(app, "198.51.100.7")
    owner.login("alice@example.com")


def test_sec_070_right_passwords_are_not_counted(app, alice):
    for _ in range(35):
        Browser(app).login("alice@example.com")


def test_sec_070_guesses_at_once_count_each(app, alice):
    """A hundred together are not a hundred free tries."""
    browsers = [from_address(app, "203.0.113.6") for _ in range(16)]
    pages = [browser.get("/login") for browser in browsers]
    codes = []

    def send(browser, page):
        sent = {"csrf_token": csrf_of(page), "email": "alice@example.com", "password": "guess"}
        reply = browser.post("/login", data=sent, headers={"Referer": f"{ORIGIN}/login"})
        codes.append(reply.status_code)
        with app.app_context():
            db.session.remove()

    pairs = zip(browsers, pages, strict=True)
    threads = [threading.Thread(target=send, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(codes) == 16 and codes.count(422) <= 10 and set(codes) == {422, 429}


def test_sec_113_signing_in_and_out_is_recorded(app, alice):
    Browser(app).login("alice@example.com")
    guess(Browser(app), 6)
    alice.submit("/logout", at="/me")
    seen = [(e.action, e.outcome, e.subject_label) for e in rows(app, AuditEvent)]
    for event in [
        ("login", "ok", "alice@example.com"),
        ("login", "failed", "alice@example.com"),
        ("login.throttled", "denied", "alice@example.com"),
        ("logout", "ok", "alice@example.com"),
    ]:
        assert event in seen
    assert all(e.address == "127.0.0.1" for e in rows(app, AuditEvent) if e.action == "login")


def test_what_a_stranger_typed_as_an_email_is_not_recorded(app, alice):
    Browser(app).submit("/login", email="my-password-by-mistake", password="x")
    assert "my-password" not in repr([vars(event) for event in rows(app, AuditEvent)])
