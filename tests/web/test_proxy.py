"""/mcp/<slug> through the front door: who gets in, what crosses, and what a failure looks like."""

import dataclasses
import gzip
import json
import math
import re
from urllib.parse import quote

import pytest
import requests_mock as mocking

from app import api_tokens
from app.audit import SYSTEM
from app.db import db
from app.mcp.jsonrpc import dumps
from app.models import Gateway
from tests.conftest import rows
from tests.mcp import world
from tests.mcp.world import Client, add, body_of, failure_of, messages_of
from tests.upstream import (
    EVENTS,
    JSON,
    MODERN,
    Cut,
    Said,
    Upstream,
    dual,
    error,
    event,
    modern,
    result,
    says,
    streams,
    upstream,
)

__all__ = ["upstream"]  # the fixture
DIED = (b'{"jsonrpc":"2.0","id":1,"resu', b'{"jsonrpc":"2.0","id":99,"result":{}}')


@pytest.fixture
def acme(app, upstream: Upstream) -> Client:
    """Alice's client at a gateway without sign-in."""
    add(app, upstream.url)
    return Client(app)


# -- the gate -------------------------------------------------------------------------------------


def test_gate_order(app, upstream, acme):
    """Each request has every later fault as well; the first one answers."""
    evil = {"Origin": "https://evil.test"}
    bad = {**evil, "Authorization": "Bearer no"}
    big = b"x" * (app.config["MAX_BODY_BYTES"] + 1)
    http = app.test_client()

    def ask(method="POST", slug="nope", headers=bad, body=big, host="https://gw.test"):
        url = f"/mcp/{slug}"
        return http.open(url, method=method, headers=headers, data=body, base_url=host)

    good = {"Authorization": f"Bearer {acme.token}"}
    assert ask("PUT", host="https://other.test").status_code == 400
    assert ask("PUT").status_code == 403
    assert ask("PUT", headers={"Authorization": "Bearer no"}).status_code == 405
    assert ask(headers={"Authorization": "Bearer no"}).status_code == 401
    assert ask(headers=good).status_code == 404
    assert ask(slug="acme", headers=good).status_code == 413
    assert ask(slug="acme", headers=good, body=b"{").status_code == 400
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("https://gw.test", 200),
        ("https://tool.test", 200),
        ("https://evil.test", 403),
        ("https://gw.test.evil.test", 403),
        ("http://gw.test", 403),
        ("https://gw.test:8443", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_sec_041_only_known_pages_may_call(start, config, upstream, origin, status):
    app = start(dataclasses.replace(config, MCP_ALLOWED_ORIGINS=("https://tool.test", "null")))
    add(app, upstream.url)
    reply = Client(app).modern("tools/list", Origin=origin)
    assert reply.status_code == status
    assert bool(upstream.seen) == (status == 200)
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_sec_102_other_methods_are_refused(acme, upstream, method):
    reply = acme.send(method)
    assert reply.status_code == 405 and upstream.seen == []


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("method", ["initialize", "server/discover", "tools/list"])
@pytest.mark.parametrize("credential", [None, "Bearer no", "Basic YTpi", "Bearer ", "bearer"])
def test_sec_044_no_good_token_is_401_and_says_where_to_read_on(acme, era, method, credential):
    reply = getattr(acme, era)(method, Authorization=credential)
    said = reply.headers["WWW-Authenticate"]
    assert reply.status_code == 401 and said.startswith("Bearer ")
    parts = dict(re.findall(r'(\w+)="([^"]*)"', said))
    metadata = "https://gw.test/.well-known/oauth-protected-resource/mcp/acme"
    assert parts["resource_metadata"] == metadata and parts["scope"] == "mcp"
    assert ("error" in parts) == (credential is not None)
    assert set(reply.json) == {"error"}  # no JSON-RPC


def test_sec_046_a_token_counts_in_one_place_only(app, acme, upstream):
    for path in (f"/mcp/acme?access_token={acme.token}", "/mcp/acme"):
        reply = app.test_client().post(
            path,
            base_url="https://gw.test",
            headers={"X-API-Key": acme.token, "Cookie": f"token={acme.token}"},
        )
        assert reply.status_code == 401
    assert upstream.seen == []


def test_a_stranger_cannot_tell_an_unknown_gateway_from_a_forbidden_one(app, upstream, acme):
    with app.app_context():
        only = [add(app, upstream.url, "other")]
        _, token = api_tokens.issue(
            world.user(app), name="x", scopes=["mcp"], gateway_ids=only, expires_at=None, by=SYSTEM
        )
        db.session.commit()
    limited = {"Authorization": f"Bearer {token}"}
    forbidden = acme.modern("tools/list", **limited)
    acme.slug = "nope"
    unknown = acme.modern("tools/list", **limited)
    told = [reply.text.replace("nope", "acme") for reply in (forbidden, unknown)]
    hide = re.compile(r'"request_id":\s*"\w+"')
    assert forbidden.status_code == unknown.status_code == 404
    assert hide.sub("", told[0]) == hide.sub("", told[1])
    assert "jsonrpc" not in forbidden.text and upstream.seen == []


def test_a_token_for_the_api_alone_is_no_token_here(app, acme, upstream):
    with app.app_context():
        _, token = api_tokens.issue(
            world.user(app),
            name="x",
            scopes=["api:read"],
            gateway_ids=None,
            expires_at=None,
            by=SYSTEM,
        )
        db.session.commit()
    reply = acme.modern("tools/list", Authorization=f"Bearer {token}")
    assert reply.status_code == 403
    assert 'error="insufficient_scope"' in reply.headers["WWW-Authenticate"]
    assert upstream.seen == []


def test_a_gateway_that_is_off_is_not_there(app, acme, upstream):
    with app.app_context():
        db.session.query(Gateway).update({"is_enabled": False})
        db.session.commit()
    assert acme.modern("tools/list").status_code == 404 and upstream.seen == []


def test_a_body_over_the_limit_is_refused(app, acme, upstream):
    body = b" " * (app.config["MAX_BODY_BYTES"] + 1)
    reply = acme.send("POST", body)
    assert reply.status_code == 413 and reply.json["error"]["code"] == "too_large"
    assert upstream.seen == []


PATHS = ["acme/..", "acme/../other", "../mcp/acme/x", "acme/%2e%2e", "acme/x", "acme//", "acme\\x"]
PATHS += ["acme;x=1", "acme#x", "acme%2fx", "acme%00", "https://evil.test/", "//evil.test", "."]


@pytest.mark.parametrize("path", [*PATHS, *map(quote, PATHS)])
def test_sec_038_no_path_leads_elsewhere_upstream(acme, upstream, path):
    acme.slug = path
    acme.modern("tools/list")
    assert {one.path for one in upstream.seen} <= {"/mcp"}


def test_the_query_stays_here(acme, upstream):
    acme.slug = "acme?a=b&access_token=c"
    assert acme.modern("tools/list").status_code == 200
    assert [one.path for one in upstream.seen] == ["/mcp"]


# -- what crosses ---------------------------------------------------------------------------------

CANARIES = {
    name: "canary-7f3a"
    for name in (
        *("Cookie", "X-API-Key", "Proxy-Authorization", "X-Auth-Token", "Api-Key", "Forwarded"),
        *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-User", "X-Real-IP", "Referer"),
        *("Origin-Trial", "TE", "Trailer", "Upgrade", "Keep-Alive", "Proxy-Connection", "Via"),
        *("X-Amz-Security-Token", "X-Csrf-Token", "Accept-Language", "User-Agent", "From"),
        *("X-Request-Id", "Traceparent", "If-None-Match", "Range", "Expect-Ct", "Mcp-Paramx"),
        *("Mcp-Session-Id", "Last-Event-Id", "Accept-Encoding", "Authorization2"),
    )
}
DOWN = {
    **{"Set-Cookie": "a=b", "Location": "https://evil.test", "Access-Control-Allow-Origin": "*"},
    **{"Clear-Site-Data": '"*"', "WWW-Authenticate": 'Bearer realm="up"', "Server": "up/1"},
    **{"Content-Disposition": "attachment", "Refresh": "0;url=https://evil.test", "X-Up": "1"},
    **{"Strict-Transport-Security": "max-age=0", "Content-Security-Policy": "x", "Link": "<x>"},
    **{"Cache-Control": "public", "Mcp-Session-Id": "up-9", "Connection": "X-Request-Id"},
}


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_sec_032_039_only_listed_headers_cross(acme, upstream, era):
    acme.initialize()
    upstream.script = lambda seen: says(result(seen), 200, **DOWN)
    acme.session = None if era == "modern" else acme.session
    spelled = CANARIES | {"Authorization": f"Bearer {acme.token}"}
    spelled = {name: value for name, value in spelled.items() if name != "Mcp-Session-Id"}
    reply = getattr(acme, era)("tools/list", **spelled)
    up = upstream.seen[-1]
    assert acme.token not in str(up.headers) and "canary-7f3a" not in str(up.headers)
    allowed = {"Host", "Content-Length", "Accept", "Accept-Encoding", "User-Agent", "Content-Type"}
    allowed |= {"MCP-Protocol-Version"}
    allowed |= {"Mcp-Method"} if era == "modern" else {"Mcp-Session-Id"}
    assert {name for name, _ in up.headers} == allowed
    assert up.header("Accept") == f"{JSON}, {EVENTS}"
    for name, value in DOWN.items():
        assert reply.headers.get(name) != value, name
    assert reply.headers["Cache-Control"] == "no-store" and reply.headers["X-Request-Id"]


def test_sec_032_the_gateways_own_credential_is_put_on_every_request(app, upstream):
    add(app, upstream.url, auth_type="bearer", bearer_token="s3cret")
    client = Client(app)
    client.modern("server/discover")
    client.call()
    client.initialize()
    client.legacy("notifications/initialized")
    client.call(era="legacy")
    client.send("DELETE", None, Mcp_Session_Id=client.session)
    client.send("GET", None, Mcp_Session_Id=client.session)
    assert len(upstream.seen) == 7
    assert {one.header("Authorization") for one in upstream.seen} == {"Bearer s3cret"}


def test_headers_and_basic_credentials_are_sent(app, upstream):
    add(app, upstream.url, auth_type="headers", headers={"X-Api-Key": "k1", "User-Agent": "us"})
    add(app, upstream.url, "basic", auth_type="basic", basic={"username": "u", "password": "p"})
    assert Client(app).call().status_code == Client(app, slug="basic").call().status_code == 200
    first, second = upstream.seen
    assert (first.header("X-Api-Key"), first.header("User-Agent")) == ("k1", "us")
    assert second.header("Authorization") == "Basic dTpw"


def test_sec_036_connection_names_nothing_away(acme, upstream):
    reply = acme.modern("tools/list", Connection="authorization, mcp-method, x-request-id, close")
    assert reply.status_code == 200 and reply.headers["X-Request-Id"]
    assert upstream.seen[0].header("Mcp-Method") == "tools/list"
    assert upstream.seen[0].header("Connection") is None


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_bytes_are_forwarded_unchanged(acme, upstream, era):
    acme.initialize()
    meta = f'"_meta": {{ "io.modelcontextprotocol/protocolVersion":"{MODERN}"  ,'
    meta += ' "io.modelcontextprotocol/clientCapabilities" : {} }'
    meta = meta if era == "modern" else '"_meta":{ "k":1 }'
    odd = '\t{ "params":{"arguments":{"n":1e2,"big":123456789012345678901234567890, "f":1.0,'
    odd += '"s":"\\u00e9\\/\\t","e":""},"name":"echo",' + meta + '},\n"method":"tools/call",'
    odd += '"id" : "x-\\u0031", "jsonrpc":"2.0", "extra": [ ] } '
    named = {"MCP_Protocol_Version": MODERN, "Mcp_Method": "tools/call", "Mcp_Name": "echo"}
    legacy = {"Mcp_Session_Id": acme.session}
    reply = acme.send("POST", odd.encode(), **(named if era == "modern" else legacy))
    assert reply.json["id"] == "x-1"
    assert upstream.seen[-1].body == odd.encode()


def test_an_answer_passes_byte_for_byte(acme, upstream):
    odd = b' {"jsonrpc" :"2.0","id":1 , "result":{"n":1e2,"u":"\\u00e9"} }\n'
    upstream.script = lambda _: says(odd)
    assert acme.modern("tools/list").data == odd


def test_a_stream_passes_byte_for_byte(acme, upstream):
    blocks = [b": hi\r\n\r\n", b"id: 1\r\ndata:\r\nretry: 100\r\n\r\n", b"event: message\r\nda"]
    blocks += [b'ta: {"jsonrpc":"2.0",\r\ndata: "id":1,"result":{}}\r\n\r', b"\n"]
    upstream.script = lambda _: streams(*blocks)
    reply = acme.modern("tools/list")
    assert reply.data.rstrip(b"\n") == b"".join(blocks).rstrip(b"\n")
    assert reply.headers["X-Accel-Buffering"] == "no"


def test_one_call_is_one_request_on_one_connection(app, acme, upstream):
    for _ in range(5):
        assert acme.call().status_code == 200
    assert len(upstream.seen) == 5 and upstream.connections == 1


def test_after_a_stream_that_was_left_the_next_call_works(acme, upstream):
    upstream.script = lambda seen: streams(event({"jsonrpc": "2.0", "method": "x"}), *[b""] * 0)
    reply = acme.modern("tools/list")
    next(iter(reply.response))
    reply.close()
    upstream.script = modern
    assert acme.call().status_code == 200


# -- what goes wrong ------------------------------------------------------------------------------


def html(status: int) -> Said:
    return Said(status, b"<script>alert(1)</script>", {"Content-Type": "text/html"})


SHORT = {"Content_Length": "9999", "Connection": "close"}
FAULTS = {
    "reset": (lambda _: Said(0), "upstream_error"),
    "500": (lambda _: says({"error": "x"}, 500), "upstream_error"),
    "502": (lambda _: html(502), "upstream_error"),
    "503": (lambda _: Said(503, b"", {"Retry-After": "9"}), "upstream_error"),
    "429": (lambda _: Said(429), "upstream_error"),
    "html": (lambda _: html(200), "upstream_bad_answer"),
    "404 html": (lambda _: html(404), "upstream_bad_answer"),
    "text": (lambda _: Said(200, b"hi", {"Content-Type": "text/plain"}), "upstream_bad_answer"),
    "no type": (lambda _: Said(200, b"{}"), "upstream_bad_answer"),
    "no content": (lambda _: Said(204), "upstream_bad_answer"),
    "accepted": (lambda _: Said(202), "upstream_bad_answer"),
    "cut json": (lambda _: says(DIED[0]), "upstream_bad_answer"),
    "foreign id": (lambda _: says(DIED[1]), "upstream_bad_answer"),
    "two texts": (lambda seen: says(dumps(result(seen)) + DIED[1]), "upstream_bad_answer"),
    "no number": (lambda seen: says(result(seen, a=math.nan)), "upstream_bad_answer"),
    "deep": (
        lambda seen: says(result(seen, a=json.loads("[" * 99 + "]" * 99))),
        "upstream_bad_answer",
    ),
    "a batch": (lambda seen: says([result(seen)]), "upstream_bad_answer"),
    "403": (lambda _: Said(403), "upstream_forbidden"),
    "401": (lambda _: Said(401), "sign_in_not_set_up"),
    "brotli": (lambda seen: says(result(seen), Content_Encoding="br"), "upstream_bad_answer"),
    "short": (lambda seen: says(result(seen), **SHORT), "upstream_error"),
    "gzip": (lambda _: says(b"\x1f\x8b broken", Content_Encoding="gzip"), "upstream_error"),
    **{
        f"redirect {status}": (
            lambda _, status=status: Said(status, b"", {"Location": "http://127.0.0.1:1/"}),
            "redirected",
        )
        for status in (301, 302, 303, 307, 308)
    },
}


KINDS = ("modern", "attached", "detached")
# The end of a session is told; what is only read by the client may nest as it likes.
TOLD = {("404 html", "attached"), ("deep", "attached"), ("deep", "modern")}
EACH = [(fault, era) for fault in FAULTS for era in KINDS if (fault, era) not in TOLD]


@pytest.mark.parametrize(("fault", "era"), EACH)
def test_sec_035_and_039_a_failed_call_is_a_json_rpc_error_at_200(acme, upstream, fault, era):
    if era == "attached":
        acme.initialize()
    if era == "detached":
        acme.call(era="legacy")  # which opens a session of ours
    script, code = FAULTS[fault]
    upstream.script = script
    reply = acme.call(era="modern" if era == "modern" else "legacy")
    said = body_of(reply)["error"]
    assert reply.content_type == JSON and "<script" not in reply.text
    assert body_of(reply)["id"] == acme.next_id
    assert set(said["data"]) >= {"code", "gateway", "state", "action", "request_id"}
    assert (said["data"]["code"], said["data"]["gateway"]) == (code, "acme")
    assert said["code"] == -32603 and said["data"]["action"] in said["message"]
    assert said["data"]["request_id"] == reply.headers["X-Request-Id"]
    upstream.script = dual
    assert "result" in body_of(acme.call(era="modern" if era == "modern" else "legacy"))


def test_sec_093_nobody_there_and_not_allowed_look_alike(app):
    gone = Upstream()
    gone.stop()
    texts = set()
    for number, url in enumerate((gone.url, "https://10.0.0.1/mcp", "https://nowhere.invalid/mcp")):
        add(app, url, f"g{number}")
        data = failure_of(Client(app, slug=f"g{number}").call())
        texts.add((data["code"], data["action"]))
    assert texts == {("upstream_unreachable", "Try again in a moment.")}


def test_an_upstream_that_says_nothing_is_given_up(start, config, upstream):
    app = start(dataclasses.replace(config, UPSTREAM_READ_TIMEOUT=0.2))
    add(app, upstream.url)
    upstream.script = lambda seen: upstream.hung_up.wait(5) and Said() or Said()
    assert failure_of(Client(app).call())["code"] == "upstream_timeout"
    upstream.hung_up.set()


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [Cut()],
        [event({"jsonrpc": "2.0", "method": "notifications/x"})],
        [event({"jsonrpc": "2.0", "method": "notifications/x"}), b"data: {", Cut()],
        [b'data: {"jsonrpc":"2.0","id":1,"result":{}}\n', Cut()],
        [event({"jsonrpc": "2.0", "id": 99, "result": {}})],
        [event({"level": "error", "result": 1})],
        [b"data: " + b"x" * 100],
    ],
)
def test_sec_048_a_stream_that_dies_gets_an_error_event(acme, upstream, pieces):
    upstream.script = lambda _: streams(*pieces)
    reply = acme.call()
    said = messages_of(reply)[-1]
    assert reply.status_code == 200 and reply.content_type == EVENTS
    assert said["id"] == acme.next_id and said["error"]["data"]["code"] == "upstream_error"


def test_sec_048_a_stream_that_answered_gets_no_error_event(acme, upstream):
    noise = event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"l": "error"}})
    answer = {"jsonrpc": "2.0", "id": 1, "result": {}}
    upstream.script = lambda _: streams(event(answer), noise, noise, Cut())
    assert messages_of(acme.modern("tools/list"))[0] == answer
    assert "upstream_error" not in str(messages_of(acme.modern("tools/list"))[:1])


def test_a_legacy_stream_that_can_be_resumed_may_end_early(acme, upstream):
    acme.initialize()
    first = event({"jsonrpc": "2.0", "method": "notifications/x"}, id=4, retry=10)
    upstream.script = lambda _: streams(first)
    assert acme.call(era="legacy").data == first


def test_sec_049_a_compressed_answer_is_decoded_under_a_limit(acme, upstream):
    bomb = gzip.compress(b" " * (40 * 1024 * 1024))
    upstream.script = lambda seen: says(bomb, Content_Encoding="gzip")
    assert failure_of(acme.call())["code"] == "upstream_bad_answer"
    upstream.script = lambda seen: says(
        gzip.compress(b'{"jsonrpc":"2.0","id":2,"result":{}}'), Content_Encoding="gzip"
    )
    assert body_of(acme.call())["result"] == {}


def test_sec_049_an_event_over_the_limit_ends_its_stream(acme, upstream):
    upstream.script = lambda _: streams(b"data: ", *[b"x" * 1_000_000] * 18)
    said = messages_of(acme.call())[-1]
    assert said["error"]["data"]["code"] == "upstream_bad_answer"


@pytest.mark.parametrize(
    "session_id",
    ["", "a b", "\xe9", "x" * 2049, "a\tb"],
    ids=["empty", "space", "é", "long", "tab"],
)
def test_sec_040_a_session_id_that_is_none_is_the_servers_fault(acme, upstream, session_id):
    known = {"protocolVersion": "2025-11-25", "capabilities": {}}
    upstream.script = lambda seen: says(result(seen, **known), Mcp_Session_Id=session_id)
    reply = acme.initialize()
    assert reply.json["result"]["serverInfo"]["name"] == "acme"  # ours, without one of theirs


def test_json_rpc_errors_of_this_revision_keep_their_status(acme, upstream):
    for status, code in ((400, -32602), (404, -32601), (400, -32021), (400, -32022), (200, -32603)):
        upstream.script = lambda seen, s=status, c=code: says(error(seen, c, data={"a": 1}), s)
        reply = acme.call()
        assert (reply.status_code, reply.json["error"]["code"]) == (status, code)


def test_what_the_gateways_fared_is_noted_off_the_path(app, acme, upstream):
    acme.call().close()
    [row] = rows(app, Gateway)
    assert row.worked_ms and row.failed_ms is None
    upstream.script = lambda _: Said(500)
    acme.call().close()
    [row] = rows(app, Gateway)
    assert row.failed_ms and row.failed_code == "upstream_error"


# -- what clients read first ----------------------------------------------------------------------


def test_the_metadata_of_a_path_is_made_of_the_path_alone(app, acme):
    for slug in ("acme", "nope"):
        url = f"/.well-known/oauth-protected-resource/mcp/{slug}"
        reply = app.test_client().get(url, base_url="https://gw.test")
        assert reply.json == {
            "resource": f"https://gw.test/mcp/{slug}",
            "scopes_supported": ["mcp"],
            "bearer_methods_supported": ["header"],
            "resource_name": slug,
        }
        assert reply.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    "path",
    [
        "oauth-protected-resource/mcp/No_Slug",
        "oauth-authorization-server",
        "openid-configuration",
        "oauth-authorization-server/mcp/acme",
        "openid-configuration/mcp/acme",
        "nothing",
    ],
)
def test_what_is_not_there_is_said_in_json(app, path):
    reply = app.test_client().get(f"/.well-known/{path}", base_url="https://gw.test")
    assert reply.status_code == 404 and reply.json["error"]["code"] == "not_found"


def test_no_provider_is_asked_for_a_gateway_without_oauth(acme):
    with mocking.Mocker() as outside:
        assert acme.call().status_code == 200
    assert outside.call_count == 0
