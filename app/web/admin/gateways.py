"""Gateways, for admins: list, add, edit, look at, switch off, delete."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from ... import aftermath, certificates, gateways, overview
from ...db import db
from ...errors import AppError, Conflict, Invalid, texts
from ...models import Gateway
from ...oauth import moves, templates
from ...oauth.registration import callback_uri
from ...overview import Row
from ...specs import GatewaySpec
from ..auth import actor, admin_only, person
from ..commits import committed
from ..forms import Sensitive
from ..pages import Page
from ..words import many
from .gateway_fields import AUTH_TYPES, TRANSPORTS
from .gateway_form import GatewayForm

bp = Blueprint("admin_gateways", __name__, url_prefix="/admin/gateways")

STATUS = {  # badge, word
    "failing": ("bad", "Failing"),
    "needs_sign_in": ("warn", "Needs sign-in"),
    "ready": ("ok", "Ready"),
    "off": ("off", "Off"),
}


@bp.get("")
@admin_only
def index() -> ResponseReturnValue:
    every = overview.rows(person())
    words, state = request.args.get("q", "").strip()[:100], request.args.get("state", "")
    matching = [row for row in every if words.casefold() in f"{row.name} {row.url}".casefold()]
    wanted = [row for row in matching if state not in STATUS or row.status == state]
    counts = {one: sum(row.status == one for row in matching) for one in STATUS}
    return render_template(
        "admin/gateways/list.html",
        page=Page([_drawn(row) for row in wanted], request.args.get("page")),
        chips=[("", "All", len(matching))] + [(s, STATUS[s][1], counts[s]) for s in STATUS],
        state=state if state in STATUS else "",
        q=words,
        is_new_here=not every,
    )


@bp.route("/new", methods=["GET", "POST"])
@admin_only
def create() -> ResponseReturnValue:
    form = GatewayForm({}, callback_uri())
    if form.validate_on_submit():
        with form.problems():
            spec = form.spec()
            _refuse_old_sessions(form)
            gateway = gateways.create(spec, by=actor())
            db.session.commit()
            _say(f"{gateway.name} was added.", form.notices)
            _warn(gateway)
            return redirect(url_for(".show", slug=gateway.slug), 303)
    return _form_page(form), 422 if form.errors else 200


@bp.route("/<slug>/edit", methods=["GET", "POST"])
@admin_only
def edit(slug: str) -> ResponseReturnValue:
    gateway = gateways.find(slug)
    form = GatewayForm(gateways.record(gateway), callback_uri())
    if form.validate_on_submit():
        with form.problems():
            spec = form.spec()
            _refuse_old_sessions(form, gateway)
            _refuse_surprises(gateway, spec, may_sign_out=form.sign_out.data)
            seen = gateway.updated_at
            signed_out = committed(
                lambda: gateways.update(gateways.find(slug, seen=seen), spec, by=actor())
            )
            if signed_out:
                form.notices.append(f"{many(signed_out, 'person', 'people')} must connect again.")
            _say(f"{gateway.name} was saved.", form.notices)
            _warn(gateway)
            return redirect(url_for(".show", slug=slug), 303)
    return _form_page(form, gateway), 422 if form.errors else 200


@bp.get("/<slug>")
@admin_only
def show(slug: str) -> ResponseReturnValue:
    gateway = gateways.find(slug)
    row = overview.row(person(), gateway)
    return render_template(
        "admin/gateways/show.html",
        gateway=gateway,
        record=gateways.record(gateway),
        auth_type=AUTH_TYPES[gateway.auth_type],
        transport=TRANSPORTS[gateway.transport],
        one=_drawn(row),
        row=row,
        failure=_failure(row) if row.status == "failing" else None,
        warnings=gateways.warnings(gateway),
        copied=templates.of(gateway.oauth_config),
        changes=templates.differs(gateway.oauth_config),
        waiting=_waiting(gateway),
        own_ca=certificates.facts(gateway.ca_pem or ""),
        own_certificate=certificates.facts(gateway.client_cert_pem or "")[:1],
    )


@bp.post("/<slug>/off")
@admin_only
def off(slug: str) -> ResponseReturnValue:
    return _switch(slug, on=False)


@bp.post("/<slug>/on")
@admin_only
def on(slug: str) -> ResponseReturnValue:
    return _switch(slug, on=True)


@bp.route("/<slug>/delete", methods=["GET", "POST"])
@admin_only
def delete(slug: str) -> ResponseReturnValue:
    """GET says what goes; POST does it."""
    gateway, form = gateways.find(slug), Sensitive()
    if form.validate_on_submit():
        name = gateway.name
        committed(lambda: gateways.delete(gateways.find(slug), by=actor()))
        flash(f"{name} was deleted.", "success")
        return redirect(url_for(".index"), 303)
    going = aftermath.goes(gateway)
    page = render_template("admin/gateways/delete.html", gateway=gateway, form=form, goes=going)
    return page, 422 if form.errors else 200


def _waiting(gateway: Gateway) -> tuple[AppError, bool] | None:
    """What its provider publishes since, and whether a button can settle it."""
    awaits = gateway.oauth_config.awaits if gateway.oauth_config is not None else None
    return None if awaits is None else (moves.waiting(awaits), awaits["found"] is not None)


def _failure(row: Row) -> AppError | None:
    if row.failed_code not in texts():
        return None
    host, link = urlsplit(row.url).hostname or "", url_for("connections.show", slug=row.slug)
    return AppError(row.failed_code, host=host, name=row.name, gateway=row.slug, link=link)


def _switch(slug: str, *, on: bool) -> ResponseReturnValue:
    committed(lambda: gateways.switch(gateways.find(slug), on, by=actor()))
    flash(f"{gateways.find(slug).name} is {'on' if on else 'off'}.", "success")
    return redirect(url_for(".show", slug=slug), 303)


def _form_page(form: GatewayForm, gateway: Gateway | None = None) -> str:
    return render_template(
        "admin/gateways/edit.html",
        form=form,
        gateway=gateway,
        redirect=form.record.get("oauth_config", {}).get("redirect_uri", form.shared),
        connected=aftermath.living(gateway) if gateway else 0,
    )


def _refuse_old_sessions(form: GatewayForm, gateway: Gateway | None = None) -> None:
    """A secret is only taken from who typed the password lately (SEC-075)."""
    seen = gateway and gateway.updated_at
    refusal = form.refusal() if form.typed_secrets else None
    if refusal:
        raise Invalid({"own_password": refusal})
    if gateway and gateway.updated_at != seen:  # looking at the password commits
        raise Conflict


def _refuse_surprises(gateway: Gateway, spec: GatewaySpec, *, may_sign_out: bool) -> None:
    """All that stands against the edit, and people who would be signed out unasked."""
    problems, leaving = gateways.problems(gateway, spec), gateways.signed_out_by(gateway, spec)
    if leaving and not may_sign_out:
        who = many(leaving, "person", "people")
        problems["sign_out"] = f"Saving this signs {who} out. Tick the box to go on."
    if problems:
        raise Invalid(problems)


def _say(done: str, notices: Sequence[str]) -> None:
    flash(done, "success")
    for notice in notices:
        flash(notice, "info")


def _warn(gateway: Gateway) -> None:
    for warning in gateways.warnings(gateway):
        flash(warning, "warn")


def _drawn(row: Row) -> dict[str, object]:
    """What a list says of a gateway."""
    kind, word = STATUS[row.status]
    step, href = {
        "failing": ("See what failed", url_for(".show", slug=row.slug)),
        "needs_sign_in": ("Connect your account", f"/connections/{row.slug}"),
        "ready": ("View tools", f"/tools?gateway={row.slug}"),
        "off": ("Turn on", url_for(".show", slug=row.slug)),
    }[row.status]
    return {
        "row": row,
        "host": urlsplit(row.url).hostname,
        "kind": kind,
        "word": word,
        "who": _who(row),
        "step": step,
        "href": href,
    }


def _who(row: Row) -> str:
    if row.auth_type == "none":
        return "Nobody"
    if not row.is_personal:
        return "One shared account"
    return "Each person" if row.stores else "Each person, each call"
