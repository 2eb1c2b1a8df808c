"""Worker processes (race_worker.py) at one database, and the people whose tokens they want."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from app.db import db
from app.models import User
from app.oauth import tokens
from tests.oauth.planted import acme, grant, plant
from tests.oauth.race_worker import person
from tests.oauth.strict_provider import Provider
from tests.process import Program

ROOT = Path(__file__).parents[2]
FINE = {"active", "late", "forced", "refused again"}  # what a call may come to while nothing fails


class Racers:
    """Starts worker processes at this test's database, and its spool."""

    def __init__(self, database: str, instance: str, provider: Provider) -> None:
        self.where = ["--database", database, "--instance", instance, "--provider", provider.url]

    def __call__(self, *flags: str, gevent: bool = False, **env: str) -> Program:
        """`env`: more of its environment."""
        monkey = ["-m", "gevent.monkey"] if gevent else []
        command = [sys.executable, *monkey, ROOT / "tests/oauth/race_worker.py"]
        env = os.environ | {"PYTHONPATH": str(ROOT)} | env
        return Program([*command, *self.where, *flags], cwd=ROOT, env=env)


def seed(provider: Provider, people: int, **values: Any) -> None:
    """A grant of the provider's for each of them."""
    plant(token_url=f"{provider.url}/token")
    for number in range(people):
        given = provider.seed()
        caller = person(number)
        db.session.add(User(id=caller.user_id, email=caller.email))
        names = ("access_token", "refresh_token")
        made = {"left": provider.expires, "life": provider.expires} | values
        grant(owner_key=caller.owner_key, **made, **{name: given[name] for name in names})


def token(number: int = 0, **more: Any) -> str:
    caller = person(number)
    shown = tokens.credential(caller, acme(caller), **more).headers["Authorization"]
    return shown.removeprefix("Bearer ")


def counts_of(running: list[Program], **more: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for racer in running:
        with racer:
            total += Counter(json.loads(racer.wait_for(r"^COUNTS (.*)$", **more)[1]))
    return total
