"""Three people, three gateways, and whatever they may do in any order: who is called as whom.

Each gateway has a second OAuth config for some of its tools, so each person has two accounts there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run

from app import gateways, specs, tool_configs
from app.audit import SYSTEM
from app.db import db, recent
from app.models import CatalogEntry, Connection, Gateway, OAuthConfig, ParkedCall
from app.oauth import keeping
from app.secretbox import box, cell
from app.specs import GatewaySpec
from tests.conftest import rows
from tests.mcp import world
from tests.mcp.world import CODE, KEPT, Client, add, body_of, connect
from tests.upstream import Said, Seen, Upstream, dual, says, upstream
from tests.web.registry import drawn

__all__ = ["upstream"]  # the fixture

WHO = [f"{name}@example.com" for name in ("alice", "bob", "carol")]
WHERE = ["one", "two", "three"]
people, places = st.sampled_from(WHO), st.sampled_from(WHERE)
eras = st.sampled_from(["modern", "legacy"])
tools = st.sampled_from(["echo", "two__echo", "one__add", "three__"])
accounts = st.sampled_from(["default", "second"])
SECOND = {"name": "second", "tool_patterns": [{"match": "two__*"}], "scopes": ["more"]}
TOKEN = re.compile(r"at~(\w+)~(\w+)~\d+")


def account_of(tool: str) -> str:
    return "second" if tool.startswith("two__") else "default"


def place(where: str, account: str) -> str:
    """What a token is made for."""
    return where if account == "default" else f"{where}_{account}"


class Outside:
    """All three servers and the provider. A token names whose it is, and what for."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.wrong: list[str] = []  # a token that came to a server it was not made for
        self.numbers = 0

    def token(self, person: str, slug: str) -> str:
        self.numbers += 1
        return f"at~{person}~{slug}~{self.numbers}"

    def __call__(self, seen: Seen) -> Said:
        if seen.path == "/token":
            return self._renewed(seen)
        slug = seen.path.strip("/")
        token = (seen.header("Authorization") or "").removeprefix("Bearer ")
        found = TOKEN.fullmatch(token)
        if found is None or found[2] not in self._good_for(seen, slug):
            self.wrong.append(f"{token} at {seen.path}: {seen.body!r}")
            return Said(401)
        return Said(401) if token in self.refused else self._in_session(seen, *found.groups())

    def _good_for(self, seen: Seen, slug: str) -> list[str]:
        """A session may be opened with either account, a tool is called with its own."""
        if seen.rpc == "tools/call":
            return [place(slug, account_of(seen.json["params"]["name"]))]
        return [place(slug, account) for account in ("default", "second")]

    def _in_session(self, seen: Seen, person: str, made_for: str) -> Said:
        """Each account's own session, whatever their token is by now."""
        mine, shown = f"up-{person}-{made_for}", seen.header("Mcp-Session-Id")
        if shown not in (None, mine):
            self.wrong.append(f"{person} in the session {shown}")
        headers = [(k, "up-1" if k.lower() == "mcp-session-id" else v) for k, v in seen.headers]
        said = dual(replace(seen, headers=headers))
        if "Mcp-Session-Id" in said.headers:
            said.headers["Mcp-Session-Id"] = mine
        return said

    def _renewed(self, seen: Seen) -> Said:
        """To whoever shows a refresh token: another one of the same person."""
        found = re.search(rb"refresh_token=rt~(\w+)~(\w+)", seen.body)
        assert found is not None, seen.body
        person, slug = found[1].decode(), found[2].decode()
        new = {"access_token": self.token(person, slug), "refresh_token": f"rt~{person}~{slug}"}
        return says(new | {"token_type": "Bearer", "expires_in": 3600})


class Isolation(RuleBasedStateMachine):
    app: Any
    upstream: Upstream
    clients: dict[tuple[str, str], Client]

    @initialize()
    def everybody_connects(self) -> None:
        self.upstream.script = self.outside = Outside()
        self.upstream.seen.clear()
        self.connected: set[tuple[str, str, str]] = set()
        self.have_been_refused: set[tuple[str, str, str]] = set()
        with self.app.app_context():
            for model in (ParkedCall, CatalogEntry, Connection):
                db.session.execute(sa.delete(model))
            db.session.commit()
        for (who, where), client in self.clients.items():
            client.session = None
            self.connects(who, where, "default")

    @rule(who=people, where=places, account=accounts)
    def connects(self, who: str, where: str, account: str) -> None:
        name, made_for = who.partition("@")[0], place(where, account)
        token = self.outside.token(name, made_for)
        connect(self.app, where, who, token=token, config=account)
        with self.app.app_context():
            mine = Connection.owner_key == f"user:{world.user(self.app, who)}"
            config_id = self._config(where, account)
            query = sa.select(Connection).where(mine, Connection.oauth_config_id == config_id)
            row = db.session.scalars(query).one()
            sealed = box().seal(f"rt~{name}~{made_for}", where=cell(row, "refresh_token_sealed"))
            row.refresh_token_sealed = sealed
            db.session.commit()
        self.connected.add((who, where, account))

    @rule(who=people, where=places, account=accounts)
    def leaves(self, who: str, where: str, account: str) -> None:
        """One account; the other stays."""
        if (who, where, account) in self.connected:
            with self.app.app_context():
                config_id = self._config(where, account)
                caller = world.caller(self.app, who)
                keeping.forget(caller, where, by=SYSTEM, config_id=config_id)
                db.session.commit()
        self.connected.discard((who, where, account))

    @rule(who=people, where=places, account=accounts)
    def is_refused(self, who: str, where: str, account: str) -> None:
        """Their token ends at the server. It is renewed with theirs, and with nobody else's.

        Once: within a minute a server that refuses again is told of, and not obeyed.
        """
        if (who, where, account) in self.have_been_refused:
            return
        self.have_been_refused.add((who, where, account))
        for seen in self.upstream.seen:
            token = (seen.header("Authorization") or "").removeprefix("Bearer ")
            if token.startswith(f"at~{who.partition('@')[0]}~{place(where, account)}~"):
                self.outside.refused.add(token)

    @rule(who=people, where=places)
    def opens_a_session(self, who: str, where: str) -> None:
        self.clients[who, where].initialize()

    @rule(who=people, where=places, tool=tools, era=eras)
    def calls(self, who: str, where: str, tool: str, era: str) -> None:
        client = self.clients[who, where]
        reply = client.call(tool, era=era)
        if (who, where, account_of(tool)) not in self.connected:
            assert "at~" not in reply.text
            return
        said = client.text(reply)
        found = TOKEN.search(said)
        assert said.startswith(f"{tool} by Bearer at~") and found is not None
        made_for = place(where, account_of(tool))
        assert (found[1], found[2]) == (who.partition("@")[0], made_for)

    @rule(order=st.permutations(WHO), where=places, tool=tools, era=eras)
    def everybody_calls(self, order: list[str], where: str, tool: str, era: str) -> None:
        """One right after the other, over whatever is kept for a moment."""
        for who in order:
            self.calls(who, where, tool, era)

    @rule(who=people, where=places, other=people, elsewhere=places)
    def tries_a_foreign_session(self, who: str, where: str, other: str, elsewhere: str) -> None:
        handle = self.clients[other, elsewhere].session
        if handle is None or (who, where) == (other, elsewhere):
            return
        before = len(self.upstream.seen)
        assert self.clients[who, where].legacy("tools/list", session=handle).status_code == 404
        assert len(self.upstream.seen) == before

    @rule(where=places)
    def the_server_moves(self, where: str) -> None:
        """To another host and back: everybody has to connect again (SEC-034)."""
        for host in ("localhost", "127.0.0.1"):
            with self.app.app_context():
                self._move(where, host)
        self.connected = {one for one in self.connected if one[1] != where}

    @invariant()
    def no_token_was_seen_elsewhere(self) -> None:
        assert self.outside.wrong == []

    def _config(self, where: str, account: str) -> str:
        query = sa.select(OAuthConfig.id).join(Gateway).where(Gateway.slug == where)
        return str(db.session.scalar(query.where(OAuthConfig.name == account)))

    def _move(self, where: str, host: str) -> None:
        gateway = gateways.find(where)
        url = self.upstream.origin.replace("127.0.0.1", host)
        record = gateways.record(gateway) | {"url": f"{url}/{where}"}
        config = record["oauth_config"] | {"client_secret": "s3cret"}
        kept = {name: value for name, value in record.items() if name not in specs.GIVEN}
        spec = specs.read(GatewaySpec, kept | {"oauth_config": config})
        gateways.update(gateway, spec, by=SYSTEM)
        db.session.commit()
        recent().clear()


def test_sec_033_sec_034_everybody_is_called_with_their_own_token_only(app, upstream):
    config = CODE | {"token_url": f"{upstream.origin}/token", "token_management": KEPT}
    for where in WHERE:
        add(app, f"{upstream.origin}/{where}", where, auth_type="oauth", oauth_config=config)
        with app.app_context():
            tool_configs.replace(gateways.find(where), [SECOND], by=SYSTEM)
            db.session.commit()
    clients = {(who, where): Client(app, where, who) for who in WHO for where in WHERE}
    here = {"app": app, "upstream": upstream, "clients": clients}
    how = settings(
        max_examples=12,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run(type("Here", (Isolation,), here), settings=how)


# -- the same in one story, through the form ------------------------------------------------------


def test_sec_034_no_secret_follows_an_edit_to_another_host(app, admin, upstream):
    """Neither the token of whoever is connected, nor the refresh token, nor the client secret."""
    config = CODE | {"token_url": f"{upstream.origin}/token", "token_management": KEPT}
    add(app, upstream.url, auth_type="oauth", oauth_config=config)
    connect(app, token="at-canary")
    client = Client(app)
    assert "at-canary" in client.text(client.call())
    url, new = "/admin/gateways/acme/edit", Upstream()
    try:
        shown = drawn(admin.get(url)) | {"sign_out": "y"}
        typed = shown | {"url": new.url, "token_url": f"{new.origin}/token"}
        headers = {"Referer": f"https://gw.test{url}"}
        refused = admin.post(url, data=typed, headers=headers)
        assert refused.status_code == 422 and "Enter it again" in refused.text
        given = typed | {"client_secret": "another"}
        assert admin.post(url, data=given, headers=headers).status_code == 303
        for era in ("modern", "legacy"):
            assert "gw.test/connections/acme" in client.call(era=era).text
        tools = body_of(client.modern("tools/list"))["result"]["tools"]
        assert [tool["name"] for tool in tools] == ["gateway_connect"] and new.seen == []
    finally:
        new.stop()
    [row] = rows(app, Connection)
    held = (row.access_token_sealed, row.refresh_token_sealed)
    assert (row.state, *held) == ("orphaned", None, None)
