"""Gateways before a scripted upstream, people who use them, and AI clients of both eras."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from app import access, api_tokens, gateways, specs
from app.audit import SYSTEM
from app.db import db, recent
from app.models import Connection, Gateway, OAuthConfig, User
from app.secretbox import box, cell
from app.specs import GatewaySpec
from tests.upstream import LEGACY, META, MODERN

HERE = "https://gw.test"
KEPT = {"store_tokens": True, "auto_refresh": True}
CODE = {
    "grant_type": "authorization_code",
    "client_id": "cid",
    "client_secret": "s3cret",
    "authorization_url": "https://as.test/go",
    "token_url": "https://as.test/token",
}
SHARED = {
    "grant_type": "client_credentials",
    "client_id": "cid",
    "client_secret": "s3cret",
    "token_url": "https://as.test/token",
}


def add(app, url: str, slug: str = "acme", **record: Any) -> str:
    """A gateway; without more it wants no sign-in. Its id."""
    given = {"name": slug.title(), "slug": slug, "url": url} | record
    with app.app_context():
        gateway = gateways.create(specs.read(GatewaySpec, given), by=SYSTEM)
        db.session.commit()
        return gateway.id


def oauth(**more: Any) -> dict[str, Any]:
    """For `add`: each person signs in, and tokens are kept."""
    return {"auth_type": "oauth", "oauth_config": CODE | {"token_management": KEPT} | more}


def user(app, email: str = "alice@example.com") -> str:
    with app.app_context():
        found = db.session.scalar(sa.select(User.id).where(User.email == email))
        if found is None:
            row = User(email=email)  # who never signs in: without a password
            found = row.id
            db.session.add(row)
            db.session.commit()
        return found


def connect(app, slug: str = "acme", email: str = "alice@example.com", **values: Any) -> None:
    """As after a consent: a token that lives for an hour. Called again: a new consent."""
    name_of_config = values.pop("config", "default")
    token = values.pop("token", f"at-{email.partition('@')[0]}-{slug}")
    user_id, now = user(app, email), int(time.time() * 1000)
    with app.app_context():
        config = db.session.scalars(
            sa.select(OAuthConfig)
            .join(Gateway)
            .where(Gateway.slug == slug, OAuthConfig.name == name_of_config)
        ).one()
        is_shared = config.grant_type == "client_credentials"
        owner_key = "shared" if is_shared else f"user:{user_id}"
        mine = {"oauth_config_id": config.id, "owner_key": owner_key}
        row = db.session.scalar(sa.select(Connection).filter_by(**mine))
        if row is None:
            row = Connection(**mine, gateway_id=config.gateway_id, consent_gen=0)
            db.session.add(row)
        row.user_id = None if is_shared else user_id
        row.state, row.reason, row.issued_ms = "active", None, now
        row.expires_ms, row.consent_gen = now + 3_600_000, row.consent_gen + 1
        row.token_url, row.registration_id = config.token_url, config.registration_id
        for name, text in (("access_token", token), ("refresh_token", "rt-1")):
            sealed = box().seal(text, where=cell(row, f"{name}_sealed"))
            setattr(row, f"{name}_sealed", sealed)
        for name, value in values.items():
            setattr(row, name, value)
        db.session.commit()


def caller(app, email: str = "alice@example.com") -> access.Caller:
    return access.Caller(user(app, email), email, is_admin=False)


def usable(app, email: str = "alice@example.com", slug: str = "acme") -> access.Usable:
    """Within an app context."""
    recent().clear()
    return access.usable(caller(app, email), slug)


@dataclass
class Client:
    """An AI client with an API token of one person; the headers and ids a client would send."""

    app: Any
    slug: str = "acme"
    email: str = "alice@example.com"
    token: str = ""
    session: str | None = None
    asks: dict[str, Any] = field(default_factory=dict)  # capabilities
    next_id: int = 0

    def __post_init__(self) -> None:
        user_id = user(self.app, self.email)
        with self.app.app_context():
            _, self.token = api_tokens.issue(
                user_id, name="t", scopes=["mcp"], gateway_ids=None, expires_at=None, by=SYSTEM
            )
            db.session.commit()
        self.http = self.app.test_client()

    def send(self, verb: str = "POST", body: Any = None, **headers: str | None) -> Any:
        """As it is given, but for the API token."""
        named = {"Authorization": f"Bearer {self.token}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {name: value for name, value in named.items() if value is not None}
        return self.http.open(
            f"/mcp/{self.slug}", method=verb, data=raw, headers=sent, base_url=HERE
        )

    def modern(self, method: str, /, params: Any = None, **headers: str | None) -> Any:
        """A request of 2026-07-28."""
        self.next_id += 1
        meta = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": self.asks}
        sent = {**(params or {}), "_meta": {**meta, **(params or {}).get("_meta", {})}}
        body = {"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": sent}
        named = (params or {}).get("uri" if method == "resources/read" else "name")
        known = {"MCP_Protocol_Version": MODERN, "Mcp_Method": method}
        if method in ("tools/call", "prompts/get", "resources/read"):
            known["Mcp_Name"] = named
        return self.send("POST", body, **(known | headers))

    def initialize(self, **params: Any) -> Any:
        """Opens a legacy session, which is then kept."""
        known = {"protocolVersion": LEGACY, "capabilities": self.asks, "clientInfo": {"name": "t"}}
        reply = self.legacy("initialize", known | params, session=None, version=None)
        self.session = reply.headers.get("Mcp-Session-Id")
        return reply

    def legacy(
        self,
        method: str,
        /,
        params: Any = None,
        *,
        session: str | None = "mine",
        version: str | None = LEGACY,
        **headers: str | None,
    ) -> Any:
        """A request of 2025-11-25, in this client's session."""
        body = {"jsonrpc": "2.0", "method": method}
        if not method.startswith("notifications/"):
            self.next_id += 1
            body["id"] = self.next_id
        body |= {} if params is None else {"params": params}
        known = {"MCP_Protocol_Version": version}
        known["Mcp_Session_Id"] = self.session if session == "mine" else session
        return self.send("POST", body, **(known | headers))

    def call(self, name: str = "echo", *, era: str = "modern", **arguments: Any) -> Any:
        params = {"name": name, "arguments": arguments}
        return getattr(self, era)("tools/call", params)

    def text(self, reply: Any) -> str:
        """Of a tool's result."""
        return "\n".join(one["text"] for one in body_of(reply)["result"]["content"])


def body_of(reply: Any) -> Any:
    """The answer: of JSON, or the last event of a stream."""
    if reply.content_type == "text/event-stream":
        return messages_of(reply)[-1]
    assert reply.status_code < 300, (reply.status_code, reply.text)
    return reply.json


def messages_of(reply: Any) -> list[Any]:
    blocks = reply.text.replace("\r\n", "\n").split("\n\n")
    lines = [line for block in blocks for line in block.split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: "]


def failure_of(reply: Any) -> dict[str, Any]:
    """`error.data` of a failed call, which is never an HTTP error."""
    assert reply.status_code == 200, (reply.status_code, reply.text)
    said = body_of(reply)["error"]
    assert said["code"] == -32603, said
    return said["data"]
