"""F-23: another program holds SQLite's write lock."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from config import Config
from tests.conftest import HERE, SECRETS
from tests.faults.test_provider import Place
from tests.upstream import upstream

__all__ = ["upstream"]  # the fixture


@pytest.fixture
def path(tmp_path):
    return tmp_path / "of_this_test.db"


@pytest.fixture
def place(path, start, upstream):
    where = {"DATABASE_URL": f"sqlite:///{path}", "EGRESS_ALLOW": ("127.0.0.0/8",)}
    made = Place(start(Config(**SECRETS, **HERE, **where)), upstream)
    yield made
    made.provider.__exit__()


@pytest.fixture
def lock(path):
    """Held until it is closed."""
    links = []

    def hold() -> sqlite3.Connection:
        links.append(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
        links[-1].execute("BEGIN EXCLUSIVE")
        return links[-1]

    yield hold
    for link in links:
        link.close()


def test_f_23_who_needs_a_new_token_is_told_to_come_again_and_nothing_is_half_written(place, lock):
    place.open()
    before = place.row.version
    held = lock()
    try:
        reply = place.client.call("echo")
        told = reply.json["error"].get("data") or reply.json["error"]
        assert (told["code"], place.asked()) == ("database_away", 0)
    finally:
        held.close()
    assert (place.row.version, place.row.state) == (before, "active")
    assert (place.call(), place.asked(), place.holds()) == ("at-2", 1, ("at-2", "rt-2"))


def test_f_23_eight_callers_of_a_due_token_are_served_while_the_database_is_locked(place, lock):
    place.open(left=200)
    held = lock()
    try:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: place.call(), range(8))) == {"at-1"}
        assert place.asked() == 0
    finally:
        held.close()
    assert place.call() == "at-2"
    assert (place.holds(), place.asked()) == (("at-2", "rt-2"), 1)
