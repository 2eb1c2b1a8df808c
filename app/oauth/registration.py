"""The client id and secret that we hold at one issuer. The only bridge from a row to a client."""

from __future__ import annotations

from typing import TypedDict, Unpack
from urllib.parse import urlsplit, urlunsplit

import sqlalchemy as sa
from flask import current_app

from .. import trust
from ..db import db
from ..errors import Conflict
from ..models import ClientRegistration, Gateway, OAuthConfig
from ..secretbox import box, cell
from ..specs import OAuthConfigSpec
from ..trust import Trust
from .client import OAuthClient, Registration


class Pinned(TypedDict, total=False):
    """What a flow or a connection keeps from its begin: it wins over what the config says today."""

    authorization_url: str | None
    token_url: str | None
    refresh_url: str | None
    redirect_uri: str | None
    config_id: str  # whose gateway's CA and certificate count


def client_for(
    registration_id: str | None, spec: OAuthConfigSpec, **pinned: Unpack[Pinned]
) -> OAuthClient:
    """Ready to ask. Raises Conflict (client_needed), Unsealable. Leaves no transaction open."""
    us = _read(registration_id)
    return OAuthClient(
        Registration(
            client_id=us.client_id,
            client_secret=_opened(us, "client_secret_sealed"),
            private_key=_opened(us, "private_key_sealed"),
            auth_method=method_of(us, spec),
            authorization_url=pinned.get("authorization_url") or spec.authorization_url,
            token_url=pinned.get("token_url") or spec.token_url or "",
            refresh_url=pinned.get("refresh_url") or spec.refresh_url,
            redirect_uri=pinned.get("redirect_uri") or spec.redirect_uri or callback_uri(),
            timeout_s=current_app.config["OAUTH_REQUEST_TIMEOUT"],
            retries=current_app.config["OAUTH_MAX_RETRIES"],
            spec=spec,
            trust=_trust(us.oauth_config_id or pinned.get("config_id", "")),
        )
    )


def method_of(us: ClientRegistration, spec: OAuthConfigSpec) -> str:
    """How this client shows who it is: as said or granted, else by a key if there is one and the
    metadata does not leave that out, else as the metadata says (oauth.md 2.4).
    """
    if us.auth_method != "auto":
        return us.auth_method
    there = spec.token_endpoint_auth_method
    if us.private_key_sealed and there in ("auto", "private_key_jwt"):
        return "private_key_jwt"
    return "post" if there == "private_key_jwt" else there


def audience_of(spec: OAuthConfigSpec, token_url: str | None) -> str:
    """Who an assertion of ours is for."""
    known = {"issuer": spec.issuer or token_url, "token_url": token_url}
    return known.get(spec.assertion_audience, spec.assertion_audience) or ""


def generation(registration_id: str | None) -> int:
    """Raises Conflict (client_needed) without one."""
    return _read(registration_id).generation


def callback_uri(slug: str = "") -> str:
    """The address of ours that a provider sends people back to; with `slug`, that gateway's own."""
    shared = f"{current_app.config['PUBLIC_URL']}/oauth/callback"
    return f"{shared}/{slug}" if slug else shared


def redirect_uri(spec: OAuthConfigSpec, slug: str) -> str:
    """Where the provider sends people back (SEC-010): always ours, as the public address is today.

    Raises Conflict (redirect_foreign) for one that was saved under another address.
    """
    if spec.redirect_uri not in (None, callback_uri(), callback_uri(slug)):
        raise Conflict("redirect_foreign", redirect=callback_uri())
    return spec.redirect_uri or callback_uri()


def drifted_from(registration_id: str | None, today: str) -> str | None:
    """The redirect URI of the day a client was typed, where it is another one today: its provider
    may know only that. Clients that we made ourselves are made again.
    """
    query = sa.select(ClientRegistration.redirect_uri).where(
        ClientRegistration.id == registration_id,
        ClientRegistration.kind == "manual",
        ClientRegistration.redirect_uri != today,
    )
    with db.engine.connect() as link:
        return link.scalar(query)


def resource_of(spec: OAuthConfigSpec, gateway_url: str) -> str | None:
    """What the token is for (RFC 8707 section 2, oauth.md 2.5). None: not said."""
    if spec.resource != "auto":
        return None if spec.resource == "never" else spec.resource
    parts = urlsplit(gateway_url)
    path = "" if parts.path == "/" else parts.path
    return urlunsplit(parts._replace(path=path, fragment=""))


def _opened(us: ClientRegistration, column: str) -> str | None:
    sealed = getattr(us, column)
    return None if sealed is None else box().open(sealed, where=cell(us, column))


def _read(registration_id: str | None) -> ClientRegistration:
    """A row of no session: its facts, in a short transaction of its own."""
    query = sa.select(ClientRegistration.__table__).where(ClientRegistration.id == registration_id)
    with db.engine.connect() as link:
        row = link.execute(query).first() if registration_id else None
    if row is None:
        raise Conflict("client_needed")
    return ClientRegistration(**row._mapping)


def _trust(oauth_config_id: str) -> Trust | None:
    """Of the gateway whose config this client was typed for."""
    g, o = Gateway.__table__.c, OAuthConfig.__table__.c
    query = (
        sa.select(g.id, g.ca_pem, g.client_cert_pem, g.client_key_sealed)
        .join(OAuthConfig.__table__, o.gateway_id == g.id)
        .where(o.id == oauth_config_id)
    )
    with db.engine.connect() as link:
        row = link.execute(query).first() if oauth_config_id else None
    return None if row is None else trust.of_gateway(*row)
