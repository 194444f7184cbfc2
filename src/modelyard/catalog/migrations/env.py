"""Alembic runs this module; it migrates over the connection that `catalog/migrate.py` hands it."""

from __future__ import annotations

from alembic import context

from modelyard.catalog.database import VERSION_TABLE
from modelyard.catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite can roll back a CREATE TABLE; Alembic assumes it can't, because Python's driver used to commit before it.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
