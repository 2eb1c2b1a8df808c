"""The rigs work without us: what fails here is not the gateway's fault."""

import json
import re

import requests

from demo.visitor import Visitor

WELL_KNOWN = "/.well-known/oauth-authorization-server"
BACK = "http://127.0.0.1:9/callback"  # nobody listens there


def machine_token(op, server):
    asks = {"grant_type": "client_credentials", "scope": "mcp:tools", "resource": server.url}
    answer = requests.post(f"{op.url}/token", data=asks, auth=("machine", "machine-secret"))
    return answer.json()["access_token"]


def test_the_sdk_client_calls_the_sdk_server_with_the_providers_token(oidc, mcp, probe):
    op = oidc()
    server = mcp(issuer=op.url)
    op.debug("config", {"resources": [server.url]})
    token = machine_token(op, server)
    assert requests.post(server.url, json={}).status_code == 401
    for mode, version in (("auto", "2026-07-28"), ("legacy", "2025-11-25")):
        said = probe(server.url, "whoami", token=token, mode=mode)
        assert said["version"] == version
        assert json.loads(said["text"])["sub"] == "machine"


def test_a_visitor_signs_in_and_says_yes_or_no(oidc, mcp):
    op = oidc()
    server = mcp(issuer=op.url)
    op.debug("config", {"resources": [server.url], "redirects": [BACK]})
    challenge = "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    asks = f"client_id=gateway&response_type=code&redirect_uri={BACK}&scope=mcp:tools&{challenge}"
    for allow, brings in ((True, "code="), (False, "error=access_denied")):
        somebody = Visitor()
        start = somebody.get(f"{op.url}/auth?{asks}&code_challenge_method=S256", follow=False)
        back = somebody.consent(start, BACK, user="alice", password="alice-pw", allow=allow)
        assert brings in back


def test_the_old_transport_answers(everything_sse, probe):
    assert probe(everything_sse.url, "echo", '{"message":"hé"}', sse=True)["text"] == "Echo: hé"


def metadata(server, path):
    """Of the server's sign-in, as its challenge leads there."""
    challenge = requests.post(server.url, json={}).headers["WWW-Authenticate"]
    resource = requests.get(re.search(r'resource_metadata="([^"]+)"', challenge)[1]).json()
    assert resource["resource"] == server.url
    [issuer] = resource["authorization_servers"]
    return requests.get(issuer.rstrip("/") + path).json()


def test_the_python_sdks_example_pair_signs_its_user_in(simple_auth, probe):
    said = probe(simple_auth.url, "get_time", oauth="demo_user:demo_password")
    assert "current_time" in json.loads(said["text"])
    about = metadata(simple_auth, WELL_KNOWN)
    assert about["issuer"].endswith("/") and "registration_endpoint" in about


def test_fastmcp_lets_everybody_in(fastmcp, probe):
    said = probe(fastmcp.url, "whoami", oauth="nobody:is-asked")
    assert said["text"].endswith("with mcp:tools")
    assert metadata(fastmcp, WELL_KNOWN)["issuer"].endswith("/")


def test_the_typescript_sdks_example_names_its_authorization_server(ts_oauth):
    about = metadata(ts_oauth, WELL_KNOWN)
    assert about["issuer"].endswith("/") and "registration_endpoint" in about


def test_chromium_reaches_the_provider(oidc, page):
    op = oidc()
    page.goto(f"{op.url}/.well-known/openid-configuration")
    assert op.url in page.content()
