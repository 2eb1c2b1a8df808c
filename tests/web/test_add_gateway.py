"""From a pasted URL to a sign-in, as an admin and then a person meet it."""

import re
from urllib.parse import parse_qs, urlsplit

from app import cleanup, drafts, people
from app.db import db
from app.models import ClientRegistration, Flow, Gateway, GatewayDraft, OAuthConfig
from app.oauth import templates
from tests.conftest import person, rows
from tests.oauth.published import published
from tests.upstream import says
from tests.web.registry import CANARY, drawn, script, send

__all__ = ["published"]  # the fixture


HAND = "/admin/gateways/new?template=by-hand"
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


# -- the pages -------------------------------------------------------------------------------------


def paste(admin, url):
    return admin.submit("/admin/gateways/new", url=url)


def test_a_pasted_url_needs_no_other_field(app, admin, published):
    server, provider = published()
    there = provider.origin.removeprefix("http://")
    pasted = paste(admin, server.url)
    assert pasted.status_code == 303 and not rows(app, Gateway)
    second = pasted.headers["Location"]
    page = admin.get(second).text
    assert f"This server uses OAuth at <strong>{there}</strong>" in page
    assert "registers us by itself. Nothing to fill in." in page
    assert f"People will be sent to {there}. Go on only if you trust it." in page
    assert page.count("Save and test") == 2  # one needs no scrolling
    saved = send(admin, second)
    assert saved.status_code == 303, saved.text
    assert re.search(r"/admin/gateways/[^/]+/checks/", saved.headers["Location"])
    config = rows(app, OAuthConfig)[0]
    assert config.token_url == f"{provider.origin}/token" and config.settings["token_url"] is None
    assert config.settings["token_management"]["auto_refresh"] is True
    assert not rows(app, GatewayDraft)


def test_a_client_id_is_asked_for_where_nobody_registers_us(app, admin, published):
    server, provider = published()
    provider.publish(registration_endpoint=...)
    second = paste(admin, server.url).headers["Location"]
    page = admin.get(second).text
    assert "It wants a client ID" in page and page.count("Save and test") == 1
    refused = send(admin, second, name="Jira")
    assert refused.status_code == 422 and not rows(app, Gateway)
    assert "Enter the client ID you got from the provider." in refused.text
    saved = send(admin, second, name="Jira", client_id="app-1", client_secret="s")
    assert saved.status_code == 303, saved.text
    assert rows(app, ClientRegistration)[0].issuer == provider.issuer


def test_a_url_where_nobody_is_at_home_stays_in_its_field_and_can_be_kept(app, admin, published):
    server, _ = published()
    server.server.stop()
    refused = paste(admin, server.url)
    assert refused.status_code == 422 and "is not taking calls now" in refused.text
    assert f'value="{server.url}"' in refused.text and "Save as draft" in refused.text
    kept = admin.submit("/admin/gateways/new", url=server.url, save="draft")
    assert kept.status_code == 303
    listed = admin.get("/admin/gateways").text
    assert "Draft" in listed and rows(app, GatewayDraft)[0].id in listed


def test_a_server_that_does_not_say_how_leads_on_to_the_fields(admin, published):
    server, _ = published()
    server.challenge("Bearer")
    server.pages.pop("/.well-known/oauth-protected-resource/mcp")
    page = admin.get(paste(admin, server.url).headers["Location"]).text
    assert "does not say how" in page and server.url in page


def test_a_server_without_a_sign_in_is_added_with_one_more_click(app, admin, published):
    server, _ = published()
    server.pages = {"/mcp": says({"jsonrpc": "2.0", "id": 1, "result": {}})}
    second = paste(admin, server.url).headers["Location"]
    assert "needs no sign-in" in admin.get(second).text
    assert send(admin, second).status_code == 303
    assert rows(app, Gateway)[0].auth_type == "none"


def test_a_draft_keeps_what_is_typed_but_no_secret(app, admin, published):
    server, _ = published()
    second = paste(admin, server.url).headers["Location"]
    typed = {"name": "Jira", "scopes": "read", "client_secret": CANARY, "save": "draft"}
    assert send(admin, second, **typed).status_code == 303
    draft = rows(app, GatewayDraft)[0]
    assert draft.is_kept and draft.record["name"] == "Jira"
    assert CANARY not in str(draft.record) + str(draft.found)
    again = drawn(admin.get(second))
    assert again["name"] == "Jira" and again["scopes"] == "read" and not again["client_secret"]
    delete = f"/admin/gateways/drafts/{draft.id}/delete"
    assert admin.submit(delete, at="/admin/gateways").status_code == 303
    assert not rows(app, GatewayDraft) and admin.get(second).status_code == 404


def test_a_draft_that_is_not_kept_is_its_admins_own(app, admin, published):
    server, _ = published()
    second = paste(admin, server.url).headers["Location"]
    assert person(app, "eve@example.com", role="admin").get(second).status_code == 404
    assert "Begun, and not saved yet" not in admin.get("/admin/gateways").text


def test_nobody_is_sent_to_a_provider_that_the_page_did_not_show(app, admin, published):
    server, provider = published()
    there = provider.origin.removeprefix("http://")
    refused = send(admin, HAND, name="Jira", url=server.url)
    assert refused.status_code == 422 and not rows(app, Gateway)
    assert f"People will be sent to {there}. Save again only if you trust it." in refused.text
    fields = drawn(refused)
    assert send(admin, HAND, **fields).status_code == 303
    assert rows(app, Gateway)[0].name == "Jira"


def test_an_edit_shows_what_was_found_and_saving_it_unchanged_changes_nothing(
    app, admin, published
):
    server, provider = published()
    send(admin, paste(admin, server.url).headers["Location"], name="Jira")
    asked = len(server.asked)
    page = admin.get("/admin/gateways/jira/edit").text
    assert f"people sign in at {provider.origin.removeprefix('http://')}" in page
    before = [vars(row) for row in (*rows(app, Gateway), *rows(app, OAuthConfig))]
    assert send(admin, "/admin/gateways/jira/edit").status_code == 303
    after = [vars(row) for row in (*rows(app, Gateway), *rows(app, OAuthConfig))]
    states = [{k: v for k, v in row.items() if k[0] != "_"} for row in before + after]
    assert states[:2] == states[2:] and len(server.asked) == asked


def test_endpoints_typed_over_count_instead_of_what_was_found(app, admin, published):
    server, provider = published()
    send(admin, paste(admin, server.url).headers["Location"], name="Jira")
    one = send(admin, "/admin/gateways/jira/edit", token_url="https://other.test/token")
    assert one.status_code == 422
    assert "Leave this empty, or type all of them." in one.text
    typed = {
        "authorization_url": f"{provider.origin}/authorize",
        "token_url": f"{provider.origin}/token",
        "client_id": "app-1",
    }
    assert send(admin, "/admin/gateways/jira/edit", **typed).status_code == 303
    config = rows(app, OAuthConfig)[0]
    assert config.settings["token_url"] == config.token_url == f"{provider.origin}/token"


def test_the_page_of_a_gateway_says_what_was_found(admin, published):
    server, provider = published()
    send(admin, paste(admin, server.url).headers["Location"], name="Jira")
    page = admin.get("/admin/gateways/jira").text
    assert f"Sign-in at <code>{provider.issuer}</code>" in page and "PKCE is offered" in page
    assert "read, write, offline_access" in page and "registered with the first sign-in" in page
    assert "None</code>" not in page and "<code></code>" not in page


def test_a_template_asks_for_what_only_an_admin_knows_and_fills_in_the_rest(app, admin):
    asked = admin.get("/admin/gateways/new?template=auth0").text
    assert "Continue" in asked and 'name="template" value="auth0"' in asked
    template = templates.find("github")
    url = f"/admin/gateways/new?template={template.id}"
    shown = drawn(admin.get(url))
    assert shown["name"] == template.name and shown["keep_people"]
    given = {"client_id": "app-1", "client_secret": "s", "url": "https://mcp.example.com/mcp"}
    saved = send(admin, url, **given)
    assert saved.status_code == 303, saved.text
    settings = rows(app, OAuthConfig)[0].settings
    assert settings["token_url"] == template.config["token_url"]


def test_drafts_that_nobody_kept_go_after_a_day(app, admin):
    with app.app_context():
        admin_id = people.named("admin@example.com").id
        old, kept, new = (drafts.begin(admin_id, {"name": name}) for name in "abc")
        drafts.keep(kept, {"name": "b"}, user_id=admin_id)
        for one in (old, kept):
            db.session.get_one(GatewayDraft, one).updated_ms -= cleanup.DAY_MS + 1000
        db.session.commit()
        assert sum(count.get("drafts", 0) for count in cleanup.flows()) == 1
    assert {row.id for row in rows(app, GatewayDraft)} == {kept, new}
