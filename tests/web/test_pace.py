"""Who asks too often waits: 429, Retry-After, and nobody else is slowed down."""

import dataclasses
import time

import pytest

from app import limits
from app.models import RateWindow, User
from tests.conftest import person, rows
from tests.mcp.world import Client, add
from tests.upstream import upstream
from tests.web.credentials import bearer, token_of

__all__ = ["upstream"]  # the fixture
WRONG = "mcpg_" + "x" * 43
HERE = {"base_url": "https://gw.test"}


@pytest.fixture(autouse=True)
def within_one_minute():
    """Requests are counted by the minute of the clock: none of these tests begins at its end."""
    left = 60 - time.time() % 60
    if left < 8:
        time.sleep(left)


def asks(app, token: str = "", *, address: str = "127.0.0.1", times: int = 1):
    """The last answer."""
    for _ in range(times):
        reply = app.test_client().get(
            "/api/v1/gateways",
            headers=bearer(token) if token else {},
            environ_overrides={"REMOTE_ADDR": address},
            **HERE,
        )
    return reply


def is_refused(reply, status: int = 429) -> bool:
    waits = int(reply.headers.get("Retry-After", 0))
    return reply.status_code == status and 1 <= waits <= 60 and "too_many_requests" in reply.text


@pytest.mark.parametrize(
    ("setting", "others"), [("TOKEN", "token"), ("PERSON", "person"), ("ADDRESS", "address")]
)
def test_sec_101_requests_a_minute_are_limited_by_token_person_and_address(
    start, config, setting, others
):
    """`others`: what a caller must have of their own to be let in all the same."""
    app = start(dataclasses.replace(config, **{f"RATE_LIMIT_{setting}": 4}))
    person(app, "alice@example.com"), person(app, "bob@example.com")
    alice, again, bob = (token_of(app, f"{name}@example.com") for name in ("alice", "alice", "bob"))
    assert asks(app, alice, times=4).status_code == 200
    assert is_refused(asks(app, alice))
    assert is_refused(asks(app, again)) == (others != "token")
    assert is_refused(asks(app, bob)) == (others == "address")
    assert asks(app, bob, address="127.0.0.2").status_code == 200


def test_sec_101_pages_are_counted_and_health_is_not(start, config):
    app = start(dataclasses.replace(config, RATE_LIMIT_PERSON=4))
    alice = person(app, "alice@example.com")
    pages = [alice.get("/connections").status_code for _ in range(5)]
    assert pages == [200] * 4 + [429]
    assert alice.get("/health").status_code == alice.get("/ready").status_code == 200


def test_sec_101_an_ai_client_hears_of_its_limit_under_the_id_of_its_call(start, config, upstream):
    """HTTP 429 for those who can bear it: clients of before drop all they do at a 4xx."""
    app = start(dataclasses.replace(config, RATE_LIMIT_TOKEN=2))
    add(app, upstream.url)
    acme = Client(app)
    assert acme.modern("tools/list").status_code == acme.modern("tools/list").status_code == 200
    now, older = acme.modern("tools/list"), acme.legacy("tools/list", session=None)
    assert (now.status_code, older.status_code) == (429, 200)
    assert (now.json["id"], older.json["id"]) == (3, 4)
    for reply in (now, older):
        error = reply.json["error"]
        assert error["data"]["code"] == "too_many_requests"
        assert int(reply.headers["Retry-After"]) == error["data"]["retry_after"]
    assert len(upstream.asked("tools/list")) == 2


def test_sec_101_wrong_tokens_are_counted_for_all_workers_and_good_ones_go_on(start, config):
    """Also one that no worker has seen before: many may share the address of who guesses."""
    few = dataclasses.replace(config, RATE_LIMIT_WRONG_TOKENS=4)
    one, other = start(few), start(few)
    person(one, "alice@example.com")
    alice = token_of(one, "alice@example.com")
    assert asks(one, WRONG, times=2).status_code == 401
    assert asks(other, WRONG, times=2).status_code == 401
    assert is_refused(asks(one, WRONG)) and is_refused(asks(other, WRONG))
    assert asks(one, alice).status_code == asks(other, alice).status_code == 200
    assert is_refused(asks(one, WRONG)) and is_refused(asks(one, f"{WRONG[:-1]}y"))
    assert asks(one, WRONG, address="127.0.0.2").status_code == 401
    assert asks(one, address="127.0.0.1").status_code == 401  # none at all is no guess


def test_sec_101_new_api_tokens_are_limited_by_the_hour(app, alice):
    (user_id,) = [user.id for user in rows(app, User) if user.email == "alice@example.com"]
    with app.app_context():
        for _ in range(60):
            limits.strictly("new_token", user_id, most=60, window_ms=3_600_000)
    counted = [row for row in rows(app, RateWindow) if row.count == 60]  # all in one window
    assert [row.window_ms % 3_600_000 for row in counted] == [0]
    page = alice.submit("/tokens/new", name="one more", scopes="mcp", which="all", ends="30")
    assert page.status_code == 429 and int(page.headers["Retry-After"]) <= 3600
