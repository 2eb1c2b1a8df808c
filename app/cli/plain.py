"""What commands share."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from .. import schema
from ..db import AWAY
from ..errors import AppError, Invalid


@contextmanager
def in_words() -> Iterator[None]:
    """Our errors as a sentence on standard error, and exit status 1."""
    try:
        yield
    except Invalid as error:
        told = [f"{field}: {sentence}" for field, sentence in sorted(error.fields.items())]
        raise click.ClickException("\n".join(told)) from error
    except AppError as error:
        raise click.ClickException(f"{error.message}. {error.action}") from error
    except AWAY as error:
        raise click.ClickException(f"Nothing was done: {schema.complaint(error)}.") from error
