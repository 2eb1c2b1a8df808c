"""Moving what is stored to a new key, while the gateway runs."""

from __future__ import annotations

import dataclasses
import os
import secrets
import subprocess
import sys

import pytest
import sqlalchemy as sa

from app import audit, keys, people, resealing
from app.audit import SYSTEM, Subject
from app.db import Base, db
from app.errors import AppError, Conflict, ConnectionNeeded, NotRecorded
from app.models import AuditEvent, AuditHead, Connection, CryptoMeta, KeyHolder
from app.oauth import tokens
from app.secretbox import SecretBox, Where, box, key_id
from config import ConfigError
from tests import sealed
from tests.conftest import PASSWORD, Browser, rows
from tests.oauth.planted import ALICE, FRESH, acme, grant
from tests.oauth.planted import plant as plant_acme

OLD_ID, NEW_ID = (SecretBox([secret]).active for secret in (sealed.OLD, sealed.NEW))


@pytest.fixture
def node(start, config):
    """node("NEW", "OLD"): a process whose first secret seals and whose others open."""

    def node(active, *old):
        ring = [getattr(sealed, name) for name in (active, *old)]
        given = {"AUTH_ENCRYPTION_SECRET": ring[0], "AUTH_ENCRYPTION_SECRETS_OLD": tuple(ring[1:])}
        return start(dataclasses.replace(config, **given))

    return node


@pytest.fixture
def planted(app):
    """What the tables hold, sealed with the old key."""
    with app.app_context():
        return sealed.plant()


def states(app) -> dict[str, str]:
    return {row.id: row.state for row in rows(app, CryptoMeta)}


def test_sec_082_every_sealed_column_of_the_schema_is_known(app, planted):
    """A column is found by its name, and has an owner to be bound to; the tests fill all."""
    named = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if column.name.endswith("_sealed")
    }
    found = {(model.__tablename__, name) for model, names in known() for name in names}
    assert named - {("crypto_meta", "check_sealed")} == found
    assert found - {("audit_head", "head_sealed")} == {(table, name) for table, _, name in planted}
    assert all(hasattr(model, "sealed_for") for model, _ in known())


def known():
    return resealing.sealed_columns().items()


def test_sec_082_all_is_moved_and_only_then_can_the_old_key_go(app, node, planted):
    both = node("NEW", "OLD")
    with both.app_context():
        assert resealing.status().old >= len(planted)
        with pytest.raises(ConfigError, match=f"sealed with key {OLD_ID}"):
            node("NEW")
        done = resealing.reseal(by=SYSTEM)
        assert done.moved >= len(planted) and done.retired == (OLD_ID,)
        assert not done.status.old and not done.status.unreadable
        assert resealing.reseal(by=SYSTEM).moved == 0
    with node("NEW").app_context():
        assert {place: sealed.read(place) for place in planted} == planted
    assert states(app) == {OLD_ID: "retired", NEW_ID: "active"}


def test_sec_082_to_go_back_is_the_same_the_other_way_round(app, node, planted):
    with node("NEW", "OLD").app_context():
        resealing.reseal(by=SYSTEM)
    with pytest.raises(ConfigError, match=f"sealed with key {NEW_ID}"):
        node("OLD")
    with node("OLD", "NEW").app_context():
        assert resealing.reseal(by=SYSTEM).retired == (NEW_ID,)
    with node("OLD").app_context():
        assert {place: sealed.read(place) for place in planted} == planted


def test_sec_082_what_was_stopped_goes_on_where_it_was(app, node):
    with app.app_context():
        places = [place for number in range(1, 8) for place in sealed.plant(number)]

    class Stopped(Exception):
        pass

    def stop_after(batches):
        def progress(table, moved):
            nonlocal batches
            batches -= 1
            if not batches:
                raise Stopped

        return progress

    with node("NEW", "OLD").app_context():
        left = []
        for batches in (3, 4, 5):
            with pytest.raises(Stopped):
                resealing.reseal(by=SYSTEM, progress=stop_after(batches), batch=2)
            db.session.rollback()
            left.append(resealing.status().old)
        assert len(places) > left[0] > left[1] > left[2] > 0
        assert states(app)[OLD_ID] == "active"
        assert resealing.reseal(by=SYSTEM, batch=2).moved == left[2]
        assert not resealing.status().old


def test_sec_082_a_value_that_changed_meanwhile_is_left_to_who_changed_it(app, node, planted):
    """Between our reading and our writing of it."""
    [place] = [one for one in planted if one[0] == "connection" and one[2].startswith("access")]
    with node("NEW", "OLD").app_context():
        where = Where(*place, _owner_of(place[1]))
        other = sa.create_engine(db.engine.url)

        renewed = []

        def renew(link, cursor, statement, parameters, context, many):
            ours = statement.startswith("UPDATE connection SET access_token_sealed")
            if ours and not renewed:
                renewed.append(True)
                new = {"value": box().seal("renewed", where=where), "id": place[1]}
                text = "UPDATE connection SET access_token_sealed = :value WHERE id = :id"
                with other.begin() as second:
                    second.execute(sa.text(text), new)

        sa.event.listen(db.engine, "before_cursor_execute", renew)
        done = resealing.reseal(by=SYSTEM)
        other.dispose()
        assert renewed and sealed.read(place) == "renewed" and not done.status.old


def _owner_of(connection_id: str) -> str:
    return db.session.get_one(Connection, connection_id).owner_key


def test_sec_084_what_does_not_open_is_named_and_stops_nothing_else(app, node, planted):
    faults = {
        ("gateway", "credentials_sealed"): ("gho_plaintext", "is no sealed value"),
        ("connection", "refresh_token_sealed"): (None, "was altered, or moved"),
        ("flow", "secrets_sealed"): ("mg1.deadbeef0000." + "A" * 80, "with key deadbeef0000"),
    }
    bad = {place: faults[place[0], place[2]] for place in planted if (place[0], place[2]) in faults}
    with node("NEW", "OLD").app_context():
        for place, (value, _) in bad.items():
            elsewhere = box().seal("x", where=Where("other", "", "", ""))
            sealed.put(place, elsewhere if value is None else value)
        done = resealing.reseal(by=SYSTEM)
        found = {(one.table, one.row, one.column): one.why for one in done.status.unreadable}
        assert found.keys() == bad.keys()
        assert all(why in found[place] for place, (_, why) in bad.items())
        assert "gho_plaintext" not in repr(done)
        assert done.retired == (OLD_ID,) and not done.status.old
        good = planted.keys() - bad
        assert {place: sealed.read(place) for place in good} == {p: planted[p] for p in good}


# -- several processes -----------------------------------------------------------------------------


def test_sec_082_nothing_is_sealed_that_a_running_process_could_not_open(app, node, planted):
    with app.app_context():
        keys.announce()  # it was started with the old secret alone
    with node("NEW", "OLD").app_context():
        before = resealing.status().counts
        with pytest.raises(Conflict) as caught:
            resealing.reseal(by=SYSTEM)
        assert caught.value.code == "keys_differ" and str(os.getpid()) in caught.value.cause
        assert resealing.status().counts == before


@pytest.mark.parametrize("old", [("OLD",), ("OLD", "NEW")], ids=["never", "no longer"])
def test_sec_082_f_28_no_command_gives_a_running_server_a_key_it_lacks(app, node, planted, old):
    """The trail would be sealed with it: no change could be recorded, and no restart helped."""
    if len(old) > 1:  # there and back
        with node("NEW", "OLD").app_context():
            resealing.reseal(by=SYSTEM)
        with node("OLD", "NEW").app_context():
            resealing.reseal(by=SYSTEM)
    server, before = node("OLD"), states(app)
    with server.app_context():
        keys.announce()
    shell = node("NEW", "OLD").test_cli_runner()
    changing = ["tokens", "revoke", "--all", "--yes"]
    for command in (["users", "list"], ["gateways", "list"], ["audit", "list"], changing):
        ran = shell.invoke(args=command)
        assert ran.exit_code == 78 and f"has not got key {NEW_ID}" in ran.output
        assert f"(process {os.getpid()})" in ran.output and "docs/keys.md" in ran.output
    assert shell.invoke(args=["secrets", "reseal"]).exit_code == 1
    looked = shell.invoke(args=["secrets", "status"])
    assert looked.exit_code == 1 and f"{OLD_ID}\told" in looked.output

    assert states(app) == before
    signed_in(server)
    signed_in(node("OLD"))  # and it can be started again as it was
    assert server.test_cli_runner().invoke(args=["users", "list"]).exit_code == 0


def signed_in(app) -> None:
    """An admin is made, and comes in by the form."""
    email = f"{secrets.token_hex(4)}@example.com"
    with app.app_context():
        people.create(email, password=PASSWORD)
        db.session.commit()
    assert Browser(app).login(email, PASSWORD).get("/me").status_code == 200


def test_sec_082_a_server_that_began_beside_one_without_its_key_says_so(app, node, planted):
    """Of a server nobody asks to wait: the other may be gone, or be the one it follows."""
    with app.app_context():
        keys.announce()
    with node("NEW", "OLD").app_context():
        assert NEW_ID not in states(app)
        keys.announce()
    assert states(app)[NEW_ID] == "active"
    with app.app_context():  # the trail is sealed with the new key: that is what is missing
        audit.record(SYSTEM, "user.created", Subject("user"))
        with pytest.raises(NotRecorded) as caught:
            db.session.commit()
        assert caught.value.code == "key_missing" and NEW_ID in caught.value.admin


def test_sec_082_a_process_that_ended_holds_nothing_up(app, node, planted):
    """On this host its number is looked at; elsewhere its silence counts."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with app.app_context():
        keys.announce()
        keys.announce()
    with app.app_context(), db.engine.begin() as link:
        [row] = link.execute(sa.select(KeyHolder.__table__)).mappings()
        link.execute(sa.update(KeyHolder).values(pid=ended.pid))
        silent = {"id": "elsewhere", "host": "another", "seen_ms": row["seen_ms"] - keys.LATE_MS}
        link.execute(sa.insert(KeyHolder).values(dict(row) | silent))
    with node("NEW", "OLD").app_context():
        assert resealing.reseal(by=SYSTEM).retired == (OLD_ID,)


def test_sec_082_an_old_key_is_not_retired_while_a_process_seals_with_it(app, node, planted):
    late = node("OLD", "NEW")
    with late.app_context():
        keys.announce()
    both = node("NEW", "OLD")
    with both.app_context():
        done = resealing.reseal(by=SYSTEM)
        assert done.moved >= len(planted) and not done.retired
        assert str(os.getpid()) in done.waits_for
        with db.engine.begin() as link:
            link.execute(sa.delete(KeyHolder))
        assert resealing.reseal(by=SYSTEM).retired == (OLD_ID,)
    with late.app_context():  # nobody saw it: it takes its key back with its next sign of life
        keys.announce()
    assert states(app) == {OLD_ID: "active", NEW_ID: "active"}


def test_sec_082_an_old_key_stays_while_renewed_tokens_wait_in_the_spool(app, node, tmp_path):
    with app.app_context():
        text = box().seal("tokens", where=Where("spool", "x", "file", "system"))
    both = node("NEW", "OLD")
    both.instance_path = str(tmp_path)
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "one").write_text(text)
    with both.app_context():
        done = resealing.reseal(by=SYSTEM)
        assert (done.spooled, done.retired) == (1, ())
        (tmp_path / "spool" / "one").unlink()
        assert resealing.reseal(by=SYSTEM).retired == (OLD_ID,)


def test_sec_082_a_file_of_the_spool_that_is_no_text_keeps_the_old_key(app, node, tmp_path):
    """Nobody knows what it needs. A folder that cannot be looked into is no empty one."""
    both = node("NEW", "OLD")
    both.instance_path = str(tmp_path)
    spool = tmp_path / "spool"
    with both.app_context():
        spool.mkdir()
        (spool / "one").write_bytes(b"\xff\xfe")
        (spool / "two").mkdir()  # as unreadable as a file of another user, for root too
        done = resealing.reseal(by=SYSTEM)
        assert (done.spooled, done.retired) == (2, ())
        (spool / "one").unlink()
        (spool / "two").rmdir()
        spool.rmdir()
        spool.write_text("in the way")
        assert resealing.reseal(by=SYSTEM).spooled == 1
        spool.unlink()
        assert resealing.reseal(by=SYSTEM).retired == (OLD_ID,)


def test_f_28_a_process_without_the_new_key_ends_no_grant(app, node):
    """It says that it must be started again; what it cannot read is as good as before."""
    with app.app_context():
        plant_acme()
        grant(FRESH)
    with node("NEW", "OLD").app_context():
        resealing.reseal(by=SYSTEM)
    with app.app_context():
        with pytest.raises(AppError) as caught:
            tokens.credential(ALICE, acme())
        assert caught.value.code == "key_missing" and NEW_ID in caught.value.admin
    with node("NEW").app_context():
        assert tokens.credential(ALICE, acme()).headers == {"Authorization": "Bearer at-1"}
    assert rows(app, Connection)[0].state == "active"


def test_sec_079_a_key_that_never_was_ends_the_grant_as_any_damage_does(app):
    with app.app_context():
        plant_acme()
        grant(FRESH, access_token_sealed="mg1.deadbeef0000." + "A" * 80)
        with pytest.raises(ConnectionNeeded):
            tokens.credential(ALICE, acme())
    assert rows(app, Connection)[0].state == "needs_reauth"


def test_sec_113_a_change_of_the_key_is_recorded(app, node, planted):
    assert not [one for one in rows(app, AuditEvent) if one.action.startswith("key.")]
    with node("NEW", "OLD").app_context():
        resealing.reseal(by=SYSTEM)
    added, moved = [one for one in rows(app, AuditEvent) if one.action.startswith("key.")]
    assert (added.action, added.subject_label) == ("key.added", NEW_ID)
    assert (moved.action, moved.subject_label) == ("key.resealed", NEW_ID)
    assert moved.details["retired"] == [OLD_ID] and moved.details["moved"] >= len(planted)


def test_sec_082_the_head_of_the_audit_trail_moves_too(app, node, planted):
    with node("NEW", "OLD").app_context():
        resealing.reseal(by=SYSTEM)
    [head] = rows(app, AuditHead)
    assert key_id(head.head_sealed) == NEW_ID
