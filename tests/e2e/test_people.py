"""People and API tokens with the product under gunicorn, and in a real browser."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.e2e.gateway import PASSWORD, Person
from tests.web.test_where import HOSTILE

GUESSES = 100
PATIENCE_S = 10  # for what is promised within one second: this machine may be busy


def statuses(gateway, token, times=20):
    """Of calls on connections of their own, so that each worker is asked."""
    header = {"Authorization": f"Bearer {token}", "Connection": "close"}
    url = f"{gateway.url}/api/v1/gateways"
    return {requests.get(url, headers=header).status_code for _ in range(times)}


def refused_everywhere(gateway, token):
    """With 401; or 429, as these many calls with a wrong token look like somebody who guesses."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if statuses(gateway, token) <= {401, 429}:
            return True
    return False


def test_sec_045_and_067_revoked_and_disabled_are_out_in_every_worker(gateway_server):
    gateway = gateway_server(workers=2)
    admin = gateway.admin()
    gateway.flask("users", "create", "bo@example.com", "--password-stdin", stdin=f"{PASSWORD}\n")
    first, second = (gateway.token("bo@example.com", scope="api:read") for _ in range(2))
    assert statuses(gateway, first) == statuses(gateway, second) == {200}
    ids = [
        line.split()[0] for line in gateway.flask("tokens", "list", "bo@example.com").splitlines()
    ]
    gateway.flask("tokens", "revoke", ids[-1])
    assert refused_everywhere(gateway, first) and statuses(gateway, second) == {200}
    bo = re.search(r'href="(/admin/users/\w+)">bo@', admin.at("/admin/users").text)[1]
    admin.submit(admin.at(bo), press="disable")
    assert refused_everywhere(gateway, second)


def test_sec_070_a_hundred_guesses_over_two_workers_are_few_hashes(gateway_server):
    gateway = gateway_server(workers=2)
    gateway.admin()

    def guess(number):
        attacker = Person(gateway.url)
        page = attacker.at("/login")
        fields = {"email": "admin@example.com", "password": f"guess {number}"}
        return attacker.submit(page, **fields).status_code

    with ThreadPoolExecutor(20) as many:
        answers = list(many.map(guess, range(GUESSES)))
    assert set(answers) == {422, 429} and answers.count(422) <= 10


def test_sec_072_the_code_is_printed_once_and_only_it_sets_up(gateway_server):
    gateway = gateway_server(workers=2)
    with ThreadPoolExecutor(8) as many:
        pages = list(many.map(lambda _: requests.get(gateway.url), range(16)))
    assert {page.url for page in pages} == {f"{gateway.url}/setup"}
    code = gateway.program.wait_for(r"^Setup code: (\S+)")[1]
    assert gateway.log().count("Setup code:") == 1
    ana = Person(gateway.url)
    fields = {"email": "ana@example.com", "password": PASSWORD}
    assert ana.submit(ana.at("/setup"), code="AAAA-AAAA", **fields).status_code == 422
    assert ana.submit(ana.at("/setup"), code=code, **fields).url.startswith(gateway.url)
    assert ana.at("/admin/users").status_code == 200
    assert ana.at("/setup").status_code == 404


def test_a_person_signs_in_makes_a_token_and_nothing_is_left_after_signing_out(
    gateway_server, page
):
    """In Chromium, under the CSP, with every script error a failure."""
    gateway = gateway_server()
    gateway.admin()
    page.goto(f"{gateway.url}/tokens/new")
    page.fill("#email", "admin@example.com")
    page.fill("#password", PASSWORD)
    page.click("text=Sign in >> nth=-1")
    page.fill("#name", "Laptop")
    page.click("text=Make token")
    token = page.inner_text("#token")
    assert token.startswith("mcpg_") and token in page.inner_text("#c1-1")
    page.reload()
    assert "This token was shown already" in page.inner_text("main")
    assert token not in page.content() and page.url.endswith("/tokens")
    page.goto(f"{gateway.url}/me")
    page.click("text=Sign out")
    page.wait_for_url("**/login")
    page.go_back()
    page.wait_for_url(re.compile("/login"))
    assert "admin@example.com" not in page.content()


def test_sec_029_chromium_stays_at_our_origin_after_signing_in(gateway_server, page):
    gateway = gateway_server()
    gateway.admin()
    page.goto(f"{gateway.url}/help")
    kept = [*map(_redirect_of(gateway), HOSTILE)]
    read = "urls => urls.map(one => new URL(one, location.href).origin)"
    assert set(page.evaluate(read, kept)) == {gateway.url}


def _redirect_of(gateway):
    person = Person(gateway.url).login("admin@example.com", PASSWORD)

    def ask(hostile):
        """Where /login sends somebody who is signed in; with NUL it goes nowhere at all."""
        reply = person.session.get(
            f"{gateway.url}/login", params={"next": hostile}, allow_redirects=False
        )
        assert (reply.status_code == 400) == ("\0" in hostile)
        return reply.headers.get("Location", "/")

    return ask
