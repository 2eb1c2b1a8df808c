"""OAuth configs for some tools of a gateway, for admins: add, edit, order, delete."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from ... import aftermath, gateways, tool_configs
from ...errors import Conflict, Invalid, NotFound
from ...models import Gateway, OAuthConfig
from ...oauth import sharing
from ..auth import actor, admin_only
from ..commits import committed
from ..forms import Sensitive
from ..words import many
from .tool_config_form import ToolConfigForm

bp = Blueprint("tool_configs", __name__, url_prefix="/admin/gateways")
Records = list[dict[str, Any]]


@bp.route("/<slug>/configs/new", methods=["GET", "POST"])
@admin_only
def create(slug: str) -> ResponseReturnValue:
    gateway = _with_oauth(slug)
    return _form(gateway, tool_configs.records(gateway), None)


@bp.route("/<slug>/configs/<config_id>", methods=["GET", "POST"])
@admin_only
def edit(slug: str, config_id: str) -> ResponseReturnValue:
    gateway = _with_oauth(slug)
    return _form(gateway, tool_configs.records(gateway), _one(gateway, config_id))


@bp.post("/<slug>/configs/<config_id>/earlier")
@admin_only
def earlier(slug: str, config_id: str) -> ResponseReturnValue:
    """One place up: of those that fit a call, the first serves it."""
    gateway = _with_oauth(slug)
    config, every = _one(gateway, config_id), tool_configs.records(gateway)
    at = tool_configs.further(gateway).index(config)
    if at > 0:
        every.insert(at - 1, every.pop(at))
        _replace(gateway, every)
        flash(f"{every[at - 1]['name']} is tried before {every[at]['name']}.", "success")
    return _back(slug)


@bp.route("/<slug>/configs/<config_id>/delete", methods=["GET", "POST"])
@admin_only
def delete(slug: str, config_id: str) -> ResponseReturnValue:
    """GET says what goes; POST does it."""
    gateway, form = _with_oauth(slug), Sensitive()
    config = _one(gateway, config_id)
    if form.validate_on_submit():
        gateway = gateways.find(slug)  # looking at the password commits
        config, every = _one(gateway, config_id), tool_configs.records(gateway)
        name = config.name
        del every[tool_configs.further(gateway).index(config)]
        _replace(gateway, every)
        flash(f"{name} was deleted. The gateway's own OAuth config serves its calls.", "success")
        return _back(slug)
    page = render_template(
        "admin/gateways/config_delete.html",
        gateway=gateway,
        config=config,
        form=form,
        connected=aftermath.living_of(config),
    )
    return page, 422 if form.errors else 200


def _form(gateway: Gateway, every: Records, config: OAuthConfig | None) -> ResponseReturnValue:
    at = tool_configs.further(gateway).index(config) if config is not None else len(every)
    own = gateways.record(gateway)["oauth_config"]
    form = ToolConfigForm(every[at] if config is not None else {}, own, every)
    if form.validate_on_submit():
        with form.problems(at):
            wanted = [*every[:at], form.entry(), *every[at + 1 :]]
            _refuse(form, gateway, wanted)
            _replace(gateway, wanted)
            name = wanted[at]["name"]
            flash(f"{name} was saved.", "success")
            _warn(gateway, at)
            return _back(gateway.slug)
    page = render_template(
        "admin/gateways/config.html",
        gateway=gateway,
        config=config,
        form=form,
        connected=aftermath.living_of(config) if config is not None else 0,
    )
    return page, 422 if form.errors else 200


def _refuse(form: ToolConfigForm, gateway: Gateway, wanted: Records) -> None:
    """A secret of who typed no password lately (SEC-075); people signed out unasked."""
    seen = gateway.updated_at
    refusal = form.refusal() if form.client_secret.data else None
    if refusal:
        raise Invalid({"own_password": refusal})
    if gateway.updated_at != seen:  # looking at the password commits
        raise Conflict
    leaving = tool_configs.signed_out_by(gateway, wanted)
    if leaving and not form.sign_out.data:
        who = many(leaving, "person", "people")
        raise Invalid({"sign_out": f"Saving this signs {who} out. Tick the box to go on."})


def _replace(gateway: Gateway, wanted: Records) -> None:
    slug, seen = gateway.slug, gateway.updated_at
    committed(lambda: tool_configs.replace(gateways.find(slug, seen=seen), wanted, by=actor()))


def _warn(gateway: Gateway, at: int) -> None:
    config = tool_configs.further(gateways.find(gateway.slug))[at]
    others = ", ".join(sharing.waits_for(config.id))
    if others:
        flash(
            f"Nobody can sign in to {config.name} yet: its provider answers at the same redirect "
            f"URI as that of {others}, and neither names itself.",
            "warn",
        )


def _with_oauth(slug: str) -> Gateway:
    """Raises NotFound for a gateway that signs nobody in."""
    gateway = gateways.find(slug)
    if gateway.auth_type != "oauth" or gateway.oauth_config is None:
        raise NotFound
    return gateway


def _one(gateway: Gateway, config_id: str) -> OAuthConfig:
    """Raises NotFound."""
    for config in tool_configs.further(gateway):
        if config.id == config_id:
            return config
    raise NotFound


def _back(slug: str) -> ResponseReturnValue:
    return redirect(url_for("admin_gateways.show", slug=slug) + "#configs", 303)
