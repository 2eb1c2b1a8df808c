"""One question to a token endpoint, and what its failure means for those who ask next."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import metrics
from ..access import Usable, UsableConfig
from ..db import db, db_now_ms
from ..errors import AppError, Conflict, Kind, ProviderError, UpstreamError
from ..models import ClientRegistration
from . import registration
from .breaker import breaker
from .replies import TokenSet

REFUSALS, REFUSED_FOR_S = 5, 600.0  # so often, for so long: waiting seems vain
CLIENT_PAUSE_S = 30  # a wrong secret costs two requests a minute, not one for each call
SLOWEST_S, SLOWEST_REFUSED_S = 300.0, 3600.0
CLIENT_CODES = ("client_rejected", "client_not_allowed", "client_needed", "secret_unreadable")
ADMIN_CODES = (  # what a shared connection cannot wait out: only an admin can mend it
    *("scope_rejected", "resource_rejected", "token_request_rejected", "redirected"),
    *("reply_unreadable", "reply_no_token", "token_type_unsupported", "blocked_address"),
)
_NOT_SENT = ("dns_failed", "tls_failed", "blocked_address")
r = ClientRegistration


@dataclass(frozen=True, slots=True)
class Asking:
    """What one token request is made with: a person's refresh token, or client credentials."""

    config: UsableConfig
    registration_id: str
    resource: str | None
    token_url: str | None = None  # None: as the config says
    refresh_url: str | None = None
    refresh_token: str | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        """The URL that will be asked."""
        ours = self.token_url or self.config.spec.token_url or ""
        if self.config.is_shared:
            return ours
        return self.refresh_url or self.config.spec.refresh_url or ours


Ask = Callable[[Asking], TokenSet]


def of_config(gateway: Usable, config: UsableConfig) -> Asking:
    """By client credentials, as the config is today. Raises Conflict without a client."""
    if config.registration_id is None:
        raise Conflict("client_needed")
    resource = registration.resource_of(config.spec, gateway.url)
    return Asking(config, config.registration_id, resource)


def ask_provider(asking: Asking) -> TokenSet:
    """Raises ProviderError and what client_for raises. Commits a pause that concerns every node."""
    _heed_pause(asking.registration_id)
    spec = asking.config.spec
    client = registration.client_for(
        asking.registration_id,
        spec,
        token_url=asking.token_url,
        refresh_url=asking.refresh_url,
        config_id=asking.config.id,
    )
    try:
        with breaker().passing(asking.endpoint), metrics.token_request(*_counted(asking)):
            if asking.config.is_shared:
                return client.client_credentials(scopes=spec.scopes, resource=asking.resource)
            return client.refresh(asking.refresh_token or "", resource=asking.resource)
    except ProviderError as error:
        if error.kind == "client":
            _pause_all(asking.registration_id, error.code, CLIENT_PAUSE_S)
        elif error.kind == "busy" and error.retry_after is not None:
            _pause_all(asking.registration_id, error.code, _sane(error.retry_after))
        raise


def _counted(asking: Asking) -> tuple[str, str]:
    return asking.config.id, "client_credentials" if asking.config.is_shared else "refresh_token"


def kind_of(error: AppError) -> Kind:
    """The class of oauth.md 6.1. What cannot be told apart counts as `unknown`."""
    if isinstance(error, ProviderError):
        return error.kind
    if isinstance(error, UpstreamError):
        return "unsent" if error.code in _NOT_SENT else "unknown"
    return "client"  # ours: a secret that does not open, no client


def is_refusal(error: AppError) -> bool:
    """A 4xx that names neither the end of the grant nor our client."""
    return kind_of(error) == "refused" and error.code not in ("provider_error", "redirected")


def is_for_long(refusals: int, seconds: float) -> bool:
    """Whether the same refusal came often enough, and for long enough, to say so (oauth.md 6.2)."""
    return refusals >= REFUSALS and seconds >= REFUSED_FOR_S


def pause_after(error: AppError, *, failures: int, tired: bool) -> float:
    """Seconds; `failures` before this one. Who is `tired` of refusals asks once an hour at last."""
    told = getattr(error, "retry_after", None)
    if told is not None:
        return _sane(told)
    if kind_of(error) == "client":
        return CLIENT_PAUSE_S
    most = SLOWEST_REFUSED_S if tired else SLOWEST_S
    return min(most, 2.0 ** min(failures, 12)) * random.uniform(0.5, 1.5)  # noqa: S311  # jitter


def _sane(retry_after: float) -> float:
    return min(SLOWEST_S, max(1.0, retry_after))


def _heed_pause(registration_id: str) -> None:
    query = sa.select(r.not_before_ms, r.last_error_code, db_now_ms()).where(
        r.id == registration_id
    )
    with db.engine.connect() as link:
        found = link.execute(query).first()
    if found is not None and found[0] > found[2]:
        code = found[1] or "provider_busy"
        kind: Kind = "client" if code in CLIENT_CODES else "busy"
        raise ProviderError(code, kind=kind, retry_after=-((found[2] - found[0]) // 1000))


def end_rest(registration_id: str) -> sa.Update:
    """For whoever got an answer as this client: its secret is good again, mended over there."""
    rests = sa.update(r).where(r.id == registration_id, r.last_error_code.in_(CLIENT_CODES))
    return rests.values(not_before_ms=0, last_error_code=None)


def _pause_all(registration_id: str, code: str, seconds: float) -> None:
    values: dict[str, Any] = {"not_before_ms": db_now_ms() + int(seconds * 1000)}
    change = sa.update(r).where(r.id == registration_id).values(last_error_code=code, **values)
    with Session(db.engine) as session, session.begin():
        session.execute(change, execution_options={"synchronize_session": False})
