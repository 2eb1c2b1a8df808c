"""The light check: who is up, who wants a sign-in, who refuses us, who is down."""

import dataclasses
import socket

import pytest
import sqlalchemy as sa

from app import gateways, health
from app.db import db
from app.models import Gateway
from tests.conftest import rows
from tests.upstream import Said, dual, upstream
from tests.web.registry import BASIC, CODE, SHARED, add

__all__ = ["upstream"]  # the fixture
ASKED = Said(401, headers={"WWW-Authenticate": 'Bearer realm="x"'})


def at(record, url):
    return {**record, "url": url}


OPEN = {"name": "Open", "auth_type": "none"}


@pytest.mark.parametrize(
    ("record", "answer", "found"),
    [
        (OPEN, None, ("up", None)),
        (OPEN, ASKED, ("refused", "sign_in_not_set_up")),
        (OPEN, Said(403), ("refused", "upstream_forbidden")),
        (OPEN, Said(404), ("refused", "upstream_bad_answer")),
        (OPEN, Said(503), ("down", "upstream_error")),
        (CODE, ASKED, ("needs_sign_in", None)),  # nobody is signed in, and all is well
        (CODE, Said(503), ("down", "upstream_error")),
        (SHARED, ASKED, ("up", None)),
        (BASIC, ASKED, ("up", None)),
    ],
)
def test_each_answer_is_told_apart(app, upstream, record, answer, found):
    upstream.script = dual if answer is None else lambda seen: answer
    add(app, at(record, upstream.url))
    with app.app_context():
        counts = list(health.steps())
    [row] = rows(app, Gateway)
    assert (row.health, row.health_code) == found and counts == [{found[0]: 1}]
    assert row.health_ms and not any(seen.header("Authorization") for seen in upstream.seen)


def again(app) -> Gateway:
    """Looked at once more, though it is not due."""
    with app.app_context():
        db.session.execute(sa.update(Gateway).values(health_next_ms=0, health_ms=1))
        db.session.commit()
        list(health.steps())
    return rows(app, Gateway)[0]


def test_since_when_it_is_so_stays_until_it_changes(app, upstream):
    add(app, at(OPEN, upstream.url))
    again(app)
    assert again(app).health_ms == 1  # as it was
    upstream.script = lambda seen: Said(503)
    changed = again(app)
    assert changed.health == "down" and changed.health_ms > 1 and changed.health_fails == 1
    upstream.script = dual
    assert (again(app).health, again(app).health_fails) == ("up", 0)


def test_a_server_that_is_gone_is_asked_less_and_less_often(app):
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        add(app, at(OPEN, f"http://127.0.0.1:{closed.getsockname()[1]}/mcp"))
        first, second = again(app), again(app)
    assert (first.health, first.health_code) == ("down", "connect_failed")
    assert second.health_fails == 2
    minute, hour = 60_000, 3_600_000
    assert [health.after(fails, minute) for fails in (0, 1, 2, 3, 7, 99)] == [
        *(minute, minute, 2 * minute, 4 * minute, hour, hour)
    ]
    assert health.after(1, 300_000) == 300_000  # never more often than one that is well


def test_who_is_off_or_not_due_is_left_alone(app, upstream):
    slug = add(app, at(OPEN, upstream.url))
    with app.app_context():
        list(health.steps())
        asked = len(upstream.seen)
        list(health.steps())
        gateways.find(slug).is_enabled = False
        db.session.execute(sa.update(Gateway).values(health_next_ms=0))
        db.session.commit()
        list(health.steps())
    assert len(upstream.seen) == asked


def test_an_interval_of_0_asks_nobody(start, config, upstream):
    app = start(dataclasses.replace(config, HEALTH_CHECK_INTERVAL=0))
    add(app, at(OPEN, upstream.url))
    with app.app_context():
        assert list(health.steps()) == []
    assert not upstream.seen
