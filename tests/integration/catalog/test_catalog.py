"""What the catalog promises, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import math
import os
import socket
import time
from typing import Any

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from modelyard.catalog import Catalog, Link, Point, process_identity
from modelyard.catalog.database import VERSION_TABLE
from modelyard.catalog.tables import metadata
from modelyard.errors import InputError, IntegrityError, NotFoundError, SettingsError
from modelyard.records import (
    Artifact,
    Event,
    EventKind,
    Failure,
    Fingerprint,
    RunRecord,
    RunState,
    TaskRecord,
    TaskState,
)

DATA, MODEL = "d" * 64, "e" * 64


def fingerprint(**inputs: str) -> Fingerprint:
    return Fingerprint("steps:train", {"steps": "1"}, {"alpha": 0.1, "layers": [1, 2]}, inputs, {"torch": "2.5"}, "f1")


def a_run(number: int, blueprint: str = "digits", **more: Any) -> RunRecord:
    """Return a run of two tasks: `import` makes DATA, `train` makes MODEL of it."""
    tasks = {
        "import": TaskRecord(
            task="import", kind="importer", state=TaskState.CACHED, fingerprint=fingerprint(**{"file:a.csv": "c1"}),
            outputs={"train": Artifact(DATA, "dataset", 2**40, {"rows": 60_000, "shape": [28, 28]})},
            started=1.5, finished=2.25, cached_from="20260101-000000-0000",
        ),
        "train": TaskRecord(
            task="train", kind="trainer", state=TaskState.SUCCEEDED, fingerprint=fingerprint(train=DATA),
            outputs={"model": Artifact(MODEL, "folder", 12)}, metrics={"accuracy": 0.97, "loss": 1e-17 * number},
            started=2.5, finished=1e9 / 3, attempts=2, log="a" * 64, executor="processes", host="here",
        ),
    }  # fmt: skip
    fields: dict[str, Any] = {
        "id": f"20260131-1425{number:02}-3f9c",
        "blueprint": blueprint,
        "blueprint_digest": "b" * 64,
        "blueprint_object": "o" * 64,
        "overrides": {"train.alpha": 0.01},
        "state": RunState.SUCCEEDED,
        "tasks": tasks,
        "started": 1_000_000.123456 + number,
        "finished": 1_000_060.5 + number,
        "actor": "Ada 🧮",
        "commit": "abc",
        "dirty": True,
        "environment": {"python": "3.11", "numpy": "2.0"},
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process": process_identity(os.getpid()),
    }
    return RunRecord(**{**fields, **more})


def with_task(run: RunRecord, name: str, **changes: Any) -> RunRecord:
    tasks = {**run.tasks, name: msgspec.structs.replace(run.tasks[name], **changes)}
    return msgspec.structs.replace(run, tasks=tasks)


def point(run: str, step: int, value: float, name: str = "loss", task: str = "train") -> Event:
    return Event(run, task, EventKind.METRIC, 100.0 + step, {"name": name, "value": value, "step": step})


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(catalog: Catalog) -> None:
    with catalog.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_run_comes_back_as_it_was_recorded(catalog: Catalog) -> None:
    run = a_run(1)
    catalog.record(run)
    assert catalog.run(run.id) == run
    assert list(catalog.run(run.id).tasks) == ["import", "train"]
    assert catalog.runs() == [run]


def test_a_failed_task_comes_back_with_its_reason(catalog: Catalog) -> None:
    failure = Failure("step", "ValueError: no", "train.py:3", "Mend it.")
    run = with_task(a_run(1), "train", state=TaskState.FAILED, failure=failure, fingerprint=None, outputs={})
    catalog.record(run)
    assert catalog.run(run.id) == run


def test_metrics_that_are_no_finite_numbers_are_kept(catalog: Catalog) -> None:
    run = with_task(a_run(1), "train", metrics={"a": math.nan, "b": math.inf, "c": -math.inf})
    catalog.record(run)
    metrics = catalog.run(run.id).tasks["train"].metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (math.inf, -math.inf)
    with catalog.database.reading() as connection:
        unknown = connection.exec_driver_sql("SELECT name FROM metrics WHERE value IS NULL").all()
    assert [row.name for row in unknown] == ["a"], "a NaN is never the largest or the smallest value"


def test_recording_again_shows_the_newest_state(catalog: Catalog) -> None:
    run = a_run(1, state=RunState.RUNNING, finished=0.0)
    steps = [
        run,
        with_task(run, "train", state=TaskState.RUNNING, outputs={}, metrics={}),
        with_task(run, "train", metrics={"other": 1.0}, fingerprint=fingerprint(train=MODEL, test=DATA)),
        with_task(run, "import", outputs={}, fingerprint=None),
        msgspec.structs.replace(run, state=RunState.FAILED, finished=7.0),
        msgspec.structs.replace(run, tasks={"train": run.tasks["train"]}),
        msgspec.structs.replace(run, tasks=dict(reversed(run.tasks.items()))),
        run,
        with_task(run, "train", outputs={}),
    ]
    for step in steps:
        catalog.record(step)
        assert catalog.run(run.id) == step
        assert list(catalog.run(run.id).tasks) == list(step.tasks)
    assert catalog.lineage(MODEL).used_by == ()


def test_two_writers_of_one_run_leave_the_last_ones_state_and_no_mixture(url: str) -> None:
    run = a_run(1, state=RunState.RUNNING, finished=0.0)
    with Catalog.open(url) as one, Catalog.open(url) as other:
        one.record(run)
        other.record(with_task(run, "import", state=TaskState.FAILED))
        last = with_task(run, "train", attempts=9)
        one.record(last)
        assert one.run(run.id) == other.run(run.id) == last


def test_a_rebuild_under_a_running_run_does_not_disturb_it(url: str) -> None:
    run = a_run(1, state=RunState.RUNNING, finished=0.0)
    with Catalog.open(url) as one, Catalog.open(url) as other:
        one.record(run)
        other.rebuild([])
        assert other.runs() == []
        last = with_task(run, "train", attempts=9)
        one.record(last)
        assert other.run(run.id) == last


def test_runs_are_listed_newest_first_by_blueprint_and_limit(catalog: Catalog) -> None:
    for number in (3, 1, 2):
        catalog.record(a_run(number))
    catalog.record(a_run(4, "prices"))
    assert [run.started for run in catalog.runs()] == sorted((a_run(n).started for n in (1, 2, 3, 4)), reverse=True)
    assert [run.id for run in catalog.runs("digits", limit=2)] == [a_run(3).id, a_run(2).id]
    assert catalog.runs("none") == []
    assert catalog.runs(limit=0) == []


def test_a_run_is_found_by_the_beginning_of_its_id(catalog: Catalog) -> None:
    for number in (1, 2, 3, 4):
        catalog.record(a_run(number))
    assert catalog.run("20260131-142502").id == a_run(2).id
    with pytest.raises(InputError, match=r"More than one run.*and perhaps others"):
        catalog.run("20260131")
    for nothing in ("2027", "", "%", "20260131_142502", "2026013%"):
        with pytest.raises(NotFoundError):
            catalog.run(nothing)


def test_a_whole_id_is_found_where_another_begins_with_it(catalog: Catalog) -> None:
    catalog.record(a_run(1, id="a"))
    catalog.record(a_run(2, id="ab"))
    assert catalog.run("a").id == "a"


def test_the_latest_task_is_the_last_one_that_ended_well(catalog: Catalog) -> None:
    first, second = a_run(1), with_task(a_run(2), "train", metrics={"accuracy": 0.5})
    catalog.record(second)
    catalog.record(first)
    catalog.record(with_task(a_run(3), "train", state=TaskState.FAILED))
    catalog.record(a_run(4, "prices"))
    assert catalog.latest_task("digits", "train") == second.tasks["train"]
    assert catalog.latest_task("digits", "train", before=second.id) == first.tasks["train"]
    assert catalog.latest_task("digits", "train", before=first.id) is None
    assert catalog.latest_task("digits", "train", before="a run not recorded yet") == second.tasks["train"]
    assert catalog.latest_task("digits", "none") is None


def test_lineage_tells_who_made_an_artefact_and_who_used_it(catalog: Catalog) -> None:
    one, two = a_run(1), a_run(2)
    catalog.record(two)
    catalog.record(one)
    data = catalog.lineage(DATA)
    assert data.made_by == tuple(Link(run.id, "digits", "import", "train", 2.25, True) for run in (one, two))
    assert data.used_by == tuple(Link(run.id, "digits", "train", "train", 1e9 / 3, False) for run in (one, two))
    assert [link.port for link in catalog.lineage("c1").used_by] == ["file:a.csv", "file:a.csv"]
    assert catalog.lineage(MODEL).used_by == ()
    assert catalog.lineage("0" * 64).made_by == ()


def test_curves_come_back_in_order_and_the_last_word_on_a_step_stands(catalog: Catalog) -> None:
    run = a_run(1)
    catalog.record(run)
    for step, value in ((2, 0.2), (1, 0.9), (1, 0.1), (3, math.nan)):
        catalog.metric(point(run.id, step, value))
    catalog.metric(point(run.id, 1, 5.0, "accuracy"))
    curves = catalog.curves(run.id)
    assert curves["train"]["loss"][:2] == [Point(1, 0.1, 101.0), Point(2, 0.2, 102.0)]
    assert math.isnan(curves["train"]["loss"][2].value)
    assert curves["train"]["accuracy"] == [Point(1, 5.0, 101.0)]
    assert catalog.curves(run.id, "import") == {}


def test_curves_outlive_later_records_of_their_task(catalog: Catalog) -> None:
    run = a_run(1, state=RunState.RUNNING, finished=0.0)
    catalog.record(run)
    catalog.metric(point(run.id, 1, 1.0))
    catalog.record(with_task(run, "train", attempts=3))
    catalog.record(msgspec.structs.replace(run, tasks=dict(reversed(run.tasks.items()))))
    assert len(catalog.curves(run.id)["train"]["loss"]) == 1


def test_points_that_come_before_their_run_is_recorded_wait_for_it(catalog: Catalog) -> None:
    run = a_run(1)
    catalog.metric(point(run.id, 1, 1.0))
    catalog.metric(point("another", 1, 1.0))
    assert catalog.curves(run.id) == {}
    catalog.record(run)
    assert catalog.curves(run.id)["train"]["loss"] == [Point(1, 1.0, 101.0)]


def test_points_that_wait_are_written_when_the_catalog_closes(url: str) -> None:
    with Catalog.open(url) as catalog:
        catalog.record(a_run(1))
        for step in range(10):
            catalog.metric(point(a_run(1).id, step, 0.5))
    with Catalog.open(url) as catalog:
        assert len(catalog.curves(a_run(1).id)["train"]["loss"]) == 10


def test_events_that_are_no_points_are_let_pass(catalog: Catalog) -> None:
    catalog.record(a_run(1))
    catalog.metric(Event(a_run(1).id, "train", EventKind.LOG, 1.0, {"line": "x", "stream": "stdout"}))
    catalog.metric(Event(a_run(1).id, "train", EventKind.METRIC, 1.0, {"name": "x", "value": 1.0, "step": None}))
    assert catalog.curves(a_run(1).id) == {}


def test_a_rebuilt_catalog_answers_as_the_one_before(url: str) -> None:
    records = [a_run(number) for number in range(1, 6)]
    with Catalog.open(url) as catalog:
        for record in records:
            catalog.record(record)
        catalog.metric(point(records[0].id, 1, 0.5))
        before = (catalog.runs(), catalog.lineage(DATA), catalog.curves(records[0].id))
    with Catalog.renew(url) as catalog:
        assert catalog.runs() == []
        assert catalog.rebuild(reversed(records), [point(records[0].id, 1, 0.5)]) == 5
        assert (catalog.runs(), catalog.lineage(DATA), catalog.curves(records[0].id)) == before


def test_a_rebuild_forgets_what_no_manifest_knows(catalog: Catalog) -> None:
    for number in (1, 2):
        catalog.record(a_run(number))
        catalog.metric(point(a_run(number).id, 1, 0.5))
    catalog.remember("kind", "key", b"derived")
    assert catalog.rebuild([a_run(2)]) == 1
    assert [run.id for run in catalog.runs()] == [a_run(2).id]
    assert catalog.curves(a_run(1).id) == {}
    assert len(catalog.curves(a_run(2).id)["train"]["loss"]) == 1
    assert len(catalog.lineage(DATA).made_by) == 1
    assert catalog.recall("kind", "key") is None


def test_a_rebuild_that_fails_half_way_changes_nothing(catalog: Catalog) -> None:
    catalog.record(a_run(1))

    def broken() -> Any:
        yield a_run(2)
        raise IntegrityError("this manifest is damaged")

    with pytest.raises(IntegrityError):
        catalog.rebuild(broken())
    assert [run.id for run in catalog.runs()] == [a_run(1).id]


def test_what_is_remembered_is_recalled_until_it_is_forgotten(catalog: Catalog) -> None:
    catalog.remember("tag", "a", b"\x00\xff")
    catalog.remember("tag", "a", b"new")
    catalog.remember_many("tag", {f"k{n}": str(n).encode() for n in range(100)})
    catalog.remember("other", "a", b"")
    catalog.remember_many("none", {})
    assert catalog.recall("tag", "a") == b"new"
    assert catalog.recall("other", "a") == b""
    assert catalog.recall("tag", "none") is None
    assert len(catalog.recall_all("tag")) == 101
    catalog.forget("tag")
    assert catalog.recall_all("tag") == {}
    assert catalog.recall("other", "a") == b""


def test_a_run_whose_process_has_died_is_told_as_interrupted(catalog: Catalog) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    dead = a_run(1, state=RunState.RUNNING, finished=0.0, pid=child, process="")
    dead = with_task(with_task(dead, "train", state=TaskState.RUNNING), "import", state=TaskState.WAITING)
    alive = a_run(2, state=RunState.RUNNING, finished=0.0)
    catalog.record(dead)
    catalog.record(alive)
    told = {run.id: run for run in catalog.runs()}
    assert told[alive.id].state is RunState.RUNNING
    assert told[dead.id].state is RunState.INTERRUPTED
    assert told[dead.id].tasks["train"].state is TaskState.INTERRUPTED
    assert told[dead.id].tasks["import"].state is TaskState.SKIPPED
    assert catalog.run(dead.id) == told[dead.id]


def test_recording_one_task_of_two_hundred_costs_about_a_millisecond(catalog: Catalog) -> None:
    tasks = {f"t{n}": TaskRecord(task=f"t{n}", kind="python", state=TaskState.WAITING) for n in range(200)}
    run = a_run(1, state=RunState.RUNNING, finished=0.0, tasks=tasks)
    catalog.record(run)
    costs = []
    for name in list(tasks)[:60]:
        run = with_task(run, name, state=TaskState.SUCCEEDED, fingerprint=fingerprint(x=DATA), metrics={"a": 1.0})
        started = time.perf_counter()
        catalog.record(run)
        costs.append(time.perf_counter() - started)
    # 0.3 ms on SQLite and 1.1 ms on PostgreSQL where nothing else runs; writing the whole run costs 6 and 10.
    assert sorted(costs)[len(costs) // 2] < 0.005
    assert catalog.run(run.id) == run


def test_recording_the_same_again_writes_nothing(url: str) -> None:
    run = a_run(1, state=RunState.RUNNING, finished=0.0)
    with Catalog.open(url) as one, Catalog.open(url) as other:
        one.record(run)
        with other.database.writing() as connection:
            connection.exec_driver_sql("UPDATE tasks SET attempts = 77")
        one.record(run)
        assert one.run(run.id).tasks["train"].attempts == 77


def test_a_newer_modelyards_catalog_is_refused_with_advice(url: str) -> None:
    with Catalog.open(url) as catalog:
        catalog.record(a_run(1))
        with catalog.database.writing() as connection:
            connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(InputError, match="A newer Modelyard wrote this catalog: its version is 9999") as caught:
        Catalog.open(url)
    assert "Install that newer Modelyard" in (caught.value.remedy or "")
    with Catalog.renew(url) as catalog:
        assert catalog.runs() == []


def test_a_database_with_other_tables_is_refused_and_left_alone(url: str) -> None:
    with Catalog.open(url) as catalog:
        catalog.record(a_run(1))
        with catalog.database.writing() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {VERSION_TABLE} RENAME TO somebody_elses")
        for way in (Catalog.open, Catalog.renew, lambda url: Catalog.rebuilt(url, [])):
            with pytest.raises(SettingsError, match="is no catalog of Modelyard"):
                way(url)
        with catalog.database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 1


def test_a_sound_catalog_is_rebuilt_in_place_and_keeps_its_curves(url: str) -> None:
    with Catalog.open(url) as catalog:
        for number in (1, 2):
            catalog.record(a_run(number))
            catalog.metric(point(a_run(number).id, 1, 0.5))
    with Catalog.rebuilt(url, [a_run(2), a_run(3)]) as catalog:
        assert [run.id for run in catalog.runs()] == [a_run(3).id, a_run(2).id]
        assert len(catalog.curves(a_run(2).id)["train"]["loss"]) == 1


def test_a_newer_modelyards_catalog_can_be_rebuilt_by_this_one(url: str) -> None:
    with Catalog.open(url) as catalog, catalog.database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with Catalog.rebuilt(url, [a_run(2)]) as catalog:
        assert [run.id for run in catalog.runs()] == [a_run(2).id]
    with Catalog.open(url) as catalog:
        assert len(catalog.runs()) == 1
