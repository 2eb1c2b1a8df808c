"""What leaves the house, how often, and what becomes of what comes back."""

import base64
import gzip
import json
import logging
from urllib.parse import parse_qs, parse_qsl, quote_plus, urlsplit

import pytest
import requests

from app.errors import ProviderError
from app.oauth.client import OAuthClient, Registration, s256
from app.specs import OAuthConfigSpec
from tests.oauth import endpoint
from tests.oauth.endpoint import Endpoint

TOKEN = "https://as.test/token"
GOOD = {"access_token": "at", "token_type": "Bearer", "expires_in": 3600}
RESOURCE = "https://up.test/mcp"
pytestmark = pytest.mark.usefixtures("app_ctx")


def client(secret="s3cret", *, method="auto", timeout=10.0, pause=0.001, **more) -> OAuthClient:
    token_url = more.pop("token_url", TOKEN)
    settings = {
        "grant_type": "authorization_code",
        "authorization_url": "https://as.test/go",
        "token_url": token_url,
    }
    return OAuthClient(
        Registration(
            client_id="cid",
            client_secret=secret,
            auth_method=method,
            authorization_url=more.get("authorization_url", settings["authorization_url"]),
            token_url=token_url,
            refresh_url=None,
            redirect_uri="https://gw.test/oauth/callback",
            timeout_s=timeout,
            retries=3,
            spec=OAuthConfigSpec(**settings | more),
            pause_s=pause,
        )
    )


def ask(us: OAuthClient, request: str):
    if request == "exchange":
        return us.exchange("the-code", verifier="v" * 64, resource=RESOURCE)
    if request == "refresh":
        return us.refresh("the-refresh-token", resource=RESOURCE)
    return us.client_credentials(scopes=["a", "b"], resource=RESOURCE)


REQUESTS = ["exchange", "refresh", "client_credentials"]
requests_ = pytest.mark.parametrize("request_", REQUESTS)


def failure(us: OAuthClient, request: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        ask(us, request)
    return caught.value


def form(sent) -> dict[str, str]:
    pairs = parse_qsl(sent.text, keep_blank_values=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


# -- where the browser is sent -------------------------------------------------------------------


def leaving(us: OAuthClient, scopes=("a", "b")) -> dict[str, list[str]]:
    url = us.authorize_url(state="st", verifier="v" * 64, scopes=scopes, resource=RESOURCE)
    return parse_qs(urlsplit(url).query, keep_blank_values=True)


def test_sec_015_the_browser_is_sent_off_for_a_code():
    assert leaving(client(audience="api")) == {
        "response_type": ["code"],
        "client_id": ["cid"],
        "redirect_uri": ["https://gw.test/oauth/callback"],
        "scope": ["a b"],
        "state": ["st"],
        "code_challenge": [s256("v" * 64)],
        "code_challenge_method": ["S256"],
        "resource": [RESOURCE],
        "audience": ["api"],
    }


def test_sec_005_the_challenge_is_the_one_of_rfc_7636():
    appendix_b = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert s256(appendix_b) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.mark.parametrize("scopes", [None, (), []])
def test_no_scopes_means_no_scope_parameter(scopes):
    assert "scope" not in leaving(client(), scopes)


def test_scopes_stand_as_the_provider_wants_them():
    asked = leaving(client(scope_param="user_scope", scope_separator=","))
    assert asked["user_scope"] == ["a,b"] and "scope" not in asked


def test_the_configured_url_keeps_its_query_but_for_protocol_parameters():
    own = "https://as.test/go?tenant=x&empty=&state=evil&client_id=evil&code_challenge=evil"
    extra = {"prompt": "consent", "verify": "0", "url": "x", "empty2": ""}
    asked = leaving(client(authorization_url=own, extra_authorize_params=extra))
    assert asked["state"] == ["st"] and asked["client_id"] == ["cid"]
    assert asked["code_challenge"] == [s256("v" * 64)]
    assert asked["tenant"] == ["x"] and asked["empty"] == [""]
    assert {name: [value] for name, value in extra.items()}.items() <= asked.items()


@pytest.mark.parametrize("is_renewed", [True, False])
def test_offline_parameters_are_sent_when_a_refresh_token_is_wanted(is_renewed):
    keep = {"store_tokens": True, "auto_refresh": is_renewed}
    offline = {"params": {"access_type": "offline"}}
    asked = leaving(client(offline=offline, token_management=keep))
    assert asked.get("access_type") == (["offline"] if is_renewed else None)


def test_pkce_is_left_out_only_where_an_admin_said_so(provider):
    provider.post(TOKEN, json=GOOD)
    us = client(pkce="off")
    assert not [name for name in leaving(us) if name.startswith("code_challenge")]
    ask(us, "exchange")
    assert "code_verifier" not in form(provider.last_request)


# -- token requests ------------------------------------------------------------------------------


def test_an_exchange_says_what_the_rfcs_say(provider):
    provider.post(TOKEN, json=GOOD)
    tokens = ask(client(secret=None), "exchange")
    assert (tokens.access_token, tokens.expires_in) == ("at", 3600)
    assert form(provider.last_request) == {
        "grant_type": "authorization_code",
        "code": "the-code",
        "redirect_uri": "https://gw.test/oauth/callback",
        "code_verifier": "v" * 64,
        "resource": RESOURCE,
        "client_id": "cid",
    }
    assert provider.last_request.headers["Accept"] == "application/json"


def test_a_refresh_says_what_the_rfcs_say(provider):
    provider.post(TOKEN, json=GOOD)
    ask(client(), "refresh")
    assert form(provider.last_request) == {
        "grant_type": "refresh_token",
        "refresh_token": "the-refresh-token",
        "resource": RESOURCE,
    }


def test_client_credentials_say_what_the_rfcs_say(provider):
    provider.post(TOKEN, json=GOOD)
    ask(client(audience="api"), "client_credentials")
    assert form(provider.last_request) == {
        "grant_type": "client_credentials",
        "scope": "a b",
        "resource": RESOURCE,
        "audience": "api",
    }


HARD = "a:b%+ ü&=\u20ac"


@requests_
def test_sec_016_a_secret_with_reserved_characters_arrives_as_it_left(provider, request_):
    provider.post(TOKEN, json=GOOD)
    ask(client(HARD), request_)
    scheme, _, coded = provider.last_request.headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(coded).decode("ascii") == f"cid:{quote_plus(HARD)}"
    sent = form(provider.last_request)
    assert "client_secret" not in sent and "client_id" not in sent
    ask(client(HARD, method="post"), request_)
    assert form(provider.last_request)["client_secret"] == HARD


@requests_
@pytest.mark.parametrize(
    ("secret", "method", "names"),
    [
        ("s3cret", "auto", {"Authorization"}),
        ("s3cret", "basic", {"Authorization"}),
        ("s3cret", "post", {"client_id", "client_secret"}),
        ("s3cret", "none", {"client_id"}),
        (None, "auto", {"client_id"}),
        (None, "basic", {"client_id"}),
        (None, "post", {"client_id"}),
    ],
)
def test_sec_016_one_method_and_never_two(provider, request_, secret, method, names):
    provider.post(TOKEN, json=GOOD)
    ask(client(secret, method=method), request_)
    sent = provider.last_request
    found = {"client_id", "client_secret"} & form(sent).keys()
    assert found | ({"Authorization"} & sent.headers.keys()) == names
    assert "s3cret" not in sent.url


@requests_
def test_a_client_id_is_repeated_in_the_body_where_insisted_on(provider, request_):
    provider.post(TOKEN, json=GOOD)
    ask(client(client_id_in_body=True), request_)
    assert form(provider.last_request)["client_id"] == "cid"
    assert "Authorization" in provider.last_request.headers


@requests_
def test_extra_parameters_are_sent_and_change_nothing_else(provider, request_):
    provider.post(TOKEN, json=GOOD)
    names = "verify timeout auth headers method cert proxies username password body".split()
    extra = dict.fromkeys(names, "0") | {"empty": "", "ü": "€ &"}
    ask(client(extra_token_params=extra), request_)
    sent = form(provider.last_request)
    assert extra.items() <= sent.items() and sent["resource"] == RESOURCE
    assert provider.last_request.verify is True


@requests_
def test_a_request_goes_as_json_where_the_provider_demands_it(provider, request_):
    provider.post(TOKEN, json=GOOD)
    ask(client(token_request_format="json"), request_)
    sent = provider.last_request
    assert sent.headers["Content-Type"] == "application/json" and sent.json()["grant_type"]
    assert "Authorization" in sent.headers and int(sent.headers["Content-Length"]) == len(sent.body)


@requests_
def test_sec_020_no_resource_is_named_where_it_is_turned_off(provider, request_):
    provider.post(TOKEN, json=GOOD)
    us = client()
    {
        "exchange": lambda: us.exchange("c", verifier="v" * 64, resource=None),
        "refresh": lambda: us.refresh("r", resource=None),
        "client_credentials": lambda: us.client_credentials(scopes=None, resource=None),
    }[request_]()
    assert not {"resource", "scope"} & form(provider.last_request).keys()


@pytest.mark.parametrize("given", [{}, {"refresh_token": ""}, {"refresh_token": None}])
def test_row_21_the_old_refresh_token_stays_if_no_new_one_comes(provider, given):
    provider.post(TOKEN, json=GOOD | given)
    assert ask(client(), "refresh").refresh_token == "the-refresh-token"


def test_row_21_a_new_refresh_token_replaces_the_old_one(provider):
    provider.post(TOKEN, json=GOOD | {"refresh_token": "new"})
    assert ask(client(), "refresh").refresh_token == "new"


@requests_
@pytest.mark.parametrize("scope", ["a", "a b c", "a,b", ["a"], 5])
def test_sec_019_a_changed_scope_is_no_error(provider, request_, scope):
    provider.post(TOKEN, json=GOOD | {"scope": scope})
    assert ask(client(), request_).access_token == "at"


def test_the_config_says_how_replies_are_read(provider):
    odd = {"ok": True, "authed_user": GOOD | {"scope": "x,y", "expires_in": 60_000, "who": "Ana"}}
    provider.post(TOKEN, json=odd)
    reply = {"token_path": "authed_user", "ok_field": "ok", "scope_separator": ","}
    us = client(reply=reply, lifetime={"unit": "ms"}, account_path=["who"])
    tokens = ask(us, "exchange")
    assert (tokens.scopes, tokens.expires_in, tokens.account_label) == (("x", "y"), 60, "Ana")


# -- what is sent again (oauth.md 6.3) -----------------------------------------------------------

UNSENT = {"exc": requests.ConnectTimeout}
LOST = {"exc": requests.ReadTimeout}
DEAD = {"status_code": 400, "json": {"error": "invalid_grant"}}
REJECTED = {"status_code": 401, "json": {"error": "invalid_client"}}
TOLD = {"status_code": 429, "headers": {"Retry-After": "7"}}


@pytest.mark.parametrize(
    ("fault", "sends"),
    [  # sends: exchange, refresh, client credentials
        (UNSENT, (4, 4, 4)),
        ({"status_code": 429}, (1, 4, 4)),
        (TOLD, (1, 1, 1)),
        ({"status_code": 503}, (1, 4, 4)),
        ({"status_code": 500, "json": {"error": "invalid_grant"}}, (1, 4, 4)),
        ({"status_code": 501}, (1, 1, 1)),
        (LOST, (1, 1, 4)),
        ({"status_code": 502}, (1, 1, 4)),
        ({"status_code": 504}, (1, 1, 4)),
        ({"status_code": 408}, (1, 1, 4)),
        ({"text": "<html>", "headers": {"Content-Type": "text/html"}}, (1, 1, 4)),
        (DEAD, (1, 1, 1)),
        (REJECTED, (1, 1, 1)),
        ({"status_code": 404}, (1, 1, 1)),
        ({"status_code": 307, "headers": {"Location": "https://evil.test"}}, (1, 1, 1)),
    ],
)
@requests_
def test_sent_again(provider, request_, fault, sends):
    provider.post(TOKEN, **fault)
    failure(client(), request_)
    assert provider.call_count == sends[REQUESTS.index(request_)]


@requests_
def test_a_transient_failure_is_not_noticed(provider, request_):
    provider.post(TOKEN, [UNSENT, UNSENT, {"json": GOOD}])
    assert ask(client(), request_).access_token == "at"
    assert provider.call_count == 3


def test_a_pause_that_does_not_fit_ends_it(provider):
    provider.post(TOKEN, **UNSENT)
    error = failure(client(timeout=5.0, pause=100.0), "refresh")
    assert provider.call_count == 1 and error.kind == "unsent"


@pytest.mark.parametrize(
    ("fault", "request_", "code", "kind"),
    [
        (UNSENT, "exchange", "timeout", "unsent"),
        (LOST, "exchange", "exchange_unknown", "unknown"),
        (LOST, "refresh", "timeout", "unknown"),
        (TOLD, "refresh", "provider_busy", "busy"),
        ({"status_code": 502}, "exchange", "exchange_unknown", "unknown"),
        ({"status_code": 500}, "exchange", "provider_error", "refused"),
        (REJECTED, "refresh", "client_rejected", "client"),
        (DEAD, "refresh", "grant_ended", "dead"),
    ],
)
def test_a_failure_says_what_it_is_and_what_it_means(provider, fault, request_, code, kind):
    provider.post(TOKEN, **fault)
    error = failure(client(), request_)
    assert (error.code, error.kind) == (code, kind)


@pytest.mark.parametrize("script", [endpoint.hang, endpoint.drip, endpoint.reset, lambda _: None])
def test_sec_012_a_code_that_left_is_not_sent_again(script):
    with Endpoint(script) as op:
        error = failure(client(token_url=op.url, timeout=0.5), "exchange")
        assert (error.code, error.kind) == ("exchange_unknown", "unknown")
        assert len(op.requests) == 1 and b"the-code" in op.requests[0]


@pytest.mark.parametrize("status", ["500 X", "502 X", "503 X", "429 X", "400 X"])
def test_sec_012_an_answered_code_is_not_sent_again(status):
    with Endpoint(endpoint.answer(b"", status)) as op:
        failure(client(token_url=op.url), "exchange")
        assert len(op.requests) == 1


def test_sec_012_a_refused_connection_is_tried_again():
    with Endpoint(endpoint.hang) as op:
        url = op.url
    error = failure(client(token_url=url), "exchange")
    assert (error.code, error.kind) == ("connect_failed", "unsent")


@requests_
def test_sec_095_one_deadline_over_everything(request_):
    with Endpoint(endpoint.drip) as op:
        assert failure(client(token_url=op.url, timeout=0.4), request_).kind == "unknown"


BOMB = gzip.compress(b'{"access_token": "at", "x": "' + b" " * 50_000_000 + b'"}')


@pytest.mark.parametrize(
    "script",
    [
        endpoint.answer(b" " * 300_000 + json.dumps(GOOD).encode()),
        endpoint.answer(BOMB, more="Content-Encoding: gzip\r\n"),
    ],
)
def test_row_40_a_large_body_is_cut(script):
    with Endpoint(script) as op:
        error = failure(client(token_url=op.url), "refresh")
        assert (error.code, error.kind) == ("reply_unreadable", "unknown")


def test_a_real_answer_is_read():
    body = json.dumps(GOOD | {"scope": "a"}).encode()
    with Endpoint(endpoint.answer(body)) as op:
        tokens = ask(client(token_url=op.url), "exchange")
        assert (tokens.access_token, tokens.scopes) == ("at", ("a",))


def test_an_address_that_may_not_be_called_is_not_called():
    error = failure(client(token_url="https://10.0.0.1/token"), "refresh")
    assert (error.code, error.kind) == ("blocked_address", "unsent")


# -- what is kept from whom ----------------------------------------------------------------------


def test_f_15_a_redirect_is_named_and_not_followed(provider):
    provider.post(TOKEN, status_code=307, headers={"Location": "https://evil.test/t?s=1"})
    error = failure(client(), "exchange")
    assert error.code == "redirected" and "https://evil.test/t" in error.admin
    assert provider.call_count == 1


def test_a_rejected_client_is_told_how_it_was_sent(provider):
    provider.post(TOKEN, status_code=401, json={"error": "invalid_client"})
    assert "basic" in failure(client(), "refresh").admin
    assert "body (post)" in failure(client(method="post"), "refresh").admin


def test_an_echoed_secret_is_not_repeated(provider):
    text = "s3cret and the-code and the-refresh-token are wrong"
    provider.post(TOKEN, status_code=400, json={"error": "x", "error_description": text})
    for request_ in REQUESTS:
        said = failure(client(), request_).said
        assert "s3cret" not in said
    assert "the-code" not in failure(client(), "exchange").said
    assert "the-refresh-token" not in failure(client(), "refresh").said


@pytest.mark.parametrize("form", ["a/b+c d&e", "a%2Fb%2Bc+d%26e", "a%2Fb%2Bc%20d%26e", None])
def test_sec_058_no_spelling_of_the_secret_comes_back(provider, form):
    """`None`: the pair of the Authorization header, which anybody can decode."""
    pair = base64.b64encode(b"cid:a%2Fb%2Bc+d%26e").decode()
    echo = form or f"Authorization: Basic {pair}"
    for text in (f"bad: {echo}!", "x" * (286 - len(echo)) + echo):
        wrong = {"error": "invalid_client", "error_description": text}
        provider.post(TOKEN, status_code=401, json=wrong)
        said = failure(client("a/b+c d&e"), "refresh").said
        assert (form or pair)[:8] not in said and "…" in said


@pytest.mark.parametrize("talkative", ["", "requests_oauthlib", "oauthlib"])
def test_sec_111_debug_logs_hold_no_token(provider, caplog, talkative):
    provider.post(TOKEN, json=GOOD | {"access_token": "canary-1", "refresh_token": "canary-2"})
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger=talkative or None)
    for request_ in REQUESTS:
        ask(client("canary-3"), request_)
    lines = [str(record.__dict__) + record.getMessage() for record in caplog.records]
    tokens = ("canary-1", "canary-2") if talkative else ("canary-", "the-code", "the-refresh")
    assert not [line for line in lines if any(token in line for token in tokens)]


# -- the account's name --------------------------------------------------------------------------

WHO = "https://api.test/user"


def test_the_account_is_named_by_userinfo(provider):
    provider.get(WHO, json={"login": "ana", "plan": {"name": "pro"}})
    assert client(userinfo_url=WHO, account_path=["nope", "login"]).account("at") == "ana"
    assert provider.last_request.headers["Authorization"] == "Bearer at"
    assert client(userinfo_url=WHO, account_path=["plan.name"]).account("at") == "pro"


@pytest.mark.parametrize(
    "fault",
    [
        {"status_code": 500, "json": {"login": "ana"}},
        {"text": "<html>"},
        {"json": ["ana"]},
        {"json": {"login": True}},
        {"json": {"login": {"name": "ana"}}},
        {"exc": requests.ReadTimeout},
        {"status_code": 302, "headers": {"Location": "https://evil.test"}},
    ],
)
def test_an_account_without_a_name_is_no_failure(provider, fault):
    provider.get(WHO, **fault)
    assert client(userinfo_url=WHO, account_path=["login"]).account("at") is None
    assert provider.call_count == 1


def test_without_userinfo_nobody_is_asked(provider):
    assert client(account_path=["login"]).account("at") is None
    assert not provider.called
