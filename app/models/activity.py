"""What happened, and which keys seal."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, utcnow


class AuditEvent(Base):
    """Who did what to what, and how it ended. Names of changed fields, never their values."""

    __tablename__ = "audit_event"
    __table_args__ = (Index("ix_audit_event_at", "at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[datetime] = mapped_column(default=utcnow)
    actor_kind: Mapped[str] = mapped_column(String(10))  # user, token, system, anonymous
    actor_id: Mapped[str | None] = mapped_column(String(32))
    actor_label: Mapped[str] = mapped_column(String(254), default="")
    action: Mapped[str] = mapped_column(String(60))  # "gateway.created"
    subject_kind: Mapped[str] = mapped_column(String(30))
    subject_id: Mapped[str | None] = mapped_column(String(32))
    subject_label: Mapped[str] = mapped_column(String(254), default="")
    outcome: Mapped[str] = mapped_column(String(10), default="ok")  # ok, denied, failed
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    request_id: Mapped[str] = mapped_column(String(32), default="")
    address: Mapped[str] = mapped_column(String(45), default="")


class CryptoMeta(Base):
    """A known text under each key that was ever active: a wrong key is found at start (SEC-081)."""

    __tablename__ = "crypto_meta"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # the key id
    check_sealed: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10), default="active")
    created_at: Mapped[datetime] = mapped_column(default=utcnow)

    @property
    def sealed_for(self) -> str:
        return "system"
