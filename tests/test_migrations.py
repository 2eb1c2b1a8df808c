import datetime
import uuid

import sqlalchemy as sa
from flask_migrate import check, downgrade, upgrade

from app.db import Base, db

BEFORE = "0002"  # the schema of the release before this one


def test_migrations_build_the_schema_of_the_models(app):
    with app.app_context():
        check(directory="migrations")  # exits if `flask db migrate` would find work to do
        downgrade(directory="migrations", revision="base")
        upgrade(directory="migrations")
        check(directory="migrations")


def test_sec_119_the_release_before_runs_on_the_schema_of_today(app):
    """While nodes are replaced one by one it writes, reads, changes and deletes: what it knows of.

    And this release reads what it wrote.
    """
    with app.app_context():
        downgrade(directory="migrations", revision=BEFORE)
        old = sa.MetaData()
        old.reflect(db.engine)
        upgrade(directory="migrations")
        tables = [table for table in old.sorted_tables if table.name != "alembic_version"]
        assert len(tables) >= 12
        written: dict[str, dict] = {}
        with db.engine.begin() as link:
            for table in reversed(tables):  # what the start of this app left there
                link.execute(sa.delete(table))
            for table in tables:
                written[table.name] = row_of(table, written)
                link.execute(sa.insert(table).values(**written[table.name]))
        with db.engine.begin() as link:
            for table in tables:
                [found] = link.execute(sa.select(table)).mappings()
                assert dict(found) == written[table.name]
                link.execute(sa.update(table).values(found))
        for mapper in Base.registry.mappers:
            rows = db.session.scalars(sa.select(mapper.class_)).all()
            assert len(rows) == 1 or mapper.local_table.name not in written
        db.session.rollback()
        with db.engine.begin() as link:
            for table in reversed(tables):
                assert link.execute(sa.delete(table)).rowcount == 1


def row_of(table: sa.Table, written: dict[str, dict]) -> dict:
    """A value for every column that the table had, and for no other."""
    row = {}
    for column in table.columns:
        parents = [key.column for key in column.foreign_keys]
        if parents:
            row[column.name] = written[parents[0].table.name][parents[0].name]
        else:
            row[column.name] = _value(column.type)
    return row


def _value(kind: sa.types.TypeEngine) -> object:
    if isinstance(kind, sa.JSON):
        return ["a"]
    if isinstance(kind, sa.Boolean):
        return True
    if isinstance(kind, (sa.Float, sa.Numeric)):
        return 1.5
    if isinstance(kind, sa.DateTime):
        return datetime.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  # as the column holds it
    if isinstance(kind, sa.Integer):
        return 7
    return uuid.uuid4().hex[: getattr(kind, "length", None) or 32]
