"""/api/v1/connections, as a program meets it: one's own, and everybody's for admins."""

import pytest
import sqlalchemy as sa

from app.db import db
from app.models import AuditEvent, Connection, User
from tests.conftest import rows
from tests.oauth import acme
from tests.oauth.acme import TOKEN
from tests.web.credentials import bearer, token_of
from tests.web.registry import Script
from tests.web.test_disconnecting import BOTH, PAIR, REVOKE, connected, tokens

HERE = "/api/v1/connections"


class Program:
    """With an API token of one person."""

    def __init__(self, app, email: str, **more) -> None:
        self._client, self._headers = app.test_client(), bearer(token_of(app, email, **more))

    def ask(self, method: str, path: str = ""):
        how = {"base_url": "https://gw.test", "headers": self._headers}
        return self._client.open(f"{HERE}{path}", method=method, **how)


@pytest.fixture
def two(app, alice, bob, provider) -> dict[str, str]:
    """Alice and Bob are connected to Acme; their connections' ids."""
    found = {}
    for browser, email in ((alice, "alice@example.com"), (bob, "bob@example.com")):
        before = {row.id for row in rows(app, Connection)}
        connected(app, browser, provider)
        [found[email]] = {row.id for row in rows(app, Connection)} - before
    return found


def plant_many(app) -> None:
    """118 more people of Acme, after Alice and Bob; with them a page of 100 and one of 20."""
    with app.app_context(), db.engine.begin() as link:
        table = Connection.__table__
        one = dict(link.execute(sa.select(table).limit(1)).mappings().one())
        users = [{"id": f"u{n:03}", "email": f"p{n:03}@example.com"} for n in range(118)]
        link.execute(sa.insert(User), users)
        mine = [{"owner_key": f"user:{u['id']}", "user_id": u["id"], "id": u["id"]} for u in users]
        link.execute(sa.insert(table), [one | more for more in mine])


def people_in(reply) -> list[str]:
    assert reply.status_code == 200, reply.json
    return [one["person"] for one in reply.json["connections"]]


def test_each_lists_their_own_and_admins_everybodys(app, admin, two):
    acme.add(app, "other")
    alice, boss = Program(app, "alice@example.com"), Program(app, "admin@example.com")
    assert people_in(alice.ask("GET")) == ["alice@example.com"]
    assert people_in(alice.ask("GET", "?gateway=acme")) == ["alice@example.com"]
    assert people_in(boss.ask("GET")) == []
    everybody = ["alice@example.com", "bob@example.com"]
    assert people_in(boss.ask("GET", "?all=true")) == everybody
    assert people_in(boss.ask("GET", "?gateway=acme")) == everybody
    assert people_in(boss.ask("GET", "?gateway=other")) == []
    refused = alice.ask("GET", "?all=true")
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("query", ["?all=maybe", "?page=0", "?page=x"])
def test_a_wrong_question_is_named(app, alice, query):
    reply = Program(app, "alice@example.com").ask("GET", query)
    assert reply.status_code == 422
    assert reply.json["error"]["fields"][0]["field"] == query[1:].partition("=")[0]


def test_pages_are_read_one_by_one(app, admin, two):
    plant_many(app)
    boss, asked = Program(app, "admin@example.com"), []
    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    first, second, third = (boss.ask("GET", f"?gateway=acme&page={n}") for n in (1, 2, 3))
    everybody = [
        "alice@example.com",
        "bob@example.com",
        *(f"p{n:03}@example.com" for n in range(118)),
    ]
    assert people_in(first) + people_in(second) == everybody and people_in(third) == []
    for reply in (first, second, third):
        assert (len(people_in(first)), reply.json["pages"], reply.json["total"]) == (100, 2, 120)
    last = admin.get("/admin/gateways/acme/people?page=9").text
    assert "Page 5 of 5" in last and "p117@" in last and "p097@" not in last
    reads = [one for one in asked if "ORDER BY gateway.slug, user_account.email" in one]
    assert len(reads) == 4 and all("LIMIT" in one for one in reads)


def test_what_fails_has_failed_since_the_first_time(app, admin, two, provider):
    """And not since the last try."""
    alice, mine = Program(app, "alice@example.com"), two["alice@example.com"]
    then = 1_700_000_000_000
    with app.app_context(), db.engine.begin() as link:
        its = sa.update(Connection).where(Connection.id == mine)
        link.execute(its.values(state="failing", fail_count=9, failing_ms=then))
    provider.post(TOKEN, status_code=503)
    assert alice.ask("POST", f"/{mine}/refresh").status_code >= 500
    [row] = [row for row in rows(app, Connection) if row.id == mine]
    assert row.state == "failing" and row.state_ms > then
    assert alice.ask("GET", f"/{mine}").json["since"] == "2023-11-14T22:13:20Z"
    for page in ("people", f"people/{mine}"):
        assert "2023-11-14" in admin.get(f"/admin/gateways/acme/{page}").text


def test_one_is_read_with_its_timeline_and_without_a_token(app, two):
    reply = Program(app, "alice@example.com").ask("GET", f"/{two['alice@example.com']}")
    one = reply.json
    assert (one["state"], one["gateway"], one["person"]) == ("active", "acme", "alice@example.com")
    assert one["renews_itself"] is True and one["since"] and one["expires_at"]
    assert [moment["message"] for moment in one["timeline"]] == ["Signed in at as.test."]
    assert "at-1" not in reply.text and "rt-1" not in reply.text and "mg1." not in reply.text


@pytest.mark.parametrize(
    ("method", "more"), [("GET", ""), ("POST", "/refresh"), ("DELETE", "")], ids=str
)
def test_sec_061_anothers_connection_is_as_unknown_as_none(app, two, provider, method, more):
    bob = Program(app, "bob@example.com")
    foreign = bob.ask(method, f"/{two['alice@example.com']}{more}")
    unknown = bob.ask(method, f"/{'0' * 32}{more}")
    assert foreign.status_code == unknown.status_code == 404
    said = [{**one.json["error"], "request_id": ""} for one in (foreign, unknown)]
    assert said[0] == said[1]
    assert [row.state for row in rows(app, Connection)] == ["active", "active"]


def test_an_api_token_for_another_gateway_sees_nothing(app, two):
    acme.add(app, "other")
    narrow = Script(app, "alice@example.com", slugs=["other"]).token
    client = app.test_client()
    for path, status in (("", 200), (f"/{two['alice@example.com']}", 404)):
        reply = client.get(f"{HERE}{path}", base_url="https://gw.test", headers=bearer(narrow))
        assert reply.status_code == status
        assert status == 404 or reply.json["connections"] == []


def test_a_change_needs_the_right_to_change(app, two):
    reader = Program(app, "alice@example.com", scopes=["api:read"])
    mine = two["alice@example.com"]
    for method, path in (("POST", f"/{mine}/refresh"), ("DELETE", f"/{mine}")):
        reply = reader.ask(method, path)
        assert reply.json["error"]["code"] == "insufficient_token_scope"
    assert reader.ask("GET", f"/{mine}").status_code == 200


def test_refresh_now(app, two, provider):
    alice, mine = Program(app, "alice@example.com"), two["alice@example.com"]
    provider.post(TOKEN, json=PAIR | {"access_token": "at-2"})
    reply = alice.ask("POST", f"/{mine}/refresh")
    assert (reply.status_code, reply.json["renewed"]) == (200, True)
    assert reply.json["last_refresh_at"] and reply.json["timeline"][0]["message"] == "Renewed."
    again = alice.ask("POST", f"/{mine}/refresh")
    assert (again.status_code, again.json["renewed"]) == (200, False)


def test_a_provider_that_does_not_answer_is_told_with_the_time_of_the_next_try(app, two, provider):
    alice, mine = Program(app, "alice@example.com"), two["alice@example.com"]
    provider.post(TOKEN, status_code=503, headers={"Retry-After": "40"})
    reply = alice.ask("POST", f"/{mine}/refresh")
    assert (reply.status_code, reply.json["error"]["code"]) == (503, "provider_unreachable")
    one = alice.ask("GET", f"/{mine}").json
    assert (one["state"], one["next_try_at"] is not None) == ("failing", True)
    assert "Could not be renewed" in one["timeline"][0]["message"]


@pytest.mark.parametrize(
    ("answer", "at_provider"), [({}, "revoked"), ({"status_code": 503}, "waiting")]
)
def test_sec_025_delete_disconnects_and_tells_what_the_provider_said(
    app, two, provider, answer, at_provider
):
    alice, mine = Program(app, "alice@example.com"), two["alice@example.com"]
    provider.post(REVOKE, **answer)
    reply = alice.ask("DELETE", f"/{mine}")
    assert (reply.status_code, reply.json["state"]) == (200, "revoked")
    assert reply.json["at_provider"] == at_provider
    assert reply.json["message"].startswith("Acme is disconnected.")
    assert tokens(provider) == BOTH
    again = alice.ask("DELETE", f"/{mine}")
    assert (again.status_code, again.json["at_provider"]) == (200, "nothing")
    assert tokens(provider) == BOTH


def test_an_admin_ends_anothers_and_the_record_says_who_did(app, admin, two, provider):
    boss, mine = Program(app, "admin@example.com"), two["alice@example.com"]
    provider.post(REVOKE)
    reply = boss.ask("DELETE", f"/{mine}")
    assert (reply.json["state"], reply.json["reason"]) == ("revoked", "by_admin")
    [event] = [one for one in rows(app, AuditEvent) if one.action == "connection.disconnected"]
    assert (event.actor_kind, event.actor_label) == ("token", "admin@example.com")
    assert {row.id: row.state for row in rows(app, Connection)} == {
        mine: "revoked",
        two["bob@example.com"]: "active",
    }
