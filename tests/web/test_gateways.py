"""/admin/gateways, as an admin meets it."""

import copy
import json
import re
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app import gateways
from app.db import db, utcnow
from app.models import (
    ApiToken,
    AuditEvent,
    BrowserSession,
    CatalogEntry,
    ClientRegistration,
    Connection,
    Gateway,
    OAuthConfig,
)
from app.oauth import signing
from app.secretbox import box, cell
from tests.conftest import PASSWORD, rows
from tests.web.registry import (
    BASIC,
    CANARY,
    CODE,
    HEADERS,
    KEEPING,
    KINDS,
    NONE,
    RARE,
    SHARED,
    add,
    connect,
    drawn,
    send,
)

NEW = "/admin/gateways/new?template=by-hand"


def stored(app) -> list[dict]:
    """Every row that an edit could touch; that somebody was kept out is recorded anyway."""
    tables = (Gateway, OAuthConfig, ClientRegistration, Connection, AuditEvent)
    return [
        {column.name: getattr(row, column.name) for column in row.__table__.columns}
        for table in tables
        for row in rows(app, table)
        if getattr(row, "action", "") != "access.denied"
    ]


def record_of(app, slug: str) -> dict:
    with app.app_context():
        return gateways.record(gateways.find(slug))


def errors(page) -> dict[str, str]:
    """Field id to the sentence beside it."""
    assert page.status_code == 422, page.status_code
    found = re.findall(
        r'class="err" id="(.*?)-e"><span class="vh">Error: </span>(.*?)</p>', page.text
    )
    return dict(found)


TYPED = {  # what an admin types for each kind
    "code": {
        "auth_type": "oauth",
        "grant_type": "authorization_code",
        "client_id": "app-1",
        "client_secret": f"{CANARY}-code",
        "authorization_url": "https://github.com/login/oauth/authorize",
        "token_url": "https://github.com/login/oauth/access_token",
        "scopes": "repo  read:user",
    },
    "shared": {
        "auth_type": "oauth",
        "grant_type": "client_credentials",
        "client_id": "app-2",
        "client_secret": f"{CANARY}-shared",
        "token_url": "https://auth.example.com/token",
        "scopes": "read",
    },
    "basic": {"auth_type": "basic", "username": "gw", "password": f"{CANARY}-basic"},
    "bearer": {"auth_type": "bearer", "bearer_token": f"{CANARY}-bearer"},
    "headers": {
        "auth_type": "headers",
        "headers": f"X-Api-Key: {CANARY}-key\r\n\r\nX-Team:{CANARY}-team ",
    },
    "none": {"auth_type": "none"},
}


def same(record: dict) -> dict:
    """A record without what two gateways can never share."""
    return {
        key: value for key, value in record.items() if key not in ("id", "created_at", "updated_at")
    }


@pytest.mark.parametrize("kind", TYPED)
def test_three_doors_make_the_same_gateway(app, admin, kind, tmp_path):
    typed, record = TYPED[kind], copy.deepcopy(KINDS[kind])
    if kind == "code":  # the form offers to keep people connected
        record = copy.deepcopy(KEEPING) | {"name": CODE["name"]}
    page = send(admin, NEW, name=record["name"], url=record["url"], **typed)
    assert page.status_code == 303, page.text
    slug = page.headers["Location"].split("/")[3]
    by_form = record_of(app, slug)
    send(admin, f"/admin/gateways/{slug}/delete")

    (tmp_path / "record.json").write_text(json.dumps(record))
    ran = app.test_cli_runner().invoke(args=["gateways", "add", str(tmp_path / "record.json")])
    assert ran.exit_code == 0, ran.output
    by_command = record_of(app, slug)
    assert same(by_form) == same(by_command)
    # the API's own tests compare what it stores with the same records


def test_where_tokens_are_revoked_is_a_field_of_its_own(app, admin):
    add(app, CODE)
    url = "/admin/gateways/github-mcp/edit"
    page = send(admin, url, revocation_url="https://github.com/revoke", client_secret="again")
    assert page.status_code == 303, page.text
    assert drawn(admin.get(url))["revocation_url"] == "https://github.com/revoke"
    page = send(admin, url, revocation_url="http://github.com/revoke", client_secret="again")
    assert page.status_code == 422 and "Start with https://" in page.text


def test_the_form_offers_to_keep_people_connected(app, admin):
    fields = drawn(admin.get(NEW))
    assert (fields["keep_people"], fields["auto_refresh"]) == ("y", "y")
    assert "keep_shared" not in fields
    off = {"without": ("keep_people", "auto_refresh")}
    send(admin, NEW, **off, name="A", url="https://a.test/", **TYPED["code"])
    assert record_of(app, "a")["oauth_config"]["token_management"]["store_tokens"] is False
    send(admin, NEW, keep_shared="y", name="B", url="https://b.test/", **TYPED["shared"])
    management = record_of(app, "b")["oauth_config"]["token_management"]
    assert management["store_tokens"] is True and management["auto_refresh"] is False


def test_the_form_keeps_idle_sign_ins_alive_where_tokens_are_refreshed(app, admin):
    def kept_alive(page) -> bool:
        assert page.status_code == 303, page.text
        return record_of(app, "a")["oauth_config"]["token_management"]["keep_alive"]

    url = "/admin/gateways/a/edit"
    typed = TYPED["code"] | {"name": "A", "url": "https://a.test/"}
    assert "keep_alive" not in drawn(admin.get(NEW))  # nobody is asked more often unless told to
    assert kept_alive(send(admin, NEW, **typed, keep_alive="y")) is True
    assert drawn(admin.get(url))["keep_alive"] == "y"
    assert "also while idle" in admin.get("/admin/gateways/a").text
    assert kept_alive(send(admin, url, name="Other")) is True
    assert kept_alive(send(admin, url, without=("auto_refresh",))) is False
    again = {"auto_refresh": "y", "keep_alive": "y"}
    assert kept_alive(send(admin, url, **again)) is True
    assert kept_alive(send(admin, url, without=("keep_alive",))) is False


def test_the_redirect_uri_is_shown_to_copy(app, admin):
    assert "https://gw.test/oauth/callback" in admin.get(NEW).text
    typed = TYPED["code"] | {"own_redirect": "y"}
    send(admin, NEW, name="Jira", url="https://j.test/", **typed)
    assert record_of(app, "jira")["oauth_config"]["redirect_uri"].endswith("/callback/jira")
    for path in ("/admin/gateways/jira", "/admin/gateways/jira/edit"):
        assert ">https://gw.test/oauth/callback/jira</code>" in admin.get(path).text


# -- Q13: nothing typed, nothing changed -----------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_q13_saving_unchanged_changes_nothing(app, admin, kind):
    slug = add(app, KINDS[kind])
    before = stored(app)
    page = send(admin, f"/admin/gateways/{slug}/edit")
    assert page.status_code == 303, errors(page)
    assert stored(app) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_of_the_description_keeps_the_secret(app, admin, kind):
    slug = add(app, KINDS[kind])
    before = record_of(app, slug)
    sealed = [row.client_secret_sealed for row in rows(app, ClientRegistration)]
    sealed += [row.credentials_sealed for row in rows(app, Gateway)]
    page = send(admin, f"/admin/gateways/{slug}/edit", description="For everyone")
    assert page.status_code == 303
    after = record_of(app, slug)
    assert after == before | {"description": "For everyone", "updated_at": after["updated_at"]}
    kept = [row.client_secret_sealed for row in rows(app, ClientRegistration)]
    assert kept + [row.credentials_sealed for row in rows(app, Gateway)] == sealed


def test_fields_that_the_form_does_not_draw_survive_an_edit(app, admin):
    add(app, RARE)
    before = record_of(app, "slack")["oauth_config"]
    page = send(admin, "/admin/gateways/slack/edit", scopes="chat:write", audience="")
    assert page.status_code == 303, errors(page)
    after = record_of(app, "slack")["oauth_config"]
    assert after == before | {"scopes": ["chat:write"], "audience": None}


def test_rare_settings_are_edited_as_json(app, admin):
    add(app, RARE)
    shown = json.loads(drawn(admin.get("/admin/gateways/slack/edit"))["more"])
    assert shown["reply"]["token_path"] == "authed_user" and "issuer" not in shown
    more = json.dumps({"reply": {"errors": {"a": "b"}}, "lifetime": {"default": 60}})
    page = send(admin, "/admin/gateways/slack/edit", more=more, client_secret="typed")
    assert page.status_code == 303, errors(page)
    config = record_of(app, "slack")["oauth_config"]
    assert config["reply"]["errors"] == {"a": "b"} and config["reply"]["token_path"] is None
    assert (config["lifetime"]["default"], config["offline"], config["refresh_url"]) == (
        *(60, None, None),
    )
    send(admin, "/admin/gateways/slack/edit", more="")
    assert record_of(app, "slack")["oauth_config"]["lifetime"]["default"] is None


@pytest.mark.parametrize("more", ["{", "[]", '{"issuer": "x"}', '{"lifetime": {}, "lifetime": {}}'])
def test_rare_settings_that_cannot_be_read_are_said_so(app, admin, more):
    add(app, RARE)
    page = send(admin, "/admin/gateways/slack/edit", more=more, scopes="a,b")
    assert set(errors(page)) == {"more", "scopes"}
    assert "<details open>" in page.text


def test_a_fault_in_rare_settings_names_its_path(app, admin):
    add(app, CODE)
    page = send(admin, "/admin/gateways/github-mcp/edit", more='{"lifetime": {"default": -1}}')
    assert errors(page) == {"more": "lifetime.default: This must be at least 1."}


def test_more_parameters_come_and_go_line_by_line(app, admin):
    add(app, RARE)
    url = "/admin/gateways/slack/edit"
    assert drawn(admin.get(url))["extra_authorize_params"] == "prompt=consent\r\nname=a=b"
    page = send(admin, url, extra_authorize_params="name=c\r\nlogin_hint = x=y")
    assert page.status_code == 303
    config = record_of(app, "slack")["oauth_config"]
    assert config["extra_authorize_params"] == {"name": "c", "login_hint": "x=y"}
    bad = errors(send(admin, url, extra_authorize_params="nonsense", extra_token_params="a=1\na=2"))
    assert bad == {
        "extra_authorize_params": "Write one in each line, as name=value.",
        "extra_token_params": "a stands twice.",
    }
    taken = errors(send(admin, url, extra_token_params="client_id=1"))
    assert list(taken) == ["extra_token_params"]


def test_two_admins_do_not_take_back_each_others_edits(app, admin):
    add(app, CODE)
    url = "/admin/gateways/github-mcp/edit"
    first = drawn(admin.get(url)) | {"scopes": "repo"}
    theirs = {"description": "By the second", "pkce": "off", "client_secret": CANARY}
    send(admin, url, **theirs)
    page = admin.post(url, data=first, headers={"Referer": f"https://gw.test{url}"})
    assert errors(page)["name"].startswith("Somebody else saved this meanwhile.")
    assert drawn(page)["scopes"] == "repo"
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.text)
    assert dict(facts) == {
        "Description": "By the second",
        "Scopes": "repo read:user",
        "PKCE": "Off: only if the provider breaks on it",
    }
    assert CANARY not in page.text
    assert record_of(app, "github-mcp")["description"] == "By the second"
    again = drawn(page) | {"description": "Compared"}
    admin.post(url, data=again, headers={"Referer": f"https://gw.test{url}"})
    record = record_of(app, "github-mcp")
    assert (record["description"], record["oauth_config"]["scopes"]) == ("Compared", ["repo"])


def test_another_grant_or_type_by_the_form(app, admin):
    add(app, SHARED)
    url = "/admin/gateways/billing/edit"
    typed = TYPED["code"] | {"auto_refresh": "y", "keep_people": "y"}
    assert send(admin, url, **typed).status_code == 303
    config = record_of(app, "billing")["oauth_config"]
    assert config["grant_type"] == "authorization_code"
    assert config["token_management"]["store_tokens"] is True
    assert send(admin, url, **TYPED["bearer"]).status_code == 303
    record = record_of(app, "billing")
    assert record["bearer_token"] == "set" and "oauth_config" not in record
    assert send(admin, url, **TYPED["code"]).status_code == 303
    assert "bearer_token" not in record_of(app, "billing")


# -- secrets ---------------------------------------------------------------------------------------


def opened(app, column: str = "client_secret_sealed") -> str | None:
    with app.app_context():
        [client] = db.session.scalars(sa.select(ClientRegistration))
        sealed = getattr(client, column)
        return sealed and box().open(sealed, where=cell(client, column))


def kid_of(app) -> str | None:
    with app.app_context():
        return db.session.scalars(sa.select(ClientRegistration.key_id)).one()


def test_a_secret_is_typed_anew_or_removed_by_a_tick(app, admin):
    add(app, CODE)
    url = "/admin/gateways/github-mcp/edit"
    assert "Leave empty to keep it." in admin.get(url).text
    send(admin, url, client_secret=" next ")
    assert opened(app) == "next"
    send(admin, url, client_secret="other", remove_client_secret="y")
    assert opened(app) == "other"
    send(admin, url, remove_client_secret="y")
    assert opened(app) is None
    assert "remove_client_secret" not in admin.get(url).text


def test_a_key_is_pasted_made_or_removed_and_never_shown(app, admin):
    """Its public part, and where providers read it, stand on the gateway's page."""
    pem = signing.generate("ES256")
    typed = TYPED["code"] | {
        "client_secret": "",
        "token_endpoint_auth_method": "private_key_jwt",
        "assertion_audience": "token_url",
    }
    failed = send(admin, NEW, name="GitHub MCP", url="ftp://x", client_private_key=pem, **typed)
    assert errors(failed)["client_private_key"] == "Enter the secret again."
    assert pem.splitlines()[1] not in failed.text
    made = send(admin, NEW, name="GitHub MCP", url=CODE["url"], client_private_key=pem, **typed)
    assert made.status_code == 303, made.text
    assert opened(app, "private_key_sealed") == pem.strip()
    record = record_of(app, "github-mcp")["oauth_config"]
    assert (record["client_private_key"], record["assertion_audience"]) == ("set", "token_url")

    shown, kid = admin.get("/admin/gateways/github-mcp").text, kid_of(app)
    assert "https://gw.test/oauth/jwks.json" in shown and kid in shown
    [published] = app.test_client().get("/oauth/jwks.json", base_url="https://gw.test").json["keys"]
    assert published["kid"] == kid
    url = "/admin/gateways/github-mcp/edit"
    form = admin.get(url).text
    assert "A key is saved." in form and "PRIVATE KEY" not in form + shown
    assert send(admin, url, description="kept").status_code == 303
    assert opened(app, "private_key_sealed") == pem.strip()

    assert send(admin, url, assertion_alg="PS256", make_private_key="y").status_code == 303
    assert kid_of(app) != kid and record_of(app, "github-mcp")["oauth_config"]["assertion_alg"]
    assert send(admin, url, assertion_alg="ES256", client_private_key=pem).status_code == 303
    assert kid_of(app) == kid
    both = send(admin, url, client_private_key=pem, make_private_key="y")
    assert errors(both)["client_private_key"] == "Paste a key, or have one made: not both."
    gone = {"remove_private_key": "y", "token_endpoint_auth_method": "none"}
    assert send(admin, url, **gone).status_code == 303
    assert opened(app, "private_key_sealed") is None
    assert "oauth/jwks.json" not in admin.get("/admin/gateways/github-mcp").text


def test_a_secret_without_a_client_id_is_not_dropped_in_silence(app, admin):
    page = send(admin, NEW, name="A", url="https://a.test/", **TYPED["code"] | {"client_id": ""})
    assert errors(page)["client_secret"] == "Enter the client ID that it belongs to, too."
    assert not rows(app, Gateway)


def test_headers_are_kept_by_name_and_go_with_their_line(app, admin):
    add(app, HEADERS)
    url = "/admin/gateways/search/edit"
    assert drawn(admin.get(url))["headers"] == "X-Api-Key:\r\nX-Team:"
    assert send(admin, url, headers="X-Api-Key:\r\nX-New: c").status_code == 303
    with app.app_context():
        gateway = gateways.find("search")
        sealed, where = gateway.credentials_sealed, cell(gateway, "credentials_sealed")
        values = json.loads(box().open(sealed, where=where))
    assert values == {"X-Api-Key": f"{CANARY}-key", "X-New": "c"}
    assert errors(send(admin, url, headers="X-Api-Key:\r\nX-More:")) == {
        "headers": "Enter the value of X-More."
    }
    assert errors(send(admin, url, headers="nonsense")) == {
        "headers": "Write one in each line, as Name: value."
    }


SECRET_ASKED = [
    ("code", {"url": "https://evil.test/"}, "client_secret"),
    ("code", {"token_url": "https://evil.test/token"}, "client_secret"),
    ("code", {"token_url": "https://github.com/other"}, "client_secret"),
    ("code", {"issuer": "https://evil.test"}, "client_secret"),
    ("code", {"client_id": "app-9"}, "client_secret"),
    ("code", {"grant_type": "client_credentials"}, "client_secret"),
    ("shared", {"token_url": "https://evil.test/token"}, "client_secret"),
    ("basic", {"url": "https://evil.test/"}, "password"),
    ("bearer", {"url": "https://evil.test/"}, "bearer_token"),
    ("headers", {"url": "https://evil.test/"}, "headers"),
]


@pytest.mark.parametrize(("kind", "typed", "field"), SECRET_ASKED)
def test_sec_059_the_form_asks_again_for_a_secret_that_would_go_elsewhere(
    app, admin, kind, typed, field
):
    slug = add(app, KINDS[kind])
    before = stored(app)
    page = send(admin, f"/admin/gateways/{slug}/edit", **typed)
    assert errors(page) == {field: "You changed where the secret is sent. Enter it again."}
    assert drawn(page)[next(iter(typed))] == next(iter(typed.values()))
    assert stored(app) == before


def test_sec_058_no_page_shows_a_stored_secret(app, admin):
    for record in KINDS.values():
        slug = add(app, record)
        for page in ("", "/edit", "/people", "/delete"):
            shown = admin.get(f"/admin/gateways/{slug}{page}")
            assert shown.status_code == 200 and CANARY not in shown.text
            assert "mg1." not in shown.text
    assert CANARY not in admin.get("/admin/gateways").text


@pytest.mark.parametrize("kind", ["code", "basic", "bearer", "headers"])
def test_a_failed_form_keeps_what_was_typed_but_for_secrets(app, admin, kind):
    page = send(admin, NEW, name="", url="ftp://x", description="kept", **TYPED[kind])
    found = errors(page)
    assert found.pop("name") == "This is required."
    assert found.pop("url").startswith("Start with https://")
    assert list(found.values()) == ["Enter the secret again."]
    assert CANARY not in page.text
    fields = drawn(page)
    assert (fields["url"], fields["description"]) == ("ftp://x", "kept")
    if kind == "headers":
        assert fields["headers"] == "X-Api-Key: \r\nX-Team: "
    assert not rows(app, Gateway)


def test_sec_075_a_secret_is_taken_only_from_who_typed_the_password_lately(app, admin):
    add(app, CODE)
    url = "/admin/gateways/github-mcp/edit"
    with app.app_context():
        db.session.execute(
            sa.update(BrowserSession).values(confirmed_at=utcnow() - timedelta(minutes=11))
        )
        db.session.commit()
    assert "You signed in a while ago" in admin.get(url).text
    for typed in ("", "not it"):
        page = send(admin, url, client_secret="typed", description="kept", own_password=typed)
        found = errors(page)
        assert found["own_password"] in ("Enter your own password.", "This is not your password.")
        assert found["client_secret"] == "Enter the secret again."
        assert drawn(page)["description"] == "kept" and opened(app) == f"{CANARY}-code"
        assert "not it" not in page.text
    assert send(admin, url, description="no secret").status_code == 303
    typed = {"client_secret": "typed", "own_password": PASSWORD}
    assert send(admin, url, **typed).status_code == 303
    assert opened(app) == "typed" and "You signed in a while ago" not in admin.get(url).text


# -- faults ----------------------------------------------------------------------------------------


def test_all_faults_are_named_at_once_with_a_summary(app, admin):
    typed = TYPED["code"] | {"token_url": "", "client_id": "", "scopes": "a,b"}
    page = send(admin, NEW, name="", url="x", timeout_s="soon", resource="x", **typed)
    found = errors(page)
    assert set(found) == {
        *("name", "url", "timeout_s", "scopes", "resource"),  # the rest might be found out
        "client_secret",
    }
    assert "<title>Error: Add gateway" in page.text and "There is a problem" in page.text
    for field, sentence in found.items():
        assert re.search(rf'<a href="#{field}">[^<]*{re.escape(sentence)}</a>', page.text)
        control = re.search(rf'<[^>]*id="{field}"[^>]*>', page.text).group()
        assert 'aria-invalid="true"' in control and f"{field}-e" in control
    assert "<details open>" in page.text  # the resource is in there


@pytest.mark.parametrize(
    ("kind", "typed", "field"),
    [
        ("basic", {"username": "a\r\nX: y"}, "username"),
        ("basic", {"password": "a\r\nX: y"}, "password"),
        ("bearer", {"bearer_token": "a\r\nX: y"}, "bearer_token"),
        ("bearer", {"bearer_token": "ä"}, "bearer_token"),
        ("headers", {"headers": "X-A: a\x01b"}, "headers"),
        ("headers", {"headers": "Host: evil"}, "headers"),
        ("none", {"url": "https://a.test/\r\nX: y"}, "url"),
        ("none", {"name": "a\r\nb"}, "name"),
        ("none", {"transport": "ws"}, "transport"),
        ("none", {"auth_type": "magic"}, "auth_type"),
        ("code", {"grant_type": "password"}, "grant_type"),
        ("code", {"pkce": "maybe"}, "pkce"),
    ],
)
def test_sec_040_what_a_header_or_row_cannot_carry_is_a_form_error(app, admin, kind, typed, field):
    fields = {"name": "A", "url": "https://a.test/"} | TYPED[kind] | typed
    assert field in errors(send(admin, NEW, **fields))
    assert not rows(app, Gateway)


def test_a_slug_that_is_taken_is_said_beside_it(app, admin):
    add(app, NONE)
    page = send(admin, NEW, name="Open", url="https://a.test/", **TYPED["none"])
    assert list(errors(page)) == ["name"]
    page = send(admin, NEW, name="Else", slug="open", url="https://a.test/", **TYPED["none"])
    assert list(errors(page)) == ["slug"]
    page = send(admin, NEW, name="New", url="https://a.test/", **TYPED["none"])
    assert page.headers["Location"].startswith("/admin/gateways/mcp-new/")


def test_what_was_changed_on_the_way_in_is_shown(app, admin):
    typed = TYPED["code"] | {"token_url": "https://as.test/token?scope=a&b=c"}
    page = send(admin, NEW, name="A", url="https://a.test/", **typed)
    shown = admin.get(page.headers["Location"]).text
    assert "Cut from the token URL, as the gateway sets it: scope." in shown
    assert "A was added." in shown
    assert "A was added." not in admin.get("/admin/gateways").text  # its check is streamed


def test_sec_060_the_form_binds_its_own_fields_only(app, admin):
    slug = add(app, CODE)
    before = stored(app)
    for name in ("id", "created_at", "credentials_sealed", "is_enabled", "config_version", "slug"):
        page = send(admin, f"/admin/gateways/{slug}/edit", **{name: "x"})
        assert page.status_code in (303, 422)
    assert stored(app) == before


XSS = [
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "{{7*7}}",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("text", XSS)
def test_sec_056_every_stored_text_is_text(app, admin, text):
    record = copy.deepcopy(KEEPING)
    record |= {"name": text, "slug": "x", "description": text}
    record["oauth_config"] |= {"client_id": text, "audience": text}
    record["oauth_config"]["extra_token_params"] = {text: text}
    add(app, record)
    connect(app, "x", "admin@example.com", account_label=text, state="active")
    add(
        app,
        BASIC
        | {
            "slug": "y",
            "name": text,
            "basic": {"username": text[1:].replace(":", ""), "password": "p"},
        },
    )
    for path in ("", "/x", "/x/edit", "/x/people", "/x/delete", "/y", "/y/edit"):
        page = admin.get(f"/admin/gateways{path}").text
        assert "<script>" not in page and "<img" not in page and 'href="javascript' not in page
        assert "49" not in re.sub(r'"[^"]*"', "", page) or "{{" not in text
    refused = send(admin, NEW, name=text, url=text, description=text)
    assert "<script>" not in refused.text and "<img" not in refused.text


# -- people who would be signed out ----------------------------------------------------------------


@pytest.fixture
def alice_is_connected(app, alice) -> str:
    slug = add(app, KEEPING)
    connect(app, slug, "alice@example.com")
    return slug


def test_nobody_is_signed_out_unasked(app, admin, alice_is_connected):
    url = f"/admin/gateways/{alice_is_connected}/edit"
    assert "1 person is connected." in admin.get(url).text
    page = send(admin, url, audience="x")
    assert errors(page) == {"sign_out": "Saving this signs 1 person out. Tick the box to go on."}
    assert [row.state for row in rows(app, Connection)] == ["active"]
    page = send(admin, url, audience="x", sign_out="y")
    assert "1 person must connect again." in admin.get(page.headers["Location"]).text
    assert [row.state for row in rows(app, Connection)] == ["orphaned"]
    assert "sign_out" not in admin.get(url).text


def test_the_secret_and_the_tick_are_asked_for_together(app, admin, alice_is_connected):
    page = send(admin, f"/admin/gateways/{alice_is_connected}/edit", token_url="https://new.test/")
    assert set(errors(page)) == {"client_secret", "sign_out"}


def test_no_longer_keeping_people_connected_forgets_them(app, admin, alice_is_connected):
    url = f"/admin/gateways/{alice_is_connected}/edit"
    page = send(admin, url, without=("keep_people",), sign_out="y")
    assert page.status_code == 303
    assert not rows(app, Connection)
    management = record_of(app, alice_is_connected)["oauth_config"]["token_management"]
    assert (management["store_tokens"], management["auto_refresh"]) == (False, False)


# -- list, overview, people ------------------------------------------------------------------------


def test_the_first_gateway_is_asked_for(admin):
    page = admin.get("/admin/gateways").text
    assert "No gateways yet" in page and 'href="/admin/gateways/new"' in page


def names(page) -> list[str]:
    return re.findall(r'<a href="/admin/gateways/[^"]*">([^<]*)</a><br>', page.text)


def test_the_list_starts_with_what_needs_someone(app, admin):
    for name in ("code", "keeping", "rare", "shared", "none", "basic"):
        add(app, KINDS[name])
    with app.app_context():
        wiki = gateways.find("wiki")
        wiki.failed_ms, wiki.worked_ms, wiki.failed_code = 90_000, 1, "upstream_timeout"
        db.session.commit()
    page = admin.get("/admin/gateways")
    assert names(page) == ["Wiki", "Keeping", "Billing", "GitHub MCP", "Open", "Slack"]
    for word in ("Failing", "Needs sign-in", "Ready", "Off", "Each person, each call"):
        assert word in page.text
    for step in ("See what failed", "Connect your account", "View tools", "Turn on"):
        assert step in page.text
    assert names(admin.get("/admin/gateways?state=ready")) == ["Billing", "GitHub MCP", "Open"]
    assert names(admin.get("/admin/gateways?q=EXAMPLE.com&state=off")) == []
    assert names(admin.get("/admin/gateways?q=slack.COM")) == ["Slack"]
    nothing = admin.get("/admin/gateways?q=nothing").text
    assert "Nothing fits" in nothing and "Clear filters" in nothing
    connect(app, "keeping", "admin@example.com")
    assert "Keeping" in names(admin.get("/admin/gateways?state=ready"))


def test_the_list_is_paged(app, admin):
    for number in range(27):
        add(app, NONE | {"name": f"Open {number:02}"})
    first, last = admin.get("/admin/gateways?q=open"), admin.get("/admin/gateways?q=open&page=2")
    assert (len(names(first)), names(last)) == (25, ["Open 25", "Open 26"])
    assert "/admin/gateways?q=open&amp;page=2" in first.text
    for odd in ("0", "99", "x", "-1", "²"):
        assert admin.get(f"/admin/gateways?page={odd}").status_code == 200


def test_the_overview_says_what_is_there(app, admin, alice_is_connected):
    with app.app_context():
        gateway = gateways.find(alice_is_connected)
        for number, owner in enumerate(("user:a", "user:b")):
            db.session.add(
                CatalogEntry(
                    gateway_id=gateway.id,
                    owner_key=owner,
                    kind="tool",
                    name="search",
                    position=number,
                    definition={},
                )
            )
        db.session.commit()
    page = admin.get(f"/admin/gateways/{alice_is_connected}").text
    for text in (
        "https://gw.test/mcp/keeping",
        "https://github-mcp.example.com/sse",
        "1 person",
        "1 tool<",
        "repo",
        "kept, encrypted, renewed by themselves",
        "stored, encrypted",
    ):
        assert text in page


def test_the_overview_says_why_calls_fail(app, admin):
    add(app, NONE)
    with app.app_context():
        gateway = gateways.find("open")
        gateway.failed_ms, gateway.failed_code = 90_000, "dns_failed"
        db.session.commit()
    page = admin.get("/admin/gateways/open").text
    assert "There is no server called open.example.com" in page
    assert "/help/errors/dns_failed" in page


def test_people_of_a_gateway_are_listed_without_tokens(app, admin, alice_is_connected):
    page = admin.get(f"/admin/gateways/{alice_is_connected}/people").text
    assert "alice@example.com" in page and "Connected" in page
    add(app, CODE)
    page = admin.get("/admin/gateways/github-mcp/people").text
    assert "Nobody has connected yet" in page and "https://gw.test/connections/github-mcp" in page
    add(app, NONE)
    assert "Nobody signs in here" in admin.get("/admin/gateways/open/people").text


# -- off, on, delete -------------------------------------------------------------------------------


def test_a_gateway_is_switched_off_and_on(app, admin, alice_is_connected):
    url = f"/admin/gateways/{alice_is_connected}"
    page = admin.submit(f"{url}/off", at=url)
    assert page.status_code == 303
    assert "Keeping is off." in admin.get(url).text
    assert [row.is_enabled for row in rows(app, Gateway)] == [False]
    assert [row.state for row in rows(app, Connection)] == ["active"]
    admin.submit(f"{url}/on", at=url)
    assert [row.is_enabled for row in rows(app, Gateway)] == [True]
    actions = [row.action for row in rows(app, AuditEvent)]
    assert actions[-2:] == ["gateway.switched_off", "gateway.switched_on"]


def test_a_deletion_says_first_what_goes(app, admin, alice_is_connected):
    with app.app_context():
        gateway = gateways.find(alice_is_connected)
        token = {"user_id": rows(app, Connection)[0].user_id, "name": "t", "scopes": ["mcp"]}
        db.session.add(ApiToken(token_hash="x", hint="x", gateway_ids=[gateway.id], **token))
        db.session.add(ApiToken(token_hash="y", hint="y", gateway_ids=None, **token))
        db.session.commit()
    url = f"/admin/gateways/{alice_is_connected}/delete"
    page = admin.get(url).text
    assert "1 connection," in page and "1 API token" in page and "Delete Keeping" in page
    assert len(rows(app, Gateway)) == 1
    done = admin.submit(url)
    assert (done.status_code, done.headers["Location"]) == (303, "/admin/gateways")
    assert "Keeping was deleted." in admin.get("/admin/gateways").text
    assert not rows(app, Gateway) + rows(app, Connection) + rows(app, ClientRegistration)


# -- who may ---------------------------------------------------------------------------------------

PAGES = ("", "/new", "/open", "/open/edit", "/open/people", "/open/delete")
POSTS = ("/new", "/open/edit", "/open/off", "/open/on", "/open/delete")


def test_sec_061_nobody_but_admins(app, stranger, alice):
    add(app, NONE)
    before = stored(app)
    for path in PAGES:
        assert alice.get(f"/admin/gateways{path}").status_code == 403
        assert stranger.get(f"/admin/gateways{path}").status_code == 302
    for path in POSTS:
        for browser, statuses in ((alice, (400, 403)), (stranger, (302, 303, 400))):
            page = browser.post(f"/admin/gateways{path}", data={"name": "x"})
            assert page.status_code in statuses
    assert stored(app) == before


def test_sec_052_no_form_without_its_token(app, admin):
    add(app, NONE)
    before = stored(app)
    for path in POSTS:
        assert admin.post(f"/admin/gateways{path}", data={"name": "x"}).status_code == 403
    assert stored(app) == before


def test_an_unknown_gateway_is_a_404(admin):
    for path in PAGES[2:]:
        assert admin.get(f"/admin/gateways{path}").status_code == 404


def test_sec_053_looking_changes_nothing(app, admin):
    add(app, CODE)
    before = stored(app)
    for path in ("", "/new", "/github-mcp", "/github-mcp/edit", "/github-mcp/delete"):
        admin.get(f"/admin/gateways{path}")
    for path in ("/github-mcp/off", "/github-mcp/on"):
        assert admin.get(f"/admin/gateways{path}").status_code == 405
    assert stored(app) == before


def test_how_the_server_before_it_fared_is_forgotten_with_its_url(app, admin):
    add(app, NONE)
    failed = {"failed_ms": 2_000_000, "failed_code": "dns_failed", "worked_ms": 1}
    with app.app_context():
        db.session.execute(sa.update(Gateway).values(**failed))
        db.session.commit()
    send(admin, "/admin/gateways/open/edit", description="the same server")
    assert rows(app, Gateway)[0].failed_code == "dns_failed"
    send(admin, "/admin/gateways/open/edit", url="https://moved.example.com/mcp")
    [gateway] = rows(app, Gateway)
    assert (gateway.failed_ms, gateway.failed_code, gateway.worked_ms) == (None, None, None)
