"""The key changes under load, and the command that moves everything is killed again and again.

On the database of the run: SQLite, or PostgreSQL with --database=postgresql.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import resealing
from app.db import db
from app.errors import Unsealable
from app.models import Connection
from app.secretbox import SecretBox, box, cell
from config import ConfigError
from tests import sealed
from tests.process import Program, workers
from tests.reseal_worker import ring

ROOT = Path(__file__).parents[1]
PEOPLE, KILLS = 25, 6


class Load:
    """Threads that read and renew all the time, as callers of a running node do."""

    def __init__(self, app, places: dict[sealed.Place, str]) -> None:
        self._app, self.stored = app, places
        self.opened, self.renewed, self.failed = 0, 0, list[str]()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(act,)) for act in self._acts()]

    def _acts(self):
        return (self._read, self._read, self._renew)

    def _run(self, act) -> None:
        with self._app.app_context():
            while not self._over.wait(0.01):
                act()

    def _read(self) -> None:
        place = random.choice(list(self.stored))
        try:
            sealed.read(place)
        except Unsealable as error:
            self.failed.append(f"{place}: {error!r}")
        self.opened += 1

    def _renew(self) -> None:
        """A refresh: both tokens of a connection are new, in one commit."""
        ids = sorted({place[1] for place in self.stored if place[0] == "connection"})
        chosen, self.renewed = random.choice(ids), self.renewed + 1
        new = {f"{name}_token_sealed": f"{name}-{self.renewed}" for name in ("access", "refresh")}
        with sa.orm.Session(db.engine) as session:
            row = session.get_one(Connection, chosen)
            change = {name: box().seal(text, where=cell(row, name)) for name, text in new.items()}
        with db.engine.begin() as link:
            link.execute(sa.update(Connection).where(Connection.id == chosen).values(change))
        self.stored |= {("connection", chosen, name): text for name, text in new.items()}

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)


def worker(database: str) -> Program:
    command = ["-m", "tests.reseal_worker", "--database", database]
    return Program(command, forks=workers(), env=os.environ)


def test_sec_082_f_28_the_key_changes_under_load_and_kill_9(app, start, config, database_url):
    with app.app_context():
        places = {}
        for number in range(1, PEOPLE + 1):
            places |= sealed.plant(number)
    node = start(ring(database_url))  # as all nodes are started in the second step
    with Load(node, places) as load:
        for kill in range(KILLS):
            with worker(database_url) as victim:
                victim.wait_for(rf"(?:MOVED \d+\n){{{random.randint(1, 2 + kill)}}}|^DONE")
                os.kill(victim.pid, signal.SIGKILL)
        with node.app_context():
            left = resealing.status().old
        with pytest.raises(ConfigError, match="does not open this database"):
            start(only_new(config))
        with worker(database_url) as last:
            done = last.wait_for(r"^DONE (\d+) (\w*)$")
    assert 0 < int(done[1]) <= left < len(places)  # the killed ones did their part
    assert done[2] == SecretBox([sealed.OLD]).active
    assert load.failed == [] and load.opened > 100 and load.renewed > 20
    with start(only_new(config)).app_context():
        assert {place: sealed.read(place) for place in places} == load.stored


def only_new(config):
    """Settings without the old secret."""
    change = {"AUTH_ENCRYPTION_SECRET": sealed.NEW, "AUTH_ENCRYPTION_SECRETS_OLD": ()}
    return ring(config.DATABASE_URL).__class__(**vars(config) | change)
