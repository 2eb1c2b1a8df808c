"""flask users …: for the first admin, and for who lost every password."""

import sys

import click
from flask.cli import AppGroup

from .. import people, setup
from ..audit import SYSTEM
from ..db import db
from .plain import in_words

users = AppGroup("users", help="People who sign in here.")
email = click.argument("email")
from_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of stdin."
)


@users.command("create-admin")
@email
@from_stdin
def create_admin(email: str, password_stdin: bool) -> None:
    """Add a person who may change everything."""
    _create(email, "admin", password_stdin=password_stdin)


@users.command("create")
@email
@from_stdin
def create(email: str, password_stdin: bool) -> None:
    """Add a person who uses gateways."""
    _create(email, "user", password_stdin=password_stdin)


@users.command("set-password")
@email
@from_stdin
def set_password(email: str, password_stdin: bool) -> None:
    """Give a person a new password, and sign them out everywhere."""
    with in_words():
        people.set_password(people.named(email).id, _password(password_stdin), by=SYSTEM)
        db.session.commit()
    click.echo(f"{people.folded(email)} has a new password.")


@users.command("list")
def show() -> None:
    """One line per person: email, role, state, last sign-in."""
    for user in people.everybody():
        state = "disabled" if user.is_disabled else "enabled"
        at = f"{user.signed_in_at:%Y-%m-%d %H:%M}Z" if user.signed_in_at else "never"
        click.echo(f"{user.email}\t{user.role}\t{state}\t{at}")


@users.command("setup-code")
def setup_code() -> None:
    """Print a fresh code for the set-up page; one printed before is over."""
    code = setup.offer(anew=True)
    if code is None:
        raise click.ClickException("This server is set up already. Use: flask users create-admin")
    click.echo(f"Setup code: {code}")


def _create(email: str, role: str, *, password_stdin: bool) -> None:
    with in_words():
        user = people.create(email, password=_password(password_stdin), role=role)
        db.session.commit()
    click.echo(f"{user.email} can sign in, as {role}.")


def _password(from_stdin: bool) -> str:
    """Verbatim, but for the end of the line."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return typed
