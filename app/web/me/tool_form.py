"""The form of a tool: one field per argument."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flask_wtf import FlaskForm
from wtforms import (
    BooleanField,
    Field,
    SelectChoice,
    SelectField,
    StringField,
    TextAreaField,
    ValidationError,
)

from .arguments import Argument

_LEFT_OUT = object()


class ToolForm(FlaskForm):
    """Fields are named by number, as the names in a schema are not ours to trust."""

    known: Sequence[Argument] = ()
    sure = BooleanField("I know that this can delete data")

    def rows(self) -> Iterator[tuple[Argument, Field]]:
        for number, argument in enumerate(self.known):
            yield argument, self[f"a{number}"]

    def arguments(self) -> dict[str, Any]:
        """What to call the tool with. After validation."""
        found = {one.name: field.argument for one, field in self.rows()}
        found = {name: value for name, value in found.items() if value is not _LEFT_OUT}
        everything: dict[str, Any] = found.pop("", {})
        return everything or found


def form_for(
    known: Sequence[Argument], start: Mapping[str, Any] | None = None, *, deletes: bool
) -> ToolForm:
    """`start`: arguments to fill in, such as those of a call that is over."""
    fields = {f"a{number}": _field(one) for number, one in enumerate(known)}
    values = {f"a{number}": _shown(one, start or {}) for number, one in enumerate(known)}
    kind: type[ToolForm] = type("ToolForm", (ToolForm,), {**fields, "known": known})
    form = kind(data=values)
    if deletes:
        form.sure.validators = [_is_sure]
    else:
        del form.sure
    return form


def _is_sure(_form: FlaskForm, field: Field) -> None:
    if not field.data:
        raise ValidationError("This tool can delete data. Tick the box to run it.")


class Reads:
    """A validator: keeps what was typed as a value of JSON, in `field.argument`."""

    def __init__(self, argument: Argument) -> None:
        self._argument = argument
        self.field_flags = {"required": True} if argument.is_required else {}

    def __call__(self, _form: FlaskForm, field: Field) -> None:
        one, typed = self._argument, str(field.data or "").replace("\r\n", "\n")
        field.argument = _LEFT_OUT
        if not typed.strip():
            if one.is_required:
                raise ValidationError(f"{one.name} is required.")
            return
        try:
            field.argument = one.read(typed)
        except ValueError as error:
            raise ValidationError(f"{one.name or 'What you typed'} {error}") from error


class Ticked:
    """The same for a tick; left out when it says what the server takes anyway."""

    def __init__(self, argument: Argument) -> None:
        self._argument = argument

    def __call__(self, _form: FlaskForm, field: Field) -> None:
        is_same = field.data == (self._argument.default is True)
        is_optional = is_same and not self._argument.is_required
        field.argument = _LEFT_OUT if is_optional else field.data


_LOOKS: dict[str, dict[str, Any]] = {
    "text": {"autocomplete": "off"},
    "long": {"rows": 5},
    "whole": {"inputmode": "numeric", "autocomplete": "off"},
    "number": {"inputmode": "decimal", "autocomplete": "off"},
    "lines": {"rows": 3},
    "json": {"rows": 6, "spellcheck": "false"},
}


def _field(one: Argument) -> Any:
    label = one.name or "Arguments"
    if one.kind == "tick":
        return BooleanField(label, [Ticked(one)])
    if one.kind == "choice":
        blank = SelectChoice("", "Choose one" if one.is_required else "Leave out")
        choices = [blank, *(SelectChoice(key, text) for key, (text, _) in one.choices.items())]
        # The reader knows the choices too, and says so in our words.
        return SelectField(label, [Reads(one)], choices=choices, validate_choice=False)
    kind = StringField if one.kind in ("text", "whole", "number") else TextAreaField
    return kind(label, [Reads(one)], render_kw=_LOOKS[one.kind])


def _shown(one: Argument, start: Mapping[str, Any]) -> Any:
    value = dict(start) or None if not one.name else start.get(one.name, one.default)
    if one.kind == "tick":
        return value is True
    if one.kind == "choice":
        key = json.dumps(value)
        return key if key in one.choices else ""
    return "" if value is None else one.show(value)
