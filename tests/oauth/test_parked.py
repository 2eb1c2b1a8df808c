"""A call that waits for a consent: sealed, for one person, run once, given once."""

import threading

import pytest
import sqlalchemy as sa

from app import access
from app.db import db
from app.errors import AppError, ConsentFailed, NotFound
from app.models import Flow, OAuthConfig, ParkedCall, User
from app.oauth import parked, stepping
from tests.oauth.planted import ALICE, acme, plant

pytestmark = pytest.mark.usefixtures("app_ctx")
BOB = access.Caller("bob", "bob@example.com", is_admin=False)
CALL = b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"canary"}}'
BYTES = bytes(range(256))


@pytest.fixture(autouse=True)
def people(app_ctx):
    plant(kept={})
    db.session.add(User(id=BOB.user_id, email=BOB.email))
    db.session.commit()


def wait(request=CALL, *, caller=ALICE, digest="d1", **more) -> parked.Parked:
    return parked.park(caller, acme(caller), digest=digest, request=request, **more)


def later(ms: int) -> None:
    """As if so much time had gone by."""
    with db.engine.begin() as link:
        p = ParkedCall
        link.execute(sa.update(p).values(expires_ms=p.expires_ms - ms, lease_ms=p.lease_ms - ms))


def stored() -> list[ParkedCall]:
    with sa.orm.Session(db.engine) as session:
        return list(session.scalars(sa.select(ParkedCall)))


def over() -> None:
    later(parked.LIFE_S * 1000)


@pytest.mark.parametrize("request_", [CALL, BYTES, b""])
def test_what_waits_is_sealed_and_comes_back_as_it_was(request_):
    waits = wait(request_)
    [row] = stored()
    assert row.request_sealed.startswith("mg1.") and row.id == waits.id
    assert parked.take(waits.id) == request_


def test_a_call_is_run_once():
    waits = wait()
    assert parked.take(waits.id) == CALL
    assert parked.take(waits.id) is None
    assert parked.outcome(ALICE, acme(), waits.id).state == "running"


def test_of_two_runners_at_a_time_one_gets_the_call(app_ctx):
    waits, got = wait(), []
    meet = threading.Barrier(4, timeout=20)

    def run():
        with app_ctx.app_context():
            meet.wait()
            got.append(parked.take(waits.id))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(got, key=bool) == [None, None, None, CALL]


def test_the_same_call_waits_once():
    first, second = wait(), wait()
    assert first == second and len(stored()) == 1
    assert wait(digest="d2").id != first.id != wait(caller=BOB).id


def test_parked_at_the_same_moment_it_waits_once(app_ctx):
    got, meet = [], threading.Barrier(4, timeout=20)

    def park():
        with app_ctx.app_context():
            gateway = acme()
            meet.wait()
            got.append(parked.park(ALICE, gateway, digest="d1", request=CALL).id)

    threads = [threading.Thread(target=park) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 4 and len(set(got)) == 1


@pytest.mark.parametrize("ok", [True, False])
def test_a_result_is_handed_over_once_and_shown_as_often_as_one_looks(ok):
    waits = wait()
    parked.take(waits.id)
    parked.keep_result(waits.id, BYTES, ok=ok)
    assert wait() == waits.__class__(waits.id, "done" if ok else "failed")
    assert parked.hand_over(ALICE, acme(), "d1") == BYTES
    assert parked.hand_over(ALICE, acme(), "d1") is None
    for _ in range(2):
        shown = parked.outcome(ALICE, acme(), waits.id)
        assert (shown.state, shown.request, shown.result) == (
            "done" if ok else "failed",
            CALL,
            BYTES,
        )


def test_once_handed_over_the_next_call_waits_anew():
    first = wait()
    parked.take(first.id)
    parked.keep_result(first.id, b"{}", ok=True)
    parked.hand_over(ALICE, acme(), "d1")
    second = wait()
    assert second.id != first.id and second.state == "waiting"


@pytest.mark.parametrize("digest", ["d1", "d2"])
def test_nobody_else_gets_a_result(digest):
    waits = wait()
    parked.take(waits.id)
    parked.keep_result(waits.id, b"{}", ok=True)
    assert parked.hand_over(BOB, acme(BOB), digest) is None
    with pytest.raises(NotFound):
        parked.outcome(BOB, acme(), waits.id)
    with pytest.raises(NotFound):
        parked.wanted(BOB, waits.id)


def test_a_result_is_kept_only_of_what_runs():
    waits = wait()
    parked.keep_result(waits.id, b"{}", ok=True)
    assert parked.outcome(ALICE, acme(), waits.id).state == "waiting"
    parked.keep_result("nobody", b"{}", ok=True)


def test_after_ten_minutes_nothing_is_left_to_run_or_read():
    waits = wait()
    over()
    assert parked.take(waits.id) is None
    shown = parked.outcome(ALICE, acme(), waits.id)
    assert (shown.state, shown.request, shown.result) == ("over", None, None)
    assert wait().id != waits.id


def test_a_run_that_was_killed_is_unknown_and_does_not_run_by_itself():
    waits = wait()
    parked.take(waits.id)
    later(parked.RUN_MS)
    assert parked.outcome(ALICE, acme(), waits.id).state == "unknown"
    assert parked.take(waits.id) is None and wait().id == waits.id


def test_what_is_run_in_the_last_second_can_still_be_read():
    waits = wait()
    later(parked.LIFE_S * 1000 - 1000)
    assert parked.take(waits.id) == CALL
    later(60_000)
    parked.keep_result(waits.id, b"{}", ok=True)
    assert parked.outcome(ALICE, acme(), waits.id).result == b"{}"


def test_where_tokens_are_stored_nothing_waits():
    waits = wait(None, scopes=["write"])
    assert waits.scopes == ("write",) == parked.wanted(ALICE, waits.id)
    assert parked.take(waits.id) is None
    assert parked.outcome(ALICE, acme(), waits.id).state == "waiting"


@pytest.mark.parametrize(("first", "second"), [(CALL, None), (None, CALL)])
def test_a_call_of_before_the_storage_was_switched_is_not_run(first, second):
    old = wait(first)
    new = wait(second)
    assert new.id != old.id and parked.take(old.id) is None
    assert parked.take(new.id) == second


def test_the_scopes_asked_for_last_count():
    wait(scopes=["a"])
    assert wait(scopes=["b"]).scopes == ("b",)
    assert wait().scopes == ("b",)


def test_what_is_too_large_does_not_wait():
    with pytest.raises(AppError) as caught:
        wait(b"x" * (parked.REQUEST_LIMIT + 1))
    assert caught.value.code == "too_large" and stored() == []
    waits = wait()
    parked.take(waits.id)
    with pytest.raises(AppError):
        parked.keep_result(waits.id, b"x" * (parked.RESULT_LIMIT + 1), ok=True)
    assert parked.outcome(ALICE, acme(), waits.id).state == "running"


def test_a_gateway_without_oauth_has_nothing_to_wait_for():
    bare = access.Usable(**{name: None for name in access.Usable.__dataclass_fields__})
    with pytest.raises(NotFound):
        parked.park(ALICE, bare, digest="d1", request=CALL)


# -- the link ------------------------------------------------------------------------------------


def handle(waits: parked.Parked) -> str:
    url = parked.link(ALICE, acme(), waits.id)
    assert url.startswith("https://gw.test/connections/acme?ask=mg1.")
    return url.partition("ask=")[2]


def refused(caller, ask: str) -> str:
    with pytest.raises(ConsentFailed) as caught:
        parked.asked(caller, acme(caller), ask)
    return caught.value.code


def test_a_link_opens_for_its_person_only():
    waits = wait(scopes=["a"])
    ask = handle(waits)
    asked = parked.asked(ALICE, acme(), ask)
    assert (asked.id, asked.state, asked.scopes) == (waits.id, "waiting", ("a",))
    assert asked.config_id == acme().config.id and asked.target == ""
    assert refused(BOB, ask) == "ask_foreign"


def test_a_link_names_no_person_and_no_call():
    ask = handle(wait(digest="digest"))  # no text of two letters, which chance would put there
    assert "alice" not in ask and "canary" not in ask and "digest" not in ask


def test_an_old_or_made_up_link_is_over():
    ask = handle(wait())
    assert refused(ALICE, ask[:-1]) == refused(ALICE, "mg1.x") == refused(ALICE, "") == "ask_over"
    over()
    assert refused(ALICE, ask) == "ask_over"


# -- rights that a call lacks (oauth.md section 9) ------------------------------------------------


def consented(target: str, count: int) -> None:
    gateway = acme()
    for number in range(count):
        flow = Flow(oauth_config_id=gateway.config.id, config_version=gateway.config.version)
        flow.user_id, flow.target, flow.status = ALICE.user_id, target, "done"
        flow.state_hash, flow.created_ms = f"{target}{number}", 1_000_000 + number
        for name in ("cookie_hash", "return_to", "authorization_url", "token_url", "redirect_uri"):
            setattr(flow, name, "x")
        flow.registration_id, flow.secrets_sealed = gateway.config.registration_id, "x"
        flow.expires_ms = flow.created_ms
        db.session.add(flow)
    db.session.commit()


def test_step_up_stops_after_three():
    def asks(target="tool"):
        return stepping.union(ALICE, acme(), target, ["write"])

    consented("tool", 2)
    assert asks() == ["write"]
    consented("tool 2", 3)
    assert asks("tool 2") is None and asks() == ["write"]
    with db.engine.begin() as link:  # an admin changes the scopes
        link.execute(sa.update(OAuthConfig).values(config_version=9))
    assert asks("tool 2") == ["write"]


def test_step_up_that_adds_nothing_is_not_asked_for():
    assert stepping.union(ALICE, acme(), "tool", []) is None
    assert stepping.union(ALICE, acme(), "tool", ["a"], already=["a"]) is None
    assert stepping.union(ALICE, acme(), "tool", ["b", "c"], already=["a", "b"]) == ["a", "b", "c"]


def test_a_call_that_lacks_rights_waits_again_and_runs_again():
    waits = wait()
    assert parked.take(waits.id) == CALL and parked.put_back(waits.id, ["a", "b"])
    assert parked.wanted(ALICE, waits.id) == ("a", "b")
    assert parked.take(waits.id) == CALL and parked.take(waits.id) is None
