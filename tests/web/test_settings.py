"""/admin/settings: what applies, and what ran by itself. No secret, and nothing to change."""

from __future__ import annotations

import dataclasses

from app import housekeeping
from app.models import Chore
from app.web.admin import settings
from config import Config
from tests.conftest import SECRETS, rows

NOT_SHOWN = {"SECRET_KEY", "AUTH_ENCRYPTION_SECRET", "AUTH_ENCRYPTION_SECRETS_OLD", "DATABASE_URL"}


def test_every_setting_is_shown_or_a_secret(admin, app):
    page = admin.get("/admin/settings").text
    shown = {name for group in settings.SHOWN.values() for name in group}
    assert shown | NOT_SHOWN == {field.name for field in dataclasses.fields(Config)}
    for name in shown:
        assert f"<code>{name}</code>" in page
    assert "https://gw.test" in page and "127.0.0.0/8" in page


def test_sec_058_no_secret_is_on_the_page(admin, app, config):
    page = admin.get("/admin/settings").text
    assert not [one for one in (*SECRETS.values(), config.DATABASE_URL) if one in page]


def test_it_is_for_admins(alice, stranger):
    assert alice.get("/admin/settings").status_code == 403
    assert stranger.get("/admin/settings").status_code == 302


def test_last_runs_are_shown_and_looking_starts_none(admin, app):
    page = admin.get("/admin/settings").text
    shared = [name for name, one in housekeeping.CHORES.items() if not one.on_each_node]
    assert page.count("Not yet") == len(shared) and rows(app, Chore) == []
    app.test_cli_runner().invoke(args=["housekeeping", "run", "--once"])
    page = admin.get("/admin/settings").text
    assert "Not yet" not in page and page.count("Done") == len(shared)
    with app.app_context():
        housekeeping.schedule.finish(
            housekeeping.schedule.claim("flows", lease_s=60, early=True),
            "failed: database_away",
            again_s=60,
        )
    page = admin.get("/admin/settings").text
    assert "Failed" in page and "failed: database_away" in page


def test_every_chore_is_explained(admin, app):
    shared = {name for name, one in housekeeping.CHORES.items() if not one.on_each_node}
    assert settings.CHORES.keys() == shared
    page = admin.get("/admin/settings").text
    assert all(about in page for about in settings.CHORES.values())
