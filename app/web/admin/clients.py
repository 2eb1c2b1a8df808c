"""The client that the gateway made for itself at a provider: made anew by a button."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, url_for
from flask.typing import ResponseReturnValue

from ... import gateways
from ...db import db
from ...errors import AppError, NotFound
from ...oauth import registering
from ..auth import actor, admin_only
from ..forms import confirmed

bp = Blueprint("clients", __name__, url_prefix="/admin/gateways")


@bp.post("/<slug>/register")
@admin_only
@confirmed
def register(slug: str) -> ResponseReturnValue:
    """Connections keep the old client until they are renewed by a new sign-in."""
    config = gateways.find(slug).oauth_config
    if config is None:
        raise NotFound
    config_id, by = config.id, actor()
    db.session.rollback()  # no transaction waits for the provider
    try:
        registering.again(config_id, by=by)
    except NotFound:
        raise
    except AppError as error:
        words = f" It said: {error.said}" if error.said else ""
        flash(f"{error.message}. {error.admin or error.action}{words}", "warn")
    else:
        flash("The provider knows this server by a new client now.", "success")
    return redirect(url_for("admin_gateways.show", slug=slug), 303)
