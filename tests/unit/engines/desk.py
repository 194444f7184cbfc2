"""A small project with steps, plans over them, and a way to run those."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.blueprint.code import CodeReader
from modelyard.blueprint.plan import Plan, Source, Task
from modelyard.contracts import Executor
from modelyard.engines.scheduler import Scheduler
from modelyard.records import Event, EventKind, RunRecord
from modelyard.store.store import Store

STEPS = """
import time
from pathlib import Path

def begin(context, *, value=1):
    _count(context, "begin")
    return {"value": value}

def add(context, *, value, more=1):
    _count(context, "add")
    return {"value": value + more}

def fail(context, *, value=0):
    _count(context, "fail")
    raise ValueError("always")

def flaky(context, *, good_at=3):
    if _count(context, "flaky") < good_at:
        raise RuntimeError("not yet")
    return {"value": good_at}

def nap(context, *, seconds=0.2, value=0):
    context.log("napping")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)
    return {"value": seconds}

def read(context, *, path):
    _count(context, "read")
    return {"value": (context.project / path).read_text()}

def _count(context, name):
    path = context.project.parent / f"{name}.count"
    with path.open("a") as file:
        file.write(".")
    return len(path.read_text())
"""


def task(name: str, function: str, *needs: str, **options: Any) -> Task:
    """A python step; an input `value` comes from the first need unless `inputs` says otherwise."""
    inputs: Mapping[str, Source] = options.pop("inputs", {"value": Source(needs[0], "value")} if needs else {})
    parameters = options.pop("parameters", {})
    return Task(
        id=name, kind="python", call=f"work:{function}", parameters=parameters, inputs=inputs,
        types={"value": "any"}, needs=needs, files=options.pop("files", {}), **options,
    )  # fmt: skip


def plan_of(*tasks: Task) -> Plan:
    return Plan("demo", "0" * 64, "classification", tasks)


class Desk:
    """A project, its store, and a way to run plans in it."""

    def __init__(self, folder: Path, executor: Executor, store: Store) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.store = store
        self.executor = executor
        self.reader = CodeReader(self.project)
        self.events: list[Event] = []
        self.recorded: list[RunRecord] = []
        self._ids = itertools.count()

    def scheduler(self, **options: Any) -> Scheduler:
        listeners: Sequence[Callable[[Event], None]] = options.pop("listeners", (self.events.append,))
        recorder = options.pop("recorder", self.recorded.append)
        return Scheduler(self.store, self.reader, self.executor, listeners=listeners, recorder=recorder, **options)

    def record(self) -> RunRecord:
        name = f"run{next(self._ids)}"
        return RunRecord(id=name, blueprint="demo", blueprint_digest="0" * 64, started=time.time())

    def run(self, plan: Plan, **options: Any) -> RunRecord:
        self.events.clear()
        resume = options.pop("resume", None)
        return self.scheduler(**options).run(plan, run=self.record(), project=self.project, resume=resume)

    def count(self, name: str) -> int:
        path = self.folder / f"{name}.count"
        return len(path.read_text()) if path.exists() else 0

    def states(self) -> list[tuple[str, str]]:
        return [(event.task, event.data["state"]) for event in self.events if event.kind is EventKind.STATE]

    def value(self, run: RunRecord, name: str) -> Any:
        return self.store.load(run.tasks[name].outputs["value"])
