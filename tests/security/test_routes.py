"""Walks over every route of the application, as everybody who might ask.

Nothing here names the routes it asks for: a new one is walked from its first day, and fails until
it is closed or was reviewed.
"""

import dataclasses
import json
import re
from collections.abc import Iterator

import pytest

from app.web import auth
from app.web.security import CSP
from tests.conftest import Browser
from tests.security import world as made
from tests.security.world import AWAY, NOBODY_THERE, ORIGIN, SAFE, World, state, unknown
from tests.web.credentials import bearer, csrf_of

PUBLIC = {  # reviewed: what anybody may ask for without a credential, and why
    "/static/<path:filename>": "style and script; nothing of this server",
    "/health": "says ok, and no more",
    "/ready": "says ok, and no more",
    "/login": "where people come from",
    "/setup": "takes the code of the console; gone once there is somebody",
    "/oauth/callback": "tells whoever was signed out meanwhile what to do",
    "/oauth/callback/<slug>": "the same",
    "/.well-known/oauth-protected-resource/mcp/<slug>": "made of the path alone",
    "/oauth/client-metadata.json": "our own name and addresses, for providers",
    "/oauth/jwks.json": "public keys, for providers",
    "/help": "how the product works; nothing of this server",
    "/help/errors/<code>": "the same",
    "/help/providers": "what stands in our files; nothing of this server",
    "/help/providers/<template_id>": "the same, with the address that providers send people to",
}
OF_PROVIDERS = {"/oauth/client-metadata.json", "/oauth/jwks.json"}  # kept by them for an hour
OF_THIS_HOST = {"/metrics", "/version"}  # for whoever is on this machine, or has an API token
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"]
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    """One for all walks that change nothing: each says so at its end."""
    for app in made.started(tmp_path_factory.mktemp("routes")):
        yield made.build(app)


@pytest.fixture
def own_world(tmp_path) -> Iterator[World]:
    """For walks that change something."""
    for app in made.started(tmp_path):
        yield made.build(app)


@pytest.fixture(autouse=True)
def nothing_stays(world):
    made_here = {"api_token", "audit_event", "audit_head"}  # by `world.token`
    before = {name: rows for name, rows in state(world.app).items() if name not in made_here}
    yield
    after = {name: rows for name, rows in state(world.app).items() if name not in made_here}
    assert after == before


def ask(browser, method, url, **more):
    """From elsewhere, and with a Referer, as browsers send it."""
    headers = {"Referer": f"{ORIGIN}{url}"} | more.pop("headers", {})
    elsewhere = {"REMOTE_ADDR": AWAY}
    return browser.client.open(
        url, method=method, base_url=ORIGIN, headers=headers, environ_overrides=elsewhere, **more
    )


def is_for_machines(rule):
    return auth.is_for_machines(rule.rule) or rule.rule in OF_THIS_HOST


# -- SEC-031: who may ask for what -----------------------------------------------------------------


def test_sec_031_what_is_open_is_what_was_reviewed(world):
    rules = {rule.rule for rule in world.app.url_map.iter_rules()}
    assert PUBLIC.keys() <= rules and rules >= OF_THIS_HOST
    opened = {rule for rule in rules if auth.PUBLIC.fullmatch(rule)} | set(auth.WITHOUT_COOKIES)
    assert opened == PUBLIC.keys() | OF_THIS_HOST


def test_sec_031_without_a_credential_every_route_is_closed_unless_reviewed(world):
    before = state(world.app)
    for rule, method, url in world.routes():
        if rule.rule in PUBLIC:
            continue
        for there in (url, world.url(rule, **dict.fromkeys(world.hers, unknown()))):
            reply = ask(world.stranger, method, there)
            if is_for_machines(rule):
                assert reply.status_code == 401, (rule, method)
                assert reply.headers["WWW-Authenticate"].startswith("Bearer "), (rule, method)
            else:
                assert reply.status_code in (302, 303), (rule, method)
                assert reply.headers["Location"].startswith("/login?next="), (rule, method)
    assert state(world.app) == before


def test_sec_031_a_person_who_is_no_admin_does_nothing_under_admin(world):
    sent = {"csrf_token": csrf_of(world.alice.get("/me"))}
    before = state(world.app)
    walked = 0
    for rule, method, url in world.routes():
        if rule.rule.startswith("/admin"):
            reply = ask(world.alice, method, url, data=sent if method == "POST" else None)
            assert reply.status_code == 403 and "admin@example.com" in reply.text, (rule, method)
            walked += 1
    assert walked > 15 and state(world.app) == before


@pytest.mark.parametrize(
    ("who", "scopes"),
    [
        ("admin@example.com", ("api:read",)),
        ("admin@example.com", ("api:write",)),
        ("admin@example.com", ("mcp",)),
        ("alice@example.com", ("api:read", "api:write", "mcp")),
    ],
)
def test_sec_031_an_api_token_opens_what_it_is_for(world, who, scopes):
    """The scope it lacks is named; and a scope gives nobody what only admins may do."""
    header = bearer(world.token(who, *scopes))
    world.stranger.get("/api/openapi.json", headers=header)  # its first use is written down
    before, refused = state(world.app), 0
    for rule, method, url in world.routes():
        if not auth.is_for_machines(rule.rule):
            continue
        needed = "mcp" if rule.rule.startswith("/mcp") else "api:read"
        needed = "api:write" if needed != "mcp" and method not in SAFE else needed
        is_of_admins = who.startswith("alice") and rule.rule.startswith("/api/v1/gateways")
        if needed in scopes and not (is_of_admins and method not in SAFE):
            continue
        reply = ask(world.stranger, method, url, headers=header, json={"name": "x"})
        assert reply.status_code == 403, (rule, method)
        code = "insufficient_token_scope" if needed not in scopes else "forbidden"
        assert reply.json["error"]["code"] == code, (rule, method)
        refused += 1
    assert refused and state(world.app) == before


def test_sec_031_pages_take_no_api_token_and_machines_no_cookie(world):
    header = bearer(world.token("admin@example.com", "mcp", "api:read", "api:write"))
    for rule, method, url in world.routes():
        if rule.rule in PUBLIC or rule.rule in OF_THIS_HOST:
            continue
        if is_for_machines(rule):
            assert ask(world.admin, method, url).status_code == 401, (rule, method)
        else:
            reply = ask(world.stranger, method, url, headers=header)
            assert reply.headers["Location"].startswith("/login"), (rule, method)


@pytest.mark.parametrize("path", sorted(OF_THIS_HOST))
def test_sec_031_what_watches_is_of_this_host_or_has_a_token(world, path):
    beside = {"environ_overrides": {"REMOTE_ADDR": "127.0.0.1"}}
    here = {"Host": "127.0.0.1:8000"}
    assert world.stranger.get(path, headers=here, **beside).status_code == 200
    assert world.stranger.get(path, **beside).status_code == 401  # by way of a proxy, then
    for name in ("X-Forwarded-For", "Forwarded", "Via"):
        assert world.stranger.get(path, headers=here | {name: "x"}, **beside).status_code == 401
    assert ask(world.stranger, "GET", path).status_code == 401
    assert ask(world.admin, "GET", path).status_code == 401  # a cookie is no token
    token = world.token("alice@example.com", "api:read")
    assert ask(world.stranger, "GET", path, headers=bearer(token)).status_code == 200


# -- SEC-052: what changes something is ours, and of this session ----------------------------------


def forgeries(world, page):
    """A form as somebody else's page would send it: data and headers."""
    mine, foreign = csrf_of(page), csrf_of(world.bob.get("/me"))
    yield {}, {}
    yield {"csrf_token": ""}, {}
    yield {"csrf_token": foreign}, {}
    yield {"csrf_token": mine}, {"Referer": "https://evil.test/"}
    yield {"csrf_token": mine}, {"Referer": ""}
    for origin in ("https://evil.test", "null", "http://gw.test", "https://gw.test.evil.test"):
        yield {"csrf_token": mine}, {"Origin": origin}
    yield {}, {"X-CSRFToken": foreign}


def test_sec_052_every_unsafe_method_wants_the_token_of_this_session_and_our_origin(world):
    page = world.admin.get("/me")
    forged = list(forgeries(world, page))
    before, walked = state(world.app), 0
    for rule, method, url in world.routes():
        if method in SAFE or is_for_machines(rule):
            continue
        for data, headers in forged:
            reply = ask(world.admin, method, url, data=data, headers=headers)
            assert reply.status_code == 403, (rule, method, data, headers)
            assert "<code>csrf</code>" in reply.text, (rule, method, data, headers)
        walked += 1
    assert walked > 15 and state(world.app) == before


def test_sec_052_the_sign_in_and_the_set_up_cannot_be_forged_either(world):
    for path in ("/login", "/setup"):
        reply = ask(world.stranger, "POST", path, data={"email": "admin@example.com"})
        assert reply.status_code == 403, path


# -- SEC-053: looking changes nothing --------------------------------------------------------------


@pytest.mark.parametrize("who", ["admin", "alice", "stranger"])
def test_sec_053_get_and_head_change_nothing(world, who):
    browser = getattr(world, who)
    header = bearer(world.token("alice@example.com", "api:read", "api:write", "mcp"))
    world.stranger.get("/api/openapi.json", headers=header)  # its first use is written down
    queries = [f"?{name}={value}" for name, value in world.queries.items()]
    before = state(world.app)
    for rule, method, url in world.routes():
        if method not in SAFE or rule.rule.startswith("/mcp"):  # there GET opens a stream
            continue
        for there in (url, *(url + query for query in queries)):
            for verb in ("GET", "HEAD"):
                headers = header if is_for_machines(rule) else {}
                with ask(browser, verb, there, headers=headers) as reply:
                    assert reply.status_code != 500, there  # 502: no server is there
    for query in ("?code=x&state=forged", "?error=access_denied&state=forged", ""):
        assert ask(browser, "GET", f"/oauth/callback{query}").status_code == 400
    assert state(world.app) == before


# -- SEC-055, SEC-062, SEC-051, SEC-063: what every answer carries ---------------------------------


def everything(world):
    """An answer of every route and method, for everybody, and of what is no route."""
    token = bearer(world.token("admin@example.com", "api:read", "api:write", "mcp"))
    for who in ("stranger", "alice", "admin"):
        browser = getattr(world, who)
        for rule, method, url in world.routes():
            headers = token if is_for_machines(rule) and who == "admin" else {}
            if headers and (method == "DELETE" or (rule.rule, method) == ("/mcp/<slug>", "GET")):
                continue  # it would be gone for the next; a stream
            with ask(browser, method, url, headers=headers) as reply:
                yield rule.rule, reply
    for url in ("/nope", "/api/nope", "/mcp/no/pe", "/.well-known/nope", "/static/nope", "/help/"):
        yield url, ask(world.stranger, "GET", url)
    yield "422", world.stranger.submit("/login", email="", password="")
    yield "204", ask(world.stranger, "DELETE", "/api/v1/gateways/wiki", headers=token)
    yield "405", ask(world.stranger, "DELETE", "/login")
    yield "413", ask(world.stranger, "POST", "/login", data=b"x" * 20_000_000)
    yield "400", ask(world.stranger, "GET", "/login?x=%00")
    yield "foreign host", ask(world.stranger, "GET", "/login", headers={"Host": "evil.test"})


def test_sec_014_and_055_every_answer_carries_the_headers(own_world):
    seen = set()
    for where, reply in everything(own_world):
        if reply.request.method == "POST" and 300 <= reply.status_code < 400:
            assert reply.status_code == 303, where  # SEC-014: what was sent is not sent on
        for name, value in HEADERS.items():
            assert reply.headers.getlist(name) == [value], (where, reply.status_code, name)
        assert reply.headers["Referrer-Policy"] in ("same-origin", "no-referrer"), where
        if where.startswith("/oauth"):
            assert reply.headers["Referrer-Policy"] == "no-referrer", where
        age = re.fullmatch(r"max-age=(\d+)", reply.headers["Strict-Transport-Security"])
        assert int(age[1]) >= 31_536_000, where
        if not where.startswith("/static") and where not in OF_PROVIDERS:
            assert reply.headers["Cache-Control"] == "no-store", (where, reply.status_code)
        assert "X-Powered-By" not in reply.headers
        seen.add(reply.status_code)
    assert seen >= {200, 302, 303, 400, 401, 403, 404, 405, 413, 422}


def test_sec_064_a_crash_says_nothing_of_itself(app):
    app.testing = False

    def crash():
        raise RuntimeError("canary SELECT * FROM user_account /app/secret.py")

    prefixes = ("/help/", "/.well-known/", "/oauth/callback/")
    for number, prefix in enumerate(prefixes):
        app.add_url_rule(f"{prefix}crash", f"crash{number}", crash)
    for prefix in prefixes:
        reply = Browser(app).get(f"{prefix}crash")
        assert reply.status_code == 500 and "internal_error" in reply.text
        for word in ("canary", "Traceback", "SELECT", ".py", "RuntimeError", "Werkzeug", "Flask"):
            assert word not in reply.text + str(reply.headers), word
        assert reply.headers.getlist("Content-Security-Policy") == [CSP]
        assert reply.headers["X-Request-Id"] in reply.text


@pytest.mark.parametrize("origin", ["https://evil.test", "null"])
def test_sec_062_no_page_of_another_origin_may_read_an_answer(world, origin):
    said = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    said["Access-Control-Request-Headers"] = "authorization"
    token = bearer(world.token("alice@example.com", "api:read", "mcp"))
    for rule, method, url in world.routes():
        if rule.rule == "/mcp/<slug>" and method == "GET":
            continue
        for verb in (method, "OPTIONS"):
            headers = said | (token if is_for_machines(rule) else {})
            with ask(world.alice, verb, url, headers=headers) as reply:
                names = [name for name in reply.headers.keys() if name.startswith("Access-Control")]
                if rule.rule.startswith("/.well-known/"):  # public, and read without a cookie
                    assert reply.headers.getlist("Access-Control-Allow-Origin") == ["*"]
                    assert "Access-Control-Allow-Credentials" not in names
                else:
                    assert names == [], (rule, verb)


def cookies(replies):
    for where, reply in replies:
        for line in reply.headers.getlist("Set-Cookie"):
            flags = {flag.lower() for flag in re.split(r";\s*", line)[1:]}
            yield where, line.partition("=")[0], flags


def signing_in(world):
    """The ways to get a cookie."""
    someone = Browser(world.app)
    yield "login", someone.submit("/login", email="bob@example.com", password="x" * 12)
    yield "login", someone.submit("/login", email="alice@example.com", **PASSWORD)
    yield "begin", someone.submit("/oauth/connect/acme", at="/me")
    yield "confirm", someone.submit("/tokens/new", name="t", ends="30", scopes="mcp", which="all")
    yield "logout", someone.submit("/logout", at="/me")
    yield from everything(world)


PASSWORD = {"password": "correct horse battery"}


def test_sec_051_every_cookie_is_host_only_secure_and_hidden_from_scripts(own_world):
    names = set()
    for where, name, flags in cookies(signing_in(own_world)):
        assert re.fullmatch(r"__Host-(signed_in|session|flow-[0-9a-f]{12})", name), (where, name)
        assert {"secure", "httponly", "path=/", "samesite=lax"} <= flags, (where, name, flags)
        assert not [flag for flag in flags if flag.startswith("domain")], where
        names.add(name.removeprefix("__Host-").partition("-")[0])
    assert names == {"signed_in", "session", "flow"}


def test_sec_051_over_plain_http_on_this_machine_they_have_other_names(start, config):
    app = start(dataclasses.replace(config, PUBLIC_URL="http://127.0.0.1:8000"))
    at = {"base_url": "http://127.0.0.1:8000"}
    reply = app.test_client().get("/setup", **at)
    [line] = reply.headers.getlist("Set-Cookie")
    assert line.startswith("session=") and "HttpOnly" in line and "SameSite=Lax" in line
    assert "Secure" not in line and "Domain" not in line
    assert "Strict-Transport-Security" not in reply.headers


def test_sec_063_and_056_every_page_asks_for_nothing_but_ours(own_world):
    """What it loads, and where its forms go; a link may lead elsewhere, but only by http(s)."""
    for where, reply in everything(own_world):
        if "text/html" not in reply.headers.get("Content-Type", ""):
            continue
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", reply.text, flags=re.S)
        for tag, url in re.findall(
            r"<(\w+)\b[^>]*?\s(?:src|href|action|srcset|poster|data)=\"([^\"]*)\"", text
        ):
            if tag == "a":
                assert re.match(r"[/#?]|https?://", url), (where, url)
            else:
                assert re.match(r"/(?![/\\])|#", url), (where, tag, url)
        for tag in ("iframe", "object", "embed", "base", "style"):
            assert f"<{tag}" not in text, where
        assert not re.search(r"\son\w+=|javascript:|\sstyle=", text), where


# What tells moments, or how a server fares just now.
CHANGING = ("/metrics", "/mcp/<slug>", "/tools", "/tools/<slug>/", "/tools/<slug>/<path:name>")


# -- SEC-098, SEC-010, SEC-037, SEC-120: what a request claims about itself ------------------------

CLAIMS = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Host": "evil.test",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Port": "1",
    "X-Forwarded-User": "admin@example.com",
    "X-Forwarded-Email": "admin@example.com",
    "X-Auth-Request-Email": "admin@example.com",
    "X-Remote-User": "admin@example.com",
    "Remote-User": "admin@example.com",
    "X-Real-Ip": "127.0.0.1",
    "X-Original-Url": "/help",
    "X-Rewrite-Url": "/help",
    "X-Http-Method-Override": "GET",
    "Forwarded": "for=127.0.0.1;host=evil.test;proto=http",
    "Via": "1.1 evil.test",
}


@pytest.mark.parametrize("host", ["evil.test", "gw.test:8443", "127.0.0.1"])
def test_sec_098_a_foreign_host_is_refused_on_every_route(world, host):
    before = state(world.app)
    for rule, method, url in world.routes():
        if rule.rule in ("/health", "/ready"):  # which balancers ask by address
            continue
        if host == "127.0.0.1" and rule.rule in OF_THIS_HOST:
            continue
        reply = ask(world.admin, method, url, headers={"Host": host})
        assert reply.status_code == 400, (rule, method)
        assert "wrong_host" in reply.text and "Set-Cookie" not in reply.headers, (rule, method)
    assert state(world.app) == before


def test_sec_098_a_missing_host_and_an_absolute_form_are_refused_on_every_route(world):
    for rule, method, url in world.routes():
        absolute = {"RAW_URI": f"http://evil.test{url}", "REMOTE_ADDR": AWAY}
        reply = world.admin.client.open(
            url, method=method, base_url=ORIGIN, environ_overrides=absolute
        )
        assert reply.status_code == 400, (rule, method)
        if rule.rule not in ("/health", "/ready"):
            bare = world.admin.client.open(
                url, method=method, base_url=ORIGIN, environ_overrides={"HTTP_HOST": ""}
            )
            assert bare.status_code == 400, (rule, method)


def test_sec_010_and_037_what_no_proxy_of_ours_says_changes_nothing(world):
    """Not who it is, not from where, not by what name: for a stranger and for a person."""
    for who in ("stranger", "alice"):
        browser = getattr(world, who)
        for rule, method, url in world.routes():
            if method not in SAFE or rule.rule in CHANGING:
                continue
            with (
                ask(browser, method, url) as plain,
                ask(browser, method, url, headers=CLAIMS) as claimed,
            ):
                assert made.told(claimed) == made.told(plain), (rule, who)
                assert "evil" not in claimed.text + str(claimed.headers), (rule, who)


def test_sec_010_no_address_that_is_handed_out_comes_from_the_request(own_world):
    acting = {name: value for name, value in CLAIMS.items() if name != "Via"}
    token = bearer(own_world.token("admin@example.com", "api:read", "mcp"))
    for url in ("/api/v1/gateways/acme", "/api/openapi.json", "/mcp/acme"):
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}
        sent = {"json": body} if url.startswith("/mcp") else {}
        method = "POST" if sent else "GET"
        headers = token | acting | {"Accept": "application/json, text/event-stream"}
        reply = ask(own_world.stranger, method, url, headers=headers, **sent)
        assert reply.status_code == 200 and "evil" not in reply.text, reply.text
        assert "https://gw.test" in reply.text


@pytest.mark.parametrize("agent", ["kube-probe/1.30", "GoogleHC/1.0"])
def test_sec_120_a_health_check_by_name_opens_nothing(world, agent):
    said = {"User-Agent": agent}
    before = state(world.app)
    for rule, method, url in world.routes():
        with (
            ask(world.stranger, method, url) as plain,
            ask(world.stranger, method, url, headers=said) as named,
        ):
            assert named.status_code == plain.status_code, (rule, method)
    assert state(world.app) == before


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_sec_120_health_says_ok_and_no_more(world, path):
    reply = ask(world.stranger, "GET", path)
    assert (reply.status_code, reply.json) == (200, {"status": "ok"})
    assert "Set-Cookie" not in reply.headers and "Server" not in reply.headers


# -- SEC-102: methods ------------------------------------------------------------------------------


def test_sec_102_methods_that_are_not_listed_are_refused(world):
    token = bearer(world.token("admin@example.com", "api:read", "api:write", "mcp"))
    world.stranger.get("/api/openapi.json", headers=token)
    listed: dict[str, set[str]] = {}
    for rule in world.app.url_map.iter_rules():
        listed.setdefault(rule.rule, set()).update(rule.methods)
    before = state(world.app)
    for rule, methods in listed.items():
        browser = world.stranger if auth.is_for_machines(rule) else world.admin
        allowed = methods - ({"HEAD"} if rule.startswith("/mcp") else set())
        for method in set(METHODS) - allowed:
            reply = ask(browser, method, world.url(rule), headers=token)
            if reply.status_code == 308:  # to the other spelling of a page, by GET
                assert rule == "/tools/<slug>" and method in SAFE, (rule, method)
                continue
            assert reply.status_code == 405, (rule, method)
            told = set(re.split(r",\s*", reply.headers["Allow"]))
            assert told - {"OPTIONS", "HEAD"} == allowed - {"OPTIONS", "HEAD"}, (rule, method, told)
    assert state(world.app) == before


# -- SEC-044, SEC-046: the one place for a token ---------------------------------------------------


def test_sec_046_and_044_a_token_counts_in_the_header_alone_on_every_route(world):
    token = world.token("admin@example.com", "api:read", "api:write", "mcp")
    for rule, method, url in world.routes():
        if not auth.is_for_machines(rule.rule):
            continue
        for query, data in ((f"?access_token={token}", None), ("", {"access_token": token})):
            reply = ask(world.stranger, method, url + query, data=data)
            assert reply.status_code == 401, (rule, method)
            challenge = reply.headers["WWW-Authenticate"]
            assert challenge.startswith('Bearer realm="MCP Gateway"'), challenge
            pointer = f'resource_metadata="{ORIGIN}/.well-known/oauth-protected-resource'
            assert (pointer in challenge) == rule.rule.startswith("/mcp"), challenge
            assert token not in reply.text


# -- SEC-050: one reader of JSON -------------------------------------------------------------------

READS_JSON = {("/api/v1/gateways", "POST"), ("/api/v1/gateways/<slug>", "PATCH")}
READS_JSON |= {("/api/v1/gateways/<slug>", "PUT"), ("/mcp/<slug>", "POST")}
READS_NOTHING = {  # unsafe, and without a body to read
    ("/api/v1/gateways/<slug>", "DELETE"),
    ("/api/v1/gateways/<slug>/checks", "POST"),
    ("/api/v1/connections/<connection_id>", "DELETE"),
    ("/api/v1/connections/<connection_id>/refresh", "POST"),
    ("/mcp/<slug>", "DELETE"),
}
ODD = {
    "deep": b'{"a":' * 70 + b"1" + b"}" * 70,
    "deep lists": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "twice": b'{"name":"a","name":"b"}',
    "nan": b'{"timeout_s":NaN}',
    "infinity": b'{"timeout_s":-Infinity}',
    "surrogate": b'{"name":"\\ud800"}',
    "utf-16": '{"name":"a"}'.encode("utf-16"),
    "latin-1": b'{"name":"\xe9"}',
    "digits": b'{"timeout_s":' + b"1" * 5000 + b"}",
    "cut": b'{"name":',
    "empty": b"",
}


def test_sec_050_every_route_that_reads_json_was_found(world):
    unsafe = {
        (rule.rule, method)
        for rule in world.app.url_map.iter_rules()
        for method in rule.methods - set(SAFE)
        if auth.is_for_machines(rule.rule)
    }
    assert unsafe - READS_NOTHING == READS_JSON


@pytest.mark.parametrize(("rule", "method"), sorted(READS_JSON))
def test_sec_050_what_two_readers_could_read_differently_is_a_400_everywhere(world, rule, method):
    token = bearer(world.token("admin@example.com", "api:read", "api:write", "mcp"))
    world.stranger.get("/api/openapi.json", headers=token)
    before = state(world.app)
    headers = token | {"Accept": "application/json, text/event-stream"}
    for name, body in ODD.items():
        reply = ask(
            world.stranger,
            method,
            world.url(rule),
            data=body,
            content_type="application/json",
            headers=headers,
        )
        assert reply.status_code == 400, (name, reply.text)
        json.loads(reply.text)
    too_large = b'{"name":"' + b"x" * world.app.config["MAX_BODY_BYTES"] + b'"}'
    sent = {"data": too_large, "content_type": "application/json", "headers": headers}
    assert ask(world.stranger, method, world.url(rule), **sent).status_code == 413
    assert state(world.app) == before


# -- SEC-040, SEC-060: what is typed into forms ----------------------------------------------------

SMUGGLED = [
    "a\r\nX-Canary: y",
    "a\nSet-Cookie: canary=1",
    "\x00",
    "\x1b[31m",
    "\u202ecanary",
    "\ud83d",
]


def forms(world):
    """Every page with a form of an admin: its address, and the fields as they are drawn."""
    from tests.web.registry import drawn

    for rule, method, url in world.routes():
        if method == "POST" and "GET" in _methods(world, rule.rule):
            if rule.rule not in ("/login", "/setup"):
                page = ask(world.admin, "GET", url)
                if page.status_code == 200 and drawn(page):
                    yield rule.rule, url, drawn(page)


def _methods(world, rule):
    return {m for one in world.app.url_map.iter_rules() if one.rule == rule for m in one.methods}


def test_sec_040_no_field_of_any_form_smuggles_a_header_or_breaks_a_page(own_world):
    tried = 0
    for rule, url, fields in forms(own_world):
        if "delete" in rule:
            continue
        for name in fields.keys() - {"csrf_token", "as_of", "form_id"}:
            for text in SMUGGLED:
                sent = fields | {name: text.encode("utf-8", "surrogatepass")}
                reply = ask(own_world.admin, "POST", url, data=sent)
                assert reply.status_code < 500, (rule, name, text)
                assert "X-Canary" not in reply.headers, (rule, name)
                assert "canary=1" not in str(reply.headers.getlist("Set-Cookie")), (rule, name)
                fields = fields | {"csrf_token": csrf_of(own_world.admin.get("/me"))}
                tried += 1
    assert tried > 100


EXTRA = (
    "id",
    "user_id",
    "owner_id",
    "owner_key",
    "is_admin",
    "is_disabled",
    "version",
    "token_gen",
)
EXTRA += ("password_hash", "token_hash", "access_token_sealed", "client_secret_sealed", "state")
EXTRA += ("credentials_sealed", "registration_id", "config_version", "created_at", "signed_in_at")


def test_sec_060_no_form_and_no_record_writes_a_column_that_it_does_not_name(own_world):
    canary = "feedfacefeedfacefeedfacefeedface"
    more = dict.fromkeys(EXTRA, canary)
    for _, url, fields in forms(own_world):
        if "delete" in url:
            continue
        ask(own_world.admin, "POST", url, data=fields | more | {"name": "Canary form"})
    header = bearer(own_world.token("admin@example.com", "api:read", "api:write"))
    for method, url in (("POST", "/api/v1/gateways"), ("PATCH", "/api/v1/gateways/acme")):
        for name in EXTRA:
            body = {"name": "Canary", "url": NOBODY_THERE, name: canary}
            reply = ask(own_world.stranger, method, url, json=body, headers=header)
            assert reply.status_code == 422, (method, name)
            assert reply.json["error"]["fields"][0]["field"] == name
    assert canary not in str(state(own_world.app))
