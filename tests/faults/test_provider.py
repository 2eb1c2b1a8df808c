"""F-01 to F-15 at a token endpoint, and what the AI client at /mcp/<slug> hears of each.

A scripted endpoint, because no real provider does any of this on demand. Invariants: the grant is
kept unless the provider itself ends it, nothing bad is stored, and all heals by itself.
"""

import gzip
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
import sqlalchemy as sa

from app.db import db, recent
from app.models import ClientRegistration, Connection
from app.oauth.breaker import Breaker
from app.secretbox import box, cell
from tests.mcp.world import SHARED as SHARED_CLIENT
from tests.mcp.world import Client, add, body_of, connect, failure_of, oauth
from tests.oauth import endpoint
from tests.oauth.endpoint import Endpoint, answer
from tests.upstream import Said, Upstream, dual, upstream

__all__ = ["upstream"]  # the fixture

CANARY = "canary-0b5c"
GOOD = {
    **{"access_token": "at-2", "token_type": "Bearer", "expires_in": 3600},
    **{"refresh_token": "rt-2"},
}


def says(members=None, status="200 OK", kind="application/json", **more):
    """An answer: GOOD, changed by `more`."""
    body = GOOD | more if members is None else members
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answer(raw, status, kind)


class Place:
    """One gateway, its provider, and Alice with an AI client and a token that is over."""

    def __init__(self, app, upstream: Upstream) -> None:
        self.app, self.upstream = app, upstream
        app.config["OAUTH_MAX_RETRIES"] = 0
        self.scripts = [says()]  # one after the other; the last stays
        self.provider = Endpoint(self._answer)
        self.client: Client

    def _answer(self, connection: socket.socket) -> None:
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        script(connection)

    def open(self, *, left: float = -1, life: float = 3600, **more) -> "Place":
        """Each person signs in, and Alice did."""
        add(self.app, self.upstream.url, **oauth(token_url=self.provider.url, **more))
        now = int(time.time() * 1000)
        times = {"expires_ms": now + int(left * 1000), "issued_ms": now + int((left - life) * 1000)}
        connect(self.app, token="at-1", **times)
        self.client = Client(self.app)
        return self

    def open_shared(self, **more) -> "Place":
        """The gateway has an account of its own."""
        config = SHARED_CLIENT | {"token_url": self.provider.url} | more
        add(self.app, self.upstream.url, auth_type="oauth", oauth_config=config)
        self.client = Client(self.app)
        return self

    def call(self) -> str:
        """The token that a tool was called with."""
        text = self.client.text(self.client.call("echo"))
        return text.removeprefix("echo by Bearer ")

    def failure(self) -> dict:
        return failure_of(self.client.call("echo"))

    def wait_no_more(self) -> None:
        """As if all pauses were over."""
        with self.app.app_context():
            with db.engine.begin() as link:
                link.execute(sa.update(Connection).values(not_before_ms=0))
                link.execute(sa.update(ClientRegistration).values(not_before_ms=0))
            recent().clear()

    def set(self, **values) -> None:
        """Of every connection, as another process would."""
        with self.app.app_context():
            with db.engine.begin() as link:
                link.execute(sa.update(Connection).values(**values))
            recent().clear()

    @property
    def row(self) -> Connection:
        with self.app.app_context(), sa.orm.Session(db.engine) as session:
            return session.scalars(sa.select(Connection)).one()

    def holds(self) -> tuple[str, str]:
        """The access token and the refresh token that are stored."""
        row = self.row
        with self.app.app_context():
            names = ("access_token_sealed", "refresh_token_sealed")
            found = [box().open(getattr(row, name), where=cell(row, name)) for name in names]
        return found[0], found[1]

    def asked(self) -> int:
        return len(self.provider.requests)

    def heals(self) -> None:
        """I1, I5: with the first good answer all is as before."""
        assert self.row.state in ("failing", "refreshing")
        assert self.holds() == ("at-1", "rt-1")
        self.scripts = [says()]
        self.wait_no_more()
        assert self.call() == "at-2"
        assert (self.row.state, self.row.fail_count, self.holds()) == (
            "active",
            0,
            ("at-2", "rt-2"),
        )


@pytest.fixture
def place(app, upstream):
    made = Place(app, upstream)
    yield made
    made.provider.__exit__()


# -- it does not answer ----------------------------------------------------------------------------


def test_f_01_a_provider_that_refuses_connections_costs_no_call_while_the_token_lives(place):
    place.open(left=200)
    port = int(place.provider.url.rpartition(":")[2].partition("/")[0])
    place.provider.__exit__()
    assert place.call() == "at-1"
    assert place.row.state == "failing"
    place.set(expires_ms=1, not_before_ms=0)
    told = place.failure()
    assert (told["code"], told["state"]) == ("provider_unreachable", "failing")
    assert 1 <= told["retry_after"] <= 300 and str(told["retry_after"]) in told["action"]
    assert place.row.last_error_code == "connect_failed"
    place.provider = Endpoint(place._answer, port)
    place.heals()


def test_f_02_a_black_hole_is_cut_at_the_deadline_and_then_spared(place):
    """After five in a row nobody is sent there for 10 s; then one is, and it is well again."""
    seconds = [0.0]
    place.app.extensions["breaker"] = Breaker(clock=lambda: seconds[0])
    place.app.config["OAUTH_REQUEST_TIMEOUT"] = 0.2
    place.open().scripts = [endpoint.hang]
    for _ in range(5):
        assert place.failure()["code"] == "provider_unreachable"
        place.wait_no_more()
    assert place.asked() == 5
    told = place.failure()
    assert (told["code"], place.asked()) == ("provider_unreachable", 5)
    assert 1 <= told["retry_after"] <= 10
    place.app.config["OAUTH_REQUEST_TIMEOUT"] = 30.0
    seconds[0] += 10.0
    place.heals()


def test_f_02_who_waits_for_a_black_hole_waits_for_one_request(place):
    place.app.config["OAUTH_REQUEST_TIMEOUT"] = 0.5
    place.open().scripts = [endpoint.hang]
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: place.failure()["code"], range(8)))
    assert (set(told), place.asked()) == ({"provider_unreachable"}, 1)


def test_f_02_the_first_call_that_fails_tells_the_state_after_it(place):
    place.app.config["OAUTH_REQUEST_TIMEOUT"] = 0.2
    place.open().scripts = [endpoint.hang]
    for _ in range(2):  # the one that asked, and one that finds the pause
        assert place.failure()["state"] == place.row.state == "refreshing"
    port = int(place.provider.url.rpartition(":")[2].partition("/")[0])
    place.provider.__exit__()
    place.wait_no_more()
    assert place.failure()["state"] == place.row.state == "failing"
    place.app.config["OAUTH_REQUEST_TIMEOUT"] = 30.0
    place.provider = Endpoint(place._answer, port)
    place.heals()


def test_f_03_a_provider_that_drips_is_cut_at_the_deadline(place):
    place.app.config["OAUTH_REQUEST_TIMEOUT"] = 0.3
    place.open().scripts = [endpoint.drip]
    assert place.failure()["code"] == "provider_unreachable"
    place.app.config["OAUTH_REQUEST_TIMEOUT"] = 30.0
    place.heals()


# -- not now ---------------------------------------------------------------------------------------


def in_a_minute() -> str:
    return formatdate(time.time() + 60, usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 1, 7),
        (in_a_minute, 10, 60),
        ("1000000000", 200, 300),
        ("-1", 5, 30),
        ("x", 5, 30),
    ],
    ids=["7", "date", "1e9", "-1", "x"],
)
def test_f_04_a_retry_after_is_heeded_within_reason_and_nobody_sleeps_on_it(
    place, header, least, most
):
    """By everybody: the second person's connection has the same client there."""
    given = header() if callable(header) else header
    place.open().scripts = [answer(b"", "429 Slow down", more=f"Retry-After: {given}\r\n")]
    connect(place.app, email="bob@example.com", token="at-of-bob", expires_ms=1, issued_ms=0)
    for client in (place.client, Client(place.app, email="bob@example.com"), place.client):
        told = failure_of(client.call("echo"))
        assert told["code"] == "provider_unreachable"
        assert least <= told["retry_after"] <= most
    assert place.asked() == 1


def test_f_05_a_provider_in_trouble_is_asked_with_growing_pauses_and_costs_no_grant(place):
    place.open(left=200)
    trouble = ["500 X", "502 X", "503 X"] * 2
    place.scripts = [*(answer(b"", status) for status in trouble), says()]
    pauses = []
    for _ in trouble:
        assert place.call() == "at-1"
        assert place.row.state in ("failing", "refreshing")
        if place.row.state == "failing":
            pauses.append(place.row.not_before_ms - place.row.state_ms)
        place.wait_no_more()
    assert pauses[-1] > 4 * pauses[0] > 0
    assert place.call() == "at-2"
    assert (place.row.state, place.holds()) == ("active", ("at-2", "rt-2"))


def test_f_05_what_the_provider_did_not_act_on_is_asked_again_within_one_call(place):
    place.app.config["OAUTH_MAX_RETRIES"] = 1
    place.open().scripts = [answer(b"", "503 X"), says()]
    assert (place.call(), place.asked()) == ("at-2", 2)


# -- nonsense --------------------------------------------------------------------------------------

UNREADABLE = {
    "f_06 cut": says(b'{"access_token": "' + CANARY.encode()),
    "f_06 list": says([CANARY]),
    "f_06 twice": says(b'{"access_token": "a", "access_token": "%b"}' % CANARY.encode()),
    "f_07 page": says(f"<p>access_token={CANARY}".encode(), kind="text/html"),
    "f_14 gzip bomb": answer(
        gzip.compress(b" " * 3_000_000 + CANARY.encode()), more="Content-Encoding: gzip\r\n"
    ),
    "f_14 large": answer(b" " * 1_000_000 + CANARY.encode()),
    "f_14 nested": says(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
}
unreadable = pytest.mark.parametrize("fault", UNREADABLE.values(), ids=UNREADABLE)


@unreadable
def test_f_06_f_07_f_14_an_unreadable_answer_costs_no_grant_and_is_not_logged(place, fault, caplog):
    """It may have renewed: so the old refresh token is shown again only after a while."""
    place.open().scripts = [fault]
    for _ in range(2):
        told = place.failure()
        assert told["code"] == "provider_unreachable" and 1 <= told["retry_after"] <= 30
    assert (place.asked(), place.row.last_error_code) == (1, "reply_unreadable")
    assert CANARY not in caplog.text
    assert not any(CANARY in str(record.__dict__) for record in caplog.records)
    place.heals()


@unreadable
def test_f_06_f_07_f_14_at_a_shared_account_the_admins_are_told_what_came(place, fault):
    place.open_shared().scripts = [fault]
    told = body_of(place.client.call("echo"))["error"]
    assert told["data"]["code"] == "reply_unreadable" and CANARY not in str(told)
    place.scripts = [says()]
    assert place.call() == "at-2"


def test_f_07_the_log_names_the_content_type_and_no_content(place, caplog):
    place.open_shared(token_management={"store_tokens": True}).scripts = [UNREADABLE["f_07 page"]]
    assert place.failure()["code"] == "reply_unreadable"
    [facts] = [one.facts for one in caplog.records if one.message == "token reply unreadable"]
    assert (facts["content_type"], facts["members"]) == ("text/html", [])
    assert place.row.last_error_code == "reply_unreadable"


def test_f_08_an_error_beats_the_status_200_and_a_strange_one_ends_nothing(place):
    place.open().scripts = [says(error="bad_refresh_token")]
    assert place.failure()["code"] == "provider_unreachable"
    assert place.row.last_error_code == "token_request_rejected"
    place.heals()


def test_f_08_sec_018_a_word_that_the_config_maps_ends_the_grant(place):
    mapped = {"reply": {"errors": {"bad_refresh_token": "grant_ended"}}}
    place.open(**mapped).scripts = [says({"error": "bad_refresh_token"})]
    for _ in range(2):
        said = place.client.text(place.client.call("echo"))
        assert "https://gw.test/connections/acme" in said
    assert (place.row.state, place.row.reason, place.asked()) == ("needs_reauth", "grant_ended", 1)


@pytest.mark.parametrize(
    ("kind", "form", "taken"),
    [
        ("application/x-www-form-urlencoded", False, True),
        ("text/plain", True, True),
        ("text/plain", False, False),
    ],
)
def test_f_09_a_form_is_taken_where_it_says_that_it_is_one(place, kind, form, taken):
    body = b"access_token=at-2&token_type=bearer&expires_in=3600&refresh_token=rt-2"
    place.open(reply={"form": form}).scripts = [says(body, kind=kind)]
    if taken:
        assert (place.call(), place.holds()) == ("at-2", ("at-2", "rt-2"))
    else:
        assert place.failure()["code"] == "provider_unreachable"
        place.heals()
    assert b"Accept: application/json\r\n" in place.provider.requests[0]


def refusing(*tokens: str):
    """An MCP server that answers 401 to these, and works with all others."""

    def script(seen) -> Said:
        is_bad = seen.header("Authorization") in {f"Bearer {token}" for token in tokens}
        return Said(401) if is_bad else dual(seen)

    return script


def test_f_10_sec_109_a_token_without_an_end_serves_until_it_is_refused(place):
    place.open().scripts = [says(expires_in=None), says(access_token="at-3", refresh_token="rt-3")]
    assert [place.call() for _ in range(3)] == ["at-2"] * 3
    assert (place.row.expires_ms, place.asked()) == (None, 1)
    place.upstream.script = refusing("at-2")
    assert [place.call() for _ in range(2)] == ["at-3"] * 2
    assert place.asked() == 2


@pytest.mark.parametrize(
    ("given", "life"),
    [
        ('"3600"', 3600),
        ("1e20", None),
        ("1e400", None),
        ("null", None),
        ("true", None),
        ("[]", None),
        ('"soon"', None),
    ],
)
def test_f_11_how_long_a_token_lives_is_taken_or_unknown_but_never_made_up(place, given, life):
    body = json.dumps(GOOD).replace('"expires_in": 3600', f'"expires_in": {given}').encode()
    place.open().scripts = [says(body)]
    assert [place.call() for _ in range(2)] == ["at-2"] * 2
    assert place.asked() == 1
    until = place.row.expires_ms
    assert until is None if life is None else until - place.row.issued_ms == life * 1000


@pytest.mark.parametrize("given", ["0", "-5"])
def test_f_11_a_token_that_ends_at_once_is_for_the_call_in_hand(place, given):
    body = json.dumps(GOOD).replace('"expires_in": 3600', f'"expires_in": {given}').encode()
    place.open().scripts = [says(body), says(access_token="at-3")]
    assert [place.call() for _ in range(3)] == ["at-2", "at-3", "at-3"]
    assert b"refresh_token=rt-2" in place.provider.requests[1]


def test_f_11_a_number_that_is_none_makes_the_answer_unreadable(place):
    body = json.dumps(GOOD).replace('"expires_in": 3600', '"expires_in": NaN').encode()
    place.open().scripts = [says(body)]
    assert place.failure()["code"] == "provider_unreachable"
    assert place.row.last_error_code == "reply_unreadable"
    place.heals()


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER", "", None])
def test_f_12_bearer_is_taken_in_any_case_and_put_on_in_one(place, kind):
    place.open().scripts = [says(token_type=kind)]
    assert place.call() == "at-2"


@pytest.mark.parametrize("kind", ["mac", "DPoP", "N_A", ["Bearer"], 5])
def test_f_12_another_type_of_token_is_refused_and_nothing_stored(place, kind):
    place.open().scripts = [says(token_type=kind)]
    assert place.failure()["code"] == "provider_unreachable"
    assert place.row.last_error_code == "token_type_unsupported"
    place.heals()


def test_f_12_an_alias_is_taken_where_the_config_has_it(place):
    place.open(reply={"bearer_aliases": ["user"]}).scripts = [says(token_type="user")]
    assert place.call() == "at-2"


BAD_TOKENS = ["a\r\nX-Evil: 1", "a\nb", "a b", "tökén", "", "x" * 16_385, "x" * 1_000_000, None, 5]


@pytest.mark.parametrize("token", BAD_TOKENS, ids=lambda token: repr(token)[:12])
def test_f_13_sec_017_a_token_that_no_header_can_carry_is_not_stored(place, token):
    place.open().scripts = [says(access_token=token)]
    assert place.failure()["code"] == "provider_unreachable"
    assert place.row.last_error_code in ("reply_unreadable", "reply_no_token")
    assert place.upstream.asked("tools/call") == []
    place.heals()


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect"])
def test_f_15_a_redirect_takes_no_secret_along(place, status):
    with Endpoint(says()) as elsewhere:
        place.open().scripts = [answer(b"", status, more=f"Location: {elsewhere.url}\r\n")]
        assert place.failure()["code"] == "provider_unreachable"
        assert elsewhere.requests == []
    assert place.row.last_error_code == "redirected"
    place.heals()


# -- the MCP server refuses ------------------------------------------------------------------------


def test_f_30_sec_110_fifty_calls_that_are_refused_at_once_cause_one_renewal(place):
    place.open(left=3600)
    place.upstream.script = refusing("at-1")
    with ThreadPoolExecutor(25) as pool:
        said = list(pool.map(lambda _: place.call(), range(50)))
    assert (set(said), place.asked()) == ({"at-2"}, 1)


def test_f_31_sec_110_a_server_that_refuses_every_token_is_asked_twice(place):
    """The next call does not renew again within a minute, so the server sees each of them once."""
    place.open(left=3600).scripts = [says(), says(access_token="at-3")]
    place.upstream.script = refusing("at-1", "at-2", "at-3")
    counts = []
    for _ in range(3):
        place.upstream.seen.clear()
        assert place.failure()["code"] == "token_refused"
        counts.append(len(place.upstream.asked("tools/call")))
    assert (counts, place.asked(), place.row.state) == ([2, 1, 1], 1, "active")
    place.upstream.script = refusing("at-1", "at-2")
    place.set(forced_ms=1)  # a minute later
    assert (place.call(), place.asked()) == ("at-3", 2)


# -- a client of our own ---------------------------------------------------------------------------


def test_sec_024_without_storage_each_operation_asks_anew(place):
    place.open_shared().scripts = [says(access_token="at-1"), says()]
    assert [place.call(), place.call()] == ["at-1", "at-2"]
    with place.app.app_context(), sa.orm.Session(db.engine) as session:
        assert session.scalars(sa.select(Connection)).all() == []


def test_sec_024_two_gateways_at_one_token_url_have_a_token_each(place):
    stored = {"token_management": {"store_tokens": True}}
    place.open_shared(**stored).scripts = [says(access_token="at-1"), says()]
    other = SHARED_CLIENT | {"token_url": place.provider.url} | stored
    add(place.app, place.upstream.url, "other", auth_type="oauth", oauth_config=other)
    first, second = place.client, Client(place.app, "other")
    said = [one.text(one.call("echo")) for one in (first, second, first, second)]
    assert said == [f"echo by Bearer {token}" for token in ("at-1", "at-2") * 2]
    assert place.asked() == 2
