"""Each kind of error, E1 to E20, made for real and told by its own code (Q14).

By `flask check`, by the page of the check, and by the front door where only a person meets it.
"""

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import last_sign_in
from app.db import db
from app.errors import texts
from app.models import CheckRun, ClientRegistration, Flow, Gateway, OAuthConfig
from tests import authority
from tests.broken import BROKEN, status, wants_more
from tests.conftest import HERE, SECRETS, Browser, rows
from tests.oauth import acme
from tests.test_checks import CANARY, TOKEN, Rig
from tests.upstream import Said, Upstream, says, upstream
from tests.web.registry import CODE, SHARED, add

__all__ = ["upstream"]  # the fixture

ROOT = Path(__file__).parents[1]
each = pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))


@pytest.fixture
def rig(app, upstream):
    return Rig(app, upstream)


def assert_leads_somewhere(browser, link: str) -> None:
    """The page is there, and so is the part of it that the link names."""
    path, _, part = link.partition("#")
    page = browser.get(path)
    assert page.status_code == 200, link
    assert not part or re.search(rf'\b(id|name)="{re.escape(part)}"', page.text), link


def assert_drawn(browser, page: str, slug: str, code: str) -> None:
    """A page of a check tells this code, in words, with the button to where it is mended."""
    text = texts()[code]
    link = text.link.format(gateway=slug)
    assert heading(code) in page and f"/help/errors/{code}" in page
    assert text.e in page and CANARY not in page
    if text.button == "Check again":  # done by a button right there
        assert re.search(
            rf'action="/admin/gateways/{slug}/checks".*?>\s*Check again', page, re.DOTALL
        )
    else:
        assert re.search(rf'href="{re.escape(link)}">{re.escape(text.button)}</a>', page), link
    assert_leads_somewhere(browser, link)
    assert_leads_somewhere(browser, f"/help/errors/{code}")
    assert_no_json(page)


def assert_no_json(page: str) -> None:
    """But for what was sent and received, which an admin may unfold."""
    told = html.unescape(re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL))
    assert not re.search(r'\{\s*"|"\s*:\s*["{\[\d]', told)


def heading(code: str) -> str:
    """The longest piece of it without facts."""
    return max(re.split(r"\{\w+\}", texts()[code].message), key=len).strip()


@each
def test_q14_a_broken_setup_is_told_by_the_command(rig, broken, caplog):
    caplog.set_level("DEBUG")
    slug = broken.set_up(rig)
    ran = rig.app.test_cli_runner().invoke(args=["check", slug, "--json"])
    said = json.loads(ran.output)
    step = said["steps"][broken.step]
    assert (step["state"], step["code"]) == (broken.state, broken.code), said["verdict"]
    assert (step["e"], step["who"]) == (broken.e, texts()[broken.code].who)
    assert ran.exit_code == (1 if broken.state == "bad" else 0)
    assert CANARY not in ran.output + caplog.text


@each
def test_q14_the_page_of_the_check_tells_the_same(rig, broken, admin):
    slug = broken.set_up(rig)
    at = f"/admin/gateways/{slug}/checks"
    page = admin.get(admin.submit(at, at=at).headers["Location"]).text
    step = rows(rig.app, CheckRun)[0].steps[broken.step]
    assert (step["state"], step["code"]) == (broken.state, broken.code)
    assert_drawn(admin, page, slug, broken.code)
    facts = {f"({name})" for name in re.findall(r"\{(\w+)\}", repr(texts()[broken.code]))}
    assert not [name for name in facts if name in page], "a fact is missing"
    assert step["next"] == {
        "label": texts()[broken.code].button,
        "link": texts()[broken.code].link.format(gateway=slug),
    }


# -- what only a person meets ----------------------------------------------------------------------


KEPT = {"token_management": {"store_tokens": True, "auto_refresh": True}}


@dataclass(frozen=True)
class Trouble:
    """On the way through a provider's pages. `query`: what the provider sends back."""

    e: str
    code: str
    token: dict = field(default_factory=lambda: TOKEN)
    status: int = 200
    query: dict = field(default_factory=dict)


ON_THE_WAY = {
    "E3 callback denied": Trouble(
        "E3", "redirect_not_registered", {"error": "redirect_uri_mismatch"}, 400
    ),
    "E4 state mismatch": Trouble("E4", "wrong_browser"),
    "E7": Trouble("E7", "code_rejected", {"error": "invalid_grant"}, 400),
    "E10 callback denied": Trouble(
        "E10", "access_denied", query={"code": "", "error": "access_denied"}
    ),
    "E16": Trouble("E16", "interaction_required", query={"code": "", "error": "login_required"}),
}


@pytest.mark.parametrize("trouble", ON_THE_WAY.values(), ids=list(ON_THE_WAY))
def test_q14_what_a_person_meets_is_told_there_and_by_the_check(
    rig, trouble, admin, alice, bob, caplog
):
    caplog.set_level("DEBUG")
    rig.token = lambda seen: says(trouble.token, trouble.status)
    rig.mcp = rig.wants_token
    slug = rig.add(CODE, **KEPT)
    trip = acme.leave(alice, slug)
    elsewhere = Browser(rig.app).login("alice@example.com") if trouble.e == "E4" else alice
    reply = trip.back(by=elsewhere, **trouble.query)
    page = alice.get(reply.location) if reply.status_code == 303 else reply
    assert heading(trouble.code) in page.text and trouble.code in page.text
    assert page.mimetype == "text/html" and CANARY not in page.text + caplog.text
    assert_no_json(page.text)
    for link in set(re.findall(r'href="(/(?:help|connections)[^"]*)"', page.text)):
        assert_leads_somewhere(alice, link)
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    assert_check_tells(rig, slug, trouble.e, trouble.code, admin)


def assert_check_tells(rig, slug, e, code, admin, *args, number=5) -> None:  # noqa: PLR0913
    """By command, and by the page."""
    ran = rig.app.test_cli_runner().invoke(args=["check", slug, "--json", *args])
    step = json.loads(ran.output)["steps"][number]
    assert (step["code"], step["e"]) == (code, e), ran.output
    at = f"/admin/gateways/{slug}/checks"
    page = admin.get(admin.submit(at, at=at).headers["Location"]).text
    assert_drawn(admin, page, slug, code)
    assert CANARY not in ran.output


@pytest.mark.parametrize(
    ("e", "word", "code"),
    [("E8", "invalid_grant", "grant_ended"), ("E16", "login_required", "interaction_required")],
)
def test_q14_a_sign_in_that_ended_is_told_to_its_person_and_by_the_check(rig, admin, e, word, code):
    """At the renewal. The admin's own connection, as a check uses that of who runs it."""
    rig.token = lambda seen: says({**TOKEN, "refresh_token": f"{CANARY}-refresh"})
    rig.mcp = rig.wants_token
    slug = rig.add(CODE, **KEPT)
    assert acme.leave(admin, slug).back().status_code == 303
    rig.token = lambda seen: says({"error": word}, 400)
    at = f"/connections/{slug}"
    page = admin.get(admin.submit(f"{at}/refresh", at=at).location).text
    assert f'id="now">{heading(code)}</h2>' in page and texts()[code].cause in page
    assert "it has ended" in page and "renewed by itself" not in page
    assert f'action="/oauth/connect/{slug}"' in page and re.search(r">\s*Reconnect\b", page)
    assert f"/help/errors/{code}" in page
    assert_leads_somewhere(admin, f"/help/errors/{code}")
    assert_check_tells(rig, slug, e, code, admin, "--as", "admin@example.com")


@pytest.mark.parametrize("code", ["state_unknown", "state_expired"])
def test_q14_e4_other_ways_to_lose_a_sign_in_are_told_on_the_page(rig, code, admin, alice):
    """The check tells of the one that a gateway is known for."""
    rig.token = lambda seen: says(TOKEN)
    slug = rig.add(CODE, **KEPT)
    trip, sent = acme.leave(alice, slug), {}
    if code == "state_unknown":
        sent = {"state": "of-somebody-else"}
    else:
        with rig.app.app_context():
            db.session.execute(sa.update(Flow).values(expires_ms=1))
            db.session.commit()
    reply = trip.back(**sent)
    page = alice.get(reply.location) if reply.status_code == 303 else reply
    assert heading(code) in page.text and f"/help/errors/{code}" in page.text
    again = re.search(
        r'href="(/connections)">Start again|action="(/oauth/connect/[^"]+)"', page.text
    )
    assert again, page.text
    if again[1]:
        assert_leads_somewhere(alice, again[1])
    assert_no_json(page.text)
    if code == "state_expired":
        rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
        assert_check_tells(rig, slug, "E4", code, admin)


@pytest.mark.parametrize("code", ["redirect_foreign", "redirect_drift"])
def test_q14_e3_another_public_address_is_seen_before_anybody_is_sent_away(rig, code, admin):
    """As the rows are left when this server gets another name."""
    slug, old = rig.add(CODE), "https://old.test/oauth/callback"
    with rig.app.app_context():
        if code == "redirect_foreign":
            config = db.session.scalars(sa.select(OAuthConfig)).one()
            config.settings = config.settings | {"redirect_uri": f"{old}/{slug}"}
        db.session.execute(sa.update(ClientRegistration).values(redirect_uri=old))
        db.session.commit()
    is_ours = code == "redirect_drift"  # and only the provider knows whether it takes it
    assert_stops(rig, slug, 0, "E3", code, admin, state="warn" if is_ours else "bad")
    assert rows(rig.app, CheckRun)[0].steps[0]["facts"]["redirect"] == (
        "https://gw.test/oauth/callback"
    )
    assert is_ours or not rig.upstream.seen, "somebody was asked"
    if is_ours:  # as the page says: added there, then saved again here
        at = f"/admin/gateways/{slug}/edit"
        assert admin.submit(at, at=at).status_code == 303
        [client] = rows(rig.app, ClientRegistration)
        assert client.redirect_uri == "https://gw.test/oauth/callback"


@pytest.mark.parametrize(
    ("e", "code", "answer"),
    [
        ("E1", "token_refused", status(401, WWW_Authenticate='Bearer error="invalid_token"')),
        ("E9", "insufficient_scope", wants_more),
    ],
)
def test_q14_what_a_server_says_to_a_personal_sign_in_is_told_by_the_check(
    rig, admin, e, code, answer
):
    rig.token, rig.mcp = lambda seen: says(TOKEN), rig.wants_token
    slug = rig.add(CODE, scopes=["read"], **KEPT)
    assert acme.leave(admin, slug).back().status_code == 303
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    rig.mcp = lambda seen: answer(rig, seen)
    args = ["--as", "admin@example.com"]
    assert_check_tells(rig, slug, e, code, admin, *args, number=6)
    shown = rows(rig.app, CheckRun)[0].steps[6]
    assert "(scope)" not in shown["cause"] and "(link)" not in shown["action"]


def test_q14_e15_a_sign_in_that_cannot_be_renewed_is_told_by_the_check(rig, admin):
    rig.token = lambda seen: says(TOKEN)
    rig.mcp = rig.wants_token
    slug = rig.add(CODE, **KEPT)
    acme.leave(admin, slug).back()
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    assert_check_tells(rig, slug, "E15", "no_refresh_token", admin, "--as", "admin@example.com")


def test_each_row_of_the_list_of_troubles_is_made_by_a_broken_rig():
    """docs/troubleshooting.md names the code that each of them is told by."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    made = {(name, one.code) for name, one in [*BROKEN.items(), *ON_THE_WAY.items()]}
    for row in (
        "401 after OAuth",
        "callback denied",
        "invalid client",
        "state mismatch",
        "timeouts",
    ):
        codes = {code for name, code in made if name.endswith(row)}
        assert codes and all(f"errors/{code}.md" in page for code in codes), row
    tests = Path(__file__).read_text()  # the others are made here by a test of their own
    alone = set(re.findall(r"errors/(\w+)\.md", page)) - {code for _, code in made} - {"README"}
    elsewhere = {"upstream_timeout"}  # of a tool call: tests/faults/test_upstream.py
    assert alone == {code for code in alone if f'"{code}"' in tests} | elsewhere


def test_what_was_refused_is_over_when_somebody_has_signed_in(rig, alice):
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    slug = rig.add(CODE, **KEPT)
    acme.leave(alice, slug).back()
    gateway_id = rows(rig.app, Gateway)[0].id
    with rig.app.app_context():
        assert last_sign_in.refusal(gateway_id) == "code_rejected"
    rig.token = lambda seen: says(TOKEN)
    acme.leave(alice, slug).back()
    with rig.app.app_context():
        assert last_sign_in.refusal(gateway_id) is None


def test_q14_every_kind_of_error_is_made_above_or_below():
    made = {one.e for one in [*BROKEN.values(), *ON_THE_WAY.values()]} | {"E8", "E16"}
    made |= {one.upper() for one in re.findall(r"\ntest_q14_(e\d+)_", "\n".join(["", *globals()]))}
    assert made == {f"E{number}" for number in range(1, 21)}


def test_q14_a_broken_setup_is_told_by_a_program_of_its_own(rig, database_url):
    """Not in our process: as an admin or a script runs it."""
    slug = BROKEN["E2 invalid client"].set_up(rig)
    env = SECRETS | HERE | {"DATABASE_URL": database_url, "EGRESS_ALLOW": "127.0.0.0/8"}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "check", slug]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert (
        heading("client_rejected") in ran.stdout and "code: client_rejected" in ran.stdout.lower()
    )
    assert CANARY not in ran.stdout + ran.stderr


# -- what takes more to break ----------------------------------------------------------------------


def test_q14_e14_a_certificate_of_nobody_we_know_is_told(rig, admin, tmp_path):
    shown = authority.server(authority.Authority().signs("127.0.0.1"), tmp_path)
    server = Upstream(shown)
    record = {"name": "Theirs", "url": server.url, "auth_type": "none"}
    try:
        assert_stops(rig, add(rig.app, record), 2, "E14", "tls_failed", admin)
    finally:
        server.stop()


def test_q14_e20_a_secret_that_does_not_open_is_told(rig, admin):
    slug = rig.add(SHARED)
    with rig.app.app_context():
        damaged = sa.update(ClientRegistration).values(client_secret_sealed="v1.damaged")
        db.session.execute(damaged)
        db.session.commit()
    assert_stops(rig, slug, 0, "E20", "secret_unreadable", admin)


def test_q14_e19_a_provider_that_registers_nobody_is_told(rig, admin, alice):
    """It publishes where to register, and refuses. Added from its URL alone."""
    registers(rig, says({"error": "access_denied"}, 403))
    add_url = ["gateways", "add", "--url", f"{rig.origin}/mcp", "--name", "Closed"]
    assert rig.app.test_cli_runner().invoke(args=add_url).exit_code == 0
    assert_stops(rig, "closed", 4, "E19", "registration_refused", admin)
    page = admin.submit("/oauth/connect/closed", at="/me")
    assert page.status_code == 409 and heading("registration_refused") in page.text
    assert "Who can fix it: an admin." in page.text
    button = re.search(r'href="([^"]+)">Enter the client ID</a>', page.text)
    assert_leads_somewhere(admin, button[1])
    page = alice.submit("/oauth/connect/closed", at="/me")  # to whom it would lead nowhere
    assert page.status_code == 409 and "Who can fix it: an admin." in page.text
    assert "/admin/" not in page.text and "My connections</a>" in page.text


def test_a_client_that_is_made_as_people_connect_is_made_for_a_check(rig):
    registers(rig, says({"client_id": "made-1", "token_endpoint_auth_method": "none"}, 201))
    add_url = ["gateways", "add", "--url", f"{rig.origin}/mcp", "--name", "Ready"]
    rig.app.test_cli_runner().invoke(args=add_url)
    ran = rig.app.test_cli_runner().invoke(args=["check", "ready"])
    assert "ok      4 Get a token: The client is accepted." in ran.output, ran.output
    assert ran.exit_code == 0 and len(rig.asked("/register")) == 1


def registers(rig, answer) -> None:
    """The server publishes its provider, which answers so to who wants to register."""
    origin = rig.origin
    provider = {
        "issuer": origin,
        "authorization_endpoint": f"{origin}/authorize",
        "token_endpoint": f"{origin}/token",
        "registration_endpoint": f"{origin}/register",
        "code_challenge_methods_supported": ["S256"],
        "response_types_supported": ["code"],
        "token_endpoint_auth_methods_supported": ["none"],
    }
    server = {"resource": f"{origin}/mcp", "authorization_servers": [origin]}
    pages = {
        "/.well-known/oauth-protected-resource/mcp": says(server),
        "/.well-known/oauth-authorization-server": says(provider),
        "/register": answer,
        "/token": says({"error": "invalid_grant"}, 400),
    }
    refused = Said(401, headers={"WWW-Authenticate": "Bearer"})
    rig.upstream.script = lambda seen: pages.get(seen.path, refused)


def assert_stops(rig, slug, number, e, code, admin, state="bad") -> None:  # noqa: PLR0913
    """By command, and by the page."""
    ran = rig.app.test_cli_runner().invoke(args=["check", slug, "--json"])
    step = json.loads(ran.output)["steps"][number]
    assert (step["state"], step["code"], step["e"]) == (state, code, e), ran.output
    assert ran.exit_code == (1 if state == "bad" else 0)
    at = f"/admin/gateways/{slug}/checks"
    page = admin.get(admin.submit(at, at=at).headers["Location"]).text
    assert_drawn(admin, page, slug, code)
    assert CANARY not in ran.output
