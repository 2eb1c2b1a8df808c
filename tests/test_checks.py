"""A gateway tried step by step: in process, at a server that is told how to fail.

What each of the steps says when fine, and the code of what stands in the way.
"""

import dataclasses
import json
import re
import socket
import time
from email.utils import formatdate
from urllib.parse import parse_qs

import pytest

from app import access, check_runs, checks, doubts, exchanges, gateways
from app.access import Caller
from app.audit import SYSTEM
from app.db import db
from app.errors import Busy
from app.models import CheckRun, ClientRegistration
from app.steps import KEYS, Step
from tests import authority
from tests.conftest import rows
from tests.oauth.published import published
from tests.oauth.test_registering import CLIENT, answers, automatic
from tests.upstream import OldServer, Said, Upstream, dual, legacy, modern, result, says, upstream
from tests.web.registry import CODE, SHARED, add

__all__ = ["published", "upstream"]  # the fixtures

CANARY = "canary-7f3a"
NOBODY = Caller("", "command line", is_admin=True)
TOKEN = {"access_token": f"{CANARY}-token", "token_type": "Bearer", "expires_in": 3600}


class Rig:
    """One server: MCP at /mcp, a token endpoint at /token, nothing published."""

    def __init__(self, app, upstream):
        self.app, self.upstream = app, upstream
        self.mcp, self.token = dual, lambda seen: says(TOKEN)
        upstream.script = self.answer
        self.origin = upstream.url.removesuffix("/mcp")

    def answer(self, seen):
        if seen.path == "/token":
            return self.token(seen)
        if seen.path != "/mcp":
            return Said(404)
        return self.mcp(seen)

    def wants_token(self, seen):
        if seen.header("Authorization") == f"Bearer {CANARY}-token":
            return dual(seen)
        return Said(401, headers={"WWW-Authenticate": "Bearer"})

    def add(self, record, **more) -> str:
        config = {**record["oauth_config"], "token_url": f"{self.origin}/token", **more}
        if record is CODE:
            config.setdefault("authorization_url", f"{self.origin}/authorize")
        return add(self.app, {**record, "url": f"{self.origin}/mcp", "oauth_config": config})

    def run(self, slug: str, **more) -> list[Step]:
        with self.app.app_context():
            return list(checks.run(access.usable(NOBODY, slug), NOBODY, **more))

    def asked(self, path: str) -> list:
        return [seen for seen in self.upstream.seen if seen.path == path]


@pytest.fixture
def rig(app, upstream):
    return Rig(app, upstream)


def states(steps):
    return [step.state for step in steps]


# -- the way ---------------------------------------------------------------------------------------


def test_a_shared_client_is_tried_from_the_name_to_the_tools(rig):
    rig.mcp = rig.wants_token
    steps = rig.run(rig.add(SHARED, scopes=["read"]))
    assert [step.key for step in steps] == list(KEYS)
    assert states(steps) == ["ok"] * 8, [step.says for step in steps]
    assert steps[1].says == "127.0.0.1"
    assert steps[3].says == "Nothing is published, so what was typed counts."
    assert steps[4].says == "Token received, ends in 60 min."
    assert steps[5].says == "As asked: read."
    assert len(rig.asked("/token")) == 2  # one is discovery's, which sends nothing


@pytest.mark.parametrize(("speaks", "protocol"), [(modern, "2026-07-28"), (legacy, "2025-11-25")])
def test_both_eras_introduce_themselves_and_list_their_tools(rig, speaks, protocol):
    rig.mcp = speaks
    slug = add(rig.app, {"name": "Open", "url": f"{rig.origin}/mcp", "auth_type": "none"})
    steps = rig.run(slug)
    assert states(steps) == [
        "ok",
        "ok",
        "ok",
        "skipped",
        "skipped",
        "skipped",
        "ok",
        steps[7].state,
    ]
    assert steps[6].says.endswith(f"protocol {protocol}.")


def test_a_personal_gateway_waits_for_somebody_after_the_client_is_accepted(rig):
    rig.mcp = rig.wants_token
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    steps = rig.run(rig.add(CODE))
    assert states(steps) == ["ok", "ok", "ok", "ok", "ok", "waiting"]
    assert steps[4].says == "The client is accepted."
    assert steps[5].next.label == "Connect your account"


def test_a_made_up_code_goes_out_once_a_minute_and_never_twice(rig):
    rig.token = lambda seen: says({"error": "invalid_grant"}, 400)
    slug = rig.add(CODE)
    rig.run(slug)
    rig.run(slug)
    sent = [seen for seen in rig.asked("/token") if b"grant_type" in seen.body]
    assert len(sent) == 1
    form = parse_qs(sent[0].body.decode())
    assert form["grant_type"] == ["authorization_code"] and len(form["code"][0]) > 20
    assert rows(rig.app, ClientRegistration)[0].probed_ms


def test_no_made_up_code_goes_out_where_an_admin_does_not_want_it(rig):
    slug = rig.add(CODE)
    with rig.app.app_context():
        gateways.find(slug).probes_client = False
        db.session.commit()
    steps = rig.run(slug)
    assert steps[4].state == "ok" and "does not want it" in steps[4].says
    assert not [seen for seen in rig.asked("/token") if b"grant_type" in seen.body]


# -- a connection that is secure -------------------------------------------------------------------


@pytest.fixture
def secure(app, tmp_path):
    """Steps of a server with this certificate, whose CA is trusted."""
    started = []

    def run(shown, trusted) -> list[Step]:
        started.append(Upstream(authority.server(shown, tmp_path)))
        started[-1].script = dual
        record = {"name": f"Open {len(started)}", "url": started[-1].url, "auth_type": "none"}
        slug = add(app, record | {"ca_pem": trusted.pem})
        with app.app_context():
            return list(checks.run(access.usable(NOBODY, slug), NOBODY))

    yield run
    for server in started:
        server.stop()


@pytest.mark.parametrize(
    ("days", "state", "says"),
    [
        (60, "ok", "Certificate valid to {day}."),
        (20, "warn", "The certificate ends soon: {day}. Renew it."),
    ],
)
def test_the_end_of_a_certificate_is_told_and_21_days_before_it_is_a_doubt(
    secure, days, state, says
):
    ca = authority.Authority()
    shown = ca.signs("127.0.0.1", until=days * authority.DAY)
    steps = secure(shown, ca)
    ends = shown.made.not_valid_after_utc
    assert (steps[2].state, steps[2].says) == (state, says.format(day=f"{ends.day} {ends:%b %Y}"))
    assert steps[7].state in ("ok", "warn")  # nothing stopped it


def test_a_certificate_that_does_not_hold_is_e14_at_step_2(secure):
    ca = authority.Authority()
    for shown in (
        authority.Authority("Somebody").signs("127.0.0.1"),
        ca.signs("other.test"),
        ca.signs("127.0.0.1", since=-2 * authority.DAY, until=-authority.DAY),
    ):
        steps = secure(shown, ca)
        assert (steps[2].state, steps[2].code, steps[2].e) == ("bad", "tls_failed", "E14")
        assert states(steps)[3:] == ["skipped"] * 5


# -- a client that is not there yet ----------------------------------------------------------------


def test_a_client_is_made_where_there_is_none_as_for_who_connects_first(app, published):
    server, provider = published()
    provider.pages["/token"] = lambda seen: says({"error": "invalid_grant"}, 400)
    asked = answers(provider, CLIENT)
    with app.app_context():
        automatic(server)
        steps = list(checks.run(access.checkable(NOBODY, "acme"), NOBODY))
        again = list(checks.run(access.checkable(NOBODY, "acme"), NOBODY))
    assert states(steps) == ["ok"] * 5 + ["waiting"], [step.says for step in steps]
    assert steps[4].says == "The client is accepted." and states(again) == states(steps)
    assert len(asked) == 1 and "canary-" not in json.dumps([step.as_json() for step in steps])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"registration_endpoint": ...}, "client_needed"),
        ({}, "registration_refused"),
    ],
)
def test_where_no_client_is_made_an_admin_is_told_to_enter_one(app, published, changes, code):
    server, provider = published()
    provider.publish(**changes)
    answers(provider, says({"error": "access_denied"}, 403))
    with app.app_context():
        automatic(server)
        steps = list(checks.run(access.checkable(NOBODY, "acme"), NOBODY))
    assert (steps[4].state, steps[4].code, steps[4].e) == ("bad", code, "E19")
    assert steps[4].next.label == "Enter the client ID"
    assert steps[4].next.link == "/admin/gateways/acme/edit#client_id"


# -- what stands in the way ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        ("invalid_client", "bad", "client_rejected"),
        ("unauthorized_client", "bad", "client_not_allowed"),
        ("invalid_grant", "ok", None),
        ("server_is_tired", "warn", None),
    ],
)
def test_what_the_provider_says_to_a_made_up_code_is_understood(rig, error, state, code):
    rig.token = lambda seen: says({"error": error}, 401 if error == "invalid_client" else 400)
    step = rig.run(rig.add(CODE))[4]
    assert (step.state, step.code) == (state, code)


@pytest.mark.parametrize(
    ("error", "code"),
    [("invalid_client", "client_rejected"), ("invalid_scope", "scope_rejected")],
)
def test_a_refusal_is_asked_for_once_and_the_rest_is_left(rig, error, code):
    rig.token = lambda seen: says({"error": error}, 400)
    steps = rig.run(rig.add(SHARED))
    assert states(steps)[4:] == ["bad", "skipped", "skipped", "skipped"]
    assert steps[4].code == code and steps[4].who == "admin" and steps[4].next.link
    assert len([seen for seen in rig.asked("/token") if b"grant_type" in seen.body]) == 1


def test_a_server_that_refuses_a_fresh_token_is_step_6(rig):
    rig.mcp = lambda seen: Said(401, headers={"WWW-Authenticate": "Bearer"})
    steps = rig.run(rig.add(SHARED))
    assert states(steps)[6:] == ["bad", "skipped"]
    assert steps[6].code == "token_refused_shared"


def test_a_web_page_is_no_mcp_server(rig):
    rig.mcp = lambda seen: Said(200, b"<!doctype html>hello", {"Content-Type": "text/html"})
    slug = add(rig.app, {"name": "Open", "url": f"{rig.origin}/mcp", "auth_type": "none"})
    step = rig.run(slug)[6]
    assert (step.state, step.code) == ("bad", "upstream_bad_answer")
    assert step.says == "It did not answer as an MCP server. Is the path right? Usual: /mcp"


def test_a_server_without_tools_is_amber(rig):
    def empty(seen):
        return says(result(seen, tools=[])) if seen.rpc == "tools/list" else legacy(seen)

    rig.mcp = empty
    slug = add(rig.app, {"name": "Open", "url": f"{rig.origin}/mcp", "auth_type": "none"})
    assert (rig.run(slug)[7].state, rig.run(slug)[7].says) == ("warn", "It lists no tools.")


@pytest.mark.parametrize(
    ("url", "number", "code"),
    [
        ("https://no-such-host.invalid/mcp", 1, "dns_failed"),
        ("https://10.1.2.3/mcp", 1, "blocked_address"),
        ("http://127.0.0.1:{closed}/mcp", 2, "connect_failed"),
    ],
)
def test_a_server_that_is_not_there_is_told_by_its_step(rig, url, number, code):
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        url = url.format(closed=closed.getsockname()[1])
        steps = rig.run(add(rig.app, {"name": "Gone", "url": url, "auth_type": "none"}))
    assert (steps[number].state, steps[number].code) == ("bad", code)
    assert states(steps)[number + 1 :] == ["skipped"] * (7 - number)


def test_fewer_scopes_than_asked_for_are_amber(rig):
    rig.mcp, rig.token = rig.wants_token, lambda seen: says({**TOKEN, "scope": "read"})
    step = rig.run(rig.add(SHARED, scopes=["read", "write"]))[5]
    assert (step.state, step.code, step.says) == ("warn", "scope_narrowed", "Not granted: write.")


def test_clocks_that_differ_by_over_a_minute_are_amber(rig):
    rig.mcp = rig.wants_token

    def late(seconds):
        def answer(seen):
            said = rig.answer(seen)
            date = formatdate(time.time() - seconds, usegmt=True)
            return dataclasses.replace(said, headers={**said.headers, "Date": date})

        return answer

    slug = rig.add(SHARED)
    rig.upstream.script = late(3600)
    step = rig.run(slug)[3]
    assert step.state == "warn"
    assert re.search(r"The clocks differ by (359\d|360\d) seconds\.", step.notes[0]), step.notes
    rig.upstream.script = late(0)
    assert (rig.run(slug)[3].state, rig.run(slug)[3].notes) == ("ok", ())


def test_a_check_whose_time_is_over_says_so_and_asks_nobody(rig):
    steps = rig.run(rig.add(SHARED), seconds=0)
    assert (steps[1].state, steps[1].code) == ("bad", "timeout")
    assert states(steps)[2:] == ["skipped"] * 6 and not rig.upstream.seen


@pytest.mark.parametrize("transport", ["auto", "sse"])
def test_a_server_of_the_old_transport_is_met_and_lists_its_tools(rig, transport):
    rig.upstream.script = OldServer()
    record = {"name": "Old", "url": f"{rig.origin}/sse", "auth_type": "none"}
    steps = rig.run(add(rig.app, record | {"transport": transport}))
    assert steps[6].says.endswith("protocol 2024-11-05."), steps[6]
    assert steps[7].state in ("ok", "warn"), steps[7]


# -- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("app ", "s", []), "There are spaces around the client ID."),
        (("app", " s", []), "There are spaces around the client secret."),
        (("app", "app", []), "The client secret is the client ID."),
        (
            ("app", "s", ["a,b"]),
            "There is a comma in the scopes. Name one a line, without it.",
        ),
        (("app", "s", ["a", "b"]), None),
        (("app", None, []), None),
    ],
)
def test_what_was_typed_is_doubted_without_asking_anybody(typed, told):
    assert next(doubts.doubts_about(*typed), None) == told


def test_a_clock_is_compared_with_the_date_of_an_answer():
    said = "content-type: text/html\ndate: Wed, 25 Nov 2026 12:00:00 GMT"
    assert doubts.clock_off(said, 1795608000.0 + 90) == -90
    assert doubts.clock_off("content-type: a", 0.0) is None
    assert doubts.clock_off("date: yesterday", 0.0) is None


@pytest.mark.parametrize(
    "text",
    [
        exchanges.form(f"grant_type=x&code={CANARY}&code_verifier={CANARY}&client_secret={CANARY}"),
        exchanges.form(f"client_assertion={CANARY}&refresh_token={CANARY}&anything={CANARY}"),
        exchanges.form(json.dumps({"client_secret": CANARY, "code": CANARY})),
        exchanges.form("{" + CANARY),
        exchanges.reply(json.dumps({"access_token": CANARY, "x": {"y": CANARY}}).encode()),
        exchanges.reply(json.dumps([CANARY]).encode()),
        exchanges.reply(f"access_token={CANARY}-0123456789abcdef&x=1".encode()),
        exchanges.headers_sent({"Authorization": f"Bearer {CANARY}", "X-Api-Key": CANARY}),
        exchanges.headers_sent({"Cookie": CANARY, "Mcp-Session-Id": CANARY}),
        exchanges.headers_got({"Set-Cookie": CANARY, "Mcp-Session-Id": CANARY}),
        exchanges.address(f"https://a:{CANARY}@x.test/mcp?key={CANARY}"),
    ],
)
def test_no_secret_is_shown_of_an_exchange(text):
    assert CANARY not in text


def test_what_is_not_secret_is_shown_of_an_exchange():
    sent = exchanges.form("grant_type=authorization_code&client_id=app-1&code=x")
    assert sent == "grant_type=authorization_code&client_id=app-1&code=[hidden]"
    assert '"error": "invalid_client"' in exchanges.reply(b'{"error": "invalid_client"}')


# -- kept ------------------------------------------------------------------------------------------


def keep(rig, slug) -> check_runs.Kept:
    with rig.app.app_context():
        run_id = check_runs.begin(gateways.find(slug), by=SYSTEM, user_id=None)
        db.session.commit()
        assert check_runs.take(run_id) and not check_runs.take(run_id)
        list(check_runs.steps(run_id, access.usable(NOBODY, slug), NOBODY, by=SYSTEM))
        return check_runs.find(run_id)


def test_a_check_is_kept_and_compared_with_when_it_last_worked(rig):
    rig.mcp = rig.wants_token
    slug = rig.add(SHARED)
    good = keep(rig, slug)
    rig.token = lambda seen: says({"error": "invalid_client"}, 401)
    bad = keep(rig, slug)
    assert (good.outcome, good.state) == ("ok", "done") and good.verdict.startswith("Ready.")
    assert (bad.outcome, bad.code) == ("bad", "client_rejected")
    assert bad.verdict == "Stopped at step 4 of 7. Wrong client ID or secret"
    with rig.app.app_context():
        assert check_runs.last_good(bad).id == good.id
        assert check_runs.last(bad.gateway_id).id == bad.id


def test_only_the_newest_are_kept(rig):
    slug = add(rig.app, {"name": "Open", "url": "https://10.0.0.1/mcp", "auth_type": "none"})
    with rig.app.app_context():
        for _ in range(check_runs.KEPT + 3):
            check_runs.begin(gateways.find(slug), by=SYSTEM, user_id=None)
        db.session.commit()
        assert len(check_runs.of_gateway(gateways.find(slug).id)) == check_runs.KEPT


def test_no_secret_of_a_check_reaches_its_row_its_report_or_the_log(rig, caplog):
    caplog.set_level("DEBUG")
    rig.mcp = rig.wants_token
    slug = rig.add(SHARED, client_secret=f"{CANARY}-shared")
    kept = keep(rig, slug)
    with rig.app.app_context():
        text = check_runs.report(kept, "Billing", "https://x.test")
    assert any(b"grant_type" in seen.body for seen in rig.asked("/token"))  # it was sent
    assert "Authorization: [hidden]" in text and "grant_type=client_credentials" in text
    row = json.dumps(rows(rig.app, CheckRun)[0].steps)
    assert CANARY not in text + row + caplog.text


def test_a_check_that_stops_by_itself_says_whose_fault_it_is(rig, caplog):
    rig.mcp = rig.wants_token
    slug = rig.add(SHARED)
    with rig.app.app_context():
        run_id = check_runs.begin(gateways.find(slug), by=SYSTEM, user_id=None)
        db.session.commit()
        check_runs.take(run_id)
        broken = access.usable(NOBODY, slug)
        object.__setattr__(broken.config.spec, "scopes", 7)  # what nobody thought of
        last = list(check_runs.steps(run_id, broken, NOBODY, by=SYSTEM))[-1]
        kept = check_runs.find(run_id)
    assert (last.state, last.code) == ("bad", "internal_error")
    assert last.says == "The check stopped by itself. This is our fault."
    assert (kept.state, kept.outcome, kept.code) == ("done", "bad", "internal_error")
    assert "a check stopped by itself" in caplog.text


def test_a_reader_who_goes_ends_the_check(rig):
    slug = add(rig.app, {"name": "Open", "url": f"{rig.origin}/mcp", "auth_type": "none"})
    with rig.app.app_context():
        run_id = check_runs.begin(gateways.find(slug), by=SYSTEM, user_id=None)
        db.session.commit()
        check_runs.take(run_id)
        steps = check_runs.steps(run_id, access.usable(NOBODY, slug), NOBODY, by=SYSTEM)
        next(steps)
        steps.close()
        kept = check_runs.find(run_id)
    assert (kept.state, kept.outcome) == ("done", "bad") and len(kept.steps) == 1


def test_two_checks_run_at_once_on_a_node_and_a_third_waits():
    with check_runs.turn(), check_runs.turn():
        with pytest.raises(Busy), check_runs.turn():
            pass
    with check_runs.turn():
        pass
