"""How we come to a client id: by hand, by our document, by registration, or by asking an admin."""

import dataclasses
import json
import os
import threading
import time

import pytest
import sqlalchemy as sa

from app import gateways, specs
from app.audit import SYSTEM
from app.db import db
from app.errors import AppError, Conflict, NotFound, UpstreamError
from app.models import AuditEvent, ClientRegistration, Connection, OAuthConfig
from app.oauth import discovery, registering
from app.oauth.registration import client_for
from app.secretbox import box, cell
from app.specs import GatewaySpec
from tests.oauth.published import published
from tests.upstream import says

__all__ = ["published"]  # the fixture

pytestmark = pytest.mark.usefixtures("here")
r = ClientRegistration
CLIENT = {
    "client_id": "made-1",
    "client_secret": "canary-secret-1",
    "registration_access_token": "canary-token-1",
}


@pytest.fixture
def here(start, config):
    app = start(dataclasses.replace(config, EGRESS_ALLOW=("127.0.0.0/8",)))
    with app.app_context():
        yield app


def automatic(server, slug="acme", **oauth) -> str:
    """The id of a config that was found out from a URL, and has no client."""
    found = discovery.look(server.url).discovered
    settings = {"grant_type": "authorization_code", "token_url": "https://x.test", "client_id": "x"}
    settings["authorization_url"] = "https://x.test"
    record = {"name": slug, "slug": slug, "url": server.url, "auth_type": "oauth"}
    gateway = gateways.create(
        specs.read(GatewaySpec, record | {"oauth_config": settings}), by=SYSTEM
    )
    config = gateway.oauth_config
    config.settings = config.settings | {"token_url": None, "authorization_url": None} | oauth
    config.discovered, config.registration = found.as_json(), None
    config.issuer, config.token_url = found.issuer, found.token_endpoint
    db.session.commit()
    return config.id


def answers(provider, *replies, **more):
    """The registration endpoint says these in turn, the last one for ever. What it was asked."""
    asked, left = [], list(replies)

    def answer(seen):
        asked.append(seen.json)
        said = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(said, dict):
            said = says({"redirect_uris": seen.json["redirect_uris"]} | said, 201)
        return said

    provider.pages["/register"] = answer
    return asked


def client(registration_id: str) -> ClientRegistration:
    db.session.rollback()
    return db.session.get(r, registration_id, populate_existing=True)


def test_registration_order(published):
    """By hand wins over the document, that over registration, and without any an admin is asked."""
    server, provider = published()
    asked = answers(provider, CLIENT)
    provider.publish(client_id_metadata_document_supported=True)
    config_id = automatic(server)
    document = client(registering.ready(config_id, by=SYSTEM))
    assert (document.kind, document.client_id) == ("cimd", registering.document_url())
    assert document.auth_method == "none" and not asked

    provider.publish(
        client_id_metadata_document_supported=True,
        token_endpoint_auth_methods_supported=["client_secret_post"],
    )
    made = client(registering.ready(automatic(server, "two"), by=SYSTEM))
    assert (made.kind, made.client_id, made.issuer) == ("dcr", "made-1", provider.issuer)
    assert len(asked) == 1

    provider.publish(registration_endpoint=...)
    with pytest.raises(Conflict) as refused:
        registering.ready(
            automatic(server, "three", redirect_uri="https://gw.test/oauth/callback/three"),
            by=SYSTEM,
        )
    assert refused.value.code == "client_needed"

    four = automatic(server, "four")
    typed = r(
        kind="manual",
        issuer=provider.issuer,
        redirect_uri="x",
        client_id="mine",
        oauth_config_id=four,
    )
    db.session.get(OAuthConfig, four).registration = typed
    db.session.commit()
    assert client(registering.ready(four, by=SYSTEM)).client_id == "mine"
    with pytest.raises(NotFound):
        registering.again(four, by=SYSTEM)


def test_client_credentials_never_register_themselves(published):
    server, provider = published()
    asked = answers(provider, CLIENT)
    with pytest.raises(Conflict) as refused:
        registering.ready(automatic(server, grant_type="client_credentials"), by=SYSTEM)
    assert refused.value.code == "client_needed" and not asked


def test_dcr_body(published):
    server, provider = published()
    server.publish(provider.issuer, scopes_supported=["read", "write"])
    asked = answers(provider, CLIENT | {"client_secret_expires_at": 0, "scope": "read"})
    us = client(registering.ready(automatic(server), by=SYSTEM))
    assert asked == [
        {
            "client_name": "MCP Gateway",
            "client_uri": "https://gw.test",
            "redirect_uris": ["https://gw.test/oauth/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "client_secret_post",
            "application_type": "web",
            "scope": "read write offline_access",
        }
    ]
    assert (us.auth_method, us.scopes, us.secret_expires_ms) == ("post", ["read"], None)
    assert us.registered_ms and us.lease_ms == 0


ODD = {
    "html": (says(b"<!DOCTYPE html><html></html>"), "registration_unusable"),
    "a list": (says([CLIENT]), "registration_unusable"),
    "huge": (says({"client_id": "x" * 300_000}), "registration_unusable"),
    "no id": (says({"client_secret": "s"}), "registration_unusable"),
    "a number": (says({"client_id": 7}), "registration_unusable"),
    "a long id": (says({"client_id": "x" * 3000}), "registration_unusable"),
    "other redirects": (
        says({**CLIENT, "redirect_uris": ["https://e.test/"]}),
        "registration_unusable",
    ),
    "redirects of text": (
        says({**CLIENT, "redirect_uris": "https://gw.test/oauth/callback"}),
        "registration_unusable",
    ),
    "no secret": (
        says({"client_id": "x", "token_endpoint_auth_method": "client_secret_post"}),
        "registration_unusable",
    ),
    "a strange method": (
        says({**CLIENT, "token_endpoint_auth_method": "tls"}),
        "registration_unusable",
    ),
    "an end in words": (
        says({**CLIENT, "client_secret_expires_at": "soon"}),
        "registration_unusable",
    ),
    "twice": (says(b'{"client_id": "a", "client_id": "b"}'), "registration_unusable"),
    "refused": (
        says({"error": "access_denied", "error_description": "Ask <b>us</b>"}, 403),
        "registration_refused",
    ),
    "nothing": (says(b"", 404), "registration_refused"),
    "moved": (says(b"", 302, Location="https://e.test/"), "registration_refused"),
    "down": (says(b"", 503), "provider_error"),
}


@pytest.mark.parametrize(("reply", "code"), ODD.values(), ids=ODD)
def test_dcr_body_and_odd_replies(published, reply, code):
    """Nothing is saved by halves, and for a minute nobody asks again."""
    server, provider = published()
    asked = answers(provider, reply)
    config_id = automatic(server)
    for _ in range(2):
        with pytest.raises(AppError) as refused:
            registering.ready(config_id, by=SYSTEM)
        assert refused.value.code == code
    assert len(asked) == 1
    row = db.session.scalar(sa.select(r).where(r.kind == "dcr"))
    assert (row.state, row.client_id, row.client_secret_sealed) == ("making", "", None)
    assert db.session.get(OAuthConfig, config_id).registration_id is None


def test_a_refusal_says_what_the_provider_said(published):
    server, provider = published()
    answers(provider, ODD["refused"][0])
    with pytest.raises(UpstreamError) as refused:
        registering.ready(automatic(server), by=SYSTEM)
    assert refused.value.said == "access_denied: Ask <b>us</b>"


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        ("invalid_redirect_uri", {"application_type": "native"}),
        ("invalid_client_metadata", {"scope": None}),
        ("access_denied", None),
    ],
)
def test_one_more_try_changes_only_what_the_error_names(published, error, changes):
    server, provider = published()
    asked = answers(provider, says({"error": error}, 400))
    with pytest.raises(UpstreamError):
        registering.ready(automatic(server), by=SYSTEM)
    if changes is None:
        assert len(asked) == 1
    else:
        first, second = asked
        first = {name: value for name, value in (first | changes).items() if value is not None}
        assert second == first


def test_two_begins_register_once(published, here):
    """Eight of them, of two gateways of one provider."""
    server, provider = published()
    asked, go = answers(provider, CLIENT), threading.Event()
    slow = provider.pages["/register"]

    def late(seen):
        go.wait(20)
        return slow(seen)

    provider.pages["/register"] = late
    configs = [automatic(server), automatic(server, "two")] * 4
    got, failed = [], []

    def begin(config_id):
        with here.app_context():
            try:
                got.append(registering.ready(config_id, by=SYSTEM))
            except AppError as error:
                failed.append(error.code)

    threads = [threading.Thread(target=begin, args=(one,)) for one in configs]
    for one in threads:
        one.start()
    go.set()
    for one in threads:
        one.join(60)
    assert not failed and len(got) == 8 and len(set(got)) == 1 and len(asked) == 1


def test_two_begins_of_two_processes_register_once(published, here):
    """As on two nodes: nothing in memory is shared, and the provider is slow."""
    server, provider = published()
    asked, go = answers(provider, CLIENT), threading.Event()
    quick = provider.pages["/register"]

    def late(seen):
        go.wait(20)
        return quick(seen)

    provider.pages["/register"] = late
    configs = [automatic(server), automatic(server, "two")]
    db.session.remove()
    came_out, goes_in = os.pipe()
    children = [forked(one, goes_in) for one in configs]
    os.close(goes_in)
    with os.fdopen(came_out) as told:
        assert [next(told) for _ in children] == ["begins\n"] * 2
        go.set()
        got = set(told)
    assert [os.waitpid(one, 0)[1] for one in children] == [0, 0]
    assert len(got) == 1 and len(asked) == 1
    assert client(got.pop().strip()).client_id == "made-1"


def forked(config_id: str, tell: int) -> int:
    """A process that says that it begins, and then which client it has; its id."""
    if child := os.fork():
        return child
    try:
        db.engine.dispose(close=False)  # those connections are the parent's
        os.write(tell, b"begins\n")
        os.write(tell, f"{registering.ready(config_id, by=SYSTEM)}\n".encode())
        os._exit(0)
    finally:
        os._exit(1)


def test_sec_026_what_was_registered_is_sealed(published):
    server, provider = published()
    place = {"registration_client_uri": f"{provider.origin}/register/made-1"}
    answers(provider, CLIENT | place)
    us = client(registering.ready(automatic(server), by=SYSTEM))
    assert us.sealed_for == f"issuer:{provider.issuer}"
    for column, secret in (
        ("client_secret_sealed", "canary-secret-1"),
        ("registration_token_sealed", "canary-token-1"),
    ):
        assert box().open(getattr(us, column), where=cell(us, column)) == secret
    for table in db.metadata.sorted_tables:
        for row in db.session.execute(sa.select(table)):
            assert "canary" not in json.dumps(list(row), default=str)
    actions = db.session.scalars(sa.select(AuditEvent.action)).all()
    assert {"client.registered", "gateway.client_chosen"} <= set(actions)


def test_a_place_for_changes_on_another_host_is_not_believed(published):
    server, provider = published()
    answers(provider, CLIENT | {"registration_client_uri": "https://elsewhere.test/1"})
    us = client(registering.ready(automatic(server), by=SYSTEM))
    assert us.registration_uri is None and us.registration_token_sealed is None


def test_an_admin_registers_again(published):
    server, provider = published()
    asked = answers(provider, CLIENT, CLIENT | {"client_id": "made-2"})
    config_id = automatic(server)
    old = registering.ready(config_id, by=SYSTEM)
    new = client(registering.again(config_id, by=SYSTEM))
    assert (new.client_id, new.generation, len(asked)) == ("made-2", 2, 2)
    assert client(old).state == "retired" and registering.unused() == [old]


def test_another_public_address_is_registered_at_the_next_begin(published, here):
    server, provider = published()
    asked = answers(provider, CLIENT)
    config_id = automatic(server)
    registering.ready(config_id, by=SYSTEM)
    here.config["PUBLIC_URL"] = "https://other.test"
    us = client(registering.ready(config_id, by=SYSTEM))
    assert us.redirect_uri == "https://other.test/oauth/callback" and len(asked) == 2


def test_what_nobody_uses_is_removed_at_the_provider_too(published):
    server, provider = published()
    answers(provider, CLIENT | {"registration_client_uri": f"{provider.origin}/register/made-1"})
    provider.pages["/register/made-1"] = 204
    config_id = automatic(server)
    us = registering.ready(config_id, by=SYSTEM)
    assert registering.unused() == [] and not registering.remove(us)
    gateways.delete(gateways.find("acme"), by=SYSTEM)
    db.session.commit()
    assert registering.unused() == [us] and registering.remove(us)
    last = provider.server.seen[-1]
    assert (last.method, last.header("Authorization")) == ("DELETE", "Bearer canary-token-1")
    assert db.session.get(r, us) is None


@pytest.mark.parametrize("status", [200, 403])
def test_a_wider_client_is_changed_or_made_anew(published, status):
    server, provider = published()
    asked = answers(
        provider, CLIENT | {"registration_client_uri": f"{provider.origin}/register/made-1"}
    )
    put = []

    def change(seen):
        put.append(seen)
        return says({**seen.json, "redirect_uris": seen.json["redirect_uris"]}, status)

    provider.pages["/register/made-1"] = change
    config_id = automatic(server)
    us = registering.ready(config_id, by=SYSTEM)
    assert registering.widen(us, ["admin"])
    assert put[0].method == "PUT" and put[0].json["scope"].endswith(" admin")
    after = registering.ready(config_id, by=SYSTEM)
    assert (after == us) == (status == 200) and len(asked) == (1 if status == 200 else 2)
    if status == 200:
        assert "admin" in client(us).scopes
        assert client_for(
            us, specs.OAuthConfigSpec(grant_type="authorization_code")
        ).registration.client_secret


@pytest.mark.parametrize("elsewhere", ["", "https://us.example/client.json"])
def test_cimd_document_names_itself(here, elsewhere):
    """Its URL is our client id, wherever it stands, and it names no gateway."""
    here.config["OAUTH_CLIENT_METADATA_URL"] = elsewhere
    reply = here.test_client().get("/oauth/client-metadata.json", base_url="https://gw.test")
    assert reply.status_code == 200 and reply.mimetype == "application/json"
    assert reply.headers["Cache-Control"] == "public, max-age=3600"
    assert "Set-Cookie" not in reply.headers
    assert reply.json == {
        "client_id": elsewhere or "https://gw.test/oauth/client-metadata.json",
        "client_name": "MCP Gateway",
        "client_uri": "https://gw.test",
        "redirect_uris": ["https://gw.test/oauth/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    }


@pytest.mark.parametrize(
    ("public", "methods", "redirect", "kind"),
    [
        ("https://gw.test", ["none"], None, "cimd"),
        ("https://gw.test", None, None, "dcr"),
        ("https://gw.test", ["client_secret_post"], None, "dcr"),
        ("https://gw.test", ["none"], "https://gw.test/oauth/callback/acme", "dcr"),
        ("https://10.0.0.1", ["none"], None, "dcr"),
        ("http://127.0.0.1:8000", ["none"], None, "dcr"),
    ],
)
def test_the_document_is_used_only_where_it_can_be_read(
    published, here, public, methods, redirect, kind
):
    server, provider = published()
    answers(provider, {"client_id": "made"} if methods == ["none"] else CLIENT)
    provider.publish(
        client_id_metadata_document_supported=True,
        token_endpoint_auth_methods_supported=methods or ...,
    )
    here.config["PUBLIC_URL"] = public
    config_id = automatic(server, redirect_uri=redirect)
    assert client(registering.ready(config_id, by=SYSTEM)).kind == kind


def connected(config_id, us, **values) -> str:
    row = Connection(oauth_config_id=config_id, owner_key="user:u", registration_id=us, **values)
    row.gateway_id = db.session.get(OAuthConfig, config_id).gateway_id
    db.session.add(row)
    db.session.commit()
    return row.id


def done() -> dict[str, int]:
    db.session.rollback()
    return {name: count for step in registering.steps() for name, count in step.items()}


@pytest.mark.parametrize("error", ["invalid_client", "invalid_grant"])
def test_forgotten_client_registered_again_once_an_hour(published, error):
    """Refused twice, and the provider was asked: only if it says so, too, the client is dead."""
    server, provider = published()
    asked = answers(provider, CLIENT, CLIENT | {"client_id": "made-2"})
    provider.pages["/token"] = says({"error": error}, 401 if error == "invalid_client" else 400)
    config_id = automatic(server)
    us = registering.ready(config_id, by=SYSTEM)
    refused = {"state": "failing", "last_error_code": "client_rejected", "refused_count": 2}
    row_id = connected(config_id, us, **refused)
    is_dead = error == "invalid_client"
    assert done() == {"forgotten": int(is_dead)} and done() == {}
    row = db.session.get(Connection, row_id)
    now = ("orphaned", "client_gone") if is_dead else ("failing", None)
    assert (row.state, row.reason) == now
    if not is_dead:
        assert registering.ready(config_id, by=SYSTEM) == us and len(asked) == 1
        return
    db.session.rollback()
    with pytest.raises(AppError) as told:  # never again and again
        registering.ready(config_id, by=SYSTEM)
    assert told.value.code == "client_rejected" and len(asked) == 1
    old = client(us)
    old.registered_ms -= registering.HOUR_MS
    db.session.commit()
    assert client(registering.ready(config_id, by=SYSTEM)).client_id == "made-2"
    assert len(asked) == 2


@pytest.mark.parametrize("works", [True, False])
def test_a_secret_that_ends_soon_is_replaced_before(published, works):
    server, provider = published()
    ends = int(time.time()) + 3600
    renewed = CLIENT | {"client_id": "made-2"} if works else says(b"", 403)
    answers(provider, CLIENT | {"client_secret_expires_at": ends}, renewed)
    config_id = automatic(server)
    us = registering.ready(config_id, by=SYSTEM)
    assert done() == {}, "it was made within the hour"
    client(us).registered_ms -= registering.HOUR_MS
    db.session.commit()
    assert done() == {"renewed": int(works)}
    now = client(registering.ready(config_id, by=SYSTEM))
    assert now.client_id == ("made-2" if works else "made-1")
