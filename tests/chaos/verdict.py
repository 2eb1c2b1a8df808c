"""The invariants I1 to I6, judged from what the world, the people and the database saw."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg

from tests import postgres
from tests.e2e.gateway import Gateway

from .callers import Somebody, Tally
from .weather import Weather
from .world import MARK, Counting, Family, Issuer

MOMENT_S = 1.0  # from a request that rotated to the commit of its tokens, on a busy machine
COMMIT_S = 12.0  # the same while the database is away
HEAL_S = 90.0  # a lease, the quiet time after a lost answer, and a try


@dataclass(frozen=True)
class Verdict:
    name: str
    claim: str
    broken: list[str]
    note: str


def healed(everybody: list[Somebody], slugs: list[str]) -> list[str]:
    """Everybody calls every gateway at every node until it goes well; what did not (I5)."""

    def tries(one: Somebody) -> list[str]:
        wrong = []
        for slug in slugs:
            for node in range(len(one.nodes)):
                end = time.monotonic() + HEAL_S
                while why := one.call(slug, node):
                    if why == "connection_needed":
                        one.connect(slug)
                    if time.monotonic() > end:
                        wrong.append(f"{one.email} at {slug}, node {node + 1}: {why}")
                        break
                    time.sleep(0.5)
        return wrong

    with ThreadPoolExecutor(len(everybody)) as pool:
        return sum(pool.map(tries, everybody), [])


def judge(
    issuers: dict[str, Issuer],
    servers: list[Counting],
    tally: Tally,
    weather: Weather,
    not_healed: list[str],
    leaks: list[str],
) -> list[Verdict]:
    lost, notes = [], []
    for slug, issuer in issuers.items():
        ended = [family for family in issuer.families if family.refused]
        excused = [family for family in ended if _was_killed(family, weather)]
        if issuer.grace:
            excused = []  # a provider that forgives the first reuse has no reason to end one
        lost += [_story(slug, one, weather) for one in ended if one not in excused]
        if tally.reconnected[slug] > len(ended):
            lost += [f"{slug}: {tally.reconnected[slug]} had to connect, {len(ended)} were ended"]
        if issuer.requests["unknown"]:
            lost += [f"{slug}: {issuer.requests['unknown']} times an unknown refresh token came"]
        notes.append(f"{slug} {len(issuer.families)} grants, {len(ended)} ended by the provider")
    twice = [key for server in servers for key, count in server.ran.items() if count > 1]
    ran = sum(len(server.ran) for server in servers)
    return [
        Verdict("I1", "no grant is lost unless the provider ended it", lost, "; ".join(notes)),
        Verdict("I2", "nobody gets another person's token", tally.strangers, f"{tally.good} good"),
        Verdict("I3", "no call has its effect twice", twice, f"{ran} ran"),
        Verdict("I4", "no secret in any output", leaks, "logs and a dump of the database"),
        Verdict("I5", "all heals without help", not_healed, "everybody called both at both nodes"),
        Verdict(
            "I6",
            "an answer comes within the deadline",
            [f"{one:.0f} s" for one in tally.late],
            f"the slowest took {tally.slowest:.1f} s",
        ),
    ]


def _story(slug: str, family: Family, weather: Weather) -> str:
    """What happened around the last time that it was renewed."""
    last, _ = family.rotated[-1]
    told = [(at, "renewed") for at, _ in family.rotated] + [(family.ended, "ended")] + weather.diary
    near = sorted((at - last, what) for at, what in told if last - 15 < at < last + 60)
    return f"{slug}: the grant of {family.owner}: " + ", ".join(f"{at:+.1f} {x}" for at, x in near)


def _was_killed(family: Family, weather: Weather) -> bool:
    """Whether the process that renewed last died between the rotation and its commit.

    That takes a moment, and as long as a lease while the database is away.
    """
    if not family.rotated:
        return False
    crashes = [at for at, what in weather.diary if "database" in what]
    came, process = family.rotated[-1]
    away = any(came - COMMIT_S < at < came + COMMIT_S for at in crashes)
    until = came + (COMMIT_S if away else MOMENT_S)
    killed = [pids for at, pids in weather.kills if came - MOMENT_S <= at <= until]
    return any(process in pids for pids in killed) or (process == 0 and bool(killed))


def leaks(nodes: list[Gateway], weather: Weather, url: str) -> list[str]:
    """Where a marked token, or a secret of the settings, stands in plain text."""
    secret = {nodes[0].env[name] for name in ("SECRET_KEY", "AUTH_ENCRYPTION_SECRET")}
    places = {f"log {n}": text for n, text in enumerate(weather.logs)}
    places |= {f"log of node {n + 1}": node.log() for n, node in enumerate(nodes)}
    places["database"] = _dump(url)
    return [
        f"{word[:12]}… in the {place}"
        for place, text in places.items()
        for word in (f"{MARK}-", *secret)
        if word in text
    ]


def _dump(url: str) -> str:
    program = postgres.program("pg_dump")
    plain = url.replace("+psycopg", "")
    done = subprocess.run([program, plain], capture_output=True, text=True, check=True)
    return done.stdout


def states(url: str) -> Iterator[str]:
    """How many connections are in which state, for the report."""
    query = "SELECT state, coalesce(reason, ''), count(*) FROM connection GROUP BY 1, 2 ORDER BY 1"
    with psycopg.connect(url.replace("+psycopg", "")) as link:
        for state, reason, count in link.execute(query):
            yield f"{count} {state}{f' ({reason})' if reason else ''}"


def words(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
