"""From a pasted URL to a sign-in, as an admin and then a person meet it."""

import re
from urllib.parse import parse_qs, urlsplit

from app.models import ClientRegistration, Flow, OAuthConfig
from tests.conftest import rows
from tests.oauth.published import published
from tests.upstream import says
from tests.web.registry import script

__all__ = ["published"]  # the fixture


KEEPS = {
    "name": "Jira",
    "auth_type": "oauth",
    "oauth_config": {"token_management": {"store_tokens": True}},
}


def registers(seen):
    """A provider that makes clients (RFC 7591)."""
    asked = seen.json
    return says(asked | {"client_id": "made-1", "token_endpoint_auth_method": "none"}, 201)


# -- connecting ------------------------------------------------------------------------------------


def test_the_first_connect_registers_us_and_leaves_for_the_published_provider(
    app, admin, published
):
    server, provider = published()
    provider.pages["/register"] = registers
    admins = script(app, "other@example.com")
    slug = admins.ask("POST", body=KEEPS | {"url": server.url}).json["slug"]
    page = admin.submit(f"/oauth/connect/{slug}", at=f"/connections/{slug}")
    assert page.status_code == 200, page.text
    assert f"Going to <strong>{provider.origin.removeprefix('http://')}</strong>" in page.text
    onward = re.search(r'http-equiv="refresh" content="0;url=([^"]+)', page.text)[1]
    sent = urlsplit(admin.get(onward.replace("&amp;", "&")).headers["Location"])
    query = {name: values[0] for name, values in parse_qs(sent.query).items()}
    assert sent.path == "/authorize" and query["client_id"] == "made-1"
    assert query["resource"] == server.url and query["code_challenge_method"] == "S256"
    client = rows(app, ClientRegistration)[0]
    assert client.kind == "dcr" and rows(app, OAuthConfig)[0].registration_id == client.id
    record = admins.ask("GET", f"/{slug}").json
    assert "client_id" not in record["oauth_config"]
    assert record["found"]["client"] == {"kind": "dcr", "client_id": "made-1"}
    edited = admins.ask("PUT", f"/{slug}", record)
    assert edited.json == record | {"notices": [], "signed_out": 0}


def test_a_provider_that_refuses_to_register_us_is_a_page_that_says_so(app, admin, published):
    server, provider = published()
    admins = script(app, "other@example.com")
    slug = admins.ask("POST", body=KEEPS | {"url": server.url}).json["slug"]
    provider.pages["/register"] = 403
    page = admin.submit(f"/oauth/connect/{slug}", at=f"/connections/{slug}")
    assert page.status_code == 409, page.text
    assert "registration_refused" in page.text
    assert not rows(app, Flow)
