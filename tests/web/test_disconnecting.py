"""Ending a connection, from the button to the provider's answer (oauth.md 8, RFC 7009)."""

import base64
import dataclasses
import json
import re
from urllib.parse import parse_qs

import pytest
import requests
import requests_mock
import sqlalchemy as sa

from app import audit, people, resealing
from app.audit import SYSTEM
from app.db import db
from app.models import AuditEvent, ClientRegistration, Connection, Gateway, Revocation
from app.oauth import revocation, timeline
from app.oauth import tokens as tokens_
from app.secretbox import box, cell
from tests import authority, sealed
from tests.authority import Authority
from tests.conftest import rows
from tests.mcp import world
from tests.oauth import acme
from tests.oauth.acme import GOOD, TOKEN, leave
from tests.upstream import Upstream, says
from tests.web.registry import script
from tests.web.test_connections import text_of

REVOKE = "https://as.test/revoke"
PAIR = GOOD | {"refresh_token": "rt-1"}


def connected(app, browser, provider, **oauth) -> Connection:
    """A consent at `acme`, whose provider revokes at REVOKE unless `oauth` says otherwise."""
    with app.app_context():
        is_new = db.session.scalar(sa.select(Gateway.id)) is None
    if is_new:
        acme.add(app, **({"revocation_url": REVOKE} | oauth))
    provider.post(TOKEN, json=PAIR)
    assert leave(browser).back().status_code == 303
    return rows(app, Connection)[-1]


def press_disconnect(browser) -> str:
    """What the page says afterwards."""
    reply = browser.submit("/connections/acme/disconnect", at="/connections/acme")
    assert (reply.status_code, reply.location) == (303, "/connections/acme")
    return browser.get(reply.location).text


def asked(provider, url: str = REVOKE) -> list[dict[str, str]]:
    """The forms that were sent to `url`."""
    sent = [one for one in provider.request_history if one.url == url]
    return [{name: value for name, [value] in parse_qs(one.text).items()} for one in sent]


def tokens(provider) -> list[tuple[str, str]]:
    return [(one["token"], one["token_type_hint"]) for one in asked(provider)]


BOTH = [("rt-1", "refresh_token"), ("at-1", "access_token")]


def work_off(app, **more) -> dict[str, int]:
    """As the housekeeper does, when the pauses are over."""
    with app.app_context():
        db.session.execute(sa.update(Revocation).values(not_before_ms=0))
        db.session.commit()
        return revocation.work_off(**more)


ANSWERS = [  # what the provider answers; what the person reads; what is left of the queue
    ({"status_code": 200}, "Revoked at as.test.", "done"),
    ({"status_code": 204}, "Revoked at as.test.", "done"),
    ({"status_code": 400, "json": {"error": "invalid_token"}}, "Revoked at as.test.", "done"),
    (
        {"status_code": 400, "json": {"error": "unsupported_token_type"}},
        "Removed here. We know of no revoke at as.test: remove this app there, if it is listed.",
        "done",
    ),
    ({"status_code": 503}, "Removed here; as.test has not answered yet.", "queued"),
    ({"status_code": 429}, "Removed here; as.test has not answered yet.", "queued"),
    ({"exc": requests.ConnectTimeout}, "Removed here; as.test has not answered yet.", "queued"),
    (
        {"status_code": 401, "json": {"error": "invalid_client"}},
        "Removed here; as.test would not revoke it.",
        "given_up",
    ),
    (
        {"status_code": 302, "headers": {"Location": "https://elsewhere.test/"}},
        "Removed here; as.test would not revoke it.",
        "given_up",
    ),
]


@pytest.mark.parametrize(
    ("answer", "words", "state"),
    ANSWERS,
    ids=["200", "204", "400", "400-type", "503", "429", "down", "client", "redirect"],
)
def test_sec_025_disconnecting_ends_both_tokens_at_the_provider_and_tells_how(
    app, alice, provider, answer, words, state
):
    connected(app, alice, provider)
    provider.post(REVOKE, **answer)
    page = press_disconnect(alice)
    assert words in page and "Acme is disconnected." in page
    assert tokens(provider) == BOTH, "the second is asked for, whatever came of the first"
    [row] = rows(app, Connection)
    assert (row.state, row.access_token_sealed, row.refresh_token_sealed) == ("revoked", None, None)
    assert row.state_ms > 0
    [left] = rows(app, Revocation)
    assert left.state == state
    is_waiting = state == "queued"
    assert (left.refresh_token_sealed is not None) is is_waiting
    assert (left.access_token_sealed is not None) is is_waiting


def test_sec_025_what_the_provider_did_not_answer_is_asked_again_and_then_told(
    app, alice, provider
):
    connected(app, alice, provider)
    provider.post(REVOKE, status_code=503)
    press_disconnect(alice)
    with app.app_context():
        assert revocation.work_off() == {}, "not before its pause is over"
    provider.post(REVOKE, status_code=200)
    assert work_off(app) == {"ended": 1}
    assert tokens(provider) == BOTH * 2
    page = alice.get("/connections/acme").text
    assert "Revoked at as.test." in page and "did not answer when asked to revoke it" in page
    assert work_off(app) == {}


def test_sec_025_a_refresh_token_that_was_ended_is_not_sent_again(app, alice, provider):
    connected(app, alice, provider)
    provider.post(REVOKE, [{"status_code": 200}, {"status_code": 503}])
    assert "has not answered yet" in press_disconnect(alice)
    [left] = rows(app, Revocation)
    assert left.refresh_token_sealed is None and left.access_token_sealed is not None
    provider.post(REVOKE, status_code=200)
    assert work_off(app) == {"ended": 1}
    assert tokens(provider) == [*BOTH, BOTH[1]]
    assert rows(app, Revocation)[0].state == "done"


def test_sec_025_a_provider_that_never_answers_is_given_up_and_this_is_recorded(
    app, alice, provider
):
    connected(app, alice, provider)
    provider.post(REVOKE, status_code=503)
    press_disconnect(alice)
    pauses = []
    for _ in range(2, revocation.MOST_TRIES + 1):
        work_off(app)
        pauses.append(rows(app, Revocation)[0].not_before_ms)
    assert pauses[:-1] == sorted(pauses[:-1]), "they grow"
    [left] = rows(app, Revocation)
    assert (left.state, left.tries) == ("given_up", revocation.MOST_TRIES)
    assert left.access_token_sealed is left.refresh_token_sealed is None
    assert work_off(app) == {}
    [event] = [one for one in rows(app, AuditEvent) if one.action.endswith("revocation_given_up")]
    assert event.outcome == "failed" and event.details["code"] == "provider_error"
    assert (
        "as.test would not revoke it. Remove this app there." in alice.get("/connections/acme").text
    )


def test_a_pause_grows_and_a_provider_may_ask_for_a_longer_one(app, alice, provider):
    connected(app, alice, provider)
    provider.post(REVOKE, status_code=429, headers={"Retry-After": "300"})
    press_disconnect(alice)
    pause = rows(app, Revocation)[0].not_before_ms
    with app.app_context():
        now = db.session.scalar(sa.select(revocation.db_now_ms()))
    assert 280_000 < pause - now <= 300_000


@pytest.mark.parametrize(
    ("method", "in_header", "in_body"),
    [
        ("basic", True, set()),
        ("auto", True, set()),
        ("post", False, {"client_id", "client_secret"}),
        ("none", False, {"client_id"}),
    ],
)
def test_sec_016_we_say_who_we_are_as_in_a_token_request(
    app, alice, provider, method, in_header, in_body
):
    secret = {"client_secret": None} if method == "none" else {}
    connected(app, alice, provider, token_endpoint_auth_method=method, **secret)
    provider.post(REVOKE)
    press_disconnect(alice)
    for one in (one for one in provider.request_history if one.url == REVOKE):
        assert ("Authorization" in one.headers) is in_header
        assert set(parse_qs(one.text)) - {"token", "token_type_hint"} == in_body


def test_a_provider_without_a_revoke_is_named(app, alice, provider):
    connected(app, alice, provider, revocation_url=None)
    page = press_disconnect(alice)
    assert (
        "Removed here. We know of no revoke at as.test: remove this app there, if it is listed."
        in page
    )
    assert work_off(app) == {}
    assert "We know of no revoke at as.test: it may still list this app." in page


STYLES = [  # style; the address as set up; what is sent for which token
    (
        "github",
        "https://api.as.test/applications/{client_id}/token",
        [("DELETE", "https://api.as.test/applications/cid/token", {"access_token": "at-1"}, "Ba")],
    ),
    ("slack", REVOKE, [("POST", REVOKE, None, "Bearer at-1")]),
    ("dropbox", REVOKE, [("POST", REVOKE, None, "Bearer at-1")]),
    (
        "notion",
        REVOKE,
        [("POST", REVOKE, {"token": "rt-1"}, "Ba"), ("POST", REVOKE, {"token": "at-1"}, "Ba")],
    ),
]


@pytest.mark.parametrize(("style", "url", "sent"), STYLES, ids=[one[0] for one in STYLES])
def test_a_provider_is_asked_in_its_own_way(app, alice, provider, style, url, sent):
    connected(app, alice, provider, revocation_url=url, revocation_style=style)
    provider.register_uri(
        requests_mock.ANY, re.compile("as.test/(revoke|applications)"), json={"ok": True}
    )
    assert "Revoked at as.test." in press_disconnect(alice)
    calls = [one for one in provider.request_history if one.url != TOKEN]
    made = [(one.method, one.url, one.json() if one.text else None) for one in calls]
    assert made == [one[:3] for one in sent]
    for call, (*_, authorization) in zip(calls, sent, strict=True):
        assert call.headers["Authorization"].startswith(authorization)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"ok": False, "error": "token_revoked"}, "remove this app there, if it is listed"),
        ({"ok": False, "error": "ratelimited"}, "has not answered yet"),
        ({"ok": False, "error": "no_permission"}, "would not revoke it"),
    ],
)
def test_a_no_with_status_200_is_no_yes(app, alice, provider, body, words):
    """Slack's. Of a dead access token the refresh token may still live, and cannot be ended."""
    connected(app, alice, provider, revocation_style="slack")
    provider.post(REVOKE, json=body)
    assert words in press_disconnect(alice)


# -- who else ends it ------------------------------------------------------------------------------


def test_sec_025_an_admin_ends_one_persons_connection(app, admin, alice, bob, provider):
    mine = connected(app, alice, provider)
    connected(app, bob, provider)
    provider.post(REVOKE)
    list_ = "/admin/gateways/acme/people"
    assert f"{list_}/{mine.id}" in admin.get(list_).text
    at = f"{list_}/{mine.id}"
    page = admin.get(at).text
    assert "Signed in at as.test." in page and "at-1" not in page and "rt-1" not in page
    reply = admin.submit(f"{at}/disconnect", at=at)
    assert (
        "alice@example.com is disconnected. Revoked at as.test." in admin.get(reply.location).text
    )
    assert "Disconnected by an admin." in admin.get(at).text
    states = {row.user_id == mine.user_id: row.state for row in rows(app, Connection)}
    assert states == {True: "revoked", False: "active"}
    assert "An admin ended this connection." in alice.get("/connections").text
    [event] = [one for one in rows(app, AuditEvent) if one.action == "connection.disconnected"]
    assert event.actor_label == "admin@example.com"


def test_sec_061_nobody_but_an_admin_ends_anothers(app, alice, bob, provider):
    mine = connected(app, alice, provider)
    at = f"/admin/gateways/acme/people/{mine.id}"
    assert bob.get(at).status_code == 403
    assert bob.submit(f"{at}/disconnect", at="/me").status_code == 403
    assert rows(app, Connection)[0].state == "active"


@pytest.mark.parametrize("who", ["none", "elsewhere"])
def test_a_person_who_is_not_connected_there_is_unknown(app, admin, alice, provider, who):
    mine = connected(app, alice, provider)
    acme.add(app, "other")
    at = {"none": "/admin/gateways/acme/people/none", "elsewhere": "/admin/gateways/other/people/"}
    path = at[who] + (mine.id if who == "elsewhere" else "")
    assert admin.get(path).status_code == 404
    assert admin.submit(f"{path}/disconnect", at="/me").status_code == 404
    assert rows(app, Connection)[0].state == "active"


def test_sec_025_deleting_a_person_ends_their_grants(app, admin, alice, provider):
    mine = connected(app, alice, provider)
    at = f"/admin/users/{mine.user_id}/delete"
    assert admin.submit(at).status_code == 303
    assert rows(app, Connection) == []
    provider.post(REVOKE)
    assert work_off(app) == {"ended": 1} and tokens(provider) == BOTH


def test_sec_025_deleting_a_gateway_ends_every_grant_as_its_own_client(
    app, admin, alice, bob, provider
):
    """Its client's secret is gone with it, so the queue has its own copy."""
    connected(app, alice, provider)
    connected(app, bob, provider)
    assert admin.submit("/admin/gateways/acme/delete").status_code == 303
    assert rows(app, Gateway) == rows(app, Connection) == rows(app, ClientRegistration) == []
    provider.post(REVOKE)
    assert work_off(app) == {"ended": 2} and tokens(provider) == BOTH * 2
    assert all(
        one.headers["Authorization"] == "Basic Y2lkOnMzY3JldA=="
        for one in provider.request_history
        if one.url == REVOKE
    )


def test_sec_025_the_token_of_a_shared_account_ends_with_its_gateway(app, admin, provider):
    config = world.SHARED | {"token_management": {"store_tokens": True}, "revocation_url": REVOKE}
    world.add(app, acme.NOWHERE, auth_type="oauth", oauth_config=config)
    world.connect(app, token="at-1", refresh_token_sealed=None)
    assert admin.submit("/admin/gateways/acme/delete").status_code == 303
    provider.post(REVOKE)
    assert work_off(app) == {"ended": 1} and tokens(provider) == [BOTH[1]]


@pytest.mark.parametrize("issuer", [None, f"https://as.test/{'x' * 900}"])
@pytest.mark.parametrize("key", [None, "generate"])
def test_sec_025_what_a_shared_account_fetched_ends_with_its_gateway(
    app, admin, provider, issuer, key
):
    """Nobody consented, so its row names no token URL; an issuer is not always said, or is long."""
    config = world.SHARED | {"token_management": {"store_tokens": True}, "revocation_url": REVOKE}
    config |= {"issuer": issuer, "client_private_key": key}
    world.add(app, acme.NOWHERE, auth_type="oauth", oauth_config=config)
    provider.post(world.SHARED["token_url"], json=GOOD)
    with app.app_context():
        tokens_.credential(world.caller(app), world.usable(app))
    assert admin.submit("/admin/gateways/acme/delete").status_code == 303
    provider.post(REVOKE)
    assert work_off(app) == {"ended": 1} and tokens(provider) == [BOTH[1]]
    if key:
        claims = asked(provider)[0]["client_assertion"].split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(claims + "=="))
        assert said["aud"] == (issuer or world.SHARED["token_url"])


def test_a_disabled_persons_grant_waits_a_week_for_them(app, alice, provider):
    mine = connected(app, alice, provider)
    with app.app_context():
        people.create("root@example.com", password=None, role="admin")
        people.disable(mine.user_id, by=SYSTEM)
        db.session.commit()
    [row] = rows(app, Connection)
    assert (row.state, row.reason) == ("orphaned", "access_lost")
    assert row.access_token_sealed == mine.access_token_sealed
    with app.app_context():
        people.enable(mine.user_id, by=SYSTEM)
        db.session.commit()
    [row] = rows(app, Connection)
    assert (row.state, row.reason) == ("active", None)
    assert rows(app, Revocation) == []


def test_after_a_week_a_disabled_persons_grant_does_not_come_back(app, alice, provider):
    mine = connected(app, alice, provider)
    with app.app_context():
        people.disable(mine.user_id, by=SYSTEM)
        db.session.execute(
            sa.update(Connection).values(state_ms=Connection.state_ms - 8 * 86_400_000)
        )
        db.session.commit()
        people.enable(mine.user_id, by=SYSTEM)
        db.session.commit()
    assert rows(app, Connection)[0].state == "orphaned"


# -- edits (oauth.md 8.3) --------------------------------------------------------------------------

ELSE = "https://elsewhere.test"
EDITS = [  # what is typed; what becomes of the tokens: "revoked", "kept"; the state afterwards
    (
        "upstream origin",
        {"url": f"{ELSE}/mcp", "oauth_config.client_secret": "again"},
        *("revoked", "orphaned"),
    ),
    ("issuer", {"oauth_config.issuer": ELSE}, "revoked", "orphaned"),
    ("origin of token_url", {"oauth_config.token_url": f"{ELSE}/token"}, "revoked", "orphaned"),
    ("origin of refresh_url", {"oauth_config.refresh_url": f"{ELSE}/token"}, "revoked", "orphaned"),
    ("client_id", {"oauth_config.client_id": "other"}, "revoked", "orphaned"),
    (
        "grant type",
        {"oauth_config.grant_type": "client_credentials", "oauth_config.authorization_url": None},
        "revoked",
        "orphaned",
    ),
    ("authentication type", {"auth_type": "none", "oauth_config": None}, "revoked", None),
    ("resource", {"oauth_config.resource": "https://res.test/x"}, "revoked", "orphaned"),
    ("audience", {"oauth_config.audience": "aud"}, "revoked", "orphaned"),
    ("path of token_url", {"oauth_config.token_url": f"{TOKEN}/v2"}, "kept", "active"),
    ("upstream path", {"url": "https://192.0.2.1/other"}, "kept", "active"),
    ("scopes", {"oauth_config.scopes": ["write"]}, "kept", "active"),
    ("client_secret", {"oauth_config.client_secret": "new"}, "kept", "active"),
    ("auth method", {"oauth_config.token_endpoint_auth_method": "post"}, "kept", "active"),
    (
        "store_tokens off",
        {"oauth_config.token_management": {"store_tokens": False, "auto_refresh": False}},
        "revoked",
        None,
    ),
    (
        "auto_refresh off",
        {"oauth_config.token_management": {"store_tokens": True, "auto_refresh": False}},
        "without refresh",
        "active",
    ),
    ("name", {"name": "Other"}, "kept", "active"),
    (
        "threshold",
        {"oauth_config.token_management": {"refresh_threshold_seconds": 9}},
        "kept",
        "active",
    ),
    ("revocation_ends_all", {"oauth_config.revocation_ends_all": True}, "kept", "active"),
    ("keep-alive", {"oauth_config.token_management": {"keep_alive": True}}, "kept", "active"),
    ("gateway off", {"enabled": False}, "kept", "active"),
]


def patch_of(typed: dict) -> dict:
    patch: dict = {}
    for path, value in typed.items():
        block, _, name = path.rpartition(".")
        (patch.setdefault(block, {}) if block else patch)[name] = value
    is_block = patch.get("auth_type") is None
    return (
        patch
        if not is_block or "oauth_config" not in patch
        else patch | {"oauth_config": {"client_secret": "typed again"} | patch["oauth_config"]}
    )


@pytest.mark.parametrize(
    ("typed", "tokens_are", "state"), [one[1:] for one in EDITS], ids=[one[0] for one in EDITS]
)
def test_edit(app, alice, provider, typed, tokens_are, state):
    """Each row of oauth.md 8.3, as the JSON API takes it."""
    before = connected(app, alice, provider)
    admins = script(app)
    reply = admins.ask("PATCH", "/acme", patch_of(typed))
    assert reply.status_code == 200, reply.json
    provider.post(REVOKE)
    work_off(app)
    found = rows(app, Connection)
    assert [row.state for row in found] == ([] if state is None else [state])
    if tokens_are == "revoked":
        assert tokens(provider) == BOTH
        assert [row.access_token_sealed for row in found] == [None for _ in found]
        return
    assert tokens(provider) == []
    assert found[0].access_token_sealed == before.access_token_sealed
    kept = None if tokens_are == "without refresh" else before.refresh_token_sealed
    assert found[0].refresh_token_sealed == kept


def test_sec_034_an_edit_sends_no_token_to_the_new_address(app, alice, provider):
    """The old provider ends them, as the client it knew; the new one is asked for nothing."""
    connected(app, alice, provider)
    admins = script(app)
    there = {f"{name}_url": f"{ELSE}/{name}" for name in ("token", "revocation", "authorization")}
    patch = {
        "url": f"{ELSE}/mcp",
        "oauth_config": there | {"client_id": "new", "client_secret": "new"},
    }
    assert admins.ask("PATCH", "/acme", patch).status_code == 200
    provider.post(REVOKE)
    assert work_off(app) == {"ended": 1}
    assert tokens(provider) == BOTH
    assert not [one for one in provider.request_history if one.url.startswith(ELSE)]
    assert all(
        one.headers["Authorization"] == "Basic Y2lkOnMzY3JldA=="
        for one in provider.request_history
        if one.url == REVOKE
    )


# -- what must not get in the way -----------------------------------------------------------------


def test_sec_025_a_token_that_does_not_open_keeps_nobody_from_leaving(app, alice, provider):
    connected(app, alice, provider)
    with app.app_context():
        db.session.execute(sa.update(Connection).values(refresh_token_sealed="mg1.x.y"))
        db.session.commit()
    provider.post(REVOKE)
    page = press_disconnect(alice)
    assert "Removed here. What was stored cannot be read" in page and "Revoked" not in page
    assert "cannot be read. Remove this app at as.test." in history(alice)
    assert tokens(provider) == [BOTH[1]], "what can be read is asked for all the same"


@pytest.mark.parametrize("column", ["refresh_token_sealed", "client_secret_sealed"])
def test_sec_025_what_does_not_open_in_the_queue_is_never_told_as_revoked(
    app, alice, provider, column
):
    """Nor is anybody asked as a client without a secret."""
    connected(app, alice, provider)
    provider.post(REVOKE, status_code=503)
    press_disconnect(alice)
    provider.reset_mock()
    with app.app_context():
        gone = {"access_token_sealed": None, column: "mg1.deadbeef0000." + "A" * 80}
        db.session.execute(sa.update(Revocation).values(gone))
        db.session.commit()
    provider.post(REVOKE)
    assert work_off(app) == {"refused": 1} and tokens(provider) == []
    [left] = rows(app, Revocation)
    assert (left.state, left.last_error_code) == ("given_up", "secret_unreadable")
    page = history(alice)
    assert "cannot be read. Remove this app at as.test." in page and "Revoked" not in page
    [event] = [one for one in rows(app, AuditEvent) if one.action.endswith("revocation_given_up")]
    assert (event.outcome, event.details["code"]) == ("failed", "secret_unreadable")


def test_sec_082_what_another_process_can_open_waits_for_it(
    app, start, config, alice, provider, caplog
):
    """This one was started without the key, and can judge nothing."""
    connected(app, alice, provider)
    provider.post(REVOKE, status_code=503)
    press_disconnect(alice)
    old, new = config.AUTH_ENCRYPTION_SECRET, sealed.NEW
    ring = {"AUTH_ENCRYPTION_SECRET": new, "AUTH_ENCRYPTION_SECRETS_OLD": (old,)}
    both = start(dataclasses.replace(config, **ring))
    with both.app_context():
        resealing.reseal(by=SYSTEM)
    provider.post(REVOKE)
    assert work_off(app) == {"waits_for_key": 1} and "key_missing" in caplog.text
    [left] = rows(app, Revocation)
    assert (left.state, left.tries, left.attempt_id) == ("queued", 1, None)
    assert work_off(both) == {"ended": 1}


# -- where revoking would do too much (oauth.md 8.2) -----------------------------------------------


def two_of_one_client(app, browser, provider, **oauth) -> None:
    """A person who is connected at `acme` and at `other`, by the same client."""
    one = {"revocation_url": REVOKE, "revocation_ends_all": True}
    for slug in ("acme", "other"):
        acme.add(app, slug, **one | oauth, trusts_shared_callback=True)
        provider.post(TOKEN, json=PAIR)
        assert leave(browser, slug).back().status_code == 303
    provider.post(REVOKE)


def test_sec_025_revoking_that_would_end_another_connection_is_left_and_said(app, alice, provider):
    two_of_one_client(app, alice, provider)
    page = press_disconnect(alice)
    assert (
        "Removed here alone: to revoke it at as.test would end your other connections there too."
        in page
    )
    assert "Not revoked at as.test: that would end the connection to Other too." in history(alice)
    assert tokens(provider) == [] and work_off(app) == {}
    states = {row.state: row.access_token_sealed is None for row in rows(app, Connection)}
    assert states == {"revoked": True, "active": False}
    [left] = rows(app, Revocation)
    assert left.access_token_sealed is left.refresh_token_sealed is None
    alice.submit("/connections/other/disconnect", at="/connections/other")
    assert tokens(provider) == BOTH, "the last of them ends all"


@pytest.mark.parametrize("oauth", [{"revocation_ends_all": False}, {"client_id": None}])
def test_sec_025_what_ends_nothing_else_is_revoked(app, alice, bob, provider, oauth):
    """Another client's, another person's, or where one token is one token."""
    if oauth == {"client_id": None}:
        acme.add(app, revocation_url=REVOKE, revocation_ends_all=True)
        acme.add(app, "other", revocation_ends_all=True, client_id="x", trusts_shared_callback=True)
        provider.post(TOKEN, json=PAIR)
        for browser, slug in ((alice, "acme"), (alice, "other"), (bob, "acme")):
            assert leave(browser, slug).back().status_code == 303
        provider.post(REVOKE)
    else:
        two_of_one_client(app, alice, provider, **oauth)
    assert "Revoked at as.test." in press_disconnect(alice)
    assert tokens(provider) == BOTH


def test_sec_025_a_person_who_is_deleted_leaves_nothing_at_such_a_provider(
    app, admin, alice, provider
):
    two_of_one_client(app, alice, provider)
    user_id = rows(app, Connection)[0].user_id
    assert admin.submit(f"/admin/users/{user_id}/delete").status_code == 303
    assert work_off(app) == {"ended": 2} and tokens(provider) == BOTH * 2


def test_sec_025_who_connected_again_meanwhile_is_not_signed_out_by_the_queue(app, alice, provider):
    connected(app, alice, provider, revocation_ends_all=True)
    provider.post(REVOKE, status_code=503)
    assert "has not answered yet" in press_disconnect(alice)
    connected(app, alice, provider)
    provider.reset_mock()
    provider.post(REVOKE)
    assert work_off(app) == {"unsupported": 1} and tokens(provider) == []


def test_f_40_what_comes_late_ends_no_other_connection_either(app, alice, provider):
    two_of_one_client(app, alice, provider)

    def leave_meanwhile(request, context):
        press_disconnect(alice)
        return {"access_token": "at-2", "token_type": "Bearer", "refresh_token": "rt-2"}

    provider.post(TOKEN, json=leave_meanwhile)
    alice.submit("/connections/acme/refresh", at="/connections/acme")
    assert work_off(app) == {"unsupported": 1} and tokens(provider) == []


def test_what_waits_is_sealed_for_its_own_row(app, alice, provider):
    connected(app, alice, provider)
    provider.post(REVOKE, status_code=503)
    press_disconnect(alice)
    [left] = rows(app, Revocation)
    with app.app_context():
        opened = [
            box().open(getattr(left, name), where=cell(left, name))
            for name in ("refresh_token_sealed", "access_token_sealed", "client_secret_sealed")
        ]
    assert opened == ["rt-1", "at-1", "s3cret"]


def test_two_workers_ask_once(app, alice, provider):
    connected(app, alice, provider)
    provider.post(REVOKE, status_code=503)
    press_disconnect(alice)
    inner: list[dict[str, int]] = []

    def answer(request, context):
        if not inner:
            inner.append({})
            inner[0] = revocation.work_off()  # while the first has the lease
        return ""

    provider.post(REVOKE, text=answer)
    assert work_off(app) == {"ended": 1}
    assert inner == [{}] and tokens(provider) == BOTH * 2


def test_another_account_ends_the_grant_before_it(app, alice, provider):
    """Of the same account the old grant may be the new one's own, and is left alone."""
    connected(app, alice, provider, account_path=["who"])
    for who, queued in (("one", 0), ("one", 0), ("two", 1)):
        provider.post(TOKEN, json=PAIR | {"who": who})
        leave(alice).back()
        assert len(rows(app, Revocation)) == queued


def test_a_private_ca_and_a_certificate_outlive_their_gateway_in_the_queue(app, admin, tmp_path):
    """The provider takes nobody without a certificate, and is asked when the gateway is gone."""
    ca = Authority()
    shown, us = ca.signs("127.0.0.1"), ca.signs("gateway", client=True)
    server = Upstream(authority.server(shown, tmp_path, clients_of=ca))
    server.script = lambda seen: says({})
    revoke = f"{server.origin}/revoke"
    try:
        own = {"ca_pem": ca.pem, "client_cert_pem": us.pem, "client_key": us.key}
        world.add(app, server.url, **world.oauth(), **own)
        world.connect(app, revocation_url=revoke)
        assert admin.submit("/admin/gateways/acme/delete").status_code == 303
        assert rows(app, Gateway) == []
        assert work_off(app) == {"ended": 1}
        assert [seen.path for seen in server.seen] == ["/revoke", "/revoke"]
    finally:
        server.stop()


def test_a_key_that_does_not_open_stops_nobody_elses_revocation(app, alice, bob, provider):
    connected(app, alice, provider)
    connected(app, bob, provider)
    provider.post(REVOKE, status_code=503)
    for browser in (alice, bob):
        press_disconnect(browser)
    with app.app_context():
        first = sa.select(sa.func.min(Revocation.id)).scalar_subquery()
        broken = {"client_cert_pem": "pem", "client_key_sealed": "mg1.x.y"}
        db.session.execute(sa.update(Revocation).where(Revocation.id == first).values(**broken))
        db.session.commit()
    provider.post(REVOKE)
    assert sorted(work_off(app)) == ["ended", "refused"]
    assert {row.last_error_code for row in rows(app, Revocation)} == {None, "secret_unreadable"}


# -- while something is under way (F-40, F-41) ----------------------------------------------------


def test_f_40_tokens_that_come_after_a_disconnect_end_at_the_provider(app, alice, provider):
    """The person leaves while their token is being renewed: nothing of it is kept or used."""
    connected(app, alice, provider)
    provider.post(REVOKE)

    def leave_meanwhile(request, context):
        assert "Revoked at as.test." in press_disconnect(alice)
        return {"access_token": "at-2", "token_type": "Bearer", "refresh_token": "rt-2"}

    provider.post(TOKEN, json=leave_meanwhile)
    reply = alice.submit("/connections/acme/refresh", at="/connections/acme")
    assert reply.status_code == 303
    [row] = rows(app, Connection)
    assert (row.state, row.access_token_sealed) == ("revoked", None)
    assert work_off(app) == {"ended": 1}
    late = [("rt-2", "refresh_token"), ("at-2", "access_token")]
    assert tokens(provider) == BOTH + late


def test_f_40_what_comes_late_goes_to_no_provider_of_an_earlier_grant(app, alice, provider):
    """The first grant could be revoked, the second cannot: its tokens are not for the first."""
    connected(app, alice, provider)
    provider.post(REVOKE)
    press_disconnect(alice)
    script(app).ask(
        "PATCH", "/acme", {"oauth_config": {"revocation_url": None, "client_secret": "s3cret"}}
    )
    connected(app, alice, provider)

    def leave_meanwhile(request, context):
        press_disconnect(alice)
        return {"access_token": "at-2", "token_type": "Bearer", "refresh_token": "rt-2"}

    provider.post(TOKEN, json=leave_meanwhile)
    alice.submit("/connections/acme/refresh", at="/connections/acme")
    assert work_off(app) == {}
    assert tokens(provider) == BOTH, "of the first grant alone"


def test_f_41_tokens_of_a_sign_in_that_an_edit_overtook_end_where_they_came_from(
    app, alice, provider
):
    acme.add(app, revocation_url=REVOKE)
    admins = script(app)
    provider.post(REVOKE)

    def edit_meanwhile(request, context):
        there = {
            "oauth_config": {
                "revocation_url": f"{ELSE}/revoke",
                "token_url": f"{ELSE}/t",
                "client_id": "new",
                "client_secret": "new",
            }
        }
        assert admins.ask("PATCH", "/acme", there).status_code == 200
        return PAIR

    provider.post(TOKEN, json=edit_meanwhile)
    leave(alice).back()
    assert rows(app, Connection) == []
    assert work_off(app) == {"ended": 1} and tokens(provider) == BOTH
    [first, second] = [one for one in provider.request_history if one.url == REVOKE]
    assert first.headers["Authorization"] == "Basic Y2lkOnMzY3JldA=="


def test_f_41_a_renewal_that_an_edit_overtook_is_dropped_and_ended_where_it_came_from(
    app, alice, provider
):
    connected(app, alice, provider)
    admins = script(app)
    provider.post(REVOKE)

    def edit_meanwhile(request, context):
        typed = {"client_secret": "s3cret", "issuer": ELSE}
        assert admins.ask("PATCH", "/acme", {"oauth_config": typed}).status_code == 200
        return {"access_token": "at-2", "token_type": "Bearer", "refresh_token": "rt-2"}

    provider.post(TOKEN, json=edit_meanwhile)
    alice.submit("/connections/acme/refresh", at="/connections/acme")
    [row] = rows(app, Connection)
    assert (row.state, row.reason, row.access_token_sealed) == ("orphaned", "gateway_changed", None)
    assert work_off(app) == {"ended": 2}
    assert [token for token, _ in tokens(provider)] == ["rt-1", "at-1", "rt-2", "at-2"]


# -- Refresh now, and what happened ---------------------------------------------------------------


def history(browser, url: str = "/connections/acme") -> str:
    return text_of(browser.get(url)).partition("History")[2]


def test_refresh_now_renews_once_and_says_so(app, alice, provider):
    connected(app, alice, provider)
    at = "/connections/acme"
    assert "Refresh now" in alice.get(at).text
    provider.post(TOKEN, json=PAIR | {"access_token": "at-2"})
    reply = alice.submit(f"{at}/refresh", at=at)
    assert "Acme was renewed." in alice.get(reply.location).text
    again = alice.submit(f"{at}/refresh", at=at)
    assert "renewed a moment ago" in alice.get(again.location).text
    renewals = [one for one in provider.request_history if "grant_type=refresh" in (one.text or "")]
    assert len(renewals) == 1
    assert "Renewed." in history(alice)


def test_refresh_now_tells_why_not_and_loses_nothing(app, alice, provider):
    before = connected(app, alice, provider)
    at = "/connections/acme"
    provider.post(TOKEN, status_code=503)
    reply = alice.submit(f"{at}/refresh", at=at)
    assert "Acme was not renewed." in alice.get(reply.location).text
    [row] = rows(app, Connection)
    assert row.state == "failing" and row.refresh_token_sealed == before.refresh_token_sealed
    assert "Could not be renewed" in history(alice)
    assert "Next try" in text_of(alice.get(at))


def test_without_a_refresh_token_there_is_no_such_button_and_no_harm_in_it(app, alice, provider):
    acme.add(app, revocation_url=REVOKE)
    provider.post(TOKEN, json=GOOD)
    leave(alice).back()
    at = "/connections/acme"
    assert "Refresh now" not in alice.get(at).text
    reply = alice.submit(f"{at}/refresh", at=at)
    assert "You will be asked to sign in often" in alice.get(reply.location).text
    assert rows(app, Connection)[0].state == "active"


def test_nobody_refreshes_what_is_not_theirs(app, alice, bob, provider):
    connected(app, alice, provider)
    reply = bob.submit("/connections/acme/refresh", at="/me")
    assert "was not renewed. Acme needs your sign-in" in bob.get(reply.location).text
    assert alice.submit("/connections/none/refresh", at="/me").status_code == 404


def test_what_happened_is_told_in_words_newest_first(app, alice, bob, admin, provider):
    mine = connected(app, alice, provider)
    at = "/connections/acme"
    provider.post(TOKEN, status_code=400, json={"error": "invalid_grant"})
    alice.submit(f"{at}/refresh", at=at)
    connected(app, alice, provider)
    provider.post(REVOKE)
    press_disconnect(alice)
    words = [
        "Revoked at as.test.",
        "Disconnected.",
        "Signed in at as.test.",
        "Ended by as.test.",
        "Signed in at as.test.",
    ]
    for page in (history(alice), history(admin, f"/admin/gateways/acme/people/{mine.id}")):
        assert re.findall("|".join(map(re.escape, words)), page) == words
    assert "History" not in bob.get(at).text


def test_the_same_many_times_is_said_once_and_the_list_has_an_end(app, alice, provider):
    mine = connected(app, alice, provider)
    with app.app_context():
        for number in range(40):
            action = "connection.renewed" if number < 30 or number % 2 else "connection.uncertain"
            audit.record(SYSTEM, action, audit.Subject("connection", mine.id))
        db.session.commit()
        found = timeline.of(mine.id)
    assert len(found) == timeline.LIMIT
    shown = [(one.event, one.times) for one in found[-2:]]
    assert shown[0][1] == shown[1][1] == 1
    with app.app_context():
        assert [one.times for one in timeline.of(mine.id, limit=12)][10] == 30
