"""What a flow pins, asks for and remembers; the way through a browser is in tests/web."""

import json
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from app.access import Caller
from app.audit import SYSTEM
from app.db import db
from app.errors import Conflict, ConsentFailed
from app.models import Flow, OAuthConfig
from app.oauth import callback, flow, parked
from app.oauth.callback import Callback
from tests.oauth.planted import ALICE, acme, grant, plant, stored

pytestmark = pytest.mark.usefixtures("app_ctx")


def begin(**more) -> flow.Begun:
    begun = flow.begin(ALICE, acme(), return_to="/x", by=SYSTEM, **more)
    db.session.commit()
    return begun


def row() -> Flow:
    return db.session.scalars(sa.select(Flow)).one()


def change(**values) -> None:
    with db.engine.begin() as link:
        link.execute(sa.update(Flow).values(**values))


def state_of(begun: flow.Begun) -> str:
    url = flow.onward(ALICE, "acme", begun.flow_id, cookies=cookies(begun))
    return dict(parse_qsl(url.partition("?")[2]))["state"]


def cookies(begun: flow.Begun) -> dict[str, str]:
    return {begun.cookie_name: begun.cookie_value}


# -- begin ---------------------------------------------------------------------------------------


def test_a_flow_pins_all_that_the_exchange_needs():
    plant(issuer="https://as.test", audience="api", scopes="a b")
    begin(purpose="connect")
    kept = row()
    assert kept.issuer == "https://as.test" and kept.audience == "api"
    assert kept.authorization_url == "https://as.test/authorize"
    assert kept.token_url == "https://as.test/token"
    assert kept.redirect_uri == "https://gw.test/oauth/callback"
    assert kept.resource == "https://mcp.test/mcp" and kept.scopes_requested == ["a", "b"]
    assert kept.registration_id and kept.registration_generation == 1 == kept.config_version
    assert kept.expires_ms - kept.created_ms == 300_000


def test_a_reader_of_the_database_can_finish_nothing():
    plant()
    begun = begin()
    kept = json.dumps({name: str(value) for name, value in vars(row()).items()})
    assert begun.cookie_value not in kept and state_of(begun) not in kept


@pytest.mark.parametrize(
    ("kept", "offline", "asked"),
    [
        ({"store_tokens": True, "auto_refresh": True}, {"scopes": ["offline_access"]}, True),
        ({"store_tokens": True}, {"scopes": ["offline_access"]}, False),
        ({}, {"scopes": ["offline_access"]}, False),
        ({"store_tokens": True, "auto_refresh": True}, None, False),
    ],
)
def test_offline_access_is_asked_for_only_where_it_is_kept(kept, offline, asked):
    plant(kept=kept, offline=offline, scopes=["a"])
    assert begin().scopes == (("a", "offline_access") if asked else ("a",))


def test_a_step_up_asks_for_the_union():
    plant(scopes=["a", "b"])
    waits = parked.park(ALICE, acme(), digest="d", request=None, scopes=["b", "c"])
    begun = begin(purpose="step_up", parked_call=waits.id)
    assert begun.scopes == ("a", "b", "c") and row().parked_call_id == waits.id


@pytest.mark.parametrize(
    ("resource", "url", "named"),
    [
        ("auto", "https://mcp.test/mcp", "https://mcp.test/mcp"),
        ("auto", "https://mcp.test/mcp/?a=b", "https://mcp.test/mcp/?a=b"),
        ("auto", "https://mcp.test/", "https://mcp.test"),
        ("never", "https://mcp.test/mcp", None),
        ("urn:api", "https://mcp.test/mcp", "urn:api"),
    ],
)
def test_sec_020_the_resource_is_pinned(resource, url, named):
    plant(resource=resource)
    with db.engine.begin() as link:
        link.execute(sa.text("UPDATE gateway SET url = :url"), {"url": url})
    begin()
    assert row().resource == named


def test_without_a_client_nobody_leaves():
    plant()
    with db.engine.begin() as link:
        link.execute(sa.update(OAuthConfig).values(registration_id=None))
    with pytest.raises(Conflict) as caught:
        begin()
    assert caught.value.code == "client_needed"


def test_sec_010_a_redirect_uri_of_another_address_sends_nobody_off(app_ctx):
    plant(redirect_uri="https://gw.test/oauth/callback/acme")
    app_ctx.config["PUBLIC_URL"] = "https://moved.test"
    with pytest.raises(Conflict) as caught:
        begin()
    assert caught.value.code == "redirect_foreign"
    assert "https://moved.test/oauth/callback" in caught.value.action


# -- onward --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "changed", "shown", "code"),
    [
        ("other", {}, True, "state_unknown"),
        ("acme", {"status": "used"}, True, "state_used"),
        ("acme", {"expires_ms": 0}, True, "state_expired"),
        ("acme", {"config_version": 7}, True, "config_changed"),
        ("acme", {}, False, "wrong_browser"),
    ],
)
def test_a_flow_leads_on_only_while_it_may(slug, changed, shown, code):
    plant()
    begun = begin()
    change(**changed or {"status": "open"})
    with pytest.raises(ConsentFailed) as caught:
        flow.onward(ALICE, slug, begun.flow_id, cookies=cookies(begun) if shown else {})
    assert caught.value.code == code


def test_nobody_goes_on_with_a_flow_that_is_none():
    plant()
    with pytest.raises(ConsentFailed):
        flow.onward(ALICE, "acme", "nope", cookies={})


# -- failure -------------------------------------------------------------------------------------


def fail(begun: flow.Begun, **query) -> ConsentFailed:
    sent = Callback("/oauth/callback", state_of(begun), None, None, None)
    with pytest.raises(ConsentFailed) as caught:
        flow.finish(ALICE, replace(sent, **query), cookies=cookies(begun), by=SYSTEM)
    return caught.value


def test_a_failure_is_told_again_with_all_its_words():
    plant()
    begun = begin()
    first = fail(begun, error="redirect_uri_mismatch", error_description="no <such> URI")
    again = flow.failure(ALICE, begun.flow_id)
    assert again.said == first.said == "redirect_uri_mismatch: no <such> URI"
    told = [(one.code, one.message, one.cause, one.action, one.admin) for one in (first, again)]
    assert told[0] == told[1]


def test_a_mapped_word_names_what_to_add_at_the_provider():
    plant(reply={"errors": {"redirect_uri_mismatch": "redirect_not_registered"}})
    begun = begin()
    fail(begun, error="redirect_uri_mismatch")
    assert "https://gw.test/oauth/callback" in flow.failure(ALICE, begun.flow_id).admin


def test_the_second_try_hears_how_the_first_one_ended():
    plant()
    begun = begin()
    assert flow.failure(ALICE, begun.flow_id) is None
    state = state_of(begun)
    fail(begun, error="access_denied")
    sent = Callback("/oauth/callback", state, "code", None, None)
    with pytest.raises(ConsentFailed) as caught:
        flow.finish(ALICE, sent, cookies=cookies(begun), by=SYSTEM)
    assert caught.value.code == "state_used" and "You said no" in caught.value.cause


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"status": "done"}, None),
        ({"status": "open"}, None),
        ({"status": "used"}, "state_used"),
        ({"expires_ms": 0}, "state_expired"),
        ({"status": "done", "expires_ms": 0}, None),
    ],
)
def test_a_flow_that_did_not_fail_says_so(changed, code):
    plant()
    begun = begin()
    change(**changed)
    told = flow.failure(ALICE, begun.flow_id)
    assert (told and told.code) == code


def test_a_failure_is_told_to_nobody_else():
    plant()
    begun = begin()
    fail(begun, error="access_denied")
    assert flow.failure(Caller("bob", "bob@example.com", is_admin=False), begun.flow_id) is None
    assert flow.failure(ALICE, "nope") is None


def test_a_verifier_that_does_not_open_ends_the_flow():
    plant()
    begun = begin()
    sent = Callback("/oauth/callback", state_of(begun), "code", None, None)
    change(secrets_sealed="mg1.x.y")
    with pytest.raises(ConsentFailed) as caught:
        flow.finish(ALICE, sent, cookies=cookies(begun), by=SYSTEM)
    assert caught.value.code == "secret_unreadable"


# -- the query -----------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("code state error iss x".split()), st.text()), max_size=6)
)
def test_any_query_is_a_callback_or_is_refused(pairs):
    try:
        read = callback.read("/oauth/callback", pairs)
    except ConsentFailed as error:
        assert error.code == "response_invalid"
    else:
        assert {name: value for name, value in pairs if name == "code"} == (
            {} if read.code is None else {"code": read.code}
        )


def test_refused_step_up_keeps_the_old_grant():
    plant(scopes=["a"])
    grant(scopes_requested=["a"], scopes_granted=["a"])
    columns = [column.key for column in stored().__table__.columns]
    before = {name: getattr(stored(), name) for name in columns}
    waits = parked.park(ALICE, acme(), digest="d", request=None, scopes=["a", "b"])
    begun = begin(purpose="step_up", parked_call=waits.id, target="tool")
    assert row().target == "tool" and begun.scopes == ("a", "b")
    fail(begun, error="access_denied")
    assert row().status == "failed"
    assert {name: getattr(stored(), name) for name in columns} == before
