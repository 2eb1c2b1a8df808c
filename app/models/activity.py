"""What happened, and which keys seal."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, utcnow


class AuditEvent(Base):
    """Who did what to what, and how it ended. Names of changed fields, never their values."""

    __tablename__ = "audit_event"
    __table_args__ = (
        Index("ix_audit_event_at", "at"),
        Index("ix_audit_event_subject", "subject_kind", "subject_id", "at"),
        Index("ix_audit_event_seq", "seq", unique=True),
        Index("ix_audit_event_gateway_id", "gateway_id", "seq"),
        Index("ix_audit_event_person_id", "person_id", "seq"),
    )

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
    # What it is about, to look for: no foreign keys, as it outlives both.
    gateway_id: Mapped[str | None] = mapped_column(String(32))
    person_id: Mapped[str | None] = mapped_column(String(32))
    # Its place in the chain, and SHA-256 of the link before it and of this row. NULL: from before
    # there was a chain.
    seq: Mapped[int | None] = mapped_column(BigInteger)
    link: Mapped[str | None] = mapped_column(String(64))


class AuditHead(Base):
    """The last link of the chain of audit events, sealed: who can write rows cannot move it."""

    __tablename__ = "audit_head"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # "audit"
    head_sealed: Mapped[str] = mapped_column(Text)  # JSON: seq and link

    @property
    def sealed_for(self) -> str:
        return "system"


class Chore(Base):
    """A recurring piece of work that one node at a time does; who has it, and when it is due."""

    __tablename__ = "chore"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # its name
    holder: Mapped[str | None] = mapped_column(String(64))
    lease_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    due_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    ran_ms: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str | None] = mapped_column(String(200))  # counts, or the code of a failure


class CryptoMeta(Base):
    """A known text under each key that was ever active: a wrong key is found at start (SEC-081)."""

    __tablename__ = "crypto_meta"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # the key id
    check_sealed: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10), default="active")  # retired: nothing uses it
    created_at: Mapped[datetime] = mapped_column(default=utcnow)

    @property
    def sealed_for(self) -> str:
        return "system"


class KeyHolder(Base):
    """A running process, and which keys it has: nothing may be sealed that it could not open."""

    __tablename__ = "key_holder"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    host: Mapped[str] = mapped_column(String(64))
    pid: Mapped[int]
    active_key: Mapped[str] = mapped_column(String(32))  # it seals with this one
    key_ids: Mapped[list[str]] = mapped_column(JSON)  # and opens these
    seen_ms: Mapped[int] = mapped_column(BigInteger)
