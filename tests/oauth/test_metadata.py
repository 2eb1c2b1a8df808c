"""Where metadata may stand, and which of it is believed: without a network."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UpstreamError
from app.oauth import metadata, places
from app.oauth.places import Refused

AS = "https://as.test"
GOOD = {
    "issuer": AS,
    "authorization_endpoint": f"{AS}/authorize",
    "token_endpoint": f"{AS}/token",
    "code_challenge_methods_supported": ["S256"],
}
URL = "https://mcp.test/mcp"
WELL = "/.well-known/"


def document(**changes) -> bytes:
    said = {name: value for name, value in (GOOD | changes).items() if value is not ...}
    return json.dumps(said).encode()


def server(at=f"{AS}{WELL}oauth-authorization-server", issuers=(AS,), **changes):
    return metadata.read_server(document(**changes), issuers, at=at)


def resource(url=URL, **said):
    body = json.dumps({"resource": url, "authorization_servers": [AS]} | said).encode()
    return metadata.read_resource(body, url, at="https://mcp.test/prm")


def refusal(act, *args, **more) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*args, **more)
    return caught.value


# -- where to look ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h.test/mcp", ["/mcp", ""]),
        ("https://h.test/a/b/", ["/a/b", ""]),
        ("https://h.test/", [""]),
        ("https://h.test", [""]),
        ("https://h.test/mcp?team=1", ["/mcp?team=1", ""]),
        ("https://h.test?team=1", ["?team=1", ""]),
        ("https://h.test/%7Eme", ["/%7Eme", ""]),
    ],
)
def test_prm_candidates(url, expected):
    root = f"https://h.test{WELL}oauth-protected-resource"
    assert list(places.resource_places(url)) == [root + rest for rest in expected]


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        pytest.param(
            f"{AS}/t",
            [
                f"{AS}{WELL}oauth-authorization-server/t",
                f"{AS}{WELL}openid-configuration/t",
                f"{AS}/t{WELL}openid-configuration",
            ],
            id="path",
        ),
        pytest.param(
            AS,
            [f"{AS}{WELL}oauth-authorization-server", f"{AS}{WELL}openid-configuration"],
            id="root",
        ),
        pytest.param(
            f"{AS}/",
            [f"{AS}{WELL}oauth-authorization-server", f"{AS}{WELL}openid-configuration"],
            id="root with a slash",
        ),
        pytest.param(
            "https://as.test:8443/a/b/",
            [
                f"https://as.test:8443{WELL}oauth-authorization-server/a/b",
                f"https://as.test:8443{WELL}openid-configuration/a/b",
                f"https://as.test:8443/a/b{WELL}openid-configuration",
            ],
            id="deep, with a slash and a port",
        ),
    ],
)
def test_metadata_candidates(issuer, expected):
    assert list(places.server_places(issuer)) == expected


@given(st.text("abc/%2E-", min_size=1, max_size=12))
def test_a_pathed_issuer_never_asks_the_root(path):
    issuer = f"{AS}/{path}"
    if not places.could_be_issuer(issuer) or not issuer[len(AS) :].strip("/"):
        return
    root = {f"{AS}{WELL}oauth-authorization-server", f"{AS}{WELL}openid-configuration"}
    assert root.isdisjoint(places.server_places(issuer))


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        (" https://H.Test/MCP ", "https://h.test/MCP"),
        ("https://h.test:443/x", "https://h.test/x"),
        ("https://h.test:8443/x", "https://h.test:8443/x"),
        ("https://h.test/x#top", "https://h.test/x"),
        ("https://h.test/%7Ea/?B=%2f&b", "https://h.test/%7Ea/?B=%2f&b"),
        ("http://127.0.0.1:80/", "http://127.0.0.1/"),
        ("http://[::1]:9000/x", "http://[::1]:9000/x"),
        ("https://h.test?x", "https://h.test?x"),
    ],
)
def test_a_url_is_called_in_one_spelling(typed, called):
    assert places.normalised(typed) == called


@pytest.mark.parametrize(
    "url",
    [
        *("http://h.test/", "ftp://h.test/", "//h.test/", "h.test", "", "https://"),
        *("https://me@h.test/", "https://me:@h.test/", "https://h.test:22/", "https://h.test:x/"),
        *("https://h.test/a/../b", "https://h.test/%2e%2E/b", "https://h.test/a%2f..%2fb"),
        *("https://h.test/a b", "https://h.test\\@evil.test/", "https://hé.test/", "https://[x/"),
        "https://h.test/" + "x" * 2_050,
    ],
)
def test_what_could_be_read_in_two_ways_is_not_called(url):
    assert refusal(places.normalised, url).code == "blocked_address"
    assert not places.could_be_issuer(url)


@pytest.mark.parametrize("issuer", [f"{AS}?x", f"{AS}/#", f"{AS}/?", f"{AS}#x"])
def test_an_issuer_has_neither_query_nor_fragment(issuer):
    assert not places.could_be_issuer(issuer)


# -- the resource ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "url", "is_covered"),
    [
        ("https://h.test/mcp", "https://h.test/mcp", True),
        ("https://h.test/mcp", "https://h.test/mcp/x", True),
        ("https://h.test/mcp/", "https://h.test/mcp", True),
        ("https://h.test/mcp", "https://h.test/mcp/", True),
        ("https://h.test", "https://h.test/mcp", True),
        ("https://h.test/", "https://h.test/mcp", True),
        ("https://H.TEST:443/mcp", "https://h.test/mcp", True),
        ("https://h.test/mcp", "https://h.test/mcp?a=1", True),
        ("https://h.test/mcp?a=1", "https://h.test/mcp?a=1", True),
        ("https://h.test/mcp", "https://h.test/mcpx", False),
        ("https://h.test/mcp/x", "https://h.test/mcp", False),
        ("https://h.test/MCP", "https://h.test/mcp", False),
        ("https://h.test/mcp/../mcp", "https://h.test/mcp", False),
        ("https://h.test/mcp?a=2", "https://h.test/mcp?a=1", False),
        ("https://h.test/mcp#a", "https://h.test/mcp", False),
        ("https://h.test/mc\np", "https://h.test/mcp", False),
        ("http://h.test/mcp", "https://h.test/mcp", False),
        ("https://h.test:8443/mcp", "https://h.test/mcp", False),
        ("https://h.test:0/mcp", "https://h.test/mcp", False),
        ("https://me@h.test/mcp", "https://h.test/mcp", False),
        ("https://evil.test/mcp", "https://h.test/mcp", False),
        ("https://h.test.evil.test/mcp", "https://h.test/mcp", False),
        ("https://h.test@evil.test/mcp", "https://h.test/mcp", False),
        ("https://[h.test/mcp", "https://h.test/mcp", False),
        ("/mcp", "https://h.test/mcp", False),
        ("", "https://h.test/mcp", False),
    ],
)
def test_parent_path_is_accepted_sibling_is_not(said, url, is_covered):
    assert places.covers(said, url) is is_covered


def test_sec_022_a_foreign_resource_is_refused_with_both_named():
    error = refusal(metadata.read_resource, b'{"resource":"https://evil.test"}', URL, at="place")
    assert error.code == "resource_mismatch"
    assert "https://evil.test" in error.cause and URL in error.cause


def test_servers_that_may_not_be_called_are_left_out_and_told():
    said = [AS, "http://plain.test", "https://as.test/?q", AS, "javascript:alert(1)"]
    found = resource(authorization_servers=said)
    assert found.servers == (AS,)
    assert found.left_out == ("http://plain.test", "https://as.test/?q", "javascript:alert(1)")


def test_scopes_that_cannot_be_asked_for_are_left_out():
    found = resource(scopes_supported=["a", 'b"', "", "c d", "a", "é", "d,e"])
    assert found.scopes == ("a", "d,e")


# -- the authorization server ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        pytest.param(f"{AS}/", AS, id="slash"),
        pytest.param(AS, f"{AS}/", id="no slash"),
        pytest.param("https://AS.test", AS, id="case"),
        pytest.param("https://as.test:443", AS, id="port"),
        pytest.param(f"{AS}/%74", f"{AS}/t", id="percent"),
        pytest.param(f"{AS}/T", f"{AS}/t", id="case of the path"),
        pytest.param("http://as.test", AS, id="scheme"),
        pytest.param(f" {AS}", AS, id="space"),
        pytest.param("https://evil.test", AS, id="another"),
        pytest.param("", AS, id="empty"),
        pytest.param(None, AS, id="null"),
        pytest.param(..., AS, id="absent"),
    ],
)
def test_sec_021_issuer_by_bytes(said, asked):
    error = refusal(server, issuers=(asked,), issuer=said)
    named = said.strip() if isinstance(said, str) and said else "none"
    assert error.code == "issuer_mismatch"
    assert asked in error.cause and f"about {named}." in error.cause


@pytest.mark.parametrize("issuer", [AS, f"{AS}/", f"{AS}/t", f"{AS}/t/", "https://as.test:443"])
def test_sec_021_the_same_bytes_are_taken(issuer):
    assert server(issuers=(issuer,), issuer=issuer).issuer == issuer


@pytest.mark.parametrize(
    ("methods", "at"),
    [
        pytest.param(..., "oauth-authorization-server", id="absent"),
        pytest.param(None, "oauth-authorization-server", id="null"),
        pytest.param([], "oauth-authorization-server", id="none"),
        pytest.param(["plain"], "oauth-authorization-server", id="plain"),
        pytest.param(["s256"], "oauth-authorization-server", id="case"),
        pytest.param(..., "openid-configuration", id="openid"),
    ],
)
def test_sec_006_no_s256_is_refused(methods, at):
    found = server(at=f"{AS}{WELL}{at}", code_challenge_methods_supported=methods)
    error = refusal(metadata.check_server, found, grant="authorization_code", pkce="required")
    assert error.code == "pkce_not_offered" and AS in error.cause
    for knowingly in ("unadvertised", "off"):
        metadata.check_server(found, grant="authorization_code", pkce=knowingly)
    metadata.check_server(found, grant="client_credentials", pkce="required")  # there is no code


def test_sec_006_s256_beside_others_is_enough():
    found = server(code_challenge_methods_supported=["plain", "S256"])
    metadata.check_server(found, grant="authorization_code", pkce="required")


@pytest.mark.parametrize(
    ("changes", "grant", "code", "told"),
    [
        ({"token_endpoint": ...}, "authorization_code", "metadata_incomplete", "token_endpoint"),
        ({"token_endpoint": ...}, "client_credentials", "metadata_incomplete", "token_endpoint"),
        (
            {"authorization_endpoint": ...},
            *("authorization_code", "metadata_incomplete", "authorization_endpoint"),
        ),
        (
            {"token_endpoint": "http://as.test/token"},
            *("authorization_code", "metadata_incomplete", "token_endpoint is not an https"),
        ),
        (
            {"authorization_endpoint": f"{AS}/a#b"},
            *("authorization_code", "metadata_incomplete", "authorization_endpoint is not"),
        ),
        (
            {"grant_types_supported": ["implicit", "password"]},
            *("authorization_code", "grant_not_offered", "implicit, password"),
        ),
        (
            {"grant_types_supported": ["authorization_code"]},
            *("client_credentials", "grant_not_offered", "client_credentials"),
        ),
        ({"grant_types_supported": []}, "authorization_code", "grant_not_offered", "nothing"),
        (
            {"response_types_supported": ["token"]},
            *("authorization_code", "grant_not_offered", "code"),
        ),
    ],
)
def test_a_server_that_cannot_do_it_is_refused_with_what_is_missing(changes, grant, code, told):
    found = server(**changes)
    error = refusal(metadata.check_server, found, grant=grant, pkce="required")
    assert error.code == code and told in error.cause


def test_what_is_not_needed_may_be_missing():
    found = server(authorization_endpoint=..., code_challenge_methods_supported=...)
    metadata.check_server(found, grant="client_credentials", pkce="required")


@pytest.mark.parametrize("url", ["http://as.test/revoke", "https://10.0.0.1:22/", "x", f"{AS}/#x"])
def test_an_address_that_may_not_be_called_is_left_out_and_told(url):
    found = server(revocation_endpoint=url)
    assert "revocation_endpoint" not in found.endpoints
    assert found.left_out == ("revocation_endpoint is not an https address",)
    metadata.check_server(found, grant="authorization_code", pkce="required")


# -- reading ---------------------------------------------------------------------------------------

WRONG = [
    *(b"", b"null", b"[]", b'"x"', b"<html></html>", b"{", b'{"issuer":"a","issuer":"b"}', b"\xff"),
    b"[" * 100,
]


@pytest.mark.parametrize("body", WRONG)
def test_what_is_no_object_is_unreadable(body):
    for read in (metadata.read_server, metadata.read_resource):
        who = URL if read is metadata.read_resource else (AS,)
        error = refusal(read, body, who, at="https://as.test/place")
        assert error.code == "metadata_unreadable" and "https://as.test/place" in error.cause


TEXTS = ["issuer", *metadata.ENDPOINTS]
LISTS = [
    *("scopes_supported", "grant_types_supported", "response_types_supported"),
    *("code_challenge_methods_supported", "token_endpoint_auth_methods_supported"),
    "token_endpoint_auth_signing_alg_values_supported",
]
FLAGS = [
    "authorization_response_iss_parameter_supported",
    "client_id_metadata_document_supported",
]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        *((name, value, "a text") for name in TEXTS for value in (1, [AS], {"a": 1}, True)),
        *((name, value, "a list of texts") for name in LISTS for value in ("S256", [1], [None])),
        *((name, value, "true or false") for name in FLAGS for value in ("true", 1, [])),
    ],
)
def test_a_member_of_the_wrong_type_is_named(name, value, kind):
    error = refusal(server, **{name: value})
    assert error.code == "metadata_unreadable" and f"{name} is not {kind}." in error.cause


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("resource", 1, "a text"),
        ("authorization_servers", AS, "a list of texts"),
        ("authorization_servers", [{"issuer": AS}], "a list of texts"),
        ("scopes_supported", "a b", "a list of texts"),
    ],
)
def test_a_member_of_the_wrong_type_in_a_resource_is_named(name, value, kind):
    error = refusal(resource, **{name: value})
    assert error.code == "metadata_unreadable" and f"{name} is not {kind}." in error.cause


def test_null_says_nothing_and_a_byte_order_mark_is_let_pass():
    said = document(scopes_supported=None, revocation_endpoint=None, other=[1])
    said = said.replace(b"[1]", b"[1e400]")  # what we do not use may be anything
    found = metadata.read_server(b"\xef\xbb\xbf" + said, (AS,), at=AS)
    assert found.scopes is None and "revocation_endpoint" not in found.endpoints


def test_what_a_document_says_is_kept():
    found = server(
        grant_types_supported=["authorization_code", "refresh_token"],
        response_types_supported=["code"],
        scopes_supported=["a", "openid"],
        token_endpoint_auth_methods_supported=["none", "private_key_jwt"],
        token_endpoint_auth_signing_alg_values_supported=["ES256"],
        revocation_endpoint="https://other.test/revoke",
        authorization_response_iss_parameter_supported=True,
        client_id_metadata_document_supported=True,
    )
    assert found.scopes == ("a", "openid") and found.is_openid
    assert found.auth_methods == ("none", "private_key_jwt")
    assert found.assertion_algs == ("ES256",)
    assert found.endpoints["revocation_endpoint"] == "https://other.test/revoke"
    assert found.names_itself and found.takes_documents and len(found.sha256) == 64


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*TEXTS, *LISTS, *FLAGS]), JSON), st.binary(max_size=40))
def test_any_document_is_read_or_refused(said, junk):
    for body in (json.dumps(GOOD | said).encode(), junk):
        try:
            found = metadata.read_server(body, (AS,), at=AS)
            metadata.check_server(found, grant="authorization_code", pkce="required")
        except UpstreamError as error:
            assert error.message and error.cause and "(" + "missing" + ")" not in error.cause
