"""People, for admins."""

import pytest

from app.models import ApiToken, AuditEvent, BrowserSession, User
from tests.conftest import PASSWORD, Browser, rows
from tests.web.credentials import bearer, token_of

NEW = "four quiet zebras knit"


def id_of(app, email):
    (found,) = [user.id for user in rows(app, User) if user.email == email]
    return found


@pytest.fixture
def alices(app, alice) -> str:
    return f"/admin/users/{id_of(app, 'alice@example.com')}"


def test_an_admin_adds_a_person_who_then_signs_in(app, admin):
    reply = admin.submit("/admin/users/new", email="Cy@Example.com", role="user", password=NEW)
    assert (reply.status_code, reply.headers["Location"]) == (303, "/admin/users")
    assert "cy@example.com was added" in admin.get("/admin/users").text
    cy = Browser(app).login("cy@example.com", NEW)
    assert cy.get("/admin/users").status_code == 403


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"email": "no address"}, "Enter an email address"),
        ({"email": "ADMIN@example.com"}, "There is already an account with this email"),
        ({"password": "short"}, "Use at least 12 characters"),
        ({"role": "root"}, "Not a valid choice"),
    ],
)
def test_a_wrong_form_adds_nobody_and_keeps_what_was_typed(app, admin, fields, sentence):
    sent = {"email": "cy@example.com", "role": "user", "password": NEW} | fields
    page = admin.submit("/admin/users/new", **sent)
    assert page.status_code == 422 and sentence in page.text and sent["email"] in page.text
    assert NEW not in page.text and len(rows(app, User)) == 1


def test_sec_060_a_form_binds_only_its_fields(app, admin):
    more = {"id": "0" * 32, "is_disabled": "y", "password_hash": "x", "owner_id": "1"}
    admin.submit("/admin/users/new", email="cy@example.com", role="user", password=NEW, **more)
    cy = next(user for user in rows(app, User) if user.email == "cy@example.com")
    assert cy.id != "0" * 32 and not cy.is_disabled and cy.password_hash.startswith("$argon2id$")


def test_sec_067_a_disabled_person_is_out_everywhere_and_back_after(app, admin, alice, alices):
    token = token_of(app, "alice@example.com")
    assert alice.get("/api/v1/gateways", headers=bearer(token)).status_code == 200
    admin.submit(f"{alices}/disable", at=alices)
    assert alice.get("/me").status_code == 302
    assert alice.get("/api/v1/gateways", headers=bearer(token)).status_code == 401
    stranger = Browser(app)
    assert (
        stranger.submit("/login", email="alice@example.com", password=PASSWORD).status_code == 422
    )
    admin.submit(f"{alices}/enable", at=alices)
    assert alice.get("/me").status_code == 302  # the old session stays ended
    assert alice.get("/api/v1/gateways", headers=bearer(token)).status_code == 200
    alice.login("alice@example.com")


def test_a_new_password_by_an_admin_signs_the_person_out(app, admin, alice, alices):
    assert admin.submit(f"{alices}/password", password="short").status_code == 422
    assert admin.submit(f"{alices}/password", password=NEW).status_code == 303
    assert alice.get("/me").status_code == 302
    alice.login("alice@example.com", NEW)


def test_sec_066_a_new_role_signs_the_person_out_and_holds_at_once(app, admin, alice, alices):
    admin.submit(f"{alices}/role", at=alices, role="admin")
    assert alice.get("/me").status_code == 302
    alice.login("alice@example.com")
    assert alice.get("/admin/users").status_code == 200


def test_deleting_says_what_goes_and_takes_it(app, admin, alice, alices):
    token_of(app, "alice@example.com")
    page = admin.get(f"{alices}/delete").text
    assert "Delete alice@example.com?" in page and "1 API token" in page
    reply = admin.submit(f"{alices}/delete")
    assert reply.headers["Location"] == "/admin/users"
    assert [user.email for user in rows(app, User)] == ["admin@example.com"]
    assert rows(app, ApiToken) == [] and len(rows(app, BrowserSession)) == 1
    assert alice.get("/me").status_code == 302 and admin.get(alices).status_code == 404


@pytest.mark.parametrize(
    ("what", "fields"), [("disable", {}), ("delete", {}), ("role", {"role": "user"})]
)
def test_the_last_admin_stays(app, admin, alice, what, fields):
    mine = f"/admin/users/{id_of(app, 'admin@example.com')}"
    reply = admin.submit(f"{mine}/{what}", at=mine, **fields)
    assert reply.status_code == 409 and "last_admin" in reply.text
    assert admin.get("/admin/users").status_code == 200


def test_an_admin_may_leave_when_another_can_sign_in(app, admin, alice, alices):
    admin.submit(f"{alices}/role", at=alices, role="admin")
    mine = f"/admin/users/{id_of(app, 'admin@example.com')}"
    assert admin.submit(f"{mine}/disable", at=mine).status_code == 303
    assert admin.get("/admin/users").status_code == 302


def test_sec_067_an_admin_signs_a_person_out_everywhere(app, admin, alice, alices):
    other = Browser(app).login("alice@example.com")
    assert "Signed in on</dt><dd>2 browsers" in admin.get(alices).text
    assert admin.submit(f"{alices}/sessions/end", at=alices).status_code == 303
    assert "Signed out of 2 browsers" in admin.get(alices).text
    assert alice.get("/me").status_code == other.get("/me").status_code == 302
    [event] = [event for event in rows(app, AuditEvent) if event.action == "session.ended"]
    assert event.actor_label == "admin@example.com" and event.details == {"count": 2}
    assert admin.get("/me").status_code == 200


def test_sec_113_changes_are_recorded_with_who_made_them(app, admin, alice, alices):
    admin.submit(f"{alices}/role", at=alices, role="admin")
    admin.submit(f"{alices}/role", at=alices, role="user")
    admin.submit(f"{alices}/disable", at=alices)
    admin.submit(f"{alices}/enable", at=alices)
    admin.submit(f"{alices}/password", password=NEW)
    admin.submit(f"{alices}/delete")
    made = {
        event.action: event.actor_label
        for event in rows(app, AuditEvent)
        if event.subject_label == "alice@example.com" and event.actor_kind == "user"
    }
    wanted = "role_changed disabled enabled password_changed deleted".split()
    assert {f"user.{what}" for what in wanted} <= made.keys()
    assert {made[f"user.{what}"] for what in wanted} == {"admin@example.com"}
    assert NEW not in repr([vars(event) for event in rows(app, AuditEvent)])
