"""API tokens: list, make, show once, revoke, and how to set up a client."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, RadioField, SelectField, StringField
from wtforms.validators import InputRequired

from ... import access, api_tokens, gateways, limits
from ...db import db, utcnow
from ...errors import Conflict
from ...models import ApiToken, Gateway
from ..auth import actor, person
from ..forms import Sensitive, Ticks, beside
from . import snippets

bp = Blueprint("tokens", __name__, url_prefix="/tokens")

ENDS = {"30": "In 30 days", "90": "In 90 days", "365": "In a year", "never": "Never"}
NEW_AN_HOUR = 60  # tokens one person can make, and forms sent for it
DOES = {"mcp": "Call tools", "api:read": "Read the API", "api:write": "Change by the API"}


class TokenForm(Sensitive):
    name = StringField("Name", [InputRequired("Give it a name.")])
    ends = SelectField("Ends", choices=ENDS, default="90")
    scopes = Ticks("What it may do", choices=DOES, default=["mcp"])
    which = RadioField(
        "Gateways",
        choices={"all": "All that you may use, later ones too", "chosen": "Only these"},
        default="all",
    )
    gateways = Ticks("Only these gateways")
    form_id = HiddenField(default=lambda: uuid.uuid4().hex)

    def expires_at(self) -> datetime | None:
        return None if self.ends.data == "never" else utcnow() + timedelta(days=int(self.ends.data))

    def gateway_ids(self) -> list[str] | None:
        return None if self.which.data == "all" else self.gateways.data


@bp.get("")
def index() -> ResponseReturnValue:
    names = {gateway.id: gateway.name for gateway in access.may_use(person())}
    tokens = api_tokens.of(person().user_id)
    return render_template("tokens/list.html", tokens=tokens, names=names, now=utcnow())


@bp.route("/new", methods=["GET", "POST"])
def create() -> ResponseReturnValue:
    """The answer to the POST is the one page that shows the token: 200, kept by nobody."""
    form = TokenForm()
    if request.method == "POST":
        limits.strictly("new_token", person().user_id, most=NEW_AN_HOUR, window_ms=3_600_000)
    form.gateways.choices = {one.id: one.name for one in access.may_use(person())}
    if form.validate_on_submit():
        with beside(form):
            try:
                token, shown = _issue(form)
            except Conflict:  # a reload
                flash("This token was shown already. No second one was made.", "warning")
                return redirect(url_for(".index"), 303)
            return _setup_page("tokens/once.html", token, shown)
    return render_template("tokens/new.html", form=form), 422 if form.errors else 200


def _issue(form: TokenForm) -> tuple[ApiToken, str]:
    issued = api_tokens.issue(
        person().user_id,
        name=form.name.data or "",
        scopes=form.scopes.data or [],
        gateway_ids=form.gateway_ids(),
        expires_at=form.expires_at(),
        by=actor(),
        form_id=form.form_id.data or "",
    )
    db.session.commit()
    return issued


@bp.get("/<token_id>/setup")
def setup(token_id: str) -> ResponseReturnValue:
    token = api_tokens.find(token_id, user_id=person().user_id)
    return _setup_page("tokens/setup.html", token, snippets.PLACEHOLDER)


@bp.post("/<token_id>/revoke")
def revoke(token_id: str) -> ResponseReturnValue:
    token = api_tokens.revoke(token_id, by=actor(), user_id=person().user_id)
    db.session.commit()
    flash(f"{token.name} was revoked. Clients that use it are out within a second.", "success")
    return redirect(url_for(".index"), 303)


def _setup_page(template: str, token: ApiToken, shown: str) -> str:
    usable = _gateways(token)
    slugs = [gateway.slug for gateway in usable]
    urls = {slug: gateways.mcp_url(slug) for slug in slugs or ["GATEWAY"]}
    clients = snippets.clients(urls, shown)
    return render_template(template, token=token, shown=shown, clients=clients, gateways=usable)


def _gateways(token: ApiToken) -> Sequence[Gateway]:
    ids = token.gateway_ids
    return [one for one in access.may_use(person()) if ids is None or one.id in ids]
