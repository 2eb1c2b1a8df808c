"""Who is connected to a gateway, for admins: states and what happened, never a token."""

from __future__ import annotations

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from ... import connections, gateways, overview
from ...oauth import keeping, timeline
from ...states import badge
from ..auth import actor, admin_only, person
from ..commits import committed
from ..pages import Page
from ..partings import ask_to_revoke

bp = Blueprint("admin_people", __name__, url_prefix="/admin/gateways")


@bp.get("/<slug>/people")
@admin_only
def index(slug: str) -> ResponseReturnValue:
    gateway = gateways.find(slug)
    return render_template(
        "admin/gateways/people.html",
        gateway=gateway,
        row=overview.row(person(), gateway),
        page=Page(connections.of_gateway(gateway), request.args.get("page")),
        shown=badge,
        invite=f"{current_app.config['PUBLIC_URL']}/connections/{slug}",
    )


@bp.get("/<slug>/people/<connection_id>")
@admin_only
def show(slug: str, connection_id: str) -> ResponseReturnValue:
    gateway = gateways.find(slug)
    one = connections.find_at(gateway, connection_id)
    return render_template(
        "admin/gateways/person.html",
        gateway=gateway,
        one=one,
        shown=badge,
        moments=timeline.of(one.id, host=one.host),
    )


@bp.post("/<slug>/people/<connection_id>/disconnect")
@admin_only
def disconnect(slug: str, connection_id: str) -> ResponseReturnValue:
    """One person, who is told on their own page. They may connect again."""
    gateway = gateways.find(slug)
    one = connections.find_at(gateway, connection_id)
    own = one.user_id == person().user_id
    ended = committed(lambda: keeping.dismiss(one.id, slug, by=actor(), own=own))
    parting = ask_to_revoke(ended, name=one.email or one.gateway_name, host=one.host)
    flash(parting.message, parting.kind)
    return redirect(url_for(".show", slug=slug, connection_id=connection_id), 303)
