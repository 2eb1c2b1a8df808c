"""A gateway with something of everything in it, for walks over all of its routes."""

from __future__ import annotations

import dataclasses
import html
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from app import access, check_runs, create_app, drafts, gateways, people, tool_configs
from app.audit import SYSTEM
from app.db import db, recent
from app.models import ApiToken, BrowserSession, CheckRun, Connection, Flow, Gateway
from app.oauth import parked
from app.secretbox import box, cell
from config import Config
from tests.conftest import HERE, SECRETS, Browser, person, rows
from tests.oauth import acme
from tests.web.credentials import token_of
from tests.web.registry import BASIC, SHARED, add, connect

ORIGIN = "https://gw.test"
NOBODY_THERE = "http://127.0.0.1:65529/mcp"  # of this machine, and closed
AWAY = "203.0.113.9"  # an address that is not this machine's
SAFE = ("GET", "HEAD", "OPTIONS")
COUNTED = {"rate_window"}  # who asks how often is counted, whatever they ask
KEPT_OUT = "access.denied"  # the record of who was kept out changes nothing else
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}'


def dump(app) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    with app.app_context(), db.engine.connect() as link:
        tables = db.metadata.sorted_tables
        return {table.name: sorted(map(repr, link.execute(table.select()))) for table in tables}


def state(app) -> dict[str, list[str]]:
    """All that is stored, but for counts and for the record of who was kept out."""
    found = {name: rows for name, rows in dump(app).items() if name not in COUNTED}
    found["audit_event"] = [row for row in found["audit_event"] if KEPT_OUT not in row]
    found["browser_session"] = _without_seen(app)
    del found["audit_head"]  # moves with each record
    return found


def _without_seen(app) -> list[str]:
    """Of a walk that takes longer than a minute it is noted that somebody is still there."""
    columns = [c for c in BrowserSession.__table__.columns if c.name != "seen_at"]
    with app.app_context(), db.engine.connect() as link:
        return sorted(map(repr, link.execute(sa.select(*columns))))


def started(folder: Path) -> Iterator[Flask]:
    """A server on SQLite that limits nobody: a walk asks more often than any person does."""
    here = {"DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}", "EGRESS_ALLOW": ("127.0.0.0/8",)}
    app = create_app(_without_limits(Config(**SECRETS, **HERE, **here)))
    app.testing = True
    yield app
    with app.app_context():
        db.engine.dispose()


def _without_limits(config: Config) -> Config:
    names = [field.name for field in dataclasses.fields(Config) if "RATE_LIMIT" in field.name]
    return dataclasses.replace(config, OAUTH_MAX_RETRIES=0, **dict.fromkeys(names, 1_000_000))


@dataclass
class World:
    """The cast, and what Alice has: a rule's variable -> what can stand there."""

    app: Any
    admin: Browser
    alice: Browser
    bob: Browser
    stranger: Browser
    hers: dict[str, str]
    queries: dict[str, str]  # a parameter of a query -> Alice's value of it

    def url(self, rule: Rule | str, **given: str) -> str:
        """With what is Alice's in the place of variables, or with what is given."""
        text = rule if isinstance(rule, str) else rule.rule
        return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: (self.hers | given)[found[1]], text)

    def routes(self) -> Iterator[tuple[Rule, str, str]]:
        """Every rule and method, with an address."""
        for rule in sorted(self.app.url_map.iter_rules(), key=lambda rule: rule.rule):
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
                yield rule, method, self.url(rule)

    def token(self, email: str, *scopes: str, slugs: list[str] | None = None) -> str:
        given = {} if slugs is None else {"gateway_ids": self._ids(slugs)}
        return token_of(self.app, email, scopes=scopes, **given)

    def _ids(self, slugs: list[str]) -> list[str]:
        return [row.id for row in rows(self.app, Gateway) if row.slug in slugs]


def build(app) -> World:
    admin = person(app, "admin@example.com", role="admin")
    alice, bob = person(app, "alice@example.com"), person(app, "bob@example.com")
    nobody = {"url": NOBODY_THERE, "token_url": f"{NOBODY_THERE}/token"}
    acme.add(app, "acme", **nobody)
    acme.add(app, "ask", **nobody, token_management={})
    shared = SHARED["oauth_config"] | {"token_url": nobody["token_url"]}
    add(app, SHARED | {"url": NOBODY_THERE, "oauth_config": shared})
    add(app, BASIC | {"url": NOBODY_THERE})
    config_id = _for_some_tools(app)
    connection_id = connect(app, "acme", "alice@example.com")
    _seal(app, connection_id)
    refused = acme.leave(alice)
    refused.back(code="", error="access_denied")
    trip = acme.leave(alice)
    token = token_of(app, "alice@example.com")
    call, handle = _waits(app)
    with app.app_context():
        ids = {user.email: user.id for user in people.everybody()}
    [session_id] = [
        row.id for row in rows(app, BrowserSession) if row.user_id == ids["alice@example.com"]
    ]
    hers = {
        "template_id": "github",
        "slug": "acme",
        "name": "echo",
        "filename": "app.css",
        "code": "not_found",
        "user_id": ids["alice@example.com"],
        "which": session_id,
        "token_id": _token_id(app),
        "connection_id": connection_id,
        "run_id": _checked(app),
        "config_id": config_id,
        "draft_id": _draft(app, ids["admin@example.com"]),
    }
    queries = {
        "flow": trip.flow_id,
        "failed": next(row.id for row in rows(app, Flow) if row.status == "failed"),
        "call": call,
        "ask": handle,
        "token": token,
    }
    return World(app, admin, alice, bob, Browser(app), hers, queries)


def _for_some_tools(app) -> str:
    """An OAuth config of its own."""
    writing = {"name": "Writing", "tool_patterns": [{"match": "write_*"}], "scopes": ["write"]}
    with app.app_context():
        gateway = gateways.find("acme")
        tool_configs.replace(gateway, [writing], by=SYSTEM)
        db.session.commit()
        return tool_configs.further(gateway)[0].id


def _draft(app, user_id: str) -> str:
    """A gateway that an admin has begun to add."""
    with app.app_context():
        draft_id = drafts.begin(user_id, {"name": "Begun", "url": NOBODY_THERE})
        db.session.commit()
        return draft_id


def _checked(app) -> str:
    """A check that is over."""
    with app.app_context():
        run_id = check_runs.begin(gateways.find("acme"), by=SYSTEM, user_id=None)
        row = db.session.get(CheckRun, run_id)
        row.state, row.outcome = "done", "ok"
        db.session.commit()
    return run_id


def _token_id(app) -> str:
    [row] = rows(app, ApiToken)
    return row.id


def _waits(app) -> tuple[str, str]:
    """A call of Alice's AI client that waits for her."""
    with app.app_context():
        alice = people.named("alice@example.com")
        caller = access.Caller(alice.id, alice.email, is_admin=False)
        db.session.rollback()
        gateway = access.usable(caller, "ask")
        waits = parked.park(caller, gateway, digest="d", request=CALL)
        return waits.id, parked.link(caller, gateway, waits.id).partition("ask=")[2]


def _seal(app, connection_id: str) -> None:
    """Tokens that open, and live."""
    with app.app_context():
        row = db.session.get(Connection, connection_id)
        for name in ("access_token_sealed", "refresh_token_sealed"):
            sealed = box().seal(f"token-of-alice-{name}", where=cell(row, name))
            db.session.execute(sa.update(Connection).values({name: sealed}))
        db.session.commit()
        recent().clear()


def unknown() -> str:
    return uuid.uuid4().hex


def told(reply: TestResponse, *own: str) -> tuple[int, str, str]:
    """What an answer tells: without what differs in every answer, and what the asker wrote."""
    text = html.unescape(reply.text)
    text = re.sub(r'name="(csrf_token|form_id)"[^>]*>', "", text)
    text = re.sub(r"[0-9a-f]{12}(?=<|\")", "", text)  # request ids
    location = reply.headers.get("Location", "")
    for one in own:
        text, location = text.replace(one, "…"), location.replace(one, "…")
    return reply.status_code, location, text
