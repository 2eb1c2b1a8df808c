"""One process of the race: threads want tokens for people at random, and look up what they got.

Prints a JSON line of counts. Other roles want one token, and stop at a moment that the test waits
for. Under greenlets: `python -m gevent.monkey race_worker.py …`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import requests
from flask import Flask

from app import access, create_app
from app.db import AWAY, db
from app.errors import AppError, TokenRefused
from app.oauth import asking, refresh, spool, tokens
from app.oauth.asking import Asking
from app.oauth.freshness import Timing
from app.oauth.replies import TokenSet
from config import Config
from tests.conftest import HERE, SECRETS

# Nobody dies in a race, so the deadline may be one that a busy machine keeps.
FAST = Timing(deadline=30.0, margin=2.0, quiet=1.0, threshold=1.0, usable=0.5, forced_gap=0.0)
SHORT = Timing(deadline=1.0, margin=0.5, quiet=0.5, threshold=1.0, usable=0.5, forced_gap=0.0)


def person(number: int) -> access.Caller:
    return access.Caller(f"p{number}", f"p{number}@example.com", is_admin=False)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# -- racing ----------------------------------------------------------------------------------------


def race(given: argparse.Namespace, timing: Timing, seconds: float) -> Counter[str]:
    """One in fifty calls says that its token was refused; a dead one is refused, as by a server."""
    counts: Counter[str] = Counter()
    end, after = time.monotonic() + seconds, None
    with requests.Session() as session:
        while time.monotonic() < end:
            caller = person(random.randrange(given.people))
            if random.random() > 0.02:
                after = None
            began = time.monotonic()
            try:
                gateway = access.usable(caller, "acme")
                forced = after if after == gateway.connection.token_gen else None
                counts["forced"] += forced is not None
                shown = tokens.credential(caller, gateway, after=forced, timing=timing)
                after = shown.token_gen
                why = look_up(session, given.provider, shown)
                if why == "expired" and time.monotonic() - began > timing.usable / 2:
                    why = "late"
                elif why in ("expired", "revoked"):
                    counts["forced"] += 1
                    tokens.credential(caller, gateway, after=after, timing=timing)
                counts[why] += 1
            except TokenRefused:
                counts["refused again"] += 1
            except AppError as error:
                counts[error.code] += 1
            except AWAY:
                counts["database away"] += 1
            time.sleep(0.005)  # else one process keeps a core, and the others wait for theirs
    return counts


def look_up(session: requests.Session, provider: str, shown: tokens.Credential) -> str:
    token = shown.headers["Authorization"].removeprefix("Bearer ")
    found = session.post(f"{provider}/look_up", data={"token": token}, timeout=5)
    return str(found.json()["why"])


def all_threads(app: Flask, given: argparse.Namespace, timing: Timing) -> Counter[str]:
    def work(_: int) -> Counter[str]:
        with app.app_context():
            return race(given, timing, given.seconds)

    with ThreadPoolExecutor(given.threads) as pool:
        return sum(pool.map(work, range(given.threads)), Counter[str]())


def litter(app: Flask, given: argparse.Namespace) -> None:
    """For each line that it reads, a child that races until it is killed."""
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            with app.app_context():
                db.engine.dispose(close=False)  # those connections are the parent's
            all_threads(app, given, SHORT)
            os._exit(0)
        say(f"CHILD {child}")
        os.waitpid(child, 0)
        say(f"GONE {child}")


# -- roles that want one token --------------------------------------------------------------------


def stops(*, line: str, before: bool) -> Callable[[Asking], TokenSet]:
    """Ask the provider, and stop before or after it."""

    def ask(what: Asking) -> TokenSet:
        tokens = None if before else asking.ask_provider(what)
        say(line)
        threading.Event().wait(60)
        raise SystemExit(f"nobody ended this: {tokens}")

    return ask


def writes_nothing(what: Asking) -> TokenSet:
    """As on a disk that is full by the time that the answer is there (SQLite)."""
    tokens = asking.ask_provider(what)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    return tokens


ROLES: dict[str, Callable[[Asking], TokenSet]] = {
    "once": asking.ask_provider,
    "hold": stops(line="LEASED", before=True),
    "answered": stops(line="ANSWERED", before=False),
    "full": writes_nothing,
}


def once(role: str) -> None:
    gateway = access.usable(person(0), "acme")
    after = gateway.connection.token_gen if role == "hold" else None
    try:
        seen = refresh.renew(gateway, after=after, timing=SHORT, ask=ROLES[role])
    except AppError as error:
        say(f"FAILED {error.code}")
        return
    say(f"GOT {seen.token_gen}")
    if role == "full":
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        say(f"APPLIED {spool.apply()}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--database", required=True)
    options.add_argument("--provider", required=True)
    options.add_argument("--instance", required=True)
    options.add_argument("--threads", type=int, default=8)
    options.add_argument("--people", type=int, default=3)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--role", choices=["race", "litter", *ROLES], default="race")
    given = options.parse_args()
    where = {"DATABASE_URL": given.database, "EGRESS_ALLOW": ("127.0.0.0/8",)}
    app = create_app(Config(**SECRETS, **HERE, **where, MIGRATE_AT_START=False))
    app.instance_path = given.instance
    app.config["OAUTH_REQUEST_TIMEOUT"] = FAST.deadline
    say(f"READY {time.time()}")
    if given.role == "race":
        say(f"COUNTS {json.dumps(all_threads(app, given, FAST))}")
    elif given.role == "litter":
        app.config["OAUTH_REQUEST_TIMEOUT"] = SHORT.deadline
        litter(app, given)
    else:
        with app.app_context():
            once(given.role)


if __name__ == "__main__":
    main()
