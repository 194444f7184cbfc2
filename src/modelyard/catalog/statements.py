"""Every statement that the catalog executes, by name, each with what it is for."""

from __future__ import annotations

import importlib
from typing import Any

from sqlalchemy import (
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    union_all,
    update,
)

from modelyard.catalog.tables import artifacts, derived, metric_points, metrics, runs, tasks, uses
from modelyard.records import TaskState

_GOOD = tuple(state.value for state in TaskState if state.good)


def upsert(table: Table, dialect: str) -> Any:
    """Write rows, taking the place of rows with the same key; for tables that are written again and again."""
    # By name: nobody who keeps a catalog in SQLite pays for the other dialect.
    statement = importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)


# --- recording -------------------------------------------------------------------------------------------------------

# Say that a run's tasks change; touches no row if anybody else wrote the run since, and then all of it is written.
TOUCH_RUN: Update = (
    update(runs)
    .where(runs.c.id == bindparam("of_run"), runs.c.revision == bindparam("seen"))
    .values(revision=bindparam("revision"))
)

# The same, where the run's own fields change too.
CHANGE_RUN: Update = (
    update(runs)
    .where(runs.c.id == bindparam("of_run"), runs.c.revision == bindparam("seen"))
    .values({column.name: bindparam(column.name) for column in runs.columns if column.name != "id"})
)

# Forget a run's tasks, and with them their metrics, artifacts and uses, before all are written anew.
CLEAR_TASKS = delete(tasks).where(tasks.c.run == bindparam("of_run"))

# Forget what hangs on one task, before it is written anew.
CLEAR_METRICS = delete(metrics).where(metrics.c.run == bindparam("of_run"), metrics.c.task == bindparam("of_task"))
CLEAR_ARTIFACTS = delete(artifacts).where(
    artifacts.c.run == bindparam("of_run"), artifacts.c.task == bindparam("of_task")
)
CLEAR_USES = delete(uses).where(uses.c.run == bindparam("of_run"), uses.c.task == bindparam("of_task"))

# Write what hangs on tasks; the rows before them are cleared.
ADD_TASKS: Insert = insert(tasks)
ADD_METRICS: Insert = insert(metrics)
ADD_ARTIFACTS: Insert = insert(artifacts)
ADD_USES: Insert = insert(uses)

# Which of these runs exist: points of a curve may arrive before their run is recorded.
KNOWN_RUNS = select(runs.c.id).where(runs.c.id.in_(bindparam("ids", expanding=True)))

# Forget runs, and everything of them; a rebuild does so with those that no manifest knows.
FORGET_RUNS = delete(runs).where(runs.c.id.in_(bindparam("ids", expanding=True)))

# The ids of all runs, to tell which a rebuild has to forget.
ALL_RUNS = select(runs.c.id)

# --- asking ----------------------------------------------------------------------------------------------------------

# The newest runs, of one blueprint or of all.
NEWEST_RUNS = select(runs).order_by(runs.c.started.desc(), runs.c.id.desc()).limit(bindparam("most"))
NEWEST_RUNS_OF = NEWEST_RUNS.where(runs.c.blueprint == bindparam("of_blueprint"))

# The run of an id, or the runs that start with it; three are enough to say that a prefix is not unique.
RUN = select(runs).where(runs.c.id == bindparam("of_run"))
RUNS_BY_PREFIX = (
    select(runs)
    .where(func.substr(runs.c.id, 1, bindparam("length")) == bindparam("prefix"))
    .order_by(runs.c.started.desc(), runs.c.id.desc())
    .limit(3)
)

# All that belongs to some runs, for putting their records together.
TASKS_OF = select(tasks).where(tasks.c.run.in_(bindparam("ids", expanding=True))).order_by(tasks.c.position)
METRICS_OF = select(metrics).where(metrics.c.run.in_(bindparam("ids", expanding=True)))
ARTIFACTS_OF = select(artifacts).where(artifacts.c.run.in_(bindparam("ids", expanding=True)))

# The run in which a task of a blueprint last ended well; with a run named, before that run.
LATEST_TASK = (
    select(tasks.c.run)
    .join(runs, runs.c.id == tasks.c.run)
    .where(runs.c.blueprint == bindparam("of_blueprint"), tasks.c.task == bindparam("of_task"))
    .where(tasks.c.state.in_(_GOOD))
    .order_by(runs.c.started.desc(), runs.c.id.desc())
    .limit(1)
)
LATEST_TASK_BEFORE = LATEST_TASK.where(
    runs.c.id != bindparam("before"),
    runs.c.started
    <= func.coalesce(
        select(runs.c.started).where(runs.c.id == bindparam("before")).correlate(None).scalar_subquery(),
        literal_column("1e300"),
    ),
)

# All that belongs to one task of one run.
TASK = select(tasks).where(tasks.c.run == bindparam("of_run"), tasks.c.task == bindparam("of_task"))
METRICS_OF_TASK = select(metrics).where(metrics.c.run == bindparam("of_run"), metrics.c.task == bindparam("of_task"))
ARTIFACTS_OF_TASK = select(artifacts).where(
    artifacts.c.run == bindparam("of_run"), artifacts.c.task == bindparam("of_task")
)

# The curves of a run, or of one of its tasks.
CURVES = (
    select(metric_points)
    .where(metric_points.c.run == bindparam("of_run"))
    .order_by(metric_points.c.task, metric_points.c.name, metric_points.c.step)
)
CURVES_OF_TASK = CURVES.where(metric_points.c.task == bindparam("of_task"))


def _links(table: Table, role: str) -> Select[Any]:
    return (
        select(
            literal_column(f"'{role}'").label("role"),
            table.c.run.label("of_run"),
            runs.c.blueprint.label("blueprint"),
            table.c.task.label("task"),
            table.c.port.label("port"),
            tasks.c.finished.label("time"),
            case((tasks.c.state == TaskState.CACHED.value, 1), else_=0).label("cached"),
            runs.c.started.label("since"),
        )
        .join(tasks, (tasks.c.run == table.c.run) & (tasks.c.task == table.c.task))
        .join(runs, runs.c.id == table.c.run)
        .where(table.c.digest == bindparam("digest"))
    )


# Which tasks made an artefact and which used it, oldest first.
LINEAGE = union_all(_links(artifacts, "made"), _links(uses, "used")).order_by("since", "of_run", "task", "port")

# --- remembering -----------------------------------------------------------------------------------------------------

# What was derived earlier: one value, some, or all of a kind.
RECALL = select(derived.c.value).where(derived.c.kind == bindparam("of_kind"), derived.c.key == bindparam("of_key"))
RECALL_ALL = select(derived.c.key, derived.c.value).where(derived.c.kind == bindparam("of_kind"))

# Forget what was derived, all of a kind or everything.
FORGET_KIND = delete(derived).where(derived.c.kind == bindparam("of_kind"))
FORGET_DERIVED = delete(derived)
