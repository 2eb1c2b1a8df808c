"""Person x object x action: who may do what with what is Alice's (SEC-061).

For every route that names something of somebody, and for every parameter that does. To who may
not, it looks like something that never was.
"""

from collections.abc import Iterator

import pytest

from app.models import Connection
from app.web import auth
from tests.conftest import rows
from tests.security import world as made
from tests.security.world import ORIGIN, SAFE, World, state, told, unknown
from tests.web.credentials import bearer, csrf_of

OWNED = {"connection_id", "token_id", "which"}  # variables that name what one person has
OF_ADMINS = {"user_id", "config_id", "draft_id"}
OF_GATEWAYS = {"run_id"}  # checks, which are found at their gateway alone: tests/web/test_checks.py
OF_EVERYBODY = {
    "slug",
    "name",
    "code",
    "filename",
    "template_id",
}  # gateways, and what is no secret
ADMINS_MAY = {"connection_id"}  # also what is another person's
EVERYTHING = ("mcp", "api:read", "api:write")


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    for app in made.started(tmp_path):
        yield made.build(app)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[World]:
    """For tests that only look."""
    for app in made.started(tmp_path_factory.mktemp("objects")):
        yield made.build(app)


def owned(world):
    """Every rule, method and variable that names what is somebody's."""
    for rule, method, _ in world.routes():
        for name in rule.arguments & (OWNED | OF_ADMINS):
            yield rule, method, name


def act(world, email, rule, method, url):
    """As this person: with a cookie and a form, or with an API token."""
    headers, data = {"Referer": f"{ORIGIN}/me"}, None
    browser = {"alice": world.alice, "bob": world.bob, "admin": world.admin}[email]
    if auth.is_for_machines(rule.rule):
        browser = world.stranger
        headers |= bearer(tokens(world)[email])
    elif method not in SAFE:
        data = {"csrf_token": csrf_of(browser.get("/me"))}
    return browser.client.open(url, method=method, base_url=ORIGIN, headers=headers, data=data)


def tokens(world):
    if "tokens" not in vars(world):
        made_now = {who: f"{who}@example.com" for who in ("alice", "bob", "admin")}
        found = {who: world.token(email, *EVERYTHING) for who, email in made_now.items()}
        for token in found.values():  # its first use is written down
            world.stranger.get("/api/openapi.json", headers=bearer(token))
        vars(world)["tokens"] = found
    return vars(world)["tokens"]


def test_sec_061_every_variable_of_a_route_was_reviewed(app):
    named = {name for rule in app.url_map.iter_rules() for name in rule.arguments}
    assert named <= OWNED | OF_ADMINS | OF_GATEWAYS | OF_EVERYBODY


@pytest.mark.parametrize("who", ["bob", "admin"])
def test_sec_061_what_is_another_persons_looks_as_if_it_never_was(world, who):
    tokens(world)
    before, walked = state(world.app), 0
    for rule, method, name in owned(world):
        if who == "admin" and name in OF_ADMINS | ADMINS_MAY:
            continue
        never = unknown()
        hers = act(world, who, rule, method, world.url(rule))
        none = act(world, who, rule, method, world.url(rule, **{name: never}))
        assert told(hers, world.hers[name]) == told(none, never), (rule, method)
        assert hers.status_code == (403 if rule.rule.startswith("/admin") else 404), (rule, method)
        walked += 1
    assert walked >= 3 and state(world.app) == before


def test_sec_061_what_is_hers_she_may(world):
    """Without this the test above could pass because nobody may anything."""
    last = []
    for rule, method, _ in owned(world):
        if rule.rule.startswith("/admin"):
            continue
        if method == "DELETE" or rule.rule.endswith(("/revoke", "/end")):
            last.append((rule, method))  # after it there is nothing left to look at
            continue
        reply = act(world, "alice", rule, method, world.url(rule))
        assert reply.status_code not in (401, 403, 404), (rule, method, reply.text)
    for rule, method in sorted(last, key=lambda one: one[0].rule.endswith("/end")):
        reply = act(world, "alice", rule, method, world.url(rule))
        assert reply.status_code not in (401, 403, 404), (rule, method, reply.text)


def test_sec_061_an_admin_may_what_an_admin_is_for(world):
    last = []
    for rule, method, name in owned(world):
        if name not in OF_ADMINS | ADMINS_MAY:
            continue
        if method == "DELETE" or rule.rule.endswith(("/delete", "/disconnect", "/disable")):
            last.append((rule, method))
            continue
        reply = act(world, "admin", rule, method, world.url(rule))
        assert reply.status_code not in (401, 403, 404), (rule, method)
    for rule, method in sorted(
        last, key=lambda one: one[0].rule.endswith("/users/<user_id>/delete")
    ):
        reply = act(world, "admin", rule, method, world.url(rule))
        gone = rule.rule.startswith("/api/") or rule.rule.endswith("/disconnect")
        assert reply.status_code not in (401, 403), (rule, method)
        assert reply.status_code != 404 or gone, (rule, method)  # by one door or the other


# -- what stands in a query, or in a form ----------------------------------------------------------

CARRIED = [  # address, parameter
    ("/connections/acme", "failed"),
    ("/connections/ask", "call"),
    ("/tools", "call"),
    ("/tools?gateway=ask", "call"),
    ("/oauth/connect/acme", "flow"),
    ("/connections/acme", "flow"),
]


@pytest.mark.parametrize(("path", "name"), CARRIED)
@pytest.mark.parametrize("who", ["bob", "admin"])
def test_sec_061_what_a_link_names_is_for_its_person_alone(shared, path, name, who):
    browser, never = getattr(shared, who), unknown()
    browser.get("/help")  # shows what was left to say
    joint = "&" if "?" in path else "?"
    hers = browser.get(f"{path}{joint}{name}={shared.queries[name]}")
    none = browser.get(f"{path}{joint}{name}={never}")
    assert told(hers, shared.queries[name]) == told(none, never)
    assert "access_denied" not in hers.text and "as.test" not in hers.headers.get("Location", "")


def test_sec_061_the_links_are_good_for_her(shared):
    alice, hers = shared.alice, shared.queries
    assert "You said no" in alice.get(f"/connections/acme?failed={hers['failed']}").text
    assert "waits for your sign-in" in alice.get(f"/connections/ask?call={hers['call']}").text
    assert "echo" in alice.get(f"/connections/ask?ask={hers['ask']}").text
    onward = alice.get(f"/oauth/connect/acme?flow={hers['flow']}")
    assert onward.headers["Location"].startswith("https://as.test/go?")


@pytest.mark.parametrize("who", ["bob", "admin"])
def test_sec_061_a_link_of_her_ai_client_names_nothing_to_others(world, who):
    """That it is another person's is said, as somebody may have been sent it: SEC-002."""
    browser, handle = getattr(world, who), world.queries["ask"]
    page = browser.get(f"/connections/ask?ask={handle}")
    assert page.status_code == 403 and "echo" not in page.text and "alice" not in page.text
    before = state(world.app)
    begun = browser.submit("/oauth/connect/ask", at="/me", ask=handle)
    after = state(world.app)
    assert begun.status_code == 403
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"audit_event", "audit_head"}  # who tried is written down


# -- gateways --------------------------------------------------------------------------------------


def test_sec_061_a_token_for_chosen_gateways_knows_no_other(world):
    """Also of an admin: the others look as if they never were, or the whole is refused."""
    header = bearer(world.token("admin@example.com", *EVERYTHING, slugs=["wiki"]))
    world.stranger.get("/api/openapi.json", headers=header)
    before = state(world.app)
    for rule, method, url in world.routes():
        if not auth.is_for_machines(rule.rule) or "slug" not in rule.arguments:
            continue
        sent = {"method": method, "base_url": ORIGIN, "headers": header, "json": {}}
        there = world.stranger.client.open(url, **sent)
        never = world.stranger.client.open(world.url(rule, slug="nope"), **sent)
        assert told(there, "acme") == told(never, "nope"), (rule, method)
        assert there.status_code == 404, (rule, method)
    listed = world.stranger.get("/api/v1/gateways", headers=header).json
    assert [one["slug"] for one in listed["gateways"]] == ["wiki"]
    assert state(world.app) == before
    activity, far = "/api/v1/activity", {"REMOTE_ADDR": "203.0.113.9"}
    for url in (activity, f"{activity}?gateway=acme", f"{activity}?gateway=nope", "/metrics"):
        of_all = {"base_url": ORIGIN, "headers": header, "environ_overrides": far}
        reply = world.stranger.client.get(url, **of_all)
        assert reply.status_code == 403, url
        assert reply.json["error"]["code"] == "insufficient_token_scope"
        assert "acme" not in reply.text


def test_sec_061_a_gateway_that_is_off_is_not_there_for_people(world):
    off = world.admin.submit("/admin/gateways/acme/off", at="/admin/gateways/acme")
    assert off.status_code == 303
    for rule, method, url in world.routes():
        if "slug" not in rule.arguments or rule.rule.startswith(("/admin", "/.well-known")):
            continue
        if rule.rule.startswith("/oauth/callback"):
            continue
        reply = act(world, "alice", rule, method, url)
        never = act(world, "alice", rule, method, world.url(rule, slug="nope"))
        is_of_admins = method not in SAFE or "/checks" in rule.rule
        if rule.rule.startswith("/api/v1/gateways") and is_of_admins:
            assert reply.status_code == never.status_code == 403, (rule, method)
        elif reply.status_code == 303:  # GET /oauth/connect leads to the page that says so
            assert (rule.rule, method) == ("/oauth/connect/<slug>", "GET")
        else:
            assert reply.status_code == never.status_code == 404, (rule, method)
        assert told(reply, "acme") == told(never, "nope"), (rule, method)


def test_sec_061_people_see_of_each_other_nothing(world):
    """Every page of Bob's, and every list of his API token: nothing of Alice in it."""
    [connection] = rows(world.app, Connection)
    secret = {connection.id, *world.hers.values(), *world.queries.values(), "alice@example.com"}
    secret -= {world.hers[name] for name in OF_EVERYBODY | {"config_id"}}  # their forms name it
    walked = 0
    for rule, method, url in world.routes():
        if method in SAFE and not rule.arguments & (OWNED | OF_ADMINS):
            if rule.rule in ("/mcp/<slug>", "/metrics"):
                continue
            with act(world, "bob", rule, method, url) as reply:
                found = [one for one in secret if one in reply.text]
                assert not found, (rule, found)
            walked += 1
    assert walked > 15


def test_sec_066_a_session_is_no_other_persons_after_a_sign_in_as_somebody_else(world):
    """Alice's browser becomes Bob's: nothing of hers is left in it."""
    token = csrf_of(world.alice.get("/me"))
    sent = {"csrf_token": token, "email": "bob@example.com", "password": "correct horse battery"}
    reply = world.alice.post("/login", data=sent, headers={"Referer": f"{ORIGIN}/"})
    assert reply.status_code == 303
    page = world.alice.get("/me")
    assert "bob@example.com" in page.text and "alice@example.com" not in page.text
    assert world.alice.get("/tokens").text.count("revoke") == 0
