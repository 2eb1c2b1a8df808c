"""The rungs of a callback, in the order of oauth.md 3.4: who may finish a flow, and with what.

Everything here reads a flow as it was pinned, and raises ConsentFailed. Nothing asks a provider.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import current_app

from ..access import Caller
from ..db import db, db_now_ms
from ..errors import ConsentFailed, for_person
from ..models import Flow, Gateway, OAuthConfig
from .callback import Callback
from .refusals import plain

log = logging.getLogger(__name__)

Row = sa.Row[Any]  # a flow, with its gateway and config as they are now


def by_id(flow_id: str) -> Row | None:
    return _read(Flow.id == flow_id)


def by_state(state: str) -> Row:
    """Rung 2. A forged callback finds nothing, and so changes nothing."""
    seen = _read(Flow.state_hash == sha256(state)) if state else None
    if seen is None:
        raise ConsentFailed("state_unknown")
    return seen


def check_owner(seen: Row, caller: Caller | None, cookies: Mapping[str, str]) -> Caller:
    """Rungs 3 to 5 (SEC-002): somebody is signed in, this browser began it, this person did."""
    if caller is None:
        raise ConsentFailed("sign_in_needed")
    shown = cookies.get(cookie_name(seen.id), "")
    if not hmac.compare_digest(seen.cookie_hash, sha256(shown)):
        raise ConsentFailed("wrong_browser")
    if seen.user_id != caller.user_id:
        raise ConsentFailed("wrong_person")
    return caller


def take(seen: Row) -> int:
    """Rung 6: once, and in time. The database's time in ms. Commits.

    One UPDATE by the database's clock, so of two callbacks at a time exactly one goes on.
    """
    now = db_now_ms()
    change = (
        sa.update(Flow)
        .where(Flow.id == seen.id, Flow.status == "open", Flow.expires_ms > now)
        .values(status="used")
        .returning(now)
    )
    with db.engine.begin() as link:
        taken = link.scalar(change)
    if taken is None:
        raise late(by_id(seen.id) or seen)
    return int(taken)


def check_open(seen: Row) -> None:
    """Rung 6 for who only looks."""
    if seen.status != "open" or seen.is_over:
        raise late(seen)


def late(seen: Row) -> ConsentFailed:
    """Expired, or used: then with how it ended the first time."""
    if seen.status == "open":
        minutes = current_app.config["OAUTH_STATE_EXPIRY"] // 60
        return known(seen, ConsentFailed("state_expired", minutes=minutes))
    first = failure(seen)
    outcome = for_person(first, is_admin=False).message if first else "it worked"
    if seen.status == "used":
        outcome = "it has not ended"
    return known(seen, ConsentFailed("state_used", outcome=outcome))


def failure(seen: Row) -> ConsentFailed | None:
    """What a failed flow failed with, told again."""
    if seen.status != "failed":
        return None
    return ConsentFailed(seen.error_code, said=seen.error_text, **(seen.error_facts or {}))


def code_in(seen: Row, callback: Callback, errors: Mapping[str, str]) -> str:
    """Rungs 7 to 10: the code, from the provider we sent this browser to, for today's set-up."""
    if callback.path != urlsplit(seen.redirect_uri).path:
        raise ConsentFailed("callback_mismatch")  # SEC-008
    _check_issuer(seen, callback.iss)
    refusal = callback.refusal(errors)
    if refusal is not None:
        raise refusal
    if not callback.code:
        raise ConsentFailed("response_invalid")
    check_set_up(seen)
    return callback.code


def check_set_up(seen: Row) -> None:
    is_same = seen.version_now == seen.config_version and seen.auth_type == "oauth"
    if not (is_same and seen.is_enabled):
        raise ConsentFailed("config_changed")


def _check_issuer(seen: Row, iss: str | None) -> None:
    """RFC 9207 2.4, compared as it is. Of a foreign one nothing is believed, shown or logged."""
    if iss is None:
        if seen.iss_required:
            raise ConsentFailed("issuer_missing")
    elif seen.issuer is not None:
        if iss != seen.issuer:
            raise ConsentFailed("issuer_mismatch_reply")
    elif _is_issuer_of_another(seen, iss):
        raise ConsentFailed("issuer_mismatch_reply")
    else:
        facts = {"gateway": seen.slug, "iss": plain(iss, 200)}
        log.info("an issuer nobody has recorded named itself", extra={"facts": facts})


def _is_issuer_of_another(seen: Row, iss: str) -> bool:
    others = sa.select(OAuthConfig.id).where(
        OAuthConfig.issuer == iss, OAuthConfig.id != seen.oauth_config_id
    )
    with db.engine.connect() as link:
        return link.execute(others.limit(1)).first() is not None


def known(seen: Row, error: ConsentFailed) -> ConsentFailed:
    """Its page may say more, at a clean address: browser and person have shown who they are."""
    error.facts |= {"flow": seen.id, "gateway": seen.slug}
    return error


def cookie_name(flow_id: str) -> str:
    """One for each flow, so that tabs do not collide."""
    prefix = "__Host-" if current_app.config["SESSION_COOKIE_SECURE"] else ""
    return f"{prefix}flow-{flow_id[:12]}"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(which: sa.ColumnElement[bool]) -> Row | None:
    """A flow as it is now. A short transaction of its own."""
    query = (
        sa.select(Flow.__table__, (Flow.expires_ms <= db_now_ms()).label("is_over"))
        .add_columns(OAuthConfig.settings, OAuthConfig.discovered)
        .add_columns(OAuthConfig.config_version.label("version_now"))
        .add_columns(Gateway.id.label("gateway_id"), Gateway.slug, Gateway.name)
        .add_columns(Gateway.is_enabled, Gateway.auth_type)
        .join(OAuthConfig, OAuthConfig.id == Flow.oauth_config_id)
        .join(Gateway, Gateway.id == OAuthConfig.gateway_id)
        .where(which)
    )
    with db.engine.connect() as link:
        return link.execute(query).first()
