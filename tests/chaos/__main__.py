"""`python -m tests.chaos`: bounded; ends with the invariants, and 1 if one of them is broken."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import threading

from demo.instance import ROOT
from tests import postgres
from tests.e2e.gateway import Gateway
from tests.upstream import Upstream

from .callers import Somebody, Tally
from .verdict import healed, judge, leaks, states, words
from .weather import Weather
from .world import Counting, Issuer, serving

SETTINGS = {  # short, so that a run of minutes sees every end of them
    "OAUTH_REQUEST_TIMEOUT": 5,
    "OAUTH_TOKEN_EXPIRY_THRESHOLD": 60,
    "OAUTH_MAX_AUTHORIZATION_ATTEMPTS": 1000,
    "LOG_LEVEL": "INFO",
}
SHARED = ("SECRET_KEY", "AUTH_ENCRYPTION_SECRET", "PUBLIC_URL", "DATABASE_URL")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=int, default=240, help="of bad weather; 480 at most")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}", flush=True)
    with contextlib.ExitStack() as started:
        return run(started, min(options.seconds, 480), options.people)


def run(started: contextlib.ExitStack, seconds: int, how_many: int) -> int:
    database = started.enter_context(postgres.server(fsync="on"))
    url = database.create("chaos")
    issuers = {
        "strict": started.enter_context(serving(Issuer("strict", life=8, grace=0))),
        "lenient": started.enter_context(serving(Issuer("lenient", life=8, grace=120))),
    }
    servers = [Counting(issuer) for issuer in issuers.values()]
    first = started.enter_context(Gateway(url, workers=2, **SETTINGS))
    shared = {name: first.env[name] for name in SHARED}
    nodes = [first, started.enter_context(Gateway(url, workers=2, **SETTINGS | shared))]
    for (slug, issuer), server in zip(issuers.items(), servers, strict=True):
        add(first, slug, issuer, upstream(started, server).url)
    tally = Tally()
    everybody = [Somebody(*one, nodes, tally) for one in cast(first, how_many).items()]
    for one in everybody:
        for slug in issuers:
            assert one.connect(slug), f"{one.email} could not connect to {slug}"
    print(f"{how_many} people are connected to {len(issuers)} gateways", flush=True)

    weather = Weather(nodes, database, list(issuers.values()))
    storm(weather, everybody, list(issuers), seconds)
    not_healed = healed(everybody, list(issuers))
    verdicts = judge(issuers, servers, tally, weather, not_healed, leaks(nodes, weather, url))
    print(f"happened: {words(weather.happened)}")
    print(f"calls: {tally.good} good, {tally.cut_off} cut off; errors: {words(tally.errors)}")
    print(f"asked to connect: {words(tally.asked_to_connect)}; did: {words(tally.reconnected)}")
    print(f"dead tokens shown: {words(sum((s.dead for s in servers), start=servers[0].dead))}")
    print(f"connections: {', '.join(states(url))}")
    print(first.flask("audit", "verify").strip())
    for one in verdicts:
        print(f"{one.name} {'BROKEN' if one.broken else 'holds '}  {one.claim} ({one.note})")
        for line in one.broken[:10]:
            print(f"     {line}")
    return int(any(one.broken for one in verdicts))


def storm(weather: Weather, everybody: list[Somebody], slugs: list[str], seconds: int) -> None:
    """The weather stays in this thread: what a thread starts, ends with that thread."""
    over = threading.Event()
    threads = [threading.Thread(target=one.live, args=(slugs, over)) for one in everybody]
    timer = threading.Timer(seconds, over.set)
    for thread in (*threads, timer):
        thread.start()
    try:
        weather.storm(over)
    finally:
        over.set()
        timer.cancel()
        for thread in (*threads, timer):
            thread.join()


def upstream(started: contextlib.ExitStack, server: Counting) -> Upstream:
    one = Upstream()
    one.script = server
    started.callback(one.stop)
    return one


def add(node: Gateway, slug: str, issuer: Issuer, url: str) -> None:
    oauth = {
        **{"grant_type": "authorization_code", "client_id": slug, "client_secret": "s-" * 16},
        **{"authorization_url": f"{issuer.url}/authorize", "token_url": f"{issuer.url}/token"},
        **{"revocation_url": f"{issuer.url}/revoke", "scopes": ["touch"]},
        "redirect_uri": f"{node.url}/oauth/callback/{slug}",  # both issuers are silent ones
        "token_management": {"store_tokens": True, "auto_refresh": True},
    }
    record = {"name": slug, "slug": slug, "url": url, "auth_type": "oauth", "oauth_config": oauth}
    node.flask("gateways", "add", "-", stdin=json.dumps(record))


def cast(node: Gateway, how_many: int) -> dict[str, str]:
    """Emails and API tokens."""
    command = [sys.executable, "-m", "tests.chaos.people", str(how_many)]
    done = subprocess.run(command, cwd=ROOT, env=node.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tokens: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return tokens


if __name__ == "__main__":
    sys.exit(main())
