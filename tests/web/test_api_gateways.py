"""/api/v1/gateways, as a program meets it."""

import copy
import io
import json

import pytest

from app import gateways, specs
from app.audit import SYSTEM
from app.db import db
from app.errors import Conflict
from app.gateways import find
from app.models import (
    AuditEvent,
    CatalogEntry,
    ClientRegistration,
    Connection,
    Flow,
    Gateway,
    OAuthConfig,
)
from app.secretbox import box, cell
from app.specs import GatewaySpec
from tests.conftest import person, rows
from tests.oauth.published import published
from tests.upstream import says
from tests.web.registry import (
    BASIC,
    BEARER,
    CACHED,
    CANARY,
    CODE,
    HEADERS,
    KEEPING,
    KINDS,
    NONE,
    RARE,
    SHARED,
    Script,
    add,
    connect,
    script,
)

__all__ = ["published"]  # the fixture


@pytest.fixture
def admins(app) -> Script:
    return script(app)


def secret_of(app, slug: str) -> str | None:
    """What is sealed for a gateway."""
    with app.app_context():
        gateway = find(slug)
        if gateway.auth_type == "oauth":
            client = gateway.oauth_config.registration
            sealed, where = client.client_secret_sealed, cell(client, "client_secret_sealed")
        else:
            sealed, where = gateway.credentials_sealed, cell(gateway, "credentials_sealed")
        return sealed and box().open(sealed, where=where)


def faults(reply) -> dict[str, str]:
    assert reply.status_code == 422, reply.text
    return {one["field"]: one["message"] for one in reply.json["error"]["fields"]}


# -- the record of the specification ---------------------------------------------------------------


@pytest.mark.parametrize("record", [CODE, SHARED], ids=["code", "client_credentials"])
def test_the_record_of_the_specification_is_created_read_edited_and_deleted(app, admins, record):
    made = admins.ask("POST", body=record)
    assert made.status_code == 201
    slug = made.json["slug"]
    assert made.headers["Location"] == f"/api/v1/gateways/{slug}"

    read = admins.ask("GET", f"/{slug}")
    config = read.json["oauth_config"]
    assert {**config, "client_secret": None}.items() >= {
        **record["oauth_config"],
        "client_secret": None,
    }.items()
    assert config["client_secret"] == "set" and CANARY not in read.text + made.text
    assert config["redirect_uri"] == "https://gw.test/oauth/callback"

    edited = admins.ask("PATCH", f"/{slug}", {"description": "For everyone"})
    assert edited.json["description"] == "For everyone" and CANARY not in edited.text
    assert secret_of(app, slug) == record["oauth_config"]["client_secret"]

    assert admins.ask("DELETE", f"/{slug}").status_code == 204
    assert admins.ask("GET", f"/{slug}").status_code == 404
    assert not rows(app, Gateway) + rows(app, OAuthConfig) + rows(app, ClientRegistration)


def test_token_management_absent_means_that_nothing_is_stored(admins):
    management = admins.ask("POST", body=CODE).json["oauth_config"]["token_management"]
    assert management == {
        **{"store_tokens": False, "auto_refresh": False, "keep_alive": False},
        "refresh_threshold_seconds": None,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_can_be_sent_back_and_changes_nothing(app, admins, kind):
    slug = admins.ask("POST", body=KINDS[kind]).json["slug"]
    before, tables = admins.ask("GET", f"/{slug}").json, stored(app)
    for method in ("PATCH", "PUT"):
        reply = admins.ask(method, f"/{slug}", before)
        assert reply.json == before | {"notices": [], "signed_out": 0}
    assert stored(app) == tables


def stored(app) -> list[dict]:
    tables = (Gateway, OAuthConfig, ClientRegistration, Connection, AuditEvent)
    return [
        {column.name: getattr(row, column.name) for column in row.__table__.columns}
        for table in tables
        for row in rows(app, table)
    ]


# -- who may ---------------------------------------------------------------------------------------


def test_only_admins_write(app, admins):
    add(app, NONE)
    person(app, "alice@example.com")
    hers = Script(app, "alice@example.com")
    for method, path, body in (
        ("POST", "", CODE),
        ("PATCH", "/open", {"name": "x"}),
        ("PUT", "/open", {"name": "x"}),
        ("DELETE", "/open", None),
    ):
        reply = hers.ask(method, path, body)
        assert (reply.status_code, reply.json["error"]["code"]) == (403, "forbidden")
    assert [row.name for row in rows(app, Gateway)] == ["Open"]


def test_a_token_to_read_does_not_write(app):
    reading = script(app, scopes=("api:read",))
    assert reading.ask("POST", body=NONE).json["error"]["code"] == "insufficient_token_scope"
    assert reading.ask("GET").status_code == 200
    for scopes in (("mcp",), ("api:write",)):
        assert Script(app, "admin@example.com", scopes=scopes).ask("GET").status_code == 403
    assert not rows(app, Gateway)


def test_people_read_what_they_may_use_without_what_is_for_admins(app, admins):
    slug = add(app, CODE)
    add(app, RARE)  # it is off
    person(app, "alice@example.com")
    hers = Script(app, "alice@example.com")
    listed = hers.ask("GET").json["gateways"]
    assert listed == [hers.ask("GET", f"/{slug}").json]
    assert set(listed[0]) == {"id", "slug", "name", "description", "auth_type", "mcp_url"}
    assert listed[0]["mcp_url"] == "https://gw.test/mcp/github-mcp"
    assert hers.ask("GET", "/slack").status_code == 404
    assert len(admins.ask("GET").json["gateways"]) == 2


def test_sec_061_a_token_for_chosen_gateways_knows_no_other(app, admins):
    add(app, NONE)
    slug = add(app, CODE)
    chosen = Script(app, "admin@example.com", slugs=[slug])
    assert [one["slug"] for one in chosen.ask("GET").json["gateways"]] == [slug]
    unknown = chosen.ask("GET", "/nothing")
    for method in ("GET", "PATCH", "DELETE"):
        foreign = chosen.ask(method, "/open", {} if method == "PATCH" else None)
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json["error"]["code"] == unknown.json["error"]["code"]
    assert chosen.ask("POST", body=BASIC).status_code == 403
    assert chosen.ask("PATCH", f"/{slug}", {"name": "Mine"}).status_code == 200


def test_nobody_without_a_token(app):
    client = app.test_client()
    for method in ("GET", "POST", "PATCH", "DELETE"):
        reply = client.open("/api/v1/gateways", method=method, base_url="https://gw.test")
        assert reply.status_code in (401, 405)


# -- bad input -------------------------------------------------------------------------------------


def test_every_fault_is_a_field_and_a_sentence(app, admins):
    record = copy.deepcopy(CODE)
    del record["oauth_config"]["token_url"]
    record["oauth_config"]["clientsecret"] = "x"
    assert faults(admins.ask("POST", body=record | {"url": "ftp://x", "id": "1"})) == {
        "id": "There is no such field.",
        "oauth_config.clientsecret": "There is no such field.",
        "url": "Start with https:// (http:// is for this machine only).",
    }
    assert not rows(app, Gateway)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"name": "a", "name": "b"}',
        b'{"timeout_s": NaN}',
        b'{"name": "\\ud800"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_sec_050_what_is_no_strict_json_is_a_400(admins, body):
    reply = admins.ask("POST", body=body)
    assert (reply.status_code, reply.json["error"]["code"]) == (400, "bad_json")
    assert reply.json["error"]["action"].startswith("Mend it, then send it again. ")


@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b"1"])
def test_what_is_no_object_is_a_422(admins, body):
    assert faults(admins.ask("POST", body=body)) == {"record": "This must be an object."}


@pytest.mark.parametrize(
    ("record", "path"),
    [
        (BASIC | {"basic": {"username": "a\r\nX: y", "password": "p"}}, "basic.username"),
        (BEARER | {"bearer_token": "a\r\nX: y"}, "bearer_token"),
        (HEADERS | {"headers": {"X-A": "a\r\nX: y"}}, "headers.X-A"),
        (HEADERS | {"headers": {"X-A\r\nX": "y"}}, "headers"),
        (NONE | {"url": "https://a.test/\r\nX: y"}, "url"),
        (NONE | {"name": "a\0"}, "name"),
    ],
)
def test_sec_040_a_header_cannot_be_smuggled_in(admins, record, path):
    assert list(faults(admins.ask("POST", body=record))) == [path]


def test_sec_060_a_row_cannot_be_written_around_the_spec(app, admins):
    slug = add(app, CODE)
    inside = ("id", "created_at", "updated_at", "mcp_url")
    for name in inside:
        assert list(faults(admins.ask("PATCH", f"/{slug}", {name: "x"}))) == [name]
    for name in ("credentials_sealed", "is_enabled", "worked_ms", "owner_id"):
        assert list(faults(admins.ask("PATCH", f"/{slug}", {name: "x"}))) == [name]
    for name in ("config_version", "registration_id", "client_secret_sealed"):
        reply = admins.ask("PATCH", f"/{slug}", {"oauth_config": {name: "x"}})
        assert list(faults(reply)) == [f"oauth_config.{name}"]


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.test/oauth/callback",
        "https://gw.test/oauth/callback/",
        "https://gw.test/oauth/callback/other",
        "http://gw.test/oauth/callback",
        "https://gw.test/oauth/callback?x=1",
    ],
)
def test_foreign_redirect_uri_names_the_right_one(admins, uri):
    record = copy.deepcopy(CODE)
    record["oauth_config"]["redirect_uri"] = uri
    [(path, sentence)] = faults(admins.ask("POST", body=record)).items()
    assert path == "oauth_config.redirect_uri"
    assert "Use https://gw.test/oauth/callback." in sentence


def test_a_gateway_may_have_a_callback_of_its_own(app, admins):
    record = copy.deepcopy(CODE)
    record["oauth_config"]["redirect_uri"] = "https://gw.test/oauth/callback/github-mcp"
    assert admins.ask("POST", body=record).status_code == 201
    [client] = rows(app, ClientRegistration)
    [config] = rows(app, OAuthConfig)
    own = "https://gw.test/oauth/callback/github-mcp"
    assert client.redirect_uri == config.settings["redirect_uri"] == own


def test_the_shared_callback_follows_the_public_address(app, admins):
    add(app, CODE)
    [config] = rows(app, OAuthConfig)
    assert config.settings["redirect_uri"] is None


def test_a_slug_is_unique_and_stays(app, admins):
    assert admins.ask("POST", body=NONE).json["slug"] == "open"
    taken = faults(admins.ask("POST", body=NONE))
    assert taken == {"name": "There is already a gateway with the slug open. Choose another name."}
    named = faults(admins.ask("POST", body=NONE | {"slug": "open"}))
    assert named == {"slug": "There is already a gateway with the slug open. Choose another slug."}
    moved = faults(admins.ask("PATCH", "/open", {"slug": "other"}))
    assert moved == {"slug": "The slug stays open, as AI clients call it by that."}
    assert admins.ask("PATCH", "/open", {"name": "Else"}).json["slug"] == "open"
    assert faults(admins.ask("POST", body=NONE | {"name": "日本"})) == {
        "slug": "No slug can be made from this name. Choose one."
    }


def test_null_takes_no_sign_in_away_and_switches_nothing(app, admins):
    """RFC 7396 takes a member out, and what has no empty value would fall back to its default."""
    slug = add(app, CODE)
    before = admins.ask("GET", f"/{slug}").json
    wrong = {"auth_type": None, "enabled": None, "transport": None, "timeout_s": True}
    assert faults(admins.ask("PATCH", f"/{slug}", wrong)).keys() == wrong.keys()
    assert list(faults(admins.ask("PATCH", f"/{slug}", {"enabled": "yes"}))) == ["enabled"]
    assert admins.ask("GET", f"/{slug}").json == before
    assert admins.ask("PATCH", f"/{slug}", {"timeout_s": None}).status_code == 200


def test_what_was_changed_on_the_way_in_is_told(admins):
    record = copy.deepcopy(CODE)
    record["oauth_config"]["token_url"] += "?client_id=x&a=b"
    reply = admins.ask("POST", body=record)
    assert reply.json["notices"] == ["Cut from the token URL, as the gateway sets it: client_id."]
    assert reply.json["oauth_config"]["token_url"].endswith("/access_token?a=b")


def test_pages_of_the_list(app, admins):
    for number in range(3):
        add(app, NONE | {"name": f"Open {number}"})
    whole = admins.ask("GET").json
    assert (whole["page"], whole["pages"], whole["total"]) == (1, 1, 3)
    assert [one["name"] for one in whole["gateways"]] == ["Open 0", "Open 1", "Open 2"]
    assert admins.ask("GET", "?page=2").json["gateways"] == []
    for bad in ("0", "-1", "x", "1e3", "²"):
        assert list(faults(admins.ask("GET", f"?page={bad}"))) == ["page"]


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["code", "shared", "basic", "bearer", "headers"])
@pytest.mark.parametrize("patch", [{"description": "x"}, {"name": "x"}, {"timeout_s": 5}])
def test_sec_059_an_edit_elsewhere_keeps_the_secret(app, admins, kind, patch):
    slug = add(app, KINDS[kind])
    before = secret_of(app, slug)
    assert admins.ask("PATCH", f"/{slug}", patch).status_code == 200
    assert secret_of(app, slug) == before and CANARY in before


def test_a_secret_is_replaced_by_a_new_one_and_removed_by_null(app, admins):
    slug = add(app, CODE)
    replaced = admins.ask("PATCH", f"/{slug}", {"oauth_config": {"client_secret": "next"}})
    assert replaced.json["oauth_config"]["client_secret"] == "set"
    assert secret_of(app, slug) == "next"
    blank = admins.ask("PATCH", f"/{slug}", {"oauth_config": {"client_secret": ""}})
    assert blank.status_code == 200 and secret_of(app, slug) == "next"
    removed = admins.ask("PATCH", f"/{slug}", {"oauth_config": {"client_secret": None}})
    assert removed.json["oauth_config"]["client_secret"] is None
    assert secret_of(app, slug) is None


def test_a_secret_that_is_needed_cannot_be_removed(app, admins):
    for kind, path in (
        ("shared", "oauth_config.client_secret"),
        ("basic", "basic.password"),
        ("bearer", "bearer_token"),
    ):
        slug = add(app, KINDS[kind])
        block, _, name = path.partition(".")
        patch = {block: {name: None}} if name else {block: None}
        assert list(faults(admins.ask("PATCH", f"/{slug}", patch))) == [path]
        assert CANARY in secret_of(app, slug)


def test_headers_change_one_by_one(app, admins):
    slug = add(app, HEADERS)
    reply = admins.ask("PATCH", f"/{slug}", {"headers": {"X-Team": "b", "X-New": "c"}})
    assert reply.json["headers"] == {"X-Api-Key": "set", "X-Team": "set", "X-New": "set"}
    kept = {"X-Api-Key": f"{CANARY}-key", "X-Team": "b", "X-New": "c"}
    assert json.loads(secret_of(app, slug)) == kept
    admins.ask("PATCH", f"/{slug}", {"headers": {"X-Team": None}})
    assert json.loads(secret_of(app, slug)) == {"X-Api-Key": f"{CANARY}-key", "X-New": "c"}
    last = {"headers": {"X-Api-Key": None, "X-New": None}}
    assert list(faults(admins.ask("PATCH", f"/{slug}", last))) == ["headers"]


def test_set_is_no_secret_where_none_is_stored(app, admins):
    record = copy.deepcopy(CODE)
    record["oauth_config"]["client_secret"] = "set"
    assert faults(admins.ask("POST", body=record)) == {
        "oauth_config.client_secret": "Enter it: nothing is stored here yet."
    }
    slug = add(app, HEADERS)
    assert list(faults(admins.ask("PATCH", f"/{slug}", {"headers": {"X-New": "set"}}))) == [
        "headers.X-New"
    ]


def test_a_body_in_chunks_is_not_cut_at_the_limit(app, admins):
    limit = app.config["MAX_BODY_BYTES"]
    cut_here = b'{"name":"x","url":"https://x.test"}'.ljust(limit) + b"garbage"
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    reply = admins.client.post(
        "/api/v1/gateways",
        input_stream=io.BytesIO(cut_here),
        headers={"Authorization": f"Bearer {admins.token}"},
        base_url="https://gw.test",
        environ_overrides=chunked,
    )
    assert reply.status_code == 413 and rows(app, Gateway) == []


SECRET = "oauth_config.client_secret"
ASKED_AGAIN = [  # kind, patch, secrets that must be typed again
    ("code", {"url": "https://evil.test/sse"}, [SECRET]),
    ("code", {"url": "https://github-mcp.example.com:8443/sse"}, [SECRET]),
    ("code", {"oauth_config": {"token_url": "https://evil.test/token"}}, [SECRET]),
    ("code", {"oauth_config": {"token_url": "https://github.com/other"}}, [SECRET]),
    ("code", {"oauth_config": {"issuer": "https://evil.test"}}, [SECRET]),
    ("code", {"oauth_config": {"refresh_url": "https://evil.test/token"}}, [SECRET]),
    ("code", {"oauth_config": {"revocation_url": "https://evil.test/revoke"}}, [SECRET]),
    ("code", {"oauth_config": {"userinfo_url": "https://evil.test/me"}}, [SECRET]),
    ("code", {"oauth_config": {"client_id": "app-9"}}, [SECRET]),
    ("code", {"oauth_config": {"grant_type": "client_credentials"}}, [SECRET]),
    ("code", {"url": "https://github-mcp.example.com/other"}, []),
    ("code", {"url": "HTTPS://GitHub-MCP.example.com:443/sse"}, []),
    ("code", {"oauth_config": {"scopes": ["repo"]}}, []),
    ("code", {"oauth_config": {"resource": "never", "audience": "x"}}, []),
    ("code", {"oauth_config": {"token_endpoint_auth_method": "post"}}, []),
    ("code", {"oauth_config": {"authorization_url": "https://other.test/a"}}, []),
    ("code", {"oauth_config": {"token_management": {"store_tokens": True}}}, []),
    ("shared", {"oauth_config": {"token_url": "https://evil.test/token"}}, [SECRET]),
    ("shared", {"url": "https://evil.test/mcp"}, [SECRET]),
    ("basic", {"url": "https://evil.test/mcp"}, ["basic.password"]),
    ("basic", {"url": "https://wiki.example.com/other"}, []),
    ("bearer", {"url": "http://127.0.0.1:9001/mcp"}, ["bearer_token"]),
    ("headers", {"url": "https://evil.test/"}, ["headers.X-Api-Key", "headers.X-Team"]),
]


@pytest.mark.parametrize(("kind", "patch", "asked"), ASKED_AGAIN)
def test_sec_059_a_secret_that_would_go_elsewhere_is_asked_for_again(
    app, admins, kind, patch, asked
):
    slug = add(app, KINDS[kind])
    before, reply = stored(app), admins.ask("PATCH", f"/{slug}", patch)
    if not asked:
        assert reply.status_code == 200, reply.text
        return
    assert faults(reply) == dict.fromkeys(
        asked, "You changed where the secret is sent. Enter it again."
    )
    assert stored(app) == before


@pytest.mark.parametrize(("kind", "patch", "asked"), [row for row in ASKED_AGAIN if row[2]])
def test_a_secret_typed_again_goes_with_the_change(app, admins, kind, patch, asked):
    slug, patch = add(app, KINDS[kind]), copy.deepcopy(patch)
    for path in asked:
        block, _, name = path.partition(".")
        patch[block] = {**patch.get(block, {}), name: "typed"} if name else "typed"
    assert admins.ask("PATCH", f"/{slug}", patch).status_code == 200
    assert "typed" in secret_of(app, slug) and CANARY not in secret_of(app, slug)


def test_another_type_takes_no_old_secret_along(app, admins):
    slug = add(app, BEARER)
    assert list(
        faults(admins.ask("PATCH", f"/{slug}", {"auth_type": "basic", "basic": {"username": "u"}}))
    ) == ["basic.password"]
    patch = {"auth_type": "oauth", "oauth_config": SHARED["oauth_config"]}
    assert admins.ask("PATCH", f"/{slug}", patch).status_code == 200
    [gateway] = rows(app, Gateway)
    assert gateway.credentials_sealed is None
    assert admins.ask("PATCH", f"/{slug}", {"auth_type": "none"}).status_code == 200
    assert not rows(app, OAuthConfig) + rows(app, ClientRegistration)


def test_sec_077_no_secret_is_in_the_database_or_the_log(app, admins, caplog):
    caplog.set_level("DEBUG")
    for record in KINDS.values():
        assert admins.ask("POST", body=record).status_code == 201
        assert admins.ask("POST", body=record | {"url": "x"}).status_code == 422
    assert CANARY not in caplog.text
    with app.app_context(), db.engine.connect() as link:
        for table in db.metadata.sorted_tables:
            assert CANARY not in str(link.execute(table.select()).all())


# -- what an edit does to connections (oauth.md 8.3) -----------------------------------------------


@pytest.fixture
def alice_is_connected(app, admins) -> str:
    """To a gateway that keeps people connected; its slug."""
    person(app, "alice@example.com")
    slug = add(app, KEEPING)
    connect(app, slug, "alice@example.com", expires_ms=1)
    return slug


MANAGEMENT = "token_management"
CONSEQUENCES = [  # patch, what becomes of the connection, whether flows under way end
    ({"url": "https://new.test/sse"}, "orphaned", True),
    ({"oauth_config": {"issuer": "https://github.com"}}, "orphaned", True),
    ({"oauth_config": {"token_url": "https://new.test/token"}}, "orphaned", True),
    ({"oauth_config": {"refresh_url": "https://new.test/token"}}, "orphaned", True),
    ({"oauth_config": {"client_id": "app-9"}}, "orphaned", True),
    ({"oauth_config": {"grant_type": "client_credentials"}}, "orphaned", True),
    ({"oauth_config": {"resource": "never"}}, "orphaned", True),
    ({"oauth_config": {"audience": "x"}}, "orphaned", True),
    ({"oauth_config": {"token_url": "https://github.com/other"}}, "kept", True),
    ({"url": "https://github-mcp.example.com/mcp"}, "kept", True),
    ({"oauth_config": {"scopes": ["repo"]}}, "kept", True),
    ({"oauth_config": {"client_secret": "typed"}}, "kept", True),
    ({"oauth_config": {"token_endpoint_auth_method": "post"}}, "kept", True),
    ({"oauth_config": {MANAGEMENT: {"store_tokens": False, "auto_refresh": False}}}, "gone", True),
    ({"oauth_config": {MANAGEMENT: {"auto_refresh": False}}}, "not renewed", False),
    ({"oauth_config": {MANAGEMENT: {"refresh_threshold_seconds": 9}}}, "kept", False),
    ({"oauth_config": {MANAGEMENT: {"keep_alive": True}}}, "kept", False),
    ({"name": "x", "description": "y", "timeout_s": 3}, "kept", False),
    ({"enabled": False}, "kept", False),
    ({"auth_type": "none"}, "gone", None),
]


@pytest.mark.parametrize(("patch", "becomes", "ends_flows"), CONSEQUENCES)
def test_sec_034_what_an_edit_does_to_who_is_connected(
    app, admins, alice_is_connected, patch, becomes, ends_flows
):
    slug, patch = alice_is_connected, copy.deepcopy(patch)
    [old] = rows(app, Connection)
    config = patch.get("oauth_config", {})
    if "url" in patch or config:
        patch["oauth_config"] = config | {"client_secret": "typed"}
        if not config.keys() - {MANAGEMENT} and "url" not in patch:
            patch["oauth_config"].pop("client_secret")
    reply = admins.ask("PATCH", f"/{slug}", patch)
    assert reply.status_code == 200, reply.text
    assert reply.json["signed_out"] == (becomes in ("orphaned", "gone"))
    left = rows(app, Connection)
    if becomes == "gone":
        assert not left
    else:
        [new] = left
        tokens = (new.access_token_sealed, new.refresh_token_sealed)
        assert (
            tokens
            == {
                "orphaned": (None, None),
                "kept": ("a", "r"),
                "not renewed": ("a", None),
            }[becomes]
        )
        is_orphaned = becomes == "orphaned"
        assert new.state == ("orphaned" if is_orphaned else "active")
        assert new.reason == ("gateway_changed" if is_orphaned else None)
        assert (new.token_gen > old.token_gen) == (becomes != "kept")
        assert (new.version > old.version) == (becomes != "kept")
    if ends_flows is not None:
        [config] = rows(app, OAuthConfig)
        assert (config.config_version > 1) == ends_flows


def test_an_edit_leaves_alone_who_has_no_tokens(app, admins):
    person(app, "alice@example.com")
    slug = add(app, KEEPING)
    connect(app, slug, "alice@example.com", state="revoked")
    patch = {"oauth_config": {"audience": "x"}}
    assert admins.ask("PATCH", f"/{slug}", patch).json["signed_out"] == 0
    assert [row.state for row in rows(app, Connection)] == ["revoked"]


@pytest.mark.parametrize("state", ["needs_reauth", "failing", "refreshing", "orphaned"])
def test_an_edit_takes_every_token_that_is_left(app, admins, state):
    person(app, "alice@example.com")
    slug = add(app, KEEPING)
    connect(app, slug, "alice@example.com", state=state, attempt_id="x", lease_ms=9)
    assert admins.ask("PATCH", f"/{slug}", {"oauth_config": {"audience": "x"}}).status_code == 200
    [row] = rows(app, Connection)
    assert (row.state, row.access_token_sealed, row.attempt_id) == ("orphaned", None, None)


def test_sec_024_a_shared_token_is_fetched_anew_after_an_edit(app, admins):
    slug = add(app, CACHED)
    connect(app, slug, None)
    reply = admins.ask("PATCH", f"/{slug}", {"oauth_config": {"scopes": ["write"]}})
    assert reply.json["signed_out"] == 0
    [config] = rows(app, OAuthConfig)
    [row] = rows(app, Connection)
    assert config.config_version > row.config_version
    admins.ask("PATCH", f"/{slug}", {"oauth_config": {"audience": "x"}})
    assert not rows(app, Connection)


def test_a_new_secret_is_tried_at_once(app, admins):
    person(app, "alice@example.com")
    slug = add(app, KEEPING)
    connect(app, slug, "alice@example.com", state="failing", not_before_ms=9_999_999_999_999)
    with app.app_context():
        client = find(slug).oauth_config.registration
        client.not_before_ms, client.last_error_code = 9_999_999_999_999, "client_rejected"
        db.session.commit()
    admins.ask("PATCH", f"/{slug}", {"oauth_config": {"client_secret": "typed"}})
    [client], [row] = rows(app, ClientRegistration), rows(app, Connection)
    assert (client.not_before_ms, client.last_error_code, row.not_before_ms) == (0, None, 0)


def test_a_deletion_takes_everything_of_the_gateway_along(app, admins, alice_is_connected):
    slug = alice_is_connected
    add(app, SHARED)
    with app.app_context():
        gateway = find(slug)
        config, user = gateway.oauth_config, rows_of_user("alice@example.com")
        flow = {"state_hash": "s", "cookie_hash": "c", "return_to": "/", "secrets_sealed": "x"}
        urls = {"authorization_url": "a", "token_url": "t", "redirect_uri": "r"}
        db.session.add_all(
            [
                Flow(
                    user_id=user.id,
                    oauth_config_id=config.id,
                    registration_id=config.registration_id,
                    config_version=1,
                    created_ms=1,
                    expires_ms=2,
                    **flow,
                    **urls,
                ),
                CatalogEntry(
                    gateway_id=gateway.id,
                    owner_key=f"user:{user.id}",
                    kind="tool",
                    name="t",
                    position=0,
                    definition={},
                ),
            ]
        )
        db.session.commit()
    assert admins.ask("DELETE", f"/{slug}").status_code == 204
    for table in (Connection, Flow, CatalogEntry):
        assert not rows(app, table)
    assert [row.name for row in rows(app, Gateway)] == ["Billing"]
    assert len(rows(app, ClientRegistration)) == len(rows(app, OAuthConfig)) == 1


def rows_of_user(email):
    from app import people

    return people.named(email)


# -- audit -----------------------------------------------------------------------------------------


def test_the_audit_names_fields_and_no_values(app, admins, alice_is_connected):
    slug = alice_is_connected
    patch = {"name": "Other", "oauth_config": {"audience": "aud-1", "client_secret": "typed"}}
    admins.ask("PATCH", f"/{slug}", patch)
    admins.ask("DELETE", f"/{slug}")
    events = [row for row in rows(app, AuditEvent) if row.action.startswith("gateway.")]
    assert [event.action for event in events] == [
        *("gateway.created", "gateway.updated", "gateway.deleted")
    ]
    updated = events[1]
    assert (updated.actor_kind, updated.actor_label) == ("token", "admin@example.com")
    assert updated.details == {
        "fields": ["name", "oauth_config.audience", "oauth_config.client_secret"],
        "signed_out": 1,
    }
    assert events[2].details == {"connections": 1, "revocable": 0, "tools": 0, "api_tokens": 0}
    assert not any(text in str(updated.details) for text in ("aud-1", "typed"))


# -- its description -------------------------------------------------------------------------------


def test_every_route_of_the_api_is_described(app, admins):
    reply = admins.client.get(
        "/api/openapi.json",
        base_url="https://gw.test",
        headers={"Authorization": f"Bearer {admins.token}"},
    )
    assert reply.json["openapi"] == "3.1.0"
    paths = reply.json["paths"]
    ours = "/api/"
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith(ours)]
    for rule in rules:
        path = rule.rule.replace("<", "{").replace(">", "}")
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            assert method.lower() in paths[path], (method, path)


def test_the_description_hangs_together(app, admins):
    from app.web.api.openapi import description

    with app.app_context():
        text = json.dumps(whole := description())
    named = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(whole["components"]["schemas"])
    schemas = whole["components"]["schemas"]
    for name in ("OAuthConfigSpec", "ToolConfigSpec"):
        assert "writeOnly" in json.dumps(schemas[name]["properties"]["client_secret"])
    further = schemas["GatewaySpec"]["properties"]["tool_oauth_configs"]
    assert further["items"] == {"$ref": "#/components/schemas/ToolConfigSpec"}
    assert "tool_patterns" in schemas["ToolConfigSpec"]["required"]


def test_sec_059_of_two_edits_at_once_one_is_told_to_look_again(app):
    """Else one would be written with the other's secret."""
    slug = add(app, NONE)

    def edit(gateway, words: str) -> None:
        spec = specs.read(GatewaySpec, NONE | {"description": words})
        gateways.update(gateway, spec, by=SYSTEM)
        db.session.commit()

    with app.app_context():
        mine = gateways.find(slug)
        with app.app_context():  # somebody else's request
            edit(gateways.find(slug), "theirs")
        with pytest.raises(Conflict):
            edit(mine, "mine")
    [found] = rows(app, Gateway)
    assert found.description == "theirs"


# -- from the URL ----------------------------------------------------------------------------------


def test_a_pasted_url_needs_no_other_field(app, admins, published):
    server, provider = published()
    made = admins.ask("POST", body={"url": server.url})
    assert made.status_code == 201, made.text
    config, found = made.json["oauth_config"], made.json["found"]
    assert made.json["auth_type"] == "oauth" and config["grant_type"] == "authorization_code"
    assert config["token_url"] is None and "client_id" not in config
    assert config["token_management"]["store_tokens"] is False
    assert found["token_url"] == f"{provider.origin}/token" and found["issuer"] == provider.issuer
    assert any("uses OAuth at" in notice for notice in made.json["notices"])
    row = rows(app, OAuthConfig)[0]
    assert row.token_url == f"{provider.origin}/token" and row.issuer == provider.issuer
    assert row.settings["token_url"] is None and row.registration_id is None


def test_what_was_found_can_be_sent_back_and_changes_nothing(app, admins, published):
    server, provider = published()
    slug = admins.ask("POST", body={"name": "Jira", "url": server.url}).json["slug"]
    before, tables = admins.ask("GET", f"/{slug}").json, stored(app)
    asked = len(server.asked + provider.asked)
    for method in ("PATCH", "PUT"):
        reply = admins.ask(method, f"/{slug}", before)
        assert reply.json == before | {"notices": [], "signed_out": 0}
    assert stored(app) == tables and len(server.asked + provider.asked) == asked


def test_a_server_without_a_sign_in_is_added_as_one(admins, published):
    server, _ = published()
    server.pages = {"/mcp": says({"jsonrpc": "2.0", "id": 1, "result": {}})}
    made = admins.ask("POST", body={"name": "Open", "url": server.url})
    assert made.json["auth_type"] == "none" and made.json["found"] is None, made.json
    assert any("needs no sign-in" in notice for notice in made.json["notices"])


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({}, 409, "client_needed"),
        ({"auth_type": "oauth"}, 409, "client_needed"),
        ({"auth_type": "oauth", "oauth_config": {"scopes": ["read"]}}, 409, "client_needed"),
    ],
)
def test_what_cannot_be_completed_is_refused_by_name(app, admins, published, given, status, code):
    server, provider = published()
    provider.publish(registration_endpoint=...)
    refused = admins.ask("POST", body={"name": "Jira", "url": server.url} | given)
    assert refused.status_code == status and refused.json["error"]["code"] == code
    assert not rows(app, Gateway) + rows(app, OAuthConfig)


def test_a_server_that_is_silent_about_its_sign_in_is_refused_by_name(app, admins, published):
    server, _ = published()
    server.challenge("Bearer")
    server.pages.pop("/.well-known/oauth-protected-resource/mcp")
    refused = admins.ask("POST", body={"url": server.url})
    assert refused.status_code == 502 and refused.json["error"]["code"] == "no_sign_in_info"
    assert not rows(app, Gateway)


def test_a_client_of_ours_is_enough_where_the_rest_is_published(app, admins, published):
    server, provider = published()
    provider.publish(registration_endpoint=...)
    given = {"client_id": "app-9", "client_secret": CANARY}
    record = {"url": server.url, "auth_type": "oauth", "oauth_config": given}
    made = admins.ask("POST", body=record)
    assert made.status_code == 201, made.text
    client = rows(app, ClientRegistration)[0]
    assert client.issuer == provider.issuer and client.client_id == "app-9"


def test_one_account_for_all_takes_its_token_url_from_what_is_published(app, admins, published):
    server, provider = published()
    given = {"grant_type": "client_credentials", "client_id": "a", "client_secret": CANARY}
    record = {"url": server.url, "auth_type": "oauth", "oauth_config": given}
    made = admins.ask("POST", body=record)
    assert made.status_code == 201, made.text
    assert rows(app, OAuthConfig)[0].token_url == f"{provider.origin}/token"
    del given["client_id"]
    assert faults(admins.ask("POST", body=record)) == {
        "oauth_config.client_id": "Enter the client ID you got from the provider."
    }


def test_another_url_is_asked_again_and_signs_out_where_the_provider_is_another(
    app, admins, published
):
    server, _ = published()
    made = admins.ask("POST", body={"name": "Jira", "url": server.url})
    person(app, "alice@example.com")
    connect(app, made.json["slug"], "alice@example.com")
    other, provider = published()
    edited = admins.ask("PATCH", f"/{made.json['slug']}", {"url": other.url})
    assert edited.status_code == 200, edited.text
    assert edited.json["found"]["issuer"] == provider.issuer and edited.json["signed_out"] == 1
    assert rows(app, Connection)[0].state == "orphaned"


def test_an_edit_whose_url_does_not_answer_changes_nothing(app, admins, published):
    server, _ = published()
    slug = admins.ask("POST", body={"name": "Jira", "url": server.url}).json["slug"]
    tables = stored(app)
    other, _ = published()
    other.server.stop()
    refused = admins.ask("PATCH", f"/{slug}", {"url": other.url})
    assert refused.status_code == 502 and refused.json["error"]["code"] == "connect_failed"
    assert stored(app) == tables


def test_sec_059_a_typed_secret_goes_to_no_provider_that_a_new_url_names(admins, published):
    server, _ = published()
    given = {"client_id": "app-9", "client_secret": CANARY}
    record = {"url": server.url, "auth_type": "oauth", "oauth_config": given}
    slug = admins.ask("POST", body=record).json["slug"]
    other, _ = published()
    wrong = faults(admins.ask("PATCH", f"/{slug}", {"url": other.url}))
    assert wrong == {
        "oauth_config.client_secret": "You changed where the secret is sent. Enter it again."
    }
