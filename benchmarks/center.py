"""The Model Center at 100, 1,000 and 10,000 tags, against GTO's command line and its Python API, in one run.

    python -m benchmarks.center [--tags 100 1000 10000] [--out benchmarks/results/center.json]

Each repository holds models with versions that were submitted, approved and released to dev and staging. Tags are
signed in this process and written by `git fast-import`; then refs are packed, as `git gc` leaves them. GTO checks no
signatures; the Model Center's figures include checking each one (cold), or having checked it before (warm).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gto
import gto.api
import msgspec

from modelyard.center import Actor, Center, Newcomer, Policy, init_people
from modelyard.center.events import Approved, Event, Registered, Released
from modelyard.testing.tags import import_tags

TAGS_OF_A_VERSION = 4
VERSIONS_OF_A_MODEL = 25
POLICY = Policy(require={"accuracy": 0.9})
START = 1_750_000_000
PACKAGES = {f"distribution-{index}": f"{index}.0.{index}" for index in range(40)}


class Memory(dict[tuple[str, str], bytes]):
    """A cache, as the catalog is one."""

    def remember(self, kind: str, key: str, value: bytes) -> None:
        self[kind, key] = value

    def recall(self, kind: str, key: str) -> bytes | None:
        return self.get((kind, key))


def events_of(tags: int) -> list[Event]:
    """Return as many legal events; each model's dates grow by a second."""
    events: list[Event] = []
    model = 0
    while len(events) < tags:
        clock, number = START, 0
        for minor in range(VERSIONS_OF_A_MODEL):
            if len(events) >= tags:
                break
            common: dict[str, Any] = {
                "model": f"model-{model}",
                "version": f"1.{minor}.0",
                "package": f"{model:032x}{minor:032x}",
            }
            ann = {"actor": "ann@example.org", "time": clock}
            events.append(
                Registered(
                    **common, **ann, contract="c" * 64, run="20260131-142501-3f9c", metrics={"accuracy": 0.97},
                    blueprint="b" * 64, data={"train": "d" * 64}, code="e" * 64, environment=PACKAGES,
                )
            )  # fmt: skip
            for kind, more in (
                (Approved, {}),
                (Released, {"environment": "dev"}),
                (Released, {"environment": "staging"}),
            ):
                number += 1
                clock += 1
                who = {"actor": "max@example.org", "time": clock, "number": number, "reason": "as good as it says"}
                events.append(kind(**common, **who, **more))
            clock += 1
        model += 1
    return events


def repository(folder: Path, tags: int) -> dict[str, Actor]:
    folder.mkdir()
    git = ("git", "-C", str(folder))
    subprocess.run((*git, "init", "-q", "-b", "main"), check=True)
    newcomers = [
        Newcomer("Ann", "ann@example.org", ("data_scientist",)),
        Newcomer("Max", "max@example.org", ("manager",)),
    ]
    actors = init_people(folder, newcomers, folder.parent / "keys")
    subprocess.run((*git, "add", "people.yaml"), check=True)
    identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    subprocess.run((*git, *identity, "commit", "-q", "-m", "Start"), check=True)
    import_tags(folder, events_of(tags), actors)
    subprocess.run((*git, "pack-refs", "--all"), check=True)
    return actors


def seconds(repeat: int, work: Callable[[], Any]) -> dict[str, float]:
    taken, cpu = [], []
    for _ in range(repeat):
        start, before = time.perf_counter(), cpu_time()
        work()
        taken.append(time.perf_counter() - start)
        cpu.append(cpu_time() - before)
    return {"median": statistics.median(taken), "best": min(taken), "cpu": statistics.median(cpu), "runs": repeat}


def cpu_time() -> float:
    """Return the processor seconds of this process and its children: they hardly depend on who else computes."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def in_a_fresh_process(folder: Path, script: str) -> Callable[[], Any]:
    return lambda: subprocess.run((sys.executable, "-c", script, str(folder)), check=True, capture_output=True)


OURS = """
import sys
from pathlib import Path
from modelyard.center import Center, Policy
class Memory:
    def remember(self, kind, key, value): Path(sys.argv[1], ".git", "bench-cache").write_bytes(value)
    def recall(self, kind, key):
        path = Path(sys.argv[1], ".git", "bench-cache")
        return path.read_bytes() if path.exists() else None
state = Center(Path(sys.argv[1]), policy=Policy(require={"accuracy": 0.9}), cache=Memory()).state()
print(len(state.models), len(state.problems))
"""


def measure(folder: Path, tags: int) -> dict[str, Any]:
    actors = repository(folder, tags)
    cache = Memory()
    reader = Center(folder, policy=POLICY, cache=cache)
    cold = seconds(1, reader.state)
    registry = reader.state()
    assert not registry.problems, registry.problems[:3]
    found = sum(len(model.events) for model in registry.models.values())
    slow = tags >= 5000
    repeat = 3 if slow else 5
    name = "model-0"

    def show() -> None:
        Center(folder, policy=POLICY, cache=cache).history(name)

    submit = Center(folder, policy=POLICY, actor=actors["ann@example.org"], cache=cache)
    count = iter(range(1000))

    def one_more() -> None:
        submit.submit(
            name, f"more-{next(count)}", contract_digest="c", contract_major_change=False, metrics={}, run="r"
        )

    tool = str(Path(sys.executable).parent / "gto")
    command = {"capture_output": True, "check": True, "cwd": folder}
    ours = {
        "list, cold: every signature checked": cold,
        "list, warm: same object": seconds(20, reader.state),
        "list, warm: new object, remembered tags": seconds(
            10, lambda: Center(folder, policy=POLICY, cache=cache).state()
        ),
        "show one model, warm: new object, remembered tags": seconds(10, show),
    }
    in_a_fresh_process(folder, OURS)()
    ours["list, warm: new process with imports"] = seconds(repeat, in_a_fresh_process(folder, OURS))
    theirs = {
        "gto.api.show": seconds(1 if slow else 3, lambda: gto.api.show(str(folder))),
        "gto.api.show one model": seconds(1 if slow else 3, lambda: gto.api.show(str(folder), name=name)),
        "gto show": seconds(1 if slow else 3, lambda: subprocess.run((tool, "show", "--json"), **command)),
        "gto history of one model": seconds(
            1 if slow else 3, lambda: subprocess.run((tool, "history", name, "--json"), **command)
        ),
    }
    ours["submit one more version (signed tag, state read twice)"] = seconds(5, one_more)
    size = len(next(iter(cache.values())))
    return {"tags": found, "models": len(registry.models), "cache_bytes": size, "modelyard": ours, "gto": theirs}


def machine() -> dict[str, Any]:
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in facts.splitlines() if line.startswith("model name")), "")
    git = subprocess.run(("git", "--version"), capture_output=True, check=True).stdout.decode().strip()
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "git": git,
        "gto": gto.__version__,
        "msgspec": msgspec.__version__,
    }


def report(results: list[dict[str, Any]]) -> str:
    lines = []
    for result in results:
        lines.append(
            f"\n{result['tags']:,} tags of {result['models']} models; cache {result['cache_bytes'] / 1e6:.1f} MB"
        )
        for owner in ("modelyard", "gto"):
            for what, taken in result[owner].items():
                lines.append(
                    f"  {owner:9} {what:55} {taken['median'] * 1000:10.1f} ms  {taken['cpu'] * 1000:10.1f} ms CPU"
                )
        ratio = result["gto"]["gto.api.show"]["median"]
        warm = result["modelyard"]["list, warm: new object, remembered tags"]["median"]
        cold = result["modelyard"]["list, cold: every signature checked"]["median"]
        lines.append(
            f"  gto.api.show takes {ratio / warm:.0f} times the warm list, {ratio / cold:.1f} times the cold one"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tags", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "center.json")
    options = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(Path(folder) / str(tags), tags) for tags in options.tags]
    print(report(results))
    text = json.dumps(
        {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": facts, "results": results}, indent=2
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
