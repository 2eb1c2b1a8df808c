"""After Disconnect a real provider says itself that the grant is dead (RFC 7009, RFC 7662)."""

from __future__ import annotations

import json

import requests
import sqlalchemy as sa

from app.secretbox import SecretBox, Where
from tests.e2e.gateway import Gateway

KEPT = {"store_tokens": True, "auto_refresh": True}
NAMES = ("refresh_token", "access_token")


def held(node: Gateway) -> dict[str, str]:
    """The tokens of the one living connection, opened with the node's own key."""
    box = SecretBox([node.env["AUTH_ENCRYPTION_SECRET"]])
    sealed = ", ".join(f"{name}_sealed" for name in NAMES)
    query = f"SELECT id, owner_key, {sealed} FROM connection WHERE state = 'active'"  # noqa: S608
    engine = sa.create_engine(node.env["DATABASE_URL"])
    with engine.connect() as link:
        row = link.execute(sa.text(query)).mappings().one()
    engine.dispose()
    where = {
        name: Where("connection", row["id"], f"{name}_sealed", row["owner_key"]) for name in NAMES
    }
    return {name: box.open(row[f"{name}_sealed"], where=where[name]) for name in NAMES}


def test_sec_025_the_provider_itself_says_that_both_tokens_are_dead(oidc, mcp, gateway_server):
    op, node = oidc(format="opaque"), gateway_server()
    server, admin = mcp(issuer=op.url), node.admin()
    op.debug("config", {"resources": [server.url], "redirects": [f"{node.url}/oauth/callback"]})

    def is_alive(token: str) -> bool:
        asked = requests.post(
            f"{op.url}/token/introspection",
            data={"token": token},
            auth=("rs", "rs-secret"),
            timeout=10,
        )
        return bool(asked.json()["active"])

    def connected() -> dict[str, str]:
        assert "is connected" in admin.connect("rig", user="alice", password="alice-pw").text
        tokens = held(node)
        assert [is_alive(token) for token in tokens.values()] == [True, True]
        return tokens

    config = {
        "grant_type": "authorization_code",
        "client_id": "gateway",
        "client_secret": "gateway-secret",
        "issuer": op.url,
        "authorization_url": f"{op.url}/auth",
        "token_url": f"{op.url}/token",
        "revocation_url": f"{op.url}/token/revocation",
        "scopes": ["mcp:tools"],
        "token_management": KEPT,
    }
    record = {"name": "rig", "url": server.url, "auth_type": "oauth", "oauth_config": config}
    node.flask("gateways", "add", "-", stdin=json.dumps(record))

    # The person's own button.
    tokens = connected()
    page = admin.submit(admin.at("/connections/rig"), action="/connections/rig/disconnect")
    assert "rig is disconnected. Revoked at" in page.text
    assert [is_alive(token) for token in tokens.values()] == [False, False]

    # The JSON API.
    tokens = connected()
    scopes = ("--scope", "api:read", "--scope", "api:write")
    made = node.flask("tokens", "create", "admin@example.com", "--name", "tests", *scopes)
    headers = {"Authorization": f"Bearer {made.split()[-1]}"}
    listed = requests.get(f"{node.url}/api/v1/connections", headers=headers, timeout=10)
    [mine] = listed.json()["connections"]
    url = f"{node.url}/api/v1/connections/{mine['id']}"
    assert requests.delete(url, headers=headers, timeout=30).json()["at_provider"] == "revoked"
    assert [is_alive(token) for token in tokens.values()] == [False, False]

    # The gateway is deleted: what it held is ended by the housekeeper, as the client it had.
    tokens = connected()
    going = admin.at("/admin/gateways/rig/delete")
    assert "rig was deleted" in admin.submit(going, action="/admin/gateways/rig/delete").text
    node.flask("housekeeping", "run", "--once", "revocations")
    assert [is_alive(token) for token in tokens.values()] == [False, False]
