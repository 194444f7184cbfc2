"""What a step costs beyond its work, here and in peers: chains of 3, 20 and 200 empty steps, and a fan-out of 100.

    python -m benchmarks.steps [--repeat 3] [--quick] [--output FILE]

Every step adds one to the number it is given. Each contender first runs one step to be warm; then a run is timed from
its call to its return, and divided by its steps. `cached` is the same run again. Peers are given the chains of 3 and 20
alone, for some take seconds for each step; DVC and Metaflow are started anew for each run, for that is how they run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Benchmark, Promise, Table, medians, output, program, scratch, seconds, take_turns

from modelyard.blueprint.code import CodeReader
from modelyard.blueprint.plan import Plan, Source, Task
from modelyard.engines.executors import open_executor
from modelyard.engines.scheduler import Scheduler
from modelyard.records import RunRecord, RunState
from modelyard.store.store import Store

SHAPES = {"chain of 3": 3, "chain of 20": 20, "chain of 200": 200, "fan-out of 100": 100}
PEER_SHAPES = ("chain of 3", "chain of 20")

STEP = "def step(value=0, *, salt=0):\n    return {'value': value + 1}\n"

PEERS = {
    "prefect": """
from prefect import flow, task
from prefect.cache_policies import INPUTS
@task(cache_policy=INPUTS, persist_result=True)
def step(value, salt): return value + 1
@flow
def chain(n, salt):
    value = 0
    for _ in range(n): value = step(value, salt)
    return value
def run(n, salt): assert chain(n, salt) == n
""",
    "dagster": """
from dagster import job, op, In, DagsterInstance
instance = DagsterInstance.local_temp()
@op
def begin(): return 0
@op
def step(value): return value + 1
def run(n, salt):
    @job
    def chain():
        value = begin()
        for _ in range(n - 1): value = step(value)
    assert chain.execute_in_process(instance=instance).success
""",
    "zenml": """
from zenml import pipeline, step
@step
def begin(salt: int) -> int: return 1
@step
def more(value: int) -> int: return value + 1
def run(n, salt):
    @pipeline
    def chain():
        value = begin(salt)
        for _ in range(n - 1): value = more(value)
    chain()
""",
    "kfp": """
from kfp import dsl, local
local.init(runner=local.SubprocessRunner(use_venv=False))
@dsl.component
def step(value: int) -> int: return value + 1
def run(n, salt):
    @dsl.pipeline
    def chain() -> int:
        value = step(value=salt)
        for _ in range(n - 1): value = step(value=value.output)
        return value.output
    assert chain().output == n + salt
""",
}
"""Scripts that define `run(steps, salt)`; another salt makes earlier results unfit."""

TIMER = """
import json, sys, time
run(1, 1000)
sizes, timings = json.loads(sys.argv[1]), {}
for name, n in sizes.items():
    timings[name] = {}
    for kind in ("run", "cached"):
        start = time.perf_counter(); run(n, n); timings[name][kind] = (time.perf_counter() - start) / n
print("TIMINGS" + json.dumps(timings))
"""

METAFLOW_HEAD = "from metaflow import FlowSpec, step\nclass Chain(FlowSpec):\n"

Timings = dict[str, dict[str, float]]


def plan_of(shape: str, salt: int) -> Plan:
    """Return a plan of that shape whose results no earlier run has."""
    tasks = []
    for number in range(SHAPES[shape]):
        before = f"s{number - 1}" if shape.startswith("chain") and number else None
        tasks.append(
            Task(
                id=f"s{number}",
                kind="python",
                call="steps:step",
                parameters={"salt": salt * 1000 + (0 if before else number)},
                inputs={"value": Source(before, "value")} if before else {},
                types={"value": "any"},
                needs=(before,) if before else (),
                files={},
            )
        )
    return Plan("bench", "0" * 64, "classification", tuple(tasks))


def modelyard(executor_name: str) -> Callable[[Path], Timings]:
    """Return the contender that runs plans through one of our executors."""

    def measure(folder: Path) -> Timings:
        project = folder / "project"
        project.mkdir()
        (project / "steps.py").write_text(STEP)
        store = Store.open(f"file://{folder}/store")
        # A file just written is read again each time until its stamp has settled.
        time.sleep(0.2)
        timings: Timings = {}
        with open_executor(executor_name, workers=2, store=store) as executor:
            scheduler = Scheduler(store, CodeReader(project), executor)

            def timed(plan: Plan, name: str) -> float:
                start = time.perf_counter()
                record = RunRecord(id=name, blueprint="bench", blueprint_digest="0", started=time.time())
                run = scheduler.run(plan, run=record, project=project)
                assert run.state is RunState.SUCCEEDED
                return (time.perf_counter() - start) / len(plan.tasks)

            timed(plan_of("fan-out of 100", 99), "warm-up")
            for salt, shape in enumerate(SHAPES):
                plan = plan_of(shape, salt)
                timings[shape] = {"run": timed(plan, f"a{salt}"), "cached": timed(plan, f"b{salt}")}
        return timings

    return measure


def scripted(peer: str) -> Callable[[Sequence[str], Path], Timings]:
    """Return the contender that runs a peer's script in its own environment."""

    def measure(shapes: Sequence[str], folder: Path) -> Timings:
        script = folder / "bench_peer.py"
        script.write_text(PEERS[peer] + TIMER)
        sizes = json.dumps({shape: SHAPES[shape] for shape in shapes})
        told = output([program(peer, "python"), str(script), sizes], folder)
        timings: Timings = json.loads(next(line for line in told.splitlines() if line.startswith("TIMINGS"))[7:])
        return timings

    return measure


def metaflow(shapes: Sequence[str], folder: Path) -> Timings:
    """Metaflow has a process for each step, and no cache; a flow is a file with its steps written out."""
    timings: Timings = {}
    for shape in shapes:
        names = ["start", *(f"s{number}" for number in range(SHAPES[shape] - 2)), "end"]
        body = "".join(
            f"    @step\n    def {name}(self):\n        self.value = getattr(self, 'value', 0) + 1\n"
            + (f"        self.next(self.{names[index + 1]})\n" if index + 1 < len(names) else "")
            for index, name in enumerate(names)
        )
        file = folder / f"flow{len(names)}.py"
        file.write_text(METAFLOW_HEAD + body + "if __name__ == '__main__':\n    Chain()\n")
        start = time.perf_counter()
        output([program("metaflow", "python"), str(file), "run"], folder)
        timings[shape] = {"run": (time.perf_counter() - start) / len(names)}
    return timings


def dvc(shapes: Sequence[str], folder: Path) -> Timings:
    """`dvc repro` over stages that are shell lines; its start is part of every run, for it has no other way."""
    timings: Timings = {}
    for shape in shapes:
        place = folder / shape.replace(" ", "-")
        place.mkdir()
        (place / "v0").write_text("0")
        stages = {
            f"s{n}": {"cmd": f"echo $(($(cat v{n}) + 1)) > v{n + 1}", "deps": [f"v{n}"], "outs": [f"v{n + 1}"]}
            for n in range(SHAPES[shape])
        }
        (place / "dvc.yaml").write_text(json.dumps({"stages": stages}))
        output([program("dvc", "dvc"), "init", "--no-scm", "-q"], place, home=folder)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            output([program("dvc", "dvc"), "repro", "-q"], place, home=folder)
            seconds.append((time.perf_counter() - start) / len(stages))
        timings[shape] = {"run": seconds[0], "cached": seconds[1]}
    return timings


OURS = {f"modelyard {executor}": modelyard(executor) for executor in ("inline", "processes")}
THEIRS: dict[str, Callable[[Sequence[str], Path], Timings]] = {
    "dvc": dvc,
    "metaflow": metaflow,
    **{peer: scripted(peer) for peer in PEERS},
}


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Run every contender in turn; where it shall be quick, peers get the shortest chain alone."""
    shapes = PEER_SHAPES[:1] if quick else PEER_SHAPES
    able = OURS | {name: partial(run, shapes) for name, run in THEIRS.items() if name in peers}
    with scratch() as folder:
        rounds, failed = take_turns(able, repeat, folder)
    results = {
        name: {shape: medians([timings[shape] for timings in several]) for shape in several[0]}
        for name, several in rounds.items()
    }
    return results, failed


def tables(results: dict[str, Any]) -> list[Table]:
    """Return medians by shape, of fresh and of cached runs."""
    rows = [
        [name, *(_cell(shapes.get(shape, {}), kind) for shape in SHAPES for kind in ("run", "cached"))]
        for name, shapes in results.items()
    ]
    header = ["", *(f"{shape}{of}" for shape in SHAPES for of in ("", ", cached"))]
    return [Table("One step, without work of its own: median", header, rows)]


def _cell(kinds: dict[str, Any], kind: str) -> str:
    return seconds(kinds[kind]["median"]) if kind in kinds else ""


def promises(results: dict[str, Any]) -> list[Promise]:
    """The cost of a step is that of a long chain: what a run costs once is shared by 200 steps."""
    told = []
    for executor, limit in (("inline", 0.001), ("processes", 0.010)):
        taken = results[f"modelyard {executor}"]["chain of 200"]["run"]["median"]
        told.append(
            Promise(f"A step, executor `{executor}`", f"≤ {limit * 1000:.0f} ms", seconds(taken), taken <= limit)
        )
    return told


BENCHMARK = Benchmark(
    "steps", measure, tables, promises, 3, ("modelyard",), ("dvc", "metaflow", "prefect", "dagster", "zenml", "kfp")
)


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
