"""People, for admins."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import EmailField, PasswordField, RadioField
from wtforms.validators import InputRequired

from ... import api_tokens, audit, people, sessions
from ...audit import Subject
from ...db import db
from ..auth import actor, admin_only, person
from ..commits import committed
from ..forms import Sensitive, beside, confirmed
from ..words import many

bp = Blueprint("users", __name__, url_prefix="/admin/users")


class NewForm(Sensitive):
    email = EmailField("Email", [InputRequired("Enter their email.")])
    role = RadioField("Role", choices=people.ROLES, default="user")
    password = PasswordField("First password", [InputRequired("Enter a password for them.")])


class RoleForm(FlaskForm):
    role = RadioField("Role", choices=people.ROLES)


class PasswordForm(Sensitive):
    password = PasswordField("New password", [InputRequired("Enter a new password.")])


@bp.get("")
@admin_only
def index() -> ResponseReturnValue:
    return render_template("admin/users/list.html", users=people.everybody(), roles=people.ROLES)


@bp.route("/new", methods=["GET", "POST"])
@admin_only
def create() -> ResponseReturnValue:
    form = NewForm()
    if form.validate_on_submit():
        with beside(form):
            email, password = form.email.data or "", form.password.data or ""
            user = people.create(email, password=password, role=form.role.data, by=actor())
            db.session.commit()
            flash(f"{user.email} was added. Give them the password in a safe way.", "success")
            return redirect(url_for(".index"), 303)
    return render_template("admin/users/new.html", form=form), 422 if form.errors else 200


@bp.get("/<user_id>")
@admin_only
def show(user_id: str) -> ResponseReturnValue:
    user = people.find(user_id)
    return render_template(
        "admin/users/show.html",
        user=user,
        roles=people.ROLES,
        form=RoleForm(role=user.role),
        browsers=len(sessions.of(user_id)),
        tokens=len(api_tokens.of(user_id)),
        is_me=user_id == person().user_id,
    )


@bp.post("/<user_id>/role")
@admin_only
@confirmed
def set_role(user_id: str) -> ResponseReturnValue:
    form = RoleForm()
    if form.validate_on_submit():
        committed(lambda: people.set_role(user_id, form.role.data, by=actor()))
        flash("The role was changed. They sign in again to use it.", "success")
    return redirect(url_for(".show", user_id=user_id), 303)


@bp.post("/<user_id>/disable")
@admin_only
@confirmed
def disable(user_id: str) -> ResponseReturnValue:
    committed(lambda: people.disable(user_id, by=actor()))
    flash("Disabled. Browsers and API tokens of this person are out within a second.", "success")
    return redirect(url_for(".show", user_id=user_id), 303)


@bp.post("/<user_id>/enable")
@admin_only
@confirmed
def enable(user_id: str) -> ResponseReturnValue:
    committed(lambda: people.enable(user_id, by=actor()))
    flash("Enabled. Their API tokens work again.", "success")
    return redirect(url_for(".show", user_id=user_id), 303)


@bp.post("/<user_id>/sessions/end")
@admin_only
def sign_out(user_id: str) -> ResponseReturnValue:
    """All their browsers. It takes access away and gives none, so no password is asked for."""
    user = people.find(user_id)
    ended = sessions.end(user_id)
    audit.record(actor(), "session.ended", Subject("user", user.id, user.email), count=ended)
    db.session.commit()
    flash(f"Signed out of {many(ended, 'browser')}.", "success")
    return redirect(url_for(".show", user_id=user_id), 303)


@bp.route("/<user_id>/password", methods=["GET", "POST"])
@admin_only
def set_password(user_id: str) -> ResponseReturnValue:
    user, form = people.find(user_id), PasswordForm()
    if form.validate_on_submit():
        with beside(form):
            people.set_password(user_id, form.password.data or "", by=actor())
            db.session.commit()
            flash("The password was changed. They are signed out everywhere.", "success")
            return redirect(url_for(".show", user_id=user_id), 303)
    page = render_template("admin/users/password.html", form=form, user=user)
    return page, 422 if form.errors else 200


@bp.route("/<user_id>/delete", methods=["GET", "POST"])
@admin_only
def delete(user_id: str) -> ResponseReturnValue:
    user, form = people.find(user_id), Sensitive()
    if form.validate_on_submit():
        email = user.email
        committed(lambda: people.delete(user_id, by=actor()))
        flash(f"{email} was deleted.", "success")
        return redirect(url_for(".index"), 303)
    tokens = len(api_tokens.of(user_id))
    page = render_template("admin/users/delete.html", form=form, user=user, tokens=tokens)
    return page, 422 if form.errors else 200
