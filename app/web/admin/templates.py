"""What a gateway took over from a provider template, and a newer version of it."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue

from ... import gateways, specs
from ...errors import Invalid
from ...models import Gateway
from ...oauth import templates
from ...specs import GatewaySpec
from ..auth import actor, admin_only
from ..commits import committed
from ..words import many

bp = Blueprint("admin_templates", __name__, url_prefix="/admin/gateways")


@bp.post("/<slug>/template")
@admin_only
def take_over(slug: str) -> ResponseReturnValue:
    """Bring the config to the newest version of its template, as an edit by hand would."""
    gateway = gateways.find(slug)
    seen, name = gateway.updated_at, gateway.name
    try:
        spec = _spec(gateway)
        if spec is None:
            flash(f"{name} has the newest version of its template.", "info")
            return redirect(url_for("admin_gateways.show", slug=slug), 303)
        _refuse_surprises(gateway, spec)
        signed_out = committed(
            lambda: gateways.update(gateways.find(slug, seen=seen), spec, by=actor())
        )
    except Invalid as error:
        for path, sentence in error.fields.items():
            flash(f"{path}: {sentence}", "error")
        flash("Nothing was changed. Edit the gateway to enter what is missing.", "info")
        return redirect(url_for("admin_gateways.show", slug=slug), 303)
    flash(f"{name} follows the newest version of its template.", "success")
    if signed_out:
        flash(f"{many(signed_out, 'person', 'people')} must connect again.", "info")
    return redirect(url_for("admin_gateways.show", slug=slug), 303)


def _spec(gateway: Gateway) -> GatewaySpec | None:
    """None: there is nothing newer. Raises Invalid."""
    config = gateway.oauth_config
    patch = templates.newer(config) if config is not None else {}
    if not patch:
        return None
    record = gateways.record(gateway)
    base = {name: value for name, value in record.items() if name not in specs.GIVEN}
    return specs.read(GatewaySpec, specs.merge(base, patch), finds_out=True)


def _refuse_surprises(gateway: Gateway, spec: GatewaySpec) -> None:
    """Raises Invalid: secrets to be typed again, and people who would be signed out unasked."""
    problems, leaving = gateways.problems(gateway, spec), gateways.signed_out_by(gateway, spec)
    if leaving and not request.form.get("sign_out"):
        who = many(leaving, "person", "people")
        problems["sign_out"] = f"This signs {who} out. Tick the box to go on."
    if problems:
        raise Invalid(problems)
