"""Commands: parse, call one core function, commit, say what to do next. One module per group."""

from flask import Flask


def register(app: Flask) -> None:
    """Add every command group to `flask`."""
