"""API tokens: who they stand for, and what a warm one costs."""

import datetime
import threading

import pytest
import sqlalchemy as sa

from app import api_tokens, create_app, people
from app.audit import SYSTEM
from app.db import Recent, db, recent, utcnow
from app.errors import Conflict, Invalid, NotFound, SignInRequired
from app.models import ApiToken


@pytest.fixture
def ana(app_ctx) -> str:
    user = people.create("ana@example.com", password=None, role="admin")
    made = user.id
    db.session.commit()
    return made


def issue(user_id, **more):
    given = {"name": "test", "scopes": ["mcp"], "gateway_ids": None, "expires_at": None} | more
    token, shown = api_tokens.issue(user_id, by=SYSTEM, **given)
    made = token.id
    db.session.commit()
    return made, shown


def test_a_token_stands_for_its_person_and_limits(ana):
    token_id, shown = issue(ana, scopes=["api:read", "mcp"])
    caller = api_tokens.authenticate(shown)
    assert (caller.user_id, caller.email, caller.is_admin) == (ana, "ana@example.com", True)
    assert (caller.token_id, caller.scopes) == (token_id, {"mcp", "api:read"})
    assert caller.gateway_ids is None


def test_sec_045_tokens_are_long_and_differ(ana):
    shown = {issue(ana)[1] for _ in range(20)}
    assert len(shown) == 20
    assert all(len(one) == len("mcpg_") + 43 for one in shown)


@pytest.fixture
def statements(app_ctx):
    """Every SQL statement from here on."""
    seen = []

    def note(_link, _cursor, statement, *_more):
        seen.append(statement)

    sa.event.listen(db.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(db.engine, "before_cursor_execute", note)


def test_a_warm_token_asks_no_database(ana, statements):
    _, shown = issue(ana)
    api_tokens.authenticate(shown)
    statements.clear()
    for _ in range(50):
        api_tokens.authenticate(shown)
    assert statements == []


def test_a_text_that_is_no_token_asks_no_database(app_ctx, statements):
    for text in ("", "mcpg_", "mcpg_" + "a" * 42, "mcpg_" + "a" * 44, "x" * 48, "mcpg_" + "é" * 43):
        with pytest.raises(SignInRequired):
            api_tokens.authenticate(text)
    assert statements == []


def test_unknown_ended_and_revoked_are_refused_alike(ana):
    token_id, shown = issue(ana)
    api_tokens.authenticate(shown)
    api_tokens.revoke(token_id, by=SYSTEM)
    db.session.commit()
    _, ended = issue(ana, expires_at=utcnow() + datetime.timedelta(hours=1))
    past = utcnow() - datetime.timedelta(seconds=1)
    db.session.execute(sa.update(ApiToken).values(expires_at=past))
    db.session.commit()
    for one in (shown, ended, "mcpg_" + "a" * 43):
        with pytest.raises(SignInRequired):
            api_tokens.authenticate(one)


def test_a_disabled_persons_token_is_refused(ana):
    people.create("bo@example.com", password=None, role="admin")
    _, shown = issue(ana)
    api_tokens.authenticate(shown)
    people.disable(ana, by=SYSTEM)
    db.session.commit()
    with pytest.raises(SignInRequired):
        api_tokens.authenticate(shown)


def test_sec_045_a_revocation_holds_in_another_process_within_a_second(ana, app, config):
    """Another app stands for the other process: it keeps what it read for a second at most."""
    token_id, shown = issue(ana)
    other = create_app(config)
    with other.app_context():
        api_tokens.authenticate(shown)
        db.session.remove()
    api_tokens.revoke(token_id, by=SYSTEM)
    db.session.commit()
    assert Recent.LIFE_S <= 1.0
    with other.app_context():
        recent().clear()  # as a second later
        with pytest.raises(SignInRequired):
            api_tokens.authenticate(shown)
        db.engine.dispose()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": "  "}, "name"),
        ({"name": "a\u202eb"}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["mcp", "admin"]}, "scopes"),
        ({"gateway_ids": []}, "gateways"),
        ({"gateway_ids": ["nope"]}, "gateways"),
        ({"expires_at": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)}, "ends"),
        ({"expires_at": datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC)}, "ends"),
    ],
)
def test_what_cannot_be_right_is_named(ana, fields, named):
    with pytest.raises(Invalid) as refusal:
        issue(ana, **fields)
    assert list(refusal.value.fields) == [named]


def test_a_form_sent_twice_at_once_makes_one_token(app, ana):
    form_id, ready, ends = "0" * 32, threading.Barrier(2), []

    def send():
        with app.app_context():
            ready.wait()
            try:
                issue(ana, form_id=form_id)
                ends.append("made")
            except Conflict:
                ends.append("refused")

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["made", "refused"]


def test_the_use_of_a_token_is_due_once_a_minute(ana):
    token_id, _ = issue(ana)
    assert [api_tokens.is_due(token_id) for _ in range(3)] == [True, False, False]


def test_a_client_is_known_by_its_name_and_else_by_its_user_agent(ana):
    token_id, _ = issue(ana)
    for client, is_named, kept in [
        ("python-httpx/1.0", False, "python-httpx/1.0"),
        ("Claude Code", True, "Claude Code"),
        ("node", False, "Claude Code"),
        ("", True, "Claude Code"),
        ("evil\x1b[31m\u202e name" + "x" * 200, True, ("evil[31m name" + "x" * 200)[:100]),
    ]:
        api_tokens.note_use(token_id, client, is_named=is_named)
        db.session.expire_all()
        assert db.session.get(ApiToken, token_id).used_by == kept
    assert utcnow() - db.session.get(ApiToken, token_id).used_at < datetime.timedelta(minutes=1)


def test_a_note_empties_no_cache(ana, statements):
    token_id, shown = issue(ana)
    api_tokens.authenticate(shown)
    api_tokens.note_use(token_id, "x", is_named=True)
    statements.clear()
    api_tokens.authenticate(shown)
    assert statements == []


def test_sec_061_a_foreign_token_is_not_found(ana):
    token_id, shown = issue(ana)
    with pytest.raises(NotFound):
        api_tokens.revoke(token_id, by=SYSTEM, user_id="0" * 32)
    api_tokens.authenticate(shown)


def test_sec_088_a_token_shows_nothing_of_itself(ana):
    _, shown = issue(ana)
    row = db.session.scalar(sa.select(ApiToken))
    assert shown not in repr(vars(row)) + repr(api_tokens.authenticate(shown))
