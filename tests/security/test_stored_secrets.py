"""What is stored, to who reads the database or writes to it; and what an object shows."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from flask import request

import app as product
from app import access, people, setup, specs
from app.db import Base, db, recent
from app.errors import AppError, Invalid, ProviderError
from app.models import Connection, SetupCode, User
from app.oauth import callback, parked
from app.secretbox import Bound, SecretBox, box
from tests.conftest import PASSWORD, SECRETS, Browser, rows
from tests.mcp import world
from tests.oauth import acme as trips
from tests.upstream import upstream  # noqa: F401  # a fixture
from tests.web.registry import CANARY, CODE, KINDS, add, script

ORIGIN = "https://gw.test"


# -- who can write to the database -----------------------------------------------------------------


def test_f_29_each_damaged_row_asks_its_person_and_no_other(app, upstream, caplog):  # noqa: F811
    """Corrupted, swapped, plaintext planted, emptied, from another column: and one left alone."""
    world.add(app, upstream.url, **world.oauth())
    names = ("corrupted", "swapped", "planted", "emptied", "crossed", "good")
    clients = {name: world.Client(app, email=f"{name}@example.com") for name in names}
    for name in names:
        world.connect(app, email=f"{name}@example.com")
    kept = {row.owner_key: row for row in rows(app, Connection)}
    of = {name: kept[f"user:{world.user(app, f'{name}@example.com')}"] for name in names}
    values = {
        "corrupted": of["corrupted"].access_token_sealed[:-4] + "AAAA",
        "swapped": of["good"].access_token_sealed,
        "planted": "gho_planted",
        "emptied": "",
        "crossed": of["crossed"].refresh_token_sealed,
    }
    with app.app_context(), db.engine.begin() as link:
        for name, value in values.items():
            mine = sa.update(Connection).where(Connection.id == of[name].id)
            link.execute(mine.values(access_token_sealed=value))
        recent().clear()
    for name in names:
        answer = world.body_of(clients[name].call())
        if name == "good":
            assert "Bearer at-good-acme" in str(answer), answer
        else:
            assert "/connections/acme?ask=" in str(answer) and "at-" not in str(answer), answer
    states = {row.id: (row.state, row.reason) for row in rows(app, Connection)}
    assert states.pop(of["good"].id) == ("active", None)
    assert set(states.values()) == {("needs_reauth", "secret_unreadable")}
    alarms = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert all(any(of[name].id in one for one in alarms) for name in values)
    sent = [seen.header("Authorization") for seen in upstream.asked("tools/call")]
    assert sent == ["Bearer at-good-acme"]


# -- who can read it -------------------------------------------------------------------------------


def dumped(app) -> set[str]:
    """Every text in every column of every row, and what JSON columns hold."""
    found = set()
    with app.app_context(), db.engine.connect() as link:
        for table in Base.metadata.sorted_tables:
            for row in link.execute(sa.select(table)):
                found |= {text for value in row for text in texts(value)}
    return {one for one in found if one}


def texts(value) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


def opened(app, text: str, trip: trips.Trip) -> list[str]:
    """Which doors this text opens, each tried as a stranger would."""
    client, at = app.test_client(), {"base_url": ORIGIN}
    found = []
    header = {"Authorization": f"Bearer {text}"}
    if client.get("/api/v1/gateways", headers=header, **at).status_code != 401:
        found.append("api")
    if client.post("/mcp/acme", headers=header, json={}, **at).status_code != 401:
        found.append("mcp")
    for cookie in trip.browser.client._cookies.values():
        client.set_cookie(cookie.key, text, domain="gw.test")
    if client.get("/me", **at).status_code == 200:
        found.append("cookie")
    callback = {"state": text, "code": "the-code"}
    if client.get("/oauth/callback", query_string=callback, **at).status_code != 400:
        found.append("state")
    page = trip.browser.get("/connections/acme", query_string={"ask": text})
    if "Your AI client waits for you" in page.text:
        found.append("ask")
    return found


def waiting(app) -> str:
    """The handle in the link that an AI client of alice's is given."""
    with app.app_context():
        alice = people.named("alice@example.com")
        caller = access.Caller(alice.id, alice.email, is_admin=False)
        gateway = access.usable(caller, "acme")
        call = parked.park(caller, gateway, digest="x", request=None)
        return parked.link(caller, gateway, call.id).partition("ask=")[2]


def test_sec_086_nothing_in_a_dump_opens_a_door(app, admin, alice):
    """What does open them is tried first, the same way; it is in no column."""
    trips.add(app)
    trip = trips.leave(alice)
    for record in KINDS.values():
        add(app, record)
    token = script(app, "script@example.com", scopes=("mcp", "api:read")).token
    cookies = {one.value for one in alice.client._cookies.values()}
    values, ask = dumped(app), waiting(app)
    assert len(values) > 150 and not values & {token, trip.asked["state"], PASSWORD, ask, *cookies}
    assert opened(app, token, trip) == ["api", "mcp"]
    assert opened(app, ask, trip) == ["ask"]
    assert alice.get("/me").status_code == 200
    assert {text: found for text in values if (found := opened(app, text, trip))} == {}


def test_sec_086_no_column_is_a_password(app, admin):
    """The login answers no faster than its throttle lets it."""
    stranger = Browser(app)
    mail = "admin@example.com"
    for text in sorted(dumped(app), key=lambda text: not text.startswith("$argon2")):
        reply = stranger.submit("/login", email=mail, password=text)
        assert reply.status_code in (422, 429), text
    with app.app_context():
        kept = {row.password_hash for row in rows(app, User)}
    assert all(text.startswith("$argon2id$") for text in kept if text)


def test_sec_086_the_hash_of_a_set_up_code_is_no_set_up_code(app):
    with app.app_context():
        assert setup.offer(anew=True)
    [row] = rows(app, SetupCode)
    for text in (row.code_hash, row.id, row.code_hash[:8]):
        form = {"email": "x@example.com", "password": "a long one 12345", "code": text}
        assert Browser(app).submit("/setup", **form).status_code in (422, 429)
    assert not rows(app, User)


# -- what is given out -----------------------------------------------------------------------------


def test_sec_087_no_record_that_is_given_out_holds_a_secret(app):
    """Commands, the JSON API and its description: neither open nor sealed."""
    slugs = [add(app, record) for record in KINDS.values()]
    reader = script(app)
    run = app.test_cli_runner().invoke
    given = [run(args=["gateways", "list"]).output, run(args=["secrets", "status"]).output]
    given += [run(args=["gateways", "show", slug]).output for slug in slugs]
    given += [reader.ask("GET", f"/{slug}").text for slug in slugs]
    given += [reader.ask("GET").text]
    assert all(slug in given[-1] for slug in slugs) and '"client_secret": "set"' in given[2]
    for text in given:
        assert CANARY not in text and "mg1." not in text


# -- what is shown of an object --------------------------------------------------------------------

SECRET = re.compile(
    r"(^|_)(secret|token|password|verifier|cookie|handle|credential|assertion)s?$|^(code|state)$"
    r"|_(sealed|hash|value)$|^(headers|raw|body|request|result|text|said_by|key_pem)$"
)
NO_SECRET = {  # "module.Class.field", reviewed: a state of ours, a code of errors.yaml, a number
    *(
        "access.Seen.state",
        "access.Held.state",
        "connections.Connected.state",
        "oauth.row.Row.state",
    ),
    *("check_runs.Kept.code", "check_runs.Kept.state", "steps.Step.code", "steps.Step.state"),
    *("exchanges.Exchange.code", "oauth.moves.Stop.code"),
    *("tool_standing.Part.state", "tool_standing.Part.has_tokens"),
    *("oauth.parked.Parked.state", "oauth.parked.Outcome.state", "overview.Row.state"),
    *("activity.Cause.code", "mcp.wire.Reply.code", "oauth.breaker._Failing.code"),
    *("oauth.lease._Note.code", "oauth.revoking.Verdict.code"),
    *("recovery.Voided.api_tokens", "recovery.Ended.api_tokens", "aftermath.Goes.api_tokens"),
    "mcp.wire.Reply.headers",  # an answer's; what is in them goes to the caller anyway
    *("web.me.snippets.Part.text", "web.me.try_it.Page.result", "web.me.waited.Waited.result"),
}


def dataclass_fields() -> Iterator[tuple[str, type, dataclasses.Field]]:
    for found in pkgutil.walk_packages(product.__path__, "app."):
        module = importlib.import_module(found.name)
        for kind in vars(module).values():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                if kind.__module__ == found.name:
                    for field in dataclasses.fields(kind):
                        name = f"{found.name[4:]}.{kind.__name__}.{field.name}"
                        yield name, kind, field


def test_sec_088_no_value_of_ours_shows_a_secret():
    """Every dataclass, by the names of its fields. A reviewed name that is gone is taken out."""
    named = {name: (kind, field) for name, kind, field in dataclass_fields()}
    secret = {name for name, (_, field) in named.items() if SECRET.search(field.name)}
    assert len(secret) > 40 and NO_SECRET <= named.keys()
    for name in secret - NO_SECRET:
        kind, field = named[name]
        one = object.__new__(kind)
        for other in dataclasses.fields(kind):
            object.__setattr__(one, other.name, f"{CANARY} {other.name}")
        assert f"{CANARY} {field.name}'" not in repr(one), name


def test_sec_088_no_row_shows_what_it_holds():
    for mapper in Base.registry.mappers:
        columns = [column.key for column in mapper.column_attrs]
        row = mapper.class_(**dict.fromkeys(columns, CANARY))
        assert CANARY not in repr(row), mapper.class_


def test_sec_088_settings_and_requests_show_none(app, config):
    shown = [repr(config), str(config), repr(app.config), str(app.config), repr(app)]
    with app.test_request_context(f"/oauth/callback?code={CANARY}&state={CANARY}"):
        shown += [repr(request), str(request)]
        shown += [repr(callback.read(request.path, request.args.items()))]
    secrets = (CANARY, *SECRETS.values(), config.DATABASE_URL)
    assert not [one for one in shown if any(secret in one for secret in secrets)]


def test_sec_088_no_exception_repeats_what_was_sent(app):
    """A record with a mistake beside its secret, and one in the place of another."""
    raised = []
    for change in ({"url": "ftp://x"}, {"no_such": CANARY}, {"auth_type": CANARY}):
        with pytest.raises(Invalid) as caught:
            specs.read(specs.GatewaySpec, CODE | change)
        raised.append(caught.value)
    with app.app_context():
        for text in ("mg1.deadbeef0000." + CANARY, CANARY):
            with pytest.raises(AppError) as found:
                box().open_handle(text, bound=Bound(CANARY, CANARY, CANARY))
            raised.append(found.value)
        with pytest.raises(sa.exc.IntegrityError) as refused:
            db.session.execute(sa.insert(User).values(id=CANARY, email=None, password_hash=CANARY))
        raised.append(refused.value)
        db.session.rollback()
    raised += [
        ProviderError("grant_ended", kind="dead"),
        RuntimeError(repr(SecretBox([SECRETS["AUTH_ENCRYPTION_SECRET"]]))),
    ]
    for error in (link for one in raised for link in causes(one)):
        assert CANARY not in f"{error!r} {error} {error.args}", type(error)
        assert SECRETS["AUTH_ENCRYPTION_SECRET"] not in repr(error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
