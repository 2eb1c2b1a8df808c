"""One's own account: password, signed-in browsers."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import PasswordField
from wtforms.validators import InputRequired

from ... import audit, people, sessions
from ...audit import Subject
from ...db import db
from ...errors import NotFound
from ..auth import actor, let_in, person, session_id
from ..forms import beside

bp = Blueprint("account", __name__, url_prefix="/me")

_BROWSERS = {"Edg": "Edge", "OPR": "Opera", "Firefox": "Firefox", "Chrome": "Chrome"}
_SYSTEMS = {"Windows": "Windows", "Android": "Android", "iPhone": "iPhone", "iPad": "iPad"}


class PasswordForm(FlaskForm):
    current = PasswordField("Password now", [InputRequired("Enter your password.")])
    password = PasswordField("New password", [InputRequired("Enter a new password.")])


@bp.route("", methods=["GET", "POST"])
def index() -> ResponseReturnValue:
    """The form on it changes the password, and signs out every other browser."""
    form = PasswordForm()
    if form.validate_on_submit():
        with beside(form):
            current, new = form.current.data or "", form.password.data or ""
            agent = request.user_agent.string
            cookie = people.change_password(person().email, current, new, by=actor(), agent=agent)
            db.session.commit()
            if cookie:
                reply = let_in(redirect(url_for(".index"), 303), cookie)
                flash("Your password was changed. Other browsers were signed out.", "success")
                return reply
            form.current.errors = ["This is not your password."]
    browsers = sessions.of(person().user_id)
    page = render_template(
        "account.html",
        form=form,
        browsers=browsers,
        this=session_id(),
        browser_name=browser_name,
        role=people.ROLES["admin" if person().is_admin else "user"],
    )
    return page, 422 if form.errors else 200


@bp.post("/sessions/<which>/end")
def end(which: str) -> ResponseReturnValue:
    """One browser, or with `others` all but this one."""
    me = person()
    if which == "others":
        ended = sessions.end(me.user_id, keep=session_id())
    else:
        ended = sessions.end(me.user_id, session_id=which)
        if not ended:
            raise NotFound
    audit.record(actor(), "session.ended", Subject("user", me.user_id, me.email), count=ended)
    db.session.commit()
    flash("Signed out there.", "success")
    return redirect(url_for(".index"), 303)


def browser_name(agent: str) -> str:
    """Such as Firefox on Linux."""
    browser = next((name for mark, name in _BROWSERS.items() if mark in agent), "")
    browser = browser or ("Safari" if "Safari" in agent else agent.partition("/")[0][:40])
    system = next((name for mark, name in _SYSTEMS.items() if mark in agent), "")
    system = system or ("Mac" if "Mac OS" in agent else "Linux" if "Linux" in agent else "")
    return f"{browser or 'Unknown browser'} on {system}" if system else browser or "Unknown browser"
