"""One process of the race for the chain: threads that change rows and record it. Prints counts.

python -m tests.audit_worker DATABASE_URL
"""

from __future__ import annotations

import json
import random
import sys
import threading

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from app import audit, create_app
from app.audit import SYSTEM, Subject
from app.db import db
from app.models import Gateway
from config import Config
from tests.conftest import HERE, SECRETS

ROWS = ("left", "right")
ROUNDS, THREADS = 25, 3


def change(app: Flask) -> int:
    """Change one row or both, record each, commit or not. How many records are kept.

    Rows are locked in one order, so nothing here waits in a circle, unless the chain makes one:
    that would be if its head were locked as an event is recorded, before or after a row.
    """
    g, names = Gateway, sorted(random.sample(ROWS, random.randint(1, 2)))
    with app.app_context():
        for name in names:
            is_early = random.random() < 0.5
            if is_early:
                audit.record(SYSTEM, "touched", Subject("gateway", None, name))
            count = sa.cast(sa.cast(g.description, sa.Integer) + 1, sa.String)
            db.session.execute(sa.update(g).where(g.slug == name).values(description=count))
            if not is_early:
                audit.record(SYSTEM, "touched", Subject("gateway", None, name))
        if random.random() < 0.2:
            return 0
        db.session.commit()
    return len(names)


def main() -> None:
    app = create_app(Config(**SECRETS, **HERE, DATABASE_URL=sys.argv[1], MIGRATE_AT_START=False))
    kept: list[int] = []
    failed: list[str] = []

    def work() -> None:
        for _ in range(ROUNDS):
            try:
                kept.append(change(app))
            except SQLAlchemyError as error:
                failed.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps({"kept": sum(kept), "failed": failed}))


if __name__ == "__main__":
    main()
