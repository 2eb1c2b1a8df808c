"""Who typed the password a while ago types it again for what gives access away (SEC-075).

Every way to change something is in one of the lists: a new one fails until it is reviewed.
"""

import datetime
import re

import pytest
import sqlalchemy as sa

from app import gateways, tool_configs
from app.audit import SYSTEM
from app.db import db, recent, utcnow
from app.models import ApiToken, AuditEvent, BrowserSession, Gateway, OAuthConfig, User
from app.web.auth import is_for_machines
from tests.conftest import PASSWORD, Browser, rows
from tests.security.world import dump
from tests.web.registry import BASIC, KEEPING, add, drawn, send

NEW = "four quiet zebras knit"
CY = {"email": "cy@example.com", "role": "admin", "password": NEW}
CONFIRMING = {"throttle", "browser_session", "audit_event", "audit_head", "rate_window"}

OWN_CLIENT = {
    "client_id": "app-9",
    "client_secret": "typed-secret",
    "authorization_url": "https://as.test/go",
    "token_url": "https://as.test/token",
}
SENSITIVE = {  # a route -> the page that holds its form, what is typed, and how to see that it did
    "/admin/users/new": ("", CY, lambda app: len(rows(app, User)) == 3),
    "/admin/users/<user_id>/role": (
        "/admin/users/<user_id>",
        {"role": "admin"},
        lambda app: all(user.role == "admin" for user in rows(app, User)),
    ),
    "/admin/users/<user_id>/password": (
        "",
        {"password": NEW},
        lambda app: Browser(app).login("alice@example.com", NEW),
    ),
    "/admin/users/<user_id>/disable": (
        "/admin/users/<user_id>",
        {},
        lambda app: any(user.is_disabled for user in rows(app, User)),
    ),
    "/admin/users/<user_id>/enable": (
        "/admin/users/<user_id>",
        {},
        lambda app: not any(user.is_disabled for user in rows(app, User)),
    ),
    "/admin/users/<user_id>/delete": ("", {}, lambda app: len(rows(app, User)) == 1),
    "/tokens/new": (
        "",
        {"name": "Laptop", "ends": "30", "scopes": "mcp", "which": "all"},
        lambda app: [token.name for token in rows(app, ApiToken)] == ["Laptop"],
    ),
    "/admin/gateways/<slug>/delete": ("", {}, lambda app: len(rows(app, Gateway)) == 1),
    "/admin/gateways/<slug>/edit": (
        "",
        {"client_secret": "typed-secret", "description": "kept"},
        lambda app: any(gateway.description == "kept" for gateway in rows(app, Gateway)),
    ),
    "/admin/gateways/<slug>/configs/new": (
        "",
        {"name": "Writing", "tool_patterns": "write_*", **OWN_CLIENT},
        lambda app: any(config.name == "Writing" for config in rows(app, OAuthConfig)),
    ),
    "/admin/gateways/<slug>/configs/<config_id>": (
        "",
        {"client_secret": "typed-secret", "scopes": "kept"},
        lambda app: any(config.settings["scopes"] == ["kept"] for config in rows(app, OAuthConfig)),
    ),
    "/admin/gateways/<slug>/configs/<config_id>/delete": (
        "",
        {},
        lambda app: all(config.is_default for config in rows(app, OAuthConfig)),
    ),
    "/admin/gateways/new": (
        "/admin/gateways/new?template=by-hand",
        {
            "name": "Vault",
            "url": "https://vault.example.com/mcp",
            "auth_type": "bearer",
            "bearer_token": "typed-secret",
        },
        lambda app: any(gateway.name == "Vault" for gateway in rows(app, Gateway)),
    ),
}
CONFIRMED = {  # buttons, behind a page of their own that asks
    "/admin/gateways/<slug>/register",
    "/admin/gateways/<slug>/provider",
    "/admin/gateways/<slug>/checks/<run_id>/published",
}
REVIEWED = {  # what asks for nothing, and why
    "/login": "the password is what it takes",
    "/setup": "nobody is there yet",
    "/me": "asks for the password always",
    "/logout": "takes access away",
    "/me/sessions/<which>/end": "takes access away",
    "/tokens/<token_id>/revoke": "takes access away",
    "/admin/users/<user_id>/sessions/end": "takes access away",
    "/admin/gateways/drafts/<draft_id>/delete": "it holds no secret, and gives no access",
    "/admin/gateways/<slug>/checks": "looks, and shows no secret",
    "/admin/gateways/<slug>/checks/<run_id>/connect": "the provider asks who it is",
    "/admin/gateways/<slug>/template": "what would lead a secret elsewhere is refused (SEC-059)",
    "/admin/gateways/<slug>/configs/<config_id>/earlier": "orders what is there",
    "/admin/gateways/<slug>/off": "takes access away",
    "/admin/gateways/<slug>/on": "gives back what was there, to whom it was given",
    "/connections/<slug>/disconnect": "takes access away",
    "/connections/<slug>/refresh": "renews what is there",
    "/admin/gateways/<slug>/people/<connection_id>/disconnect": "takes access away",
    "/oauth/connect/<slug>": "the provider asks who it is",
    "/tools/<slug>": "what a person does all day",
    "/tools/<slug>/<path:name>": "what a person does all day",
    "/tools/<slug>/": "what a person does all day",
}


def test_sec_075_every_way_to_change_something_was_reviewed(app):
    unsafe = {
        rule.rule
        for rule in app.url_map.iter_rules()
        if rule.methods - {"GET", "HEAD", "OPTIONS"} and not is_for_machines(rule.rule)
    }
    assert unsafe - REVIEWED.keys() == SENSITIVE.keys() | CONFIRMED


@pytest.fixture
def world(app, admin, alice):
    """An admin who signed in a while ago, a person, and gateways with secrets."""
    add(app, KEEPING)
    add(app, BASIC)
    with app.app_context():
        own = {"name": "Own", "tool_patterns": [{"match": "own_*"}], **OWN_CLIENT}
        tool_configs.replace(gateways.find("keeping"), [own], by=SYSTEM)
        then = utcnow() - datetime.timedelta(minutes=11)
        db.session.execute(sa.update(BrowserSession).values(confirmed_at=then))
        db.session.commit()
        recent().clear()


def place(app, rule):
    [alice] = [user.id for user in rows(app, User) if user.email == "alice@example.com"]
    own = [config.id for config in rows(app, OAuthConfig) if not config.is_default]
    known = {"<user_id>": alice, "<slug>": "keeping", "<config_id>": "".join(own)}
    for name, value in known.items():
        rule = rule.replace(name, value)
    return rule


def unchanged_but_for_confirming(app):
    return {name: rows for name, rows in dump(app).items() if name not in CONFIRMING}


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("rule", SENSITIVE)
def test_sec_075_an_old_session_is_asked_for_the_password_and_nothing_typed_is_lost(
    app, admin, rule
):
    page_of, typed, is_done = SENSITIVE[rule]
    url, at = place(app, rule), place(app, page_of or rule)
    if rule.endswith("/enable"):
        with app.app_context():
            change = sa.update(User).where(User.email == "alice@example.com")
            db.session.execute(change.values(is_disabled=True))
            db.session.commit()
    before = unchanged_but_for_confirming(app)
    asked = press(admin, url, at, typed)
    assert asked.status_code == 422, asked.text
    assert "Your password" in asked.text and "own_password" in drawn(asked)
    wrong = press(admin, url, asked, typed, own_password="not it")
    assert wrong.status_code == 422 and "This is not your password." in wrong.text
    assert unchanged_but_for_confirming(app) == before
    secrets = {"password", "client_secret", "bearer_token"}
    for page in (asked, wrong):
        kept = drawn(page)
        assert {name: kept[name] for name in typed.keys() - secrets} == {
            name: typed[name] for name in typed.keys() - secrets
        }
        for secret in (*(typed[name] for name in typed.keys() & secrets), "not it"):
            assert secret not in page.text
    old = admin.client.get_cookie("__Host-signed_in", domain="gw.test").value
    done = press(admin, url, wrong, typed, own_password=PASSWORD)
    assert done.status_code in (200, 303), done.text
    assert is_done(app)
    # Confirmed under a new id, and not asked again.
    assert admin.client.get_cookie("__Host-signed_in", domain="gw.test").value != old
    assert "You signed in a while ago" not in admin.get("/tokens/new").text
    actions = [event.action for event in rows(app, AuditEvent)]
    assert actions.count("login.confirmed") == 1
    stolen = Browser(app)
    stolen.client.set_cookie("__Host-signed_in", old, domain="gw.test", secure=True)
    assert stolen.get("/me").status_code == 302


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("rule", sorted(CONFIRMED))
def test_sec_075_a_button_of_an_old_session_is_asked_for_the_password(app, admin, rule):
    url, before = place(app, rule), unchanged_but_for_confirming(app)
    asked = press(admin, url, "/admin/gateways/keeping", {})
    assert asked.status_code == 422 and "own_password" in drawn(asked), asked.text
    wrong = press(admin, url, asked, {}, own_password="not it")
    assert wrong.status_code == 422 and "This is not your password." in wrong.text
    assert unchanged_but_for_confirming(app) == before


def press(browser, url, page, typed, **more):
    """The form of this page, as it is drawn, with what is typed over it."""
    page = browser.get(page) if isinstance(page, str) else page
    fields = drawn(page)
    if "csrf_token" not in fields:  # a button alone
        fields = {"csrf_token": re.search(r'name="csrf_token" [^>]*value="([^"]+)', page.text)[1]}
    sent = {name: value for name, value in (fields | typed | more).items() if name != "submit"}
    return browser.post(url, data=sent, headers={"Referer": f"https://gw.test{url}"})


@pytest.mark.usefixtures("world")
def test_sec_075_what_stores_no_secret_asks_for_nothing(app, admin):
    edit = "/admin/gateways/keeping/edit"
    assert send(admin, edit, description="no secret", own_password="").status_code == 303
    assert [event.action for event in rows(app, AuditEvent)].count("login.confirmed") == 0


@pytest.mark.usefixtures("world")
def test_sec_070_and_075_guesses_at_it_are_slowed(admin):
    codes = [
        send(admin, "/tokens/new", name="x", own_password=f"guess {n}").status_code
        for n in range(12)
    ]
    assert 429 in codes and codes.count(422) <= 10


@pytest.mark.usefixtures("world")
def test_sec_075_an_edit_that_comes_while_the_password_is_looked_at_is_not_overwritten(app, admin):
    """Looking at it commits, so the row that was judged may be another after it."""
    edit = "/admin/gateways/keeping/edit"
    fields = drawn(admin.get(edit)) | {"client_secret": "typed", "own_password": PASSWORD}

    def meanwhile(link, _cursor, statement, *_rest):
        if statement.startswith("UPDATE browser_session") and not done:
            done.append(1)
            later = sa.update(Gateway).values(name="Renamed", updated_at=utcnow())
            link.execute(later)

    done = []
    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", meanwhile)
    try:
        page = admin.post(edit, data=fields, headers={"Referer": f"https://gw.test{edit}"})
    finally:
        sa.event.remove(engine, "before_cursor_execute", meanwhile)
    assert done and page.status_code == 409
    assert {gateway.name for gateway in rows(app, Gateway)} == {"Renamed"}
