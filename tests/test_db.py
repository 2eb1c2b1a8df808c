"""Reads that are kept for a second, and the clock of the database."""

import time

import sqlalchemy as sa

from app.db import Recent, db, db_now_ms, recent
from app.models import Gateway, Throttle


def test_a_value_is_read_once_until_something_is_written(app_ctx):
    reads = []

    def load() -> int:
        reads.append(1)
        return len(reads)

    assert [recent().get("k", load) for _ in range(3)] == [1, 1, 1]
    db.session.add(Throttle(key="x"))
    db.session.commit()
    assert recent().get("k", load) == 2
    db.session.execute(sa.update(Throttle).values(failures=1))
    db.session.commit()
    assert recent().get("k", load) == 3
    db.session.scalars(sa.select(Throttle)).all()
    db.session.commit()
    assert recent().get("k", load) == 3


def test_a_read_that_a_commit_overtook_is_not_kept():
    kept = Recent()

    def overtaken() -> str:
        kept.clear()  # as a commit does, while this read is under way
        return "old"

    assert kept.get("k", overtaken) == "old"
    assert kept.get("k", lambda: "new") == "new"


def test_the_database_tells_the_time_in_milliseconds(app_ctx):
    with db.engine.connect() as link:
        first = link.scalar(sa.select(db_now_ms()))
    assert abs(first - time.time() * 1000) < 60_000


def test_a_row_has_its_id_before_it_is_flushed():
    assert len(Gateway(slug="x").id) == 32 and Gateway().id != Gateway().id
