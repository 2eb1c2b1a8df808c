"""First run, sign-in, sign-out."""

from __future__ import annotations

import click
from flask import Blueprint, Flask, current_app, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import EmailField, PasswordField, StringField
from wtforms.validators import InputRequired

from .. import audit, people, setup
from ..audit import Subject
from ..db import db
from ..errors import Conflict
from . import auth, where
from .forms import beside

bp = Blueprint("people", __name__)


class SetupForm(FlaskForm):
    code = StringField("Setup code", [InputRequired("Enter the code from the server log.")])
    email = EmailField("Your email", [InputRequired("Enter your email.")])
    password = PasswordField("Password", [InputRequired("Enter a password.")])


class LoginForm(FlaskForm):
    email = EmailField("Email", [InputRequired("Enter your email.")])
    password = PasswordField("Password", [InputRequired("Enter your password.")])


@bp.route("/setup", methods=["GET", "POST"])
def first_run() -> ResponseReturnValue:
    if setup.is_done():
        raise Conflict("setup_done")
    if request.method == "POST":
        _print(setup.offer())  # where the one before is over
    form = SetupForm()
    if form.validate_on_submit():
        with beside(form):
            cookie = setup.finish(
                form.code.data or "",
                form.email.data or "",
                form.password.data or "",
                by=auth.actor(),
                agent=request.user_agent.string,
            )
            return auth.let_in(redirect("/", 303), cookie)
    page = render_template("setup.html", form=form, public_url=current_app.config["PUBLIC_URL"])
    return page, 422 if form.errors else 200


@bp.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """`next`: where to go on to."""
    if not setup.is_done():
        return redirect("/setup")
    onward, now = where.own_path(request.args.get("next")), auth.someone()
    if now and request.method == "GET":
        return redirect(onward)
    form = LoginForm()
    if form.validate_on_submit():
        email, password = form.email.data or "", form.password.data or ""
        agent = request.user_agent.string
        cookie = people.sign_in(email, password, by=auth.actor(), agent=agent)
        if cookie:
            auth.end_this_session()
        db.session.commit()
        if cookie:
            return auth.let_in(redirect(onward, 303), cookie)
        form.password.errors = ["Email or password is wrong. Type both again."]
    page = render_template("login.html", form=form, onward=onward)
    return page, 422 if form.errors else 200


@bp.post("/logout")
def logout() -> ResponseReturnValue:
    me = auth.person()
    audit.record(auth.actor(), "logout", Subject("user", me.user_id, me.email))
    auth.end_this_session()
    db.session.commit()
    return auth.let_out(redirect("/login", 303))


def announce(app: Flask) -> None:
    """As a server starts, not a command: the code of the first run, if there is nobody yet."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name == "run":
        with app.app_context():
            _print(setup.offer_at_start())


def _print(code: str | None) -> None:
    """On the console, once: by the process that made it. Not in the log's JSON, for people."""
    if code:
        url = current_app.config["PUBLIC_URL"]
        click.echo(f"Setup code: {code}   (for {url}/setup, valid for 24 hours)", err=True)
