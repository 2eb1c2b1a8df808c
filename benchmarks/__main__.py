"""`python -m benchmarks`: tools/call through /mcp/<slug> beside a bare Flask and urllib3 proxy.

Both run under gunicorn.conf.py with the same number of workers, against the same fast upstream
(upstream.c). The gateway does all it does in production: an API token, a stored, fresh OAuth
token, the log line. The targets are visited in turn, round by round, so that noise falls on both.
Steer by CPU per call: it hardly moves with noise, requests per second and p99 do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from demo.instance import ROOT, Instance, listen, serving

from .measure import Run, Target, run

HERE = Path(__file__).parent
FOLDER = ROOT / "instance" / "bench"
ADMIN = "admin@example.com"
TARGET_RATIO = 2.0

Results = dict[tuple[str, int], list[Run]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each visit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    callers = [int(text) for text in options.connections.split(",")]
    with contextlib.ExitStack() as started:
        upstream = started.enter_context(fast_upstream())
        bare = started.enter_context(bare_proxy(upstream, options.workers))
        ours = started.enter_context(gateway(upstream, options.workers))
        for target in (bare, ours):
            check(run(target, connections=8, seconds=3), target)  # warm
        results = visit([bare, ours], callers, options)
        report(results, callers, upstream)


@contextlib.contextmanager
def fast_upstream() -> Iterator[str]:
    """MCP server and token endpoint in one; gives its /mcp URL."""
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = FOLDER / "upstream"
    subprocess.run(["gcc", "-O2", "-o", program, HERE / "upstream.c"], check=True)
    with subprocess.Popen([program, "-p", "0"], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running.stdout.readline().split()[1]
        finally:
            running.terminate()


@contextlib.contextmanager
def bare_proxy(upstream: str, workers: int) -> Iterator[Target]:
    listener = listen()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    env = os.environ | {"UPSTREAM": upstream, "WEB_CONCURRENCY": str(workers)}
    with serving("bare:app", listener, FOLDER / "bare.log", HERE, env) as server:
        urllib.request.urlopen(urllib.request.Request(url, method="OPTIONS"), timeout=30).close()
        yield Target("bare", url, "none", server.pid)


@contextlib.contextmanager
def gateway(upstream: str, workers: int) -> Iterator[Target]:
    listener = listen()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    off = dict.fromkeys(("RATE_LIMIT_TOKEN", "RATE_LIMIT_PERSON", "RATE_LIMIT_ADDRESS"), "0")
    ours = Instance(FOLDER, url, WEB_CONCURRENCY=str(workers), **off)
    with ours.serve(listener) as server:
        ours.flask("users", "create-admin", ADMIN, "--password-stdin", stdin="not used in here\n")
        ours.flask("gateways", "add", ours.keep("bench.json", json.dumps(record(upstream))))
        token = ours.flask("tokens", "create", ADMIN, "--name", "bench").split()[-1]
        yield Target("ours", f"{url}/mcp/bench", token, server.pid)


def record(upstream: str) -> dict[str, object]:
    oauth = {
        "grant_type": "client_credentials",
        "client_id": "bench",
        "client_secret": "bench-secret",
        "token_url": upstream.removesuffix("/mcp") + "/token",
        "token_management": {"store_tokens": True},
    }
    return {"name": "Bench", "slug": "bench", "url": upstream, "auth_type": "oauth"} | {
        "oauth_config": oauth
    }


def check(result: Run, target: Target) -> None:
    if result.bad or not result.per_second:
        sys.exit(f"{target.name} gave {result.bad} bad answers, the first: {result.sample}")


def visit(targets: list[Target], callers: list[int], options: argparse.Namespace) -> Results:
    results: Results = {}
    for number in range(options.rounds):
        for connections in callers:
            for target in targets[:: 1 if number % 2 == 0 else -1]:
                result = run(target, connections=connections, seconds=options.seconds)
                check(result, target)
                results.setdefault((target.name, connections), []).append(result)
    return results


def report(results: Results, callers: list[int], upstream: str) -> None:
    heads = ["callers", "target", "requests/s", "p50 ms", "p99 ms", "CPU ms/request", "peak MiB"]
    print(f"| {' | '.join(heads)} | CPU ratio |\n|{'---|' * (len(heads) + 1)}")
    ratios = []
    for connections in callers:
        floor = median(results["bare", connections], "cpu_ms")
        for name in ("bare", "ours"):
            runs = results[name, connections]
            ratio = median(runs, "cpu_ms") / floor
            ratios += [ratio] if name == "ours" else []
            cells = [f"{median(runs, 'per_second'):,.0f}", f"{median(runs, 'p50_ms'):.2f}"]
            cells += [f"{median(runs, 'p99_ms'):.1f}", f"{median(runs, 'cpu_ms'):.3f}"]
            cells += [f"{max(run.peak_mib for run in runs):.0f}", f"{ratio:.2f}"]
            print(f"| {connections} | {name} | {' | '.join(cells)} |")
    with urllib.request.urlopen(upstream.removesuffix("/mcp") + "/stats", timeout=10) as answer:
        counted = json.load(answer)
    print(
        f"\nMedians; peak memory is the most of all workers together. Of {counted['tools_call']:,} "
        f"calls that reached the upstream, there were {counted['initialize']} initialize, "
        f"{counted['tools_list']} tools/list and {counted['token']} token requests."
        f"\nCPU per call: at most {max(ratios):.2f} times the bare proxy's "
        f"(aim: {TARGET_RATIO:.1f} or less)."
    )


def median(runs: list[Run], what: str) -> float:
    return float(statistics.median(getattr(one, what) for one in runs))


if __name__ == "__main__":
    main()
