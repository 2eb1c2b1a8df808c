"""Processes against each other and against kill -9, at a provider that forgives nothing.

On the database of the run: SQLite, or PostgreSQL with --database=postgresql.
"""

import json
import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.db import db
from app.errors import ConnectionNeeded, ProviderError
from app.models import ClientRegistration, User
from app.oauth import tokens
from tests.oauth.planted import DEAD, STALE, acme, change, grant, plant, stored
from tests.oauth.race_worker import SHORT, person
from tests.oauth.strict_provider import serving
from tests.process import Program

ROOT = Path(__file__).parents[2]
PEOPLE, SECONDS = 3, 5.0

pytestmark = pytest.mark.usefixtures("app_ctx")


def worker(database: str, provider, *flags: str, gevent: bool = False) -> Program:
    monkey = ["-m", "gevent.monkey"] if gevent else []
    options = ["--database", database, "--provider", provider.url, *flags]
    command = [sys.executable, *monkey, ROOT / "tests/oauth/race_worker.py", *options]
    return Program(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def seed(provider, people: int, **values) -> None:
    """A grant of the provider's for each of them."""
    plant(token_url=f"{provider.url}/token")
    for number in range(people):
        given = provider.seed()
        caller = person(number)
        db.session.add(User(id=caller.user_id, email=caller.email))
        names = ("access_token", "refresh_token")
        made = {"left": provider.expires, "life": provider.expires} | values
        grant(owner_key=caller.owner_key, **made, **{name: given[name] for name in names})


def token(number: int = 0, **more) -> str:
    caller = person(number)
    shown = tokens.credential(caller, acme(caller), **more).headers["Authorization"]
    return shown.removeprefix("Bearer ")


@pytest.mark.parametrize(
    ("gevent", "life", "tail"),
    [(False, 2.0, 0.05), (True, 4.0, 0.9)],
    ids=["threads", "greenlets, slow provider"],
)
def test_sec_103_f_16_f_17_one_request_per_grant_and_expiry(database_url, gevent, life, tail):
    """3 processes of 8, and 2 % of the calls say that their token was refused."""
    with serving(expires=life, tail=tail) as provider:
        seed(provider, PEOPLE)
        flags = ("--people", str(PEOPLE), "--seconds", str(SECONDS))
        racers = [worker(database_url, provider, *flags, gevent=gevent) for _ in range(3)]
        total = Counter()
        for racer in racers:
            with racer:
                total += Counter(json.loads(racer.wait_for(r"^\{.*\}$")[0]))
    assert provider.counts["reused"] == 0
    # No dead token was handed out, and nobody was sent to consent again or told to wait.
    assert set(total) <= {"active", "late", "forced", "refused again"}, total
    assert total["active"] > 50
    # A token is due 1 s before its end. Starting takes the processes a while, apart from another.
    due = PEOPLE * (SECONDS + 5) / (life - 1)
    assert PEOPLE <= provider.counts["refresh_token"] <= due + total["forced"]


def test_sec_107_f_18_killed_before_sending_costs_nothing(database_url):
    with serving(expires=3600.0) as provider:
        seed(provider, 1, left=DEAD)
        with worker(database_url, provider, "--hold") as victim:
            victim.wait_for("LEASED")
            os.kill(victim.pid, signal.SIGKILL)
        assert stored().state == "refreshing"
        assert provider.look_up(token(timing=SHORT)) == "active"  # once the lease is over
    assert provider.counts == {"refresh_token": 1}
    assert (stored().state, stored().attempt_id) == ("active", None)


@pytest.mark.parametrize("grace", [30.0, 0.0], ids=["forgiving", "strict"])
def test_sec_107_f_19_killed_after_the_tokens_rotated(database_url, grace):
    """A forgiving provider: nothing is lost. A strict one: one honest reconnect, no loop."""
    with serving(expires=3600.0, grace=grace, hold="after") as provider:
        seed(provider, 1, left=DEAD)
        with worker(database_url, provider, "--once") as victim:
            assert provider.arrived.wait(30)
            os.kill(victim.pid, signal.SIGKILL)
        provider.hold = ""
        provider.go_on.set()
        if grace:
            assert provider.look_up(token(timing=SHORT)) == "active"
            assert stored().state == "active"
        else:
            for _ in range(2):
                with pytest.raises(ConnectionNeeded) as caught:
                    token(timing=SHORT)
                assert caught.value.reason == "grant_ended"
            assert stored().state == "needs_reauth"
    assert provider.counts["refresh_token"] == 2


def test_sec_107_a_living_token_is_served_while_the_lease_of_the_dead_runs(database_url):
    with serving(expires=3600.0) as provider:
        seed(provider, 1, left=STALE, life=3600.0)
        with worker(database_url, provider, "--hold") as victim:
            victim.wait_for("LEASED")
            os.kill(victim.pid, signal.SIGKILL)
        held = stored().attempt_id
        assert provider.look_up(token(timing=replace(SHORT, threshold=600.0))) == "active"
        assert (stored().state, stored().attempt_id) == ("refreshing", held)
    assert not provider.counts


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
    assert provider.counts == {"refresh_token": 2}
    assert (stored().state, stored().fail_count) == ("active", 0)


def wait_no_more() -> None:
    """As if the pause was over."""
    change(not_before_ms=0)
    with db.engine.begin() as link:
        link.execute(sa.update(ClientRegistration).values(not_before_ms=0))
