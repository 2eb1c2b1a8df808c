"""What a sign-in at a provider asks for, believes and leaves, through the front door."""

import base64
import json

import pytest
import sqlalchemy as sa

from app.db import db
from app.models import AuditEvent, ClientRegistration, Connection, User
from app.oauth.client import s256
from tests.conftest import Browser, rows
from tests.oauth import acme
from tests.oauth.acme import GOOD, TOKEN, leave
from tests.security.world import dump
from tests.web.credentials import bearer, token_of
from tests.web.registry import CODE, send


@pytest.mark.parametrize(
    ("configured", "asked"),
    [(["repo", "read:user"], "repo read:user"), (None, None), ([], None)],
)
def test_sec_023_what_is_asked_for_is_what_was_configured(app, alice, provider, configured, asked):
    """And not what the provider might have suggested: nothing is read from it."""
    acme.add(app, scopes=configured, token_management={"store_tokens": True})
    trip = leave(alice)
    assert trip.asked.get("scope") == asked and not provider.called
    shown = trip.page.text
    for scope in configured or ():
        assert f"<code>{scope}</code>" in shown


@pytest.mark.parametrize(
    ("granted", "kept", "missing"),
    [
        ("read", ["read"], ["write"]),
        ("read write admin", ["read", "write", "admin"], []),
        (["read", "write"], ["read", "write"], []),
        (None, ["read", "write"], []),
        ("", [], ["read", "write"]),
    ],
)
def test_sec_019_the_granted_scope_is_kept_and_shown_where_it_differs(
    app, alice, provider, granted, kept, missing
):
    acme.add(app, scopes=["read", "write"])
    provider.post(TOKEN, json=GOOD | {"scope": granted} if granted is not None else GOOD)
    leave(alice).back()
    [connection] = rows(app, Connection)
    assert connection.scopes_granted == kept
    page = alice.get("/connections/acme").text
    for scope in kept:
        assert f"<code>{scope}</code>" in page
    assert ("granted less than was asked for" in page) == bool(missing)


def test_sec_006_with_endpoints_typed_by_hand_s256_is_sent_anyway(app, alice, provider):
    """There is no metadata that could leave it out."""
    acme.add(app)
    provider.post(TOKEN, json=GOOD)
    trip = leave(alice)
    assert trip.asked["code_challenge_method"] == "S256"
    trip.back()
    verifier = dict(pair.split("=") for pair in provider.last_request.text.split("&"))
    assert s256(verifier["code_verifier"]) == trip.asked["code_challenge"]


def test_sec_006_leaving_it_out_is_one_gateways_choice_shown_and_written_down(app, admin, alice):
    acme.add(app)
    acme.add(app, "other")
    assert send(admin, "/admin/gateways/acme/edit", pkce="off").status_code == 303
    page = admin.get("/admin/gateways/acme").text
    assert "PKCE" in page and "PKCE" not in admin.get("/admin/gateways/other").text
    [event] = [row for row in rows(app, AuditEvent) if row.action == "gateway.updated"]
    assert event.details["fields"] == ["oauth_config.pkce"]
    assert "code_challenge" not in leave(alice).asked
    assert leave(alice, "other").asked["code_challenge_method"] == "S256"


def test_sec_026_only_admins_register_a_client_and_its_secret_is_sealed(app, admin, alice):
    token = bearer(token_of(app, "alice@example.com", scopes=["api:write"]))
    refused = alice.client.post(
        "/api/v1/gateways", json=CODE, headers=token, base_url="https://gw.test"
    )
    assert refused.status_code == 403 and alice.get("/admin/gateways/new").status_code == 403
    assert rows(app, ClientRegistration) == []
    fields = {"name": "Mine", "url": acme.NOWHERE, "client_id": "cid", "client_secret": "canary-7f"}
    fields |= {"authorization_url": acme.AUTHORIZE, "token_url": TOKEN}
    assert send(admin, "/admin/gateways/new?template=by-hand", **fields).status_code == 303
    [client] = rows(app, ClientRegistration)
    assert client.client_secret_sealed.startswith("mg1.") and "canary-7f" not in str(dump(app))


def test_sec_027_and_028_we_give_no_codes_and_say_so(app, stranger):
    """There is no OAuth server of ours yet. When there is one, this fails, and asks for proofs."""
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    assert not [rule for rule in rules if "authorize" in rule or rule.endswith("/token")]
    assert "/.well-known/oauth-authorization-server" not in rules
    metadata = stranger.get("/.well-known/oauth-protected-resource/mcp/acme").json
    assert "authorization_servers" not in metadata
    for path in ("/oauth/authorize", "/oauth/token", "/oauth/register"):
        assert stranger.get(path).status_code == 404


def unsigned(alg: str, **claims: object) -> str:
    """An ID token that no one signed, as a hostile or broken provider sends it."""
    head = {"alg": alg, "jku": "https://evil.test/keys", "kid": "../../etc/passwd"}
    parts = [
        base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in (head, claims)
    ]
    return b".".join([*parts, b"c2lnbmF0dXJl" if alg != "none" else b""]).decode()


@pytest.mark.parametrize("alg", ["none", "HS256", "RS256"])
def test_sec_030_an_id_token_gives_a_name_to_show_and_decides_nothing(
    app, admin, alice, provider, alg
):
    """Whoever it says it is: the sign-in stays Alice's, and nobody becomes anybody."""
    acme.add(app, account_path=["email"])
    claims = {
        "iss": "https://evil.test",
        "aud": "somebody-else",
        "sub": "admin@example.com",
        "email": "admin@example.com<script>",
        "exp": 1,
        "role": "admin",
    }
    provider.post(TOKEN, json=GOOD | {"id_token": unsigned(alg, **claims)})
    before = {name: kept for name, kept in dump(app).items() if name == "user_account"}
    assert leave(alice).back().location == "/connections/acme"
    [connection] = rows(app, Connection)
    [mine] = [user.id for user in rows(app, User) if user.email == "alice@example.com"]
    assert (connection.user_id, connection.state) == (mine, "active")
    assert connection.account_label == "admin@example.com<script>"
    page = alice.get("/connections/acme").text
    assert "admin@example.com&lt;script&gt;" in page and "<script>" not in page.split("</head>")[1]
    assert alice.get("/admin/users").status_code == 403
    assert {name: kept for name, kept in dump(app).items() if name == "user_account"} == before
    assert provider.call_count == 1  # no key set was fetched from where it says


def test_sec_002_and_003_a_link_that_somebody_else_began_is_no_way_in(app, alice, bob, provider):
    """Bob begins, and sends Alice the provider's address: her tokens do not land with him."""
    acme.add(app)
    provider.post(TOKEN, json=GOOD)
    his = leave(bob)
    page = his.back(by=alice)
    assert page.status_code == 400 and "wrong_browser" in page.text
    assert rows(app, Connection) == [] and not provider.called
    assert his.back(by=Browser(app)).status_code == 401
    with app.app_context():
        owner = sa.select(sa.func.count()).select_from(Connection)
        assert db.session.scalar(owner) == 0
