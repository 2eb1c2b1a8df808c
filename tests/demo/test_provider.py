"""The demo provider keeps the rules that it teaches."""

import base64
import hashlib
import re
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from demo.grants import ACCESS_SECONDS, CODE_SECONDS, Client, Grants
from demo.provider import create_provider

BACK = "http://127.0.0.1:8000/oauth/callback"
GATEWAY = Client("gateway", "gateway-secret", "MCP Gateway", BACK)
ROBOT = Client("robot", "robot-secret", "Notes robot")
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().strip("=")
ASKS = {
    "response_type": "code",
    "client_id": "gateway",
    "redirect_uri": BACK,
    "state": "st4te",
    "scope": "notes:read",
    "resource": "http://127.0.0.1:9/mcp",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def grants(clock):
    return Grants(clock)


@pytest.fixture
def provider(grants):
    return create_provider("http://127.0.0.1:1", [GATEWAY, ROBOT], grants)


@pytest.fixture
def browser(provider):
    return provider.test_client()


def send(browser, page, **fields):
    form = re.search(r'name="form" value="([^"]+)"', page.text)[1]
    return browser.post("/authorize", data={"form": form, **fields})


def came_back(reply):
    assert reply.status_code == 303, reply.text
    assert reply.headers["Location"].startswith(BACK)
    return {k: v[0] for k, v in parse_qs(urlsplit(reply.headers["Location"]).query).items()}


def consent(browser, do="allow", **changes):
    page = browser.get(f"/authorize?{urlencode(ASKS | changes)}")
    page = send(browser, page, username="ana", password="demo")
    assert "Ana Example" in page.text
    return came_back(send(browser, page, do=do))


def token(browser, client=GATEWAY, **form):
    return browser.post("/token", data=form, auth=(client.id, client.secret))


def redeem(browser, code, **changes):
    form = {"code": code, "redirect_uri": BACK, "code_verifier": VERIFIER} | changes
    return token(browser, grant_type="authorization_code", **form)


def test_a_person_who_allows_it_gets_a_code_that_becomes_tokens(browser, grants):
    back = consent(browser)
    assert back["state"] == "st4te" and back["iss"] == "http://127.0.0.1:1"
    answer = redeem(browser, back["code"])
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    access = grants.access(answer.json["access_token"])
    assert (access.name, access.scopes) == ("Ana Example", ("notes:read",))
    assert access.audience == ASKS["resource"]
    who = {"Authorization": f"Bearer {answer.json['access_token']}"}
    assert browser.get("/userinfo", headers=who).json == {"sub": "ana", "name": "Ana Example"}


def test_a_person_who_denies_it_sends_an_error_back(browser):
    assert consent(browser, do="deny")["error"] == "access_denied"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "notes:burn"}, "invalid_scope"),
    ],
)
def test_a_request_that_breaks_the_rules_goes_back_with_the_error(browser, changes, error):
    back = came_back(browser.get(f"/authorize?{urlencode(ASKS | changes)}"))
    assert back["error"] == error and back["state"] == "st4te"


@pytest.mark.parametrize(
    "changes", [{"redirect_uri": f"{BACK}/x"}, {"client_id": "nobody"}, {"client_id": "robot"}]
)
def test_nobody_is_sent_to_an_address_that_is_not_registered(browser, changes):
    page = browser.get(f"/authorize?{urlencode(ASKS | changes)}")
    assert page.status_code == 400 and "Location" not in page.headers


def test_a_wrong_password_is_said_so(browser):
    page = browser.get(f"/authorize?{urlencode(ASKS)}")
    page = send(browser, page, username="ana", password="wrong")
    assert page.status_code == 401 and "password is wrong" in page.text


def test_another_browser_cannot_send_the_form(browser, provider):
    page = browser.get(f"/authorize?{urlencode(ASKS)}")
    assert send(provider.test_client(), page, username="ana", password="demo").status_code == 400


@pytest.mark.parametrize(
    "changes",
    [{"code_verifier": "w" * 43}, {"code_verifier": ""}, {"redirect_uri": f"{BACK}/x"}],
)
def test_a_code_is_refused_without_its_verifier_and_redirect_uri(browser, changes):
    answer = redeem(browser, consent(browser)["code"], **changes)
    assert (answer.status_code, answer.json["error"]) == (400, "invalid_grant")


def test_a_code_is_refused_when_it_is_too_old(browser, clock):
    code = consent(browser)["code"]
    clock.now += CODE_SECONDS
    assert redeem(browser, code).json["error"] == "invalid_grant"


def test_a_code_shown_twice_takes_its_tokens_back(browser, grants):
    code = consent(browser)["code"]
    got = redeem(browser, code).json
    assert redeem(browser, code).json["error"] == "invalid_grant"
    assert grants.access(got["access_token"]) is None


def test_a_refresh_token_rotates_and_its_reuse_ends_the_grant(browser, grants):
    first = redeem(browser, consent(browser)["code"]).json["refresh_token"]
    second = token(browser, grant_type="refresh_token", refresh_token=first).json
    assert second["refresh_token"] != first and grants.access(second["access_token"])
    assert token(browser, grant_type="refresh_token", refresh_token=first).status_code == 400
    assert grants.access(second["access_token"]) is None
    again = token(browser, grant_type="refresh_token", refresh_token=second["refresh_token"])
    assert again.json["error"] == "invalid_grant"


def test_an_access_token_ends(browser, grants, clock):
    got = token(browser, ROBOT, grant_type="client_credentials").json
    assert grants.access(got["access_token"]).name == "Notes robot"
    assert "refresh_token" not in got
    clock.now += ACCESS_SECONDS
    assert grants.access(got["access_token"]) is None


def test_a_revoked_refresh_token_takes_its_access_tokens_with_it(browser, grants):
    got = redeem(browser, consent(browser)["code"]).json
    proof = (GATEWAY.id, GATEWAY.secret)
    browser.post("/revoke", data={"token": got["refresh_token"]}, auth=proof)
    assert grants.access(got["access_token"]) is None


def test_a_client_gets_only_its_own_grant(browser):
    answer = token(browser, GATEWAY, grant_type="client_credentials")
    assert answer.json["error"] == "unauthorized_client"
    form = {"client_id": "robot", "client_secret": "wrong", "grant_type": "client_credentials"}
    answer = browser.post("/token", data=form)
    assert (answer.status_code, answer.json["error"]) == (401, "invalid_client")


def test_the_metadata_promises_what_there_is(browser):
    promised = browser.get("/.well-known/oauth-authorization-server").json
    assert promised["code_challenge_methods_supported"] == ["S256"]
    for name in ("authorization_endpoint", "token_endpoint", "revocation_endpoint"):
        path = urlsplit(promised[name]).path
        assert browser.options(path).status_code == 200, name
