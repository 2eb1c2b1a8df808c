"""A client of our own making, on the gateway's page and by command."""

import dataclasses

from app import gateways
from app.audit import SYSTEM
from app.oauth import registering
from tests.conftest import person
from tests.oauth.acme import add
from tests.oauth.published import published
from tests.oauth.test_registering import CLIENT, answers, automatic

__all__ = ["published"]  # the fixture
AGAIN = "/admin/gateways/acme/register"


def test_sec_026_only_an_admin_registers_again(published, start, config):
    app = start(dataclasses.replace(config, EGRESS_ALLOW=("127.0.0.0/8",)))
    admin = person(app, "boss@example.com", role="admin")
    alice = person(app, "alice@example.com")
    server, provider = published()
    asked = answers(provider, CLIENT, CLIENT | {"client_id": "made-2"})
    with app.app_context():
        registering.ready(automatic(server), by=SYSTEM)
    assert alice.submit(AGAIN, at="/me").status_code == 403
    assert len(asked) == 1
    assert admin.submit(AGAIN, at="/admin/gateways/acme").status_code == 303
    assert "made-2" in admin.get("/admin/gateways/acme").text
    assert len(asked) == 2
    told = app.test_cli_runner().invoke(args=["gateways", "register", "acme"])
    assert told.exit_code == 0, told.output
    assert len(asked) == 3


def test_a_refusal_is_told_in_the_words_of_the_provider(published, start, config):
    app = start(dataclasses.replace(config, EGRESS_ALLOW=("127.0.0.0/8",)))
    admin = person(app, "boss@example.com", role="admin")
    server, provider = published()
    with app.app_context():
        answers(provider, CLIENT)
        registering.ready(automatic(server), by=SYSTEM)
    provider.pages["/register"] = 403
    admin.submit(AGAIN, at="/admin/gateways/acme")
    assert "does not register" in admin.get("/admin/gateways/acme").text


def test_another_public_address_is_told_where_a_client_was_typed(app):
    add(app)
    with app.app_context():
        assert gateways.warnings(gateways.find("acme")) == []
        app.config["PUBLIC_URL"] = "https://moved.test"
        [warning] = gateways.warnings(gateways.find("acme"))
    assert "https://gw.test/oauth/callback" in warning
    assert "exactly https://moved.test/oauth/callback" in warning
