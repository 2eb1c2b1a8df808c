"""One process of `make bench-refresh`: threads that want tokens, and use what they get.

Prints a JSON line: what the calls came to, and how many ms each took to get its token.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import requests
from sqlalchemy.exc import SQLAlchemyError

from app import access, create_app
from app.errors import AppError, ConnectionNeeded
from app.oauth import tokens
from app.oauth.freshness import Timing
from config import Config
from tests.conftest import HERE, SECRETS

from . import naive

RUN_IN_S = 1.0  # not timed: connections to the database are opened
PACE_S = 0.05  # between two calls of a thread: the machine is not what is measured


def ours(early: float) -> Callable[[access.Caller], str]:
    timing = Timing(threshold=early, usable=0.5, quiet=1.0)

    def token(caller: access.Caller) -> str:
        shown = tokens.credential(caller, access.usable(caller, "acme"), timing=timing)
        return shown.headers["Authorization"].removeprefix("Bearer ")

    return token


def call_again_and_again(
    given: argparse.Namespace, token: Callable[[access.Caller], str]
) -> tuple[Counter[str], list[float]]:
    counts: Counter[str] = Counter()
    took: list[float] = []
    start = time.monotonic()
    with requests.Session() as session:
        while time.monotonic() < start + given.seconds:
            number = random.randrange(given.people)
            began = time.monotonic()
            why, seconds = outcome(session, given, lambda n=number: token(person(n)))
            if why == "expired" and time.monotonic() - began > 0.25:
                why = "late"  # it may have ended on its way to the server
            counts[why] += 1
            if began > start + RUN_IN_S:
                took.append(seconds * 1000)
            time.sleep(PACE_S * random.uniform(0.5, 1.5))
    return counts, took


def outcome(
    session: requests.Session, given: argparse.Namespace, get: Callable[[], str]
) -> tuple[str, float]:
    """What a call came to, and how many seconds it took to get its token."""
    began = time.monotonic()
    try:
        token = get()
    except ConnectionNeeded:
        return "told to connect", time.monotonic() - began
    except (AppError, SQLAlchemyError):
        return "failed", time.monotonic() - began
    took = time.monotonic() - began
    found = session.post(f"{given.provider}/look_up", data={"token": token}, timeout=30)
    return str(found.json()["why"]), took


def person(number: int) -> access.Caller:
    return access.Caller(f"p{number}", f"p{number}@example.com", is_admin=False)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("database", "provider", "way"):
        options.add_argument(f"--{name}", required=True)
    options.add_argument("--people", type=int, default=3)
    options.add_argument("--threads", type=int, default=8)
    options.add_argument("--seconds", type=float, default=15.0)
    options.add_argument("--early", type=float, default=1.0)
    given = options.parse_args()
    where = {"DATABASE_URL": given.database, "EGRESS_ALLOW": ("127.0.0.0/8",)}
    quiet = {"LOG_LEVEL": "CRITICAL", "MIGRATE_AT_START": False}
    app = create_app(Config(**SECRETS, **HERE, **where, **quiet))
    token = naive.token if given.way == "naive" else ours(given.early)

    def work(_: int) -> tuple[Counter[str], list[float]]:
        with app.app_context():
            return call_again_and_again(given, token)

    sys.stdout.write("READY\n")
    sys.stdout.flush()
    sys.stdin.readline()  # all begin together
    with ThreadPoolExecutor(given.threads) as pool:
        done = list(pool.map(work, range(given.threads)))
    counts = sum((one for one, _ in done), Counter[str]())
    print("COUNTS", json.dumps([counts, [ms for _, took in done for ms in took]]))


if __name__ == "__main__":
    main()
