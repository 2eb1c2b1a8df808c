"""Adding a gateway: a pasted URL, or a template; then the form, drawn from what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import StringField

from ... import check_runs, drafts, gateways, proposals
from ...db import db
from ...drafts import Draft
from ...errors import Invalid
from ...models import Gateway
from ...oauth import templates
from ...oauth.registration import callback_uri
from ...oauth.templates import Template
from ..auth import actor, admin_only, person
from . import gateway_fields as fields
from .gateway_form import GatewayForm
from .gateway_saving import asked, refuse_old_sessions, say, warn

bp = Blueprint("admin_adding", __name__, url_prefix="/admin/gateways")
BY_HAND: dict[str, dict[str, Any]] = {  # not of a provider: id -> what the form starts with
    "none": {"auth_type": "none"},
    "by-hand": {"auth_type": "oauth", "oauth_config": {"grant_type": "authorization_code"}},
}


class UrlForm(FlaskForm):
    url = StringField("Server URL")


@bp.route("/new", methods=["GET", "POST"])
@admin_only
def create() -> ResponseReturnValue:
    """Step 1; step 2 where a draft or a template says what to draw, or the whole form was sent."""
    draft_id, template_id = request.args.get("draft"), request.args.get("template")
    if draft_id:
        draft = drafts.find(draft_id, user_id=person().user_id)
        return _second(draft, draft.record)
    if template_id in BY_HAND:
        return _second(None, fields.offered(BY_HAND[template_id], callback_uri()))
    if template_id:
        return _from_template(templates.find(template_id))
    if "auth_type" in request.form:
        return _second(None, {})
    return _first()


@bp.post("/drafts/<draft_id>/delete")
@admin_only
def delete(draft_id: str) -> ResponseReturnValue:
    drafts.drop(draft_id, user_id=person().user_id)
    db.session.commit()
    flash("The draft was deleted.", "success")
    return redirect(url_for("admin_gateways.index"), 303)


# -- step 1 ----------------------------------------------------------------------------------------


def _first() -> ResponseReturnValue:
    form, can_keep = UrlForm(), False
    if form.validate_on_submit():
        url = (form.url.data or "").strip()
        if request.form.get("save") == "draft":
            return _keep(None, {"url": url[:2048], "auth_type": "oauth"})
        try:
            proposal = proposals.propose(url)
        except Invalid as error:
            form.url.errors = [error.fields.get("url") or next(iter(error.fields.values()))]
        else:
            if proposal.is_met:
                drawn = fields.offered(proposal.record, callback_uri())
                draft_id = drafts.begin(person().user_id, drawn, proposal)
                db.session.commit()
                return redirect(url_for(".create", draft=draft_id), 303)
            assert proposal.problem is not None  # noqa: S101  # what is not met has one
            form.url.errors = [proposals.sentence(proposal.problem)]
            can_keep = True
    page = render_template(
        "admin/gateways/new.html", form=form, templates=_tiles(), can_keep=can_keep
    )
    return page, 422 if form.errors else 200


def _tiles() -> list[tuple[str, str, str]]:
    """Id, name, and what it is about."""
    known = [(one.id, one.name, _about(one)) for one in templates.every().values()]
    return [
        *known,
        ("none", "No sign-in", "For a server that anybody may call"),
        ("by-hand", "By hand", "Fill in all of it yourself"),
    ]


def _about(template: Template) -> str:
    return "Registers us by itself" if template.registers else "Wants an app that you make there"


def _from_template(template: Template) -> ResponseReturnValue:
    """Straight to the form, unless the template has to be told more: whose tenant it is, say."""
    asks = template.asks()
    given = {name: request.args.get(name, "").strip()[:200] for name in asks}
    wrong: Mapping[str, str] = {}
    if all(given.values()):
        try:
            record = templates.fill(template.id, given)
        except Invalid as error:
            wrong = {path.removeprefix("vars."): text for path, text in error.fields.items()}
        else:
            record = {"name": template.name} | record
            record["oauth_config"] = proposals.KEEPING | record["oauth_config"]
            return _second(None, fields.offered(record, callback_uri()), template)
    page = render_template(
        "admin/gateways/ask.html", template=template, asks=asks, given=given, wrong=wrong
    )
    return page, 422 if wrong else 200


# -- step 2 ----------------------------------------------------------------------------------------


def _second(
    draft: Draft | None, offered: Mapping[str, str | bool], template: Template | None = None
) -> ResponseReturnValue:
    form = GatewayForm({}, callback_uri(), offered)
    if request.method == "GET" and draft is not None:
        form.seen_host.data = draft.provider
    if form.is_submitted() and request.form.get("save") == "draft" and form.validate():
        return _keep(draft, form.without_secrets())
    if form.validate_on_submit():
        with form.problems():
            spec = form.spec()
            refuse_old_sessions(form)
            found = asked(form, spec)
            gateway = gateways.create(spec, by=actor(), found=found)
            if draft is not None:
                drafts.drop(draft.id, user_id=person().user_id)
            db.session.commit()
            say(f"{gateway.name} was added.", form.notices)
            warn(gateway)
            return redirect(_tested(gateway), 303)
    page = render_template(
        "admin/gateways/edit.html",
        form=form,
        gateway=None,
        redirect=form.shared,
        connected=0,
        draft=draft,
        template=template,
        found_host=draft and draft.provider,
    )
    return page, 422 if form.errors else 200


def _keep(draft: Draft | None, typed: Mapping[str, str | bool]) -> ResponseReturnValue:
    user_id = person().user_id
    draft_id = draft.id if draft is not None else drafts.begin(user_id, typed)
    drafts.keep(draft_id, typed, user_id=user_id)
    db.session.commit()
    flash("Kept as a draft, without secrets. Nobody but admins sees it.", "success")
    return redirect(url_for("admin_gateways.index"), 303)


def _tested(gateway: Gateway) -> str:
    """The page of its first check."""
    if not gateway.is_enabled:
        return url_for("admin_gateways.show", slug=gateway.slug)
    run_id = check_runs.begin(gateway, by=actor(), user_id=person().user_id)
    db.session.commit()
    return url_for("admin_checks.show", slug=gateway.slug, run_id=run_id)


def listed(draft: Draft) -> dict[str, str]:
    """How the list of gateways shows it."""
    return {
        "id": draft.id,
        "name": draft.name,
        "host": urlsplit(draft.url).hostname or "",
        "href": url_for("admin_adding.create", draft=draft.id),
    }
