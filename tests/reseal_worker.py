"""`flask secrets reseal` in small batches, told line by line, to be killed between any two."""

from __future__ import annotations

import argparse
import sys

from app import create_app, resealing
from app.audit import SYSTEM
from config import Config
from tests import sealed
from tests.conftest import HERE, SECRETS


def ring(database: str) -> Config:
    """The settings of a node on its way to the new key."""
    secrets = {"AUTH_ENCRYPTION_SECRET": sealed.NEW, "AUTH_ENCRYPTION_SECRETS_OLD": (sealed.OLD,)}
    return Config(**SECRETS | secrets, **HERE, DATABASE_URL=database)


def say(table: str, moved: int) -> None:
    sys.stdout.write(f"MOVED {moved}\n")
    sys.stdout.flush()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--database", required=True)
    options.add_argument("--batch", type=int, default=4)
    given = options.parse_args()
    with create_app(ring(given.database)).app_context():
        done = resealing.reseal(by=SYSTEM, progress=say, batch=given.batch)
    sys.stdout.write(f"DONE {done.moved} {','.join(done.retired)}\n")


if __name__ == "__main__":
    main()
