"""The catalog's one class: record runs, ask about them, rebuild it all."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, Row

from modelyard.catalog import statements
from modelyard.catalog.database import Database
from modelyard.catalog.lineage import Lineage, Link
from modelyard.catalog.liveness import is_alive, settle
from modelyard.catalog.rows import (
    Values,
    by,
    point_row,
    run_from_rows,
    run_row,
    same_head,
    task_from_rows,
    task_rows,
)
from modelyard.catalog.tables import derived, metric_points, runs, tasks
from modelyard.errors import InputError, IntegrityError, NotFoundError, SettingsError
from modelyard.records import Event, EventKind, RunRecord, TaskRecord

__all__ = ["Catalog", "Point"]

_FLUSH_SECONDS = 0.25
_MOST_PENDING = 100_000
_MANY = 500


class Point(NamedTuple):
    """One point of a curve: the step (epoch, batch), the value, and when, in seconds since 1970, UTC."""

    step: int
    value: float
    time: float


class _Seen(NamedTuple):
    """What this process last recorded of a run, so that the next time only what differs is written."""

    record: RunRecord
    revision: int


class Catalog:
    """Runs, their tasks, metrics and lineage, in SQLite or PostgreSQL. An index: the store's manifests are the truth.

    Threads may share a catalog; any number of processes may have the same one open.

    Args:
        database: An opened database; `Catalog.open` makes one from a URL.
        alive: Says whether the process behind a run still lives; a run whose process does not is told as interrupted.
    """

    def __init__(self, database: Database, alive: Callable[[RunRecord], bool] = is_alive) -> None:
        self.database = database
        self._alive = alive
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._pending: deque[Values] = deque(maxlen=_MOST_PENDING)
        self._flushed = 0.0
        dialect = database.engine.dialect.name
        self._put_run = statements.upsert(runs, dialect)
        self._put_task = statements.upsert(tasks, dialect)
        self._put_point = statements.upsert(metric_points, dialect)
        self._put_derived = statements.upsert(derived, dialect)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a catalog; a new one is made, an older one is brought to the newest version.

        Args:
            url: `sqlite:////absolute/path.db`, or `postgresql://user:password@host/database`.

        Raises:
            SettingsError: The URL is none, or names another kind of database, or another application's.
            MissingExtraError: PostgreSQL without its driver.
            IntegrityError: The file is damaged; `Catalog.rebuilt` makes it anew.
            InputError: A newer Modelyard wrote it; the same helps.
            StorageError: It can't be reached or written.
            BusyError: Another process holds it for longer than half a minute.
        """
        return cls(Database(url))

    @classmethod
    def renew(cls, url: str) -> Self:
        """Open a catalog that is empty, whatever was there: damage, a newer version. `rebuild` fills it.

        A SQLite file is kept beside as `<name>.damaged`; in PostgreSQL the catalog's tables are dropped.

        Raises:
            SettingsError: The database is another application's; it is left alone.
        """
        return cls(Database(url, renew=True))

    @classmethod
    def rebuilt(cls, url: str, records: Iterable[RunRecord]) -> Self:
        """Open a catalog that holds exactly these runs, whatever was there.

        A sound catalog is rebuilt in place, in one transaction, and keeps the curves of the runs that stay. One that is
        damaged, or of a newer version, is renewed.

        Args:
            url: As `open` takes it.
            records: The manifests of all runs, from the store.
        """
        manifests = list(records)
        try:
            catalog = cls.open(url)
            try:
                catalog.rebuild(manifests)
            except IntegrityError:
                catalog.database.close()
                raise
        except SettingsError:
            raise
        except (IntegrityError, InputError):
            catalog = cls.renew(url)
            catalog.rebuild(manifests)
        return catalog

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Catalog({self.database.place!r})"

    def close(self) -> None:
        """Write what waits, and close every connection."""
        try:
            self.flush()
        finally:
            self.database.close()

    # --- recording ---------------------------------------------------------------------------------------------------

    def record(self, run: RunRecord) -> None:
        """Write a run, in one transaction: itself, its tasks, their metrics, artifacts and lineage.

        Only what differs from the last record that this process wrote of the run is written, so that recording one
        changed task costs the same in a run of two tasks and of two hundred. Should anybody else have written the run
        meanwhile (a rebuild, say), all of it is written.

        Raises:
            StorageError: The disk is full or the database does not answer; nothing was written.
            BusyError: Another process holds the database for longer than half a minute.
        """
        with self._lock:
            seen = self._seen.get(run.id)
            if seen is not None and _same(seen.record, run) and not self._pending:
                return
            revision = _new_revision()
            with self.database.writing() as connection:
                if seen is None or not _write_changes(connection, self._put_task, seen, run, revision):
                    self._write_all(connection, run, revision)
                self._write_points(connection)
            if run.finished:
                self._seen.pop(run.id, None)
            else:
                self._seen[run.id] = _Seen(run, revision)

    def metric(self, event: Event) -> None:
        """Keep a point of a curve; other events, and metrics without a step, are let pass.

        Fit to be a listener of the scheduler. Points that come faster than four times a second are written together,
        at the latest with the next record of the run.
        """
        if event.kind is not EventKind.METRIC or event.data.get("step") is None:
            return
        with self._lock:
            self._pending.append(point_row(event))
            if time.monotonic() - self._flushed < _FLUSH_SECONDS:
                return
            self._flush()

    def flush(self) -> None:
        """Write the points that wait."""
        with self._lock:
            self._flush()

    def rebuild(self, records: Iterable[RunRecord], points: Iterable[Event] = ()) -> int:
        """Make the catalog hold exactly these runs, in one transaction, and return how many they are.

        What was derived and remembered is forgotten. Points of curves stay for the runs that stay.

        Args:
            records: The manifests of all runs, from the store.
            points: Metric events with a step, where they were kept elsewhere.
        """
        with self._lock:
            self._seen.clear()
            kept: set[str] = set()
            with self.database.writing() as connection:
                connection.execute(statements.FORGET_DERIVED)
                for record in records:
                    self._write_all(connection, record, _new_revision())
                    kept.add(record.id)
                gone = [row.id for row in connection.execute(statements.ALL_RUNS) if row.id not in kept]
                for start in range(0, len(gone), _MANY):
                    connection.execute(statements.FORGET_RUNS, {"ids": gone[start : start + _MANY]})
                self._pending.extend(point_row(event) for event in points)
                self._write_points(connection)
        return len(kept)

    def _flush(self) -> None:
        if self._pending:
            with self.database.writing() as connection:
                self._write_points(connection)
        self._flushed = time.monotonic()

    def _write_points(self, connection: Connection) -> None:
        if not self._pending:
            return
        ids = sorted({row["run"] for row in self._pending})
        known = {row.id for row in connection.execute(statements.KNOWN_RUNS, {"ids": ids})}
        # One statement can't write a row twice: of a step that was told twice the later value stands.
        ready = {
            (row["run"], row["task"], row["name"], row["step"]): row for row in self._pending if row["run"] in known
        }
        if ready:
            connection.execute(self._put_point, list(ready.values()))
        early = [row for row in self._pending if row["run"] not in known]
        self._pending.clear()
        self._pending.extend(early)
        self._flushed = time.monotonic()

    def _write_all(self, connection: Connection, run: RunRecord, revision: int) -> None:
        connection.execute(self._put_run, run_row(run, revision))
        connection.execute(statements.CLEAR_TASKS, {"of_run": run.id})
        rows = [task_rows(run.id, position, task) for position, task in enumerate(run.tasks.values())]
        for statement, part in (
            (statements.ADD_TASKS, [row[0] for row in rows]),
            (statements.ADD_METRICS, [values for row in rows for values in row[1]]),
            (statements.ADD_ARTIFACTS, [values for row in rows for values in row[2]]),
            (statements.ADD_USES, [values for row in rows for values in row[3]]),
        ):
            if part:
                connection.execute(statement, part)

    # --- asking ------------------------------------------------------------------------------------------------------

    def runs(self, blueprint: str | None = None, limit: int = 50) -> list[RunRecord]:
        """Return the newest runs, the newest first.

        Args:
            blueprint: Only runs of the pipeline of this name.
            limit: At most so many.
        """
        with self.database.reading() as connection:
            if blueprint is None:
                heads = connection.execute(statements.NEWEST_RUNS, {"most": limit}).all()
            else:
                heads = connection.execute(statements.NEWEST_RUNS_OF, {"most": limit, "of_blueprint": blueprint}).all()
            return self._records(connection, heads)

    def run(self, run: str) -> RunRecord:
        """Return one run.

        Args:
            run: Its id, or the beginning of it as long as only one run begins so.

        Raises:
            NotFoundError: No run begins so.
            InputError: More than one does.
        """
        with self.database.reading() as connection:
            heads = connection.execute(statements.RUN, {"of_run": run}).all()
            if not heads and run:
                heads = connection.execute(statements.RUNS_BY_PREFIX, {"prefix": run, "length": len(run)}).all()
            if len(heads) == 1:
                return self._records(connection, heads)[0]
        if not heads:
            raise NotFoundError(f"No run begins with {run!r}.", remedy="`modelyard ls` lists the runs.")
        raise InputError(
            f"More than one run begins with {run!r}: {', '.join(head.id for head in heads)}"
            f"{' and perhaps others' if len(heads) > 2 else ''}.",
            remedy="Write more of the id.",
        )

    def latest_task(self, blueprint: str, task: str, before: str | None = None) -> TaskRecord | None:
        """Return the record of a task's last good end (succeeded or cached), or None.

        Args:
            blueprint: Name of the pipeline.
            task: The step's id.
            before: Id of a run; only what came before that run counts.
        """
        key = {"of_blueprint": blueprint, "of_task": task}
        with self.database.reading() as connection:
            if before is None:
                found = connection.execute(statements.LATEST_TASK, key).first()
            else:
                found = connection.execute(statements.LATEST_TASK_BEFORE, {**key, "before": before}).first()
            if found is None:
                return None
            of = {"of_run": found.run, "of_task": task}
            return task_from_rows(
                connection.execute(statements.TASK, of).one(),
                connection.execute(statements.METRICS_OF_TASK, of),
                connection.execute(statements.ARTIFACTS_OF_TASK, of),
            )

    def lineage(self, digest: str) -> Lineage:
        """Return which tasks made an artefact, and which used it; both are empty where nobody knows it."""
        made: list[Link] = []
        used: list[Link] = []
        with self.database.reading() as connection:
            for row in connection.execute(statements.LINEAGE, {"digest": digest}):
                link = Link(row.of_run, row.blueprint, row.task, row.port, row.time, bool(row.cached))
                (made if row.role == "made" else used).append(link)
        return Lineage(digest, tuple(made), tuple(used))

    def curves(self, run: str, task: str | None = None) -> dict[str, dict[str, list[Point]]]:
        """Return the curves of a run, by task and by metric; each ordered by step.

        Args:
            run: The whole id.
            task: Only of this step.
        """
        self.flush()
        found: dict[str, dict[str, list[Point]]] = {}
        with self.database.reading() as connection:
            if task is None:
                rows = connection.execute(statements.CURVES, {"of_run": run})
            else:
                rows = connection.execute(statements.CURVES_OF_TASK, {"of_run": run, "of_task": task})
            for row in rows:
                value = float("nan") if row.value is None else row.value
                found.setdefault(row.task, {}).setdefault(row.name, []).append(Point(row.step, value, row.time))
        return found

    def _records(self, connection: Connection, heads: Collection[Row[Any]]) -> list[RunRecord]:
        ids = {"ids": [head.id for head in heads]}
        if not heads:
            return []
        of_tasks = by(connection.execute(statements.TASKS_OF, ids), "run")
        metrics = by(connection.execute(statements.METRICS_OF, ids), "run")
        artifacts = by(connection.execute(statements.ARTIFACTS_OF, ids), "run")
        return [
            settle(run_from_rows(head, of_tasks[head.id], metrics[head.id], artifacts[head.id]), self._alive)
            for head in heads
        ]

    # --- remembering -------------------------------------------------------------------------------------------------

    def remember(self, kind: str, key: str, value: bytes) -> None:
        """Keep something small that was costly to derive and can be derived again, such as a verified tag."""
        self.remember_many(kind, {key: value})

    def recall(self, kind: str, key: str) -> bytes | None:
        """Return what was remembered, or None."""
        with self.database.reading() as connection:
            row = connection.execute(statements.RECALL, {"of_kind": kind, "of_key": key}).first()
        return None if row is None else bytes(row.value)

    def remember_many(self, kind: str, values: Mapping[str, bytes]) -> None:
        """Keep many values of a kind in one transaction."""
        if values:
            rows = [{"kind": kind, "key": key, "value": value} for key, value in values.items()]
            with self.database.writing() as connection:
                connection.execute(self._put_derived, rows)

    def recall_all(self, kind: str) -> dict[str, bytes]:
        """Return everything that was remembered of a kind, by key."""
        with self.database.reading() as connection:
            found = connection.execute(statements.RECALL_ALL, {"of_kind": kind})
            return {row.key: bytes(row.value) for row in found}

    def forget(self, kind: str) -> None:
        """Forget everything that was remembered of a kind."""
        with self.database.writing() as connection:
            connection.execute(statements.FORGET_KIND, {"of_kind": kind})


def _new_revision() -> int:
    return int.from_bytes(os.urandom(8)) >> 1


def _same_order(one: RunRecord, other: RunRecord) -> bool:
    return list(one.tasks) == list(other.tasks)


def _same(one: RunRecord, other: RunRecord) -> bool:
    # Equal dictionaries may differ in order, and the order of the tasks is the plan's.
    return one is other or (one == other and _same_order(one, other))


def _write_changes(connection: Connection, put_task: Any, seen: _Seen, run: RunRecord, revision: int) -> bool:
    """Write what differs from the record seen; where that is not what is there, write nothing and return False."""
    old = seen.record
    if not _same_order(old, run):
        return False
    key = {"of_run": run.id, "seen": seen.revision}
    if same_head(old, run):
        touched = connection.execute(statements.TOUCH_RUN, {**key, "revision": revision})
    else:
        row = run_row(run, revision)
        del row["id"]
        touched = connection.execute(statements.CHANGE_RUN, {**key, **row})
    if touched.rowcount != 1:
        return False
    for position, (name, task) in enumerate(run.tasks.items()):
        before = old.tasks[name]
        if before is not task and before != task:
            _write_task(connection, put_task, run.id, position, before, task)
    return True


def _write_task(
    connection: Connection, put_task: Any, run: str, position: int, before: TaskRecord, task: TaskRecord
) -> None:
    row, metrics, artifacts, uses = task_rows(run, position, task)
    connection.execute(put_task, row)
    of = {"of_run": run, "of_task": task.task}
    for had, changed, clear, add, rows in (
        (before.metrics, before.metrics != task.metrics, statements.CLEAR_METRICS, statements.ADD_METRICS, metrics),
        (
            before.outputs,
            before.outputs != task.outputs,
            statements.CLEAR_ARTIFACTS,
            statements.ADD_ARTIFACTS,
            artifacts,
        ),
        (before.fingerprint, before.fingerprint != task.fingerprint, statements.CLEAR_USES, statements.ADD_USES, uses),
    ):
        if changed and had:
            connection.execute(clear, of)
        if changed and rows:
            connection.execute(add, rows)
