"""A client tried at its token endpoint: once, within a time, with all that was said to be shown."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa
from requests import Response

from .. import exchanges
from ..access import UsableConfig
from ..db import db, db_now_ms
from ..errors import ProviderError, UpstreamTimeout
from ..exchanges import Exchange
from ..models import ClientRegistration, Gateway
from . import registration
from .client import OAuthClient

PROBE_MS = 60_000  # a made-up code goes out so rarely: some providers log it as a failed sign-in
_OF_CLIENT = (  # what an answer to a made-up code says of us, not of the code
    *("client_rejected", "client_not_allowed", "redirect_not_registered", "scope_rejected"),
    *("reply_unreadable", "redirected", "resource_rejected"),
)
_LOST = ("unsent", "busy")  # no answer about anything
r = ClientRegistration


def client(config: UsableConfig, seconds: float, watch: Callable[[Exchange], None]) -> OAuthClient:
    """As it is used, but it sends once. Raises Conflict (client_needed), Unsealable."""
    us = registration.client_for(config.registration_id, config.spec).registration
    began = time.monotonic()

    def tell(response: Response, body: bytes) -> None:
        watch(shown(response, body, int((time.monotonic() - began) * 1000)))

    timeout_s = min(seconds, us.timeout_s)
    return OAuthClient(replace(us, timeout_s=timeout_s, retries=0, watch=tell))


def accepts(client: OAuthClient, resource: str | None) -> tuple[bool | None, str | None]:
    """Oauth.md 2.6: whether the provider looks at a code that it never gave, so takes the client.

    None: could not tell, with its own words. Raises ProviderError and UpstreamTimeout for what
    stands in the way of any sign-in.
    """
    code, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    try:
        client.exchange(code, verifier=verifier, resource=resource)
    except ProviderError as error:
        if error.code == "code_rejected":
            return True, None
        if error.code == "exchange_unknown":
            host = str(error.facts.get("host", ""))
            raise UpstreamTimeout("timeout", host=host) from error
        if error.code in _OF_CLIENT or error.kind in _LOST:
            raise
        return None, error.said
    return None, None  # a token for nothing


def may_probe(gateway_id: str, registration_id: str | None) -> bool:
    """Whether a made-up code may go out now; then it counts as sent. Commits."""
    now, wants = db_now_ms(), sa.select(Gateway.probes_client).where(Gateway.id == gateway_id)
    rested = sa.or_(r.probed_ms.is_(None), r.probed_ms <= now - PROBE_MS)
    claim = sa.update(r).where(r.id == registration_id, rested).values(probed_ms=now)
    with db.engine.begin() as link:
        return bool(link.scalar(wants)) and bool(link.execute(claim).rowcount)


def shown(response: Response, body: bytes, took_ms: int) -> Exchange:
    """A token request and its answer, without their secrets."""
    sent = response.request
    text = exchanges.headers_sent({name: str(value) for name, value in sent.headers.items()})
    if sent.body:
        raw = sent.body.decode() if isinstance(sent.body, bytes) else str(sent.body)
        text += f"\n\n{exchanges.form(raw)}"
    got = exchanges.headers_got(response.headers) + f"\n\n{exchanges.reply(body)}"
    url = exchanges.address(str(sent.url))
    return Exchange(str(sent.method), url, response.status_code, took_ms, text, got.strip())
