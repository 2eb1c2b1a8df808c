"""/metrics and /version: who may ask, and what they say."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import api_tokens, metrics
from app.audit import SYSTEM
from app.db import db, db_now_ms
from app.errors import ProviderError
from app.models import Chore, Connection, Gateway, Revocation, User
from app.oauth import refresh
from tests import postgres
from tests.oauth import acme
from tests.oauth.planted import DEAD, NEW, Ask, grant, plant
from tests.oauth.planted import acme as usable
from tests.oauth.race_worker import SHORT

PATHS = pytest.mark.parametrize("path", ["/metrics", "/version"])
AT = {"base_url": "https://gw.test"}
BESIDE = {"base_url": "http://127.0.0.1:8000"}  # as a program on this host asks
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\\n]*",?)+)\})? ([0-9.e+-]+)')


def read(page: str) -> dict[str, float]:
    """Every sample; each of a metric that has a type, named before it and once."""
    found, types = {}, {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types
            types[name] = kind
        elif not line.startswith("# HELP "):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            bare = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in types or types[bare] == "histogram", line
            assert f"{name}{{{labels}}}" not in found
            found[f"{name}{{{labels}}}" if labels else name] = float(value)
    return found


@pytest.fixture
def watch(app):
    """What a program on this host reads, as samples."""

    def get() -> dict[str, float]:
        reply = app.test_client().get("/metrics", **BESIDE)
        assert reply.status_code == 200, reply.text
        assert reply.content_type == "text/plain; version=0.0.4; charset=utf-8"
        return read(reply.text)

    return get


@pytest.fixture
def token(app):
    """token("api:read"): of somebody who is no admin."""

    def make(scope: str) -> str:
        with app.app_context():
            user = User(email=f"{scope}@example.com")
            db.session.add(user)
            db.session.flush()
            facts = {"name": "watcher", "gateway_ids": None, "expires_at": None, "by": SYSTEM}
            _, shown = api_tokens.issue(user.id, scopes=[scope], **facts)
            db.session.commit()
            return shown

    return make


# -- who may ask -----------------------------------------------------------------------------------

FAR = {"REMOTE_ADDR": "203.0.113.9"}


@PATHS
@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
@pytest.mark.parametrize("host", ["http://127.0.0.1:8000", "http://localhost", "http://[::1]:8000"])
def test_sec_031_a_program_on_this_host_may_ask(app, path, address, host):
    reply = app.test_client().get(path, base_url=host, environ_overrides={"REMOTE_ADDR": address})
    assert reply.status_code == 200


@PATHS
@pytest.mark.parametrize("address", ["203.0.113.9", "10.0.0.7", "::ffff:127.0.0.1.", ""])
def test_sec_031_from_elsewhere_nobody_may_without_a_token(app, path, address):
    far = {"REMOTE_ADDR": address}
    reply = app.test_client().get(path, **BESIDE, environ_overrides=far)
    assert reply.status_code == 401 and reply.json["error"]["code"] == "sign_in_required"
    assert reply.headers["WWW-Authenticate"].startswith("Bearer ")


@PATHS
@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Real-IP"]
)
def test_sec_031_what_a_proxy_on_this_host_passes_on_is_from_elsewhere(app, path, header):
    for value in ("127.0.0.1", ""):
        reply = app.test_client().get(path, **BESIDE, headers={header: value})
        assert reply.status_code == 401


@PATHS
def test_sec_031_a_proxy_on_this_host_that_adds_no_header_is_no_program_that_asks_us(app, path):
    """It hands on the name by which it was asked."""
    assert app.test_client().get(path, **AT).status_code == 401


@PATHS
def test_sec_031_an_api_token_that_may_read_opens_them_from_anywhere(app, path, token):
    for scope, status in (("api:read", 200), ("mcp", 403)):
        bearer = {"Authorization": f"Bearer {token(scope)}"}
        reply = app.test_client().get(path, **AT, headers=bearer, environ_overrides=FAR)
        assert reply.status_code == status


@PATHS
def test_sec_031_a_browser_session_opens_neither(admin, path):
    assert admin.get(path, environ_overrides=FAR).status_code == 401


@PATHS
def test_sec_098_a_foreign_host_is_refused_here_too(app, path):
    for host in ("http://evil.test", "http://127.0.0.1.evil.test", "http://localhost.evil.test"):
        reply = app.test_client().get(path, base_url=host)
        assert reply.json["error"]["code"] == "wrong_host"


@PATHS
def test_only_reading(app, path):
    assert app.test_client().post(path, **AT).status_code == 405


# -- what they say ---------------------------------------------------------------------------------


def test_the_version_is_the_release(app, watch):
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    version = tomllib.loads(text)["project"]["version"]
    said = app.test_client().get("/version", **BESIDE).json
    assert said == {"name": "MCP Gateway", "version": version}
    assert watch()[f'mcp_gateway_info{{version="{version}"}}'] == 1


def test_connections_are_counted_by_gateway_and_state(app, watch):
    with app.app_context():
        plant()
        grant(owner_key="user:a")
        grant(owner_key="user:b")
        grant(owner_key="user:c", state="needs_reauth")
    said = watch()
    assert said['oauth_connections{gateway="acme",state="active"}'] == 2
    assert said['oauth_connections{gateway="acme",state="needs_reauth"}'] == 1


def test_how_each_server_answers_is_told(app, watch):
    with app.app_context():
        plant()
        assert not any(name.startswith("mcp_gateway_health") for name in watch())
        db.session.execute(sa.update(Gateway).values(health="down"))
        db.session.commit()
    assert watch()['mcp_gateway_health{gateway="acme",health="down"}'] == 1


def test_a_renewal_is_counted_with_its_outcome_and_time(app, watch, provider):
    """Fetch errors and rate limits can be watched (README, promise 11)."""
    with app.app_context():
        plant()
        grant(DEAD)
        busy = {"status_code": 429, "headers": {"Retry-After": "7"}}
        provider.post("https://as.test/token", **busy)
        with pytest.raises(ProviderError):
            refresh.renew(usable())
        db.session.execute(sa.text("UPDATE client_registration SET not_before_ms = 0"))
        db.session.execute(sa.update(Connection).values(not_before_ms=0))
        db.session.commit()
        provider.post("https://as.test/token", json=acme.GOOD)
        refresh.renew(usable())
    said = watch()
    about = 'gateway="acme",grant="refresh_token"'
    assert said[f'oauth_token_requests_total{{{about},outcome="provider_busy"}}'] == 1
    assert said[f'oauth_token_requests_total{{{about},outcome="ok"}}'] == 1
    assert said['oauth_provider_busy_total{gateway="acme"}'] == 1
    assert said['oauth_token_request_seconds_count{gateway="acme"}'] == 2
    buckets = [
        value for name, value in said.items() if name.startswith("oauth_token_request_seconds_b")
    ]
    assert buckets == sorted(buckets) and buckets[-1] == 2


def test_sign_ins_are_counted_as_they_come_back(app, watch, alice, provider):
    acme.add(app)
    provider.post(acme.TOKEN, json=acme.GOOD)
    acme.leave(alice).back()
    provider.post(acme.TOKEN, status_code=400, json={"error": "invalid_grant"})
    acme.leave(alice).back()
    acme.leave(alice).back(code="", error="access_denied")
    said = watch()
    for outcome in ("done", "code_rejected", "access_denied"):
        assert said[f'oauth_flows_total{{gateway="acme",outcome="{outcome}"}}'] == 1
    about = 'gateway="acme",grant="authorization_code"'
    assert said[f'oauth_token_requests_total{{{about},outcome="ok"}}'] == 1
    assert said[f'oauth_token_requests_total{{{about},outcome="code_rejected"}}'] == 1


def test_mcp_calls_are_counted_by_how_they_ended(app, watch, token):
    acme.add(app)
    bearer = {"Authorization": f"Bearer {token('mcp')}", "Accept": "application/json"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}
    for _ in range(2):
        reply = app.test_client().post("/mcp/acme", **AT, headers=bearer, json=call)
        assert "/connections/acme" in reply.text
    assert watch()['mcp_calls_total{gateway="acme",outcome="connection_needed"}'] == 2


def test_who_waits_for_anothers_renewal_is_counted(app, watch):
    """The lease is held, and no token lives."""
    assert watch()["oauth_lease_waits_total"] == 0
    with app.app_context():
        plant()
        grant(DEAD, state="refreshing", attempt_id="other", lease_ms=1)
        now = db.session.scalar(sa.select(db_now_ms()))
        ends = {"lease_ms": now + 400, "attempt_ms": now}
        db.session.execute(sa.update(Connection).values(**ends))
        db.session.commit()
        refresh.renew(usable(), ask=Ask(NEW), timing=SHORT)
    assert watch()["oauth_lease_waits_total"] == 1


def test_revocations_are_watched(app, watch):
    facts = {"connection_id": "c", "gateway_id": "g", "gateway_name": "G", "style": "rfc7009"}
    facts |= {"url": "https://as.test/revoke", "client_id": "us"}
    with app.app_context():
        db.session.add_all(Revocation(state=one, **facts) for one in ("queued", "queued", "done"))
        db.session.commit()
    said = watch()
    states = {
        state: said.get(f'oauth_revocations{{state="{state}"}}') for state in ("queued", "done")
    }
    assert states == {"queued": 2, "done": 1}


def test_chores_are_watched(app, watch):
    facts = {"bad": ("failed: database_away", 1000), "good": ("flows=1", 2000)}
    with app.app_context():
        for name, (outcome, ran) in facts.items():
            db.session.add(Chore(id=name, outcome=outcome, ran_ms=ran))
        db.session.add(Chore(id="new"))
        db.session.commit()
    said = watch()
    assert said['housekeeping_ran_timestamp_seconds{chore="good"}'] == 2
    assert [said[f'housekeeping_failed{{chore="{name}"}}'] for name in facts] == [1, 0]
    assert 'housekeeping_failed{chore="new"}' not in said


def test_a_deleted_gateway_is_not_watched_any_more(app, watch, alice, provider):
    acme.add(app)
    provider.post(acme.TOKEN, json=acme.GOOD)
    acme.leave(alice).back()
    assert any("oauth_token_requests_total" in name for name in watch())
    with app.app_context():
        db.session.execute(sa.text("DELETE FROM connection"))
        db.session.execute(sa.text("DELETE FROM flow"))
        db.session.execute(sa.text("DELETE FROM oauth_config"))
        db.session.commit()
    assert not any("oauth_token_requests_total" in name for name in watch())


def test_no_label_holds_a_person_or_a_secret(app, watch, alice, provider):
    acme.add(app)
    provider.post(acme.TOKEN, json=acme.GOOD)
    acme.leave(alice).back()
    text = " ".join(watch())
    with app.app_context():
        people = db.session.execute(sa.select(User.id, User.email)).all()
    secrets = ["at-1", "s3cret", "cid", "as.test", *(value for row in people for value in row)]
    assert people and not [one for one in secrets if one in text]


def test_metrics_go_on_without_the_database(app, watch, database_url):
    """What this process counted needs none."""
    assert watch()["database_up"] == 1
    with app.app_context():
        metrics.call("acme", "ok")
        db.engine.dispose()
    with gone(database_url):
        said = watch()
        assert said["database_up"] == 0
        assert said['mcp_calls_total{gateway="acme",outcome="ok"}'] == 1


@contextlib.contextmanager
def gone(database_url: str) -> Iterator[None]:
    """The database is not there, while the block lasts."""
    url = sa.make_url(database_url)
    if url.port is None:
        Path(url.database).rename(f"{url.database}.away")
        Path(url.database).mkdir()
        yield
        return
    server = postgres.Server(url.port)
    server.drop(url.database)
    try:
        yield
    finally:
        server.create(url.database)  # the fixture drops it
