"""One rule behind form, JSON API and import."""

import copy

import pytest

from app import specs
from app.errors import Invalid
from app.specs import GatewaySpec, OAuthConfigSpec, merge, plain, read, slug_of
from tests.web.registry import BASIC, BEARER, CODE, HEADERS, KINDS, NONE, SHARED


def changed(record, path, value):
    """A copy with one value changed; ... removes it."""
    record = copy.deepcopy(record)
    *way, last = path.split(".")
    place = record
    for name in way:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return record


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_is_taken(kind):
    spec = read(GatewaySpec, KINDS[kind])
    assert spec.name == KINDS[kind]["name"]


URLS = {
    "ftp://x": "Start with https://",
    "http://example.com/mcp": "Start with https://",
    "https://": "Start with https://",
    "https://a b/": "no spaces",
    "https://exämple.com": "no spaces",
    "https://a/\r\nX: y": "no spaces",
    "https://a\\b": "no spaces",
    "https://u:p@a/": "user and password",
    "https://a/#x": "after #",
    "https://a/#": "after #",
    "https://a:99999/": "not an address",
    "https://[::1/": "not an address",
    "https://a:22/": "Port 22",
    "": "Start with https://",
    "https://a/" + "a" * 1024: "too long",
}


@pytest.mark.parametrize("path", ["url", "oauth_config.token_url", "oauth_config.issuer"])
@pytest.mark.parametrize(("url", "said"), URLS.items())
def test_an_address_we_could_not_call_is_refused(path, url, said):
    with pytest.raises(Invalid) as caught:
        read(GatewaySpec, changed(CODE, path, url))
    assert list(caught.value.fields) == [path]
    assert said in caught.value.fields[path]


@pytest.mark.parametrize(
    ("record", "path", "value", "said"),
    [
        (NONE, "name", "", "This is required."),
        (NONE, "name", ..., "This is required."),
        (NONE, "name", "a\0b", "control character"),
        (NONE, "name", "a\nb", "control character"),
        (NONE, "name", "a" * 101, "at most 100"),
        (NONE, "name", 5, "must be text"),
        (NONE, "description", "a" * 501, "at most 500"),
        (NONE, "slug", "A", "small letters"),
        (NONE, "slug", "a" * 33, "at most 32"),
        (NONE, "slug", "new", "a page of ours"),
        (NONE, "transport", "ws", "one of"),
        (NONE, "auth_type", "magic", "one of"),
        (NONE, "enabled", "perhaps", "true or false"),
        (NONE, "enabled", "yes", "true or false"),
        (NONE, "enabled", 1, "true or false"),
        (NONE, "enabled", None, "true or false"),
        (NONE, "auth_type", None, "one of"),
        (NONE, "timeout_s", True, "must be a number"),
        (CODE, "oauth_config.lifetime", {"default": True}, "must be a number"),
        (NONE, "timeout_s", 0, "at least 1"),
        (NONE, "timeout_s", 3601, "at most 3600"),
        (NONE, "timeout_s", "soon", "must be a number"),
        (NONE, "owner_id", "x", "no such field"),
        (NONE, "credentials_sealed", "x", "no such field"),
        (BASIC, "basic", None, "Enter the user name"),
        (BASIC, "basic.username", "a:b", "colon"),
        (BASIC, "basic.username", "a\r\nX: y", "control character"),
        (BASIC, "basic.password", "", "Enter the password"),
        (BASIC, "basic.password", "a\r\nX: y", "control character"),
        (BASIC, "basic.extra", "x", "no such field"),
        (BEARER, "bearer_token", ..., "Enter the token"),
        (BEARER, "bearer_token", "a b", "no spaces"),
        (BEARER, "bearer_token", "ä", "no spaces"),
        (BEARER, "bearer_token", "a\r\nX: y", "control character"),
        (BEARER, "bearer_token", "a" * 16_385, "This is too long: at most 16384 characters."),
        (HEADERS, "headers", {}, "at least one"),
        (HEADERS, "headers", {"Host": "x"}, "cannot be set"),
        (HEADERS, "headers", {"Mcp-Session-Id": "x"}, "cannot be set"),
        (HEADERS, "headers", {"X\r\nY": "x"}, "cannot be set"),
        (HEADERS, "headers", {"X-Ä": "x"}, "cannot be set"),
        (HEADERS, "headers", {"X-A": "€"}, "cannot carry"),
        (HEADERS, "headers", {"X-A": ""}, "Enter the value of X-A"),
        (HEADERS, "headers", {"X-A": "1", "x-a": "2"}, "stands twice"),
        (HEADERS, "headers.X-Team", "a\r\nX: y", "control character"),
        (NONE, "headers", {"X-A": "1"}, "belongs to the authentication type headers"),
        (BASIC, "bearer_token", "x", "belongs to the authentication type bearer"),
        (CODE, "oauth_config", ..., "Say how tokens are got"),
        (CODE, "oauth_config", [], "must be an object"),
        (CODE, "oauth_config.grant_type", "password", "one of"),
        (CODE, "oauth_config.client_id", ..., "Enter the client ID"),
        (CODE, "oauth_config.authorization_url", ..., "Enter the authorization URL"),
        (CODE, "oauth_config.token_url", ..., "Enter the token URL"),
        (CODE, "oauth_config.scopes", "repo,user", "cannot contain commas. Use spaces."),
        (CODE, "oauth_config.scopes", ["repo,user"], "cannot contain commas. Use spaces."),
        (CODE, "oauth_config.scopes", 5, "must be a list"),
        (CODE, "oauth_config.client_sercet", "x", "no such field"),
        (CODE, "oauth_config.resource", "api", "absolute URI"),
        (CODE, "oauth_config.resource", "https://a/#b", "absolute URI"),
        (CODE, "oauth_config.extra_token_params", {"code_verifier": "x"}, "set by the gateway"),
        (CODE, "oauth_config.extra_authorize_params", {"state": "x"}, "set by the gateway"),
        (CODE, "oauth_config.extra_token_params", dict.fromkeys(map(str, range(21)), ""), "20"),
        (CODE, "oauth_config.offline", {"params": {"scope": "x"}}, "set by the gateway"),
        (CODE, "oauth_config.token_management", {"auto_refresh": True}, "if they are stored"),
        (
            CODE,
            "oauth_config.token_management",
            {"store_tokens": True, "refresh_threshold_seconds": 86_401},
            "at most 86400",
        ),
        (SHARED, "oauth_config.client_secret", ..., "Enter the client secret."),
        (SHARED, "oauth_config.token_url", None, "Enter the token URL"),
    ],
)
def test_what_is_wrong_is_named_with_a_sentence(record, path, value, said):
    with pytest.raises(Invalid) as caught:
        read(GatewaySpec, changed(record, path, value))
    [(where, sentence)] = caught.value.fields.items()
    assert where.startswith(path)
    assert said in sentence


def test_all_that_is_wrong_is_said_at_once():
    record = changed(CODE, "oauth_config.token_url", ...)
    record = changed(record, "oauth_config.scopes", "a,b")
    record = changed(record, "oauth_config.color", "red")
    with pytest.raises(Invalid) as caught:
        read(GatewaySpec, record | {"url": "ftp://x", "name": ""})
    assert sorted(caught.value.fields) == [
        "name",
        "oauth_config.color",
        "oauth_config.scopes",
        "oauth_config.token_url",
        "url",
    ]


@pytest.mark.parametrize("method", ["basic", "client_secret_basic", "post", "client_secret_post"])
def test_a_way_to_send_a_secret_needs_one(method):
    record = changed(CODE, "oauth_config.token_endpoint_auth_method", method)
    assert read(GatewaySpec, record).oauth_config.token_endpoint_auth_method in ("basic", "post")
    with pytest.raises(Invalid):
        read(GatewaySpec, changed(record, "oauth_config.client_secret", ""))


def test_a_public_client_needs_no_secret():
    read(GatewaySpec, changed(CODE, "oauth_config.client_secret", ...))


def test_who_signs_needs_a_key():
    record = changed(SHARED, "oauth_config.token_endpoint_auth_method", "private_key_jwt")
    with pytest.raises(Invalid) as caught:
        read(GatewaySpec, record)
    assert list(caught.value.fields) == ["oauth_config.client_private_key"]


def test_a_key_is_pasted_as_pem_or_made_for_us():
    pem = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n"
    for key, says in (("MIGHAgEA", "Paste the key as PEM"), (pem, "private key cannot be read")):
        with pytest.raises(Invalid, match="invalid") as caught:
            read(GatewaySpec, changed(SHARED, "oauth_config.client_private_key", key))
        assert says in " ".join(caught.value.fields.values())
    read(GatewaySpec, changed(SHARED, "oauth_config.client_private_key", "generate"))


@pytest.mark.parametrize("name", ["authorization_url", "token_url", "refresh_url"])
def test_protocol_parameters_in_an_address_are_cut_and_said_so(name):
    url = "https://as.test/x?client_id=1&tenant=%41%20b&scope=&code_challenge_method=plain&z"
    notices = []
    spec = read(GatewaySpec, changed(CODE, f"oauth_config.{name}", url), notices=notices)
    assert getattr(spec.oauth_config, name) == "https://as.test/x?tenant=%41%20b&z"
    assert notices == [
        f"Cut from the {name.replace('_url', ' URL')}, as the gateway sets it: "
        "client_id, scope, code_challenge_method."
    ]


def test_spaces_around_a_pasted_value_are_cut_and_said_so():
    record = changed(CODE, "oauth_config.client_id", " app-1\n")
    record = changed(record, "oauth_config.client_secret", "  s ")
    notices = []
    config = read(GatewaySpec, record, notices=notices).oauth_config
    assert config.client_id == "app-1"
    assert config.client_secret.get_secret_value() == "s"
    assert notices == [
        "Spaces around the client ID were cut.",
        "Spaces around the client secret were cut.",
    ]


@pytest.mark.parametrize("kind", ["code", "shared", "rare"])
def test_what_is_stored_is_read_again_as_it_was(kind):
    spec = read(GatewaySpec, KINDS[kind]).oauth_config
    again = OAuthConfigSpec.model_validate(spec.settings())
    assert again.settings() == spec.settings()
    assert "canary" not in str(spec.settings())


def test_no_refusal_and_no_repr_quotes_what_was_sent():
    record = changed(CODE, "oauth_config.client_secret", "canary\r\n1")
    record["canary-name"] = "canary"
    with pytest.raises(Invalid) as caught:
        read(GatewaySpec, record)
    assert "canary" not in "".join(caught.value.fields.values())
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert "canary" not in repr(read(GatewaySpec, CODE))


def test_a_patch_merges():
    record = {"name": "a", "auth_type": "oauth", "oauth_config": {"a": 1, "b": {"c": 2}, "d": 3}}
    patch = {"oauth_config": {"a": 9, "b": {"e": 4}, "d": None}}
    assert merge(record, patch)["oauth_config"] == {"a": 9, "b": {"c": 2, "e": 4}}


@pytest.mark.parametrize(
    ("sent", "left"), [("", "set"), ("set", "set"), (None, None), ("new", "new")]
)
def test_a_secret_in_a_patch_is_kept_removed_or_replaced(sent, left):
    record = {"auth_type": "oauth", "oauth_config": {"client_secret": "set"}}
    patched = merge(record, {"oauth_config": {"client_secret": sent}})
    assert patched["oauth_config"]["client_secret"] == left


def test_a_header_leaves_by_null_and_stays_by_silence():
    record = {"auth_type": "headers", "headers": {"A": "set", "B": "set", "C": "set"}}
    patched = merge(record, {"headers": {"A": None, "B": "", "D": "x"}})
    assert patched["headers"] == {"B": "set", "C": "set", "D": "x"}


def test_another_type_leaves_the_old_block_behind():
    record = {"auth_type": "basic", "basic": {"username": "u", "password": "set"}}
    patched = merge(record, {"auth_type": "bearer", "bearer_token": "t"})
    assert patched == {"auth_type": "bearer", "bearer_token": "t"}
    named = merge(record, {"auth_type": "none", "basic": {"username": "v"}})
    assert "basic" in named  # so that `read` refuses it by name


def test_secrets_stand_in_a_comparison_by_name_only():
    spec = read(GatewaySpec, HEADERS | {"headers": {"A": "set", "B": "canary"}})
    assert plain(spec)["headers"] == {"A": "set", "B": "new"}
    spec = GatewaySpec.model_validate(changed(CODE, "oauth_config.client_secret", None))
    assert plain(spec)["oauth_config"]["client_secret"] == ""
    spec = GatewaySpec.model_validate(changed(CODE, "oauth_config.client_secret", ""))
    assert "client_secret" not in plain(spec)["oauth_config"]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("GitHub MCP", "github-mcp"),
        ("  Über—Größe!! ", "uber-grosse"),
        ("1Password", "mcp-1password"),
        ("New", "mcp-new"),
        ("日本", ""),
        ("a" * 31 + " b", "a" * 31),
    ],
)
def test_a_slug_is_made_of_a_name(name, slug):
    assert slug_of(name) == slug
    assert not slug or specs._check_slug(slug) == slug
