"""A gateway that was copied from a provider template, and a newer version of it."""

import html

import pytest
import sqlalchemy as sa

from app.db import db
from app.models import AuditEvent, OAuthConfig
from app.oauth import templates
from tests.conftest import rows
from tests.web import registry

ENTRA = {"tenant": "00000000-1111-2222-3333-444444444444", "app": "api://the-app"}
CLIENT = {"client_id": "cid", "client_secret": "s3cret"}
PAGE, POST = "/admin/gateways/files", "/admin/gateways/files/template"


@pytest.fixture
def files(app):
    """A gateway of version 0, before somebody found out what Entra refuses."""
    patch = templates.fill("entra", ENTRA)["oauth_config"] | CLIENT
    old = {"resource": "auto", "pkce": "required", "template_version": 0}
    record = {"name": "Files", "url": "https://mcp.test/mcp", "auth_type": "oauth"}
    return registry.add(app, record | {"oauth_config": patch | old})


def settings(app, **changes) -> dict:
    if changes:
        with app.app_context(), db.engine.begin() as link:
            [config] = rows(app, OAuthConfig)
            link.execute(sa.update(OAuthConfig).values(settings=config.settings | changes))
    return rows(app, OAuthConfig)[0].settings


def test_a_newer_version_is_shown_with_its_reasons_and_taken_over_by_a_click(app, admin, files):
    text = html.unescape(admin.get(PAGE).text)
    assert "There is a newer version: 1" in text
    assert '"auto"</code>, then <code>"never"' in text and "refuses resource beside scope" in text
    assert admin.submit(POST, at=PAGE).status_code == 303
    page = admin.get(PAGE).text
    assert "follows the newest version of its template" in page and "newer version:" not in page
    now = settings(app)
    assert (now["resource"], now["pkce"]) == ("never", "unadvertised")
    assert rows(app, OAuthConfig)[0].template_version == 1
    assert "gateway.updated" in [event.action for event in rows(app, AuditEvent)]


def test_people_are_signed_out_only_where_that_was_ticked(app, admin, files):
    registry.connect(app, files, "admin@example.com")
    admin.submit(POST, at=PAGE)
    assert "This signs 1 person out. Tick the box" in admin.get(PAGE).text
    assert settings(app)["resource"] == "auto"
    admin.submit(POST, at=PAGE, sign_out="y")
    assert "1 person must connect again" in admin.get(PAGE).text
    assert settings(app)["resource"] == "never"


def test_sec_059_a_secret_is_not_taken_to_another_address(app, admin, files):
    """A template that names another token URL moves nothing by itself."""
    settings(app, token_url=f"https://old.test/{ENTRA['tenant']}/token")
    admin.submit(POST, at=PAGE)
    assert "You changed where the secret is sent" in admin.get(PAGE).text
    assert settings(app)["token_url"].startswith("https://old.test/")
    assert rows(app, OAuthConfig)[0].template_version == 0


def test_what_is_newest_stays(app, admin, files):
    admin.submit(POST, at=PAGE)
    events = len(rows(app, AuditEvent))
    admin.submit(POST, at="/admin/users/new")
    assert "has the newest version" in admin.get(PAGE).text
    assert len(rows(app, AuditEvent)) == events


@pytest.mark.parametrize("who", ["alice", "stranger"])
def test_it_is_for_admins(app, files, request, who):
    page = "/help" if who == "stranger" else "/me"
    browser = request.getfixturevalue(who)
    del page
    assert browser.post(POST).status_code in (302, 303, 400, 403, 404)
    assert settings(app)["resource"] == "auto"


def test_saving_the_form_keeps_where_it_came_from(app, admin, files):
    registry.send(admin, f"{PAGE}/edit", name="Documents")
    config = rows(app, OAuthConfig)[0]
    assert (config.template, config.template_version) == ("entra", 0)
