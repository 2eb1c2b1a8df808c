"""A real provider that registers us, and one of its clients that is known by our key."""

import json


def test_a_provider_registers_us_and_reads_our_key(oidc, mcp, gateway_server, probe, tmp_path):
    """Nobody types an id, a secret or a key: npm oidc-provider gives them, or fetches ours."""
    node = gateway_server()
    machine = {
        "client_id": "machine",
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks_uri": f"{node.url}/oauth/jwks.json",
        "grant_types": ["client_credentials"],
        "redirect_uris": [],
        "response_types": [],
    }
    (tmp_path / "clients.json").write_text(json.dumps([machine]))
    op = oidc(clients=str(tmp_path / "clients.json"))
    server = mcp(issuer=op.url)
    op.debug("config", {"resources": [server.url]})
    admin = node.admin()
    token = node.token()

    node.flask("gateways", "add", "--url", server.url, "--name", "Rig")
    page = admin.connect("rig", user="alice", password="alice-pw", allow=True)
    assert "is connected" in page.text
    assert "alice" in probe(f"{node.url}/mcp/rig", "whoami", token=token)["text"]
    asked = op.debug("stats")
    assert asked["http"]["POST /reg"] == 1 and asked["token"]["ok"] == {"authorization_code": 1}

    config = {
        "grant_type": "client_credentials",
        "issuer": op.url,
        "token_url": f"{op.url}/token",
        "client_id": "machine",
        "client_private_key": "generate",
        "token_endpoint_auth_method": "private_key_jwt",
        "scopes": ["mcp:tools"],
    }
    record = {"name": "Signed", "slug": "signed", "url": server.url, "auth_type": "oauth"}
    node.flask("gateways", "add", "-", stdin=json.dumps(record | {"oauth_config": config}))
    assert "machine" in probe(f"{node.url}/mcp/signed", "whoami", token=token)["text"]
    asked = op.debug("stats")["token"]
    assert asked["ok"].get("client_credentials") and not asked["error"]

    node.flask("gateways", "delete", "rig", "--yes")
    node.flask("housekeeping", "run", "--once", "clients")
    assert op.debug("stats")["http"]["DELETE /reg/*"] == 1
