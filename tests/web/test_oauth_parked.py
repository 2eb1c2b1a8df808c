"""A call that waited for a consent runs in the callback, once (README, promise 4)."""

import json
import re

import pytest
import sqlalchemy as sa

from app import access
from app.db import db
from app.mcp import consent, relay
from app.models import AuditEvent, Connection, Gateway, ParkedCall, User
from app.oauth import parked
from tests.conftest import rows
from tests.oauth import acme
from tests.oauth.acme import GOOD, TOKEN, leave
from tests.upstream import Upstream, upstream

__all__ = ["upstream"]
CALL = relay.tool_request("echo", {"text": "canary-argument"})
DIGEST = consent.digest_of("tools/call", json.loads(CALL)["params"])


@pytest.fixture(autouse=True)
def gateway(app, upstream: Upstream, provider):
    """Of the kind that keeps no token. Its server is real, the provider is not."""
    acme.add(app, url=upstream.url, token_management={})
    provider.register_uri("POST", TOKEN, json=GOOD)


def ask(app, email: str = "alice@example.com", request: bytes | None = CALL) -> tuple[str, str]:
    """What her AI client is told: the id of the call that waits, and the handle in its link."""
    with app.app_context():
        user_id = db.session.scalar(sa.select(User.id).where(User.email == email))
        db.session.rollback()
        caller = access.Caller(user_id, email, is_admin=False)
        gateway = access.usable(caller, "acme")
        waits = parked.park(caller, gateway, digest=DIGEST, request=request)
        return waits.id, parked.link(caller, gateway, waits.id).partition("ask=")[2]


def state(app, call_id: str) -> str:
    [row] = [row for row in rows(app, ParkedCall) if row.id == call_id]
    return row.state


def test_a_parked_call_runs_once_with_the_new_token(app, alice, provider, upstream):
    call_id, handle = ask(app)
    trip = leave(alice, ask=handle)
    back = trip.back()
    assert (back.status_code, back.location) == (303, f"/connections/acme?call={call_id}")
    trip.back()
    [called] = upstream.asked("tools/call")
    assert called.header("Authorization") == "Bearer at-1"
    assert called.json["params"]["arguments"] == {"text": "canary-argument"}
    assert state(app, call_id) == "done" and provider.call_count == 1
    page = alice.get(back.location)
    assert page.status_code == 200 and "echo by Bearer at-1" in page.text


def test_the_ai_clients_own_try_gets_the_result_instead_of_a_second_run(app, alice, upstream):
    ask(app)
    leave(alice, ask=ask(app)[1]).back()
    with app.app_context():
        user_id = db.session.scalar(sa.select(User.id))
        db.session.rollback()
        caller = access.Caller(user_id, "", is_admin=False)
        gateway, digest = access.usable(caller, "acme"), DIGEST
        given = [parked.hand_over(caller, gateway, digest) for _ in range(2)]
    assert json.loads(given[0])["result"]["content"] and given[1] is None
    assert len(upstream.asked("tools/call")) == 1


def test_storage_off_leaves_nothing_in_the_database(app, alice):
    leave(alice, ask=ask(app)[1]).back()
    assert rows(app, Connection) == []
    with app.app_context(), db.engine.connect() as link:
        for table in db.metadata.sorted_tables:
            kept = str(link.execute(sa.select(table)).all())
            assert "at-1" not in kept and "canary-argument" not in kept


def test_a_refused_consent_leaves_the_call_for_the_next_try(app, alice, upstream):
    call_id, handle = ask(app)
    refused = leave(alice, ask=handle).back(code="", error="access_denied")
    assert refused.location.startswith("/connections/acme?failed=")
    assert state(app, call_id) == "waiting" and not upstream.asked("tools/call")
    leave(alice, ask=handle).back()
    assert state(app, call_id) == "done"


def test_a_server_that_is_down_is_the_result(app, alice, upstream):
    call_id, handle = ask(app)
    upstream.stop()
    back = leave(alice, ask=handle).back()
    assert back.location == f"/connections/acme?call={call_id}"
    assert state(app, call_id) == "failed"
    assert alice.get(back.location).status_code == 200


def test_a_gateway_that_is_switched_off_in_that_moment_runs_nothing(app, alice, provider, upstream):
    def meanwhile(_request, _context):
        with app.app_context(), db.engine.begin() as link:
            link.execute(sa.update(Gateway).values(is_enabled=False))
        return GOOD

    provider.register_uri("POST", TOKEN, json=meanwhile)
    call_id, handle = ask(app)
    assert leave(alice, ask=handle).back().location == f"/connections/acme?call={call_id}"
    assert state(app, call_id) == "waiting" and not upstream.seen


def test_c10_a_link_is_good_for_its_person_only(app, alice, bob, upstream):
    call_id, handle = ask(app)
    page = bob.submit("/oauth/connect/acme", at="/me", ask=handle)
    assert page.status_code == 403 and "<code>ask_foreign</code>" in page.text
    [event] = [row for row in rows(app, AuditEvent) if row.action == "consent.refused"]
    assert (event.actor_label, event.details) == ("bob@example.com", {"code": "ask_foreign"})
    assert bob.get(f"/connections/acme?call={call_id}").status_code == 404
    assert bob.get(f"/connections/acme?ask={handle}").status_code == 403
    assert state(app, call_id) == "waiting" and not upstream.seen


@pytest.mark.parametrize("handle", ["mg1.x", "x" * 5000])
def test_a_made_up_link_starts_nothing(alice, handle):
    page = alice.submit("/oauth/connect/acme", at="/me", ask=handle)
    assert page.status_code == 400 and "<code>ask_over</code>" in page.text


def test_two_flows_for_one_call_run_it_once(app, alice, upstream):
    call_id, handle = ask(app)
    first, second = leave(alice, ask=handle), leave(alice, ask=handle)
    for trip in (first, second):
        assert trip.back().location == f"/connections/acme?call={call_id}"
    assert len(upstream.asked("tools/call")) == 1


def test_a_link_where_tokens_are_kept_ends_at_the_connection(app, alice, upstream):
    acme.add(app, "kept", url=upstream.url)
    with app.app_context():
        user_id = db.session.scalar(sa.select(User.id))
        db.session.rollback()
        caller = access.Caller(user_id, "", is_admin=False)
        gateway = access.usable(caller, "kept")
        waits = parked.park(caller, gateway, digest="d", request=None, scopes=["write"])
        handle = parked.link(caller, gateway, waits.id).partition("ask=")[2]
    trip = leave(alice, "kept", ask=handle)
    assert trip.asked["scope"] == "write"
    assert trip.back().location == "/connections/kept"
    assert not upstream.asked("tools/call") and len(rows(app, Connection)) == 1


def test_a_failed_sign_in_says_why_at_its_clean_address(alice):
    trip = leave(alice)
    back = trip.back(code="", error="access_denied", error_description="<b>ask your boss</b>")
    page = alice.get(back.location)
    assert page.status_code == 200
    assert "access_denied: &lt;b&gt;ask your boss&lt;/b&gt;" in page.text
    assert re.search(r"Try again", page.text) and "You said no" in page.text
    assert trip.asked["state"] not in page.text


def test_a_failed_sign_in_is_no_other_persons_business(alice, bob):
    back = leave(alice).back(code="", error="access_denied", error_description="canary-words")
    assert "canary-words" not in bob.get(back.location).text


def test_sec_061_a_call_to_one_gateway_is_not_found_under_another(app, alice):
    acme.add(app, "other", token_management={})
    call_id, handle = ask(app)
    leave(alice, ask=handle).back()
    assert alice.get(f"/connections/acme?call={call_id}").status_code == 200
    assert alice.get(f"/connections/other?call={call_id}").status_code == 404
    assert alice.get(f"/tools?gateway=other&call={call_id}").status_code == 404
