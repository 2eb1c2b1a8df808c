"""Registered MCP servers, and what they were last seen to offer."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..db import Base, utcnow
from .oauth import OAuthConfig


class Gateway(Base):
    """An upstream MCP server that we offer under /mcp/<slug>."""

    __tablename__ = "gateway"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    slug: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str] = mapped_column(String(500), default="")
    url: Mapped[str] = mapped_column(String(2048))
    transport: Mapped[str] = mapped_column(String(10), default="auto")  # auto, http, sse
    auth_type: Mapped[str] = mapped_column(String(10))  # none, basic, bearer, headers, oauth
    username: Mapped[str | None] = mapped_column(String(200))  # basic
    header_names: Mapped[list[str]] = mapped_column(JSON, default=list)  # headers; values sealed
    # basic: the password; bearer: the token; headers: a JSON object of name to value
    credentials_sealed: Mapped[str | None] = mapped_column(Text)
    ca_pem: Mapped[str | None] = mapped_column(Text)  # trusted for this gateway's hosts alone
    client_cert_pem: Mapped[str | None] = mapped_column(Text)  # shown to them
    client_key_sealed: Mapped[str | None] = mapped_column(Text)
    is_enabled: Mapped[bool] = mapped_column(default=True)
    timeout_s: Mapped[float | None]  # of silence on an answer; None: UPSTREAM_READ_TIMEOUT
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)
    worked_ms: Mapped[int | None] = mapped_column(BigInteger)  # last good call, to the minute
    failed_ms: Mapped[int | None] = mapped_column(BigInteger)  # last failed one
    failed_code: Mapped[str | None] = mapped_column(String(40))
    # The light check (app/health.py): up, needs_sign_in, refused, down; NULL: never looked
    health: Mapped[str | None] = mapped_column(String(16))
    health_ms: Mapped[int | None] = mapped_column(BigInteger)  # so since
    health_code: Mapped[str | None] = mapped_column(String(40))
    health_next_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    health_fails: Mapped[int] = mapped_column(default=0, server_default="0")
    # Whether a check may ask the token endpoint with a made-up code (oauth.md 2.6)
    probes_client: Mapped[bool] = mapped_column(default=True, server_default=true())
    oauth_configs: Mapped[list[OAuthConfig]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, order_by=OAuthConfig.position
    )

    @property
    def sealed_for(self) -> str:
        return f"gateway:{self.id}"

    @property
    def oauth_config(self) -> OAuthConfig | None:
        """The default one."""
        return next((config for config in self.oauth_configs if config.is_default), None)


class CatalogEntry(Base):
    """A tool, resource or prompt as a gateway last listed it, for one authorization context."""

    __tablename__ = "catalog_entry"
    __table_args__ = (UniqueConstraint("gateway_id", "owner_key", "kind", "name"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    gateway_id: Mapped[str] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"))
    owner_key: Mapped[str] = mapped_column(String(40))  # "user:<id>" or "shared"
    kind: Mapped[str] = mapped_column(String(10))  # tool, resource, template, prompt
    name: Mapped[str] = mapped_column(String(500))  # a resource's URI
    position: Mapped[int]
    definition: Mapped[dict[str, Any]] = mapped_column(JSON)  # as listed; untrusted text
    seen_at: Mapped[datetime] = mapped_column(default=utcnow)


class GatewayDraft(Base):
    """A gateway that an admin has begun to add, with what was found out. Holds no secret."""

    __tablename__ = "gateway_draft"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    record: Mapped[dict[str, Any]] = mapped_column(JSON)  # as typed so far, names of the API
    found: Mapped[dict[str, Any]] = mapped_column(JSON)  # what was found out, for the page
    is_kept: Mapped[bool] = mapped_column(default=False)  # "Save as draft": listed until deleted
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class CheckRun(Base):
    """One run of the step-by-step diagnosis of a gateway (ui.md section 8). Holds no secret."""

    __tablename__ = "check_run"
    __table_args__ = (Index("ix_check_run_gateway_id", "gateway_id", "started_ms"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    gateway_id: Mapped[str] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"))
    user_id: Mapped[str | None] = mapped_column(String(32))  # who asked; NULL: a command
    state: Mapped[str] = mapped_column(String(10), default="running")  # waiting, done
    outcome: Mapped[str | None] = mapped_column(String(10))  # ok, warn, bad
    code: Mapped[str | None] = mapped_column(String(40))  # of the step that failed
    steps: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    started_ms: Mapped[int] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)
