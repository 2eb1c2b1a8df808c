"""flask tokens restored, flask tokens revoke --all."""

import json

import pytest
import sqlalchemy as sa

from app import api_tokens, people, recovery, sessions
from app.audit import SYSTEM
from app.db import Base, db, recent
from app.errors import ConnectionNeeded, ProviderError, SignInRequired
from app.models import (
    ApiToken,
    AuditEvent,
    BrowserSession,
    Connection,
    Flow,
    ParkedCall,
    Revocation,
)
from app.oauth import tokens
from tests import sealed
from tests.conftest import Browser, rows
from tests.oauth import acme as trips
from tests.oauth.planted import ALICE, FRESH, STALE, acme, change, grant
from tests.oauth.planted import plant as plant_acme
from tests.oauth.strict_provider import serving

REVOKE = "https://as.test/revoke"


def run(app, *args, stdin=None):
    recent_of(app)
    return app.test_cli_runner().invoke(args=["tokens", *args], input=stdin)


def recent_of(app) -> None:
    """What other processes find out within a second."""
    with app.app_context():
        recent().clear()


def backup(app) -> dict[sa.Table, list[dict]]:
    with app.app_context(), db.engine.connect() as link:
        tables = Base.metadata.sorted_tables
        return {one: [dict(r) for r in link.execute(sa.select(one)).mappings()] for one in tables}


def put_back(app, copy) -> None:
    with app.app_context(), db.engine.begin() as link:
        for table in reversed(Base.metadata.sorted_tables):
            link.execute(sa.delete(table))
        for table, found in copy.items():
            if found:
                link.execute(sa.insert(table), found)
    recent_of(app)


def shown_token(app, email: str) -> str:
    with app.app_context():
        given = {"name": "t", "scopes": ["mcp", "api:read"], "gateway_ids": None}
        user = people.named(email)
        _, shown = api_tokens.issue(user.id, **given, expires_at=None, by=SYSTEM)
        db.session.commit()
        return shown


def test_sec_085_f_45_what_a_backup_brings_back_lets_nobody_in(app, alice, admin):
    """Backup, sign out, revoke, restore: the cookie, the token and the sign-in of then are void."""
    trips.add(app)
    trip, token = trips.leave(alice), shown_token(app, "alice@example.com")
    copy = backup(app)
    assert alice.submit("/logout", at="/me").status_code == 303
    with app.app_context():
        api_tokens.revoke(rows(app, ApiToken)[0].id, by=SYSTEM)
        db.session.commit()
    put_back(app, copy)
    ran = run(app, "restored", "--yes")
    assert ran.exit_code == 0, ran.output
    assert "1 API tokens, 1 sign-ins under way" in ran.output
    header = {"Authorization": f"Bearer {token}"}
    assert alice.get("/api/v1/gateways", headers=header).status_code == 401
    assert admin.get("/admin/gateways").status_code == 302  # signed out, too
    assert alice.get("/me").status_code == 302
    assert "state_unknown" in trip.back().text
    assert not rows(app, BrowserSession) + rows(app, Flow) + rows(app, ParkedCall)
    [event] = [one for one in rows(app, AuditEvent) if one.action == "backup.restored"]
    assert (event.details["api_tokens"], event.actor_label) == (1, "command line")


@pytest.mark.parametrize("answer", ["", "400", "403", "404"])
def test_sec_085_f_45_a_grant_that_was_renewed_since_ends_once_and_does_not_loop(app, answer):
    """Whatever the provider says to a refresh token that it has replaced."""
    with serving(expires=3600.0, delay=0, tail=0) as provider, app.app_context():
        given = provider.seed()
        plant_acme(token_url=f"{provider.url}/token")
        names = ("access_token", "refresh_token")
        grant(FRESH, **{name: given[name] for name in names})
        copy = backup(app)
        gen = acme().connection.token_gen
        assert tokens.credential(ALICE, acme(), after=gen).token_gen > gen
        put_back(app, copy)
        assert run(app, "restored", "--yes").exit_code == 0
        if answer:
            provider.misbehave.append(answer)
        gen = acme().connection.token_gen
        for _ in range(3):
            with pytest.raises(ConnectionNeeded) as caught:
                tokens.credential(ALICE, acme(), after=gen)
            assert (caught.value.state, caught.value.reason) == ("needs_reauth", "restored")
        assert provider.counts["refresh_token"] == 2  # one before the restore, one after


def test_sec_085_a_grant_that_is_as_good_as_before_goes_on(app):
    with serving(expires=3600.0, delay=0, tail=0) as provider, app.app_context():
        given = provider.seed()
        plant_acme(token_url=f"{provider.url}/token")
        grant(STALE, access_token=given["access_token"], refresh_token=given["refresh_token"])
        put_back(app, backup(app))
        assert run(app, "restored", "--yes").exit_code == 0
        shown = tokens.credential(ALICE, acme(), after=acme().connection.token_gen)
        assert provider.look_up(shown.headers["Authorization"][7:]) == "active"
    [row] = rows(app, Connection)
    assert (row.state, row.reason) == ("active", None)


def test_sec_105_a_fault_of_the_provider_ends_no_restored_grant(app):
    app.config["OAUTH_MAX_RETRIES"] = 0
    with serving(expires=3600.0, grace=30.0, delay=0, tail=0) as provider, app.app_context():
        given = provider.seed()
        plant_acme(token_url=f"{provider.url}/token")
        grant(FRESH, access_token=given["access_token"], refresh_token=given["refresh_token"])
        assert run(app, "restored", "--yes").exit_code == 0
        provider.misbehave.append("503")
        with pytest.raises(ProviderError):
            tokens.credential(ALICE, acme(), after=acme().connection.token_gen)
        change(not_before_ms=0, refused_ms=None)
    assert rows(app, Connection)[0].state == "failing"


def planted(app, people_=3) -> list[sealed.Place]:
    """Connections with a provider that ends tokens on request, and one that cannot."""
    with app.app_context():
        places = [place for number in range(1, people_ + 1) for place in sealed.plant(number)]
        with db.engine.begin() as link:
            link.execute(sa.delete(Revocation))
            some = Connection.id == places_of(places)[0]
            link.execute(sa.update(Connection).where(~some).values(revocation_url=REVOKE))
            clients = sa.text(
                "UPDATE connection SET registration_id = (SELECT registration_id FROM oauth_config"
                " WHERE oauth_config.id = connection.oauth_config_id)"
            )
            link.execute(clients)
            spec = {"grant_type": "authorization_code", "token_url": "https://as.test/token"}
            settings = spec | {"authorization_url": "https://as.test/go"}
            link.execute(
                sa.text("UPDATE oauth_config SET settings = :s"), {"s": json.dumps(settings)}
            )
        return places


def places_of(places) -> list[str]:
    return sorted({place[1] for place in places if place[0] == "connection"})


def test_after_a_leak_everything_that_works_is_ended_and_queued(app, alice):
    planted(app)
    token = shown_token(app, "alice@example.com")
    ran = run(app, "revoke", "--all", "--yes")
    assert ran.exit_code == 0, ran.output
    assert ran.stdout == (
        "API tokens revoked: 1. Connections ended: 3. "
        "Tokens queued to be ended at their providers: 4.\n"
    )
    for row in rows(app, Connection):
        assert row.state == "revoked" and row.reason == "by_admin"
        assert row.access_token_sealed is None and row.refresh_token_sealed is None
    waiting = [one for one in rows(app, Revocation) if one.state == "queued"]
    assert len(waiting) == 2 and all(one.url == REVOKE for one in waiting)
    assert all(one.refresh_token_sealed and one.access_token_sealed for one in waiting)
    assert not rows(app, Flow)
    told = [one for one in rows(app, AuditEvent) if one.action == "connection.disconnected"]
    assert {one.subject_id for one in told} == {row.id for row in rows(app, Connection)}
    with app.app_context(), pytest.raises(SignInRequired):
        recent().clear()
        api_tokens.authenticate(token)
    assert run(app, "revoke", "--all", "--yes").stdout.startswith(
        "API tokens revoked: 0. Connections ended: 0."
    )
    runs = [one for one in rows(app, AuditEvent) if one.action == "tokens.revoked"]
    runs.sort(key=lambda event: event.seq)
    assert [event.details["connections"] for event in runs] == [3, 0]


def test_ending_everything_may_be_stopped_and_run_again(app):
    planted(app)

    class Stopped(Exception):
        pass

    def stop(count):
        raise Stopped

    with app.app_context():
        with pytest.raises(Stopped):
            recovery.revoke_all(by=SYSTEM, progress=stop, batch=2)
        db.session.rollback()
        assert recovery.revoke_all(by=SYSTEM).connections == 1
    assert {row.state for row in rows(app, Connection)} == {"revoked"}


@pytest.mark.parametrize("command", [("restored",), ("revoke", "--all")])
def test_both_ask_and_a_no_changes_nothing(app, alice, command):
    token = shown_token(app, "alice@example.com")
    ran = run(app, *command, stdin="n\n")
    assert ran.exit_code == 1 and "[y/N]" in ran.output
    with app.app_context():
        assert api_tokens.authenticate(token) and sessions.of(people.named("alice@example.com").id)


@pytest.mark.parametrize("args", [("revoke",), ("revoke", "a" * 32, "--all"), ("restored", "now")])
def test_wrong_usage_is_exit_status_2(app, args):
    assert run(app, *args).exit_code == 2


def test_one_token_is_revoked_as_before(app, alice: Browser):
    token = shown_token(app, "alice@example.com")
    assert run(app, "revoke", rows(app, ApiToken)[0].id).output == "t was revoked.\n"
    with app.app_context(), pytest.raises(SignInRequired):
        recent().clear()
        api_tokens.authenticate(token)
    assert run(app, "revoke", "f" * 32).exit_code == 1
