"""How tokens are got, by whom, and what is under way (oauth.md section 1).

`*_sealed` is SecretBox text, `*_hash` SHA-256 of a random value. `*_ms` is milliseconds since 1970
by the database's clock; only these are compared in races.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..db import Base, utcnow


class ClientRegistration(Base):
    """The client id (and secret) we hold at one issuer."""

    __tablename__ = "client_registration"
    __table_args__ = (
        UniqueConstraint(
            *("kind", "issuer", "redirect_uri", "generation", "oauth_config_id"),
            name="uq_client_registration_key",
        ),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))  # manual, cimd, dcr
    issuer: Mapped[str] = mapped_column(String(2048))  # or "static:" and the token URL's origin
    redirect_uri: Mapped[str] = mapped_column(String(2048))
    generation: Mapped[int] = mapped_column(default=1)
    oauth_config_id: Mapped[str] = mapped_column(String(32), default="")  # manual only
    client_id: Mapped[str] = mapped_column(String(2048))
    client_secret_sealed: Mapped[str | None] = mapped_column(Text)  # None: a public client
    private_key_sealed: Mapped[str | None] = mapped_column(Text)
    registration_token_sealed: Mapped[str | None] = mapped_column(Text)
    auth_method: Mapped[str] = mapped_column(String(30), default="auto")
    scopes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    key_id: Mapped[str | None] = mapped_column(String(100))
    registration_uri: Mapped[str | None] = mapped_column(String(2048))
    secret_expires_ms: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(10), default="active")  # rejected, retired
    attempt_id: Mapped[str | None] = mapped_column(String(32))
    lease_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    not_before_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    last_error_code: Mapped[str | None] = mapped_column(String(40))
    secret_set_at: Mapped[datetime | None]  # shown as "Saved 12 Nov"
    public_jwk: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    registered_ms: Mapped[int | None] = mapped_column(BigInteger)  # by ourselves (RFC 7591)
    probed_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")

    @property
    def sealed_for(self) -> str:
        return (
            f"config:{self.oauth_config_id}" if self.kind == "manual" else f"issuer:{self.issuer}"
        )


class OAuthConfig(Base):
    """How tokens for a gateway are got.

    `settings` is what the admin said: an OAuthConfigSpec as JSON, without secrets. The columns
    beside it are what queries and races ask for.
    """

    __tablename__ = "oauth_config"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    gateway_id: Mapped[str] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100), default="default")
    is_default: Mapped[bool] = mapped_column(default=True)
    position: Mapped[int] = mapped_column(default=0)
    # Of a further config: [{"kind", "match"}], which calls it serves. NULL: of the default.
    tool_patterns: Mapped[list[dict[str, str]] | None] = mapped_column(JSON(none_as_null=True))
    grant_type: Mapped[str] = mapped_column(String(30))
    issuer: Mapped[str | None] = mapped_column(String(2048))
    token_url: Mapped[str | None] = mapped_column(String(2048))
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    # What metadata said: an oauth.discovered.Discovered as JSON. NULL: never read.
    discovered: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # When it was last asked for: a claim, so that of many callers one asks.
    asked_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    # What it says since, and an admin has not confirmed: code, facts, and a Discovered or null.
    awaits: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    template: Mapped[str | None] = mapped_column(String(40))  # the provider it was copied from
    template_version: Mapped[int | None]
    registration_id: Mapped[str | None] = mapped_column(ForeignKey("client_registration.id"))
    registration: Mapped[ClientRegistration | None] = relationship()
    # An admin trusts every silent provider that answers on the same callback path (SEC-008).
    trusts_shared_callback: Mapped[bool] = mapped_column(default=False, server_default=false())
    # This provider answers at this path since: who came later waits for that trust. 0: unknown.
    callback_since_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    config_version: Mapped[int] = mapped_column(default=1)  # moves as oauth.md 8.3 says
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class Connection(Base):
    """One person's sign-in to one OAuth config; the one of client credentials has no person."""

    __tablename__ = "connection"
    __table_args__ = (UniqueConstraint("oauth_config_id", "owner_key"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    oauth_config_id: Mapped[str] = mapped_column(ForeignKey("oauth_config.id", ondelete="CASCADE"))
    gateway_id: Mapped[str] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    owner_key: Mapped[str] = mapped_column(String(40))  # "user:<id>" or "shared": NULLs don't clash
    state: Mapped[str] = mapped_column(String(16), default="active")
    reason: Mapped[str | None] = mapped_column(String(40))
    state_ms: Mapped[int] = mapped_column(
        BigInteger, default=0, server_default="0"
    )  # in this state since; 0: unknown
    failing_ms: Mapped[int | None] = mapped_column(BigInteger)  # since the first of fail_count

    # pinned at consent: refresh and revoke use these, never today's config
    config_version: Mapped[int] = mapped_column(default=1)
    issuer: Mapped[str | None] = mapped_column(String(2048))
    token_url: Mapped[str | None] = mapped_column(String(2048))
    refresh_url: Mapped[str | None] = mapped_column(String(2048))
    revocation_url: Mapped[str | None] = mapped_column(String(2048))
    registration_id: Mapped[str | None] = mapped_column(ForeignKey("client_registration.id"))
    registration_generation: Mapped[int] = mapped_column(default=1)
    resource: Mapped[str | None] = mapped_column(String(2048))
    audience: Mapped[str | None] = mapped_column(String(512))

    access_token_sealed: Mapped[str | None] = mapped_column(Text)
    refresh_token_sealed: Mapped[str | None] = mapped_column(Text)
    issued_ms: Mapped[int | None] = mapped_column(BigInteger)  # counted from before the request
    expires_ms: Mapped[int | None] = mapped_column(BigInteger)  # None: the provider did not say
    refresh_expires_ms: Mapped[int | None] = mapped_column(BigInteger)
    scopes_requested: Mapped[list[str]] = mapped_column(JSON, default=list)
    scopes_granted: Mapped[list[str]] = mapped_column(JSON, default=list)
    account_label: Mapped[str | None] = mapped_column(String(200))  # for display only
    fingerprint: Mapped[str | None] = mapped_column(String(8))  # all that logs may carry of a token

    version: Mapped[int] = mapped_column(BigInteger, default=1)  # moves with any change
    token_gen: Mapped[int] = mapped_column(BigInteger, default=1)  # moves with the tokens
    consent_gen: Mapped[int] = mapped_column(BigInteger, default=0)  # moves with each new consent
    attempt_id: Mapped[str | None] = mapped_column(String(32))
    attempt_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    not_before_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    forced_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    fail_count: Mapped[int] = mapped_column(default=0)
    # How often in a row the provider refused with the very same 4xx, and since when.
    refused_count: Mapped[int] = mapped_column(default=0, server_default="0")
    refused_ms: Mapped[int | None] = mapped_column(BigInteger)

    last_error_code: Mapped[str | None] = mapped_column(String(40))
    last_error_text: Mapped[str | None] = mapped_column(String(300))
    last_refresh_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_used_ms: Mapped[int | None] = mapped_column(BigInteger)  # written at most once a minute
    created_at: Mapped[datetime] = mapped_column(default=utcnow)

    @property
    def sealed_for(self) -> str:
        return self.owner_key


class Revocation(Base):
    """Tokens that still have to be ended at their provider (RFC 7009); outlives all they hung on.

    So it carries the client and the way there, and no foreign key.
    """

    __tablename__ = "revocation"
    __table_args__ = (Index("ix_revocation_not_before_ms", "not_before_ms"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    connection_id: Mapped[str] = mapped_column(String(32))
    user_id: Mapped[str | None] = mapped_column(String(32))
    gateway_id: Mapped[str] = mapped_column(String(32))
    gateway_name: Mapped[str] = mapped_column(String(100))
    style: Mapped[str] = mapped_column(String(10))  # rfc7009, github, slack, dropbox, notion
    url: Mapped[str] = mapped_column(String(2048))
    # The token URL, where one token ended ends all that the person granted our client; else None.
    ends_all_at: Mapped[str | None] = mapped_column(String(2048))
    client_id: Mapped[str] = mapped_column(String(2048))
    client_secret_sealed: Mapped[str | None] = mapped_column(Text)
    private_key_sealed: Mapped[str | None] = mapped_column(Text)
    assertion_alg: Mapped[str | None] = mapped_column(String(10))  # of that key
    assertion_audience: Mapped[str | None] = mapped_column(String(2048))
    auth_method: Mapped[str] = mapped_column(String(30), default="auto")
    ca_pem: Mapped[str | None] = mapped_column(Text)
    client_cert_pem: Mapped[str | None] = mapped_column(Text)
    client_key_sealed: Mapped[str | None] = mapped_column(Text)
    refresh_token_sealed: Mapped[str | None] = mapped_column(Text)  # None: done, or never was
    access_token_sealed: Mapped[str | None] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10), default="queued")  # done, given_up
    tries: Mapped[int] = mapped_column(default=0)
    attempt_id: Mapped[str | None] = mapped_column(String(32))
    lease_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    not_before_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    last_error_code: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    ended_at: Mapped[datetime | None]

    @property
    def sealed_for(self) -> str:
        return f"revocation:{self.id}"


class Flow(Base):
    """A browser is at the provider. Good for one callback."""

    __tablename__ = "flow"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    state_hash: Mapped[str] = mapped_column(String(64), unique=True)
    cookie_hash: Mapped[str] = mapped_column(String(64))
    user_id: Mapped[str] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    oauth_config_id: Mapped[str] = mapped_column(ForeignKey("oauth_config.id", ondelete="CASCADE"))
    config_version: Mapped[int]
    purpose: Mapped[str] = mapped_column(String(10), default="connect")  # step_up, call, check
    parked_call_id: Mapped[str | None] = mapped_column(String(32))
    target: Mapped[str | None] = mapped_column(String(500))  # of a step-up: what wanted more
    return_to: Mapped[str] = mapped_column(String(500))  # a path of ours
    status: Mapped[str] = mapped_column(String(10), default="open")  # used, done, failed
    error_code: Mapped[str | None] = mapped_column(String(40))
    error_text: Mapped[str | None] = mapped_column(String(300))  # the provider's own words
    error_facts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_ms: Mapped[int] = mapped_column(BigInteger)
    expires_ms: Mapped[int] = mapped_column(BigInteger)

    # pinned at begin
    issuer: Mapped[str | None] = mapped_column(String(2048))
    iss_required: Mapped[bool] = mapped_column(default=False)
    authorization_url: Mapped[str] = mapped_column(String(2048))
    token_url: Mapped[str] = mapped_column(String(2048))
    redirect_uri: Mapped[str] = mapped_column(String(2048))
    registration_id: Mapped[str] = mapped_column(ForeignKey("client_registration.id"))
    registration_generation: Mapped[int] = mapped_column(default=1)
    scopes_requested: Mapped[list[str]] = mapped_column(JSON, default=list)
    resource: Mapped[str | None] = mapped_column(String(2048))
    audience: Mapped[str | None] = mapped_column(String(512))
    secrets_sealed: Mapped[str] = mapped_column(Text)  # JSON: state and PKCE verifier

    @property
    def sealed_for(self) -> str:
        return f"user:{self.user_id}"


class ParkedCall(Base):
    """An operation that waits for a consent; the row behind an AI client's `?ask=`."""

    __tablename__ = "parked_call"
    __table_args__ = (UniqueConstraint("user_id", "oauth_config_id", "digest"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"))
    gateway_id: Mapped[str] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"))
    oauth_config_id: Mapped[str] = mapped_column(ForeignKey("oauth_config.id", ondelete="CASCADE"))
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of method and canonical params
    scopes_wanted: Mapped[list[str]] = mapped_column(JSON, default=list)
    request_sealed: Mapped[str | None] = mapped_column(Text)  # None: tokens are kept, nothing waits
    state: Mapped[str] = mapped_column(String(10), default="waiting")  # running, done, failed
    attempt_id: Mapped[str | None] = mapped_column(String(32))
    lease_ms: Mapped[int] = mapped_column(BigInteger, default=0)  # runs at the longest until then
    result_sealed: Mapped[str | None] = mapped_column(Text)
    handed_ms: Mapped[int | None] = mapped_column(BigInteger)  # an AI client has got the result
    expires_ms: Mapped[int] = mapped_column(BigInteger)

    @property
    def sealed_for(self) -> str:
        return f"user:{self.user_id}"
