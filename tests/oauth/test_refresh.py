"""What one renewal does with each answer (oauth.md 6.2, 7). Races of processes: test_race.py."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from app.db import db, db_now_ms
from app.errors import ConnectionNeeded, NotFound, ProviderError, TokenRefused, UpstreamTimeout
from app.models import AuditEvent, Gateway
from app.oauth import lease, refresh
from app.oauth.freshness import Need, Timing
from app.oauth.replies import TokenSet
from tests.oauth.planted import (
    ALICE,
    DEAD,
    FRESH,
    KEPT,
    NEW,
    STALE,
    Ask,
    acme,
    change,
    grant,
    plant,
    sealed,
    stored,
    token_of,
)

FAST = Timing(deadline=3.0, margin=2.0, quiet=1.0, threshold=600.0, usable=0.5)
ENDED = ProviderError("grant_ended", kind="dead")
DOWN = ProviderError("connect_failed", kind="unsent")
LOST = ProviderError("timeout", kind="unknown")
REFUSED = ProviderError("token_request_rejected", kind="refused")


@pytest.fixture
def acme_oauth(app_ctx) -> str:
    return plant()


pytestmark = pytest.mark.usefixtures("acme_oauth")


def renew(ask, *, after=None, timing=FAST) -> str:
    """The token that comes out."""
    return token_of(refresh.renew(acme(), after=after, timing=timing, ask=ask))


def at_once(app, count, call) -> list:
    """The results of `count` threads."""

    def with_context(_: int):
        with app.app_context():
            return call()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(with_context, range(count)))


def now_ms() -> int:
    with db.engine.connect() as link:
        return link.scalar(sa.select(db_now_ms()))


def events() -> list[tuple[str, str, str]]:
    with db.engine.connect() as link:
        e = AuditEvent
        rows = link.execute(sa.select(e.action, e.outcome, e.details).order_by(e.at))
        return [(action, outcome, details.get("code", "")) for action, outcome, details in rows]


# -- nothing to do -------------------------------------------------------------------------------


def test_a_fresh_token_is_handed_out_unasked():
    grant(FRESH)
    assert renew(Ask()) == "at-1"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("needs_reauth", "grant_ended"),
        ("revoked", None),
        ("orphaned", "gateway_changed"),
    ],
)
def test_a_connection_that_is_over_needs_the_person(state, reason):
    grant(FRESH, state=state, reason=reason)
    with pytest.raises(ConnectionNeeded) as caught:
        renew(Ask())
    told = caught.value
    assert (told.gateway, told.name, told.state, told.reason) == (
        "acme",
        "Acme",
        state,
        reason or "",
    )


def test_no_connection_needs_the_person():
    with pytest.raises(ConnectionNeeded) as caught:
        renew(Ask())
    assert caught.value.state == "pending"


def test_a_gateway_that_was_deleted_meanwhile_is_not_found():
    grant(DEAD)
    gateway = acme()
    with db.engine.begin() as link:
        link.execute(sa.delete(Gateway))
    with pytest.raises(NotFound):
        refresh.renew(gateway, timing=FAST, ask=Ask())


# -- success -------------------------------------------------------------------------------------


def test_sec_106_tokens_and_times_are_stored_together():
    grant(DEAD, fail_count=3, last_error_code="timeout", not_before_ms=1)
    ask = Ask(NEW)
    assert renew(ask) == "at-2"
    row = stored()
    assert ask.asked == ["rt-1"]
    assert token_of(row, "refresh_token_sealed") == "rt-2"
    assert (row.state, row.token_gen, row.attempt_id, row.lease_ms) == ("active", 2, None, 0)
    assert (row.fail_count, row.last_error_code, row.not_before_ms) == (0, None, 0)
    assert row.last_refresh_ms >= row.issued_ms
    assert events() == [("connection.recovered", "ok", "")]


@pytest.mark.parametrize("said", [None, "rt-1"])
def test_sec_106_no_new_refresh_token_keeps_the_old_one(said):
    grant(DEAD, refresh_expires_ms=7)
    renew(Ask(TokenSet("at-2", said, 3600.0)))
    assert token_of(stored(), "refresh_token_sealed") == "rt-1"
    assert stored().refresh_expires_ms == 7


def test_sec_108_life_is_counted_from_before_sending():
    """By the database's clock, at the moment the lease was taken."""
    grant(DEAD)
    claimed = []

    def slowly():
        claimed.append(stored().attempt_ms)
        return NEW

    renew(Ask(slowly))
    assert stored().issued_ms == claimed[0]
    assert stored().expires_ms == claimed[0] + 3_600_000


def test_no_database_connection_waits_for_the_provider():
    grant(DEAD)
    held = []

    def count():
        held.append(db.engine.pool.checkedout())
        return NEW

    renew(Ask(count))
    assert held == [0]


def test_what_a_reply_says_of_scopes_is_kept_and_nothing_is_made_up():
    grant(DEAD, scopes_granted=["a", "b"])
    renew(Ask(NEW))
    assert stored().scopes_granted == ["a", "b"]
    change(expires_ms=1)
    renew(Ask(replace(NEW, scopes=("a",))))
    assert stored().scopes_granted == ["a"]


def test_sec_109_without_expires_in_a_token_serves_until_it_is_refused():
    grant(DEAD)
    ask = Ask(TokenSet("at-2", "rt-2", None), TokenSet("at-3", "rt-3", None))
    assert renew(ask) == "at-2"
    assert renew(ask) == "at-2"
    assert stored().expires_ms is None
    assert renew(ask, after=2) == "at-3"


def test_a_token_that_ends_at_once_serves_the_call_in_hand():
    grant(DEAD)
    ask = Ask(TokenSet("at-2", "rt-2", 0.0), NEW)
    assert renew(ask) == "at-2"
    assert renew(ask) == "at-2"  # of NEW
    assert ask.asked == ["rt-1", "rt-2"]


# -- at the same time ----------------------------------------------------------------------------


def test_sec_108_a_living_token_never_waits(app):
    grant(STALE)
    asked, answer = threading.Event(), threading.Event()

    def slowly():
        asked.set()
        assert answer.wait(10)
        return NEW

    def first():
        with app.app_context():
            return renew(Ask(slowly))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first)
        assert asked.wait(10)
        assert renew(Ask()) == "at-1"  # while nobody has answered
        change(attempt_id="of another process")  # nor does it ask, where the lease is another's
        assert renew(Ask()) == "at-1"
        answer.set()
        assert waiting.result() == "at-2"


def test_sec_108_a_queued_caller_does_not_wait_once_the_token_lives(app):
    """It came while the token was dead, and the lock is held for a renewal that goes on."""
    grant(DEAD)
    asked, answer = threading.Event(), threading.Event()

    def slowly():
        asked.set()
        assert answer.wait(10)
        return NEW

    def call(ask):
        with app.app_context():
            return renew(ask)

    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(call, Ask(slowly))
        assert asked.wait(10)
        queued = pool.submit(call, Ask())
        change(access_token_sealed=sealed("at-9"), expires_ms=now_ms() + 3_600_000)
        assert queued.result(10) == "at-9"
        answer.set()
        assert holder.result() == "at-2"


def test_sec_103_fifty_callers_without_a_living_token_cause_one_request(app):
    grant(DEAD)
    ask = Ask(NEW)
    assert set(at_once(app, 50, lambda: renew(ask))) == {"at-2"}
    assert ask.asked == ["rt-1"]


def test_sec_110_fifty_refused_callers_cause_one_request(app):
    grant(FRESH)
    ask = Ask(NEW)
    assert set(at_once(app, 50, lambda: renew(ask, after=1))) == {"at-2"}
    assert ask.asked == ["rt-1"]


def test_a_lease_of_another_process_is_waited_for_no_longer_than_wait():
    grant(DEAD, state="refreshing", attempt_id="another", lease_ms=now_ms() + 60_000)
    with pytest.raises(ProviderError) as caught:
        renew(Ask(), timing=replace(FAST, deadline=-2.9, margin=5.0))
    assert (caught.value.code, stored().attempt_id) == ("provider_unreachable", "another")
    assert 50 <= caught.value.retry_after <= 60


def test_a_lease_that_ran_out_is_taken_over():
    grant(DEAD, state="refreshing", attempt_id="of the dead", lease_ms=now_ms() - 1)
    assert renew(Ask(NEW)) == "at-2"


def test_after_a_crash_the_living_token_is_used_up_first():
    """Nobody knows whether the refresh token was used: it is shown again only after QUIET."""
    grant(STALE, state="refreshing", attempt_id="of the dead", lease_ms=now_ms() - 1)
    assert renew(Ask(), timing=replace(FAST, quiet=60.0)) == "at-1"
    assert renew(Ask(NEW), timing=replace(FAST, quiet=0.0)) == "at-2"


def test_sec_104_a_late_loser_cannot_end_a_newer_grant():
    grant(DEAD)

    def overtaken():
        newer = {"token_gen": 2, "state": "active", "attempt_id": None, "lease_ms": 0}
        change(**newer, access_token_sealed=sealed("at-9"), expires_ms=now_ms() + 3_600_000)
        raise ENDED

    assert renew(Ask(overtaken)) == "at-9"
    assert (stored().state, stored().fail_count) == ("active", 0)


def test_sec_104_a_loser_cannot_end_the_attempt_of_another():
    grant(DEAD)

    def overtaken():
        """Its lease ran out, and another asks now."""
        change(attempt_id="another", lease_ms=now_ms() + 60_000)
        raise ENDED

    with pytest.raises(ProviderError):
        renew(Ask(overtaken), timing=replace(FAST, deadline=-2.9, margin=5.0))
    assert (stored().state, stored().attempt_id) == ("refreshing", "another")


def test_a_late_success_is_kept_while_no_newer_tokens_are_in():
    grant(DEAD)

    def frozen():
        change(attempt_id="another", version=9)
        return NEW

    assert renew(Ask(frozen)) == "at-2"
    assert token_of(stored(), "refresh_token_sealed") == "rt-2"


def test_a_late_success_does_not_undo_newer_tokens():
    grant(DEAD)

    def frozen():
        newer = {"token_gen": 2, "state": "active", "lease_ms": 0}
        change(**newer, access_token_sealed=sealed("at-9"), expires_ms=now_ms() + 3_600_000)
        return NEW

    assert renew(Ask(frozen)) == "at-9"
    assert token_of(stored(), "refresh_token_sealed") == "rt-1"


@pytest.mark.parametrize("state", ["revoked", "orphaned"])
def test_f_40_a_connection_that_was_ended_meanwhile_stays_ended(state):
    grant(DEAD)

    def ended():
        change(state=state, token_gen=2, access_token_sealed=None, refresh_token_sealed=None)
        return NEW

    with pytest.raises(ConnectionNeeded) as caught:
        renew(Ask(ended))
    assert (caught.value.state, stored().access_token_sealed) == (state, None)


# -- refused by the MCP server -------------------------------------------------------------------


def test_f_31_a_renewed_token_that_is_refused_too_is_not_renewed_again():
    grant(FRESH)
    ask = Ask(NEW)
    renew(ask, after=1)
    with pytest.raises(TokenRefused):
        renew(ask, after=2)
    assert (stored().state, len(ask.asked)) == ("active", 1)


def test_forced_renewals_are_a_minute_apart():
    grant(FRESH)
    ask = Ask(NEW, replace(NEW, access_token="at-3"))
    renew(ask, after=1)
    change(forced_ms=now_ms() - 60_001)
    assert renew(ask, after=2, timing=replace(FAST, forced_gap=60.0)) == "at-3"


def test_f_31_refused_with_nothing_to_renew_it_needs_the_person():
    grant(FRESH, refresh_token=None)
    with pytest.raises(ConnectionNeeded) as caught:
        renew(Ask(), after=1)
    assert (caught.value.state, caught.value.reason) == ("needs_reauth", "refused_by_server")
    assert (stored().state, stored().reason) == ("needs_reauth", "refused_by_server")
    assert events() == [("connection.ended", "failed", "refused_by_server")]


def test_an_old_refusal_says_nothing_about_newer_tokens():
    grant(FRESH, token_gen=5)
    assert renew(Ask(), after=4) == "at-1"


# -- nothing to renew with -----------------------------------------------------------------------


def test_without_a_refresh_token_it_serves_to_its_end():
    grant(STALE, refresh_token=None)
    assert renew(Ask()) == "at-1"
    assert stored().state == "active"


def test_expired_with_nothing_to_renew_it_needs_the_person():
    grant(DEAD, refresh_token=None)
    with pytest.raises(ConnectionNeeded) as caught:
        renew(Ask())
    assert (stored().state, caught.value.reason) == ("needs_reauth", "expired")


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unsent", "busy", "refused", "client", "unknown"])
def test_sec_105_no_other_failure_ends_a_grant_or_stops_a_living_token(kind):
    grant(STALE, fail_count=8)  # so the pause is long
    ask = Ask(ProviderError("provider_error", kind=kind, said="so they say"))
    assert [renew(ask) for _ in range(3)] == ["at-1"] * 3
    row = stored()
    assert len(ask.asked) == 1
    assert row.state == ("refreshing" if kind == "unknown" else "failing")
    assert (row.lease_ms, row.attempt_id, row.fail_count) == (0, None, 9)
    assert (row.last_error_code, row.last_error_text) == ("provider_error", "so they say")
    assert token_of(row, "refresh_token_sealed") == "rt-1"


def test_an_error_without_a_class_counts_as_unknown():
    grant(STALE)
    assert renew(Ask(UpstreamTimeout("timeout"))) == "at-1"
    assert stored().state == "refreshing"


@pytest.mark.parametrize("error", [DOWN, LOST], ids=["unsent", "unknown"])
def test_without_a_living_token_it_is_told_when_to_come_back(error):
    grant(DEAD, fail_count=4)  # so the pause is 8 s at least
    ask = Ask(error)
    for _ in range(2):  # nobody asks again before, and nobody waits for it
        with pytest.raises(ProviderError) as caught:
            renew(ask, timing=replace(FAST, quiet=30.0))
        assert caught.value.code == "provider_unreachable"
        assert caught.value.facts["retry_after"] == caught.value.retry_after
        assert 1 <= caught.value.retry_after <= 30
    assert len(ask.asked) == 1


def test_f_04_a_retry_after_is_passed_on_and_not_slept_through():
    grant(DEAD)
    ask = Ask(ProviderError("provider_busy", kind="busy", retry_after=60))
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            renew(ask)
        assert 55 <= caught.value.retry_after <= 60


@pytest.mark.parametrize(("told", "least", "most"), [(10**9, 299, 300), (0, 0, 1)])
def test_f_04_an_odd_retry_after_is_bounded(told, least, most):
    grant(STALE)
    renew(Ask(ProviderError("provider_busy", kind="busy", retry_after=told)))
    assert least * 1000 <= stored().not_before_ms - now_ms() <= most * 1000


def test_f_05_pauses_grow_and_a_success_forgets_them():
    grant(STALE)
    pauses = []
    ask = Ask(*[DOWN] * 8, NEW)
    for _ in range(8):
        renew(ask)
        pauses.append(stored().not_before_ms - now_ms())
        change(not_before_ms=0, expires_ms=now_ms() + 300_000)
    assert pauses[0] <= 1500
    assert pauses[6] > 16 * pauses[0] > 0
    assert renew(ask) == "at-2"
    assert (stored().state, stored().fail_count) == ("active", 0)


def test_the_same_refusal_again_and_again_is_asked_for_once_an_hour():
    long_ago = {"refused_count": 11, "refused_ms": now_ms() - 700_000}
    grant(STALE, fail_count=12, last_error_code=REFUSED.code, state="failing", **long_ago)
    renew(Ask(REFUSED))
    assert stored().not_before_ms - now_ms() > 1_500_000
    assert (stored().state, stored().refused_count) == ("failing", 12)


@pytest.mark.parametrize(
    ("count", "minutes", "offered"), [(4, 11, True), (3, 11, False), (4, 9, False)]
)
def test_the_same_refusal_five_times_in_ten_minutes_offers_to_connect_again(
    count, minutes, offered
):
    """Some answer a dead refresh token with no word for it. Nothing ends by itself."""
    since = {"refused_count": count, "refused_ms": now_ms() - minutes * 60_000}
    grant(DEAD, fail_count=count, last_error_code=REFUSED.code, state="failing", **since)
    with pytest.raises(ProviderError) as caught:
        renew(Ask(REFUSED))
    assert caught.value.code == "provider_unreachable"
    assert ("https://gw.test/connections/acme" in caught.value.action) == offered
    assert stored().state == "failing"


@pytest.mark.parametrize("other", [DOWN, LOST, ProviderError("scope_rejected", kind="refused")])
def test_another_failure_in_between_counts_refusals_anew(other):
    grant(STALE)
    ask = Ask(REFUSED, REFUSED, other, REFUSED)
    counts = []
    for _ in range(4):
        renew(ask)
        counts.append((stored().refused_count, stored().refused_ms is not None))
        change(not_before_ms=0)
    assert counts[:2] + counts[3:] == [(1, True), (2, True), (1, True)]


def test_since_when_a_connection_is_in_its_state_and_fails():
    grant(STALE, state_ms=1)
    renew(Ask(DOWN))
    first = stored()
    assert (first.state, first.state_ms > 1) == ("failing", True)
    assert abs(first.failing_ms - now_ms()) < 60_000
    change(not_before_ms=0, failing_ms=7)
    renew(Ask(DOWN))
    assert stored().failing_ms == 7  # the first of them
    change(not_before_ms=0, state_ms=1)
    renew(Ask(NEW))
    assert (stored().failing_ms, stored().state) == (None, "active")
    assert stored().state_ms > first.failing_ms - 60_000


def test_a_refused_client_is_the_admins_matter():
    grant(DEAD)
    ask = Ask(ProviderError("client_rejected", kind="client"))
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            renew(ask)
        assert (caught.value.code, caught.value.kind) == ("client_rejected", "client")
    assert (stored().state, len(ask.asked)) == ("failing", 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("grant_ended", "grant_ended"), ("interaction_required", "interaction_required")],
)
def test_sec_105_dead_to_the_owner_of_the_attempt_needs_the_person(code, reason):
    grant(STALE)
    ask = Ask(ProviderError(code, kind="dead"))
    for _ in range(2):
        with pytest.raises(ConnectionNeeded) as caught:
            renew(ask)
        assert (caught.value.state, caught.value.reason) == ("needs_reauth", reason)
    assert len(ask.asked) == 1
    assert stored().access_token_sealed is not None  # no row is deleted
    assert events() == [("connection.ended", "failed", reason)]


def test_a_lost_answer_is_followed_by_quiet_and_one_more_try():
    grant(STALE)
    ask = Ask(LOST, NEW)
    assert renew(ask, timing=replace(FAST, quiet=60.0)) == "at-1"
    assert 55_000 < stored().not_before_ms - now_ms() <= 60_000
    change(not_before_ms=0)
    assert renew(ask) == "at-2"
    assert stored().state == "active"


def test_only_the_first_of_equal_failures_is_an_event():
    grant(STALE)
    ask = Ask(DOWN, DOWN, LOST, NEW)
    for _ in range(4):
        renew(ask)
        change(not_before_ms=0)
    assert events() == [
        ("connection.failing", "failed", "connect_failed"),
        ("connection.uncertain", "failed", "timeout"),
        ("connection.recovered", "ok", ""),
    ]


# -- the database --------------------------------------------------------------------------------


class Fails:
    """The database fails at statements that hold `part`, before or after they went through."""

    def __init__(
        self, part: str, when: str, times: int = 2, error: type[Exception] = OperationalError
    ) -> None:
        self._part, self.left, self._error = part, times, error
        sa.event.listen(db.engine, f"{when}_cursor_execute", getattr(self, f"_{when}"))

    def _before(self, _link, _cursor, statement, *_):
        if self._part in statement and self.left:
            self.left -= 1
            raise self._error("", {}, Exception("gone"))

    def _after(self, link, cursor, statement, *_):
        if self._part in statement and self.left:
            self.left -= 1
            cursor.fetchall()
            link.connection.commit()
            raise OperationalError("", {}, Exception("gone"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_f_21_a_failing_commit_is_repeated(when):
    """Also when it went through and only the acknowledgement was lost."""
    grant(DEAD)
    fails, ask = Fails("last_refresh_ms=", when), Ask(NEW)
    assert renew(ask) == "at-2"
    assert (fails.left, len(ask.asked)) == (0, 1)
    assert token_of(stored(), "refresh_token_sealed") == "rt-2"
    assert stored().token_gen == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_f_21_a_lease_whose_acknowledgement_was_lost_is_ours(when):
    grant(DEAD)
    Fails("attempt_ms=", when)
    assert renew(Ask(NEW)) == "at-2"


def test_f_23_a_database_that_nobody_can_write_to_stops_no_living_token():
    grant(STALE)
    Fails("attempt_ms=", "before", times=10**6)
    assert renew(Ask()) == "at-1"


# -- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", ["gho_plaintext", "mg1.deadbeef0000.AAAA", ""])
def test_sec_079_a_refresh_token_that_does_not_open_needs_the_person(planted):
    grant(STALE, refresh_token_sealed=planted)
    with pytest.raises(ConnectionNeeded) as caught:
        renew(Ask())
    assert (caught.value.state, caught.value.reason) == ("needs_reauth", "secret_unreadable")
    assert (stored().state, stored().reason) == ("needs_reauth", "secret_unreadable")


def test_an_ended_grant_comes_back_with_tokens_that_were_on_their_way():
    """`end` leaves token_gen alone: who asked before may still succeed."""
    grant(DEAD)
    gateway = acme()

    def ended():
        lease.end(gateway.connection, "expired")
        return NEW

    assert token_of(refresh.renew(gateway, timing=FAST, ask=Ask(ended))) == "at-2"
    assert (stored().state, stored().reason) == ("active", None)


def test_a_stale_decision_to_end_spares_newer_tokens():
    grant(DEAD)
    before = acme().connection
    renew(Ask(NEW))
    lease.end(before, "expired")
    assert stored().state == "active"
    assert Need(acme().config, FAST).is_fresh(acme().connection)


def test_a_renewal_leaves_no_stale_value_in_this_process():
    grant(DEAD)
    acme()
    renew(Ask(NEW))
    from app import access  # the cached read, as a caller makes it

    assert access.usable(ALICE, "acme").connection.token_gen == 2


def test_the_config_of_today_decides_whether_to_renew(acme_oauth):
    """What a caller holds may be a second old."""
    grant(DEAD)
    gateway = acme()
    assert KEPT["auto_refresh"]
    change(refresh_token_sealed=None)
    with pytest.raises(ConnectionNeeded):
        refresh.renew(gateway, timing=FAST, ask=Ask())
