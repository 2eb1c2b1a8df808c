"""One process of the race: threads want tokens for people at random, and look up what they got.

Prints a JSON line of counts. With --hold it takes one lease, says LEASED and asks nobody. Under
greenlets: `python -m gevent.monkey race_worker.py …`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import requests

from app import access, create_app
from app.errors import AppError, TokenRefused
from app.oauth import refresh, tokens
from app.oauth.asking import Asking
from app.oauth.freshness import Timing
from app.oauth.replies import TokenSet
from config import Config
from tests.conftest import HERE, SECRETS

FAST = Timing(deadline=3.0, margin=2.0, quiet=1.0, threshold=1.0, usable=0.5, forced_gap=0.0)
SHORT = Timing(deadline=1.0, margin=0.5, quiet=0.5, threshold=1.0, usable=0.5)


def person(number: int) -> access.Caller:
    return access.Caller(f"p{number}", f"p{number}@example.com", is_admin=False)


def race(provider: str, people: int, seconds: float) -> Counter[str]:
    """One in fifty calls says that its token was refused."""
    counts: Counter[str] = Counter()
    end, after = time.monotonic() + seconds, None
    with requests.Session() as session:
        while time.monotonic() < end:
            caller = person(random.randrange(people))
            if random.random() > 0.02:
                after = None
            try:
                gateway = access.usable(caller, "acme")
                forced = after if after == gateway.connection.token_gen else None
                shown = tokens.credential(caller, gateway, after=forced, timing=FAST)
                after, handed_out = shown.token_gen, time.monotonic()
                token = shown.headers["Authorization"].removeprefix("Bearer ")
                found = session.post(f"{provider}/look_up", data={"token": token}, timeout=5)
                why, took = found.json()["why"], time.monotonic() - handed_out
                counts["late" if why == "expired" and took > FAST.usable / 2 else why] += 1
                counts["forced"] += forced is not None
            except TokenRefused:
                counts["refused again"] += 1
            except AppError as error:
                counts[error.code] += 1
            time.sleep(0.005)
    return counts


def hold(_: Asking) -> TokenSet:
    sys.stdout.write("LEASED\n")
    sys.stdout.flush()
    threading.Event().wait(30)
    raise SystemExit


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--database", required=True)
    options.add_argument("--provider", required=True)
    options.add_argument("--threads", type=int, default=8)
    options.add_argument("--people", type=int, default=3)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--once", action="store_true")
    options.add_argument("--hold", action="store_true")
    given = options.parse_args()
    where = {"DATABASE_URL": given.database, "EGRESS_ALLOW": ("127.0.0.0/8",)}
    app = create_app(Config(**SECRETS, **HERE, **where, MIGRATE_AT_START=False))

    def work(_: int) -> Counter[str]:
        with app.app_context():
            return race(given.provider, given.people, given.seconds)

    if given.hold or given.once:
        with app.app_context():
            gateway = access.usable(person(0), "acme")
            how = {"ask": hold, "after": gateway.connection.token_gen} if given.hold else {}
            refresh.renew(gateway, timing=SHORT, **how)
        return
    with ThreadPoolExecutor(given.threads) as pool:
        total = sum(pool.map(work, range(given.threads)), Counter[str]())
    sys.stdout.write(json.dumps(total) + "\n")


if __name__ == "__main__":
    main()
