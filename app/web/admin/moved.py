"""What a provider publishes since, and an admin has to confirm. The gateway's page shows it."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, url_for
from flask.typing import ResponseReturnValue

from ... import gateways
from ...errors import NotFound
from ...models import Gateway
from ...oauth import rediscovery
from ..auth import actor, admin_only
from ..commits import committed
from ..forms import confirmed

bp = Blueprint("moved", __name__, url_prefix="/admin/gateways")


@bp.post("/<slug>/provider")
@admin_only
@confirmed
def confirm(slug: str) -> ResponseReturnValue:
    """Trust what waits: secrets and people may go there from now on."""
    committed(lambda: _confirm(gateways.find(slug)))
    flash("What the provider publishes now was confirmed.", "success")
    return redirect(url_for("admin_gateways.show", slug=slug), 303)


def _confirm(gateway: Gateway) -> None:
    config = gateway.oauth_config
    if config is None:
        raise NotFound
    rediscovery.confirm(config.id, by=actor())
