"""Checks as admins see them: asked for, drawn as they run, kept, gone on with after a sign-in."""

import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from app import gateways, health
from app.db import db
from app.models import CheckRun, Flow
from tests.conftest import rows
from tests.oauth.published import published
from tests.test_checks import CANARY, TOKEN, Rig
from tests.upstream import Said, says, upstream
from tests.web.registry import CODE, SHARED, add, script

__all__ = ["published", "upstream"]  # the fixtures


@pytest.fixture
def rig(app, upstream):
    return Rig(app, upstream)


def run(admin, slug: str):
    """The page that runs it, read to its end."""
    sent = admin.submit(f"/admin/gateways/{slug}/checks", at=f"/admin/gateways/{slug}/checks")
    assert sent.status_code == 303
    page = admin.get(sent.headers["Location"])
    assert page.get_data()  # it runs as it is read
    return sent.headers["Location"], page


def test_a_check_is_drawn_step_by_step_and_kept(rig, admin):
    rig.mcp = rig.wants_token
    slug = rig.add(SHARED)
    sent = admin.submit(f"/admin/gateways/{slug}/checks", at=f"/admin/gateways/{slug}/checks")
    with admin.client.get(
        sent.headers["Location"], base_url="https://gw.test", buffered=False
    ) as page:
        assert page.headers["X-Accel-Buffering"] == "no" and not rig.upstream.seen
        text = "".join(piece.decode() for piece in page.iter_encoded())
    assert text.index("<ol") < text.index("Find the server") < text.index("List tools")
    assert text.index("List tools") < text.index("Ready. ")  # the verdict is last, as it is new
    again = admin.get(sent.headers["Location"])
    assert again.text.index("Ready. ") < again.text.index("Find the server")
    asked = len(rig.upstream.seen)
    assert admin.get(sent.headers["Location"]).status_code == 200
    assert len(rig.upstream.seen) == asked  # looking at it runs nothing


def test_a_check_that_failed_says_who_can_mend_it_and_where(rig, admin):
    rig.mcp = rig.wants_token
    slug = rig.add(SHARED)
    run(admin, slug)
    rig.token = lambda seen: says({"error": "invalid_client", "error_description": "<b>no"}, 401)
    url, page = run(admin, slug)
    stored = admin.get(url)
    for text in (page.text, stored.text):
        assert "Stopped at step 4 of 7. Wrong client ID or secret" in text
        assert "Who can fix it: an admin." in text and "invalid_client: &lt;b&gt;no" in text
        assert f"/admin/gateways/{slug}/edit#client_secret" in text
        assert "/help/errors/client_rejected" in text and "Authorization: [hidden]" in text
    assert "This step worked" in stored.text
    listed = admin.get(f"/admin/gateways/{slug}/checks").text
    assert listed.index("Stopped at step 4") < listed.index("Ready. ")
    report = admin.get(f"{url}.txt")
    assert report.mimetype == "text/plain" and "Code: client_rejected" in report.text
    for text in (page.text, stored.text, report.text):
        assert CANARY not in text


def test_where_people_sign_in_it_waits_for_the_admin_and_goes_on(rig, admin):
    """Also where no tokens are kept: what the callback got serves this check, and is forgotten."""
    rig.mcp = rig.wants_token

    def token(seen):
        good = b"code=good" in seen.body
        return says(TOKEN) if good else says({"error": "invalid_grant"}, 400)

    rig.token = token
    slug = rig.add(CODE)
    url, page = run(admin, slug)
    assert "To go on, connect your own account." in page.text and "List tools" not in page.text
    assert "Connect as admin@example.com" in admin.get(url).text
    for above in (f"/admin/gateways/{slug}", f"/admin/gateways/{slug}/checks"):
        assert "Waits for a sign-in" in admin.get(above).text
    going = admin.submit(f"{url}/connect", at=url)
    onward = re.search(r'href="(/oauth/connect/[^"]+)"', going.text)[1].replace("&amp;", "&")
    away = admin.get(onward).headers["Location"]
    back = {"code": "good", "state": parse_qs(urlsplit(away).query)["state"][0]}
    back = admin.get("/oauth/callback", query_string=back)
    assert (back.status_code, back.headers["Location"]) == (303, url)
    done = admin.get(url)
    assert "Ready. " in done.text and "List tools" in done.text
    assert CANARY not in done.text + json.dumps(rows(rig.app, CheckRun)[0].steps)


def test_where_tokens_are_kept_it_goes_on_with_the_connection(rig, admin):
    rig.mcp = rig.wants_token
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    kept = {"token_management": {"store_tokens": True, "auto_refresh": True}}
    slug = rig.add(CODE, **kept)
    url, page = run(admin, slug)
    assert "To go on, connect your own account." in page.text
    rig.token = lambda seen: says({**TOKEN, "scope": "repo", "refresh_token": f"{CANARY}-r"})
    going = admin.submit(f"{url}/connect", at=url)
    onward = re.search(r'href="(/oauth/connect/[^"]+)"', going.text)[1].replace("&amp;", "&")
    state = parse_qs(urlsplit(admin.get(onward).headers["Location"]).query)["state"][0]
    back = admin.get("/oauth/callback", query_string={"code": "good", "state": state})
    assert back.headers["Location"] == url
    done = admin.get(url).text
    assert "It works, with one doubt." in done and "Not granted: read:user." in done
    asked = len(rig.asked("/token"))
    assert "It works, with one doubt." in admin.get(url).text and len(rig.asked("/token")) == asked


def turn_off(app, slug: str) -> None:
    with app.app_context():
        gateways.find(slug).is_enabled = False
        db.session.commit()


def test_what_is_off_can_be_checked_before_it_is_turned_on(rig, admin):
    rig.mcp = rig.wants_token
    slug = rig.add(SHARED)
    turn_off(rig.app, slug)
    _, page = run(admin, slug)
    assert "Ready. " in page.text
    boss = script(rig.app, "boss@example.com")
    assert boss.ask("POST", f"/{slug}/checks").get_json()["outcome"] == "ok"
    ran = rig.app.test_cli_runner().invoke(args=["check", slug])
    assert ran.exit_code == 0 and "Ready. " in ran.output


def test_nobody_signs_in_to_what_is_off_for_a_check(rig, admin):
    rig.mcp = rig.wants_token
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    slug = rig.add(CODE)
    turn_off(rig.app, slug)
    url, page = run(admin, slug)
    assert "Turn it on to go on." in page.text and "Connect as" not in page.text
    sent = admin.submit(f"{url}/connect", at=url)
    assert (sent.status_code, sent.headers["Location"]) == (303, url)
    assert "Turn GitHub MCP on first." in admin.get(url).text
    assert not rows(rig.app, Flow)


def test_the_page_of_a_gateway_tells_how_it_fared_and_offers_a_check(rig, admin):
    rig.mcp = rig.wants_token
    slug = rig.add(SHARED)
    page = admin.get(f"/admin/gateways/{slug}").text
    assert "None was run yet." in page and f'action="/admin/gateways/{slug}/checks"' in page
    url, _ = run(admin, slug)
    page = admin.get(f"/admin/gateways/{slug}").text
    assert "Passed" in page and f'<a href="{url}">Ready. ' in page


def test_a_gateway_whose_last_check_failed_is_listed_as_failing(rig, admin):
    rig.mcp = rig.wants_token
    slug = rig.add(SHARED)
    rig.token = lambda seen: says({"error": "invalid_client"}, 401)
    run(admin, slug)
    assert "Failing" in row_of(admin, slug)
    page = admin.get(f"/admin/gateways/{slug}").text
    assert "Its last check failed." in page and "Calls fail." not in page
    rig.token = lambda seen: says(TOKEN)
    run(admin, slug)
    assert "Ready" in row_of(admin, slug)


def row_of(admin, slug: str) -> str:
    return admin.get("/admin/gateways").text.partition(f'href="/admin/gateways/{slug}"')[2]


def test_since_when_a_server_is_down_stands_on_its_page_and_in_the_list(rig, admin):
    slug = rig.add(SHARED)
    rig.mcp = lambda seen: Said(503)
    with rig.app.app_context():
        list(health.steps())
    page = admin.get(f"/admin/gateways/{slug}").text
    assert re.search("Its server does not answer, since <time", page)
    assert "/help/errors/upstream_error" in page
    assert re.search("Does not answer since <time", admin.get("/admin/gateways").text)


def typed(provider, server, **more) -> dict:
    """A gateway whose token URL is not the one that its provider publishes."""
    urls = {"authorization_url": f"{provider.origin}/authorize"}
    urls["token_url"] = f"{provider.origin}/old"
    config = {**CODE["oauth_config"], **urls, **more}
    return {**CODE, "url": server.url, "oauth_config": config}


def test_a_token_url_that_is_published_otherwise_is_taken_by_a_button(app, admin, published):
    server, provider = published()
    slug = add(app, typed(provider, server, client_secret=None))
    url, page = run(admin, slug)
    assert f"{provider.origin}/token is published." in page.text
    assert "Use the published one" in page.text
    sent = admin.submit(f"{url}/published", at=url)
    assert (sent.status_code, sent.headers["Location"]) == (303, f"/admin/gateways/{slug}")
    with app.app_context():
        config = gateways.find(slug).oauth_config
        assert config.settings["token_url"] == config.token_url == f"{provider.origin}/token"
    assert admin.submit(f"{url}/published", at=url).status_code == 409  # it is no longer so


def test_a_secret_goes_to_another_token_url_only_if_it_is_typed_again(app, admin, published):
    server, provider = published()
    slug = add(app, typed(provider, server))
    url, _ = run(admin, slug)
    sent = admin.submit(f"{url}/published", at=url)
    assert sent.headers["Location"] == f"/admin/gateways/{slug}/edit#token_url"
    assert (
        f"Enter {provider.origin}/token as the token URL"
        in admin.get(sent.headers["Location"]).text
    )
    with app.app_context():
        assert gateways.find(slug).oauth_config.token_url == f"{provider.origin}/old"


def test_an_issuer_that_is_published_otherwise_is_never_taken_by_a_button(app, admin, published):
    server, provider = published()
    slug = add(app, typed(provider, server, client_secret=None, issuer="https://other.test"))
    url, page = run(admin, slug)
    assert (
        "Stopped at step 3 of 7" in page.text and "Use the published one</button>" not in page.text
    )
    assert admin.submit(f"{url}/published", at=url).status_code == 409


def test_a_form_without_its_token_runs_nothing(rig, admin):
    slug = rig.add(SHARED)
    assert admin.post(f"/admin/gateways/{slug}/checks").status_code == 403
    assert not rows(rig.app, CheckRun) and not rig.upstream.seen


def test_others_than_admins_see_no_check(rig, admin, alice):
    slug = rig.add(SHARED)
    url, _ = run(admin, slug)
    for page in (f"/admin/gateways/{slug}/checks", url, f"{url}.txt"):
        assert alice.get(page).status_code == 403


def test_a_check_of_another_gateway_is_not_found(rig, admin):
    slug, other = rig.add(SHARED), rig.add({**SHARED, "name": "Other"})
    url, _ = run(admin, slug)
    assert admin.get(url.replace(slug, other)).status_code == 404


# -- JSON ------------------------------------------------------------------------------------------


def test_programs_run_and_read_checks(rig):
    rig.mcp = lambda seen: Said(401, headers={"WWW-Authenticate": "Bearer"})
    slug, boss = rig.add(SHARED), script(rig.app)
    ran = boss.ask("POST", f"/{slug}/checks")
    assert ran.status_code == 201
    said = ran.get_json()
    assert (said["outcome"], said["code"]) == ("bad", "token_refused_shared")
    assert [step["state"] for step in said["steps"]][6:] == ["bad", "skipped"]
    read = boss.ask("GET", f"/{slug}/checks/{said['id']}")
    assert read.get_json() == said
    assert [one["id"] for one in boss.ask("GET", f"/{slug}/checks").get_json()["checks"]] == [
        said["id"]
    ]
    assert CANARY not in ran.text


def test_an_api_token_of_somebody_else_or_of_another_gateway_runs_none(rig):
    slug, other = rig.add(SHARED), rig.add({**SHARED, "name": "Other"})
    user = script(rig.app, "alice@example.com", role="user")
    narrow = script(rig.app, "boss@example.com", slugs=[other])
    reads = script(rig.app, "reads@example.com", scopes=("api:read",))
    assert user.ask("POST", f"/{slug}/checks").status_code == 403
    assert user.ask("GET", f"/{slug}/checks").status_code == 403
    assert narrow.ask("POST", f"/{slug}/checks").status_code == 404
    assert reads.ask("POST", f"/{slug}/checks").status_code == 403
    assert not rows(rig.app, CheckRun)
