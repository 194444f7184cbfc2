"""Make the tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables."""
    _runs_and_tasks()
    _of_tasks()
    op.create_table(
        "metric_points",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("value", sa.Double, nullable=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("run", "task", "name", "step", name="pk_metric_points"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_metric_points_runs", ondelete="CASCADE"),
    )
    op.create_table(
        "derived",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", name="pk_derived"),
    )


def _runs_and_tasks() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("blueprint", sa.Text, nullable=False),
        sa.Column("blueprint_digest", sa.Text, nullable=False),
        sa.Column("blueprint_object", sa.Text, nullable=False),
        sa.Column("overrides", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("finished", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("commit", sa.Text, nullable=False),
        sa.Column("dirty", sa.Boolean, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("resumed", sa.Text, nullable=True),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_blueprint_started", "runs", ["blueprint", "started"])
    op.create_index("ix_runs_started", "runs", ["started"])
    op.create_table(
        "tasks",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("fingerprint_digest", sa.Text, nullable=True),
        sa.Column("fingerprint", sa.Text, nullable=True),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("finished", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failure", sa.Text, nullable=True),
        sa.Column("log", sa.Text, nullable=True),
        sa.Column("cached_from", sa.Text, nullable=True),
        sa.Column("executor", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "task", name="pk_tasks"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_tasks_runs", ondelete="CASCADE"),
    )
    op.create_index("ix_tasks_task_state", "tasks", ["task", "state"])
    op.create_index("ix_tasks_fingerprint_digest", "tasks", ["fingerprint_digest"])


def _of_tasks() -> None:
    op.create_table(
        "metrics",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=True),
        sa.PrimaryKeyConstraint("run", "task", "name", name="pk_metrics"),
        _belongs_to_task("metrics"),
    )
    op.create_index("ix_metrics_name", "metrics", ["name"])
    op.create_table(
        "artifacts",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("port", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("materializer", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "task", "port", name="pk_artifacts"),
        _belongs_to_task("artifacts"),
    )
    op.create_index("ix_artifacts_digest", "artifacts", ["digest"])
    op.create_table(
        "uses",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("port", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "task", "port", name="pk_uses"),
        _belongs_to_task("uses"),
    )
    op.create_index("ix_uses_digest", "uses", ["digest"])


def _belongs_to_task(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["run", "task"], ["tasks.run", "tasks.task"], name=f"fk_{table}_tasks", ondelete="CASCADE"
    )


def downgrade() -> None:
    """Change them back."""
    for table in ("derived", "metric_points", "uses", "artifacts", "metrics", "tasks", "runs"):
        op.drop_table(table)
