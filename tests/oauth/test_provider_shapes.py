"""Each provider's own way, at the wire: a whole consent with its template, and every quirk."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import sqlalchemy as sa

from app.db import db
from app.errors import ProviderError
from app.models import Connection, OAuthConfig
from app.oauth import templates
from app.oauth.client import OAuthClient, Registration
from app.specs import OAuthConfigSpec
from tests.conftest import rows
from tests.oauth.acme import KEPT, NOWHERE, leave
from tests.oauth.test_replies import jwt
from tests.web import registry

TENANT = "00000000-1111-2222-3333-444444444444"
ENTRA = {"tenant": TENANT, "app": "api://the-app"}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a provider is sent, and what it says."""

    asked: dict[str, str]  # in the authorization request
    never: tuple[str, ...] = ()  # there, or in a token request
    first: dict[str, Any]  # its answer to the code
    then: dict[str, Any]  # its answer to the first refresh token
    dead: tuple[int, dict[str, Any]]  # its answer when the grant is over
    refresh_tokens: tuple[str, str]  # sent with the first refresh, and with the second
    granted: list[str]
    account: str | None
    seconds: int | None
    how: str  # basic, post
    refreshed_at: str | None = None  # where not at the token URL
    userinfo: dict[str, Any] = field(default_factory=dict)
    revoked: tuple[str, str] | None = None  # method and URL
    says: str = "Revoked at"
    as_json: bool = False
    values: dict[str, str] = field(default_factory=dict)
    api: bool = False
    more: dict[str, Any] = field(default_factory=dict)


SHAPES = {
    "github": Shape(
        asked={"scope": "repo read:user", "code_challenge_method": "S256"},
        first={
            **{"access_token": "ghu_1", "token_type": "bearer", "scope": "repo,read:user"},
            **{"expires_in": 28800, "refresh_token": "ghr_1", "refresh_token_expires_in": 15897600},
        },
        then={"access_token": "ghu_2", "token_type": "bearer", "refresh_token": "ghr_2"},
        dead=(200, {"error": "bad_refresh_token", "error_description": "incorrect or expired"}),
        refresh_tokens=("ghr_1", "ghr_2"),
        granted=["read:user", "repo"],
        account="ana",
        seconds=28800,
        how="post",
        userinfo={"login": "ana", "id": 7},
        revoked=("DELETE", "https://api.github.com/applications/cid/token"),
    ),
    "slack": Shape(
        asked={"user_scope": "search:read,chat:write", "code_challenge_method": "S256"},
        never=("scope",),
        first={
            **{"ok": True, "app_id": "A1", "team": {"id": "T1", "name": "Acme"}},
            "authed_user": {
                **{"id": "U1", "scope": "search:read,chat:write", "access_token": "xoxe.xoxp-1"},
                **{"token_type": "user", "expires_in": 43200, "refresh_token": "xoxe-1"},
            },
        },
        then={
            **{"ok": True, "access_token": "xoxe.xoxp-2", "token_type": "user"},
            **{"expires_in": 43200, "refresh_token": "xoxe-2", "user_id": "U1"},
        },
        dead=(200, {"ok": False, "error": "invalid_refresh_token"}),
        refresh_tokens=("xoxe-1", "xoxe-2"),
        granted=["chat:write", "search:read"],
        account="U1",
        seconds=43200,
        how="post",
        revoked=("POST", "https://slack.com/api/auth.revoke"),
        more={"scopes": ["search:read", "chat:write"]},
    ),
    "entra": Shape(
        asked={"scope": "api://the-app/.default offline_access"},
        never=("resource",),
        first={
            **{"access_token": "ey.1", "token_type": "Bearer", "expires_in": 4131},
            **{"scope": "api://the-app/mcp", "ext_expires_in": 4131, "refresh_token": "0.1"},
        },
        then={"access_token": "ey.2", "token_type": "Bearer", "expires_in": 3700}
        | {"refresh_token": "0.2"},
        dead=(
            400,
            {"error": "invalid_grant", "error_description": "AADSTS700082: It has expired."},
        ),
        refresh_tokens=("0.1", "0.2"),
        granted=["api://the-app/mcp"],
        account=None,
        seconds=4131,
        how="post",
        says="You find it at https://myapps.microsoft.com.",
        values=ENTRA,
    ),
    "notion": Shape(
        asked={"owner": "user"},
        never=("scope",),
        first={
            **{"access_token": "ntn_1", "token_type": "bearer", "refresh_token": "nrt_1"},
            **{"bot_id": "b", "workspace_name": "Acme", "expires_in": None},
            "owner": {"type": "user", "user": {"object": "user", "name": "Ana"}},
        },
        then={"access_token": "ntn_2", "token_type": "bearer", "refresh_token": "nrt_2"},
        dead=(400, {"error": "invalid_grant"}),
        refresh_tokens=("nrt_1", "nrt_2"),
        granted=[],
        account="Ana",
        seconds=None,
        how="basic",
        as_json=True,
        revoked=("POST", "https://api.notion.com/v1/oauth/revoke"),
        api=True,
    ),
    "figma": Shape(
        asked={"scope": "file_content:read,file_comments:write"},
        first={
            **{"user_id_string": "1", "access_token": "figu_1", "token_type": "bearer"},
            **{"expires_in": 7776000, "refresh_token": "figur_1"},
        },
        then={"access_token": "figu_2", "token_type": "bearer", "expires_in": 7776000},
        dead=(400, {"error": "invalid_grant"}),
        refresh_tokens=("figur_1", "figur_1"),
        granted=["file_comments:write", "file_content:read"],
        account=None,
        seconds=7776000,
        how="basic",
        refreshed_at="https://api.figma.com/v1/oauth/refresh",
        says="remove this app there",
        api=True,
        more={"scopes": ["file_content:read", "file_comments:write"]},
    ),
    "google": Shape(
        asked={"scope": "openid email", "access_type": "offline", "prompt": "consent"},
        first={
            **{"access_token": "ya29.1", "token_type": "Bearer", "expires_in": 3599},
            **{"refresh_token": "1//1", "id_token": "x.y.z", "scope": "openid email"},
        },
        then={"access_token": "ya29.2", "token_type": "Bearer", "expires_in": 3599},
        dead=(400, {"error": "invalid_grant", "error_description": "expired or revoked."}),
        refresh_tokens=("1//1", "1//1"),
        granted=["email", "openid"],
        account="ana@gmail.test",
        seconds=3599,
        how="basic",
        userinfo={"email": "ana@gmail.test", "sub": "7"},
        revoked=("POST", "https://oauth2.googleapis.com/revoke"),
    ),
}


def members(sent: Any, *, as_json: bool) -> dict[str, str]:
    if as_json:
        assert sent.headers["Content-Type"] == "application/json"
        return dict(sent.json())
    return dict(parse_qsl(sent.text, keep_blank_values=True))


def assert_shows_itself(sent: Any, shape: Shape) -> None:
    given = members(sent, as_json=shape.as_json)
    if shape.how == "post":
        assert (given["client_id"], given["client_secret"]) == ("cid", "s3cret")
        assert "Authorization" not in sent.headers
    else:
        pair = base64.b64encode(b"cid:s3cret").decode()
        assert sent.headers["Authorization"] == f"Basic {pair}" and "client_secret" not in given
    assert not given.keys() & set(shape.never)


def add(app, name: str, shape: Shape) -> None:
    patch = templates.fill(name, shape.values, api=shape.api)
    own = templates.find(name).redirect == "own"
    client = {"client_id": "cid", "client_secret": "s3cret", "token_management": KEPT}
    if own:
        client["redirect_uri"] = f"https://gw.test/oauth/callback/{name}"
    record = {"name": name, "url": NOWHERE, "auth_type": "oauth"}
    registry.add(app, record | {"oauth_config": patch["oauth_config"] | client | shape.more})


def renew(app, browser, name: str) -> Connection:
    """Press Refresh now, as if the last time was long ago."""
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.update(Connection).values(forced_ms=0, not_before_ms=0))
    browser.submit(f"/connections/{name}/refresh", at=f"/connections/{name}")
    return rows(app, Connection)[0]


@pytest.mark.parametrize("name", SHAPES)
def test_provider_shape(app, alice, provider, name):
    """From Connect to tokens, renewed, ended by the provider, connected again, and revoked."""
    shape = SHAPES[name]
    add(app, name, shape)
    spec = OAuthConfigSpec.model_validate(rows(app, OAuthConfig)[0].settings)
    token = provider.post(spec.token_url, json=shape.first)
    if shape.userinfo:
        provider.get(spec.userinfo_url, json=shape.userinfo)
    trip = leave(alice, name)
    assert shape.asked.items() <= trip.asked.items()
    assert not trip.asked.keys() & set(shape.never)
    path = urlsplit(trip.asked["redirect_uri"]).path
    assert trip.back(path).status_code == 303

    [code] = token.request_history
    assert_shows_itself(code, shape)
    given = members(code, as_json=shape.as_json)
    assert given["redirect_uri"] == trip.asked["redirect_uri"] and given["code_verifier"]
    assert given.get("resource") == trip.asked.get("resource")
    [held] = rows(app, Connection)
    assert (held.state, held.account_label) == ("active", shape.account)
    assert sorted(held.scopes_granted) == shape.granted
    life = held.expires_ms and (held.expires_ms - held.issued_ms) / 1000
    assert life == shape.seconds

    again = provider.post(shape.refreshed_at or spec.token_url, json=shape.then)
    assert renew(app, alice, name).state == "active"
    sent = again.request_history[-1]
    assert_shows_itself(sent, shape)
    assert members(sent, as_json=shape.as_json)["refresh_token"] == shape.refresh_tokens[0]
    assert members(sent, as_json=shape.as_json).get("resource") == trip.asked.get("resource")

    status, body = shape.dead
    over = provider.post(shape.refreshed_at or spec.token_url, status_code=status, json=body)
    held = renew(app, alice, name)
    sent = over.request_history[-1]
    assert members(sent, as_json=shape.as_json)["refresh_token"] == shape.refresh_tokens[1]
    assert (held.state, held.reason) == ("needs_reauth", "grant_ended")

    provider.post(spec.token_url, json=shape.first)
    assert leave(alice, name).back(path).status_code == 303
    ended = None
    if shape.revoked is not None:
        ended = provider.request(*shape.revoked, json={"ok": True})
    alice.submit(f"/connections/{name}/disconnect", at=f"/connections/{name}")
    assert shape.says in alice.get(f"/connections/{name}").text
    assert ended is None or ended.called
    assert rows(app, Connection)[0].state == "revoked"


# -- quirks --------------------------------------------------------------------------------------


def us(template_id: str, *, api: bool = False, kept: Any = KEPT, **more: Any) -> OAuthClient:
    """A client with a template's config, filled with its examples."""
    template = templates.find(template_id)
    values = {name: var.example for name, var in template.asks(api=api).items()}
    chosen = templates.fill(template_id, values, api=api)["oauth_config"]
    addresses = {"authorization_url": "https://as.test/go", "token_url": "https://as.test/token"}
    spec = OAuthConfigSpec.model_validate(addresses | chosen | {"token_management": kept} | more)
    return OAuthClient(
        Registration(
            client_id="cid",
            client_secret="s3cret",
            auth_method=spec.token_endpoint_auth_method,
            authorization_url=spec.authorization_url,
            token_url=spec.token_url or "",
            refresh_url=spec.refresh_url,
            redirect_uri="https://gw.test/oauth/callback",
            timeout_s=10.0,
            retries=0,
            spec=spec,
        )
    )


def leaving(client: OAuthClient, scopes=("a", "b")) -> dict[str, str]:
    url = client.authorize_url(state="st", verifier="v" * 64, scopes=scopes, resource=None)
    return {name: value for name, [value] in parse_qs(urlsplit(url).query).items()}


def refused(client: OAuthClient, request: str = "exchange") -> tuple[str, str]:
    with pytest.raises(ProviderError) as caught:
        if request == "exchange":
            client.exchange("c", verifier="v" * 64, resource=None)
        else:
            client.refresh("r", resource=None)
    return caught.value.code, caught.value.kind


def in_ctx(test):
    return pytest.mark.usefixtures("app_ctx")(test)


WORDS = [
    (one.id, word, code, api)
    for one in templates.every().values()
    for word, code in one.errors.items()
    for api in ([False, True] if one.api is not None else [False])
]


@in_ctx
@pytest.mark.parametrize(("template_id", "word", "code", "api"), WORDS)
def test_quirk_words_of_a_provider_mean_our_codes(provider, template_id, word, code, api):
    """With the status that it really comes with: 200 at GitHub and Slack, 400 at Entra."""
    client = us(template_id, api=api)
    if word.startswith("AADSTS"):
        answer = {"status_code": 400, "json": {"error": "invalid_grant"}}
        answer["json"]["error_description"] = f"{word}: something is so."
    else:
        answer = {"json": {"ok": False, "error": word}}
    provider.post(client.registration.token_url, **answer)
    request = "refresh" if code == "grant_ended" else "exchange"
    found, kind = refused(client, request)
    assert found == code
    assert (kind == "dead") == (code == "grant_ended")


@in_ctx
def test_quirk_github_form_encoding_is_read_too(provider):
    client = us("github")
    body = "access_token=gho_1&scope=repo%2Cread%3Auser&token_type=bearer"
    provider.post(client.registration.token_url, text=body, headers={"Content-Type": "text/plain"})
    got = client.exchange("c", verifier="v" * 64, resource=None)
    assert (got.access_token, got.scopes, got.expires_in) == (
        "gho_1",
        ("repo", "read:user"),
        None,
    )
    assert provider.last_request.headers["Accept"] == "application/json"


@in_ctx
@pytest.mark.parametrize(
    ("template_id", "name", "value"),
    [("google", "access_type", "offline"), ("dropbox", "token_access_type", "offline")],
)
def test_quirk_google_and_dropbox_want_a_parameter_for_a_refresh_token(template_id, name, value):
    assert leaving(us(template_id))[name] == value
    assert name not in leaving(us(template_id, kept={"store_tokens": True}))
    assert name not in leaving(us(template_id, kept={}))


def test_quirk_google_offline_access_is_never_asked_for():
    offline = templates.find("google").config["offline"]
    assert offline["scopes"] == [] and "offline_access" not in templates.find("google").config


def test_quirk_google_one_token_ends_all():
    google = templates.fill("google", {})["oauth_config"]
    others = [templates.find(name).settings() for name in ("github", "entra", "slack")]
    assert google["revocation_ends_all"] is True
    assert not any("revocation_ends_all" in one for one in others)


@in_ctx
def test_quirk_entra_has_the_tenant_everywhere_and_no_resource():
    spec = us("entra").registration.spec
    for url in (spec.issuer, spec.authorization_url, spec.token_url):
        assert urlsplit(url).path.startswith(f"/{TENANT}/")
    assert (spec.resource, spec.pkce, spec.assertion_audience) == (
        *("never", "unadvertised"),
        "token_url",
    )


@in_ctx
def test_quirk_atlassian_api_wants_an_audience_and_consent_each_time():
    asked = leaving(us("atlassian", api=True))
    assert (asked["audience"], asked["prompt"]) == ("api.atlassian.com", "consent")


@in_ctx
@pytest.mark.parametrize(("template_id", "param"), [("slack", "user_scope"), ("linear", "scope")])
def test_quirk_slack_and_linear_join_scopes_by_commas(template_id, param):
    asked = leaving(us(template_id, api=template_id == "linear"))
    assert asked[param] == "a,b" and ("scope" in asked) == (param == "scope")


@in_ctx
@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ({"ok": False}, "reply_unreadable"),
        ({"ok": False, "error": "internal_error"}, "token_request_rejected"),
    ],
)
def test_quirk_slack_a_failure_has_status_200(provider, reply, code):
    client = us("slack")
    provider.post(client.registration.token_url, json=reply)
    assert refused(client)[0] == code


@in_ctx
def test_quirk_notion_wants_json_and_its_redirect_uri(provider):
    client = us("notion", api=True)
    provider.post(client.registration.token_url, json={"access_token": "a", "token_type": "bearer"})
    client.exchange("c", verifier="v" * 64, resource=None)
    sent = provider.last_request
    assert sent.json()["redirect_uri"] == "https://gw.test/oauth/callback"
    assert sent.headers["Authorization"].startswith("Basic ")


@in_ctx
def test_quirk_linear_says_bearer_and_gets_bearer_with_a_capital(provider):
    client = us("linear", api=True)
    provider.post(client.registration.token_url, json={"access_token": "a", "token_type": "bearer"})
    assert client.exchange("c", verifier="v" * 64, resource=None).warnings == ()


def test_quirk_gitlab_is_at_its_own_host():
    patch = templates.fill("gitlab", {"host": "git.acme.test:8443"})
    assert patch["url"] == "https://git.acme.test:8443/api/v4/mcp"
    assert patch["oauth_config"]["issuer"] == "https://git.acme.test:8443"


@in_ctx
def test_quirk_auth0_issuer_ends_in_a_slash_and_the_audience_is_sent():
    client = us("auth0")
    assert client.registration.spec.issuer == "https://acme.eu.auth0.com/"
    assert leaving(client)["audience"] == "https://api.example.com/"


def test_quirk_okta_wants_its_token_url_in_an_assertion():
    okta = templates.fill("okta", {"domain": "acme.okta.com", "as": "default"})["oauth_config"]
    assert okta["assertion_audience"] == "token_url"
    assert okta["issuer"] == "https://acme.okta.com/oauth2/default"


@in_ctx
def test_quirk_keycloak_tells_how_long_a_refresh_token_lives(provider):
    client = us("keycloak")
    good = {"access_token": "a", "token_type": "Bearer", "expires_in": 300, "refresh_token": "r"}
    provider.post("https://as.test/token", json=good | {"refresh_expires_in": 1800})
    assert client.exchange("c", verifier="v" * 64, resource=None).refresh_expires_in == 1800
    provider.post("https://as.test/token", json=good | {"refresh_expires_in": 0})
    assert client.exchange("c", verifier="v" * 64, resource=None).refresh_expires_in is None


@pytest.mark.parametrize("base", ["https://sso.test", "https://sso.test/auth"])
def test_quirk_keycloak_old_versions_have_a_path(base):
    given = {"base": base, "realm": "acme"}
    issuer = templates.fill("keycloak", given)["oauth_config"]["issuer"]
    assert issuer == f"{base}/realms/acme"


@in_ctx
def test_quirk_salesforce_names_no_lifetime(provider):
    client = us("salesforce")
    url = client.registration.token_url
    provider.post(url, json={"access_token": "00D!x", "token_type": "Bearer"})
    assert client.exchange("c", verifier="v" * 64, resource=None).expires_in is None
    token = jwt(exp=4_000_000_000)  # more than a year ahead: not believed
    provider.post(url, json={"access_token": token, "token_type": "Bearer"})
    assert client.exchange("c", verifier="v" * 64, resource=None).expires_in is None
    assert templates.find("salesforce").config["offline"]["scopes"] == ["refresh_token"]


@in_ctx
@pytest.mark.parametrize("api", [False, True])
def test_quirk_hubspot_takes_no_basic_also_while_refreshing(provider, api):
    client = us("hubspot", api=api)
    provider.post(client.registration.token_url, json={"access_token": "a", "token_type": "bearer"})
    client.refresh("r", resource=None)
    sent = dict(parse_qsl(provider.last_request.text))
    assert "Authorization" not in provider.last_request.headers
    assert (sent["client_id"], sent["client_secret"]) == ("cid", "s3cret")


@in_ctx
def test_quirk_figma_refreshes_at_an_address_of_its_own(provider):
    client = us("figma", api=True)
    there = provider.post(
        "https://api.figma.com/v1/oauth/refresh",
        json={"access_token": "a", "token_type": "bearer"},
    )
    assert client.refresh("r", resource=None).refresh_token == "r"
    assert there.call_count == 1 == provider.call_count


def test_quirk_figma_demands_the_secret_its_metadata_denies():
    assert templates.find("figma").config["token_endpoint_auth_method"] == "post"


def test_quirk_oidc_adds_no_scope_of_its_own():
    people = templates.fill("oidc", {"issuer": "https://sso.test/a"})["oauth_config"]
    machine = templates.fill("oidc-machine", {"token_url": "https://sso.test/t"})["oauth_config"]
    assert people["scopes"] is None and machine["scopes"] is None
    assert machine["grant_type"] == "client_credentials"
    assert json.dumps(people).count("openid") == 0
