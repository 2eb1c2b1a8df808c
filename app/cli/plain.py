"""What commands share."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask.cli import with_appcontext

from .. import keys, schema
from ..db import AWAY
from ..errors import AppError, Invalid


class Hopeless(click.ClickException):
    exit_code = 78  # EX_CONFIG: running it again does not help


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


@with_appcontext
def keep_to_known_keys() -> None:
    """Raises Hopeless while a running server could not read what this command would seal.

    The audit trail is sealed with every change, so the server could make none any more (SEC-082).
    """
    with in_words():
        lacking = keys.verify() if schema.is_current() else []
    if lacking:
        found = keys.differ(lacking)
        told = f"{found.message}. {found.cause} {found.action}"
        raise Hopeless(f"{told} See docs/keys.md: the servers get a new key first.")
