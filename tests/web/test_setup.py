"""The first run."""

import re
import threading

import click
import pytest
import sqlalchemy as sa

from app import people, setup
from app.db import db
from app.models import AuditEvent, SetupCode, User
from app.web.people import announce
from tests.conftest import PASSWORD, Browser, rows
from tests.web.credentials import csrf_of

ORIGIN = "https://gw.test"


@pytest.fixture
def code(app) -> str:
    """A code as the console showed it."""
    with app.app_context():
        return setup.offer()


def set_up(browser, code, **fields):
    sent = {"code": code, "email": "ana@example.com", "password": PASSWORD} | fields
    return browser.submit("/setup", **sent)


@pytest.mark.parametrize("path", ["/", "/login", "/me", "/admin/users", "/tokens/new"])
def test_before_it_every_page_leads_there(stranger, path):
    assert stranger.get(path).headers["Location"] == "/setup"


def test_the_console_shows_the_code_once_as_the_server_starts(app, stranger, capfd):
    announce(app)
    announce(app)  # the next worker
    stranger.get("/setup")
    shown = re.findall(r"^Setup code: ([A-Z2-9]{4}-[A-Z2-9]{4}) ", capfd.readouterr().err, re.M)
    assert len(shown) == 1
    assert set_up(stranger, shown[0]).status_code == 303


def test_a_command_shows_no_code(app, capfd):
    with click.Context(click.Command("users")):
        announce(app)
    assert rows(app, SetupCode) == [] and "Setup code" not in capfd.readouterr().err


def test_a_server_starts_though_its_database_is_away(app, capfd):
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.text("ALTER TABLE setup_code RENAME TO elsewhere"))
    announce(app)
    assert "Setup code" not in capfd.readouterr().err


def test_sec_053_looking_at_the_form_makes_no_code(app, stranger, capfd):
    assert stranger.get("/setup").status_code == 200
    assert rows(app, SetupCode) == [] and "Setup code" not in capfd.readouterr().err


def test_the_code_makes_an_admin_and_signs_in(app, stranger, code):
    reply = set_up(stranger, code)
    assert (reply.status_code, reply.headers["Location"]) == (303, "/")
    assert stranger.get("/admin/users").status_code == 200
    (user,) = rows(app, User)
    assert (user.email, user.role) == ("ana@example.com", "admin")
    assert user.password_hash.startswith("$argon2id$v=19$m=47104,t=1,p=1$")
    assert rows(app, SetupCode) == []
    assert "setup" in {event.action for event in rows(app, AuditEvent)}


def test_after_it_the_page_is_gone(app, stranger, code):
    set_up(stranger, code)
    for browser in (stranger, Browser(app)):
        page = browser.get("/setup")
        assert page.status_code == 404 and "setup_done" in page.text


def test_an_admin_made_by_command_ends_it_too(app, admin, stranger):
    assert stranger.get("/setup").status_code == 404


@pytest.mark.parametrize(
    "typed", [str.lower, lambda code: code.replace("-", ""), lambda code: f" {code} "]
)
def test_the_code_may_be_typed_as_people_do(stranger, code, typed):
    assert set_up(stranger, typed(code)).status_code == 303


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"code": "AAAA-AAAA"}, "That code does not match"),
        ({"code": ""}, "Enter the code"),
        ({"email": "ana"}, "Enter an email address"),
        ({"password": "short"}, "Use at least 12 characters"),
        ({"password": "ana2026example!"}, "easy to guess"),
    ],
)
def test_what_is_wrong_is_said_and_the_code_stays_good(stranger, code, fields, sentence):
    page = set_up(stranger, **({"code": code} | fields))
    assert page.status_code == 422 and sentence in page.text
    assert set_up(stranger, code).status_code == 303


def test_an_old_code_is_over_and_a_fresh_one_is_shown(app, stranger, code, capfd):
    with app.app_context():
        db.session.execute(sa.update(SetupCode).values(expires_ms=1))
        db.session.commit()
    assert "does not match" in set_up(stranger, code).text
    fresh = re.search(r"^Setup code: (\S+)", capfd.readouterr().err, re.M)[1]
    assert set_up(stranger, fresh).status_code == 303


def test_a_code_asked_for_by_command_ends_the_one_before(app, stranger, code):
    fresh = app.test_cli_runner().invoke(args=["users", "setup-code"]).output.split()[-1]
    assert set_up(stranger, code).status_code == 422
    assert set_up(stranger, fresh).status_code == 303
    again = app.test_cli_runner().invoke(args=["users", "setup-code"])
    assert again.exit_code == 1 and "set up already" in again.output


def test_the_code_is_kept_only_as_a_hash(app, code):
    (row,) = rows(app, SetupCode)
    assert code not in repr(vars(row)) and code.replace("-", "") not in repr(vars(row))


def test_sec_072_of_two_set_ups_at_once_one_wins(app, code):
    ready, replies = threading.Barrier(4), []

    def finish(number):
        browser = Browser(app)
        token = csrf_of(browser.get("/setup"))
        sent = {"csrf_token": token, "code": code, "password": PASSWORD}
        sent["email"] = f"admin{number}@example.com"
        ready.wait()
        replies.append(browser.post("/setup", data=sent, headers={"Referer": f"{ORIGIN}/setup"}))
        with app.app_context():
            db.session.remove()

    threads = [threading.Thread(target=finish, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status_code for reply in replies).count(303) == 1
    assert {reply.status_code for reply in replies} <= {303, 404, 422}
    assert len(rows(app, User)) == 1


def test_sec_072_guesses_at_the_code_are_slowed(stranger, code):
    codes = [set_up(stranger, f"AAAA-AAA{n}").status_code for n in "BCDEFGHJKL"]
    assert codes[:5] == [422] * 5 and codes.count(429) >= 3


def test_the_public_address_is_shown_and_a_different_one_warned_of(app, stranger):
    page = stranger.get("/setup")
    assert "https://gw.test" in page.text and "state mismatch" not in page.text


def test_people_made_without_a_password_cannot_sign_in(app, admin):
    with app.app_context():
        people.create("cy@example.com", password=None)
        db.session.commit()
    assert Browser(app).submit("/login", email="cy@example.com", password="").status_code == 422
    assert Browser(app).submit("/login", email="cy@example.com", password="x").status_code == 422
