"""Recurring work: planted rows, the command that an operator runs, and processes that compete."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import cleanup, housekeeping, schedule
from app.db import db, db_now_ms, utcnow
from app.errors import ProviderError
from app.housekeeping import Housekeeper, Recurring
from app.models import (
    ApiToken,
    AuditEvent,
    BrowserSession,
    Chore,
    Connection,
    Flow,
    ParkedCall,
    RateWindow,
    Revocation,
    SetupCode,
    Throttle,
)
from app.oauth import refresh
from tests.conftest import SECRETS, rows
from tests.oauth.planted import ALICE, DEAD, NEW, Ask, grant, plant, stored, token_of
from tests.oauth.planted import acme as usable
from tests.oauth.test_refresh import Fails
from tests.oauth.test_spool import QUICK, STORING
from tests.process import Program

ROOT = Path(__file__).parents[1]
DAY = 86_400_000


@pytest.fixture
def run(app):
    """run("flows"): the command, by hand; what it printed."""

    def command(*arguments: str, fails: bool = False) -> str:
        done = app.test_cli_runner().invoke(args=["housekeeping", *arguments])
        assert (done.exit_code != 0) is fails, done.output
        return done.output

    return lambda *names, **how: command("run", "--once", *names, **how)


@pytest.fixture
def status(app):
    def command() -> dict[str, list[str]]:
        done = app.test_cli_runner().invoke(args=["housekeeping", "status"])
        assert done.exit_code == 0, done.output
        lines = [line.split("\t") for line in done.output.splitlines()]
        return {name: rest for name, *rest in lines}

    return command


@pytest.fixture
def now(app) -> int:
    with app.app_context(), db.engine.connect() as link:
        return link.scalar(sa.select(db_now_ms()))


def add(app, *made) -> None:
    with app.app_context():
        db.session.add_all(made)
        db.session.commit()


def ids(app, model) -> set[str]:
    return {row.id for row in rows(app, model)}


# -- clean-up ----------------------------------------------------------------------------------


@pytest.fixture
def acme(app) -> str:
    """A gateway with OAuth; the id of its config."""
    with app.app_context():
        return plant()


def a_flow(config_id: str, flow_id: str, *, expires_ms: int, **values) -> Flow:
    row = Flow(id=flow_id, state_hash=flow_id, cookie_hash="", user_id=ALICE.user_id)
    row.oauth_config_id, row.config_version, row.return_to = config_id, 1, "/"
    row.created_ms, row.expires_ms = expires_ms - 300_000, expires_ms
    row.authorization_url = row.token_url = row.redirect_uri = "https://as.test/"
    row.secrets_sealed = "-"
    for name, value in values.items():
        setattr(row, name, value)
    return row


@pytest.fixture
def client_id(app, acme) -> str:
    with app.app_context():
        return db.session.scalar(sa.text("SELECT id FROM client_registration"))


def test_flows_go_a_day_after_their_end(app, acme, client_id, now, run):
    ends = {"old": now - DAY - 1000, "recent": now - DAY + 60_000, "open": now + 60_000}
    made = [a_flow(acme, name, expires_ms=end) for name, end in ends.items()]
    for row in made:
        row.registration_id = client_id
    add(app, *made)
    assert "flows=1" in run("flows")
    assert ids(app, Flow) == {"recent", "open"}


def test_parked_calls_are_emptied_at_their_end_and_go_a_day_later(app, acme, now, run):
    ends = {"old": now - DAY - 1000, "over": now - 1000, "waiting": now + 60_000}
    with app.app_context():
        gateway_id = db.session.scalar(sa.text("SELECT id FROM gateway"))
    for name, end in ends.items():
        row = ParkedCall(id=name, digest=name, user_id=ALICE.user_id, gateway_id=gateway_id)
        row.oauth_config_id, row.expires_ms = acme, end
        row.request_sealed, row.result_sealed = "sealed", "sealed"
        add(app, row)
    run("flows")
    kept = {row.id: (row.request_sealed, row.result_sealed) for row in rows(app, ParkedCall)}
    assert kept == {"over": (None, None), "waiting": ("sealed", "sealed")}


TOKENS = ("access_token_sealed", "refresh_token_sealed", "fingerprint", "expires_ms")


@pytest.mark.parametrize(
    ("state", "days", "is_emptied"),
    [
        ("needs_reauth", 30, True),
        ("needs_reauth", 29, False),
        ("orphaned", 7, True),
        ("orphaned", 6, False),
        ("active", 400, False),
        ("failing", 400, False),
    ],
)
def test_tokens_that_serve_nobody_go_in_time(app, acme, now, run, state, days, is_emptied):
    with app.app_context():
        url = "https://as.test/revoke"
        grant(state=state, state_ms=now - days * DAY - 1000, revocation_url=url, fingerprint="f")
        before = stored()
    output = run("connections")
    with app.app_context():
        after = stored()
    assert after.state == state
    assert [getattr(after, one) for one in TOKENS] == [
        None if is_emptied else getattr(before, one) for one in TOKENS
    ]
    assert after.token_gen == before.token_gen + is_emptied
    told = [(one.action, one.details.get("code")) for one in rows(app, AuditEvent)]
    assert (("connection.emptied", state) in told) is is_emptied
    assert ("emptied=1" in output or "orphaned=1" in output) is is_emptied
    queued = rows(app, Revocation)  # a grant that lives is ended at its provider, too
    assert len(queued) == (state == "orphaned" and is_emptied)
    assert all(one.refresh_token_sealed and one.access_token_sealed for one in queued)


def test_since_when_is_unknown_counts_from_now(app, acme, now, run):
    """Rows of the release before have no date; none loses its tokens for that."""
    with app.app_context():
        grant(state="needs_reauth")
    assert "dated=1" in run("connections")
    with app.app_context():
        row = stored()
    assert now <= row.state_ms <= now + 60_000 and row.refresh_token_sealed
    assert "dated" not in run("connections")


@pytest.mark.parametrize(
    ("left", "given", "ends"),
    [
        (-1.0, {"refresh_token": None}, True),
        (60.0, {"refresh_token": None}, False),
        (None, {"refresh_token": None}, False),  # nobody knows its end
        (-1.0, {}, False),
    ],
    ids=["over", "alive", "no end", "can be renewed"],
)
def test_a_token_that_ended_with_nothing_to_renew_it_goes(app, acme, run, left, given, ends):
    with app.app_context():
        grant(left, **given)
        run("connections")
        row = stored()
    told = [one.details.get("code") for one in rows(app, AuditEvent)]
    if ends:
        assert (row.state, row.reason, row.access_token_sealed) == ("needs_reauth", "expired", None)
        assert row.state_ms > 0 and told == ["expired"]
    else:
        assert row.state == "active" and row.access_token_sealed and told == []


def test_a_token_that_somebody_is_renewing_is_left_alone(app, acme, now, run):
    with app.app_context():
        grant(-1.0, refresh_token=None, lease_ms=now + 60_000, state="refreshing")
        run("connections")
        assert stored().access_token_sealed


def test_a_shared_token_that_ended_goes_a_day_later_and_its_connection_stays(app, run):
    with app.app_context():
        plant(grant="client_credentials", authorization_url=None)
        grant(-86_500.0, owner_key="shared", refresh_token=None)
        run("connections")
        row = stored()
    assert (row.state, row.access_token_sealed) == ("active", None)
    assert rows(app, AuditEvent) == []


def test_what_ended_can_be_looked_up_for_90_days(app, acme, now, run):
    values = {"access_token": None, "refresh_token": None, "state": "revoked"}
    with app.app_context():
        grant(owner_key="user:a", id="old", state_ms=now - 90 * DAY - 1000, **values)
        grant(owner_key="user:b", id="recent", state_ms=now - 89 * DAY, **values)
    facts = {"connection_id": "c", "gateway_id": "g", "gateway_name": "G", "style": "rfc7009"}
    facts |= {"url": "https://as.test/revoke", "client_id": "us"}
    then = utcnow() - timedelta(days=90, seconds=1)
    add(
        app,
        Revocation(id="old", state="done", ended_at=then, **facts),
        Revocation(id="vain", state="given_up", ended_at=then, **facts),
        Revocation(id="recent", state="done", ended_at=utcnow(), **facts),
        Revocation(id="queued", not_before_ms=now + DAY, **facts),
    )
    run("connections")
    assert ids(app, Connection) == {"recent"}
    assert ids(app, Revocation) == {"recent", "queued"}


def test_sessions_tokens_codes_and_counts_go_when_they_are_over(app, acme, now, run):
    config, then = app.config, utcnow()
    idle, most = config["SESSION_IDLE_MINUTES"], config["SESSION_MAX_HOURS"]
    mine = {"user_id": ALICE.user_id}

    def session(name: str, *, seen: timedelta, began: timedelta) -> BrowserSession:
        times = {"seen_at": then - seen, "created_at": then - began}
        return BrowserSession(id=name, token_hash=name, **mine, **times)

    def token(name: str, **ends) -> ApiToken:
        facts = {"hint": "", "name": name, "scopes": []}
        return ApiToken(id=name, token_hash=name, **mine, **facts, **ends)

    quarter, minute = timedelta(days=90, seconds=1), timedelta(minutes=1)
    add(
        app,
        session("idle", seen=timedelta(minutes=idle + 1), began=timedelta(hours=1)),
        session("old", seen=timedelta(), began=timedelta(hours=most, minutes=1)),
        session("in use", seen=timedelta(), began=timedelta(hours=1)),
        token("ended", expires_at=then - quarter),
        token("revoked", revoked_at=then - quarter, expires_at=None),
        token("shown", expires_at=then - minute),
        token("for ever", expires_at=None),
        SetupCode(id="setup", code_hash="", expires_ms=now - 1000),
        Throttle(key="over", failures=3, last_ms=now - 2 * 3_600_000),
        Throttle(key="fresh", failures=3, last_ms=now),
        Throttle(key="paused", last_ms=now - 2 * 3_600_000, not_before_ms=now + 60_000),
        RateWindow(id="over", window_ms=now - DAY - 60_000),
        RateWindow(id="fresh", window_ms=now),
    )
    run("sessions")
    assert ids(app, BrowserSession) == {"in use"}
    assert ids(app, ApiToken) == {"shown", "for ever"}
    assert ids(app, SetupCode) == set()
    assert {row.key for row in rows(app, Throttle)} == {"fresh", "paused"}
    assert ids(app, RateWindow) == {"fresh"}


def test_a_heap_goes_in_batches_and_the_count_is_told(app, acme, now, run, status):
    with app.app_context():
        many = [
            {"id": f"{number:032x}", "token_hash": str(number), "user_id": ALICE.user_id}
            for number in range(501)
        ]
        past = {"created_at": utcnow() - timedelta(days=9)}
        with db.engine.begin() as link:
            link.execute(sa.insert(BrowserSession), [one | past for one in many])
        steps = cleanup.sessions_and_tokens()
        for count in (200, 200):
            assert next(steps) == {"sessions": count}
            assert not db.session().in_transaction()
    assert "sessions=101" in run("sessions")
    assert status()["sessions"][2] == "sessions=101"


# -- who does it, and when -------------------------------------------------------------------------


def keeper(app, chores: dict[str, Recurring], **how) -> Housekeeper:
    return Housekeeper(app.app_context, chores=chores, **how)


def chore_row(app, name: str) -> Chore:
    [row] = [row for row in rows(app, Chore) if row.id == name]
    return row


def test_two_who_come_at_once_do_it_once(app):
    began, may_end, runs = threading.Event(), threading.Event(), []

    def steps() -> Iterator[dict[str, int]]:
        runs.append(1)
        began.set()
        assert may_end.wait(30)
        yield {"done": 1}

    one, other = (keeper(app, {"work": Recurring(3600, steps)}) for _ in range(2))
    reports = []
    first = threading.Thread(target=lambda: reports.append(one.run("work")))
    first.start()
    assert began.wait(30)
    assert other.run("work") is None and other.run("work", early=True) is None
    may_end.set()
    first.join()
    assert other.run("work") is None  # it is not due any more
    assert runs == [1] and reports[0].outcome == "done=1"
    assert other.run("work", early=True) is not None


def test_eight_threads_and_one_due_time_make_one_run(app):
    runs, start = [], threading.Barrier(8)

    def steps() -> Iterator[dict[str, int]]:
        runs.append(1)
        yield {"done": 1}

    keepers = [keeper(app, {"work": Recurring(3600, steps)}) for _ in range(8)]

    def compete(one: Housekeeper) -> None:
        start.wait(30)
        one.run("work")

    threads = [threading.Thread(target=compete, args=[one]) for one in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs == [1]


def test_a_step_takes_the_lease_on_and_a_lost_lease_ends_the_run(app, now):
    leases = []

    def steps() -> Iterator[dict[str, int]]:
        for _ in range(5):
            leases.append(chore_row(app, "work").lease_ms)
            if len(leases) == 3:  # as another does after its end
                with db.engine.begin() as link:
                    link.execute(sa.update(Chore).values(holder="another", lease_ms=now + DAY))
            yield {"done": 1}

    report = keeper(app, {"work": Recurring(60, steps)}).run("work")
    assert report.outcome == "done=3"
    assert now < leases[0] < leases[1] < leases[2]
    row = chore_row(app, "work")
    assert (row.holder, row.lease_ms, row.outcome) == ("another", now + DAY, None)


def test_a_run_that_takes_too_long_makes_way_and_goes_on_soon(app, now):
    def steps() -> Iterator[dict[str, int]]:
        while True:
            yield {"done": 1}

    report = keeper(app, {"work": Recurring(3600, steps)}, run_s=0.0).run("work")
    assert report.outcome == "done=1"
    assert chore_row(app, "work").due_ms < now + 600_000  # not in an hour


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProviderError("provider_unreachable", kind="unsent"), "failed: provider_unreachable"),
        (sa.exc.OperationalError("x", {}, Exception()), "failed: database_away"),
        (ZeroDivisionError("our mistake"), "failed: ZeroDivisionError"),
    ],
)
def test_a_chore_that_fails_is_named_stops_no_other_and_is_tried_again(
    app, now, caplog, error, said
):
    def fails() -> Iterator[dict[str, int]]:
        yield {"done": 1}
        raise error

    chores = {"bad": Recurring(3600, fails), "good": Recurring(3600, lambda: iter([{"done": 1}]))}
    both = keeper(app, chores)
    assert [both.run(name).outcome for name in chores] == [said, "done=1"]
    bad, good = (chore_row(app, name) for name in chores)
    assert bad.outcome == said and f"chore bad {said}" in caplog.text
    assert now < bad.due_ms <= now + 600_000 < good.due_ms  # soon, but not at once
    assert bad.lease_ms == 0


def test_a_stop_is_heard_between_two_steps(app):
    told, steps_done = threading.Event(), []

    def steps() -> Iterator[dict[str, int]]:
        for number in range(100):
            steps_done.append(number)
            told.set()
            yield {"done": 1}

    one = keeper(app, {"work": Recurring(60, steps, pace_s=3600.0)})
    thread = threading.Thread(target=one.run, args=["work"])
    thread.start()
    assert told.wait(30)
    one.stop()
    thread.join(30)
    assert not thread.is_alive() and steps_done == [0]
    assert chore_row(app, "work").outcome == "done=1"


WORKER = """
import sys
from app import create_app
from app.housekeeping import Housekeeper, Recurring
from config import Config
from tests.conftest import HERE, SECRETS

def steps():
    print("BEGAN", flush=True)
    sys.stdin.read()
    yield {"done": 1}

app = create_app(Config(**SECRETS, **HERE, DATABASE_URL=sys.argv[1], OAUTH_REQUEST_TIMEOUT=0.5))
keeper = Housekeeper(app.app_context, chores={"work": Recurring(3600, steps)}, margin_s=1.0)
keeper.run("work")
"""


def test_what_a_killed_process_was_doing_is_taken_over_when_its_lease_ends(app, database_url):
    command = [sys.executable, "-c", WORKER, database_url]
    one = keeper(app, {"work": Recurring(3600, lambda: iter([{"done": 1}]))})
    with Program(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as holder:
        holder.wait_for("BEGAN")
        os.kill(holder.pid, signal.SIGKILL)
        row = chore_row(app, "work")
        assert row.lease_ms > 0 and f" {holder.pid} " in row.holder
        wait = threading.Event()
        for _ in range(600):  # its lease is 1.5 s
            if report := one.run("work"):
                break
            with app.app_context():
                [seen] = schedule.standings()
            assert seen.now_ms <= row.lease_ms + 60_000
            wait.wait(0.1)
    assert report.outcome == "done=1"
    assert f" {os.getpid()} " in chore_row(app, "work").holder


def test_a_keeper_goes_on_by_itself_until_it_is_stopped(app):
    """What is not due is not done, and a failure ends nothing."""
    often, runs = threading.Event(), []

    def steps() -> Iterator[dict[str, int]]:
        runs.append("often")
        if len(runs) > 3:
            often.set()
        yield {"done": 1}

    def fails() -> Iterator[dict[str, int]]:
        raise ZeroDivisionError("our mistake")
        yield {}

    local = Recurring(0.1, steps, on_each_node=True)
    once = Recurring(3600, lambda: iter([{"done": 1}]))
    one = keeper(app, {"local": local, "bad": Recurring(3600, fails), "once": once})
    one.start()
    assert often.wait(60)
    while chore_row_or_none(app, "once") is None:
        often.wait(0.05)
    one.stop()
    assert not [one for one in threading.enumerate() if one.name.startswith("housekeeping")]
    assert {row.id: row.outcome for row in rows(app, Chore)} == {
        "bad": "failed: ZeroDivisionError",
        "once": "done=1",
    }


NO_STACK = 2**46  # bytes that no machine has: the system then refuses a new thread


def test_f_43_a_chore_that_gets_no_thread_is_tried_again(app, caplog):
    chores = {"work": Recurring(60, lambda: iter([{"done": 1}]))}
    chores["own"] = Recurring(1, lambda: iter([{"done": 1}]), on_each_node=True)
    one = keeper(app, chores)
    threading.stack_size(NO_STACK)
    try:
        outcomes = [one.run(name).outcome for name in chores]
    finally:
        threading.stack_size(0)
    assert outcomes == ["failed: RuntimeError"] * 2 and "start new thread" in caplog.text
    assert chore_row(app, "work").lease_ms == 0
    assert [one.run(name, early=True).outcome for name in chores] == ["done=1"] * 2


def test_f_43_a_keeper_that_gets_no_thread_starts_the_nodes_own_chores_later(app):
    runs, give_up = [], time.monotonic() + 120

    def own() -> Iterator[dict[str, int]]:
        runs.append(1)
        yield {}

    def is_needed() -> bool:
        threading.stack_size(0)  # now there are threads
        return not runs and time.monotonic() < give_up

    one = keeper(app, {"own": Recurring(1, own, on_each_node=True)}, is_needed=is_needed)
    threading.stack_size(NO_STACK)
    try:
        one.keep_at_it()
    finally:
        threading.stack_size(0)
    assert runs


def test_what_is_the_nodes_own_waits_for_no_long_chore(app):
    began, went_on = threading.Event(), threading.Event()

    def own() -> Iterator[dict[str, int]]:
        if began.is_set():
            went_on.set()
        yield {}

    def takes_long() -> Iterator[dict[str, int]]:
        began.set()
        assert went_on.wait(60)
        yield {"done": 1}

    chores = {"own": Recurring(0.1, own, on_each_node=True), "long": Recurring(60, takes_long)}
    one = keeper(app, chores)
    one.start()
    assert went_on.wait(60)
    one.stop()
    assert chore_row(app, "long").outcome == "done=1"


def test_a_keeper_may_have_nothing_that_nodes_share(app):
    began, told = time.monotonic(), threading.Event()

    def own() -> Iterator[dict[str, int]]:
        if time.monotonic() > began + 3:  # it has looked at the schedule by now
            told.set()
        yield {}

    one = keeper(app, {"own": Recurring(0.1, own, on_each_node=True)})
    one.start()
    assert told.wait(60) and one.is_alive
    one.stop()
    assert not one.is_alive


def test_a_keeper_outlives_a_database_that_is_not_ready(app, caplog):
    """As with MIGRATE_AT_START=false, until somebody brings it up to date."""
    told, runs = threading.Event(), []

    def steps() -> Iterator[dict[str, int]]:
        runs.append("chores wait: " in caplog.text)
        if runs.count(True) > 1:
            told.set()
        yield {"done": 1}

    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.text("ALTER TABLE chore RENAME TO chore_of_later"))
    local = Recurring(0.1, steps, on_each_node=True)
    one = keeper(app, {"local": local, "shared": Recurring(1, steps)})
    one.start()
    assert told.wait(60)
    one.stop()


def chore_row_or_none(app, name: str) -> Chore | None:
    return next((row for row in rows(app, Chore) if row.id == name and row.ran_ms), None)


def test_the_command_goes_on_until_it_is_told_to_end(app, database_url, tmp_path):
    add(app, Throttle(key="over", failures=3, last_ms=1))
    secrets = SECRETS | {"DATABASE_URL": database_url, "OAUTH_TOKEN_CLEANUP_INTERVAL": "1"}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "housekeeping", "run", "sessions"]
    with Program(command, cwd=ROOT, env=os.environ | secrets) as running:
        running.wait_for("Ctrl-C ends it")
        running.wait_for("chore sessions: throttles=1")
        assert running.stop() == 0  # by SIGTERM
    assert rows(app, Throttle) == []


def test_f_21_what_waits_in_the_spool_is_written_down_by_the_chore(app, acme, run):
    with app.app_context():
        grant(DEAD)
        fails = Fails(STORING, "before", times=10**6)
        refresh.renew(usable(), ask=Ask(NEW), timing=QUICK)
        assert token_of(stored()) == "at-1"
        fails.left = 0
    assert run("spool") == "spool\tapplied=1\n"
    with app.app_context():
        assert token_of(stored()) == "at-2"


def test_the_command_says_what_it_did_and_where_and_when(app, status, run):
    shared = [name for name, one in housekeeping.CHORES.items() if not one.on_each_node]
    assert {name: told[0] for name, told in status().items()} == dict.fromkeys(shared, "never")
    output = run()
    assert [line.split("\t")[0] for line in output.splitlines()] == [*housekeeping.CHORES]
    for ran, where, outcome, due in status().values():
        assert ran.endswith("Z") and where == f"{os.uname().nodename[:40]} {os.getpid()}"
        assert outcome == "nothing to do" and due.startswith("due 20")


def test_the_command_leaves_to_others_what_they_are_doing(app, run, now):
    add(app, Chore(id="flows", holder="elsewhere 1 abc", lease_ms=now + DAY))
    assert "flows\tanother process is at it" in run("flows")


def test_the_command_knows_its_chores(app):
    done = app.test_cli_runner().invoke(args=["housekeeping", "run", "--once", "dishes"])
    assert done.exit_code == 2 and "sessions" in done.output


def test_clean_up_runs_as_often_as_the_setting_says(app, run, now):
    run("flows", "connections", "sessions")
    every = app.config["OAUTH_TOKEN_CLEANUP_INTERVAL"] * 1000
    for row in rows(app, Chore):
        assert now + every <= row.due_ms <= now + every + 600_000


def test_nothing_runs_by_itself_where_no_server_started_it(app):
    app.test_client().get("/health", base_url="https://gw.test")
    assert rows(app, Chore) == []
    assert "housekeeping" not in {thread.name for thread in threading.enumerate()}
