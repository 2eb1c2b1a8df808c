"""OAuth per tool: further configs of a gateway, chosen for each call (oauth.md 1.1)."""

import html
import json
import re
from urllib.parse import parse_qs

import pytest
import sqlalchemy as sa

from app import gateways, specs, tool_configs, tool_standing
from app.audit import SYSTEM
from app.db import db, recent
from app.errors import Invalid
from app.models import ClientRegistration, Connection, Flow, Gateway, OAuthConfig, ParkedCall
from app.secretbox import box, cell
from tests.mcp.world import (
    CODE,
    KEPT,
    SHARED,
    Client,
    add,
    body_of,
    caller,
    connect,
    failure_of,
    oauth,
    usable,
)
from tests.upstream import Said, dual, upstream

__all__ = ["upstream"]  # the fixture


def text_of(page) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(page.text)).split())


WRITE = {"name": "Writing", "tool_patterns": [{"match": "write_*"}], "scopes": ["write"]}
DELETE = {"name": "Deleting", "tool_patterns": [{"match": "*_all"}], "scopes": ["all"]}
OWN = {"client_id": "other", "client_secret": "s4"}


def give(app, *further, slug="acme"):
    with app.app_context():
        tool_configs.replace(gateways.find(slug), list(further), by=SYSTEM)
        db.session.commit()


def shown(app):
    with app.app_context():
        return tool_configs.whole(gateways.find("acme")).get("tool_oauth_configs", [])


def grant(app, name, token, email="alice@example.com", revocation_url=None):
    """A living connection to the further config `name`, beside that to the default."""
    with app.app_context():
        config = db.session.scalars(sa.select(OAuthConfig).where(OAuthConfig.name == name)).one()
        person = caller(app, email)
        row = Connection(oauth_config_id=config.id, gateway_id=config.gateway_id)
        row.user_id, row.owner_key, row.expires_ms = person.user_id, person.owner_key, 2**52
        row.issued_ms, row.registration_id = 1, config.registration_id
        row.revocation_url = revocation_url
        row.access_token_sealed = box().seal(token, where=cell(row, "access_token_sealed"))
        db.session.add(row)
        db.session.commit()


@pytest.fixture
def acme(app, upstream):
    add(app, upstream.url, **oauth())
    connect(app, token="at-default")
    give(app, WRITE, DELETE)
    return Client(app)


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_tool_patterns_choose_the_config(app, acme, upstream, era):
    grant(app, "Writing", "at-write")
    if era == "legacy":
        acme.initialize()
    said = [acme.text(acme.call(name, era=era)) for name in ("echo", "write_it", "write_all")]
    assert [one.rpartition(" ")[2] for one in said] == ["at-default", "at-write", "at-write"]
    needed = acme.call("drop_all", era=era)
    assert "needs your sign-in" in json.dumps(body_of(needed))
    with app.app_context():
        config = db.session.scalars(sa.select(OAuthConfig).filter_by(name="Deleting")).one()
        waits = db.session.execute(sa.text("SELECT oauth_config_id FROM parked_call")).scalars()
        assert set(waits) == {config.id}


def test_a_gateway_of_one_config_costs_no_more(app, upstream):
    add(app, upstream.url, **oauth())
    connect(app)
    with app.app_context():
        gateway = usable(app)
        assert gateway.further == ()
        assert gateway.for_call("tools/call", "write_it") is gateway


def test_further_configs_cost_no_query_when_warm(app, acme):
    with app.app_context():
        gateway = usable(app)
        first = gateway.for_call("tools/call", "write_it")
        queries = []
        sa.event.listen(db.engine, "before_cursor_execute", lambda *a: queries.append(a[2]))
        assert gateway.for_call("tools/call", "write_it").config == first.config
        assert queries == []
        recent().clear()
        gateway.for_call("tools/call", "write_it")
        assert len(queries) == 1


def test_a_further_config_uses_the_client_of_the_gateway_or_its_own(app, acme):
    give(app, WRITE, DELETE | OWN)
    writing, deleting = shown(app)
    assert (writing["client_id"], writing["token_url"], writing["scopes"]) == (
        None,
        None,
        ["write"],
    )
    assert (deleting["client_id"], deleting["client_secret"]) == ("other", "set")
    assert deleting["token_url"] == CODE["token_url"]
    give(app, DELETE | {"client_id": "other", "scopes": ["less"]})  # the secret stays
    assert [(one["name"], one["client_secret"]) for one in shown(app)] == [("Deleting", "set")]
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count()).select_from(ClientRegistration)) == 2


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        (WRITE | {"tool_patterns": []}, "tool_patterns"),
        (WRITE | {"tool_patterns": [{"kind": "page", "match": "*"}]}, "tool_patterns.0.kind"),
        (WRITE | {"client_secret": "s"}, "client_secret"),
        (WRITE | {"token_url": "https://evil.test/token"}, "token_url"),
        (WRITE | {"name": "default"}, "name"),
        (WRITE | {"nonsense": 1}, "nonsense"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(app, acme, wrong, path):
    with pytest.raises(Invalid) as caught:
        give(app, wrong)
    assert f"tool_oauth_configs.0.{path}" in caught.value.fields
    assert len(shown(app)) == 2


def test_sec_059_a_secret_is_asked_for_again_when_it_would_go_elsewhere(app, acme):
    give(app, DELETE | OWN)
    moved = DELETE | {"client_id": "other", "token_url": "https://evil.test/token"}
    moved |= {"authorization_url": "https://evil.test/go", "token_endpoint_auth_method": "post"}
    with pytest.raises(Invalid) as caught:
        give(app, moved)
    assert "tool_oauth_configs.0.client_secret" in caught.value.fields


def test_connections_of_a_removed_config_are_ended_at_their_provider(app, acme):
    grant(app, "Writing", "at-write", revocation_url="https://as.test/revoke")
    give(app, DELETE)
    with app.app_context():
        assert db.session.scalar(sa.text("SELECT count(*) FROM revocation")) == 1
        assert db.session.scalar(sa.text("SELECT count(*) FROM connection")) == 1
    with app.app_context():
        gateways.delete(gateways.find("acme"), by=SYSTEM)
        db.session.commit()
        for model in (Gateway, OAuthConfig, ClientRegistration, Connection):
            assert db.session.scalar(sa.select(sa.func.count()).select_from(model)) == 0


def test_the_record_goes_through_the_api_and_back(app, boss_token, upstream):
    record = {"name": "Acme", "url": upstream.url, "auth_type": "oauth"}
    record |= {"oauth_config": CODE | {"token_management": KEPT}, "tool_oauth_configs": [WRITE]}
    http, head = app.test_client(), {"Authorization": f"Bearer {boss_token}"}
    made = http.post("/api/v1/gateways", json=record, headers=head, base_url="https://gw.test")
    assert made.status_code == 201, made.text
    [writing] = made.json["tool_oauth_configs"]
    assert writing["tool_patterns"] == [{"kind": "tool", "match": "write_*"}]
    where = "/api/v1/gateways/acme"
    back = {"tool_oauth_configs": [writing | {"scopes": ["more"]}]}
    changed = http.patch(where, json=back, headers=head, base_url="https://gw.test")
    assert changed.json["tool_oauth_configs"][0]["scopes"] == ["more"], changed.text
    gone = http.patch(
        where, json={"tool_oauth_configs": []}, headers=head, base_url="https://gw.test"
    )
    assert gone.status_code == 200 and "tool_oauth_configs" not in gone.json


def test_the_page_shows_each_config_and_connects_one(app, alice, acme, provider):
    page = alice.get("/connections/acme")
    words = text_of(page)
    assert "Writing For write_*: write . Not connected" in words, words
    with app.app_context():
        config = db.session.scalars(sa.select(OAuthConfig).filter_by(name="Writing")).one()
        config_id = config.id
    provider.post(CODE["token_url"], json={"access_token": "w", "token_type": "Bearer"})
    alice.get("/connections/acme")
    going = alice.submit("/oauth/connect/acme", at="/connections/acme", config=config_id)
    assert going.status_code == 200
    with app.app_context():
        [flow] = db.session.scalars(sa.select(Flow))
        assert (flow.oauth_config_id, flow.scopes_requested) == (config_id, ["write"])


def test_one_config_is_disconnected_and_the_other_stays(app, alice, acme):
    grant(app, "Writing", "at-write")
    with app.app_context():
        config_id = db.session.scalar(sa.select(OAuthConfig.id).filter_by(name="Writing"))
    alice.get("/connections/acme")
    alice.submit("/connections/acme/disconnect", at="/connections/acme", config=config_id)
    with app.app_context():
        kept = db.session.scalars(sa.select(Connection)).all()
        states = {row.oauth_config_id == config_id: row.state for row in kept}
        assert states == {True: "revoked", False: "active"}


@pytest.fixture
def boss_token(app):
    from app import api_tokens
    from app.models import User

    with app.app_context():
        row = User(email="boss@example.com", role="admin")
        db.session.add(row)
        db.session.commit()
        _, token = api_tokens.issue(
            row.id,
            name="t",
            scopes=["api:read", "api:write"],
            gateway_ids=None,
            expires_at=None,
            by=SYSTEM,
        )
        db.session.commit()
        return token


def wants(right, unless):
    def script(seen):
        if seen.rpc == "tools/call" and seen.header("Authorization") != f"Bearer {unless}":
            challenge = f'Bearer error="insufficient_scope", scope="{right}"'
            return Said(403, b"", {"WWW-Authenticate": challenge})
        return dual(seen)

    return script


@pytest.mark.parametrize("kept", [{}, KEPT])
def test_a_shared_account_asks_for_the_union_once_by_itself(app, upstream, provider, kept):
    shared = SHARED | {"scopes": ["read"], "token_management": kept}
    add(app, upstream.url, auth_type="oauth", oauth_config=shared)
    told = [{"access_token": f"cc-{number}", "token_type": "Bearer"} for number in range(1, 5)]
    asked = provider.post(SHARED["token_url"], [{"json": one} for one in told])
    upstream.script = wants("write", unless="cc-2")
    client = Client(app)
    assert client.text(client.call()) == "echo by Bearer cc-2"
    assert [parse_qs(one.text)["scope"] for one in asked.request_history] == [
        ["read"],
        ["read write"],
    ]
    upstream.script = wants("write", unless="nobody")
    assert failure_of(client.call())["code"] == "insufficient_scope_shared"
    assert asked.call_count <= 4


def test_step_up_asks_for_the_union(app, upstream):
    add(app, upstream.url, **oauth())
    connect(app, scopes_requested=["a", "b"])
    upstream.script = wants("b c", unless="nobody")
    client = Client(app)
    told = failure_of(client.call())
    assert told["code"] == "insufficient_scope" and "?ask=" in told["action"]
    with app.app_context():
        wanted = db.session.scalar(sa.text("SELECT scopes_wanted FROM parked_call"))
        assert "".join(wanted if isinstance(wanted, str) else json.dumps(wanted)) == (
            '["a", "b", "c"]'
        )
    upstream.script = wants("b", unless="nobody")
    assert failure_of(client.call())["code"] == "step_up_exhausted"


@pytest.mark.parametrize("renews", [True, False])
def test_step_up_on_a_401_that_names_a_right_not_asked_for(app, upstream, provider, renews):
    """Some servers say so instead of a 403. The token is renewed first, once."""
    add(app, upstream.url, **oauth())
    connect(app, scopes_requested=["a"])
    new = {"access_token": "at-2", "token_type": "Bearer", "refresh_token": "rt-2"}
    refused = {"status_code": 400, "json": {"error": "invalid_grant"}}
    asked = provider.post(CODE["token_url"], **({"json": new} if renews else refused))

    def script(seen):
        if seen.rpc == "tools/call":
            return Said(401, b"", {"WWW-Authenticate": 'Bearer scope="b", error="invalid_token"'})
        return dual(seen)

    upstream.script = script
    said = json.dumps(body_of(Client(app).call()))
    assert "?ask=" in said and asked.call_count == 1
    assert ("insufficient_scope" in said) == renews
    with app.app_context():
        wanted = db.session.scalar(sa.select(ParkedCall.scopes_wanted))
    assert wanted == (["a", "b"] if renews else ["b"])


def test_a_401_about_no_other_right_is_no_step_up(app, upstream, provider):
    add(app, upstream.url, **oauth())
    connect(app, scopes_requested=["a"])
    new = {"access_token": "at-2", "token_type": "Bearer", "refresh_token": "rt-2"}
    provider.post(CODE["token_url"], json=new)
    upstream.script = lambda seen: (
        Said(401, b"", {"WWW-Authenticate": 'Bearer scope="a"'})
        if seen.rpc == "tools/call"
        else dual(seen)
    )
    assert failure_of(Client(app).call())["code"] == "token_refused"


def test_what_shares_the_client_follows_it_to_another_provider(app, acme):
    """And what was granted at the old one is ended; a config with its own client stays."""
    give(app, WRITE, DELETE | OWN)
    grant(app, "Writing", "at-write")
    grant(app, "Deleting", "at-delete")
    with app.app_context():
        gateway = gateways.find("acme")
        record = gateways.record(gateway)
        moved = {"token_url": "https://new.test/token", "client_id": "new", "client_secret": "s9"}
        moved |= {"authorization_url": "https://new.test/go"}
        config = record["oauth_config"] | moved
        kept = {name: value for name, value in record.items() if name not in specs.GIVEN}
        spec = specs.read(specs.GatewaySpec, kept | {"oauth_config": config})
        gateways.update(gateway, spec, by=SYSTEM)
        db.session.commit()
        rows = {row.name: row for row in db.session.scalars(sa.select(OAuthConfig))}
        assert rows["Writing"].registration is rows["default"].registration
        assert rows["Writing"].token_url == rows["Writing"].settings["token_url"]
        assert rows["Writing"].token_url == "https://new.test/token"
        assert rows["Writing"].settings["scopes"] == ["write"]
        assert rows["Deleting"].token_url == CODE["token_url"]
        assert rows["Deleting"].registration.client_id == "other"
        states = {
            row.oauth_config_id: row.state for row in db.session.scalars(sa.select(Connection))
        }
        assert states == {
            rows["default"].id: "orphaned",
            rows["Writing"].id: "orphaned",
            rows["Deleting"].id: "active",
        }


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_some_tools_use_a_shared_account(app, acme, upstream, provider, era):
    """Nobody signs in for them, and the others keep to each person's own."""
    give(app, WRITE | {"grant_type": "client_credentials"})
    asked = provider.post(
        CODE["token_url"], json={"access_token": "cc-1", "token_type": "Bearer", "expires_in": 60}
    )
    if era == "legacy":
        acme.initialize()
    assert acme.text(acme.call("write_it", era=era)) == "write_it by Bearer cc-1"
    assert acme.text(acme.call("echo", era=era)) == "echo by Bearer at-default"
    sent = parse_qs(asked.request_history[0].text)
    assert (sent["grant_type"], sent["scope"]) == (["client_credentials"], ["write"])
    with app.app_context():
        page = tool_standing.parts(caller(app), "acme")
    assert [(part.name, part.is_personal) for part in page] == [("Writing", False)]
