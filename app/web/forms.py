"""What form views share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

from flask import render_template, request
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import PasswordField, SelectMultipleField
from wtforms.widgets import CheckboxInput, ListWidget

from ..errors import Invalid
from . import auth, where

P = ParamSpec("P")


@contextmanager
def beside(form: FlaskForm) -> Iterator[None]:
    """Invalid becomes sentences beside the fields. Raises it still if no field is meant."""
    try:
        yield
    except Invalid as error:
        for path, sentence in error.fields.items():
            name = path.rpartition(".")[2]
            if name not in form:
                raise
            form[name].errors = [sentence]


class Ticks(SelectMultipleField):
    """Several of a few, as boxes to tick. None of them is an answer, too: the spec decides."""

    widget = ListWidget(prefix_label=False)
    option_widget = CheckboxInput()


class Asking(FlaskForm):
    """Of a step for which the password must have been typed lately (SEC-075).

    The form itself asks for it, so that nothing is lost on the way to a sign-in and back.
    """

    own_password = PasswordField("Your password")

    @property
    def asks(self) -> bool:
        return not auth.is_confirmed()

    def refusal(self) -> str | None:
        """Why the step is not taken. Raises Busy. Commits."""
        typed = self.own_password.data
        if not self.asks or (typed and auth.confirm(typed)):
            return None
        return "This is not your password." if typed else "Enter your own password."


class Sensitive(Asking):
    """Always such a step."""

    def validate(self, extra_validators: Any = None) -> bool:
        """All else first: a password is not looked at for nothing."""
        if not super().validate(extra_validators):
            return False
        refusal = self.refusal()
        if refusal is None:
            return True
        self.own_password.errors = [refusal]
        for field in self:
            if isinstance(field, PasswordField) and field.data and field is not self.own_password:
                field.errors = ["Enter it again."]  # it is not sent back
        return False


def confirmed(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """For a button alone: a page asks for the password, and presses the button again."""

    @functools.wraps(view)
    def checked(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        form = Sensitive()
        is_asked = form.own_password.name in request.form
        if (is_asked or not form.asks) and form.validate_on_submit():
            return view(*args, **kwargs)
        kept = [(name, value) for name, value in request.form.items(multi=True) if name not in form]
        page = render_template("confirm.html", form=form, kept=kept, back=where.here())
        return page, 422

    return checked
