"""A hostile provider sends the browser to an honest one, with the state of its own flow (SEC-008).

What the honest one then sends back must not reach the token endpoint of either.
"""

import threading
from itertools import product

import pytest
import sqlalchemy as sa

from app.db import db
from app.models import AuditEvent, Connection, Flow, OAuthConfig
from tests.conftest import Browser, rows
from tests.oauth import acme
from tests.oauth.acme import GOOD, Trip, leave
from tests.web.credentials import csrf_of
from tests.web.registry import CODE, drawn, script, send

SHARED = "https://gw.test/oauth/callback"
KINDS = ("promises", "recorded", "unknown")  # of providers: the rows of security.md 2.2
PAIRS = [
    (hostile, honest, paths, later)
    for hostile, honest, paths in product(KINDS, KINDS, product(("shared", "own"), repeat=2))
    for later in (("hostile", "honest") if paths == ("shared", "shared") else ("honest",))
]


def add(app, name, kind, path="shared") -> None:
    """A gateway whose provider is a host of its own name."""
    acme.add(
        app,
        name,
        authorization_url=f"https://{name}.test/go",
        token_url=f"https://{name}.test/token",
        client_id=f"client-at-{name}",
        redirect_uri=SHARED if path == "shared" else f"{SHARED}/{name}",
        **({"issuer": f"https://{name}.test"} if kind != "unknown" else {}),
    )


def promise(app) -> None:
    """As the metadata of a provider that names itself would have it pinned."""
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.update(Flow).values(iss_required=True))


def connect(browser, slug):
    return browser.submit(f"/oauth/connect/{slug}", at="/me")


@pytest.mark.parametrize(("hostile", "honest", "paths", "later"), PAIRS)
def test_sec_008_a_code_of_an_honest_provider_reaches_no_other(
    app, alice, provider, hostile, honest, paths, later
):
    names = {"hostile": (hostile, paths[0]), "honest": (honest, paths[1])}
    for name in sorted(names, key=lambda name: name == later):
        add(app, name, *names[name])
    tokens = [provider.post(f"https://{name}.test/token", json=GOOD) for name in names]
    if paths == ("shared", "shared"):
        refused = connect(alice, later)
        assert refused.status_code == 409 and "callback_shared" in refused.text
        if later == "hostile" or honest != "promises":
            # Nobody is sent off for the one that waits: to the first its client is unknown.
            assert len(rows(app, Flow)) == 0
            return
    trip = leave(alice, "hostile")
    if hostile == "promises":
        promise(app)
    named = {"iss": "https://honest.test"} if honest == "promises" else {}
    where = "/oauth/callback" if paths[1] == "shared" else "/oauth/callback/honest"
    assert trip.back(where, **named).location.startswith("/connections/hostile?failed=")
    [flow] = rows(app, Flow)
    assert flow.status == "failed"
    assert flow.error_code in ("callback_mismatch", "issuer_missing", "issuer_mismatch_reply")
    assert [endpoint.call_count for endpoint in tokens] == [0, 0]
    assert rows(app, Connection) == []


@pytest.mark.parametrize("own", ["unknown", "recorded"])
@pytest.mark.parametrize("path", ["shared", "own"])
def test_sec_008_an_issuer_of_another_config_always_aborts(app, alice, provider, own, path):
    add(app, "hostile", own, path)
    add(app, "honest", "recorded", "own")
    trip = leave(alice, "hostile")
    back = trip.back("/oauth/callback" + "/hostile" * (path == "own"), iss="https://honest.test")
    assert "failed=" in back.location
    assert rows(app, Flow)[0].error_code == "issuer_mismatch_reply" and not provider.called


def test_sec_008_two_gateways_of_one_provider_may_share_the_path(app, alice):
    acme.add(app, "one")
    acme.add(app, "two")
    assert connect(alice, "one").status_code == connect(alice, "two").status_code == 200


def test_sec_008_the_first_goes_on_when_a_second_comes_and_the_second_when_the_first_leaves(
    app, admin, alice
):
    add(app, "first", "unknown")
    add(app, "second", "unknown")
    assert connect(alice, "first").status_code == 200
    assert connect(alice, "second").status_code == 409
    assert send(admin, "/admin/gateways/first/edit", own_redirect="y").status_code == 303
    assert connect(alice, "second").status_code == 200
    # And back again, now as the later one.
    assert send(admin, "/admin/gateways/first/edit", without=["own_redirect"]).status_code == 303
    assert connect(alice, "first").status_code == 409
    assert connect(alice, "second").status_code == 200


def test_sec_008_an_admin_may_trust_both_and_that_is_written_down(app, admin, alice):
    add(app, "first", "unknown")
    add(app, "second", "unknown")
    page = admin.get("/admin/gateways/second").text
    assert "Nobody can sign in yet" in page and "First" in page and f"{SHARED}/second" in page
    assert "Nobody can sign in yet" not in admin.get("/admin/gateways/first").text
    sent = send(admin, "/admin/gateways/second/edit", trusts_shared_callback="y")
    assert sent.status_code == 303
    assert connect(alice, "second").status_code == 200
    page = admin.get("/admin/gateways/second").text
    assert "Nobody can sign in yet" not in page and "all trusted" in page
    fields = [row.details["fields"] for row in rows(app, AuditEvent) if "fields" in row.details]
    assert fields == [["oauth_config.trusts_shared_callback"]]


def test_sec_008_trust_was_in_the_provider_that_there_was(app, admin, alice):
    add(app, "first", "unknown")
    add(app, "second", "unknown")
    send(admin, "/admin/gateways/second/edit", trusts_shared_callback="y")
    moved = {"token_url": "https://elsewhere.test/token", "client_secret": "new"}
    page = send(admin, "/admin/gateways/second/edit", **moved)
    assert page.status_code == 303, drawn(page)
    assert connect(alice, "second").status_code == 409
    assert "Nobody can sign in yet" in admin.get("/admin/gateways/second").text


def test_sec_008_the_form_gives_a_new_gateway_a_path_of_its_own_where_one_is_taken(
    app, admin, alice
):
    typed = {
        "url": acme.NOWHERE,
        "client_id": "cid",
        "client_secret": "s3cret",
        "authorization_url": "https://other.test/go",
        "token_url": "https://other.test/token",
    }
    assert (
        send(admin, "/admin/gateways/new?template=by-hand", name="First", **typed).status_code
        == 303
    )
    assert "trusts" not in str(rows(app, OAuthConfig)[0].settings)
    assert rows(app, OAuthConfig)[0].settings["redirect_uri"] is None
    send(admin, "/admin/gateways/new?template=by-hand", name="Same", **typed)
    typed["token_url"] = "https://silent.test/token"
    assert (
        send(admin, "/admin/gateways/new?template=by-hand", name="Second", **typed).status_code
        == 303
    )
    page = admin.get("/admin/gateways/second").text
    assert f"Register {SHARED}/second at its provider" in page
    assert leave(alice, "second").asked["redirect_uri"] == f"{SHARED}/second"
    assert leave(alice, "same").asked["redirect_uri"] == SHARED
    typed |= {"trusts_shared_callback": "y", "token_url": "https://third.test/token"}
    assert (
        send(admin, "/admin/gateways/new?template=by-hand", name="Third", **typed).status_code
        == 303
    )
    assert leave(alice, "third").asked["redirect_uri"] == SHARED


def test_sec_008_a_record_that_keeps_the_shared_path_is_saved_with_a_warning(app, alice):
    api = script(app)
    add(app, "first", "unknown")
    made = api.ask("POST", body=CODE)
    assert made.status_code == 201
    [warning] = made.json["notices"]
    assert warning.startswith("Nobody can sign in yet") and "First" in warning
    assert f"{SHARED}/github-mcp" in warning
    assert connect(alice, "github-mcp").status_code == 409
    ticked = {"oauth_config": {"trusts_shared_callback": True}}
    changed = api.ask("PATCH", "/github-mcp", body=ticked)
    assert changed.json["notices"] == [] and changed.json["signed_out"] == 0
    assert changed.json["oauth_config"]["trusts_shared_callback"] is True
    assert connect(alice, "github-mcp").status_code == 200


def test_sec_101_attempts_at_the_same_moment_are_counted_one_by_one(app, alice):
    """Five of eight, whoever they ask: each counts those before it."""
    acme.add(app)
    meet, answers = threading.Barrier(8, timeout=60), []
    form = {"csrf_token": csrf_of(alice.get("/me"))}

    def begin():
        twin = Browser(app)
        twin.client._cookies = dict(alice.client._cookies)
        meet.wait()
        page = twin.post("/oauth/connect/acme", data=form, headers={"Referer": "https://gw.test/"})
        answers.append(page.status_code)
        with app.app_context():
            db.session.remove()

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [200] * 5 + [429] * 3
    assert len(rows(app, Flow)) == 5


def test_sec_008_and_010_a_callback_of_a_gateway_that_is_gone_finds_nothing(app, alice, provider):
    add(app, "own", "unknown", "own")
    trip: Trip = leave(alice, "own")
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.delete(Flow))
    page = trip.back("/oauth/callback/own")
    assert page.status_code == 400 and "state_unknown" in page.text and not provider.called
