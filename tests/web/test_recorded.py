"""What is recorded, event by event: who, what, when, where and how it ended (SEC-113)."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from app.models import AuditEvent, BrowserSession, User
from tests.conftest import PASSWORD, Browser, person, rows
from tests.oauth import acme
from tests.oauth.acme import GOOD, TOKEN, leave
from tests.web.credentials import bearer, token_of
from tests.web.registry import CANARY, CODE

NEW = "another long password"
REVOKE = "https://as.test/revoke"


@dataclass
class Stage:
    """Admin ana, user bo, and a gateway whose provider answers."""

    app: object
    ana: Browser
    bo: Browser
    provider: object

    @property
    def bo_id(self) -> str:
        return next(row.id for row in rows(self.app, User) if row.email == "bo@example.com")

    def as_ana(self, method: str, url: str, **more):
        token = token_of(self.app, "ana@example.com", scopes=["api:read", "api:write"])
        http = self.app.test_client()
        return http.open(url, method=method, headers=bearer(token), base_url=HERE, **more)

    def on(self, user: str, do: str, **fields: str):
        """A form of the page of a user."""
        page = f"/admin/users/{user}"
        return self.ana.submit(f"{page}/{do}", at=page if do != "password" else None, **fields)


HERE = "https://gw.test"


@pytest.fixture
def stage(app, provider):
    provider.post(TOKEN, json=GOOD | {"refresh_token": "rt-1"})
    provider.post(REVOKE, status_code=200)
    acme.add(app, revocation_url=REVOKE)
    ana = person(app, "ana@example.com", role="admin")
    return Stage(app, ana, person(app, "bo@example.com"), provider)


def sign_in(stage, email: str, password: str):
    return Browser(stage.app).submit("/login", email=email, password=password)


def connect(stage):
    return leave(stage.bo).back()


def refuse_consent(stage):
    return leave(stage.bo).back(code="", error="access_denied")


def renew(stage):
    connect(stage)
    return stage.bo.submit("/connections/acme/refresh", at="/connections/acme")


def disconnect(stage):
    connect(stage)
    return stage.bo.submit("/connections/acme/disconnect", at="/connections/acme")


def make_token(stage):
    fields = {"name": "laptop", "scopes": "mcp", "all_gateways": "y", "ends": "90"}
    return stage.bo.submit("/tokens/new", **fields)


def revoke_token(stage):
    token_of(stage.app, "bo@example.com")
    page = stage.bo.get("/tokens").text
    url = page.partition('action="/tokens/')[2].partition('"')[0]
    return stage.bo.submit(f"/tokens/{url}", at="/tokens")


def end_session(stage):
    sign_in(stage, "bo@example.com", PASSWORD)
    [_, other] = [row for row in rows(stage.app, BrowserSession) if row.user_id == stage.bo_id]
    return stage.bo.submit(f"/me/sessions/{other.id}/end", at="/me")


def patch(stage, **record):
    return stage.as_ana("PATCH", "/api/v1/gateways/acme", json=record)


ANA, BO, NOBODY = ("user", "ana@example.com"), ("user", "bo@example.com"), ("anonymous", "")
TOKENS, ITSELF = ("token", "ana@example.com"), ("system", "")
SECRET = {"client_secret": f"{CANARY}-new"}
GATEWAY = {**CODE, "name": "Second", "slug": "second"}
EVENTS = {  # what is done -> by whom, the action, how it ended, what of the details, about what
    "a sign-in": (
        lambda s: sign_in(s, "bo@example.com", PASSWORD),
        *(BO, "login", "ok", {}, "bo@example.com"),
    ),
    "a wrong password": (
        lambda s: sign_in(s, "bo@example.com", "wrong"),
        *(NOBODY, "login", "failed", {}, "bo@example.com"),
    ),
    "an unknown account": (
        lambda s: sign_in(s, "who@example.com", "wrong"),
        *(NOBODY, "login", "failed", {}, ""),
    ),
    "a sign-out": (
        lambda s: s.bo.submit("/logout", at="/me"),
        *(BO, "logout", "ok", {}, "bo@example.com"),
    ),
    "another browser signed out": (end_session, *(BO, "session.ended", "ok", {}, "bo@example.com")),
    "a page for admins": (
        lambda s: s.bo.get("/admin/users"),
        *(BO, "access.denied", "denied", {"code": "forbidden"}, "GET /admin/users"),
    ),
    "a token without the scope": (
        lambda s: s.app.test_client().get(
            "/api/v1/gateways",
            headers=bearer(token_of(s.app, "bo@example.com", scopes=["mcp"])),
            base_url=HERE,
        ),
        ("token", "bo@example.com"),
        *("access.denied", "denied", {"code": "insufficient_token_scope"}, "GET /api/v1/gateways"),
    ),
    "a forged form": (
        lambda s: s.bo.post("/logout", headers={"Origin": "https://evil.test"}),
        *(BO, "access.denied", "denied", {"code": "csrf"}, "POST /logout"),
    ),
    "a new gateway": (
        lambda s: s.as_ana("POST", "/api/v1/gateways", json=GATEWAY),
        *(TOKENS, "gateway.created", "ok", {}, "Second"),
    ),
    "a changed gateway": (
        lambda s: patch(s, timeout_s=5),
        *(TOKENS, "gateway.updated", "ok", {"fields": ["timeout_s"]}, "Acme"),
    ),
    "a replaced secret": (
        lambda s: patch(s, oauth_config=SECRET),
        *(TOKENS, "gateway.updated", "ok", {"fields": ["oauth_config.client_secret"]}, "Acme"),
    ),
    "a gateway switched off": (
        lambda s: s.ana.submit("/admin/gateways/acme/off", at="/admin/gateways/acme"),
        *(ANA, "gateway.switched_off", "ok", {}, "Acme"),
    ),
    "a deleted gateway": (
        lambda s: s.ana.submit("/admin/gateways/acme/delete"),
        *(ANA, "gateway.deleted", "ok", {}, "Acme"),
    ),
    "a consent": (connect, *(BO, "consent.finished", "ok", {}, "Acme")),
    "a connection made by it": (connect, *(BO, "connection.connected", "ok", {}, None)),
    "a refused consent": (
        refuse_consent,
        *(BO, "consent.refused", "denied", {"code": "access_denied"}, "Acme"),
    ),
    "a renewal": (renew, *(ITSELF, "connection.renewed", "ok", {}, None)),
    "a disconnect": (disconnect, *(BO, "connection.disconnected", "ok", {}, None)),
    "a revocation": (disconnect, *(ITSELF, "connection.ended_at_provider", "ok", {}, None)),
    "a new API token": (
        make_token,
        *(BO, "api_token.created", "ok", {"scopes": ["mcp"]}, "laptop"),
    ),
    "a revoked API token": (revoke_token, *(BO, "api_token.revoked", "ok", {}, "test")),
    "a new account": (
        lambda s: s.ana.submit(
            "/admin/users/new", email="cy@example.com", role="user", password=NEW
        ),
        *(ANA, "user.created", "ok", {"role": "user"}, "cy@example.com"),
    ),
    "another role": (
        lambda s: s.on(s.bo_id, "role", role="admin"),
        *(ANA, "user.role_changed", "ok", {"role": "admin"}, "bo@example.com"),
    ),
    "another password": (
        lambda s: s.on(s.bo_id, "password", password=NEW),
        *(ANA, "user.password_changed", "ok", {}, "bo@example.com"),
    ),
    "a disabled account": (
        lambda s: s.on(s.bo_id, "disable"),
        *(ANA, "user.disabled", "ok", {}, "bo@example.com"),
    ),
    "a deleted account": (
        lambda s: s.ana.submit(f"/admin/users/{s.bo_id}/delete"),
        *(ANA, "user.deleted", "ok", {}, "bo@example.com"),
    ),
    "a changed key": (
        lambda s: s.app.test_cli_runner().invoke(args=["secrets", "reseal"]),
        *(ITSELF, "key.resealed", "ok", {}, None),
    ),
}


@pytest.mark.parametrize("event", EVENTS)
def test_sec_113_what_matters_is_recorded_with_all_that_one_asks_later(app, stage, event):
    act, (kind, label), action, outcome, details, subject = EVENTS[event]
    begun = datetime.now(UTC)
    act(stage)
    found = [row for row in rows(app, AuditEvent) if row.action == action and row.at >= begun]
    assert found, [row.action for row in rows(app, AuditEvent)]
    row = found[-1]
    assert (row.actor_kind, row.outcome) == (kind, outcome)
    assert row.actor_label == label or kind == "system"
    assert begun <= row.at <= begun + timedelta(minutes=5)
    if kind != "system":
        assert row.address == "127.0.0.1" and row.request_id
    assert row.details | details == row.details
    assert subject in (None, row.subject_label)
    said = repr([vars(one) for one in rows(app, AuditEvent)])
    for secret in (CANARY, PASSWORD, NEW, "at-1", "rt-1", "wrong", "who@example.com"):
        assert secret not in said


def test_a_denial_is_recorded_once_a_minute_and_not_for_strangers(app, alice, bob, stranger):
    for browser in (alice, alice, bob, stranger):
        browser.get("/admin/users")
    alice.get("/admin/gateways")
    found = [row.actor_label for row in rows(app, AuditEvent) if row.action == "access.denied"]
    assert found == ["alice@example.com", "bob@example.com"]
