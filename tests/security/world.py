"""A gateway with something of everything in it, and what is in its database."""

from __future__ import annotations

from app.db import db


def dump(app) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    with app.app_context(), db.engine.connect() as link:
        tables = db.metadata.sorted_tables
        return {table.name: sorted(map(repr, link.execute(table.select()))) for table in tables}
