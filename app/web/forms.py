"""What form views share."""

from collections.abc import Iterator
from contextlib import contextmanager

from flask_wtf import FlaskForm
from wtforms import SelectMultipleField
from wtforms.widgets import CheckboxInput, ListWidget

from ..errors import Invalid


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
