"""Nodes that share nothing but PostgreSQL: it crashes under them, and their clocks disagree."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app import create_app
from app.db import db
from app.errors import ProviderError
from app.oauth import spool
from config import Config
from tests import postgres
from tests.conftest import HERE, SECRETS
from tests.oauth.planted import DEAD, stored
from tests.oauth.race_worker import SHORT
from tests.oauth.racers import FINE, Racers, counts_of, seed, token
from tests.oauth.strict_provider import serving
from tests.oauth.test_refresh import now_ms

PEOPLE = 3
_names = (f"nodes_{number}" for number in itertools.count())


def _config(url: str) -> Config:
    return Config(**SECRETS, **HERE, DATABASE_URL=url, EGRESS_ALLOW=("127.0.0.0/8",))


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """With a migrated database to copy."""
    with postgres.server() as running:
        app = create_app(_config(running.create("migrated")))
        with app.app_context():
            db.engine.dispose()
        yield running


@pytest.fixture
def racers(server, start, tmp_path):
    """Nodes with a spool each would need a folder each; these are processes of one."""
    url = server.create(next(_names), template="migrated")
    app = start(_config(url))
    with app.app_context():
        yield lambda provider: Racers(url, str(tmp_path), provider)
        db.session.remove()
        db.engine.dispose()


# -- the database crashes --------------------------------------------------------------------------


def test_f_21_tokens_outlive_a_database_that_crashed_after_they_rotated(server, racers):
    """It stays away for longer than the lease. The process that has them serves them, and ends."""
    with serving(expires=3600.0, hold="after") as provider:
        seed(provider, 1, left=DEAD)
        with racers(provider)("--role", "once") as worker:
            assert provider.arrived.wait(60)
            server.crash()
            provider.hold = ""
            provider.go_on.set()
            try:
                worker.wait_for("^GOT 2$", wait=120)
                assert worker.wait(60) == 0
            finally:
                server.start()
        db.engine.dispose()
        assert len(list(spool.folder().iterdir())) == 1
        assert spool.apply() == 1
        assert list(spool.folder().iterdir()) == []
        assert provider.look_up(token(timing=SHORT)) == "active"
        assert (stored().state, stored().attempt_id) == ("active", None)
        assert (provider.counts["refresh_token"], provider.revoked()) == (1, 0)


def test_f_24_sec_107_a_database_that_crashes_under_load_costs_no_grant(server, racers):
    """Twice, in the middle of renewals. Calls fail while it is away, and not afterwards."""
    with serving(expires=2.0, tail=0.2) as provider:
        seed(provider, PEOPLE)
        start = racers(provider)
        flags = ("--people", str(PEOPLE), "--seconds", "8")
        running = [start(*flags) for _ in range(2)]
        for racer in running:
            racer.wait_for("READY")
        for _ in range(2):
            for _ in range(5):
                assert provider.moments.acquire(timeout=30)
            server.crash()
            server.start()
        total = counts_of(running, wait=120)
        db.engine.dispose()
        assert set(total) <= {*FINE, "database away", "provider_unreachable"}, total
        assert total["active"] > 50
        assert (provider.counts["reused"], provider.revoked()) == (0, 0)
        spool.apply()
        for number in range(PEOPLE):
            assert provider.look_up(token(number, timing=SHORT)) == "active"
        assert provider.revoked() == 0


# -- clocks ----------------------------------------------------------------------------------------


def faketime(offset: str, *, is_set: bool = False) -> dict[str, str]:
    """The environment of a process whose clock is off by this.

    `is_set`: as on a machine whose clock was set; the time since it was started is right. (Then
    faketime spoils time.sleep, so only for processes that do not.)
    """
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "faketime is missing: apt-get install faketime"
    return {
        **{"LD_PRELOAD": str(found[0]), "FAKETIME": offset},
        "FAKETIME_DONT_FAKE_MONOTONIC": "1" if is_set else "0",
    }


@pytest.mark.parametrize(
    "offsets",
    [("+0", "+1h", "-1h"), ("-60s", "+60s")],
    ids=["f_38 an hour", "f_39 two minutes apart"],
)
def test_f_38_f_39_sec_108_nodes_whose_clocks_disagree_renew_once(racers, offsets):
    """The database has the one clock that counts."""
    with serving(expires=2.0) as provider:
        seed(provider, PEOPLE)
        start = racers(provider)
        flags = ("--people", str(PEOPLE), "--seconds", "5", "--threads", "4")
        running = [start(*flags, **faketime(offset)) for offset in offsets]
        clocks = [float(racer.wait_for(r"^READY (\S+)$", wait=60)[1]) for racer in running]
        assert max(clocks) - min(clocks) > 100
        total = counts_of(running, wait=120)
    assert set(total) <= FINE, total
    assert total["active"] > 50
    assert (provider.counts["reused"], provider.revoked()) == (0, 0)
    assert provider.counts["early"] <= total["forced"]


@pytest.mark.parametrize("offset", ["-1h", "+1h"], ids=["forward", "back"])
def test_f_38_a_clock_that_is_set_during_a_lease_neither_ends_nor_prolongs_it(
    tmp_path, start, offset
):
    """SQLite has the clock of the machine. Our clock is what the other one's was set to."""
    url = f"sqlite:///{tmp_path / 'of_this_test.db'}"
    app = start(_config(url))
    with app.app_context(), serving(expires=3600.0) as provider:
        seed(provider, 1, left=DEAD)
        racers = Racers(url, str(tmp_path), provider)
        with racers("--role", "hold", **faketime(offset, is_set=True)) as other:
            other.wait_for("LEASED", wait=60)
            assert abs(stored().lease_ms - now_ms()) > 3_000_000
            with pytest.raises(ProviderError):
                token(timing=replace(SHORT, deadline=-2.9, margin=62.9))  # a lease of a minute
            assert provider.counts["refresh_token"] == 0
            os.kill(other.pid, signal.SIGKILL)
        assert provider.look_up(token(timing=SHORT)) == "active"
    assert provider.counts["refresh_token"] == 1
