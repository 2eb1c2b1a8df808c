"""A process that starts while the database is away (SEC-118)."""

import dataclasses
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from app import housekeeping
from app.db import db
from app.errors import Busy
from app.models import User
from config import Config
from tests import postgres
from tests.conftest import HERE, SECRETS, person


@pytest.fixture(scope="module")
def server():
    with postgres.server() as running:
        yield running


@pytest.fixture
def away(start, server):
    """An app that started after the database had crashed, and what brings it back."""
    config = Config(**SECRETS, **HERE, DATABASE_URL=server.create("away"))
    server.crash()
    try:
        app = start(config)
        yield app, config
    finally:
        if not server.running.running:
            server.start()
        server.drop("away")


def at(app, path):
    return app.test_client().get(path, base_url="https://gw.test")


def test_sec_118_a_worker_that_starts_without_a_database_lives_and_says_so(away):
    app, _ = away
    assert at(app, "/health").status_code == 200
    for path in ("/ready", "/login", "/api/v1/gateways", "/mcp/any"):
        reply = at(app, path)
        assert reply.status_code == 503, path
        assert int(reply.headers.get("Retry-After", 1)) >= 1
    assert b"database" in at(app, "/login").data


def test_sec_118_it_opens_the_database_with_the_first_request_after(away, server):
    app, _ = away
    assert at(app, "/login").status_code == 503
    server.start()
    assert at(app, "/ready").status_code == 200  # and the schema is there
    assert person(app, "ana@example.com").get("/connections").status_code == 200
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count()).select_from(User)) == 1


def test_sec_118_a_chore_opens_it_where_no_request_comes(away, server):
    app, _ = away
    [name] = chores = {"work": housekeeping.Recurring(60, lambda: iter([{"done": 1}]))}
    keeper = housekeeping.Housekeeper(app.app_context, chores=chores)
    server.start()
    assert keeper.run(name).outcome == "done=1"
    assert app.extensions["opening"].is_done


WHERE = ("own", "shared")  # chores of the node, and of all nodes


def _never() -> Iterator[dict[str, int]]:
    raise AssertionError("with a key that opens nothing")


def test_sec_081_a_key_that_turns_out_wrong_later_opens_nothing(away, start, server):
    late, config = away
    server.start()
    start(
        dataclasses.replace(config, AUTH_ENCRYPTION_SECRET="ffeeddccbbaa99887766554433221100" * 2)
    )
    chores = {
        name: housekeeping.Recurring(60, _never, on_each_node=name == "own") for name in WHERE
    }
    keeper = housekeeping.Housekeeper(late.app_context, chores=chores)
    for name in chores:
        with pytest.raises(Busy):
            keeper.run(name)
    assert at(late, "/login").status_code == 503
    assert at(late, "/health").status_code == 200
