"""What becomes of a gateway when its server or its provider publishes something else."""

import pytest
import sqlalchemy as sa

from app import access
from app.access import Caller
from app.audit import Actor
from app.db import db
from app.errors import Conflict, ConnectionNeeded, NotFound
from app.models import (
    AuditEvent,
    ClientRegistration,
    Connection,
    Flow,
    Gateway,
    OAuthConfig,
    Revocation,
    User,
)
from app.oauth import moves, rediscovery, registering, tokens
from app.oauth.discovered import Discovered, both_of
from app.oauth.discovery import DiscoveryFailed
from app.secretbox import box, cell
from app.specs import OAuthConfigSpec
from tests.conftest import rows
from tests.oauth.acme import KEPT, Trip, leave
from tests.oauth.published import AS, PRM, published
from tests.upstream import says

__all__ = ["published"]  # the fixture
ADMIN = Actor("system", label="command line")
REDIRECT = "https://gw.test/oauth/callback"
CANARY = "canary-of-the-old-provider"


def automatic(app, server, *, client="dcr", **said) -> str:
    """A gateway of which nothing but the URL was typed; its client belongs to nobody yet."""
    said = {"grant_type": "authorization_code", "token_management": KEPT} | said
    settings = OAuthConfigSpec.model_validate(said).settings()
    with app.app_context():
        gateway = Gateway(name="Acme", slug="acme", url=server.url, auth_type="oauth")
        config = OAuthConfig(grant_type=said["grant_type"], settings=settings)
        config.issuer = said.get("issuer")
        gateway.oauth_configs.append(config)
        db.session.add(gateway)
        db.session.commit()
        rediscovery.fresh(config.id)
        db.session.refresh(config)
        made = ClientRegistration(kind=client, issuer=config.issuer, client_id="cid")
        made.redirect_uri, made.auth_method = "https://gw.test/oauth/callback", "auto"
        made.oauth_config_id = config.id if client == "manual" else ""
        made.id = f"client-{client}"
        where = cell(made, "client_secret_sealed")
        made.client_secret_sealed = box().seal(f"{CANARY}-secret", where=where)
        config.registration = made
        db.session.commit()
        server.server.seen.clear()
        return config.id


def connected(app, config_id: str, *, owner: str = "alice@example.com") -> None:
    """With tokens that live, from the provider as it is now."""
    with app.app_context():
        config = db.session.get(OAuthConfig, config_id)
        user = db.session.scalars(sa.select(User).where(User.email == owner)).one_or_none()
        row = Connection(oauth_config_id=config.id, gateway_id=config.gateway_id)
        row.id, row.version, row.token_gen, row.consent_gen = "c" * 32, 1, 1, 1
        row.user_id, row.owner_key = (user.id, f"user:{user.id}") if user else (None, "shared")
        row.state, row.config_version = "active", config.config_version
        row.issuer, row.token_url = config.issuer, config.token_url
        row.revocation_url = f"{config.issuer}/revoke"
        row.registration_id = config.registration_id
        row.registration_generation, row.scopes_requested = 1, []
        for column in ("access_token_sealed", "refresh_token_sealed"):
            sealed = box().seal(f"{CANARY}-{column}", where=cell(row, column))
            setattr(row, column, sealed)
        db.session.add(row)
        db.session.commit()


def age(app, seconds: int = 3700) -> None:
    """What is known was read so long ago."""
    with app.app_context():
        for config in db.session.scalars(sa.select(OAuthConfig)):
            old = config.discovered["fetched_ms"] - seconds * 1000
            config.discovered = config.discovered | {"fetched_ms": old}
            config.asked_ms = old
        db.session.commit()


def fresh(app, config_id, **more) -> None:
    with app.app_context():
        rediscovery.fresh(config_id, **more)


def stop(app, config_id, **more) -> Conflict:
    with app.app_context(), pytest.raises(Conflict) as caught:
        rediscovery.fresh(config_id, **more)
    return caught.value


def only(app, model):
    [found] = rows(app, model)
    return found


def found_of(app) -> Discovered:
    return Discovered.of(only(app, OAuthConfig).discovered)


# -- when it is asked ------------------------------------------------------------------------------


def test_what_nobody_typed_is_found_before_a_sign_in(app, alice, published):
    server, provider = published()
    automatic(app, server)
    config = only(app, OAuthConfig)
    assert config.issuer == provider.issuer and config.token_url == f"{provider.origin}/token"
    assert config.settings["token_url"] is None  # what the admin said stays what it was
    trip = leave(alice)
    assert trip.asked["resource"] == server.url and trip.asked["code_challenge_method"] == "S256"
    flow = only(app, Flow)
    assert flow.authorization_url == f"{provider.origin}/authorize"
    assert flow.issuer == provider.issuer


def test_it_is_asked_once_an_hour_and_in_every_check(app, published):
    server, provider = published()
    config = automatic(app, server)
    fresh(app, config)
    age(app, 3500)
    fresh(app, config)
    assert not server.asked
    age(app, 200)
    fresh(app, config)
    assert server.asked == ["POST /mcp", f"GET {PRM}/mcp"]
    fresh(app, config, max_age_s=0)
    assert len(server.asked) == 4


def test_nothing_is_asked_where_all_is_typed(app, published):
    server, provider = published()
    config = automatic(app, server)
    with app.app_context(), db.engine.begin() as link:
        typed = {"authorization_url": "https://as.test/go", "token_url": "https://as.test/token"}
        settings = only(app, OAuthConfig).settings | typed
        link.execute(sa.update(OAuthConfig).values(settings=settings, discovered=None))
    fresh(app, config, max_age_s=0)
    assert not server.asked


def test_an_outage_changes_nothing_and_is_not_asked_at_each_click(app, published):
    server, provider = published()
    config = automatic(app, server)
    before = only(app, OAuthConfig)
    age(app)
    server.pages["/mcp"] = 503
    fresh(app, config)
    fresh(app, config)
    assert server.asked == ["POST /mcp"]
    after = only(app, OAuthConfig)
    assert after.config_version == before.config_version and after.token_url == before.token_url


@pytest.mark.parametrize("gone", ["resource", "server"])
def test_who_publishes_nothing_any_more_is_not_taken_for_a_server_of_old_times(
    app, published, gone
):
    server, provider = published()
    config = automatic(app, server)
    age(app)
    server.challenge("Bearer")
    server.pages |= {PRM + "/mcp": 404, "/authorize": 400, "/token": 400}
    if gone == "server":
        server.pages["/mcp"] = 404
    fresh(app, config)
    assert found_of(app).issuer == provider.issuer


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s, p: s.publish(p.issuer, resource="https://evil.test"), "resource_mismatch"),
        (lambda s, p: s.publish(), "no_authorization_server"),
        (lambda s, p: s.publish("https://10.0.0.1"), "blocked_address"),
        (lambda s, p: p.publish(issuer="https://evil.test"), "issuer_mismatch"),
        (lambda s, p: p.publish(code_challenge_methods_supported=...), "pkce_not_offered"),
        (lambda s, p: p.publish(token_endpoint="http://as.test/x"), "metadata_incomplete"),
    ],
)
def test_what_is_denied_now_stops_a_sign_in(app, published, change, code):
    server, provider = published()
    config = automatic(app, server)
    change(server, provider)
    age(app)
    with app.app_context(), pytest.raises(DiscoveryFailed) as caught:
        rediscovery.fresh(config)
    assert caught.value.code == code


def test_a_gateway_that_never_found_anything_says_why(app, published):
    server, provider = published()
    server.pages.clear()
    server.challenge("Bearer")
    with pytest.raises(DiscoveryFailed) as caught:
        automatic(app, server)
    assert caught.value.code == "no_sign_in_info"


# -- the same issuer -------------------------------------------------------------------------------


def test_what_moves_within_its_host_is_followed_and_ends_flows_under_way(app, alice, published):
    server, provider = published()
    config = automatic(app, server)
    trip = leave(alice)
    provider.publish(token_endpoint=f"{provider.origin}/v2/token")
    age(app)
    fresh(app, config)
    after = only(app, OAuthConfig)
    assert after.token_url == f"{provider.origin}/v2/token" and after.config_version > 1
    trip.back()
    assert only(app, Flow).error_code == "config_changed"
    assert "POST /token" not in provider.asked


def test_what_changes_nothing_ends_nothing(app, published):
    server, provider = published()
    config = automatic(app, server)
    before = only(app, OAuthConfig).config_version
    provider.publish(service_documentation="https://as.test/docs")
    age(app)
    fresh(app, config)
    assert only(app, OAuthConfig).config_version == before
    assert len([row for row in rows(app, AuditEvent) if row.action == "gateway.updated"]) == 1


ENDPOINTS = [
    *("authorization_endpoint", "token_endpoint", "registration_endpoint"),
    *("revocation_endpoint", "userinfo_endpoint"),
]


@pytest.mark.parametrize("name", ENDPOINTS)
def test_sec_021_an_endpoint_on_another_host_waits_for_an_admin(app, published, name):
    server, provider = published()
    config = automatic(app, server)
    before = only(app, OAuthConfig)
    provider.publish(**{name: "https://evil.test/x"})
    age(app)
    error = stop(app, config)
    assert error.code == "endpoint_moved" and "https://evil.test/x" in error.cause
    after = only(app, OAuthConfig)
    assert after.token_url == before.token_url and after.config_version == before.config_version
    assert Discovered.of(after.discovered).sha256 == Discovered.of(before.discovered).sha256
    server.server.seen.clear()
    assert stop(app, config).code == "endpoint_moved" and not server.asked  # until it is confirmed
    with app.app_context():
        rediscovery.confirm(config, by=ADMIN)
        db.session.commit()
    fresh(app, config)
    assert getattr(found_of(app), name) == "https://evil.test/x"
    told = [(row.action, row.actor_label) for row in rows(app, AuditEvent)]
    assert [one for one in told if one[0] == "gateway.provider_moved"] == [told[-2]]
    assert told[-1] == ("gateway.updated", "command line")


PLACE = "/admin/gateways/acme"


def test_sec_021_an_admin_reads_what_waits_and_confirms_it_by_a_button(
    app, admin, alice, published
):
    server, provider = published()
    config = automatic(app, server)
    assert "Confirm the new address" not in admin.get(PLACE).text
    provider.publish(token_endpoint="https://evil.test/x")
    age(app)
    stop(app, config)
    page = admin.get(PLACE).text
    assert "moved an address to another host" in page and "https://evil.test/x" in page
    assert alice.submit(f"{PLACE}/provider", at="/me").status_code == 403
    assert admin.submit(f"{PLACE}/provider", at=PLACE).status_code == 303
    assert only(app, OAuthConfig).token_url == "https://evil.test/x"
    assert "Confirm the new address" not in admin.get(PLACE).text
    assert rows(app, AuditEvent)[-1].actor_label == "admin@example.com"
    assert admin.submit(f"{PLACE}/provider", at=PLACE).status_code == 404


def test_sec_021_what_moved_back_waits_no_longer(app, published):
    server, provider = published()
    config = automatic(app, server)
    provider.publish(token_endpoint="https://evil.test/x")
    age(app)
    stop(app, config)
    provider.publish()
    age(app, 120)
    fresh(app, config)
    assert only(app, OAuthConfig).awaits is None
    with app.app_context(), pytest.raises(NotFound):
        rediscovery.confirm(config, by=ADMIN)


def test_sec_021_a_promise_of_iss_is_not_taken_back_without_an_admin(app, published):
    server, provider = published()
    provider.publish(authorization_response_iss_parameter_supported=True)
    config = automatic(app, server)
    provider.publish()
    age(app)
    assert stop(app, config).code == "iss_withdrawn"
    assert found_of(app).names_itself


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"token_url": "https://typed.test/token"}, "token URL"),
        ({"authorization_url": "https://typed.test/go"}, "authorization URL"),
    ],
)
def test_typed_and_published_endpoints_are_never_mixed(app, published, typed, field):
    server, provider = published()
    with pytest.raises(Conflict) as caught:
        automatic(app, server, **typed)
    assert caught.value.code == "endpoint_differs" and field in caught.value.cause
    config = only(app, OAuthConfig)
    spec, found = both_of(config.settings, config.discovered)
    assert found is None and None in (spec.token_url, spec.authorization_url)


def test_a_typed_endpoint_that_is_published_too_may_stand_beside_others(app, published):
    server, provider = published()
    automatic(app, server, token_url=f"{provider.origin}/token")
    config = only(app, OAuthConfig)
    spec, _ = both_of(config.settings, config.discovered)
    assert spec.authorization_url == f"{provider.origin}/authorize"


def test_an_edit_that_comes_between_wins(app, published):
    server, provider = published()
    config = automatic(app, server)
    document = provider.pages[AS] | {"token_endpoint": f"{provider.origin}/v2"}

    def meanwhile(_):
        with app.app_context(), db.engine.begin() as link:
            link.execute(sa.update(OAuthConfig).values(config_version=77))
        return says(document)

    provider.pages[AS] = meanwhile
    age(app)
    fresh(app, config)
    after = only(app, OAuthConfig)
    assert after.config_version == 77 and after.token_url == f"{provider.origin}/token"


# -- another issuer --------------------------------------------------------------------------------


def everything(site) -> bytes:
    seen = site.server.seen
    return b"".join(one.path.encode() + repr(one.headers).encode() + one.body for one in seen)


def test_new_issuer_gets_a_new_client_and_no_old_secret(app, alice, published):
    server, old = published()
    _, new = published()
    config = automatic(app, server)
    connected(app, config)
    server.publish(new.issuer)
    age(app)
    fresh(app, config)
    after = only(app, OAuthConfig)
    assert after.issuer == new.issuer and after.token_url == f"{new.origin}/token"
    assert after.registration_id is None
    connection = only(app, Connection)
    assert (connection.state, connection.reason) == ("orphaned", "issuer_changed")
    assert connection.access_token_sealed is None
    assert only(app, Revocation).url == f"{old.issuer}/revoke"  # ended where it came from
    assert new.asked and CANARY.encode() not in everything(new)
    client = only(app, ClientRegistration)
    assert client.issuer == old.issuer and client.client_secret_sealed is not None
    new.pages["/register"] = says({"client_id": "new", "redirect_uris": [REDIRECT]}, 201)
    with app.app_context():
        ours = registering.ready(config, by=ADMIN)
    made = {row.id: row for row in rows(app, ClientRegistration)}
    assert made[ours].issuer == new.issuer and made[ours].client_id == "new"
    assert new.asked[-1] == "POST /register" and CANARY.encode() not in everything(new)


def test_of_several_issuers_the_one_we_are_at_stays(app, published):
    server, old = published()
    _, new = published()
    config = automatic(app, server)
    server.publish(new.issuer, old.issuer)
    age(app)
    fresh(app, config)
    assert only(app, OAuthConfig).issuer == old.issuer and not new.asked


def test_pinned_client_stops_at_a_new_issuer(app, alice, published):
    server, old = published()
    _, new = published()
    config = automatic(app, server, client="manual")
    connected(app, config)
    server.publish(new.issuer)
    age(app)
    error = stop(app, config)
    assert error.code == "issuer_changed"
    assert old.issuer in error.cause and new.issuer in error.cause
    assert only(app, Connection).state == "active" and not rows(app, Revocation)
    assert only(app, OAuthConfig).issuer == old.issuer
    assert CANARY.encode() not in everything(new)
    with app.app_context():
        rediscovery.confirm(config, by=ADMIN)
        db.session.commit()
    assert only(app, OAuthConfig).issuer == new.issuer
    client = only(app, ClientRegistration)  # whose secret was typed for another one
    assert client.state == "retired" and client.client_secret_sealed is None
    assert only(app, OAuthConfig).registration_id is None
    assert only(app, Connection).reason == "issuer_changed"


def test_an_issuer_that_was_pinned_by_hand_is_left_by_hand(app, published):
    server, old = published()
    _, new = published()
    config = automatic(app, server, issuer=old.issuer)
    server.publish(new.issuer)
    age(app)
    assert stop(app, config).code == "issuer_changed"
    with app.app_context(), pytest.raises(Conflict) as caught:
        rediscovery.confirm(config, by=ADMIN)
    assert caught.value.code == "issuer_changed"
    assert only(app, OAuthConfig).issuer == old.issuer


def test_a_pin_that_the_server_never_named_is_kept(app, published):
    server, named = published()
    _, pinned = published()
    config = automatic(app, server, issuer=pinned.issuer)
    server.publish("https://third.test")
    age(app)
    fresh(app, config)
    assert only(app, OAuthConfig).issuer == pinned.issuer and not named.asked[1:]


# -- a token that the server refused ---------------------------------------------------------------


def refused(app, owner="alice@example.com"):
    """What a call does after its token was refused."""
    with app.app_context():
        user = db.session.scalars(sa.select(User).where(User.email == owner)).one()
        caller = Caller(user.id, owner, False)
        db.session.rollback()
        return tokens.credential(caller, access.usable(caller, "acme"), after=1)


def test_sec_021_after_a_401_the_server_is_asked_for_its_provider_before_renewing(
    app, alice, published
):
    server, old = published()
    _, new = published()
    config = automatic(app, server)
    connected(app, config)
    server.publish(new.issuer)
    age(app, 70)
    with pytest.raises(ConnectionNeeded) as caught:
        refused(app)
    assert caught.value.state == "orphaned" and caught.value.reason == "issuer_changed"
    assert "POST /token" not in old.asked and CANARY.encode() not in everything(new)


def test_after_a_401_one_document_is_read_and_at_most_once_a_minute(app, alice, published):
    server, old = published()
    config = automatic(app, server)
    connected(app, config)
    old.pages["/token"] = {"access_token": "at-2", "token_type": "Bearer", "expires_in": 3600}
    refused(app)  # read a moment ago
    assert not server.asked and old.asked.count("POST /token") == 1
    age(app, 70)
    refused(app)
    refused(app)
    assert server.asked == [f"GET {PRM}/mcp"] and old.asked.count(f"GET {AS}") == 1


def test_a_look_that_fails_after_a_401_is_none_of_the_calls(app, alice, published):
    server, old = published()
    config = automatic(app, server)
    connected(app, config)
    old.pages["/token"] = {"access_token": "at-2", "token_type": "Bearer", "expires_in": 3600}
    server.pages[PRM + "/mcp"] = 500
    age(app, 70)
    assert refused(app).headers == {"Authorization": "Bearer at-2"}


def test_a_shared_client_of_another_issuer_is_not_renewed_after_a_401(app, alice, published):
    server, old = published()
    _, new = published()
    shared = {"grant_type": "client_credentials"}
    config = automatic(app, server, client="manual", **shared)
    connected(app, config, owner="")
    server.publish(new.issuer)
    age(app, 70)
    for _ in range(2):
        with pytest.raises(Conflict) as caught:
            refused(app)
        assert caught.value.code == "issuer_changed"
    assert "POST /token" not in old.asked and CANARY.encode() not in everything(new)


# -- who answers, with metadata --------------------------------------------------------------------


@pytest.mark.parametrize("promised", [True, False])
@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("same", None),
        ("absent", {True: "issuer_missing", False: None}),
        ("slash", "issuer_mismatch_reply"),
        ("case", "issuer_mismatch_reply"),
        ("other", "issuer_mismatch_reply"),
    ],
)
def test_sec_007_iss_of_the_answer_is_that_of_the_metadata(
    app, alice, published, promised, given, code
):
    server, provider = published()
    provider.publish(authorization_response_iss_parameter_supported=promised)
    provider.pages["/token"] = {"access_token": "at", "token_type": "Bearer"}
    automatic(app, server)
    told = {
        "same": provider.issuer,
        "absent": "",
        "slash": f"{provider.issuer}/",
        "case": provider.issuer.replace("http", "HTTP"),
        "other": "https://evil.test",
    }
    trip: Trip = leave(alice)
    assert only(app, Flow).iss_required is promised
    trip.back(iss=told[given])
    expected = code[promised] if isinstance(code, dict) else code
    assert only(app, Flow).error_code == expected
    assert provider.asked.count("POST /token") == (0 if expected else 1)


# -- pure ------------------------------------------------------------------------------------------

OLD = Discovered(
    issuer="https://as.test",
    fetched_ms=1,
    authorization_endpoint="https://login.test/go",
    token_endpoint="https://as.test/token",
)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, None),
        ({"token_endpoint": "https://as.test/other"}, None),
        ({"token_endpoint": "https://login.test/token"}, "endpoint_moved"),
        ({"token_endpoint": "https://as.test:8443/token"}, "endpoint_moved"),
        ({"revocation_endpoint": "https://login.test/revoke"}, None),
        ({"revocation_endpoint": "https://evil.test/revoke"}, "endpoint_moved"),
        ({"authorization_endpoint": None}, None),
        ({"names_itself": True}, None),
        ({"issuer": "https://new.test", "token_endpoint": "https://new.test/token"}, None),
    ],
)
def test_what_may_be_followed(change, code):
    new = Discovered(**(OLD.as_json() | change))
    found = moves.judge(OLD, new, pin=None, typed_for=None)
    assert (found and found.code) == code
    if "issuer" in change:
        kept = moves.judge(OLD, new, pin=None, typed_for=OLD.issuer)
        assert kept.code == "issuer_changed" and kept.can_confirm
