"""Consent through the front door: from the Connect button to the tokens, and every way it fails."""

import html
import json
import logging
import re
import threading
from urllib.parse import parse_qs, parse_qsl

import pytest
import requests
import sqlalchemy as sa
from sqlalchemy.exc import InternalError, ProgrammingError

from app import access, gateways, people, specs
from app.access import Caller
from app.audit import SYSTEM
from app.db import db, recent
from app.errors import ConsentFailed, ProviderError
from app.models import (
    AuditEvent,
    ClientRegistration,
    Connection,
    Flow,
    Gateway,
    OAuthConfig,
    Revocation,
    User,
)
from app.oauth import flow, ladder, tokens
from app.oauth.callback import Callback
from app.oauth.client import s256
from app.specs import GatewaySpec
from app.sqlite import PATIENCE_S
from tests.conftest import Browser, rows
from tests.oauth import acme
from tests.oauth.acme import GOOD, TOKEN, leave
from tests.oauth.test_refresh import Fails
from tests.waiting import Deadlocks

CLEAN = "/connections/acme"


@pytest.fixture
def gateway(app):
    acme.add(app)


pytestmark = pytest.mark.usefixtures("gateway")


def flow_of(app, trip) -> Flow:
    [found] = [row for row in rows(app, Flow) if row.id == trip.flow_id]
    return found


def set_flow(app, **values) -> None:
    """As if it had begun otherwise, or another process had changed it."""
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.update(Flow).values(**values))


def failed_with(app, trip, reply) -> str:
    """It led to the clean address; the code that the page there tells."""
    assert (reply.status_code, reply.location) == (303, f"{CLEAN}?failed={trip.flow_id}")
    found = flow_of(app, trip)
    assert found.status == "failed"
    return found.error_code


def sent(provider) -> dict[str, str]:
    return dict(parse_qsl(provider.last_request.text))


# -- the way there and back ----------------------------------------------------------------------


def test_a_consent_ends_in_sealed_tokens_and_at_a_clean_address(app, alice, provider):
    provider.post(TOKEN, json=GOOD | {"refresh_token": "rt-1"})
    trip = leave(alice)
    back = trip.back()
    assert (back.status_code, back.location) == (303, CLEAN)
    [connection] = rows(app, Connection)
    assert connection.state == "active" and connection.access_token_sealed.startswith("mg1.")
    assert flow_of(app, trip).status == "done"
    assert provider.call_count == 1


def test_sec_005_each_flow_has_a_verifier_of_its_own(app, alice, provider):
    app.config["OAUTH_MAX_AUTHORIZATION_ATTEMPTS"] = 100
    provider.post(TOKEN, json=GOOD)
    trips = [leave(alice) for _ in range(20)]
    challenges = {trip.asked["code_challenge"] for trip in trips}
    assert len(challenges) == 20 == len({trip.asked["state"] for trip in trips})
    trips[-1].back()
    verifier = sent(provider)["code_verifier"]
    assert 43 <= len(verifier) <= 128 and s256(verifier) == trips[-1].asked["code_challenge"]


def test_sec_020_the_same_resource_is_asked_for_everywhere(alice, provider):
    provider.post(TOKEN, json=GOOD)
    trip = leave(alice)
    trip.back()
    assert trip.asked["resource"] == sent(provider)["resource"] == acme.NOWHERE


def test_three_tabs_finish_in_any_order(app, alice, provider):
    provider.post(TOKEN, json=GOOD)
    trips = [leave(alice) for _ in range(3)]
    for trip in (trips[1], trips[2], trips[0]):
        assert trip.back().location == CLEAN
    assert provider.call_count == 3 and len(rows(app, Connection)) == 1


def test_back_and_reload_go_on_with_the_same_flow(app, alice):
    trip = leave(alice)
    again = alice.get(f"/oauth/connect/acme?flow={trip.flow_id}")
    assert parse_qs(again.location.partition("?")[2])["state"] == [trip.asked["state"]]
    assert len(rows(app, Flow)) == 1


def test_the_stop_over_page_says_where_it_goes_and_keeps_the_state_to_itself(alice):
    trip = leave(alice)
    text = html.unescape(trip.page.text)
    assert "Going to" in text and "as.test" in text and "Acme" in text
    assert f'content="0;url=/oauth/connect/acme?flow={trip.flow_id}"' in text
    assert trip.asked["state"] not in text
    assert trip.page.headers["Referrer-Policy"] == "no-referrer"
    assert trip.page.headers["Cache-Control"] == "no-store"


def test_sec_002_the_flow_cookie_is_for_this_server_and_no_script(alice):
    trip = leave(alice)
    [cookie] = [one for one in trip.page.headers.getlist("Set-Cookie") if "flow-" in one]
    assert cookie.startswith(f"__Host-flow-{trip.flow_id[:12]}=")
    for attribute in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax", "Max-Age=300"):
        assert attribute in cookie
    assert "Domain" not in cookie


def test_a_person_ends_where_the_form_said(alice, provider):
    provider.post(TOKEN, json=GOOD)
    assert leave(alice, next="/tools/acme/search").back().location == "/tools/acme/search"


@pytest.mark.parametrize("target", ["https://evil.test", "//evil.test", "/\\evil.test", "x"])
def test_sec_029_a_person_never_ends_at_another_site(alice, provider, target):
    provider.post(TOKEN, json=GOOD)
    assert leave(alice, next=target).back().location == CLEAN


def test_a_refused_scope_is_said_and_is_no_error(app, alice, provider):
    acme.add(app, "broad", scopes=["read", "write"])
    provider.post(TOKEN, json=GOOD | {"scope": "read"})
    assert leave(alice, "broad").back().location == "/connections/broad"
    assert "Missing: write" in alice.get("/me").text


def test_the_account_at_the_provider_is_named(app, alice, provider):
    acme.add(app, "hub", userinfo_url="https://as.test/me", account_path=["login"])
    provider.post(TOKEN, json=GOOD)
    provider.get("https://as.test/me", json={"login": "ana<b>"})
    leave(alice, "hub").back()
    assert rows(app, Connection)[0].account_label == "ana<b>"
    assert "connected as ana&lt;b&gt;" in alice.get("/me").text


def test_a_sign_in_that_works_ends_the_rest_of_a_client_that_was_refused(app, alice, provider):
    """Its secret was mended at the provider, of which nobody told us."""
    spent = GOOD | {"refresh_token": "rt-1", "expires_in": 0}
    provider.post(TOKEN, json=spent)
    leave(alice).back()
    [person] = [row for row in rows(app, User) if row.email == "alice@example.com"]
    caller = Caller(person.id, person.email, is_admin=False)

    def shown() -> str:
        with app.app_context():
            recent().clear()
            return tokens.credential(caller, access.usable(caller, "acme")).headers["Authorization"]

    provider.post(TOKEN, status_code=401, json={"error": "invalid_client"})
    with pytest.raises(ProviderError) as caught:
        shown()
    assert caught.value.code == "client_rejected"
    provider.post(TOKEN, json=spent)
    assert leave(alice).back().location == CLEAN
    provider.post(TOKEN, json=GOOD | {"access_token": "renewed"})
    assert shown() == "Bearer renewed"


def test_a_sign_in_that_works_ends_no_pause_that_the_provider_asked_for(app, alice, provider):
    with app.app_context(), db.engine.begin() as link:
        busy = {"not_before_ms": 1 << 50, "last_error_code": "provider_unreachable"}
        link.execute(sa.update(ClientRegistration).values(**busy))
    provider.post(TOKEN, json=GOOD)
    leave(alice).back()
    assert [row.not_before_ms for row in rows(app, ClientRegistration)] == [1 << 50]


def test_storage_off_leaves_no_token_anywhere(app, alice, provider):
    acme.add(app, "ask", token_management={})
    provider.post(TOKEN, json=GOOD | {"access_token": "canary-token"})
    assert leave(alice, "ask").back().location == "/connections/ask"
    assert rows(app, Connection) == []
    with app.app_context(), db.engine.connect() as link:
        for table in db.metadata.sorted_tables:
            assert "canary-token" not in str(link.execute(sa.select(table)).all())


# -- who may begin -------------------------------------------------------------------------------


def test_sec_003_the_page_with_the_button_sets_nothing(app, alice):
    leave(alice)
    for page in ("/connections/acme", "/oauth/connect/acme"):
        reply = alice.get(page)
        assert not [one for one in reply.headers.getlist("Set-Cookie") if "flow-" in one]
    assert len(rows(app, Flow)) == 1


def test_sec_004_a_get_starts_nothing(app, alice):
    reply = alice.get("/oauth/connect/acme")
    assert (reply.status_code, reply.location) == (303, CLEAN)
    assert rows(app, Flow) == []


def test_sec_004_a_form_of_another_site_starts_nothing(app, alice):
    assert alice.post("/oauth/connect/acme").status_code == 403
    page = alice.get("/me").text
    token = html.unescape(re.search(r'name="csrf_token"[^>]*value="([^"]+)', page)[1])
    evil = {"Origin": "https://evil.test", "Referer": "https://evil.test/"}
    foreign = alice.post("/oauth/connect/acme", data={"csrf_token": token}, headers=evil)
    assert foreign.status_code == 403 and rows(app, Flow) == []


def test_who_is_not_signed_in_starts_nothing(app, admin, stranger):
    assert "/login" in stranger.post("/oauth/connect/acme").location
    assert rows(app, Flow) == []


def test_a_gateway_that_is_off_cannot_be_connected(app, alice):
    with app.app_context():
        gateways.switch(gateways.find("acme"), False, by=SYSTEM)
        db.session.commit()
    assert alice.submit("/oauth/connect/acme", at="/me").status_code == 404
    assert rows(app, Flow) == []


@pytest.mark.parametrize("slug", ["nope", "shared"])
def test_only_a_personal_sign_in_can_be_begun(app, alice, slug):
    acme.add(app, "shared", grant_type="client_credentials", authorization_url=None)
    assert alice.submit(f"/oauth/connect/{slug}", at="/me").status_code == 404


def test_sec_010_a_foreign_host_changes_no_redirect_uri(app, alice):
    at = {"base_url": "https://evil.test"}
    reply = alice.client.post("/oauth/connect/acme", headers={"Host": "evil.test"}, **at)
    assert reply.status_code == 400 and rows(app, Flow) == []
    forwarded = {"X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "http"}
    page = alice.get("/oauth/connect/acme", headers=forwarded)
    assert page.status_code == 303 and "evil" not in page.location
    assert leave(alice).asked["redirect_uri"] == "https://gw.test/oauth/callback"


def test_sec_101_so_many_attempts_and_no_more(app, alice):
    for _ in range(5):
        leave(alice)
    page = alice.submit("/oauth/connect/acme", at="/me")
    assert page.status_code == 429 and "too_many_attempts" in page.text
    assert 0 < int(page.headers["Retry-After"]) <= 600
    assert len(rows(app, Flow)) == 5


def test_sec_101_a_success_sets_the_count_back(alice, provider):
    provider.post(TOKEN, json=GOOD)
    trips = [leave(alice) for _ in range(5)]
    trips[-1].back()
    for _ in range(5):
        leave(alice)
    assert alice.submit("/oauth/connect/acme", at="/me").status_code == 429


def test_sec_101_attempts_count_per_person_and_gateway(app, alice, bob):
    acme.add(app, "other")
    for _ in range(5):
        leave(alice)
    leave(bob)
    leave(alice, "other")


def test_a_full_gateway_says_so_before_anybody_leaves(app, alice, bob, provider):
    app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"] = 1
    provider.post(TOKEN, json=GOOD)
    leave(alice).back()
    page = bob.submit("/oauth/connect/acme", at="/me")
    assert page.status_code == 409 and "connection_limit" in page.text
    assert leave(alice).back().location == CLEAN


def test_a_gateway_that_filled_up_meanwhile_says_so(app, alice, bob, provider):
    app.config["OAUTH_MAX_STORED_TOKENS_PER_GATEWAY"] = 1
    provider.post(TOKEN, json=GOOD)
    late = leave(bob)
    leave(alice).back()
    assert failed_with(app, late, late.back()) == "connection_limit"
    assert len(rows(app, Connection)) == 1


# -- who may finish ------------------------------------------------------------------------------


def test_sec_001_a_state_works_once(app, alice, provider):
    provider.post(TOKEN, json=GOOD)
    trip = leave(alice)
    assert trip.back().location == CLEAN
    again = trip.back()
    assert (again.status_code, again.location) == (303, f"{CLEAN}?failed={trip.flow_id}")
    assert provider.call_count == 1
    assert flow_of(app, trip).status == "done"


def test_sec_001_of_two_callbacks_at_a_time_one_goes_on(app, alice, provider):
    meet = threading.Barrier(2, timeout=20)
    in_time = threading.Event()

    def slowly(_request, _context):
        in_time.wait(20)
        return GOOD

    provider.post(TOKEN, json=slowly)
    trip = leave(alice)
    replies = []

    def come_back():
        twin = Browser(app)
        twin.client._cookies = dict(alice.client._cookies)
        meet.wait()
        replies.append(trip.back(by=twin))
        in_time.set()

    threads = [threading.Thread(target=come_back) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(reply.location for reply in replies) == [CLEAN, f"{CLEAN}?failed={trip.flow_id}"]
    assert provider.call_count == 1


def test_sec_001_a_late_callback_is_refused(app, alice, provider):
    trip = leave(alice)
    set_flow(app, expires_ms=Flow.created_ms)
    assert trip.back().location == f"{CLEAN}?failed={trip.flow_id}"
    assert flow_of(app, trip).status == "open" and not provider.called


def test_sec_001_states_are_stored_as_hashes(app, alice):
    trip = leave(alice)
    flow = flow_of(app, trip)
    assert len(trip.asked["state"]) >= 43
    assert trip.asked["state"] not in str({k: v for k, v in vars(flow).items()})


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        ("nobody", 401, "sign_in_needed"),
        ("herself elsewhere", 400, "wrong_browser"),
        ("somebody else", 400, "wrong_browser"),
        ("somebody else with her cookie", 403, "wrong_person"),
    ],
)
def test_sec_002_only_this_browser_and_person_finish(app, alice, bob, provider, who, status, code):
    provider.post(TOKEN, json=GOOD)
    trip = leave(alice)
    other = {"nobody": Browser(app), "herself elsewhere": Browser(app).login("alice@example.com")}
    visitor = other.get(who, bob)
    if who.endswith("cookie"):
        key = next(key for key in alice.client._cookies if "flow-" in key[2])
        visitor.client._cookies[key] = alice.client._cookies[key]
    page = trip.back(by=visitor)
    assert page.status_code == status and f"<code>{code}</code>" in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert not provider.called and rows(app, Connection) == []
    assert flow_of(app, trip).status == "open"
    assert trip.back().location == CLEAN  # and she still can


@pytest.mark.parametrize("state", ["forged", "", "x" * 4096])
def test_sec_009_a_forged_callback_changes_nothing(app, alice, provider, state):
    trip = leave(alice)
    page = trip.back(state=state, error="access_denied", error_description="<script>alert(1)")
    assert page.status_code == 400 and "<code>state_unknown</code>" in page.text
    assert "alert(1)" not in page.text
    assert flow_of(app, trip).status == "open" and not provider.called


@pytest.mark.parametrize(
    "query",
    ["code=a&code=b&state={}", "code=a&state={}&state={}", "state={}&code=" + "x" * 4097],
)
def test_a_query_that_says_something_twice_is_refused(app, alice, provider, query):
    trip = leave(alice)
    page = alice.get("/oauth/callback?" + query.replace("{}", trip.asked["state"]))
    assert page.status_code == 400 and "<code>response_invalid</code>" in page.text
    assert flow_of(app, trip).status == "open" and not provider.called


def test_sec_015_a_token_in_the_query_is_not_even_looked_at(app, alice, provider):
    trip = leave(alice)
    back = trip.back(code="", access_token="canary", token_type="Bearer")
    assert failed_with(app, trip, back) == "response_invalid"
    assert rows(app, Connection) == [] and not provider.called


ISSUER, OTHER = "https://as.test", "https://evil.test"


@pytest.mark.parametrize(
    ("required", "recorded", "iss", "code"),
    [
        (True, ISSUER, ISSUER, None),
        (True, ISSUER, "", "issuer_missing"),
        (True, ISSUER, OTHER, "issuer_mismatch_reply"),
        (False, ISSUER, "", None),
        (False, ISSUER, ISSUER, None),
        (False, ISSUER, OTHER, "issuer_mismatch_reply"),
        (False, ISSUER, f"{ISSUER}/", "issuer_mismatch_reply"),
        (False, ISSUER, "https://AS.test", "issuer_mismatch_reply"),
        (False, ISSUER, "https://as.test:443", "issuer_mismatch_reply"),
        (False, None, OTHER, None),
        (False, None, "https://recorded.test", "issuer_mismatch_reply"),
    ],
)
@pytest.mark.parametrize("is_error", [False, True])
def test_sec_007_iss(app, alice, provider, required, recorded, iss, code, is_error):
    acme.add(app, "elsewhere", issuer="https://recorded.test")
    provider.post(TOKEN, json=GOOD)
    trip = leave(alice)
    set_flow(app, iss_required=required, issuer=recorded)
    wrong = {"error": "access_denied", "error_description": "canary-words"} if is_error else {}
    back = trip.back(iss=iss, **wrong)
    if code:
        assert failed_with(app, trip, back) == code
        assert flow_of(app, trip).error_text is None  # of a stranger's words none are kept
        assert not provider.called
    elif is_error:
        assert failed_with(app, trip, back) == "access_denied"
    else:
        assert back.location == CLEAN


@pytest.mark.parametrize(
    ("pinned", "arrived", "code"),
    [
        ("/oauth/callback", "/oauth/callback", None),
        ("/oauth/callback", "/oauth/callback/acme", "callback_mismatch"),
        ("/oauth/callback/own", "/oauth/callback/own", None),
        ("/oauth/callback/own", "/oauth/callback", "callback_mismatch"),
        ("/oauth/callback/own", "/oauth/callback/acme", "callback_mismatch"),
    ],
)
def test_sec_008_the_path_it_arrives_at_is_the_pinned_one(
    app, alice, provider, pinned, arrived, code
):
    provider.post(TOKEN, json=GOOD)
    slug = "own" if pinned.endswith("own") else "acme"
    if slug == "own":
        acme.add(app, slug, redirect_uri=f"https://gw.test{pinned}")
    trip = leave(alice, slug)
    assert trip.asked["redirect_uri"] == f"https://gw.test{pinned}"
    back = trip.back(arrived)
    if code is None:
        assert back.location == f"/connections/{slug}"
        assert sent(provider)["redirect_uri"] == f"https://gw.test{pinned}"
    else:
        assert flow_of(app, trip).error_code == code and not provider.called


def test_sec_011_what_was_pinned_is_sent_whatever_changes_meanwhile(app, alice, provider):
    provider.post(TOKEN, json=GOOD)
    trip = leave(alice)
    app.config["PUBLIC_URL"] = "https://moved.test"
    trip.back()
    assert sent(provider)["redirect_uri"] == "https://gw.test/oauth/callback"


# -- what the provider says ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("access_denied", "access_denied"),
        ("invalid_scope", "scope_rejected"),
        ("unauthorized_client", "client_not_allowed"),
        ("unsupported_response_type", "client_not_allowed"),
        ("login_required", "interaction_required"),
        ("invalid_target", "resource_rejected"),
        ("temporarily_unavailable", "provider_error"),
        ("server_error", "provider_error"),
        ("anything_else", "provider_error"),
    ],
)
def test_sec_009_an_error_is_named_and_quoted(app, alice, provider, word, code):
    trip = leave(alice)
    text = "<script>alert(1)</script>\r\n\x1b[31m\u202e" + "x" * 50_000
    back = trip.back(code="", error=word, error_description=text)
    assert failed_with(app, trip, back) == code
    flow = flow_of(app, trip)
    assert flow.error_text.startswith(f"{word}: <script>alert(1)</script> [31m x")
    assert len(flow.error_text) == 300 and not provider.called


def test_a_denial_wins_over_a_code(app, alice, provider):
    trip = leave(alice)
    assert failed_with(app, trip, trip.back(error="access_denied")) == "access_denied"
    assert not provider.called


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"status_code": 400, "json": {"error": "invalid_grant"}}, "code_rejected"),
        ({"status_code": 500, "json": {"error": "invalid_grant"}}, "provider_error"),
        ({"status_code": 401, "json": {"error": "invalid_client"}}, "client_rejected"),
        ({"status_code": 400, "json": {"error": "invalid_scope"}}, "scope_rejected"),
        ({"status_code": 429}, "provider_busy"),
        ({"status_code": 502}, "exchange_unknown"),
        ({"json": {"error": "bad_verification_code"}}, "token_request_rejected"),
        ({"text": "<html>", "headers": {"Content-Type": "text/html"}}, "reply_unreadable"),
        ({"text": ""}, "reply_unreadable"),
        ({"json": {"token_type": "Bearer"}}, "reply_no_token"),
        ({"json": GOOD | {"token_type": "mac"}}, "token_type_unsupported"),
        ({"json": GOOD | {"access_token": "a\r\nb"}}, "reply_unreadable"),
        ({"status_code": 307, "headers": {"Location": "https://evil.test"}}, "redirected"),
        ({"exc": requests.ReadTimeout}, "exchange_unknown"),
    ],
)
def test_sec_017_a_fault_is_named_nothing_is_stored_and_the_state_is_spent(
    app, alice, provider, answer, code
):
    provider.post(TOKEN, **answer)
    trip = leave(alice)
    assert failed_with(app, trip, trip.back()) == code
    assert trip.back().location == f"{CLEAN}?failed={trip.flow_id}"
    assert provider.call_count == 1 and rows(app, Connection) == []


def test_sec_018_github_answers_a_bad_code_with_200(app, alice, provider):
    mapped = {"form": True, "errors": {"bad_verification_code": "code_rejected"}}
    acme.add(app, "hub", reply=mapped)
    provider.post(TOKEN, text="error=bad_verification_code", headers={"Content-Type": "text/plain"})
    trip = leave(alice, "hub")
    trip.back()
    assert flow_of(app, trip).error_code == "code_rejected"


def test_github_answers_as_a_form(app, alice, provider):
    acme.add(app, "hub", reply={"form": True, "scope_separator": ","}, scopes=["repo", "gist"])
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    provider.post(
        TOKEN, text="access_token=gho_1&scope=repo%2Cgist&token_type=bearer", headers=form
    )
    assert leave(alice, "hub").back().location == "/connections/hub"
    assert rows(app, Connection)[0].scopes_granted == ["repo", "gist"]


def test_sec_012_an_unsent_code_is_sent_again(alice, provider):
    provider.post(TOKEN, [{"exc": requests.ConnectTimeout}, {"json": GOOD}])
    assert leave(alice).back().location == CLEAN
    assert provider.call_count == 2


def test_sec_016_the_secret_goes_out_form_encoded_and_once(app, alice, provider):
    acme.add(app, "hard", client_secret="a:b%+ ü&=", token_endpoint_auth_method="post")
    provider.post(TOKEN, json=GOOD)
    leave(alice, "hard").back()
    assert sent(provider)["client_secret"] == "a:b%+ ü&="
    assert "Authorization" not in provider.last_request.headers


# -- an admin at the same time -------------------------------------------------------------------


def edit(app, **oauth) -> None:
    with app.app_context():
        gateway = gateways.find("acme")
        record = gateways.record(gateway)
        record["oauth_config"] |= {"client_secret": "s3cret"} | oauth
        known = {name: value for name, value in record.items() if name in GatewaySpec.model_fields}
        gateways.update(gateway, specs.read(GatewaySpec, known), by=SYSTEM)
        db.session.commit()


def test_f_41_an_edited_gateway_ends_the_flow(app, alice, provider):
    trip = leave(alice)
    edit(app, audience="another")
    assert failed_with(app, trip, trip.back()) == "config_changed"
    assert not provider.called


def test_f_41_an_edit_while_we_ask_ends_the_flow(app, alice, provider):
    def meanwhile(_request, _context):
        with app.app_context(), db.engine.begin() as link:
            link.execute(sa.update(OAuthConfig).values(config_version=99))
        return GOOD

    provider.post(TOKEN, json=meanwhile)
    trip = leave(alice)
    assert failed_with(app, trip, trip.back()) == "config_changed"
    assert rows(app, Connection) == []


def test_an_edited_gateway_sends_nobody_off(app, alice):
    trip = leave(alice)
    edit(app, audience="another")
    reply = alice.get(f"/oauth/connect/acme?flow={trip.flow_id}")
    assert (reply.status_code, reply.location) == (303, CLEAN)


def test_a_gateway_that_was_switched_off_ends_the_flow(app, alice, provider):
    trip = leave(alice)
    with app.app_context():
        gateways.switch(gateways.find("acme"), False, by=SYSTEM)
        db.session.commit()
    assert failed_with(app, trip, trip.back()) == "config_changed"
    assert not provider.called


@pytest.mark.parametrize("who", ["bob", "stranger", "herself elsewhere"])
def test_only_who_began_is_sent_off(app, alice, bob, stranger, who):
    trip = leave(alice)
    there = {"bob": bob, "stranger": stranger}.get(who) or Browser(app).login("alice@example.com")
    reply = there.get(f"/oauth/connect/acme?flow={trip.flow_id}")
    assert "as.test" not in reply.location


# -- what stays behind ---------------------------------------------------------------------------


def test_sec_013_code_and_state_leave_no_trace(app, alice, provider, caplog):
    caplog.set_level(logging.DEBUG)
    provider.post(TOKEN, json=GOOD | {"access_token": "canary-token"})
    trip = leave(alice)
    code, state = "canary-code", trip.asked["state"]
    replies = [trip.back(code=code), trip.back(code=code), alice.get("/me")]
    refused = leave(alice).back(code=code, error="access_denied")
    for reply in (*replies, refused):
        assert not {code, state} & {reply.location} and code not in str(reply.headers)
        assert code not in reply.text and state not in reply.text
    for reply in (*replies[:2], refused):
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Cache-Control"] == "no-store"
    lines = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    for canary in (code, state, "canary-token", "s3cret"):
        assert not [line for line in lines if canary in line]
    kept = json.dumps([str(vars(row)) for row in (*rows(app, Flow), *rows(app, AuditEvent))])
    for canary in (code, state, "canary-token"):
        assert canary not in kept


def test_sec_113_a_consent_is_written_down_from_both_ends(app, alice, provider):
    provider.post(TOKEN, json=GOOD)
    leave(alice).back()
    refused = leave(alice)
    refused.back(code="", error="access_denied")
    refused.back(by=Browser(app))
    events = [row for row in rows(app, AuditEvent) if row.action.startswith("consent.")]
    told = sorted((row.action, row.outcome, row.details.get("code")) for row in events)
    assert told == [
        ("consent.begun", "ok", None),
        ("consent.begun", "ok", None),
        ("consent.finished", "ok", None),
        ("consent.refused", "denied", "access_denied"),
        ("consent.refused", "denied", "sign_in_needed"),
    ]
    assert {row.actor_label for row in events} == {"alice@example.com", ""}


def test_f_23_tokens_wait_for_a_database_that_is_locked(app, alice, provider, database_url):
    """Nobody gives them twice. The lock falls as the provider answers, and outlasts one try."""
    trip, engine, releases = leave(alice), sa.create_engine(database_url), []
    lock, held_s = "LOCK TABLE flow IN ACCESS EXCLUSIVE MODE", 0.5
    if engine.dialect.name == "sqlite":
        lock, held_s = "BEGIN IMMEDIATE", PATIENCE_S + 1

    def answer(_request, _context):
        link = engine.connect()
        link.exec_driver_sql(lock)
        releases.append(threading.Timer(held_s, link.close))
        releases[0].start()
        return GOOD

    provider.post(TOKEN, json=answer)
    page = trip.back()
    releases[0].join()
    engine.dispose()
    assert (page.status_code, page.location) == (303, CLEAN)


@pytest.mark.parametrize(
    ("statement", "error"),
    [("UPDATE flow SET", InternalError), ("INSERT INTO audit_event", ProgrammingError)],
    ids=["read-only", "not recorded"],
)
def test_f_24_f_44_tokens_wait_for_a_database_that_takes_or_records_nothing(
    app, alice, provider, statement, error
):
    """As PostgreSQL says while it is read-only; and as it is while no event can be written."""
    trip, fails = leave(alice), []

    def answer(_request, _context):
        fails.append(Fails(statement, "before", times=2, error=error))
        return GOOD | {"refresh_token": "rt-1"}

    provider.post(TOKEN, json=answer)
    page = trip.back()
    assert (page.status_code, page.location) == (303, CLEAN)
    assert fails[0].left == 0
    assert [row.state for row in rows(app, Connection)] == ["active"]
    assert rows(app, Revocation) == []


def test_f_44_who_cannot_be_recorded_to_the_end_is_told_what_became_of_the_grant(
    app, alice, provider
):
    trip = leave(alice)

    def answer(_request, _context):
        Fails("INSERT INTO audit_event", "before", times=10**6, error=ProgrammingError)
        return GOOD

    provider.post(TOKEN, json=answer)
    with app.app_context():
        seen = ladder.by_id(trip.flow_id)
        name = ladder.cookie_name(trip.flow_id)
        cookies = {name: alice.client.get_cookie(name, domain="gw.test").value}
        caller = Caller(seen.user_id, "alice@example.com", is_admin=False)
        sent = Callback("/oauth/callback", trip.asked["state"], "code", None, None)
        with pytest.raises(ConsentFailed) as caught:
            flow.finish(caller, sent, cookies=cookies, by=SYSTEM, patience=0.0)
    assert caught.value.code == "consent_not_kept"
    page = alice.get(f"{CLEAN}?failed={trip.flow_id}").text
    assert "Your sign-in could not be kept" in page
    assert "If you do not, remove this app at as.test." in html.unescape(page)
    assert rows(app, Connection) == rows(app, Revocation) == []


# -- against a deletion ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["gateway", "person"])
def test_f_26_a_sign_in_that_comes_back_waits_for_no_deletion_that_waits_for_it(
    app, alice, provider, what
):
    """The deletion begins while the flow is locked, and gets as far as it can."""
    trip, threads, met = leave(alice), [], Deadlocks(app)
    user_id = flow_of(app, trip).user_id

    def delete():
        with app.app_context():
            if what == "gateway":
                gateways.delete(gateways.find("acme"), by=SYSTEM)
            else:
                people.delete(user_id, by=SYSTEM)
            db.session.commit()

    def begin_to_delete(_link, _cursor, statement, parameters, *_):
        if statement.startswith("UPDATE flow SET") and "done" in repr(parameters) and not threads:
            threads.append(threading.Thread(target=delete))
            threads[0].start()
            met.wait_until(met.somebody_waits)

    with app.app_context():
        sa.event.listen(db.engine, "after_cursor_execute", begin_to_delete)
    provider.post(TOKEN, json=GOOD)
    reply = trip.back()
    threads[0].join(timeout=60)
    assert not threads[0].is_alive() and met.found == []
    assert reply.status_code in (303, 404)  # 404: it is deleted before the answer names it
    assert rows(app, Connection) == rows(app, Flow) == []
    assert rows(app, Gateway if what == "gateway" else User) == []
