"""Alembic runs this for every `flask db` command, and for the upgrade at start."""

from alembic import context
from flask import current_app

from app.postgres import unhurried

held = current_app.extensions["migrate"]

with held.db.engine.connect() as connection:
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        # A batch change copies a table and drops the old one. With foreign keys
        # on, that drop deletes the rows of every table that cascades from it.
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.commit()
    context.configure(
        connection=connection, target_metadata=held.db.metadata, **held.configure_args
    )
    with unhurried(), context.begin_transaction():
        context.run_migrations()
    if is_sqlite:
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")  # the pool keeps this connection
