"""Commands: parse, call one core function, commit, say what to do next. One module per group."""

from flask import Flask

from . import audit
from .check import check
from .gateways import gateways
from .housekeeping import housekeeping
from .plain import keep_to_known_keys
from .providers import providers
from .secrets import secrets
from .tokens import tokens
from .users import users


def register(app: Flask) -> None:
    """Add every command group to `flask`."""
    for group in (audit.group, users, gateways, tokens, housekeeping):
        group.callback = keep_to_known_keys  # before any command of it
        app.cli.add_command(group)
    app.cli.add_command(providers)  # reads no row
    app.cli.add_command(check)
    app.cli.add_command(secrets)  # these look for themselves
