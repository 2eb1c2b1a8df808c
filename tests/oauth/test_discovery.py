"""From a pasted URL to what the provider says: asked for real, of servers that lie or do not.

Each list of requests is the whole list: nothing else was asked.
"""

import gzip
import json

import pytest

from app import create_app
from app.db import db
from app.oauth import discovery, fetching
from app.oauth.discovery import DiscoveryFailed, look
from app.secretbox import Where
from app.trust import Trust
from config import Config
from tests import authority
from tests.conftest import HERE, SECRETS
from tests.oauth.published import AS, OPENID, PRM, published
from tests.upstream import EVENTS, JSON, OldServer, Said, dual, legacy, modern, says

__all__ = ["published"]  # the fixture


@pytest.fixture(scope="module")
def one_app(tmp_path_factory):
    """For all of these: nothing is written, and the database is asked for the time alone."""
    url = f"sqlite:///{tmp_path_factory.mktemp('here') / 'gateway.db'}"
    app = create_app(Config(**SECRETS, **HERE, DATABASE_URL=url, EGRESS_ALLOW=("127.0.0.0/8",)))
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture(autouse=True)
def in_the_app(one_app):
    with one_app.app_context():
        yield


def failure(url, **more) -> DiscoveryFailed:
    with pytest.raises(DiscoveryFailed) as caught:
        look(url, **more)
    return caught.value


# -- the way ---------------------------------------------------------------------------------------


def test_a_url_leads_over_three_documents_to_the_provider(published):
    server, provider = published()
    server.challenge(f'Bearer scope="read", resource_metadata="{server.origin}{PRM}/mcp"')
    server.publish(provider.issuer, scopes_supported=["read", "write"])
    provider.publish(authorization_response_iss_parameter_supported=True)
    found = look(server.url)
    assert server.asked == ["POST /mcp", f"GET {PRM}/mcp"] and provider.asked == [f"GET {AS}"]
    assert not found.is_open and found.challenge.scope == "read"
    said = found.discovered
    assert said.issuer == provider.issuer and said.metadata_url == provider.origin + AS
    assert said.resource == server.url and said.resource_url == f"{server.origin}{PRM}/mcp"
    assert said.authorization_endpoint == f"{provider.origin}/authorize"
    assert said.token_endpoint == f"{provider.origin}/token"
    assert said.registration_endpoint == f"{provider.origin}/register"
    assert said.challenge_scopes == ("read",) and said.resource_scopes == ("read", "write")
    assert said.has_s256 and said.names_itself and said.servers == (provider.issuer,)
    assert list(found.hosts) == [site.origin.removeprefix("http://") for site in (server, provider)]
    assert f"People will be sent to {found.hosts[1]}." in found.notes


def test_what_was_asked_is_kept_to_be_shown_and_carries_no_secret(published):
    server, provider = published()
    provider.pages[AS] = Said(200, json.dumps(provider.pages[AS]).encode(), {"Set-Cookie": "c=1"})
    found = look(server.url)
    shown = [(one.method, one.url, one.status, one.code) for one in found.exchanges]
    assert shown == [
        ("POST", server.url, 401, None),
        ("GET", f"{server.origin}{PRM}/mcp", 200, None),
        ("GET", f"{provider.origin}{AS}", 200, None),
    ]
    first, second, third = found.exchanges
    assert "server/discover" in first.sent and "resource_metadata" in first.got
    assert server.url in second.got and "Cookie" not in third.got and "c=1" not in third.got
    for seen in [*server.server.seen, *provider.server.seen]:
        assert seen.header("Authorization") is None and seen.header("Cookie") is None


def test_sec_111_a_key_in_the_url_is_not_shown(published):
    server, provider = published()
    server.url = f"{server.origin}/mcp?key=canary"
    server.challenge("")
    server.publish(provider.issuer, resource=f"{server.origin}/mcp")
    assert "canary" not in str(look(server.url).exchanges)
    server.publish(provider.issuer, resource="https://evil.test")
    error = failure(server.url)
    assert error.code == "resource_mismatch"
    assert "canary" not in f"{error.exchanges} {error.cause} {error.facts} {error.hosts}"


def test_the_first_request_is_one_of_the_newest_era(published):
    server, _ = published()
    look(server.url)
    first = server.server.seen[0]
    assert first.rpc == "server/discover" and first.header("Mcp-Method") == "server/discover"
    assert first.header("MCP-Protocol-Version") == "2026-07-28"


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        pytest.param(PRM + "/mcp", [PRM + "/mcp"], id="path"),
        pytest.param(PRM, [PRM + "/mcp", PRM], id="root"),
    ],
)
def test_prm_candidates_without_a_challenge_are_asked_in_order(published, there, asked):
    server, provider = published()
    server.challenge("")
    server.publish(provider.issuer, at=there)
    server.pages.pop(PRM + "/mcp", None) if there == PRM else None
    assert look(server.url).discovered.resource_url == server.origin + there
    assert server.asked == ["POST /mcp", *(f"GET {one}" for one in asked)]


def test_a_named_place_that_is_empty_leads_to_the_usual_ones(published):
    server, provider = published()
    server.challenge(f'Bearer resource_metadata="{server.origin}/gone"')
    found = look(server.url)
    assert server.asked == ["POST /mcp", "GET /gone", f"GET {PRM}/mcp"]
    assert any("where there is nothing" in note for note in found.notes)


@pytest.mark.parametrize(
    ("page", "code", "told"),
    [
        (Said(500), "provider_error", ""),
        (Said(403), "metadata_unreadable", "It answered 403."),
        (Said(302, b"", {"Location": "https://evil.test/"}), "metadata_unreadable", "evil.test"),
        (b"<html>", "metadata_unreadable", "not JSON"),
        (b"[1]", "metadata_unreadable", "not a JSON object"),
        (b'{"resource":"a","resource":"b"}', "metadata_unreadable", "stands twice"),
        (Said(200, b"x" * 300_000), "metadata_unreadable", "larger than 256 KiB"),
        (0, "connect_failed", ""),
    ],
)
def test_a_named_place_that_fails_otherwise_is_named_and_stops(published, page, code, told):
    server, provider = published()
    server.challenge(f'Bearer resource_metadata="{server.origin}/prm"')
    server.pages["/prm"] = page
    error = failure(server.url)
    assert error.code == code and told in error.cause
    assert server.asked == ["POST /mcp", "GET /prm"] and not provider.asked
    assert error.exchanges[-1].url == f"{server.origin}/prm" and error.exchanges[-1].code == code


def test_a_pathed_issuer_never_asks_the_root_of_its_host(published):
    server, provider = published("/t")
    assert look(server.url).discovered.issuer == provider.issuer
    provider.pages = {AS: provider.pages[f"{AS}/t"], OPENID: provider.pages[f"{AS}/t"]}
    provider.server.seen.clear()
    error = failure(server.url)
    assert error.code == "metadata_incomplete" and "/t" in error.cause
    assert provider.asked == [f"GET {AS}/t", f"GET {OPENID}/t", f"GET /t{OPENID}"]


def test_a_url_is_asked_byte_for_byte(published):
    server, provider = published()
    server.url = f"{server.origin}/%7Eme/a+b;c?team=%2F&x"
    server.challenge("")
    server.publish(provider.issuer)
    look(server.url)
    assert server.asked == [
        "POST /%7Eme/a+b;c?team=%2F&x",
        f"GET {PRM}/%7Eme/a+b;c?team=%2F&x",
    ]


# -- what is not believed --------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["https://evil.test/mcp", "{origin}/other", "{origin}/mcpx"])
def test_sec_022_foreign_resource_stops_before_any_authorization(published, resource):
    server, provider = published()
    server.publish(provider.issuer, resource=resource.format(origin=server.origin))
    error = failure(server.url)
    assert error.code == "resource_mismatch" and server.url in error.cause
    assert not provider.asked


@pytest.mark.parametrize(
    "place",
    [
        *("https://169.254.169.254/latest", "https://[fd00:ec2::254]/", "https://10.0.0.1/x"),
        *("http://as.test/prm", "file:///etc/passwd", "/relative", "https://me:@h.test/"),
        "https://h.test/a/../b",
    ],
)
def test_sec_022_an_address_in_a_challenge_passes_the_guard(published, place):
    server, provider = published()
    server.challenge(f'Bearer resource_metadata="{place}"')
    assert failure(server.url).code == "blocked_address"
    assert server.asked == ["POST /mcp"] and not provider.asked


def test_sec_022_a_private_provider_is_not_asked(published):
    server, provider = published()
    server.publish("https://10.0.0.1")
    assert failure(server.url).code == "blocked_address"
    server.publish("http://10.0.0.1", "https://as.test/?q")
    error = failure(server.url)
    assert error.code == "no_authorization_server" and "http://10.0.0.1" in error.cause
    assert not provider.asked


def test_sec_021_a_document_of_another_issuer_is_passed_over(published):
    server, provider = published()
    provider.publish(at=OPENID)
    provider.publish(issuer=f"{provider.origin}/")
    assert look(server.url).discovered.metadata_url == provider.origin + OPENID


def test_sec_021_no_document_of_this_issuer_is_a_mismatch_with_both_named(published):
    server, provider = published()
    provider.publish(issuer="https://evil.test")
    provider.pages[OPENID] = b"<html>"
    error = failure(server.url)
    assert error.code == "issuer_mismatch"
    assert provider.issuer in error.cause and "https://evil.test" in error.cause
    assert provider.asked == [f"GET {AS}", f"GET {OPENID}"]


@pytest.mark.parametrize("methods", [..., ["plain"]])
@pytest.mark.parametrize("place", [AS, OPENID])
def test_sec_006_a_provider_without_s256_is_refused_unless_an_admin_knows(
    published, methods, place
):
    server, provider = published()
    provider.pages.clear()
    provider.publish(at=place, code_challenge_methods_supported=methods)
    assert failure(server.url).code == "pkce_not_offered"
    assert not look(server.url, pkce="unadvertised").discovered.has_s256


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"token_endpoint": ...}, "metadata_incomplete"),
        ({"token_endpoint": "http://as.test/token"}, "metadata_incomplete"),
        ({"grant_types_supported": ["implicit"]}, "grant_not_offered"),
        ({"scopes_supported": "read"}, "metadata_unreadable"),
    ],
)
def test_a_provider_that_says_too_little_is_refused(published, changes, code):
    server, provider = published()
    provider.publish(**changes)
    error = failure(server.url)
    assert error.code == code and error.exchanges[-1].code == code


@pytest.mark.parametrize("where", ["resource", "provider"])
def test_a_body_without_end_is_left_at_256_kib(published, where):
    server, provider = published()
    site, place = (server, PRM + "/mcp") if where == "resource" else (provider, AS)
    sent = []

    def endless():
        for _ in range(800):  # 50 MB
            sent.append(65_536)
            yield b"x" * 65_536

    site.pages[place] = lambda _: Said(200, endless(), {"Content-Type": JSON})
    error = failure(server.url)
    assert error.code == "metadata_unreadable" and "256 KiB" in error.cause
    assert site.server.hung_up.wait(10) and sum(sent) < 20_000_000


def test_a_compressed_body_counts_as_what_it_is(published):
    server, provider = published()
    packed = gzip.compress(b" " * 50_000_000)
    provider.pages[AS] = Said(200, packed, {"Content-Type": JSON, "Content-Encoding": "gzip"})
    assert failure(server.url).code == "metadata_unreadable"


def test_one_silent_server_takes_no_longer_than_all_may(published):
    server, provider = published()

    def silent(_):
        server.server.hung_up.wait(20)
        return Said(200)

    provider.pages[AS] = silent
    error = failure(server.url, seconds=0.5)
    assert error.code == "timeout" and error.exchanges[-1].status is None
    server.server.hung_up.set()


def test_an_outage_is_no_answer(published):
    server, provider = published()
    for status in (500, 503, 429):
        server.pages["/mcp"] = status
        assert failure(server.url).code == "upstream_error"
    assert server.asked == ["POST /mcp"] * 3 and not provider.asked
    server.challenge()
    provider.pages = {AS: 503}
    assert failure(server.url).code == "provider_error"


def test_a_server_that_moved_is_not_followed(published):
    server, provider = published()
    server.pages["/mcp"] = Said(307, b"", {"Location": f"{provider.origin}/mcp"})
    error = failure(server.url)
    assert error.code == "redirected" and f"{provider.origin}/mcp" in error.admin
    assert server.asked == ["POST /mcp"] and not provider.asked


def test_nobody_there_says_so_by_the_step(published):
    server, provider = published()
    server.publish("https://nobody.invalid")
    assert failure(server.url).code == "dns_failed"
    provider.server.stop()
    server.publish(provider.issuer)
    assert failure(server.url).code == "connect_failed"


# -- how a server answers a stranger ---------------------------------------------------------------


@pytest.mark.parametrize(("script", "era"), [(modern, "modern"), (legacy, "legacy")])
def test_a_server_without_a_sign_in_is_open(published, script, era):
    server, provider = published()
    server.pages = {"/mcp": script}
    found = look(server.url)
    assert found.is_open and found.era == era and found.discovered is None
    assert not provider.asked


def test_a_server_that_asks_only_at_a_tool_is_open_and_publishes_how(published):
    server, provider = published()
    server.pages["/mcp"] = dual
    found = look(server.url)
    assert found.is_open and found.discovered.issuer == provider.issuer


def test_an_open_server_may_publish_nonsense(published):
    server, provider = published()
    server.pages["/mcp"] = dual
    server.publish(provider.issuer, resource="https://evil.test")
    found = look(server.url)
    assert found.is_open and found.discovered is None and not provider.asked
    assert any("https://evil.test" in note for note in found.notes)


def test_an_open_server_is_not_asked_for_addresses_that_nobody_named(published):
    server, _ = published()
    server.pages = {"/mcp": dual}
    look(server.url)
    assert server.asked == ["POST /mcp", f"GET {PRM}/mcp", f"GET {PRM}"]


def test_an_old_era_that_refuses_the_new_one_is_asked_in_its_own(published):
    server, provider = published()
    turned_away = server.pages["/mcp"]

    def old(seen):
        return turned_away if seen.rpc == "initialize" else says(b"what?", 400)

    server.pages["/mcp"] = old
    assert look(server.url).discovered.issuer == provider.issuer
    assert server.asked[:2] == ["POST /mcp"] * 2
    assert [one.rpc for one in server.server.seen[:2]] == ["server/discover", "initialize"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_challenge_counts_with_either_status(published, status):
    server, provider = published()
    server.challenge(status=status)
    assert look(server.url).discovered.issuer == provider.issuer


@pytest.mark.parametrize("post", [404, 405, 400])
def test_an_old_transport_is_asked_with_get(published, post):
    server, provider = published()
    turned_away = server.pages["/mcp"]
    server.pages["/mcp"] = lambda seen: turned_away if seen.method == "GET" else Said(post)
    assert look(server.url).discovered.issuer == provider.issuer
    assert server.asked[:3] == ["POST /mcp", "POST /mcp", "GET /mcp"]


def test_an_old_server_whose_stream_opens_is_open(published):
    server, _ = published()
    old = OldServer()
    server.pages = {"/sse": old}
    found = look(f"{server.origin}/sse")
    assert found.is_open and found.era == "sse"
    old._say["/messages?s=1"].put(None)


def test_an_answer_in_a_stream_that_goes_on_is_read(published):
    server, _ = published()

    def streaming(seen):
        answer = dual(seen)
        yield b": hello\n\ndata: " + answer.body + b"\n\n"
        server.server.hung_up.wait(20)
        yield b": late\n\n"

    server.pages = {"/mcp": lambda seen: Said(200, streaming(seen), {"Content-Type": EVENTS})}
    assert look(server.url).era == "modern"


@pytest.mark.parametrize("page", [b"<html>hello</html>", 404, 405, 400, says({"hello": 1})])
def test_what_is_no_mcp_server_is_told_so(published, page):
    server, provider = published()
    server.pages = {"/mcp": page}
    assert failure(server.url).code == "upstream_bad_answer"
    assert not provider.asked


@pytest.mark.parametrize("said", ["", 'Basic realm="x"', "Bearer"])
def test_a_sign_in_without_a_word_how_is_told_so(published, said):
    server, provider = published()
    server.pages.clear()
    server.challenge(said)
    error = failure(server.url)
    assert error.code == "no_sign_in_info" and "It answered 401" in error.cause
    gets = [PRM + "/mcp", PRM, AS, OPENID, "/authorize"]
    assert server.asked == ["POST /mcp", *(f"GET {one}" for one in gets)] and not provider.asked


def test_a_403_without_a_challenge_is_no_server_of_old_times(published):
    server, _ = published()
    server.pages = {"/mcp": 403, AS: {"issuer": server.origin}}
    assert failure(server.url).code == "no_sign_in_info"
    assert server.asked == ["POST /mcp", f"GET {PRM}/mcp", f"GET {PRM}"]


# -- servers of 2025-03-26 -------------------------------------------------------------------------


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_server_of_old_times_is_its_own_provider(published, slash):
    server, provider = published()
    server.challenge("Bearer")
    del server.pages[PRM + "/mcp"]
    said = provider.pages[AS]
    server.pages[AS] = {
        name: value.replace(provider.origin, server.origin) if isinstance(value, str) else value
        for name, value in said.items()
    } | {"issuer": server.origin + slash}
    found = look(server.url)
    assert found.discovered.issuer == server.origin + slash and found.discovered.resource is None
    assert found.discovered.token_endpoint == f"{server.origin}/token"
    assert any("it is its own" in note for note in found.notes) and not provider.asked


def test_a_server_of_old_times_with_details_of_another_is_refused(published):
    server, provider = published()
    server.challenge("Bearer")
    server.pages.pop(PRM + "/mcp")
    server.pages[AS] = provider.pages[AS]
    assert failure(server.url).code == "issuer_mismatch"


def test_fixed_addresses_are_assumed_where_they_answer_and_it_is_said(published):
    server, _ = published()
    server.challenge("Bearer")
    server.pages |= {PRM + "/mcp": 404, "/authorize": 400, "/token": 405}
    found = look(server.url)
    said = found.discovered
    assert said.issuer == server.origin and said.metadata_url is None and not said.has_s256
    assert said.authorization_endpoint == f"{server.origin}/authorize"
    assert said.registration_endpoint == f"{server.origin}/register"
    assert any("we assume its own address" in note for note in found.notes)
    assert server.asked[-2:] == ["GET /authorize", "POST /token"]
    assert server.server.seen[-1].body == b""


def test_a_token_address_that_is_not_there_is_not_assumed(published):
    server, _ = published()
    server.challenge("Bearer")
    server.pages |= {PRM + "/mcp": 404, "/authorize": 200}
    assert failure(server.url).code == "no_sign_in_info"


@pytest.mark.parametrize(
    ("page", "code"),
    [
        ({"resource": "{url}"}, "no_authorization_server"),
        ({"resource": "{url}", "authorization_servers": []}, "no_authorization_server"),
        ({"resource": "https://evil.test"}, "resource_mismatch"),
        (b'{"resource": ', "metadata_unreadable"),
        (Said(302, b"", {"Location": "/login"}), "metadata_unreadable"),
        (503, "provider_error"),
    ],
)
def test_resource_metadata_that_exists_is_never_overridden(published, page, code):
    server, provider = published()
    server.challenge("Bearer")
    if isinstance(page, dict):
        page = {name: server.url if said == "{url}" else said for name, said in page.items()}
    server.pages |= {PRM + "/mcp": page, AS: provider.pages[AS] | {"issuer": server.origin}}
    assert failure(server.url).code == code
    assert f"GET {AS}" not in server.asked


def test_a_web_app_that_answers_everything_publishes_nothing(published):
    server, _ = published()
    app_page = Said(200, b"<!doctype html><p>{}", {"Content-Type": "text/html"})
    server.challenge("Bearer")
    server.pages |= dict.fromkeys((PRM + "/mcp", PRM, AS, OPENID), app_page)
    assert failure(server.url).code == "no_sign_in_info"


# -- which provider --------------------------------------------------------------------------------


def test_of_several_providers_the_one_that_knows_us_else_the_first(published):
    server, provider = published()
    _, other = published()
    server.publish(provider.issuer, other.issuer)
    first = look(server.url)
    assert first.discovered.issuer == provider.issuer
    assert first.discovered.servers == (provider.issuer, other.issuer)
    assert any(other.issuer in note for note in first.notes) and not other.asked
    assert look(server.url, prefer=[other.issuer]).discovered.issuer == other.issuer


def test_a_pinned_issuer_is_used_whatever_the_server_names_and_checked_the_same(published):
    server, provider = published()
    _, other = published()
    found = look(server.url, issuer=other.issuer)
    assert found.discovered.issuer == other.issuer and not provider.asked
    assert any("an admin did" in note for note in found.notes)
    assert failure(server.url, issuer=f"{other.issuer}/").code == "issuer_mismatch"
    server.publish(provider.issuer, resource="https://evil.test")
    assert failure(server.url, issuer=other.issuer).code == "resource_mismatch"


def test_a_pinned_issuer_needs_no_resource_metadata(published):
    server, provider = published()
    server.pages = {"/mcp": Said(401)}
    assert look(server.url, issuer=provider.issuer).discovered.issuer == provider.issuer


def test_the_servers_that_are_named_now_cost_one_request(published):
    server, provider = published()
    found = look(server.url).discovered
    server.server.seen.clear()
    server.publish("https://other.test")
    assert discovery.servers(found, server.url) == ("https://other.test",)
    assert server.asked == [f"GET {PRM}/mcp"]
    server.publish("https://other.test", resource="https://evil.test")
    with pytest.raises(DiscoveryFailed):
        discovery.servers(found, server.url)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        *[("max-age=600", 600), ("public, MAX-AGE=5", 300), ("max-age=999999999999", 3600)],
        *[("no-store", 300), ("max-age=x", 3600), ("", 3600), ("max-age=²", 3600)],
    ],
)
def test_how_long_metadata_is_good_for(published, said, seconds):
    server, provider = published()
    raw = json.dumps(provider.pages[AS]).encode()
    provider.pages[AS] = lambda _: Said(200, raw, {"Content-Type": JSON, "Cache-Control": said})
    assert look(server.url).discovered.life_s == seconds


# -- TLS -------------------------------------------------------------------------------------------


def test_a_gateways_own_ca_is_good_for_its_server_and_its_provider(published, tmp_path):
    ca = authority.Authority()
    tls = authority.server(ca.signs("127.0.0.1"), tmp_path)
    server, provider = published(tls=tls)
    assert failure(server.url).code == "tls_failed"
    trust = Trust(Where("gateway", "g", "client_key_sealed", "gateway:g"), ca.pem, None, None)
    assert look(server.url, trust=trust).discovered.issuer == provider.issuer


def test_a_request_has_five_seconds_and_all_have_twenty():
    assert (fetching.REQUEST_S, discovery.ALL_S, fetching.BODY_LIMIT) == (5.0, 20.0, 262_144)
