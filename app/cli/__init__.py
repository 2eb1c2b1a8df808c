"""Commands: parse, call one core function, commit, say what to do next. One module per group."""

from flask import Flask

from . import audit
from .gateways import gateways
from .housekeeping import housekeeping
from .secrets import secrets
from .tokens import tokens
from .users import users


def register(app: Flask) -> None:
    """Add every command group to `flask`."""
    app.cli.add_command(audit.group)
    app.cli.add_command(users)
    app.cli.add_command(gateways)
    app.cli.add_command(tokens)
    app.cli.add_command(secrets)
    app.cli.add_command(housekeeping)
