"""Every order in which sign-ins can begin, be sent on, forged, repeated and finished.

A model says which callback may be redeemed. Whatever happens, the provider is asked for a token
once for such a callback, and never for another (SEC-001, SEC-002, SEC-007, SEC-008).
"""

import requests_mock
import sqlalchemy as sa
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from app.db import db, recent
from app.models import Connection, Flow, ParkedCall
from tests.conftest import Browser, person, rows
from tests.oauth import acme
from tests.oauth.acme import GOOD, leave
from tests.security import world as made

GATEWAYS = {  # slug -> recorded issuer, callback
    "first": (None, "/oauth/callback"),
    "named": ("https://named.test", "/oauth/callback/named"),
    "own": (None, "/oauth/callback/own"),
}
ISSUERS = ("https://named.test", "https://named.test/", "https://evil.test")
PATHS = [path for _, path in GATEWAYS.values()]
BEGIN, SLUG = st.sampled_from(("alice", "bob")), st.sampled_from(list(GATEWAYS))
WHO = ("alice", "alice elsewhere", "bob", "nobody")
_server: list = []  # one for all examples: what they share is only who signed in before


def cast(app) -> dict[str, Browser]:
    """And the gateways, each with a provider of its own."""
    app.config["OAUTH_MAX_AUTHORIZATION_ATTEMPTS"] = 0  # no cap
    people = {name: person(app, f"{name}@example.com") for name in ("alice", "bob")}
    for slug, (issuer, path) in GATEWAYS.items():
        acme.add(
            app,
            slug,
            authorization_url=f"https://{slug}.test/go",
            token_url=f"https://{slug}.test/token",
            redirect_uri=f"https://gw.test{path}",
            **({"issuer": issuer} if issuer else {}),
        )
    elsewhere = Browser(app)
    elsewhere.client._cookies = dict(people["alice"].client._cookies)
    return people | {"alice elsewhere": elsewhere, "nobody": Browser(app)}


class Consents(RuleBasedStateMachine):
    flows = Bundle("flows")

    @initialize()
    def start(self):
        self.app, self.people = _server[0]
        with self.app.app_context(), db.engine.begin() as link:
            for table in (Connection, Flow, ParkedCall):
                link.execute(sa.delete(table))
        with self.app.app_context():
            recent().clear()
        self.world = requests_mock.Mocker()
        self.world.start()
        for slug in GATEWAYS:
            self.world.post(f"https://{slug}.test/token", json=GOOD)
        self.open: dict[str, bool] = {}  # a flow that nobody finished yet, and that is not late
        self.may: dict[str, int] = dict.fromkeys(GATEWAYS, 0)  # token requests that were due

    def teardown(self):
        if hasattr(self, "world"):
            self.world.stop()

    @rule(target=flows, who=BEGIN, slug=SLUG)
    def somebody_begins(self, who, slug):
        return self.begin(who, slug)

    def begin(self, who, slug):
        trip = leave(self.people[who], slug)
        self.open[trip.flow_id] = True
        return who, slug, trip

    @rule(flow=flows)
    def expire(self, flow):
        with self.app.app_context(), db.engine.begin() as link:
            late = (
                sa.update(Flow).where(Flow.id == flow[2].flow_id).values(expires_ms=Flow.created_ms)
            )
            link.execute(late)
        self.open[flow[2].flow_id] = False

    @rule(target=flows, who=BEGIN, slug=SLUG, by=st.sampled_from(WHO))
    def another_finishes_it(self, who, slug, by):
        flow = self.begin(who, slug)
        self.come_back(flow, by=by)
        return flow

    @rule(target=flows, who=BEGIN, slug=SLUG, path=st.sampled_from(PATHS))
    def it_arrives_somewhere(self, who, slug, path):
        flow = self.begin(who, slug)
        self.come_back(flow, path=path)
        return flow

    @rule(target=flows, who=BEGIN, slug=SLUG, iss=st.sampled_from(ISSUERS))
    def it_names_an_issuer(self, who, slug, iss):
        flow = self.begin(who, slug)
        self.come_back(flow, iss=iss)
        return flow

    @rule(flow=flows)
    def it_is_denied(self, flow):
        self.come_back(flow, error="access_denied")

    @rule(flow=flows)
    def it_comes_as_it_should(self, flow):
        self.come_back(flow)

    @rule(flow=flows, by=st.sampled_from(WHO), iss=st.sampled_from(ISSUERS), error=st.booleans())
    def it_comes_anyhow(self, flow, by, iss, error):
        self.come_back(flow, by=by, iss=iss, error="server_error" if error else "")

    def come_back(self, flow, *, by="", path="", iss="", error=""):
        who, slug, trip = flow
        issuer, pinned = GATEWAYS[slug]
        reply = trip.back(path or pinned, by=self.people[by or who], iss=iss, error=error)
        assert reply.status_code in (303, 400, 401, 403)
        assert "code" not in reply.headers.get("Location", "")
        if by in ("", who) and self.open[trip.flow_id]:
            self.open[trip.flow_id] = False  # taken, whatever comes of it
            # One that nobody has recorded is noted only; one that another config has, never.
            others = {named for named, _ in GATEWAYS.values()} - {issuer}
            named_well = iss in ("", issuer) if issuer else iss not in others
            self.may[slug] += path in ("", pinned) and named_well and not error
        self.agree()

    @rule(state=st.text(max_size=50), by=st.sampled_from(WHO))
    def forge(self, state, by):
        self.people[by].get("/oauth/callback", query_string={"state": state, "code": "x"})
        self.agree()

    def agree(self):
        asked = dict.fromkeys(GATEWAYS, 0)
        for request in self.world.request_history:
            asked[request.hostname.removesuffix(".test")] += 1
        assert asked == self.may
        done = sum(row.status == "done" for row in rows(self.app, Flow))
        assert done == sum(self.may.values())


def test_sec_001_002_007_008_no_order_redeems_what_it_should_not(tmp_path):
    for app in made.started(tmp_path):
        _server.append((app, cast(app)))
        limits = settings(
            max_examples=15,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # to make a failure smaller takes minutes
        )
        run_state_machine_as_test(Consents, settings=limits)
    _server.clear()
