"""Renewing as it is usually written: read, refresh, write, and delete on `invalid_grant`.

Kept to be measured beside ours; nothing else uses it.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from app.access import Caller
from app.db import db
from app.errors import ConnectionNeeded, ProviderError
from app.models import Connection, OAuthConfig
from app.oauth import registration
from app.secretbox import box, cell
from app.specs import OAuthConfigSpec


def token(caller: Caller) -> str:
    """An access token of this person. Raises ConnectionNeeded, ProviderError. Commits."""
    row = db.session.scalar(sa.select(Connection).filter_by(owner_key=caller.owner_key))
    if row is None:
        db.session.rollback()
        raise ConnectionNeeded(gateway="acme", name="Acme", state="pending")
    if (row.expires_ms or 0) <= time.time() * 1000:
        row = _refreshed(row)
    found = box().open(row.access_token_sealed or "", where=cell(row, "access_token_sealed"))
    db.session.rollback()
    return found


def _refreshed(row: Connection) -> Connection:
    config = db.session.get_one(OAuthConfig, row.oauth_config_id)
    spec = OAuthConfigSpec.model_validate(config.settings)
    where = cell(row, "refresh_token_sealed")
    refresh_token, row_id = box().open(row.refresh_token_sealed or "", where=where), row.id
    registration_id = row.registration_id
    db.session.rollback()
    try:
        got = registration.client_for(registration_id, spec).refresh(refresh_token, resource=None)
    except ProviderError as error:
        if error.kind == "dead":
            db.session.execute(sa.delete(Connection).where(Connection.id == row_id))
            db.session.commit()
        raise
    fresh = db.session.get(Connection, row_id)
    if fresh is None:
        raise ConnectionNeeded(gateway="acme", name="Acme", state="pending")
    for name in ("access_token", "refresh_token"):
        column = f"{name}_sealed"
        setattr(fresh, column, box().seal(getattr(got, name), where=cell(fresh, column)))
    fresh.expires_ms = int((time.time() + (got.expires_in or 0)) * 1000)
    db.session.commit()
    return fresh
