"""What requests-oauthlib and oauthlib do by themselves, and must not do to us (oauth.md 12).

Each was reproduced with the libraries alone. Here is what is left of it behind our client. More of
one kind stands in test_client.py, test_replies.py and test_egress.py.
"""

import warnings

import pytest

from app.errors import ProviderError
from app.oauth.replies import TokenSet
from app.specs import OAuthConfigSpec, faults
from tests.oauth.test_client import GOOD, TOKEN, ask, client, failure, form, leaving

pytestmark = pytest.mark.usefixtures("app_ctx")

ANSWERS = {  # what comes, for which request, and the code it means; None: a token
    "a-500-with-a-token": ({"status_code": 500, "json": GOOD}, "refresh", "provider_error"),
    "a-500-with-invalid-grant": (
        {"status_code": 500, "json": {"error": "invalid_grant"}},
        "refresh",
        "provider_error",
    ),
    "a-page-that-looks-like-a-form": (
        {"text": "<p>x&access_token=x&y", "headers": {"Content-Type": "text/html"}},
        "exchange",
        "reply_unreadable",
    ),
    "an-empty-token": ({"json": GOOD | {"access_token": ""}}, "exchange", "reply_no_token"),
    "a-null-token": ({"json": GOOD | {"access_token": None}}, "refresh", "reply_no_token"),
    "null": ({"text": "null"}, "exchange", "reply_unreadable"),
    "a-list": ({"text": "[1]"}, "exchange", "reply_unreadable"),
    "duplicate-keys": (
        {"text": '{"access_token": "a", "access_token": "b", "token_type": "Bearer"}'},
        "exchange",
        "reply_unreadable",
    ),
    "an-empty-400": ({"status_code": 400}, "refresh", "token_request_rejected"),
    "expires-in-zero": ({"json": GOOD | {"expires_in": 0}}, "exchange", None),
    "expires-in-true": ({"json": GOOD | {"expires_in": True}}, "exchange", None),
    "expires-in-with-letters": ({"json": GOOD | {"expires_in": "3600abc"}}, "refresh", None),
    "expires-in-1e400": (
        {"text": '{"access_token": "at", "token_type": "Bearer", "expires_in": 1e400}'},
        "refresh",
        None,
    ),
    "scope-is-a-number": ({"json": GOOD | {"scope": 5}}, "refresh", None),
    "a-narrowed-scope": ({"json": GOOD | {"scope": "a"}}, "exchange", None),
}


@pytest.mark.parametrize(("reply", "request_", "code"), ANSWERS.values(), ids=ANSWERS)
def test_trap_the_library_reads_no_answer(provider, reply, request_, code):
    """It ignores the status, takes any body for a form, and raises bare Warnings."""
    provider.post(TOKEN, **reply)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            got = ask(client(), request_)
        except ProviderError as error:
            assert error.code == code
        else:
            assert code is None and isinstance(got, TokenSet)
            assert got.expires_in in (None, 0, 3600) and got.expires_in is not True


@pytest.mark.parametrize("request_", ["exchange", "refresh", "client_credentials"])
def test_trap_names_that_would_change_the_call_are_values(provider, request_):
    """`verify=0` turned TLS checking off."""
    provider.post(TOKEN, json=GOOD)
    names = ("verify", "timeout", "auth", "headers", "method", "cert", "proxies")
    ask(client(extra_token_params=dict.fromkeys(names, "0")), request_)
    assert dict.fromkeys(names, "0").items() <= form(provider.last_request).items()
    assert provider.last_request.verify is True and provider.last_request.cert is None
    assert not provider.last_request.proxies


@pytest.mark.parametrize(
    "name", ["client_id", "scope", "redirect_uri", "response_type", "resource", "state", "code"]
)
def test_trap_reserved_names_are_refused_before_the_library_sees_them(name):
    whole = {"grant_type": "authorization_code", "extra_authorize_params": {name: "x"}}
    assert "is set by the gateway" in faults(OAuthConfigSpec, whole)["extra_authorize_params"]


def test_trap_a_resource_in_the_configured_url_is_not_sent_twice():
    asked = leaving(client(authorization_url="https://as.test/go?resource=old&tenant=x&empty="))
    assert len(asked["resource"]) == 1 and asked["resource"] != ["old"]
    assert asked["tenant"] == ["x"] and asked["empty"] == [""]


@pytest.mark.parametrize("request_", ["exchange", "refresh", "client_credentials"])
def test_trap_no_basic_with_an_empty_password(provider, request_):
    provider.post(TOKEN, json=GOOD)
    ask(client(secret=None), request_)
    assert "Authorization" not in provider.last_request.headers
    assert form(provider.last_request)["client_id"] == "cid"


@pytest.mark.parametrize("method", ["basic", "post"])
def test_trap_a_refresh_says_who_we_are_too(provider, method):
    provider.post(TOKEN, json=GOOD)
    ask(client(method=method), "refresh")
    sent = provider.last_request
    assert ("Authorization" in sent.headers) == (method == "basic")
    assert ("client_secret" in form(sent)) == (method == "post")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_trap_a_redirect_takes_no_credentials_along(provider, status):
    provider.post(TOKEN, status_code=status, headers={"Location": "https://evil.test/token"})
    assert failure(client(method="post"), "refresh").code == "redirected"
    assert [one.hostname for one in provider.request_history] == ["as.test"]


def test_trap_nothing_is_left_on_a_session_for_the_next_request(provider):
    provider.post(TOKEN, json=GOOD, headers={"Set-Cookie": "sid=1"})
    us = client()
    ask(us, "exchange")
    ask(us, "refresh")
    assert "Cookie" not in provider.last_request.headers
    assert "Bearer" not in provider.last_request.headers.get("Authorization", "")


def test_trap_plain_http_is_refused_before_the_library_is_asked():
    """Its own switch is for the whole process; ours is for this machine alone."""
    for host, is_refused in (("as.test", True), ("127.0.0.1:9000", False)):
        whole = {"grant_type": "client_credentials", "token_url": f"http://{host}/token"}
        assert ("token_url" in faults(OAuthConfigSpec, whole)) == is_refused


def test_trap_no_error_quotes_the_body(provider):
    provider.post(
        TOKEN,
        text="access_token=canary-7 is % not a form",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    try:
        got = ask(client(), "exchange")
    except ProviderError as error:
        told = [error.message, error.cause, error.action, error.admin, error.said or "", str(error)]
        assert "canary-7" not in " ".join(told)
        assert error.__cause__ is None or "canary-7" not in str(error.__cause__)
    else:
        assert "canary-7" not in repr(got)
