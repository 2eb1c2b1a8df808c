"""What goes on an upstream request, and what is kept of a consent (oauth.md 4, 7, 8.1)."""

import base64
import json
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import parse_qs

import pytest
import sqlalchemy as sa

from app import access
from app.audit import SYSTEM
from app.db import db
from app.errors import (
    Conflict,
    ConnectionNeeded,
    NotFound,
    ProviderError,
    TokenRefused,
    Unsealable,
)
from app.models import (
    AuditEvent,
    ClientRegistration,
    Connection,
    Flow,
    Gateway,
    OAuthConfig,
    User,
)
from app.oauth import keeping, tokens
from app.oauth.replies import TokenSet
from app.secretbox import box, cell
from tests.oauth.planted import (
    ALICE,
    DEAD,
    FRESH,
    KEPT,
    NEW,
    STALE,
    TOKEN_URL,
    acme,
    change,
    grant,
    plant,
    stored,
    token_of,
)
from tests.oauth.test_refresh import at_once, now_ms

BOB = access.Caller("bob", "bob@example.com", is_admin=False)
CC = "client_credentials"
STORED, UNSTORED = {"store_tokens": True}, {}

pytestmark = pytest.mark.usefixtures("app_ctx")


def bearer(caller: access.Caller = ALICE, **more) -> str:
    shown = tokens.credential(caller, acme(caller), **more).headers["Authorization"]
    assert shown.startswith("Bearer ")
    return shown.removeprefix("Bearer ")


def gives(provider, *names: str, **more):
    """The token endpoint hands out these access tokens, one after the other."""
    about = {"token_type": "Bearer", "expires_in": 3600} | more
    return provider.post(TOKEN_URL, [{"json": {"access_token": name, **about}} for name in names])


def sent(mock, number: int = -1) -> dict[str, str]:
    """The form of one of the requests that came."""
    pairs = parse_qs(mock.request_history[number].text, keep_blank_values=True)
    return {name: values[0] for name, values in pairs.items()}


def update(model, **values) -> None:
    """As another process would."""
    with db.engine.begin() as link:
        link.execute(sa.update(model).values(**values))


@contextmanager
def statements():
    """What the database is asked meanwhile."""
    seen = []

    def note(_link, _cursor, statement, *_):
        seen.append(statement)

    sa.event.listen(db.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(db.engine, "before_cursor_execute", note)


# -- what an admin typed -------------------------------------------------------------------------


def typed(auth_type: str, secret: str | None, username: str | None = None) -> None:
    gateway = Gateway(slug="acme", name="Acme", url="https://mcp.test/mcp", auth_type=auth_type)
    gateway.username = username
    gateway.credentials_sealed = secret and box().seal(
        secret, where=cell(gateway, "credentials_sealed")
    )
    db.session.add(gateway)
    db.session.commit()


@pytest.mark.parametrize(
    ("auth_type", "username", "secret", "headers"),
    [
        ("none", None, None, {}),
        ("bearer", None, "abc", {"Authorization": "Bearer abc"}),
        ("headers", None, json.dumps({"X-Key": "k", "X-Org": "o"}), {"X-Key": "k", "X-Org": "o"}),
    ],
)
def test_a_fixed_credential_is_put_on_as_it_was_typed(auth_type, username, secret, headers):
    typed(auth_type, secret, username)
    made = tokens.credential(ALICE, acme())
    assert (made.headers, made.token_gen, made.is_renewable) == (headers, None, False)


def test_basic_is_utf_8():
    typed("basic", "pä:ss", "us")
    shown = tokens.credential(ALICE, acme()).headers["Authorization"]
    assert base64.b64decode(shown.removeprefix("Basic ")).decode() == "us:pä:ss"


def test_sec_079_a_fixed_credential_that_is_not_sealed_is_not_sent():
    typed("bearer", None)
    update(Gateway, credentials_sealed="plaintext")
    with pytest.raises(Unsealable):
        tokens.credential(ALICE, acme())


def test_a_repr_shows_no_credential():
    typed("bearer", "geheim")
    assert "geheim" not in repr(tokens.credential(ALICE, acme()))


# -- a person's stored token ---------------------------------------------------------------------


def test_a_fresh_token_costs_no_query():
    plant()
    grant(FRESH, token_gen=4)
    gateway = acme()
    with statements() as asked:
        made = tokens.credential(ALICE, gateway)
    assert made.headers == {"Authorization": "Bearer at-1"}
    assert (made.token_gen, made.is_renewable) == (4, True)
    assert asked == []
    assert not db.session().in_transaction()


def test_sec_033_what_was_read_for_one_person_serves_no_other():
    plant()
    grant(FRESH)
    with pytest.raises(NotFound):
        tokens.credential(BOB, acme(ALICE))


def test_without_a_connection_it_says_which_gateway_needs_one():
    plant()
    with pytest.raises(ConnectionNeeded) as caught:
        bearer()
    assert (caught.value.gateway, caught.value.name, caught.value.state) == (
        "acme",
        "Acme",
        "pending",
    )


def test_a_connection_made_in_another_process_a_moment_ago_counts():
    """The caller's read set may be a second old; nobody is told to connect who just did."""
    plant()
    before = acme()
    grant(FRESH)
    assert tokens.credential(ALICE, before).headers == {"Authorization": "Bearer at-1"}


def test_a_due_token_is_renewed_as_whom_and_where_it_was_granted(provider):
    """By what was pinned at the consent, whatever the config says today (F-41)."""
    plant()
    pinned = {"token_url": "https://old.test/token", "resource": "https://old.test/mcp"}
    grant(DEAD, **pinned)
    asked = provider.post(
        "https://old.test/token",
        json={"access_token": "at-2", "refresh_token": "rt-2", "token_type": "Bearer"},
    )
    assert bearer() == "at-2"
    form = sent(asked)
    assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "rt-1")
    assert (form["resource"], form["client_id"]) == (pinned["resource"], "us")
    assert token_of(stored(), "refresh_token_sealed") == "rt-2"


def test_sec_110_a_refused_token_is_renewed_once_and_then_refused(provider):
    plant()
    grant(FRESH)
    asked = gives(provider, "at-2")
    assert bearer(after=1) == "at-2"
    with pytest.raises(TokenRefused):
        bearer(after=2)
    assert asked.call_count == 1


def test_sec_105_invalid_grant_ends_it_and_nobody_asks_again(provider):
    plant()
    grant(DEAD)
    asked = provider.post(TOKEN_URL, status_code=400, json={"error": "invalid_grant"})
    for _ in range(2):
        with pytest.raises(ConnectionNeeded) as caught:
            bearer()
        assert (caught.value.state, caught.value.reason) == ("needs_reauth", "grant_ended")
    assert asked.call_count == 1


def test_a_wrong_secret_is_tried_twice_a_minute_by_all_and_costs_no_grant(provider):
    plant()
    grant(DEAD)
    asked = provider.post(TOKEN_URL, status_code=401, json={"error": "invalid_client"})
    for _ in range(3):
        change(not_before_ms=0)  # as another connection of this client
        with pytest.raises(ProviderError) as caught:
            bearer()
        assert (caught.value.code, caught.value.kind) == ("client_rejected", "client")
        assert 25 <= caught.value.retry_after <= 30
    assert asked.call_count == 1
    assert stored().state == "failing"


def test_a_mended_client_is_used_at_once(provider):
    plant()
    grant(DEAD)
    provider.post(TOKEN_URL, status_code=401, json={"error": "invalid_client"})
    with pytest.raises(ProviderError):
        bearer()
    update(ClientRegistration, not_before_ms=0, last_error_code=None)  # as gateways.update does
    change(not_before_ms=0)
    gives(provider, "at-2")
    assert bearer() == "at-2"
    assert stored().state == "active"


def test_f_04_a_busy_provider_is_left_in_peace_by_all_its_connections(provider):
    plant()
    grant(DEAD)
    asked = provider.post(TOKEN_URL, status_code=429, headers={"Retry-After": "60"})
    for _ in range(2):
        change(not_before_ms=0)
        with pytest.raises(ProviderError) as caught:
            bearer()
        assert caught.value.code == "provider_unreachable"
        assert 55 <= caught.value.retry_after <= 60
    assert asked.call_count == 1


def test_a_client_secret_that_does_not_open_is_the_admins_matter():
    plant()
    grant(DEAD)
    update(ClientRegistration, client_secret_sealed="plaintext")
    with pytest.raises(ProviderError) as caught:
        bearer()
    assert (caught.value.code, stored().state) == ("secret_unreadable", "failing")


def test_a_grant_whose_client_is_gone_is_not_renewed_as_somebody_else():
    plant()
    grant(DEAD, registration_id=None)
    with pytest.raises(ProviderError) as caught:
        bearer()
    assert (caught.value.code, stored().state) == ("client_needed", "failing")


def test_without_auto_refresh_a_refresh_token_is_not_used():
    plant(kept=STORED)
    grant(STALE)
    gateway = acme()
    with statements() as asked:
        assert tokens.credential(ALICE, gateway).headers == {"Authorization": "Bearer at-1"}
    assert asked == []
    change(expires_ms=1)
    with pytest.raises(ConnectionNeeded) as caught:
        bearer()
    assert (caught.value.state, caught.value.reason) == ("needs_reauth", "expired")


@pytest.mark.parametrize("planted", ["gho_plaintext", "mg1.deadbeef0000.AAAA", "", None], ids=str)
def test_sec_079_sec_084_one_unreadable_token_asks_its_person_to_reconnect(planted):
    config_id = plant()
    grant(FRESH, owner_key=BOB.owner_key, access_token="at-of-bob")
    grant(FRESH)
    with db.engine.begin() as link:
        mine = sa.update(Connection).where(Connection.owner_key == ALICE.owner_key)
        link.execute(mine.values(access_token_sealed=planted, refresh_token_sealed=None))
    with pytest.raises(ConnectionNeeded) as caught:
        bearer()
    assert caught.value.state == "needs_reauth"
    assert planted is None or caught.value.reason == "secret_unreadable"
    assert bearer(BOB) == "at-of-bob"
    assert access.seen(config_id, BOB.owner_key).state == "active"


def test_sec_084_a_token_of_another_row_does_not_open():
    config_id = plant()
    grant(FRESH, owner_key=BOB.owner_key, access_token="at-of-bob")
    grant(FRESH)
    update(
        Connection, access_token_sealed=access.seen(config_id, BOB.owner_key).access_token_sealed
    )
    with pytest.raises(ConnectionNeeded) as caught:
        bearer()
    assert caught.value.reason == "secret_unreadable"
    assert bearer(BOB) == "at-of-bob"


# -- storage off ---------------------------------------------------------------------------------


def test_unstored_a_person_has_to_consent():
    plant(kept=UNSTORED)
    with pytest.raises(ConnectionNeeded):
        bearer()


def test_unstored_client_credentials_are_asked_for_each_time_and_kept_nowhere(provider):
    plant(grant=CC, kept=UNSTORED, scopes=["a", "b"], audience="aud")
    asked = gives(provider, "at-1", "at-2")
    assert [bearer(), bearer()] == ["at-1", "at-2"]
    form = sent(asked)
    assert (form["grant_type"], form["scope"], form["audience"]) == (CC, "a b", "aud")
    assert form["resource"] == "https://mcp.test/mcp"
    with db.engine.connect() as link:
        assert link.execute(sa.select(Connection)).all() == []
    assert tokens.credential(ALICE, acme()).is_renewable


def test_unstored_a_wrong_secret_is_tried_twice_a_minute(provider):
    plant(grant=CC, kept=UNSTORED)
    asked = provider.post(TOKEN_URL, status_code=401, json={"error": "invalid_client"})
    for _ in range(3):
        with pytest.raises(ProviderError) as caught:
            bearer()
        assert caught.value.code == "client_rejected"
    assert 25 <= caught.value.retry_after <= 30
    assert asked.call_count == 1


def test_unstored_a_failure_keeps_its_own_name(provider):
    plant(grant=CC, kept=UNSTORED)
    provider.post(TOKEN_URL, status_code=400, json={"error": "invalid_scope"})
    with pytest.raises(ProviderError) as caught:
        bearer()
    assert caught.value.code == "scope_rejected"


def test_tokens_in_hand_serve_without_a_row():
    made = tokens.from_tokens(NEW)
    assert made.headers == {"Authorization": "Bearer at-2"}
    assert (made.token_gen, made.is_renewable) == (None, False)


# -- client credentials that are stored ----------------------------------------------------------


def test_stored_client_credentials_are_shared_and_asked_for_once(provider):
    plant(grant=CC, kept=STORED)
    asked = gives(provider, "at-1", refresh_token="is not kept")
    assert {bearer(ALICE), bearer(BOB)} == {"at-1"}
    row = stored()
    assert (asked.call_count, row.owner_key, row.user_id) == (1, "shared", None)
    assert (row.state, row.refresh_token_sealed) == ("active", None)
    gateway = acme()
    with statements() as queries:
        tokens.credential(BOB, gateway)
    assert queries == []


def test_sec_103_twenty_first_callers_make_one_row_and_one_request(app, provider):
    plant(grant=CC, kept=STORED)
    asked = gives(provider, "at-1")
    gateway = acme()

    def call():
        return tokens.credential(ALICE, gateway).headers["Authorization"]

    assert set(at_once(app, 20, call)) == {"Bearer at-1"}
    assert asked.call_count == 1
    assert stored().owner_key == "shared"


def test_sec_024_an_edit_voids_the_cached_token(provider):
    plant(grant=CC, kept=STORED)
    asked = gives(provider, "at-1", "at-2")
    assert bearer() == "at-1"
    update(OAuthConfig, config_version=2)
    assert bearer() == "at-2"
    assert (asked.call_count, stored().config_version) == (2, 2)


def test_sec_024_an_answer_to_the_config_of_before_is_not_kept(provider):
    """The edit came while the provider thought."""
    plant(grant=CC, kept=STORED)

    def edited(_request, _context):
        update(OAuthConfig, config_version=2)
        change(config_version=2, token_gen=Connection.token_gen + 1)  # another process noticed it
        gives(provider, "at-2")
        return {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600}

    provider.post(TOKEN_URL, json=edited)
    assert bearer() == "at-2"


def test_sec_024_a_pause_for_the_client_of_before_does_not_hold_the_next(provider):
    plant(grant=CC, kept=STORED)
    provider.post(TOKEN_URL, status_code=401, json={"error": "invalid_client"})
    with pytest.raises(ProviderError):
        bearer()
    update(OAuthConfig, config_version=2)
    update(ClientRegistration, not_before_ms=0, last_error_code=None)
    gives(provider, "at-2")
    assert bearer() == "at-2"


@pytest.mark.parametrize("state", ["needs_reauth", "revoked", "orphaned"])
def test_a_shared_connection_needs_no_consent_to_come_back(provider, state):
    plant(grant=CC, kept=STORED)
    grant(FRESH, owner_key="shared", state=state, reason="gateway_changed", refresh_token=None)
    gives(provider, "at-2")
    assert bearer() == "at-2"
    assert (stored().state, stored().reason) == ("active", None)


def test_sec_084_a_shared_token_that_does_not_open_is_fetched_anew(provider):
    plant(grant=CC, kept=STORED)
    grant(FRESH, owner_key="shared", access_token_sealed="gho_plaintext", refresh_token=None)
    gives(provider, "at-2")
    assert bearer() == "at-2"


def test_a_living_shared_token_outlives_an_outage(provider):
    plant(grant=CC, kept=KEPT)
    grant(STALE - 100, owner_key="shared", refresh_token=None)
    provider.post(TOKEN_URL, status_code=503, headers={"Retry-After": "60"})
    assert bearer() == "at-1"
    assert stored().state == "failing"


def test_without_auto_refresh_a_shared_token_is_used_up_and_then_asked_for_anew(provider):
    plant(grant=CC, kept=STORED)
    grant(60, owner_key="shared", refresh_token=None)
    asked = gives(provider, "at-2")
    assert (bearer(), asked.call_count) == ("at-1", 0)
    change(expires_ms=1)
    assert bearer() == "at-2"


def test_a_shared_failure_that_only_an_admin_can_mend_keeps_its_name(provider):
    plant(grant=CC, kept=STORED)
    provider.post(TOKEN_URL, status_code=400, json={"error": "invalid_scope"})
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            bearer()
        assert (caught.value.code, caught.value.said) == ("scope_rejected", "invalid_scope")


def test_no_client_yet_is_said_so():
    plant(grant=CC, kept=STORED)
    update(OAuthConfig, registration_id=None)
    with pytest.raises(Conflict) as caught:
        bearer()
    assert caught.value.code == "client_needed"


# -- keeping a consent ---------------------------------------------------------------------------


def flow(caller: access.Caller) -> Flow:
    config = db.session.scalars(sa.select(OAuthConfig)).one()
    made = Flow(user_id=caller.user_id, oauth_config_id=config.id, config_version=3)
    made.issuer, made.token_url, made.resource = (
        "https://as.test",
        TOKEN_URL,
        "https://mcp.test/mcp",
    )
    made.registration_id, made.registration_generation = config.registration_id, 2
    made.scopes_requested, made.audience = ["a", "b"], "aud"
    return made


def keep(token_set: TokenSet = NEW, caller: access.Caller = ALICE) -> Connection:
    """As flow.finish does, which commits."""
    begun, t0_ms = flow(caller), now_ms()
    config = db.session.scalars(sa.select(OAuthConfig)).one()
    gateway_id = config.gateway_id
    kept = keeping.keep(caller, gateway_id, config, begun, token_set, t0_ms=t0_ms, by=SYSTEM)
    db.session.commit()
    return kept


def person(name: str) -> access.Caller:
    db.session.add(User(id=name, email=f"{name}@example.com"))
    db.session.commit()
    return access.Caller(name, f"{name}@example.com", is_admin=False)


def test_a_first_consent_is_kept_with_what_was_pinned():
    plant(refresh_url="https://as.test/refresh")
    keep(replace(NEW, refresh_expires_in=60.0, account_label="ana@x"))
    row = stored()
    assert (row.owner_key, row.user_id, row.state) == (ALICE.owner_key, ALICE.user_id, "active")
    assert (row.token_gen, row.consent_gen, row.account_label) == (1, 1, "ana@x")
    assert (token_of(row), token_of(row, "refresh_token_sealed")) == ("at-2", "rt-2")
    ends = (row.expires_ms - row.issued_ms, row.refresh_expires_ms - row.issued_ms)
    assert ends == (3_600_000, 60_000)
    assert (row.issuer, row.token_url, row.refresh_url) == (
        "https://as.test",
        TOKEN_URL,
        "https://as.test/refresh",
    )
    assert (row.resource, row.audience, row.config_version) == ("https://mcp.test/mcp", "aud", 3)
    assert (row.registration_generation, row.scopes_requested) == (2, ["a", "b"])
    assert row.scopes_granted == ["a", "b"]  # not said: as asked
    assert len(row.fingerprint) == 8


def test_a_renewed_consent_replaces_the_old_one_in_its_row():
    plant()
    old = grant(FRESH, state="needs_reauth", reason="grant_ended", fail_count=4, consent_gen=1)
    keep(replace(NEW, scopes=("a",)))
    row = stored()
    assert (row.id, row.state, row.reason, row.fail_count) == (old, "active", None, 0)
    assert (row.token_gen, row.consent_gen, row.scopes_granted) == (2, 2, ["a"])
    assert bearer() == "at-2"


def test_without_auto_refresh_no_refresh_token_is_kept():
    plant(kept=STORED)
    keep(replace(NEW, refresh_expires_in=60.0, expires_in=0.0))
    row = stored()
    assert (row.refresh_token_sealed, row.refresh_expires_ms) == (None, None)
    assert row.expires_ms is None  # "ends at once" would be the end of it
    assert bearer() == "at-2"


def test_a_consent_is_in_the_audit_trail():
    plant()
    keep()
    with db.engine.connect() as link:
        assert link.scalars(sa.select(AuditEvent.action)).all() == ["connection.connected"]


def test_an_answer_to_the_grant_of_before_does_not_undo_a_new_consent(provider):
    plant()
    grant(DEAD)

    def reconnected(_request, _context):
        keep(replace(NEW, access_token="at-9"))
        return {"access_token": "at-3", "refresh_token": "rt-3", "token_type": "Bearer"}

    provider.post(TOKEN_URL, json=reconnected)
    assert bearer() == "at-9"
    assert token_of(stored(), "refresh_token_sealed") == "rt-2"


def test_connection_limit_spares_living_grants(app):
    app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"] = 1
    config_id = plant()
    grant(FRESH)
    gateway_id = stored().gateway_id
    bob = person("bob")
    assert not keeping.has_room(config_id, gateway_id, bob.owner_key)
    with pytest.raises(Conflict) as caught:
        keep(caller=bob)
    db.session.rollback()
    assert caught.value.code == "connection_limit"
    assert (stored().owner_key, stored().state) == (ALICE.owner_key, "active")


def test_connection_limit_counts_no_reconnect(app):
    app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"] = 1
    config_id = plant()
    grant(FRESH)
    assert keeping.has_room(config_id, stored().gateway_id, ALICE.owner_key)
    keep()
    assert bearer() == "at-2"


@pytest.mark.parametrize("state", ["needs_reauth", "revoked", "orphaned"])
def test_connection_limit_makes_room_from_what_is_over_the_oldest_first(app, state):
    app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"] = 2
    config_id = plant()
    older = grant(FRESH, owner_key="user:older", state=state, issued_ms=1)
    newer = grant(FRESH, owner_key="user:newer", state=state, issued_ms=2)
    with db.engine.connect() as link:
        gateway_id = link.scalar(sa.select(Gateway.id))
    assert keeping.has_room(config_id, gateway_id, ALICE.owner_key)
    keep()
    with db.engine.connect() as link:
        c = Connection
        rows = {
            row.id: row for row in link.execute(sa.select(c.id, c.state, c.access_token_sealed))
        }
    assert (rows[older].state, rows[older].access_token_sealed) == (state, None)
    assert rows[newer].access_token_sealed is not None
    assert bearer() == "at-2"


def test_no_connection_limit_is_none(app):
    app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"] = 0
    config_id = plant()
    grant(FRESH)
    assert keeping.has_room(config_id, stored().gateway_id, "user:bob")
    keep(caller=person("bob"))


def test_consents_at_the_same_time_do_not_pass_the_limit(app):
    app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"] = 1
    plant()
    people = [person(f"p{number}") for number in range(6)]

    def connect():
        try:
            keep(caller=people.pop())
        except Conflict as error:
            db.session.rollback()
            return error.code
        return "kept"

    assert sorted(at_once(app, 6, connect)) == ["connection_limit"] * 5 + ["kept"]


def test_two_consents_of_one_person_at_the_same_time_end_in_one_row(app):
    plant()
    at_once(app, 6, keep)
    assert (stored().consent_gen, bearer()) == (6, "at-2")


# -- forgetting ----------------------------------------------------------------------------------


def test_f_40_disconnecting_empties_the_row_and_what_comes_later_is_dropped(provider):
    plant()
    grant(DEAD, fail_count=2, state="failing")

    def disconnected(_request, _context):
        assert keeping.forget(ALICE, "acme", by=SYSTEM)
        db.session.commit()
        return {"access_token": "at-2", "refresh_token": "rt-2", "token_type": "Bearer"}

    provider.post(TOKEN_URL, json=disconnected)
    with pytest.raises(ConnectionNeeded) as caught:
        bearer()
    row = stored()
    assert caught.value.state == row.state == "revoked"
    assert (row.access_token_sealed, row.refresh_token_sealed, row.expires_ms) == (None,) * 3


def test_disconnecting_spares_others_and_may_be_repeated():
    plant()
    grant(FRESH, owner_key=BOB.owner_key)
    assert not keeping.forget(ALICE, "acme", by=SYSTEM)
    assert keeping.forget(BOB, "acme", by=SYSTEM)
    assert not keeping.forget(BOB, "acme", by=SYSTEM)
    assert not keeping.forget(BOB, "elsewhere", by=SYSTEM)
    db.session.commit()
    assert stored().state == "revoked"


def test_a_person_cannot_disconnect_what_is_shared():
    plant(grant=CC, kept=STORED)
    grant(FRESH, owner_key="shared", refresh_token=None)
    assert not keeping.forget(ALICE, "acme", by=SYSTEM)
    db.session.rollback()
    assert bearer() == "at-1"
