"""A CA and a client certificate of one gateway's own: who is trusted with them, and who is not."""

import re
from datetime import timedelta
from urllib.parse import parse_qsl

import pytest

from app import certificates
from app.db import db, utcnow
from app.models import BrowserSession, Gateway, User
from tests import authority
from tests.authority import DAY, Authority, Certificate
from tests.conftest import rows
from tests.mcp.world import SHARED, Client, add, body_of, failure_of, user
from tests.upstream import Said, Seen, Upstream, dual, says
from tests.web.registry import NONE, drawn, script, send

NOT_SET = {"ca_pem": None, "client_cert_pem": None, "client_key": None}


@pytest.fixture(scope="module")
def ca() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def us(ca) -> Certificate:
    """What we show to servers."""
    return ca.signs("gateway", client=True)


@pytest.fixture
def serve(tmp_path):
    """Start an MCP server that shows a certificate."""
    started = []

    def start(shown: Certificate, *, clients_of: Certificate | None = None) -> Upstream:
        started.append(Upstream(authority.server(shown, tmp_path, clients_of=clients_of)))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def pair(of: Certificate) -> dict[str, str]:
    return {"client_cert_pem": of.pem, "client_key": of.key}


# -- whom we trust --------------------------------------------------------------------------------


def test_sec_094_f_46_a_certificate_that_does_not_hold_gets_nothing(app, ca, serve):
    """Nothing is sent: not to a wrong name, an expired one, one of a stranger's, a self-signed."""
    bad = {
        "other-name": ca.signs("other.test"),
        "expired": ca.signs("127.0.0.1", since=-2 * DAY, until=-DAY),
        "not-yet": ca.signs("127.0.0.1", since=DAY, until=2 * DAY),
        "stranger": Authority("Somebody").signs("127.0.0.1"),
        "same-name": Authority().signs("127.0.0.1"),
        "itself": Authority("127.0.0.1"),
    }
    for slug, shown in bad.items():
        server = serve(shown)
        add(app, server.url, slug, ca_pem=ca.pem, auth_type="bearer", bearer_token="s3cret")
        told = failure_of(Client(app, slug=slug).call())
        assert told["code"] == "upstream_unreachable", slug
        assert server.seen == [], slug


def test_sec_094_a_ca_is_trusted_by_its_gateway_alone(app, ca, serve):
    server = serve(ca.signs("127.0.0.1"))
    add(app, server.url, "with", ca_pem=ca.pem)
    add(app, server.url, "without")
    add(app, server.url, "other", ca_pem=Authority().pem)
    for _ in range(2):  # the second time over whatever was kept
        assert "result" in body_of(Client(app, slug="with").call())
        for slug in ("without", "other"):
            assert failure_of(Client(app, slug=slug).call())["code"] == "upstream_unreachable"
    assert {seen.rpc for seen in server.seen} == {"tools/call"} and len(server.seen) == 2


def test_a_self_signed_certificate_can_be_trusted_by_pasting_it(app, serve):
    own = Authority("127.0.0.1")
    shown = own.signs("127.0.0.1")
    add(app, serve(shown).url, ca_pem=shown.pem)  # itself, without the CA above it
    assert "result" in body_of(Client(app).call())


def test_a_ca_that_is_taken_out_is_trusted_no_more(app, admin, ca, serve):
    server = serve(ca.signs("127.0.0.1"))
    add(app, server.url, ca_pem=ca.pem)
    client = Client(app)
    assert "result" in body_of(client.call())
    assert send(admin, "/admin/gateways/acme/edit", ca_pem="").status_code == 303
    assert failure_of(client.call())["code"] == "upstream_unreachable"


# -- what we show ---------------------------------------------------------------------------------


def test_sec_094_a_client_certificate_is_shown_by_its_gateway_alone(app, ca, us, serve):
    server = serve(ca.signs("127.0.0.1"), clients_of=ca)
    stranger = Authority("Somebody").signs("gateway", client=True)
    add(app, server.url, "ours", ca_pem=ca.pem, **pair(us))
    add(app, server.url, "bare", ca_pem=ca.pem)
    add(app, server.url, "wrong", ca_pem=ca.pem, **pair(stranger))
    for _ in range(2):
        assert "result" in body_of(Client(app, slug="ours").call())
        for slug in ("bare", "wrong"):
            assert "error" in body_of(Client(app, slug=slug).call())
    assert len(server.seen) == 2


def provider(seen: Seen) -> Said:
    if seen.path == "/token":
        return says({"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600})
    return dual(seen)


def test_sec_094_the_provider_is_asked_with_the_same_certificates(app, ca, us, serve):
    server = serve(ca.signs("127.0.0.1"), clients_of=ca)
    server.script = provider
    config = SHARED | {"token_url": f"{server.origin}/token"}
    shared = {"auth_type": "oauth", "oauth_config": config}
    add(app, server.url, "ours", ca_pem=ca.pem, **pair(us), **shared)
    add(app, server.url, "bare", ca_pem=ca.pem, **shared)
    client = Client(app, slug="ours")
    assert client.text(client.call()) == "echo by Bearer at-1"
    assert [seen.path for seen in server.seen] == ["/token", "/mcp"]
    assert "error" in body_of(Client(app, slug="bare").call())
    assert len(server.seen) == 2


def test_the_certificate_alone_shows_who_we_are(app, ca, us, serve):
    """RFC 8705 section 2: the client ID in the body, no secret anywhere."""
    server = serve(ca.signs("127.0.0.1"), clients_of=ca)
    server.script = provider
    config = SHARED | {"token_url": f"{server.origin}/token", "client_secret": None}
    config |= {"token_endpoint_auth_method": "tls_client_auth"}
    shared = {"auth_type": "oauth", "oauth_config": config}
    add(app, server.url, "ours", ca_pem=ca.pem, **pair(us), **shared)
    client = Client(app, slug="ours")
    assert client.text(client.call()) == "echo by Bearer at-1"
    asked = server.seen[0]
    body = dict(parse_qsl(asked.body.decode()))
    assert body["client_id"] == config["client_id"] and "client_secret" not in body
    assert asked.header("Authorization") is None


def test_sec_094_f_46_a_provider_whose_certificate_ended_gets_no_secret(app, ca, serve):
    provider = serve(ca.signs("127.0.0.1", since=-2 * DAY, until=-DAY))
    app.config["OAUTH_MAX_RETRIES"] = 0
    config = SHARED | {"token_url": f"{provider.origin}/token"}
    add(app, provider.url, ca_pem=ca.pem, auth_type="oauth", oauth_config=config)
    assert failure_of(Client(app).call())["code"] == "provider_unreachable"
    told = failure_of(Client(app, email=admin_of(app)).call())
    assert told["code"] == "tls_failed" and "certificate of 127.0.0.1" in told_to(app)
    assert provider.seen == []


def admin_of(app) -> str:
    """The email of an admin, who may also call."""
    with app.app_context():
        db.session.query(User).filter_by(id=user(app, "root@example.com")).update({"role": "admin"})
        db.session.commit()
    return "root@example.com"


def told_to(app) -> str:
    said = body_of(Client(app, email="root@example.com").call())["error"]
    return str(said["message"])


def test_a_key_that_cannot_be_opened_is_said_so(app, ca, us, serve, start, config):
    server = serve(ca.signs("127.0.0.1"), clients_of=ca)
    add(app, server.url, ca_pem=ca.pem, **pair(us))
    with app.app_context():
        db.session.query(Gateway).update({"client_key_sealed": us.key})
        db.session.commit()
    assert failure_of(Client(app).call())["code"] == "secret_unreadable"
    assert server.seen == []


# -- how it is said -------------------------------------------------------------------------------


def test_the_form_takes_certificates_and_shows_them_but_no_key(app, admin, ca, us):
    reply = send(
        admin, "/admin/gateways/new?template=by-hand", **wanted(), ca_pem=ca.pem, **pair(us)
    )
    assert reply.status_code == 303, reply.text
    page = admin.get("/admin/gateways/wiki").text
    assert "CN=Test CA" in page and "CN=gateway" in page and "its key stored, encrypted" in page
    page = admin.get("/admin/gateways/wiki/edit")
    fields = drawn(page)
    assert fields["ca_pem"].split() == ca.pem.split() and fields["client_key"] == ""
    assert "PRIVATE KEY" not in page.text
    [row] = rows(app, Gateway)
    assert row.client_key_sealed.startswith("mg1.") and "PRIVATE" not in row.client_key_sealed


def wanted(**more: str) -> dict[str, str]:
    return {"name": "Wiki", "url": "https://wiki.test/mcp", "auth_type": "none"} | more


def test_saving_with_nothing_typed_keeps_key_and_certificate(app, admin, ca, us):
    add(app, "https://wiki.test/mcp", "wiki", ca_pem=ca.pem, **pair(us))
    [before] = rows(app, Gateway)
    assert send(admin, "/admin/gateways/wiki/edit").status_code == 303
    [after] = rows(app, Gateway)
    assert after.client_key_sealed == before.client_key_sealed
    assert after.updated_at == before.updated_at


def test_a_tick_removes_certificate_and_key(app, admin, us):
    add(app, "https://wiki.test/mcp", "wiki", **pair(us))
    assert send(admin, "/admin/gateways/wiki/edit", remove_client_cert="y").status_code == 303
    [row] = rows(app, Gateway)
    assert (row.client_cert_pem, row.client_key_sealed) == (None, None)


def test_sec_059_the_key_is_asked_for_again_where_the_server_moves(app, admin, us):
    add(app, "https://wiki.test/mcp", "wiki", **pair(us))
    reply = send(admin, "/admin/gateways/wiki/edit", url="https://evil.test/mcp")
    assert reply.status_code == 422 and "Paste it again." in reply.text
    [row] = rows(app, Gateway)
    assert row.url == "https://wiki.test/mcp"
    typed = {"url": "https://evil.test/mcp", "client_key": us.key}
    assert send(admin, "/admin/gateways/wiki/edit", **typed).status_code == 303


def bad_parts(ca: Authority, us: Certificate) -> list[tuple[dict[str, str], str, str]]:
    old = ca.signs("gateway", client=True, since=-3 * DAY, until=-2 * DAY)
    soon = ca.signs("gateway", client=True, since=2 * DAY, until=3 * DAY)
    other = ca.signs("gateway", client=True)
    cut = us.pem.replace("M", "N", 1)
    old_root = Authority(since=-3 * DAY, until=-2 * DAY).pem
    trusted = old_root.replace("CERTIFICATE", "TRUSTED CERTIFICATE")
    no_text = ca.with_bytes(b"\x0c\x07Test CA", b"\x0c\x07Test\xff\xfeA")  # not UTF-8
    no_string = ca.with_bytes(b"\x0c\x07Test CA", b"\x02\x07Test CA")  # an INTEGER
    version_9 = ca.with_bytes(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09")
    return [
        ({"ca_pem": "hello"}, "ca_pem", "Paste it as PEM"),
        ({"ca_pem": cut}, "ca_pem", "cannot be read"),
        ({"ca_pem": us.key}, "ca_pem", "holds a private key"),
        ({"ca_pem": Authority(since=-3 * DAY, until=-2 * DAY).pem}, "ca_pem", "expired on"),
        ({"ca_pem": "a" * 70_000}, "ca_pem", "too long"),
        ({"ca_pem": no_text}, "ca_pem", "cannot be read"),
        ({"ca_pem": no_string}, "ca_pem", "cannot be read"),
        ({"ca_pem": version_9}, "ca_pem", "cannot be read"),
        ({"ca_pem": ca.pem + trusted}, "ca_pem", "Only whole blocks of the kind CERTIFICATE"),
        ({"ca_pem": ca.pem + us.pem[:200]}, "ca_pem", "Only whole blocks of the kind CERTIFICATE"),
        ({"client_cert_pem": us.pem + us.key}, "client_cert_pem", "holds a private key"),
        ({"client_cert_pem": us.pem}, "client_key", "Paste the private key"),
        ({"client_key": us.key}, "client_key", "Paste the certificate"),
        (pair(us) | {"client_key": other.key}, "client_key", "does not belong"),
        (pair(us) | {"client_key": us.locked(b"pw")}, "client_key", "has a password"),
        (pair(us) | {"client_key": "hello"}, "client_key", "cannot be read"),
        (pair(us) | {"client_key": "é"}, "client_key", "cannot be read"),
        (pair(us) | {"client_key": "k" * 16_385}, "client_key", "too long: at most 16384 char"),
        (pair(old), "client_cert_pem", "expired on"),
        (pair(soon), "client_cert_pem", "not valid before"),
    ]


def test_what_cannot_be_used_is_refused_with_its_reason_in_form_and_api(app, admin, ca, us):
    machine = script(app, "root@example.com")
    for given, field, sentence in bad_parts(ca, us):
        reply = machine.ask("POST", body=NONE | given)
        assert reply.status_code == 422, reply.text
        told = {one["field"]: one["message"] for one in reply.json["error"]["fields"]}
        assert list(told) == [field] and sentence in told[field], (field, told)
        page = send(admin, "/admin/gateways/new?template=by-hand", **wanted(), **given)
        assert page.status_code == 422 and sentence in page.text, sentence
        assert "PRIVATE KEY-" not in page.text + reply.text
        assert "open>\n      <summary>Own certificates" in page.text
    assert rows(app, Gateway) == []


def test_a_nul_within_is_refused_at_its_field(app, ca, us):
    """By the API: a form that holds one is not read at all."""
    machine = script(app)
    for given in ({"ca_pem": ca.pem}, {"client_key": us.key, "client_cert_pem": us.pem}):
        name, pem = next(iter(given.items()))
        reply = machine.ask("POST", body=NONE | given | {name: pem.replace("\n", "\n\0", 1)})
        [told] = reply.json["error"]["fields"]
        assert told["field"] == name and "cannot be read" in told["message"]


BREAKS = {  # what copying makes of line breaks
    "spaces": lambda pem: pem.replace("\n", " "),
    "none": lambda pem: pem.replace("\n", ""),
    "indented": lambda pem: pem.replace("\n", "\n   "),
    "one-long-line": lambda pem: re.sub(r"(?<![-])\n(?!-)", "", pem),
    "nul-before": lambda pem: "\0" + pem,
}


@pytest.mark.parametrize("kind", BREAKS)
def test_sec_094_f_46_a_certificate_that_lost_its_line_breaks_is_put_right(
    app, ca, us, serve, kind
):
    server, bent = serve(ca.signs("127.0.0.1"), clients_of=ca), BREAKS[kind]
    given = {name: bent(pem) for name, pem in ({"ca_pem": ca.pem} | pair(us)).items()}
    made = script(app, "root@example.com").ask("POST", body=NONE | {"url": server.url} | given)
    assert made.status_code == 201, made.text
    assert made.json["ca_pem"].split() == ca.pem.split()
    assert made.json["client_cert_pem"].split() == us.pem.split()
    assert "result" in body_of(Client(app, slug="open").call())


def test_sec_094_a_stored_certificate_that_cannot_be_used_breaks_no_page(
    app, admin, alice, ca, serve
):
    """From a version that took it: it is said at its gateway, and the others list their tools."""
    server = serve(ca.signs("127.0.0.1"))
    add(app, server.url, "good", ca_pem=ca.pem)
    add(app, "https://wiki.test/mcp", "bad", ca_pem=ca.pem)
    for stored in ("nothing", BREAKS["spaces"](ca.pem), ca.with_bytes(b"\x0c\x07", b"\x02\x07")):
        with app.app_context():
            db.session.query(Gateway).filter_by(slug="bad").update({"ca_pem": stored})
            db.session.commit()
        page = alice.get("/tools")
        assert page.status_code == 200 and "echo" in page.text
        for path in ("/admin/gateways/bad", "/admin/gateways/bad/edit", "/admin/gateways"):
            assert admin.get(path).status_code == 200, path
        assert failure_of(Client(app, slug="bad").call())["code"] == "upstream_unreachable"
    assert "cannot be read: paste another" in admin.get("/admin/gateways/bad").text


def test_what_stands_around_certificates_is_left_out(app, ca, us):
    machine = script(app)
    windows = f"Bag Attributes\r\n  x: y\r\n{ca.pem}\r\nmore\r\n{us.pem}".replace("\n", "\r\n")
    reply = machine.ask("POST", body=NONE | {"ca_pem": windows})
    assert reply.json["ca_pem"].split() == (ca.pem + us.pem).split()


def test_the_api_says_that_a_key_is_set_and_patches_it(app, us):
    machine = script(app)
    assert machine.ask("POST", body=NONE).json.items() >= NOT_SET.items()
    made = machine.ask("PATCH", "/open", pair(us))
    assert made.json["client_key"] == "set" and made.json["client_cert_pem"]
    kept = machine.ask("PATCH", "/open", {"description": "x", "client_key": ""})
    assert kept.json["client_key"] == "set"
    moved = machine.ask("PATCH", "/open", {"url": "https://evil.test/mcp"})
    assert moved.status_code == 422 and moved.json["error"]["fields"][0]["field"] == "client_key"
    gone = machine.ask("PATCH", "/open", {"client_cert_pem": None})
    assert gone.json.items() >= NOT_SET.items()
    [row] = rows(app, Gateway)
    assert row.client_key_sealed is None


def test_a_stored_certificate_that_expired_stops_no_other_edit(app, ca, us):
    machine = script(app)
    machine.ask("POST", body=NONE | pair(us))
    old = ca.signs("gateway", client=True, since=-timedelta(days=9), until=-DAY)
    with app.app_context():
        db.session.query(Gateway).update({"client_cert_pem": certificates.tidy(old.pem)})
        db.session.commit()
    assert machine.ask("PATCH", "/open", {"description": "x"}).status_code == 200


def test_sec_075_a_key_wants_a_password_typed_lately(app, admin, us):
    with app.app_context():
        db.session.query(BrowserSession).update({"confirmed_at": utcnow() - timedelta(hours=1)})
        db.session.commit()
    reply = send(admin, "/admin/gateways/new?template=by-hand", **wanted(), **pair(us))
    assert reply.status_code == 422 and "You signed in a while ago" in reply.text
