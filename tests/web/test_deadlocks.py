"""A form that another transaction got in the way of is carried out all the same, and once."""

import sqlite3

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from app.db import db
from app.models import AuditEvent, Connection, Flow, Gateway, User
from tests.conftest import rows
from tests.web.registry import KEEPING, Script, add, connect, send

SLUG = "keeping"
PLACE = f"/admin/gateways/{SLUG}"


class InTheWay:
    """The database undoes the transaction at its last lock, as it would to end a circle."""

    def __init__(self, app, times: int) -> None:
        self.left = times
        with app.app_context():
            sa.event.listen(db.engine, "before_cursor_execute", self._before)

    def _before(self, _link, _cursor, statement, *_):
        if "audit_head" in statement and self.left:
            self.left -= 1
            cause = sqlite3.OperationalError()  # either kind of database tells it in a field
            cause.sqlite_errorcode, cause.sqlstate = sqlite3.SQLITE_BUSY_SNAPSHOT, "40P01"
            raise OperationalError("", {}, cause)


class People:
    def __init__(self, app, admin, alice, bob) -> None:
        self.app, self.admin, self.alice, self.bob = app, admin, alice, bob
        add(app, KEEPING)
        self.connection = connect(app, SLUG, "alice@example.com")
        [self.id] = [one.id for one in rows(app, User) if one.email == "bob@example.com"]
        self.bobs = f"/admin/users/{self.id}"
        self.script = Script(app, "admin@example.com")

    def end_by_program(self):
        header = {"Authorization": f"Bearer {self.script.token}"}
        where = f"/api/v1/connections/{self.connection}"
        return self.script.client.delete(where, base_url="https://gw.test", headers=header)


ACTS = {
    "gateway.updated": lambda p: send(p.admin, f"{PLACE}/edit", description="anew"),
    "gateway.switched_off": lambda p: p.admin.submit(f"{PLACE}/off", at=PLACE),
    "gateway.deleted": lambda p: p.admin.submit(f"{PLACE}/delete"),
    "user.disabled": lambda p: p.admin.submit(f"{p.bobs}/disable", at=p.bobs),
    "user.deleted": lambda p: p.admin.submit(f"{p.bobs}/delete"),
    "connection.disconnected": lambda p: p.alice.submit(
        f"/connections/{SLUG}/disconnect", at=f"/connections/{SLUG}"
    ),
    "consent.begun": lambda p: p.bob.submit(f"/oauth/connect/{SLUG}", at=f"/connections/{SLUG}"),
    "gateway.updated by a program": lambda p: p.script.ask(
        "PATCH", f"/{SLUG}", {"description": "anew"}
    ),
    "gateway.deleted by a program": lambda p: p.script.ask("DELETE", f"/{SLUG}"),
    "connection.disconnected by a program": lambda p: p.end_by_program(),
}


@pytest.fixture
def them(app, admin, alice, bob) -> People:
    return People(app, admin, alice, bob)


def told(app, what: str) -> int:
    return sum(one.action == what.partition(" ")[0] for one in rows(app, AuditEvent))


def state(app) -> tuple:
    found = [(one.description, one.is_enabled, one.updated_at) for one in rows(app, Gateway)]
    return found, rows(app, Flow) == [], {one.state for one in rows(app, Connection)}


@pytest.mark.parametrize("what", ACTS)
def test_f_26_what_was_undone_for_another_is_done_again(app, them, what):
    before = told(app, what)
    stands = InTheWay(app, times=2)
    reply = ACTS[what](them)
    assert reply.status_code < 400, reply.text
    assert stands.left == 0 and told(app, what) == before + 1


@pytest.mark.parametrize("what", ACTS)
def test_f_26_what_is_undone_each_time_is_refused_and_leaves_nothing(app, them, what):
    before, stood = told(app, what), state(app)
    stands = InTheWay(app, times=4)
    reply = ACTS[what](them)
    assert reply.status_code == 503 and "Retry-After" in reply.headers
    assert stands.left == 0 and told(app, what) == before and state(app) == stood
