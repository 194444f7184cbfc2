"""What a step costs beyond its work, here and in peers: chains of 3, 20 and 200 empty steps, and a fan-out of 100.

    python -m benchmarks.steps [--peers dvc,prefect,...] [--repeat 3] [--out benchmarks/results/steps.json]

Every step adds one to the number it is given. Each contender first runs one step to be warm; then a run is timed from
its call to its return, and divided by its steps. `cached` is the same run again. Peers live in `.cache/bench/<peer>`,
made from `benchmarks/environments/<peer>.txt`; those that can't be installed are left out, and the result says so.
Peers are given the chains of 3 and 20 alone, for some take seconds for each step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard.blueprint.code import CodeReader
from modelyard.blueprint.plan import Plan, Source, Task
from modelyard.engines.executors import open_executor
from modelyard.engines.scheduler import Scheduler
from modelyard.records import RunRecord, RunState
from modelyard.store.store import Store

ROOT = Path(__file__).parent.parent
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


def scripted(peer: str) -> Callable[[Path], Timings]:
    """Return the contender that runs a peer's script in its own environment."""

    def measure(folder: Path) -> Timings:
        script = folder / "bench_peer.py"
        script.write_text(PEERS[peer] + TIMER)
        sizes = json.dumps({shape: SHAPES[shape] for shape in PEER_SHAPES})
        return _parse(_output([str(environment(peer) / "bin" / "python"), str(script), sizes], folder))

    return measure


def metaflow(folder: Path) -> Timings:
    """Metaflow has a process for each step, and no cache; a flow is a file with its steps written out."""
    timings: Timings = {}
    for shape in PEER_SHAPES:
        names = ["start", *(f"s{number}" for number in range(SHAPES[shape] - 2)), "end"]
        body = "".join(
            f"    @step\n    def {name}(self):\n        self.value = getattr(self, 'value', 0) + 1\n"
            + (f"        self.next(self.{names[index + 1]})\n" if index + 1 < len(names) else "")
            for index, name in enumerate(names)
        )
        file = folder / f"flow{len(names)}.py"
        file.write_text(METAFLOW_HEAD + body + "if __name__ == '__main__':\n    Chain()\n")
        start = time.perf_counter()
        _output([str(environment("metaflow") / "bin" / "python"), str(file), "run"], folder)
        timings[shape] = {"run": (time.perf_counter() - start) / len(names)}
    return timings


def dvc(folder: Path) -> Timings:
    """`dvc repro` over stages that are shell lines; its start is part of every run, for it has no other way."""
    timings: Timings = {}
    program = str(environment("dvc") / "bin" / "dvc")
    for shape in PEER_SHAPES:
        place = folder / shape.replace(" ", "-")
        place.mkdir()
        (place / "v0").write_text("0")
        stages = {
            f"s{n}": {"cmd": f"echo $(($(cat v{n}) + 1)) > v{n + 1}", "deps": [f"v{n}"], "outs": [f"v{n + 1}"]}
            for n in range(SHAPES[shape])
        }
        (place / "dvc.yaml").write_text(json.dumps({"stages": stages}))
        _output([program, "init", "--no-scm", "-q"], place)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            _output([program, "repro", "-q"], place)
            seconds.append((time.perf_counter() - start) / len(stages))
        timings[shape] = {"run": seconds[0], "cached": seconds[1]}
    return timings


CONTENDERS: dict[str, Callable[[Path], Timings]] = {
    "modelyard inline": modelyard("inline"),
    "modelyard processes": modelyard("processes"),
    "dvc": dvc,
    "metaflow": metaflow,
    **{peer: scripted(peer) for peer in PEERS},
}


def environment(peer: str) -> Path:
    """Return the folder of a peer's own environment."""
    return ROOT / ".cache" / "bench" / peer


def make_environment(peer: str) -> str | None:
    """Install a peer where it is not there yet; return why that failed, or None."""
    place = environment(peer)
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=True)
    requirements = ROOT / "benchmarks" / "environments" / f"{peer}.txt"
    command = [place / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def _output(command: list[str], folder: Path) -> str:
    places = {
        "HOME": str(folder), "USER": "bench", "PREFECT_HOME": str(folder / "prefect"), "DAGSTER_HOME": "",
        "ZENML_CONFIG_PATH": str(folder / "zenml"), "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "metaflow"),
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
    }  # fmt: skip
    quiet = {
        "DVC_NO_ANALYTICS": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
        "ZENML_ANALYTICS_OPT_IN": "false", "PREFECT_LOGGING_LEVEL": "ERROR", "ZENML_LOGGING_VERBOSITY": "ERROR",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    variables = {name: value for name, value in (os.environ | places | quiet).items() if value}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout


def _parse(output: str) -> Timings:
    line = next(line for line in output.splitlines() if line.startswith("TIMINGS"))
    timings: Timings = json.loads(line.removeprefix("TIMINGS"))
    return timings


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def measure(names: list[str], repeat: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Run every contender in turn, so that a disturbance meets all; return medians in ms, and what did not work."""
    rounds: dict[str, list[Timings]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    for _ in range(repeat):
        for name in names:
            if name in failed:
                continue
            with tempfile.TemporaryDirectory(prefix="modelyard-bench-", ignore_cleanup_errors=True) as folder:
                # What others left to be written must not be paid for by whoever syncs next.
                os.sync()
                try:
                    rounds[name].append(CONTENDERS[name](Path(folder)))
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    failed[name] = str(error)
    results = {name: dict(_medians(several)) for name, several in rounds.items() if several}
    return results, failed


def _medians(several: list[Timings]) -> Iterator[tuple[str, dict[str, Any]]]:
    for shape, kinds in several[0].items():
        yield (
            shape,
            {
                kind: {
                    "median_ms": round(statistics.median(timings[shape][kind] for timings in several) * 1e3, 3),
                    "all_ms": [round(timings[shape][kind] * 1e3, 3) for timings in several],
                }
                for kind in kinds
            },
        )


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", default="dvc,metaflow,prefect,dagster,zenml,kfp", help="Separated by commas.")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "steps.json")
    arguments = parser.parse_args()
    peers = [peer for peer in arguments.peers.split(",") if peer]
    missing = {peer: reason for peer in peers if (reason := make_environment(peer)) is not None}
    names = ["modelyard inline", "modelyard processes", *(peer for peer in peers if peer not in missing)]
    facts = machine()
    results, failed = measure(names, arguments.repeat)
    for name, shapes in results.items():
        for shape, kinds in shapes.items():
            line = "  ".join(f"{kind} {values['median_ms']:10.3f} ms" for kind, values in kinds.items())
            print(f"{name:22} {shape:16} {line}", flush=True)
    for name, reason in (missing | failed).items():
        print(f"{name:22} left out: {reason}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": facts, "repeat": arguments.repeat, "per_step": results, "left_out": missing | failed}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
