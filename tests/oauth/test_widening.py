"""A right that our client at a provider may not ask for yet (oauth.md 2.4, 9)."""

import dataclasses

import pytest
import sqlalchemy as sa

from app import gateways, tool_configs
from app.audit import SYSTEM
from app.db import db, recent
from app.models import ClientRegistration
from tests.conftest import person
from tests.oauth import acme
from tests.oauth.published import published
from tests.oauth.test_registering import CLIENT, answers, automatic
from tests.upstream import says

__all__ = ["published"]  # the fixture

TOOLS = {"name": "Admin", "tool_patterns": [{"match": "drop_*"}], "scopes": ["admin"]}


@pytest.fixture
def here(start, config):
    return start(dataclasses.replace(config, EGRESS_ALLOW=("127.0.0.0/8",)))


def with_tools(here, server) -> str:
    """A gateway whose client is made by itself, and a config for some tools; that one's id."""
    with here.app_context():
        automatic(server)
        gateway = gateways.find("acme")
        tool_configs.replace(gateway, [TOOLS], by=SYSTEM)
        db.session.commit()
        recent().clear()
        return tool_configs.further(gateway)[0].id


def generations(here) -> list[tuple[str, str]]:
    with here.app_context():
        query = sa.select(ClientRegistration.client_id, ClientRegistration.state)
        query = query.where(ClientRegistration.kind == "dcr")
        found = db.session.execute(query.order_by(ClientRegistration.generation)).all()
        return [tuple(row) for row in found]


def refused(alice, config_id):
    """Connect, and be sent back as the scope is not known; what the page says then."""
    trip = acme.leave(alice, config=config_id)
    came = trip.back(code="", error="invalid_scope")
    return trip, alice.get(came.location).text


def test_step_up_that_a_registered_client_may_not_ask_widens_it_once(here, published):
    server, provider = published()
    place = {"registration_client_uri": f"{provider.origin}/register/made-1"}
    answers(provider, CLIENT | place | {"scope": "read"})
    changes = []

    def change(seen):
        changes.append(seen.json["scope"])
        return says({**seen.json, "scope": "read"})  # it keeps to what it knew

    provider.pages["/register/made-1"] = change
    config_id, alice = with_tools(here, server), person(here, "alice@example.com")
    trip, page = refused(alice, config_id)
    assert trip.asked["client_id"] == "made-1" and trip.asked["scope"].split()[0] == "admin"
    assert "The provider did not know yet that we ask for this right" in page
    assert len(changes) == 1 and "admin" in changes[0].split()
    _, page = refused(alice, config_id)
    assert "The provider does not offer a scope we asked for" in page and len(changes) == 1


@pytest.mark.parametrize("takes", [True, False])
def test_without_a_way_to_change_it_the_next_client_is_a_wider_one(here, published, takes):
    """And one that names no scope where the provider refuses this one."""
    server, provider = published()
    asked = []

    def register(seen):
        asked.append(seen.json.get("scope", ""))
        if "admin" in asked[-1].split() and not takes:
            return says({"error": "invalid_client_metadata"}, 400)
        made = {"client_id": f"made-{len(asked)}", "redirect_uris": seen.json["redirect_uris"]}
        return says(made | {"scope": "read"}, 201)

    provider.pages["/register"] = register
    further_id, alice = with_tools(here, server), person(here, "alice@example.com")
    acme.leave(alice)  # to the gateway itself: its own scopes are registered first
    assert "admin" not in asked[0].split()
    _, page = refused(alice, further_id)
    assert "The provider did not know yet that we ask for this right" in page
    assert generations(here) == [("made-1", "retired")]
    trip = acme.leave(alice, config=further_id)
    assert "admin" in asked[1].split() and trip.asked["client_id"] == f"made-{2 if takes else 3}"
    if not takes:
        assert asked[2] == ""


def test_a_client_that_was_typed_by_hand_is_left_alone(app, alice):
    acme.add(app, "acme", scopes=["read"])
    trip = acme.leave(alice)
    page = alice.get(trip.back(code="", error="invalid_scope").location).text
    assert "The provider does not offer a scope we asked for" in page
