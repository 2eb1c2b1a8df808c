"""No change without its record (SEC-114), and a chain of records that shows tampering."""

import dataclasses
import json
import logging
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import audit, chain, people
from app.audit import SYSTEM, Actor, Subject
from app.db import db
from app.errors import NotRecorded
from app.models import AuditEvent, AuditHead, Gateway, User
from tests import audit_worker
from tests.conftest import rows
from tests.mcp import world
from tests.upstream import upstream

__all__ = ["upstream"]  # the fixture
ROOT = Path(__file__).parents[1]


def add_user(admin, email: str):
    return admin.submit("/admin/users/new", email=email, role="user", password="a long password 7")


def run(app, *args):
    return app.test_cli_runner().invoke(args=["audit", *args])


def note(app, *actions: str) -> None:
    """Each in a transaction of its own."""
    with app.app_context():
        for action in actions:
            audit.record(Actor("user", "u1", "ana@example.com"), action, Subject("user", "u2"))
            db.session.commit()


def tamper(app, *statements: str, **values) -> None:
    """As somebody who can write to the database, and has no key."""
    with app.app_context(), db.engine.begin() as link:
        for statement in statements:
            link.execute(sa.text(statement), values)


# -- with the change, or not at all ---------------------------------------------------------------


def test_sec_114_a_change_by_form_and_its_record_come_together(app, admin):
    assert add_user(admin, "bo@example.com").status_code == 303
    [event] = [row for row in rows(app, AuditEvent) if row.subject_label == "bo@example.com"]
    assert (event.action, event.actor_label) == ("user.created", "admin@example.com")
    ran = run(app, "verify")
    assert ran.exit_code == 0, ran.output
    count = len(rows(app, AuditEvent))
    assert ran.output.startswith(f"{count} records hold together.")
    assert ran.output.strip().endswith(f": {count}:{event.link}")


def test_sec_114_a_change_that_is_rolled_back_leaves_no_record(app_ctx):
    audit.record(SYSTEM, "user.created", Subject("user"))
    db.session.rollback()  # before anything was sent to the database
    db.session.commit()
    people.create("bo@example.com", password=None)
    db.session.rollback()
    db.session.commit()
    with Session(db.engine) as session, session.begin():
        audit.stage(session, audit.entry(SYSTEM, "kept", Subject("user")))
    with Session(db.engine) as session:
        audit.stage(session, audit.entry(SYSTEM, "dropped", Subject("user")))
    assert [row.action for row in rows(app_ctx, AuditEvent)] == ["kept"]
    assert chain.verify().broken is None


REFUSE = {
    "sqlite": [
        "CREATE TRIGGER t BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'no'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION USING message = ''no''; END'",
        "CREATE TRIGGER t BEFORE INSERT ON audit_event EXECUTE FUNCTION no()",
    ],
}
ALLOW = {"sqlite": "DROP TRIGGER t", "postgresql": "DROP TRIGGER t ON audit_event"}


@pytest.fixture(params=["insert", "head", "no head"])
def unrecordable(request, app):
    """Nothing can be written into the trail, until the function is called."""
    with app.app_context():
        kind = db.engine.dialect.name
    note(app, "before")
    [head] = rows(app, AuditHead)
    if request.param == "insert":
        tamper(app, *REFUSE[kind])
        return lambda: tamper(app, ALLOW[kind])
    if request.param == "head":
        tamper(app, "UPDATE audit_head SET head_sealed = 'mg1.0123456789ab.AAAA'")
    else:
        tamper(app, "DELETE FROM audit_head")
    return lambda: tamper(
        app,
        "DELETE FROM audit_head",
        "INSERT INTO audit_head (id, head_sealed) VALUES ('audit', :sealed)",
        sealed=head.head_sealed,
    )


def test_f_44_sec_114_what_cannot_be_recorded_is_not_done_and_reading_goes_on(
    app, admin, unrecordable, caplog
):
    before = {row.email for row in rows(app, User)}
    answer = add_user(admin, "bo@example.com")
    assert answer.status_code == 503 and "<code>not_recorded</code>" in answer.text
    assert "Traceback" not in answer.text and "audit_event" not in answer.text
    assert {row.email for row in rows(app, User)} == before
    assert "cannot be written" in caplog.text

    assert admin.get("/admin/users").status_code == 200  # looking at things goes on
    assert admin.get("/me").status_code == 200

    unrecordable()  # it heals by itself
    assert add_user(admin, "bo@example.com").status_code == 303
    assert chain_holds(app)


def chain_holds(app) -> bool:
    ran = run(app, "verify")
    return ran.exit_code == 0


def test_f_44_calls_go_on_while_nothing_can_be_recorded(app, upstream):
    world.add(app, upstream.url)
    client = world.Client(app)
    tamper(app, "UPDATE audit_head SET head_sealed = 'x'")
    assert client.text(client.call()).startswith("echo by")


def test_a_session_that_could_not_record_serves_after_a_rollback(app_ctx):
    note(app_ctx, "first")
    tamper(app_ctx, "UPDATE audit_head SET head_sealed = 'x'")
    people.create("bo@example.com", password=None)
    for _ in range(2):  # to try again without a rollback does not get around it
        with pytest.raises(NotRecorded):
            db.session.commit()
    db.session.rollback()
    assert not rows(app_ctx, User)
    chain.anew(db.session())
    people.create("bo@example.com", password=None)
    db.session.commit()
    assert len(rows(app_ctx, User)) == 1


# -- the chain ------------------------------------------------------------------------------------


def relinked(app, seq: int, **values) -> None:
    """Change a record, and make every link from there on anew, as the code does."""
    with app.app_context(), db.engine.begin() as link:
        e = AuditEvent
        if values:
            link.execute(sa.update(e).where(e.seq == seq).values(**values))
        records = link.execute(sa.select(*e.__table__.columns).order_by(e.seq)).mappings().all()
        before = chain.Head().link
        for record in records:
            before = chain._link(before, record)
            link.execute(sa.update(e).where(e.seq == record["seq"]).values(link=before))


COPY = (
    "INSERT INTO audit_event (id, at, actor_kind, actor_label, action, subject_kind, subject_label,"
    " outcome, details, request_id, address, seq, link) SELECT 'new', at, actor_kind, actor_label,"
    " 'user.created', subject_kind, subject_label, outcome, details, request_id, address, {seq},"
    " link FROM audit_event WHERE seq = 3"
)
CHANGES = {
    "actor_label": "'eve@example.com'",
    "action": "'nothing'",
    "outcome": "'denied'",
    "at": "'2020-01-01 00:00:00.000000'",
    "details": "'{\"a\": 1}'",
    "subject_id": "NULL",
    "link": "'" + "f" * 64 + "'",
}
TAMPERING = {
    **{
        f"edited {column}": (
            [f"UPDATE audit_event SET {column} = {value} WHERE seq = 3"],
            3,
            "chang",
        )
        for column, value in CHANGES.items()
    },
    "taken away": (["DELETE FROM audit_event WHERE seq = 3"], 3, "is missing"),
    "taken away and moved up": (
        [
            "DELETE FROM audit_event WHERE seq = 3",
            "UPDATE audit_event SET seq = 3 WHERE seq = 4",
            "UPDATE audit_event SET seq = 4 WHERE seq = 5",
        ],
        3,
        "was changed",
    ),
    "cut off": (["DELETE FROM audit_event WHERE seq > 3"], 4, "cut off"),
    "all taken away": (["DELETE FROM audit_event"], 1, "cut off"),
    "put in after the end": ([COPY.format(seq=6)], 6, "put in after the end"),
    "put in without a place": (  # as does the release before, which knows of no chain
        [COPY.format(seq="NULL")],
        0,
        "without a place in the chain were put in: by hand, or by nodes of the release before",
    ),
    "put in before the first": ([COPY.format(seq=0)], 0, "without a place"),
    "head taken away": (["DELETE FROM audit_head"], 0, "head is gone"),
    "head altered": (["UPDATE audit_head SET head_sealed = 'x'"], 0, "does not open"),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_sec_114_tampering_is_found_and_named(app, how):
    note(app, "one", "two", "three", "four", "five")
    statements, seq, said = TAMPERING[how]
    tamper(app, *statements)
    ran = run(app, "verify")
    assert ran.exit_code == 1, ran.output
    assert said in ran.output and (f"Record {seq} " in ran.output) == (seq > 0)


def test_sec_114_records_whose_links_were_made_anew_do_not_end_in_the_sealed_head(app):
    note(app, "one", "two", "three")
    relinked(app, 2)
    assert chain_holds(app)  # so the links below are what the code would make
    relinked(app, 2, actor_label="eve@example.com")
    ran = run(app, "verify")
    assert ran.exit_code == 1 and "does not end in the sealed head" in ran.output


def test_sec_114_nothing_is_added_to_records_that_were_mended(app):
    """Else the next event would make the tampering whole."""
    note(app, "one", "two", "three")
    relinked(app, 2, actor_label="eve@example.com")
    note(app, "four")
    assert "Record 4 was changed" in run(app, "verify").output


def test_an_older_copy_of_the_database_shows_only_against_what_was_noted(app):
    """The sealed head goes back with the records: docs/why/audit.md says so."""
    note(app, "one", "two")
    [old] = rows(app, AuditHead)
    note(app, "three", "four")
    noted = run(app, "verify").output.split()[-1]
    assert run(app, "verify", "--noted", noted).exit_code == 0
    tamper(
        app,
        "DELETE FROM audit_event WHERE seq > 2",
        "UPDATE audit_head SET head_sealed = :old",
        old=old.head_sealed,
    )
    assert chain_holds(app)
    ran = run(app, "verify", "--noted", noted)
    assert ran.exit_code == 1 and "Record 4 is not there, as the records end with 2" in ran.output
    note(app, "three again", "four again")
    ran = run(app, "verify", "--noted", noted)
    assert ran.exit_code == 1 and "Record 4 is not the one that was noted" in ran.output


@pytest.mark.parametrize("noted", ["", "4", "4:x", "x:" + "0" * 64, f"{'9' * 23}:{'a' * 64}"])
def test_a_note_that_is_none_is_wrong_usage(app, noted):
    ran = run(app, "verify", "--noted", noted)
    assert ran.exit_code == 2 and "Traceback" not in ran.output


def test_a_chain_is_walked_in_batches(app_ctx):
    note(app_ctx, *(f"event {number}" for number in range(7)))
    for batch in (1, 2, 7, 8):
        verdict = chain.verify(batch=batch)
        assert (verdict.count, verdict.broken) == (7, None)


def test_an_empty_trail_holds(app):
    ran = run(app, "verify")
    assert ran.exit_code == 0 and ran.output.startswith("0 records hold together.")


def test_a_broken_chain_can_be_left_behind_and_that_is_recorded(app):
    note(app, "one", "two", "three")
    tamper(app, "DELETE FROM audit_event WHERE seq = 2", "DELETE FROM audit_head")
    assert run(app, "anew", "--yes").exit_code == 0
    note(app, "four")
    ran = run(app, "verify")
    assert ran.exit_code == 0 and "begun anew after record 3" in ran.output
    assert "2 records hold together" in ran.output
    events = sorted(rows(app, AuditEvent), key=lambda row: row.seq)
    assert [row.action for row in events] == ["one", "three", "audit.begun_anew", "four"]
    assert "head is gone" in events[2].details["found"]
    tamper(app, "UPDATE audit_event SET action = 'x' WHERE seq = 4")
    assert "Record 4 was changed" in run(app, "verify").output


def test_what_was_recorded_before_there_was_a_chain_is_counted(app):
    with app.app_context():
        event = audit.entry(SYSTEM, "of old", Subject("user"))
        with db.engine.begin() as link:
            values = {name: value for name, value in vars(event).items() if name in chain.FACTS}
            link.execute(sa.insert(AuditEvent).values(**values))
    note(app, "one")
    assert run(app, "verify").output.startswith("1 records hold together.")
    tamper(app, "DELETE FROM audit_event WHERE action = 'of old'")
    assert "without a place" in run(app, "verify").output


def test_every_column_but_the_link_is_in_the_link():
    assert set(chain.FACTS) == {column.key for column in AuditEvent.__table__.columns} - {"link"}


def test_the_record_is_listed_as_json_lines(app):
    note(app, "one", "two\N{RIGHT-TO-LEFT OVERRIDE}", "three")
    lines = run(app, "list", "--after", "1").output.splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["two\u202e", "three"]
    assert all(line.isascii() for line in lines)
    assert len(run(app, "list", "--limit", "2").output.splitlines()) == 2


def test_sec_114_what_was_recorded_is_in_the_log_with_its_link(app, caplog):
    with caplog.at_level(logging.INFO, "app.chain"):
        note(app, "one")
        with app.app_context():
            audit.record(SYSTEM, "dropped", Subject("user"))
    [event], [line] = rows(app, AuditEvent), caplog.records
    told = line.facts
    assert (told["seq"], told["link"], told["action"]) == (1, event.link, "one")
    assert (told["actor_label"], told["outcome"]) == ("ana@example.com", "ok")


# -- many at once ---------------------------------------------------------------------------------


def test_sec_114_processes_that_record_at_once_make_one_chain(app, database_url):
    """In each, threads that change the same two rows, and roll back now and then."""
    with app.app_context():
        for name in audit_worker.ROWS:
            db.session.add(
                Gateway(
                    slug=name, name=name, url="https://mcp.test", auth_type="none", description="0"
                )
            )
        db.session.commit()
    command = [sys.executable, "-m", "tests.audit_worker", database_url]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    said = [json.loads(worker.communicate(timeout=300)[0]) for worker in workers]
    assert [one["failed"] for one in said] == [[], []]  # nobody waited in a circle
    kept = sum(one["kept"] for one in said)
    assert kept == len(rows(app, AuditEvent)) and kept > 2 * audit_worker.ROUNDS
    with app.app_context():
        verdict = chain.verify()
        assert (verdict.count, verdict.broken) == (kept, None)
        changes = db.session.scalars(sa.select(Gateway.description)).all()
    assert sum(int(text) for text in changes) == kept  # a record for each change, and no other


def test_of_many_first_events_one_begins_the_chain(app):
    start = threading.Barrier(6)

    def first(number: int) -> None:
        start.wait(timeout=60)
        note(app, f"event {number}")

    threads = [threading.Thread(target=first, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(rows(app, AuditHead)) == 1 and len(rows(app, AuditEvent)) == 6
    assert chain_holds(app)


def test_random_tampering_never_passes(app):
    """Any one field of any record, set to what another record holds there."""
    note(app, *(f"event {number}" for number in range(6)))
    dice = random.Random(7)
    records = rows(app, AuditEvent)
    for _ in range(30):
        one, other = dice.sample(records, 2)
        column = dice.choice(["id", "at", "action", "link"])
        e = AuditEvent
        values = {column: getattr(other, column) if column != "id" else "f" * 32}
        with app.app_context():
            with db.engine.begin() as link:
                link.execute(sa.update(e).where(e.seq == one.seq).values(**values))
            assert chain.verify().broken is not None, (column, one.seq, other.seq)
            with db.engine.begin() as link:
                back = {column: getattr(one, column)}
                link.execute(sa.update(e).where(e.seq == one.seq).values(**back))
            assert chain.verify().broken is None


def test_nothing_gets_into_the_trail_around_the_chain(app_ctx):
    db.session.add(audit.entry(SYSTEM, "sneaked in", Subject("user")))
    with pytest.raises(RuntimeError, match=r"audit\.stage"):
        db.session.commit()


def test_a_record_knows_its_gateway_and_whose_account_it_is_about(app, admin, alice):
    gateway_id = world.add(app, "https://mcp.test/mcp", **world.oauth())
    ids = {row.email: row.id for row in rows(app, User)}
    alice.submit("/oauth/connect/acme", at="/connections/acme")
    user_id = ids["alice@example.com"]
    admin.submit(f"/admin/users/{user_id}/disable", at=f"/admin/users/{user_id}")
    found = {row.action: (row.gateway_id, row.person_id) for row in rows(app, AuditEvent)}
    assert found["gateway.created"] == (gateway_id, None)
    assert found["consent.begun"] == (gateway_id, user_id)
    assert found["user.disabled"] == (None, user_id)


def test_the_chain_goes_on_under_a_new_key_and_without_the_old_one(app, start, config):
    note(app, "one")
    old, new = config.AUTH_ENCRYPTION_SECRET, "0f1e2d3c4b5a69788796a5b4c3d2e1f0" * 2
    both = dataclasses.replace(
        config, AUTH_ENCRYPTION_SECRET=new, AUTH_ENCRYPTION_SECRETS_OLD=(old,)
    )
    turning = start(both)
    note(turning, "two")
    assert turning.test_cli_runner().invoke(args=["secrets", "reseal"]).exit_code == 0
    turned = start(dataclasses.replace(config, AUTH_ENCRYPTION_SECRET=new))
    note(turned, "three")
    assert chain_holds(turned)
