"""flask secrets …"""

import dataclasses
import sqlite3

import pytest
import sqlalchemy as sa

from app import keys
from app.db import db
from app.secretbox import SecretBox
from tests import sealed

OLD_ID, NEW_ID = (SecretBox([secret]).active for secret in (sealed.OLD, sealed.NEW))


@pytest.fixture
def planted(app):
    with app.app_context():
        return sealed.plant()


@pytest.fixture
def both(start, config, planted):
    """A node with the new key; the old one still opens."""
    ring = {"AUTH_ENCRYPTION_SECRET": sealed.NEW, "AUTH_ENCRYPTION_SECRETS_OLD": (sealed.OLD,)}
    return start(dataclasses.replace(config, **ring))


def run(app, *args):
    return app.test_cli_runner().invoke(args=["secrets", *args])


def shows_nothing(ran, planted) -> bool:
    shown = ran.output + ran.stderr
    return not any(secret in shown for secret in (*planted.values(), sealed.OLD, sealed.NEW))


def test_sec_082_status_counts_by_key_and_table(app, planted):
    ran = run(app, "status")
    assert ran.exit_code == 0 and shows_nothing(ran, planted)
    lines = [line.split("\t") for line in ran.stdout.splitlines()[:-1]]
    for table, _, column in planted:
        assert [f"{table}.{column}", OLD_ID, "active", "1"] in lines
    assert ran.stdout.splitlines()[-1] == "Nothing is under an old key."


def test_sec_082_status_is_1_until_nothing_is_under_an_old_key(both, planted):
    before = run(both, "status")
    assert before.exit_code == 1 and f"{OLD_ID}\told\t1" in before.stdout
    assert before.stdout.splitlines()[-1].endswith("Run: flask secrets reseal")
    moved = run(both, "reseal")
    assert moved.exit_code == 0 and shows_nothing(moved, planted)
    assert f"moved to key {NEW_ID}." in moved.stdout
    assert f"No longer needed: {OLD_ID}." in moved.stdout
    assert "moved, now in connection" in moved.stderr
    chain = both.test_cli_runner().invoke(args=["audit", "verify"])
    assert chain.exit_code == 0, chain.output
    after = run(both, "status")
    assert after.exit_code == 0 and OLD_ID not in after.stdout


def test_sec_084_what_does_not_open_is_named_and_never_shown(both, planted):
    [place] = [one for one in planted if one[0] == "gateway" and one[2] == "credentials_sealed"]
    with both.app_context():
        sealed.put(place, "gho_plaintext")
    for command in ("reseal", "status"):
        ran = run(both, command)
        assert ran.exit_code == 3
        assert f"gateway {place[1]}: credentials_sealed is no sealed value." in ran.stderr
        assert "gho_plaintext" not in ran.output + ran.stderr
        assert "an admin enters a secret again" in ran.stderr


def test_sec_082_resealing_waits_for_a_process_without_the_key(app, both, planted):
    with app.app_context():
        keys.announce()
    ran = run(both, "reseal")
    assert ran.exit_code == 1 and "A running server has not got key" in ran.output
    assert run(both, "status").exit_code == 1


def test_sec_082_resealing_says_which_process_seals_with_the_old_key(start, config, both, planted):
    ring = {"AUTH_ENCRYPTION_SECRET": sealed.OLD, "AUTH_ENCRYPTION_SECRETS_OLD": (sealed.NEW,)}
    with start(dataclasses.replace(config, **ring)).app_context():
        keys.announce()
    ran = run(both, "reseal")
    assert ran.exit_code == 1 and "Still sealing with an old key" in ran.stderr
    assert "ended on another host is listed for 90 seconds more: wait" in ran.stderr
    assert "No longer needed" not in ran.stdout


def test_sec_082_a_database_that_goes_away_is_named_and_what_was_moved_stays(both, planted):
    """It stops for good in the middle, as with kill -9; the next run goes on."""
    with both.app_context():
        engine = db.engine

    def away(link, cursor, statement, parameters, context, many):
        if statement.startswith("UPDATE parked_call"):
            error = engine.dialect.loaded_dbapi.OperationalError("gone")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error

    sa.event.listen(engine, "before_cursor_execute", away)
    ran = run(both, "reseal")
    sa.event.remove(engine, "before_cursor_execute", away)
    assert ran.exit_code == 1 and "the database does not answer. What was moved stays" in ran.output
    assert f"connection.access_token_sealed\t{NEW_ID}\tactive\t1" in run(both, "status").stdout
    assert run(both, "reseal").exit_code == 0


@pytest.mark.parametrize("args", [("reseal", "now"), ("status", "--all"), ("what",)])
def test_wrong_usage_is_exit_status_2(app, args):
    assert run(app, *args).exit_code == 2
