"""What nobody used for a day is renewed, by the chore that servers run (oauth.md 7.5)."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from app.db import db, utcnow
from app.housekeeping import Housekeeper, Recurring
from app.models import Chore, Connection, Gateway, User
from app.oauth import keep_alive
from tests.conftest import rows
from tests.oauth.planted import ALICE, FRESH, KEPT, TOKEN_URL, grant, plant, token_of

HOUR, DAY = 3_600_000, 86_400_000
ALIVE = KEPT | {"keep_alive": True}
NEW = {"access_token": "at-2", "refresh_token": "rt-2", "token_type": "Bearer", "expires_in": 3600}


def plant_old(*, kept: Any = ALIVE, hours: float = 30, person: Any = ALICE, **values: Any) -> str:
    """A connection whose token is good for long, and was got so many hours ago."""
    if not db.session.scalars(sa.select(Gateway)).all():
        plant(kept=kept)
    now = int(time.time() * 1000)
    got = {"issued_ms": now - int(hours * HOUR), "expires_ms": now + DAY}
    facts = {"owner_key": person.owner_key, "user_id": person.user_id, "last_used_ms": now - HOUR}
    return grant(FRESH, **facts | got | values)


def run(app) -> str:
    """Without the pause between two requests."""
    chores = {"keep-alive": Recurring(60, keep_alive.steps)}
    return Housekeeper(app.app_context, chores=chores).run("keep-alive", early=True).outcome


def asked(provider) -> list[str]:
    return [request.text for request in provider.request_history]


def test_what_was_not_renewed_for_a_day_is(app, provider):
    provider.post(TOKEN_URL, json=NEW)
    with app.app_context():
        plant_old()
    assert run(app) == "renewed=1"
    [sent] = asked(provider)
    assert "grant_type=refresh_token" in sent and "refresh_token=rt-1" in sent
    with app.app_context():
        [row] = rows(app, Connection)
        assert row.state == "active" and token_of(row) == "at-2"
        assert token_of(row, "refresh_token_sealed") == "rt-2"
    assert run(app) == "nothing to do"  # it is fresh for a day
    assert len(asked(provider)) == 1


def _ago(days: float) -> int:
    return int(time.time() * 1000 - days * DAY)


@pytest.mark.parametrize(
    "case",
    [
        {"kept": KEPT},
        {"kept": ALIVE | {"auto_refresh": False, "keep_alive": False}},
        {"hours": 23},
        {"hours": 200, "last_refresh_ms": _ago(0.9)},
        {"last_used_ms": _ago(91)},
        {"last_used_ms": None, "created_at": utcnow() - timedelta(days=91)},
        {"refresh_token": None},
        {"state": "needs_reauth"},
        {"state": "revoked"},
        {"state": "orphaned"},
        {"lease_ms": _ago(-1)},
        {"not_before_ms": _ago(-1)},
    ],
    ids=lambda case: " ".join(f"{name}" for name in case),
)
def test_it_leaves_alone(app, provider, case):
    with app.app_context():
        plant_old(**case)
    assert run(app) == "nothing to do" and asked(provider) == []


@pytest.mark.parametrize("case", [{"last_used_ms": _ago(89)}, {"last_used_ms": None}])
def test_it_goes_on_for_90_days_after_the_last_call_or_the_consent(app, provider, case):
    provider.post(TOKEN_URL, json=NEW)
    with app.app_context():
        plant_old(**case)
    assert run(app) == "renewed=1"


@pytest.mark.parametrize("model", [Gateway, User])
def test_nothing_is_renewed_for_who_or_what_is_off(app, provider, model):
    with app.app_context():
        plant_old()
        off = {"is_enabled": False} if model is Gateway else {"is_disabled": True}
        db.session.execute(sa.update(model).values(**off))
        db.session.commit()
    assert run(app) == "nothing to do" and asked(provider) == []


def plant_two(**bobs: Any) -> None:
    """Alice's is the older."""
    plant_old(hours=40)
    db.session.add(User(id="bob", email="bob@example.com"))
    plant_old(hours=30, owner_key="user:bob", user_id="bob", **bobs)


def copy_bobs() -> None:
    """As many more as one run looks at, a little younger: their tokens are sealed for Bob's row."""
    table, others = Connection.__table__, range(keep_alive.MOST)
    with db.engine.begin() as link:
        found = link.execute(sa.select(table).where(table.c.owner_key == "user:bob"))
        bobs = dict(found.mappings().one())
        bobs["issued_ms"] += 1000
        many = [bobs | {"id": f"{n}", "owner_key": f"user:{n}"} for n in others]
        link.execute(sa.insert(table), many)


def states(app) -> dict[str, str]:
    assert all(row.access_token_sealed for row in rows(app, Connection))  # what lives serves
    return {row.owner_key: row.state for row in rows(app, Connection)}


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"status_code": 503}, "failing"),  # busy
        ({"status_code": 429}, "failing"),
        ({"exc": requests.ConnectTimeout}, "failing"),  # unsent
        ({"exc": requests.ReadTimeout}, "refreshing"),  # unknown
        ({"status_code": 401, "json": {"error": "invalid_client"}}, "failing"),
    ],
    ids=["503", "429", "unsent", "unknown", "client"],
)
def test_a_provider_that_fails_is_left_alone_until_the_next_run(app, provider, answer, state):
    """Of two connections one is tried."""
    provider.post(TOKEN_URL, **answer)
    app.config["OAUTH_MAX_RETRIES"] = 0
    with app.app_context():
        plant_two()
    assert run(app) == "not_renewed=1"
    assert len(asked(provider)) == 1
    assert states(app) == {"user:alice": state, "user:bob": "active"}


@pytest.mark.parametrize(
    ("error", "state"), [("invalid_grant", "needs_reauth"), ("whatever", "failing")]
)
def test_a_grant_that_is_refused_costs_the_others_nothing(app, provider, error, state):
    """One person's sign-in has ended; the provider is well."""
    no = {"status_code": 400, "json": {"error": error}}
    provider.post(TOKEN_URL, [no, {"json": NEW}])
    with app.app_context():
        plant_two()
    assert run(app) == "not_renewed=1 renewed=1"
    assert states(app) == {"user:alice": state, "user:bob": "active"}


def test_many_at_a_provider_that_is_dead_hide_no_other(app, provider):
    """More than one run looks at, and all of them older."""
    dead = "https://dead.test/token"
    provider.post(dead, status_code=503)
    provider.post(TOKEN_URL, json=NEW)
    app.config["OAUTH_MAX_RETRIES"] = 0
    with app.app_context():
        plant_two(token_url=dead, issued_ms=_ago(9))
        copy_bobs()
    assert run(app) == "not_renewed=1 renewed=1"
    assert sorted(request.url for request in provider.request_history) == [TOKEN_URL, dead]


def test_many_that_nobody_uses_hide_no_other(app, provider):
    provider.post(TOKEN_URL, json=NEW)
    with app.app_context():
        idle = {"last_used_ms": None, "created_at": utcnow() - timedelta(days=91)}
        plant_two(issued_ms=_ago(100), **idle)
        copy_bobs()
    assert run(app) == "renewed=1"


def test_requests_are_a_second_apart_by_command(app, provider):
    """The chore as servers run it: two connections, one endpoint."""
    times = []

    def answer(_request: Any, _context: Any) -> Any:
        times.append(time.monotonic())
        return NEW

    provider.post(TOKEN_URL, json=answer)
    with app.app_context():
        plant_old(hours=40)
        db.session.add(User(id="bob", email="bob@example.com"))
        plant_old(hours=30, owner_key="user:bob", user_id="bob")
    command = ["housekeeping", "run", "--once", "keep-alive"]
    done = app.test_cli_runner().invoke(args=command)
    assert done.exit_code == 0 and "renewed=2" in done.output
    assert times[1] - times[0] >= 1.0
    assert rows(app, Chore)[0].outcome == "renewed=2"
