"""People, how they are known again, and what slows down guessing."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, utcnow


class User(Base):
    """Somebody who signs in here. `email` is stored folded to lower case."""

    __tablename__ = "user_account"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    role: Mapped[str] = mapped_column(String(10), default="user")  # admin, user
    password_hash: Mapped[str | None] = mapped_column(String(200))  # Argon2id; None: cannot sign in
    is_disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    signed_in_at: Mapped[datetime | None]  # last time

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


class BrowserSession(Base):
    """One signed-in browser. Revoked by deleting the row."""

    __tablename__ = "browser_session"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)  # SHA-256 of the cookie
    user_id: Mapped[str] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    seen_at: Mapped[datetime] = mapped_column(default=utcnow)  # written at most once a minute
    confirmed_at: Mapped[datetime] = mapped_column(default=utcnow)  # password typed last
    address: Mapped[str] = mapped_column(String(45), default="")
    agent: Mapped[str] = mapped_column(String(200), default="")


class ApiToken(Base):
    """What an AI client or script shows us. The token itself is shown once and not kept."""

    __tablename__ = "api_token"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)  # SHA-256
    hint: Mapped[str] = mapped_column(String(20))  # first and last characters
    user_id: Mapped[str] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100))
    scopes: Mapped[list[str]] = mapped_column(JSON)  # mcp, api:read, api:write
    gateway_ids: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # None: all
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    expires_at: Mapped[datetime | None]  # None: never
    used_at: Mapped[datetime | None]  # written at most once a minute
    used_by: Mapped[str | None] = mapped_column(String(100))  # name of the client, as it says
    revoked_at: Mapped[datetime | None]


class Throttle(Base):
    """Failed tries under one key, shared by all workers (SEC-070)."""

    __tablename__ = "throttle"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of what is limited
    failures: Mapped[int] = mapped_column(default=0)
    last_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    not_before_ms: Mapped[int] = mapped_column(BigInteger, default=0)


class RateWindow(Base):
    """Requests under one key in one window of time, added up over all workers (SEC-101)."""

    __tablename__ = "rate_window"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of what is limited
    window_ms: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # its beginning
    count: Mapped[int] = mapped_column(default=0)


class SetupCode(Base):
    """The one-time code of the first run. One row at most; gone when it was used."""

    __tablename__ = "setup_code"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    code_hash: Mapped[str] = mapped_column(String(64))
    expires_ms: Mapped[int] = mapped_column(BigInteger)
