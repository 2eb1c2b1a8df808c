"""OAuth configs for some tools of a gateway, as an admin meets them."""

import html
import re
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app import gateways, people, tool_configs
from app.audit import SYSTEM
from app.db import db, utcnow
from app.errors import Conflict
from app.models import AuditEvent, BrowserSession, ClientRegistration, Connection, OAuthConfig
from app.secretbox import box, cell
from tests.conftest import PASSWORD, rows
from tests.oauth import acme
from tests.web.registry import CANARY, KEEPING, NONE, add, connect, drawn, send

HERE = "/admin/gateways/keeping"
NEW = f"{HERE}/configs/new"
WRITING = {"name": "Writing", "tool_patterns": "write_*\r\nresource file:*", "scopes": "w"}
OWN = {
    "client_id": "app-9",
    "client_secret": f"{CANARY}-own",
    "authorization_url": "https://as.test/go",
    "token_url": "https://as.test/token",
}


@pytest.fixture
def keeping(app, admin):
    add(app, KEEPING)
    return admin


def text_of(page) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(page.text)).split())


def record(app, at: int = 0) -> dict:
    return records(app)[at]


def records(app) -> list[dict]:
    with app.app_context():
        return tool_configs.records(gateways.find("keeping"))


def url(app, name: str = "Writing") -> str:
    with app.app_context():
        found = db.session.scalar(sa.select(OAuthConfig.id).filter_by(name=name))
    return f"{HERE}/configs/{found}"


def errors(page) -> str:
    return text_of(page).partition("There is a problem")[2][:600]


def grant(app, name: str = "Writing") -> None:
    """A living connection to it."""
    with app.app_context():
        config = db.session.scalars(sa.select(OAuthConfig).filter_by(name=name)).one()
        user = people.named("admin@example.com")
        row = Connection(oauth_config_id=config.id, gateway_id=config.gateway_id, state="active")
        row.user_id, row.owner_key = user.id, f"user:{user.id}"
        row.registration_id = config.registration_id
        row.access_token_sealed = box().seal("at", where=cell(row, "access_token_sealed"))
        db.session.add(row)
        db.session.commit()


def test_one_is_added_listed_and_drawn_again(app, keeping):
    assert "All tools use the sign-in above" in keeping.get(HERE).text
    saved = send(keeping, NEW, **WRITING)
    assert saved.status_code == 303 and saved.location == f"{HERE}#configs", text_of(saved)
    page = text_of(keeping.get(HERE))
    assert "Writing was saved." in page
    assert "Writing for write_* , the resource file:* : w ; each person signs in." in page
    assert record(app)["tool_patterns"] == [
        {"kind": "tool", "match": "write_*"},
        {"kind": "resource", "match": "file:*"},
    ]
    assert record(app)["client_id"] is None
    form = drawn(keeping.get(url(app)))
    assert (form["tool_patterns"], form["scopes"], form["client_id"], form["more"]) == (
        "write_*\r\nresource file:*",
        "w",
        "",
        "",
    )


def test_saving_with_nothing_typed_changes_nothing(app, keeping):
    assert send(keeping, NEW, **WRITING, **OWN, more='{"pkce": "off"}').status_code == 303
    before = [record(app), [vars(row)["updated_at"] for row in rows(app, OAuthConfig)]]
    events = len(rows(app, AuditEvent))
    assert send(keeping, url(app)).status_code == 303
    assert [record(app), [vars(row)["updated_at"] for row in rows(app, OAuthConfig)]] == before
    assert len(rows(app, AuditEvent)) == events


def test_a_secret_goes_in_and_never_comes_out(app, keeping):
    assert send(keeping, NEW, **WRITING, **OWN).status_code == 303
    for page in (keeping.get(HERE), keeping.get(url(app))):
        assert CANARY not in page.text
    assert "Leave empty to keep it." in keeping.get(url(app)).text
    assert send(keeping, url(app), scopes="w x").status_code == 303
    assert (record(app)["scopes"], record(app)["client_secret"]) == (["w", "x"], "set")
    assert send(keeping, url(app), remove_client_secret="y").status_code == 303
    assert record(app)["client_secret"] is None
    [own] = [row for row in rows(app, ClientRegistration) if row.client_id == "app-9"]
    assert own.client_secret_sealed is None


def test_sec_059_a_secret_is_typed_again_where_it_would_go_elsewhere(app, keeping):
    send(keeping, NEW, **WRITING, **OWN)
    moved = send(keeping, url(app), token_url="https://evil.test/token")
    assert moved.status_code == 422 and "Enter it again" in errors(moved), errors(moved)
    assert record(app)["token_url"] == OWN["token_url"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"name": ""}, "Name: This is required."),
        ({"name": "default"}, "Another one has this name."),
        ({"tool_patterns": ""}, "Which tools"),
        ({"scopes": 'a"b'}, "cope"),
        ({"client_secret": f"{CANARY}-x"}, "Enter the client ID that this secret belongs to."),
        ({"token_url": "https://evil.test/t"}, "This is another place than the gateway's."),
        ({"more": "{"}, "JSON"),
        ({"more": '{"client_id": "x"}'}, "Write an object with some of these names"),
        ({"more": '{"pkce": "maybe"}'}, "pkce: This must be one of"),
        ({"grant_type": "x"}, "Who signs in?: This must be one of"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_lost(app, keeping, typed, said):
    given = WRITING | typed
    page = send(keeping, NEW, **given)
    assert page.status_code == 422 and said in errors(page), errors(page)
    again = drawn(page)
    for name, value in given.items():
        is_kept = name not in ("client_secret", "grant_type")  # no choice of the list
        assert again[name] == (value if is_kept else ""), name
    assert CANARY not in page.text and records(app) == []


def test_they_are_tried_in_the_order_that_an_admin_gives(app, keeping):
    send(keeping, NEW, **WRITING)
    send(keeping, NEW, **WRITING | {"name": "Deleting"})
    assert [one["name"] for one in records(app)] == ["Writing", "Deleting"]
    keeping.get(HERE)
    up = keeping.submit(f"{url(app, 'Deleting')}/earlier", at=HERE)
    assert up.status_code == 303
    assert [one["name"] for one in records(app)] == ["Deleting", "Writing"]
    assert "Deleting is tried before Writing." in text_of(keeping.get(HERE))
    twice = send(keeping, NEW, **WRITING)
    assert twice.status_code == 422 and "Another one has this name." in errors(twice)


def test_one_is_deleted_with_its_connections(app, keeping):
    send(keeping, NEW, **WRITING)
    grant(app)
    there = f"{url(app)}/delete"
    assert "1 connection to it ends here" in text_of(keeping.get(there))
    assert send(keeping, there).status_code == 303
    assert records(app) == [] and rows(app, Connection) == []
    assert keeping.get(there).status_code == 404


def test_lists_of_connections_name_it(app, keeping):
    send(keeping, NEW, **WRITING)
    own = "Writing, for write_*, the resource file:*:"
    assert f"{own} Not connected" in text_of(keeping.get("/connections"))
    connect(app, "keeping", "admin@example.com")
    grant(app)
    assert f"{own} Connected" in text_of(keeping.get("/connections"))
    page = text_of(keeping.get(f"{HERE}/people"))
    assert page.count("admin@example.com Writing") == 1
    [one] = [row for row in rows(app, Connection) if row.access_token_sealed != "a"]
    assert "For the tools of Writing" in text_of(keeping.get(f"{HERE}/people/{one.id}"))


def test_nobody_is_signed_out_unasked(app, keeping):
    send(keeping, NEW, **WRITING, **OWN)
    grant(app)
    other = {"client_id": "app-10", "client_secret": f"{CANARY}-10"}
    page = send(keeping, url(app), **other)
    assert page.status_code == 422 and "signs 1 person out" in errors(page), errors(page)
    assert send(keeping, url(app), **other, sign_out="y").status_code == 303
    assert [row.state for row in rows(app, Connection)] == ["orphaned"]


def test_sec_075_a_secret_wants_a_password_that_was_typed_lately(app, keeping):
    with app.app_context():
        db.session.execute(
            sa.update(BrowserSession).values(confirmed_at=utcnow() - timedelta(days=1))
        )
        db.session.commit()
    page = send(keeping, NEW, **WRITING, **OWN)
    assert page.status_code == 422 and "Enter your own password." in errors(page)
    assert records(app) == [] and CANARY not in page.text
    assert send(keeping, NEW, **WRITING, **OWN, own_password=PASSWORD).status_code == 303


def test_of_two_admins_the_second_is_told(app, keeping):
    send(keeping, NEW, **WRITING)
    typed = drawn(keeping.get(url(app))) | {"scopes": "mine"}
    send(keeping, url(app), scopes="theirs")
    page = keeping.post(url(app), data=typed, headers={"Referer": f"https://gw.test{url(app)}"})
    assert page.status_code == 422 and "Somebody else saved this meanwhile" in errors(page)
    assert record(app)["scopes"] == ["theirs"]


def test_sec_059_of_two_edits_at_once_one_is_told_to_look_again(app, keeping):
    send(keeping, NEW, **WRITING)

    def give(gateway, scopes):
        tool_configs.replace(gateway, [record(app) | {"scopes": [scopes]}], by=SYSTEM)
        db.session.commit()

    with app.app_context():
        mine = gateways.find("keeping")
        assert mine.updated_at <= utcnow()
        with app.app_context():  # somebody else's request
            give(gateways.find("keeping"), "theirs")
        with pytest.raises(Conflict):
            give(mine, "mine")
    assert record(app)["scopes"] == ["theirs"]


def test_a_gateway_without_oauth_has_none(app, admin):
    add(app, NONE)
    assert "OAuth per tool" not in admin.get("/admin/gateways/open").text
    assert admin.get("/admin/gateways/open/configs/new").status_code == 404


# -- what a person is told when they come back -----------------------------------------------------


def config_id(app) -> str:
    return url(app).rpartition("/")[2]


def test_who_connected_one_is_told_for_which_tools(app, keeping, provider):
    send(keeping, NEW, **WRITING)
    provider.post(KEEPING["oauth_config"]["token_url"], json=acme.GOOD)
    acme.leave(keeping, "keeping", config=config_id(app)).back()
    said = text_of(keeping.get("/connections/keeping"))
    assert "Keeping, for write_*, the resource file:*, is connected." in said
    assert [row.oauth_config_id for row in rows(app, Connection)] == [config_id(app)]


def test_rights_that_a_new_consent_takes_away_are_named(app, keeping, provider):
    """Some providers grant what is asked for now, and end what was granted before."""
    scopes = ["repo read:user", "repo"]
    told = [{"json": acme.GOOD | {"scope": scope}} for scope in scopes]
    provider.post(KEEPING["oauth_config"]["token_url"], told)
    acme.leave(keeping, "keeping").back()
    assert "are gone with it" not in text_of(keeping.get("/connections/keeping"))
    acme.leave(keeping, "keeping").back()
    said = text_of(keeping.get("/connections/keeping"))
    assert "Rights you had before are gone with it: read:user." in said
    assert "It did not grant all that was asked for. Missing: read:user." in said


def test_the_activity_says_what_was_done_to_which(app, keeping):
    send(keeping, NEW, **WRITING)
    send(keeping, url(app), scopes="w x")
    said = text_of(keeping.get("/admin/activity?type=gateways"))
    assert "Added an OAuth config for some tools of Keeping: Writing" in said
    assert "Changed an OAuth config for some tools of Keeping: Writing, scopes" in said
