"""Processes against each other and against kill -9, at a provider that forgives nothing.

On the database of the run: SQLite, or PostgreSQL with --database=postgresql.
"""

import os
import random
import signal
from dataclasses import replace

import pytest
import sqlalchemy as sa

from app.db import db
from app.errors import ConnectionNeeded, ProviderError
from app.models import ClientRegistration, Connection
from app.oauth import tokens
from app.secretbox import box, cell
from config import Config
from tests.conftest import HERE, SECRETS
from tests.oauth.planted import DEAD, STALE, acme, change, stored
from tests.oauth.race_worker import SHORT, person
from tests.oauth.racers import FINE, Racers, counts_of, seed, token
from tests.oauth.strict_provider import serving
from tests.process import Program

PEOPLE, SECONDS = 3, 5.0

pytestmark = pytest.mark.usefixtures("app_ctx")


@pytest.fixture
def racers(database_url, app):
    return lambda provider: Racers(database_url, app.instance_path, provider)


@pytest.mark.parametrize(
    ("gevent", "life", "tail"),
    [(False, 2.0, 0.05), (True, 4.0, 0.9)],
    ids=["threads", "greenlets, slow provider"],
)
def test_sec_103_f_16_f_17_one_request_per_grant_and_expiry(racers, gevent, life, tail):
    """3 processes of 8, and 2 % of the calls say that their token was refused."""
    with serving(expires=life, tail=tail) as provider:
        seed(provider, PEOPLE)
        flags = ("--people", str(PEOPLE), "--seconds", str(SECONDS))
        start = racers(provider)
        total = counts_of([start(*flags, gevent=gevent) for _ in range(3)])
    assert (provider.counts["reused"], provider.revoked()) == (0, 0)
    # No dead token was handed out, and nobody was sent to consent again or told to wait.
    assert set(total) <= FINE, total
    assert total["active"] > 50
    assert provider.counts["refresh_token"] >= PEOPLE
    assert provider.counts["early"] <= total["forced"]


# -- a process dies --------------------------------------------------------------------------------


def test_sec_107_f_18_killed_before_sending_costs_nothing(racers):
    with serving(expires=3600.0) as provider:
        seed(provider, 1, left=DEAD)
        with racers(provider)("--role", "hold") as victim:
            victim.wait_for("LEASED")
            os.kill(victim.pid, signal.SIGKILL)
        assert stored().state == "refreshing"
        assert provider.look_up(token(timing=SHORT)) == "active"  # once the lease is over
    assert provider.counts["refresh_token"] == 1
    assert (stored().state, stored().attempt_id) == ("active", None)


@pytest.mark.parametrize("grace", [30.0, 0.0], ids=["forgiving", "strict"])
@pytest.mark.parametrize("moment", ["f_19 after rotation", "f_20 before commit"])
def test_sec_107_f_19_f_20_killed_when_the_old_token_is_void(racers, moment, grace):
    """A forgiving provider: nothing is lost. A strict one: one honest reconnect, no loop."""
    is_rotated = moment.startswith("f_19")
    with serving(expires=3600.0, grace=grace, hold="after" if is_rotated else "") as provider:
        seed(provider, 1, left=DEAD)
        with racers(provider)("--role", "once" if is_rotated else "answered") as victim:
            if is_rotated:
                assert provider.arrived.wait(60)
            else:
                victim.wait_for("ANSWERED")
            os.kill(victim.pid, signal.SIGKILL)
        provider.hold = ""
        provider.go_on.set()
        if grace:
            assert provider.look_up(token(timing=SHORT)) == "active"
            assert stored().state == "active"
        else:
            assert needed() == needed() == "grant_ended"
            assert stored().state == "needs_reauth"
    assert provider.counts["refresh_token"] == 2


def needed() -> str:
    """Why the person has to connect again."""
    with pytest.raises(ConnectionNeeded) as caught:
        token(timing=SHORT)
    return caught.value.reason


def test_sec_107_a_living_token_is_served_while_the_lease_of_the_dead_runs(racers):
    with serving(expires=3600.0) as provider:
        seed(provider, 1, left=STALE, life=3600.0)
        with racers(provider)("--role", "hold") as victim:
            victim.wait_for("LEASED")
            os.kill(victim.pid, signal.SIGKILL)
        held = stored().attempt_id
        assert provider.look_up(token(timing=replace(SHORT, threshold=600.0))) == "active"
        assert (stored().state, stored().attempt_id) == ("refreshing", held)
    assert provider.counts["refresh_token"] == 0


@pytest.mark.parametrize("grace", [30.0, 0.0], ids=["forgiving", "strict"])
def test_sec_107_killed_at_random_nothing_sticks_and_no_dead_token_is_served(racers, grace):
    """Six times. Who has to connect again does so: at the strict provider, and nowhere else."""
    lost = 0
    with serving(expires=0.8, grace=grace) as provider:
        seed(provider, PEOPLE)
        with racers(provider)("--role", "litter", "--seconds", "60") as mother:
            mother.wait_for("READY")
            for number in range(1, 7):
                while provider.moments.acquire(blocking=False):
                    pass  # those of before
                mother.tell("go")
                child = int(nth(mother, r"CHILD (\d+)", number))
                for _ in range(random.randint(1, 9)):
                    assert provider.moments.acquire(timeout=30)
                os.kill(child, signal.SIGKILL)
                nth(mother, r"GONE (\d+)", number)
                lost += sum(not recovers(provider, person(one)) for one in range(PEOPLE))
    assert lost == provider.revoked()
    assert grace == 0 or lost == 0


def nth(program: Program, pattern: str, number: int) -> str:
    return program.wait_for(rf"(?s)(?:.*?^{pattern}$){{{number}}}")[1]


def recovers(provider, caller) -> bool:
    """With what the killed process left; else the person connects again."""
    try:
        shown = tokens.credential(caller, acme(caller), timing=SHORT)
        why = provider.look_up(shown.headers["Authorization"].removeprefix("Bearer "))
        if why == "revoked":  # by the end of its grant, which the killed one did not write down
            tokens.credential(caller, acme(caller), after=shown.token_gen, timing=SHORT)
        assert why in ("active", "expired")
    except ConnectionNeeded as error:
        assert (error.state, error.reason) == ("needs_reauth", "grant_ended")
    else:
        return True
    given = provider.seed()
    row = db.session.scalars(sa.select(Connection).filter_by(owner_key=caller.owner_key)).one()
    for name in ("access_token", "refresh_token"):
        sealed = box().seal(given[name], where=cell(row, f"{name}_sealed"))
        setattr(row, f"{name}_sealed", sealed)
    row.state, row.reason, row.expires_ms, row.token_gen = "active", None, 1, row.token_gen + 1
    db.session.commit()
    return False


@pytest.mark.parametrize("grace", [30.0, 0.0], ids=["forgiving", "strict"])
def test_sec_107_a_process_that_is_frozen_for_longer_than_its_lease(racers, grace):
    """It has sent, and does not know. Another takes over; its late answer undoes nothing."""
    with serving(expires=3600.0, grace=grace, hold="after") as provider:
        seed(provider, 1, left=DEAD)
        with racers(provider)("--role", "once") as frozen:
            assert provider.arrived.wait(60)
            os.kill(frozen.pid, signal.SIGSTOP)
            provider.hold = ""
            provider.go_on.set()
            if grace:
                taken = token(timing=SHORT)
                assert provider.look_up(taken) == "active"
            else:
                assert needed() == "grant_ended"
            os.kill(frozen.pid, signal.SIGCONT)
            frozen.wait_for("^(GOT|FAILED)")
        if grace:
            assert (token(timing=SHORT), stored().state) == (taken, "active")
        assert provider.counts["refresh_token"] == 2
        assert provider.revoked() == (0 if grace else 1)
        assert recovers(provider, person(0)) == bool(grace)


def test_f_22_sec_107_a_full_disk_costs_no_grant(tmp_path, start):
    """SQLite and the spool are on it. The tokens are in memory, till there is room again."""
    url = f"sqlite:///{tmp_path / 'of_this_test.db'}"
    where = {"DATABASE_URL": url, "EGRESS_ALLOW": ("127.0.0.0/8",)}
    app = start(Config(**SECRETS, **HERE, **where))
    with app.app_context(), serving(expires=3600.0) as provider:
        seed(provider, 1, left=DEAD)
        with Racers(url, app.instance_path, provider)("--role", "full") as worker:
            worker.wait_for("^GOT 2$")
            assert "Make room; do not restart before" in worker.log()
            worker.wait_for("^APPLIED 1$")
        assert (stored().state, provider.look_up(token())) == ("active", "active")
        assert (provider.counts["refresh_token"], provider.revoked()) == (1, 0)


FAULTS = ["drop", "html", "401", "403", "404", "408", "429", "500", "502", "503", "504"]


@pytest.mark.parametrize("fault", FAULTS)
def test_sec_105_no_fault_of_the_provider_costs_the_grant(app, fault):
    """At a provider that forgives a token used again within its grace."""
    app.config["OAUTH_MAX_RETRIES"] = 0
    with serving(expires=3600.0, grace=30.0, delay=0, tail=0) as provider:
        seed(provider, 1, left=DEAD)
        provider.misbehave.append(fault)
        with pytest.raises(ProviderError) as caught:
            token()
        assert caught.value.code == "provider_unreachable"
        assert caught.value.retry_after >= 1
        wait_no_more()
        assert provider.look_up(token()) == "active"
    assert provider.counts["refresh_token"] == 2
    assert (stored().state, stored().fail_count) == ("active", 0)


def wait_no_more() -> None:
    """As if the pause was over."""
    change(not_before_ms=0)
    with db.engine.begin() as link:
        link.execute(sa.update(ClientRegistration).values(not_before_ms=0))
