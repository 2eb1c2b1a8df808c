"""Gateways, for admins: list, add, edit, look at, switch off, delete."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from ... import aftermath, certificates, check_runs, drafts, gateways, overview, proposals
from ...errors import AppError, texts
from ...models import Gateway
from ...oauth import moves, registering, templates
from ...oauth.discovered import Discovered
from ...oauth.registration import callback_uri
from ...overview import Row
from ..auth import actor, admin_only, person
from ..commits import committed
from ..forms import Sensitive
from ..pages import Page
from ..words import many
from .adding import listed
from .gateway_fields import AUTH_TYPES, TRANSPORTS
from .gateway_form import GatewayForm
from .gateway_saving import asked, refuse_old_sessions, refuse_surprises, say, warn

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
    every, begun = overview.rows(person()), [listed(draft) for draft in drafts.kept()]
    words, state = request.args.get("q", "").strip()[:100], request.args.get("state", "")
    matching = [row for row in every if words.casefold() in f"{row.name} {row.url}".casefold()]
    wanted = [row for row in matching if state not in STATUS or row.status == state]
    counts = {one: sum(row.status == one for row in matching) for one in STATUS}
    begun = [one for one in begun if words.casefold() in f"{one['name']} {one['host']}".casefold()]
    chips = [("", "All", len(matching)), *((s, STATUS[s][1], counts[s]) for s in STATUS)]
    return render_template(
        "admin/gateways/list.html",
        page=Page([_drawn(row) for row in wanted if state != "draft"], request.args.get("page")),
        chips=[*chips, *([("draft", "Draft", len(begun))] if begun else [])],
        state=state if state in (*STATUS, "draft") else "",
        drafts=begun if state in ("", "draft") else [],
        q=words,
        is_new_here=not every and not begun and not words,
    )


@bp.route("/<slug>/edit", methods=["GET", "POST"])
@admin_only
def edit(slug: str) -> ResponseReturnValue:
    gateway = gateways.find(slug)
    form = GatewayForm(gateways.record(gateway), callback_uri())
    if form.validate_on_submit():
        with form.problems():
            spec = form.spec()
            refuse_old_sessions(form, gateway)
            seen = gateway.updated_at
            found = asked(form, spec, gateway)
            refuse_surprises(gateway, spec, found, may_sign_out=form.sign_out.data)
            signed_out = committed(
                lambda: gateways.update(
                    gateways.find(slug, seen=seen), spec, by=actor(), found=found
                )
            )
            if signed_out:
                form.notices.append(f"{many(signed_out, 'person', 'people')} must connect again.")
            say(f"{gateway.name} was saved.", form.notices)
            warn(gateway)
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
        last_check=check_runs.last(gateway.id),
        found=found_of(gateway),
        jwks=registering.keys_url(),
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


def found_of(gateway: Gateway) -> Discovered | None:
    config = gateway.oauth_config
    return Discovered.of(config.discovered) if config is not None else None


def found_host(gateway: Gateway) -> str | None:
    """Where people are sent, as far as that was found out."""
    found = found_of(gateway)
    return proposals.provider_of(found) if found is not None else None


def _failure(row: Row) -> AppError | None:
    is_old = (row.failed_ms or 0) <= (row.worked_ms or 0)
    if is_old or row.failed_code not in texts():
        return None
    host, link = urlsplit(row.url).hostname or "", url_for("connections.show", slug=row.slug)
    return AppError(row.failed_code, host=host, name=row.name, gateway=row.slug, link=link)


def _switch(slug: str, *, on: bool) -> ResponseReturnValue:
    committed(lambda: gateways.switch(gateways.find(slug), on, by=actor()))
    flash(f"{gateways.find(slug).name} is {'on' if on else 'off'}.", "success")
    return redirect(url_for(".show", slug=slug), 303)


def _form_page(form: GatewayForm, gateway: Gateway) -> str:
    return render_template(
        "admin/gateways/edit.html",
        form=form,
        gateway=gateway,
        redirect=form.record.get("oauth_config", {}).get("redirect_uri", form.shared),
        connected=aftermath.living(gateway),
        draft=None,
        template=None,
        found_host=found_host(gateway),
    )


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
