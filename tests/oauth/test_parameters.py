"""What an admin says (oauth.md 1.1) and what metadata says, in every request that it concerns."""

import time
from typing import Any
from urllib.parse import parse_qsl

import pytest
import sqlalchemy as sa

from app.db import db
from app.models import Connection, OAuthConfig
from app.oauth import tokens
from app.oauth.discovered import Discovered
from tests.conftest import rows
from tests.oauth import acme
from tests.oauth.acme import AUTHORIZE, GOOD, KEPT, NOWHERE, TOKEN, leave
from tests.oauth.planted import ALICE, plant
from tests.oauth.planted import acme as usable

SAID = "https://said.test/its/resource"  # by resource metadata, verbatim


def found(app, **more: Any) -> None:
    """As if metadata had just been read."""
    known = {
        **{"issuer": "https://as.test", "fetched_ms": int(time.time() * 1000), "has_s256": True},
        **{"authorization_endpoint": AUTHORIZE, "token_endpoint": TOKEN},
    }
    kept = Discovered(**known | more).as_json()
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.update(OAuthConfig).values(discovered=kept, asked_ms=known["fetched_ms"]))


def sent(provider) -> dict[str, str]:
    return dict(parse_qsl(provider.last_request.text, keep_blank_values=True))


def renewed(app, alice, provider) -> dict[str, str]:
    """What the next refresh says."""
    with app.app_context(), db.engine.begin() as link:
        link.execute(sa.update(Connection).values(forced_ms=0, not_before_ms=0))
    before = provider.call_count
    alice.submit("/connections/acme/refresh", at="/connections/acme")
    assert provider.call_count == before + 1
    given = sent(provider)
    assert given["grant_type"] == "refresh_token"
    return given


# -- resource (RFC 8707) -------------------------------------------------------------------------

RESOURCES = {  # what an admin said, what metadata says: what is sent
    "auto": ("auto", None, NOWHERE),
    "auto-published": ("auto", SAID, SAID),
    "value": ("urn:acme:api", SAID, "urn:acme:api"),
    "never": ("never", SAID, None),
}
resources = pytest.mark.parametrize(
    ("said", "published", "named"), RESOURCES.values(), ids=RESOURCES
)


@resources
def test_sec_020_same_resource_everywhere(app, alice, provider, said, published, named):
    """In the authorization request, for the code, and with the refresh token."""
    acme.add(app, resource=said)
    if published is not None:
        found(app, resource=published)
    provider.post(TOKEN, json=GOOD | {"refresh_token": "rt-1"})
    trip = leave(alice)
    trip.back()
    given = [trip.asked, sent(provider), renewed(app, alice, provider)]
    assert [one.get("resource") for one in given] == [named] * 3
    assert rows(app, Connection)[0].resource == named


@resources
def test_sec_020_same_resource_for_a_shared_client(app, app_ctx, provider, said, published, named):
    plant(grant="client_credentials", resource=said, kept={}, audience="api", scopes=["a", "b"])
    own = "https://mcp.test/mcp" if named == NOWHERE else named
    if published is not None:
        found(app, resource=published, authorization_endpoint="https://as.test/authorize")
    provider.post(TOKEN, json=GOOD)
    tokens.credential(ALICE, usable(ALICE))
    given = sent(provider)
    assert given.get("resource") == own
    assert (given["audience"], given["scope"]) == ("api", "a b")


# -- scopes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "challenge", "published", "asked"),
    [
        (["x"], ("c",), ("p",), "x"),
        (None, ("c", "d"), ("p",), "c d"),
        (None, (), ("p", "q"), "p q"),
        (None, (), (), None),
        ([], ("c",), ("p",), None),  # an admin said: none
    ],
)
def test_scope_precedence(app, alice, provider, typed, challenge, published, asked):
    """Typed, else those of the challenge, else all of the resource metadata, else left out."""
    acme.add(app, scopes=typed)
    found(app, challenge_scopes=challenge, resource_scopes=published)
    provider.post(TOKEN, json=GOOD)
    trip = leave(alice)
    assert trip.asked.get("scope") == asked
    trip.back()
    assert "scope" not in sent(provider)  # it is pinned to the code
    assert rows(app, Connection)[0].scopes_requested == (asked or "").split()


OFFERED = ("openid", "offline_access")
STORED = {"store_tokens": True}


@pytest.mark.parametrize(
    ("offered", "kept", "openid", "asked"),
    [
        (OFFERED, KEPT, False, True),
        (OFFERED, KEPT, True, True),
        (OFFERED, STORED, True, False),
        (OFFERED, {}, True, False),
        (("openid",), KEPT, True, False),
        (None, KEPT, True, False),
    ],
)
def test_offline_access_only_if_advertised_and_wanted(app, alice, offered, kept, openid, asked):
    """An OpenID provider gives it at a consent screen only (OpenID Connect Core 11)."""
    acme.add(app, scopes=["a"], token_management=kept)
    found(app, scopes_offered=offered, is_openid=openid)
    given = leave(alice).asked
    assert given["scope"] == ("a offline_access" if asked else "a")
    assert given.get("prompt") == ("consent" if asked and openid else None)


def test_what_an_admin_says_of_offline_beats_the_metadata(app, alice):
    acme.add(app, scopes=["a"], offline={"scopes": [], "params": {"access_type": "offline"}})
    found(app, scopes_offered=OFFERED, is_openid=True)
    given = leave(alice).asked
    assert (given["scope"], given["access_type"]) == ("a", "offline") and "prompt" not in given


@pytest.mark.parametrize(
    ("how", "param", "text"),
    [
        ({}, "scope", "a b"),
        ({"scope_separator": ","}, "scope", "a,b"),
        ({"scope_separator": ",", "scope_param": "user_scope"}, "user_scope", "a,b"),
    ],
)
def test_scopes_are_joined_and_named_as_the_provider_wants(app, alice, how, param, text):
    acme.add(app, scopes=["a", "b"], **how)
    given = leave(alice).asked
    assert given[param] == text and len({"scope", "user_scope"} & given.keys()) == 1


# -- audience, further parameters ----------------------------------------------------------------


def test_further_parameters_reach_their_requests_and_no_other(app, alice, provider):
    acme.add(
        app,
        audience="https://api.test/",
        extra_authorize_params={"prompt": "login", "empty": ""},
        extra_token_params={"tenant": "blue"},
        refresh_url="https://as.test/renew",
    )
    provider.post(TOKEN, json=GOOD | {"refresh_token": "rt-1"})
    provider.post("https://as.test/renew", json=GOOD)
    trip = leave(alice)
    trip.back()
    code, refresh = sent(provider), renewed(app, alice, provider)
    assert (trip.asked["audience"], trip.asked["prompt"]) == ("https://api.test/", "login")
    assert "tenant" not in trip.asked
    assert code["tenant"] == refresh["tenant"] == "blue"
    assert not {"audience", "prompt", "empty"} & {*code, *refresh}
    assert provider.last_request.url == "https://as.test/renew"


# -- replies and lifetimes -----------------------------------------------------------------------


def test_a_nested_reply_is_read_where_the_config_says(app, alice, provider):
    acme.add(app, reply={"token_path": "data.token"}, scopes=["a"])
    provider.post(TOKEN, json={"data": {"token": GOOD | {"scope": "a", "refresh_token": "rt"}}})
    leave(alice).back()
    [held] = rows(app, Connection)
    assert held.state == "active" and held.scopes_granted == ["a"]
    assert renewed(app, alice, provider)["refresh_token"] == "rt"


@pytest.mark.parametrize(
    ("lifetime", "expires_in", "seconds"),
    [
        ({}, 3600, 3600),
        ({}, None, None),
        ({"default": 900}, None, 900),
        ({"default": 900}, 3600, 3600),
        ({"always": 60}, 3600, 60),
        ({"always": 60}, None, 60),
        ({"unit": "ms"}, 3_600_000, 3600),
        ({"unit": "ms", "default": 900}, None, 900),
    ],
)
def test_how_long_a_token_is_believed_to_live(app, alice, provider, lifetime, expires_in, seconds):
    acme.add(app, lifetime=lifetime)
    provider.post(TOKEN, json=GOOD | {"expires_in": expires_in})
    leave(alice).back()
    [held] = rows(app, Connection)
    assert (held.expires_ms and (held.expires_ms - held.issued_ms) / 1000) == seconds
