"""Renewed tokens that the database does not take (F-21, F-22): what becomes of them."""

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InternalError, OperationalError, ProgrammingError

from app.audit import SYSTEM
from app.db import db
from app.errors import ConnectionNeeded, ProviderError
from app.models import Connection, Revocation, User
from app.oauth import keeping, refresh, spool, tokens
from app.oauth.freshness import Timing
from app.oauth.replies import TokenSet
from app.secretbox import Where, box, cell
from tests.oauth.planted import ALICE, DEAD, NEW, Ask, acme, change, grant, plant, stored, token_of
from tests.oauth.test_refresh import Fails, events, now_ms

QUICK = Timing(deadline=0.1, margin=0.2, quiet=0.1, threshold=600.0, usable=0.5)
STORING = "last_refresh_ms="  # part of the statement that stores tokens
FOR_EVER = 10**6


@pytest.fixture(autouse=True)
def acme_oauth(app_ctx):
    plant(revocation_url="https://as.test/revoke")


def renew(ask, **more) -> str:
    return token_of(refresh.renew(acme(), timing=QUICK, ask=ask, **more))


def files() -> list[Path]:
    return sorted(spool.folder().iterdir()) if spool.folder().exists() else []


def spooled(token_set: TokenSet = NEW) -> Fails:
    """A renewal whose tokens the database does not take, until `left` is 0."""
    grant(DEAD, revocation_url="https://as.test/revoke")
    fails = Fails(STORING, "before", times=FOR_EVER)
    assert renew(Ask(token_set)) == token_set.access_token
    return fails


def test_f_21_a_commit_that_fails_to_the_end_leaves_a_sealed_file():
    spooled()
    [file] = files()
    assert file.name == f"{stored().id}.{stored().token_gen}"
    assert (spool.folder().stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    text = file.read_text()
    assert text.startswith("mg1.") and "at-2" not in text and "rt-2" not in text
    assert token_of(stored()) == "at-1"


@pytest.mark.parametrize("error", [InternalError, ProgrammingError])
def test_f_21_whatever_the_database_says_instead_of_yes_leaves_a_file(error):
    """PostgreSQL that became read-only raises InternalError; of the rest nobody has a list."""
    grant(DEAD)
    fails = Fails(STORING, "before", times=FOR_EVER, error=error)
    assert renew(Ask(NEW)) == "at-2"
    change(lease_ms=0)
    assert [renew(Ask()), len(files())] == ["at-2", 1]
    assert spool.apply() == 0
    fails.left = 0
    assert (spool.apply(), token_of(stored(), "refresh_token_sealed")) == (1, "rt-2")


def switch_writing(on: bool) -> None:
    """What each connection from now on may do. SQLite has no standby: for it, as its errors say."""
    name = db.engine.url.database
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as link:
        link.exec_driver_sql("SET default_transaction_read_only = off")
        off = "off" if on else "on"
        link.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {off}')
    db.engine.dispose()


def test_f_24_a_server_that_turns_read_only_as_the_provider_answers_costs_no_grant(app):
    """As after a failover to a standby, or on a managed server whose disk is full."""
    grant(DEAD)
    fails = None

    def answer():
        nonlocal fails
        if db.engine.dialect.name == "postgresql":
            switch_writing(on=False)
        else:
            fails = Fails(STORING, "before", times=FOR_EVER, error=InternalError)
        return NEW

    assert renew(Ask(answer)) == "at-2"
    assert (spool.apply(), len(files())) == (0, 1)
    if fails is None:
        switch_writing(on=True)
    else:
        fails.left = 0
    assert (spool.apply(), files()) == (1, [])
    assert token_of(stored(), "refresh_token_sealed") == "rt-2"


def file_of(name: str, **more) -> Path:
    """As another release would leave it: `more` members, or columns, than ours."""
    columns = more.pop("columns", {})
    whole = {"connection_id": name[:32], "owner_key": "user:x", "token_gen": 1, "action": "x"}
    text = json.dumps(whole | more | {"columns": {"fingerprint": "f"} | columns})
    where = Where("(spool)", name, "tokens", "system")
    spool.folder().mkdir(mode=0o700, exist_ok=True)
    (spool.folder() / name).write_text(box().seal(text, where=where))
    return spool.folder() / name


def test_f_21_a_file_of_another_release_keeps_none_behind_it_waiting(caplog):
    fails = spooled()
    fails.left = 0
    strange = [
        file_of(f"{'0' * 31}1.1", consent_gen=1),
        file_of(f"{'0' * 31}2.1", columns={"a_column_of_tomorrow": 1}),
    ]
    caplog.clear()
    assert (spool.apply(), files()) == (1, strange)
    assert token_of(stored(), "refresh_token_sealed") == "rt-2"
    assert spool.apply() == 0
    said = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert len(said) == 2 and "another release" in said[0] and "a_column" not in said[1]


def test_f_21_whoever_reads_before_the_file_is_applied_is_served_and_asks_nobody():
    """The old refresh token is void by now: shown once more, it would end the whole grant."""
    spooled()
    change(lease_ms=0)  # as after the lease
    assert [renew(Ask()), renew(Ask())] == ["at-2"] * 2
    assert tokens.credential(ALICE, acme(), timing=QUICK).headers["Authorization"] == "Bearer at-2"


def test_f_21_the_file_is_applied_when_the_database_takes_it():
    fails = spooled()
    assert (spool.apply(), len(files())) == (0, 1)  # not yet
    fails.left = 0
    assert (spool.apply(), files()) == (1, [])
    row = stored()
    assert (row.state, row.token_gen, row.attempt_id, row.lease_ms) == ("active", 2, None, 0)
    assert (token_of(row), token_of(row, "refresh_token_sealed")) == ("at-2", "rt-2")
    assert events() == [("connection.renewed", "ok", "")]
    assert spool.apply() == 0


def test_f_21_a_process_that_starts_later_applies_it(start, config, app):
    fails = spooled()
    fails.left = 0
    later = start(config)
    assert later.instance_path == app.instance_path
    with later.app_context():
        assert spool.apply() == 1
    assert token_of(stored(), "refresh_token_sealed") == "rt-2"


def test_f_21_once_its_token_is_over_too_the_file_is_applied_before_anybody_asks():
    fails = spooled(replace(NEW, expires_in=0.0))
    with pytest.raises(OperationalError):  # nothing lives, and nothing can be renewed now
        renew(Ask())
    fails.left = 0
    ask = Ask(TokenSet("at-3", "rt-3", 3600.0))
    assert (renew(ask), ask.asked, files()) == ("at-3", ["rt-2"], [])


def test_f_21_a_refused_token_of_the_spool_is_renewed_with_the_refresh_token_beside_it():
    fails = spooled()
    fails.left = 0
    ask = Ask(TokenSet("at-3", "rt-3", 3600.0))
    assert (renew(ask, after=2), ask.asked) == ("at-3", ["rt-2"])


def test_f_21_without_a_new_refresh_token_the_old_one_stays():
    fails = spooled(replace(NEW, refresh_token=None))
    fails.left = 0
    assert spool.apply() == 1
    assert token_of(stored(), "refresh_token_sealed") == "rt-1"


def test_f_21_two_that_apply_at_once_store_it_once(app):
    fails = spooled()
    fails.left = 0

    def apply(_: int) -> int:
        with app.app_context():
            return spool.apply()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(apply, range(4))) >= 1
    assert (files(), stored().token_gen, len(events())) == ([], 2, 1)


def test_f_21_newer_tokens_are_spared_and_the_spooled_ones_dropped_but_not_revoked():
    """They may be of the same family, which a revocation would end."""
    fails = spooled()
    fails.left = 0
    sealed = box().seal("at-9", where=cell(stored(), "access_token_sealed"))
    change(access_token_sealed=sealed, token_gen=2, state="active", fingerprint="9")
    assert (spool.apply(), files(), token_of(stored())) == (0, [], "at-9")
    assert revocations() == []


def revocations() -> list[tuple[str | None, str | None]]:
    """The refresh token and the access token of each."""
    with sa.orm.Session(db.engine) as session:
        rows = session.scalars(sa.select(Revocation).order_by(Revocation.created_at)).all()
        names = ("refresh_token_sealed", "access_token_sealed")
        return [tuple(box().open(getattr(r, n), where=cell(r, n)) for n in names) for r in rows]


def disconnect() -> None:
    keeping.forget(ALICE, "acme", by=SYSTEM)
    db.session.commit()


def test_f_40_tokens_in_the_spool_of_a_connection_that_was_ended_are_ended_too():
    fails = spooled()
    disconnect()
    fails.left = 0
    assert (spool.apply(), files()) == (0, [])
    assert sorted(revocations()) == [("rt-1", "at-1"), ("rt-2", "at-2")]
    assert (stored().state, stored().access_token_sealed) == ("revoked", None)


def test_f_40_tokens_that_come_after_a_disconnect_are_ended_too():
    grant(DEAD, revocation_url="https://as.test/revoke")

    def meanwhile():
        disconnect()
        return NEW

    with pytest.raises(ConnectionNeeded):
        renew(Ask(meanwhile))
    assert sorted(revocations()) == [("rt-1", "at-1"), ("rt-2", "at-2")]


def test_f_40_a_person_who_was_disabled_during_a_renewal_has_the_new_tokens_when_let_in_again():
    grant(DEAD, revocation_url="https://as.test/revoke")
    user_id = stored().user_id

    def meanwhile():
        keeping.put_away(user_id, by=SYSTEM)
        db.session.commit()
        return NEW

    with pytest.raises(ConnectionNeeded):
        renew(Ask(meanwhile))
    assert (stored().state, stored().reason) == ("orphaned", "access_lost")
    assert (token_of(stored()), token_of(stored(), "refresh_token_sealed")) == ("at-2", "rt-2")
    assert revocations() == []
    keeping.bring_back(user_id, by=SYSTEM)
    db.session.commit()
    assert renew(Ask()) == "at-2"  # asks nobody


def test_f_40_who_is_let_in_again_before_the_answer_is_lost_has_the_old_token_shown_after_a_pause():
    """The provider may have changed it by then; shown at once, it may end the grant."""
    grant(DEAD, revocation_url="https://as.test/revoke")
    user_id = stored().user_id

    def meanwhile():
        keeping.put_away(user_id, by=SYSTEM)
        db.session.commit()
        keeping.bring_back(user_id, by=SYSTEM)
        db.session.commit()
        raise ProviderError("timeout", kind="unknown")

    before = now_ms()
    with pytest.raises(ProviderError):
        refresh.renew(acme(), timing=replace(QUICK, quiet=60.0), ask=Ask(meanwhile))
    row = stored()
    assert (row.state, row.attempt_id, row.lease_ms) == ("refreshing", None, 0)
    assert (row.fail_count, row.last_error_code) == (1, "timeout")
    assert before + 50_000 < row.not_before_ms


def test_f_40_tokens_that_come_after_their_person_was_deleted_are_ended_too():
    grant(DEAD, revocation_url="https://as.test/revoke")

    def meanwhile():
        disconnect()
        with db.engine.begin() as link:
            link.execute(sa.delete(Connection))
            link.execute(sa.delete(User))
        return NEW

    with pytest.raises(ConnectionNeeded):
        renew(Ask(meanwhile))
    assert ("rt-2", "at-2") in revocations()


@pytest.mark.parametrize("text", ["", "mg1.deadbeef0000.AAAA", "gho_plaintext", "é"])
def test_sec_079_a_file_that_does_not_open_stays_and_is_said_once(caplog, text):
    grant(DEAD)
    spool.folder().mkdir(mode=0o700)
    file = spool.folder() / f"{stored().id}.1"
    file.write_text(text)
    caplog.set_level(logging.ERROR)
    assert [spool.apply(), spool.apply()] == [0, 0]
    assert (len(caplog.records), file.exists()) == (1, True)


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "huge"])
def test_sec_079_what_is_no_file_of_ours_hangs_and_breaks_nothing(kind, tmp_path):
    grant(DEAD)
    spool.folder().mkdir(mode=0o700)
    planted = spool.folder() / f"{stored().id}.{stored().token_gen}"
    if kind == "pipe":
        os.mkfifo(planted)
    elif kind == "directory":
        planted.mkdir()
    elif kind == "link":
        planted.symlink_to(tmp_path / "elsewhere")
    else:
        planted.write_bytes(b"x" * 2_000_000)
    assert spool.apply() == 0
    assert renew(Ask(NEW)) == "at-2"
    assert token_of(stored()) == "at-2"


def test_f_22_a_file_that_cannot_be_removed_stops_no_call():
    """The folder has become read-only: the tokens are in, and that is what counts."""
    fails = spooled()
    fails.left = 0
    [file] = files()
    text = file.read_text()
    file.unlink()
    file.mkdir()  # root may write anywhere, but unlinks no directory
    spool._held().texts[file.name] = text
    assert spool.apply() == 1
    assert (token_of(stored()), spool.apply()) == ("at-2", 0)


def test_sec_078_a_file_under_the_name_of_another_connection_does_not_open():
    spooled()
    [file] = files()
    file.rename(file.with_name(f"{'0' * 32}.1"))
    assert spool.apply() == 0
    assert (len(files()), token_of(stored())) == (1, "at-1")


def test_f_22_where_no_file_can_be_written_memory_keeps_the_tokens(app, caplog):
    """And an operator reads what to do."""
    (Path(app.instance_path) / "spool").write_text("in the way")
    fails = spooled()
    assert "Make room; do not restart before" in caplog.text
    assert [renew(Ask()), renew(Ask())] == ["at-2"] * 2
    assert spool.apply() == 0
    fails.left = 0
    assert spool.apply() == 1
    assert token_of(stored(), "refresh_token_sealed") == "rt-2"


def test_f_44_tokens_whose_audit_event_cannot_be_written_are_not_lost(app):
    grant(DEAD)
    fails = Fails("INSERT INTO audit_event", "before", times=FOR_EVER)
    assert renew(Ask(NEW)) == "at-2"
    assert (token_of(stored()), len(files())) == ("at-1", 1)
    fails.left = 0
    assert (spool.apply(), token_of(stored())) == (1, "at-2")
    assert events() == [("connection.renewed", "ok", "")]


def test_a_database_that_hesitates_leaves_no_file():
    grant(DEAD)
    Fails(STORING, "before", times=2)
    roomy = replace(QUICK, deadline=30.0, patience=30.0)  # for a machine that has much to do
    assert token_of(refresh.renew(acme(), timing=roomy, ask=Ask(NEW))) == "at-2"
    assert (files(), token_of(stored())) == ([], "at-2")


def test_what_is_being_written_is_not_read(app):
    grant(DEAD)
    spool.folder().mkdir(mode=0o700)
    (spool.folder() / f"{stored().id}.1.0f3a9c22.part").write_text("half")
    assert spool.apply() == 0
    assert now_ms() > 0 and renew(Ask(NEW)) == "at-2"
