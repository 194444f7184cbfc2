"""The Alembic environment of the catalog."""
