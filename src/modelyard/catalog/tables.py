"""The catalog's tables. What changes here needs a migration in `migrations/versions/`; a test compares the two.

Nested values (parameters, summaries, failures) are JSON in text columns: nobody searches inside them, text reads the
same on SQLite and PostgreSQL, and msgspec decodes it straight into the records. What is searched has a column.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

__all__ = ["artifacts", "derived", "metadata", "metric_points", "metrics", "runs", "tasks", "uses"]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("blueprint", Text, nullable=False),
    Column("blueprint_digest", Text, nullable=False),
    Column("blueprint_object", Text, nullable=False),
    Column("overrides", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("started", Double, nullable=False),
    Column("finished", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("commit", Text, nullable=False),
    Column("dirty", Boolean, nullable=False),
    Column("environment", Text, nullable=False),
    Column("resumed", Text, nullable=True),
    Column("pid", BigInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("process", Text, nullable=False),
    # A new random number at each write: a writer that remembers the last one knows whether anybody else wrote since.
    Column("revision", BigInteger, nullable=False),
    Index(None, "blueprint", "started"),
    Index(None, "started"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("run", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("task", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("fingerprint_digest", Text, nullable=True),
    Column("fingerprint", Text, nullable=True),
    Column("started", Double, nullable=False),
    Column("finished", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failure", Text, nullable=True),
    Column("log", Text, nullable=True),
    Column("cached_from", Text, nullable=True),
    Column("executor", Text, nullable=False),
    Column("host", Text, nullable=False),
    Index(None, "task", "state"),
    Index(None, "fingerprint_digest"),
)


def _of_a_task() -> tuple[Column[str], Column[str], ForeignKeyConstraint]:
    return (
        Column("run", Text, primary_key=True),
        Column("task", Text, primary_key=True),
        ForeignKeyConstraint(["run", "task"], ["tasks.run", "tasks.task"], ondelete="CASCADE"),
    )


metrics = Table(
    "metrics",
    metadata,
    *_of_a_task(),
    Column("name", Text, primary_key=True),
    # NULL is NaN: SQLite keeps no NaN, and one meaning on both databases is simpler than two.
    Column("value", Double, nullable=True),
    Index(None, "name"),
)

metric_points = Table(
    "metric_points",
    metadata,
    # Of a run and not of a task: rewriting a task's rows must not drop the curve it has drawn so far.
    Column("run", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("task", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Double, nullable=True),
    Column("time", Double, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    *_of_a_task(),
    Column("port", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("materializer", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("summary", Text, nullable=False),
    Index(None, "digest"),
)

uses = Table(
    "uses",
    metadata,
    *_of_a_task(),
    Column("port", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Index(None, "digest"),
)

derived = Table(
    "derived",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
