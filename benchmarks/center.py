"""The Model Center at 100, 1,000 and 10,000 tags, against GTO's command line and its Python API, in one run.

    python -m benchmarks.center [--repeat 3] [--quick] [--output FILE]

Each repository holds models with versions that were submitted, approved and released to dev and staging. Tags are
signed in this process and written by `git fast-import`; then refs are packed, as `git gc` leaves them. GTO checks no
signatures; the Model Center's figures include checking each one (cold), or having checked it before (warm). At 10,000
tags GTO is measured once, for it takes a quarter of a minute for an answer.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gto.api
from benchmarks.common import Benchmark, Promise, Table, scratch, seconds, summary, timed, times

from modelyard.center import Actor, Center, Newcomer, Policy, init_people
from modelyard.center.events import Approved, Event, Registered, Released
from modelyard.testing.tags import import_tags

VERSIONS_OF_A_MODEL = 25
POLICY = Policy(require={"accuracy": 0.9})
START = 1_750_000_000
DECISIONS: tuple[tuple[type[Approved | Released], dict[str, Any]], ...] = (
    (Approved, {}),
    (Released, {"environment": "dev"}),
    (Released, {"environment": "staging"}),
)
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
            ann: dict[str, Any] = {"actor": "ann@example.org", "time": clock}
            events.append(
                Registered(
                    **common, **ann, contract="c" * 64, run="20260131-142501-3f9c", metrics={"accuracy": 0.97},
                    blueprint="b" * 64, data={"train": "d" * 64}, code="e" * 64, environment=PACKAGES,
                )
            )  # fmt: skip
            for kind, rest in DECISIONS:
                number += 1
                clock += 1
                reason = "as good as it says"
                more = rest | {"actor": "max@example.org", "time": clock, "number": number, "reason": reason}
                events.append(kind(**common, **more))
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


def taken(repeat: int, work: Callable[[], Any]) -> dict[str, Any]:
    """Do some work so often; return its seconds, and those of the processor."""
    clock, cpu = [], []
    for _ in range(repeat):
        before = cpu_time()
        clock.append(timed(work))
        cpu.append(cpu_time() - before)
    return summary(clock) | {"cpu": summary(cpu)["median"]}


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


COLD = "list, every signature checked"
WARM = "list, a new object, remembered tags"
SHOW = "show one model, a new object, remembered tags"
LISTED = "gto.api.show"


def ours(folder: Path, repeat: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Measure the Model Center, and say how much it found."""
    cache = Memory()
    reader = Center(folder, policy=POLICY, cache=cache)
    told = {COLD: taken(1, reader.state)}
    registry = reader.state()
    assert not registry.problems, registry.problems[:3]

    def again() -> Center:
        return Center(folder, policy=POLICY, cache=cache)

    told["list, the same object"] = taken(20, reader.state)
    told[WARM] = taken(10, lambda: again().state())
    told[SHOW] = taken(10, lambda: again().history("model-0"))
    in_a_fresh_process(folder, OURS)()
    told["list, a new process with its imports"] = taken(repeat, in_a_fresh_process(folder, OURS))
    found = {
        "tags": sum(len(model.events) for model in registry.models.values()),
        "models": len(registry.models),
        "cache_bytes": len(next(iter(cache.values()))),
    }
    return told, found


def submitting(folder: Path, actors: dict[str, Actor], repeat: int) -> dict[str, Any]:
    """Measure a new version: a signed tag, and the state read twice."""
    center = Center(folder, policy=POLICY, actor=actors["ann@example.org"], cache=Memory())
    center.state()
    count = iter(range(1000))

    def one_more() -> None:
        center.submit(
            "model-0", f"more-{next(count)}", contract_digest="c", contract_major_change=False, metrics={}, run="r"
        )

    return taken(repeat, one_more)


def theirs(folder: Path, repeat: int) -> dict[str, Any]:
    """Measure GTO, which is asked before a version is added that it could not read."""
    tool = str(Path(sys.executable).parent / "gto")

    def run(*arguments: str) -> Callable[[], Any]:
        return lambda: subprocess.run((tool, *arguments, "--json"), capture_output=True, check=True, cwd=folder)

    return {
        LISTED: taken(repeat, lambda: gto.api.show(str(folder))),
        "gto.api.show, one model": taken(repeat, lambda: gto.api.show(str(folder), name="model-0")),
        "gto show, a new process": taken(repeat, run("show")),
        "gto history of one model, a new process": taken(repeat, run("history", "model-0")),
    }


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure at every size."""
    del peers
    results = {}
    with scratch() as folder:
        for tags in (100, 1000) if quick else (100, 1000, 10_000):
            place = folder / str(tags)
            actors = repository(place, tags)
            mine, found = ours(place, repeat)
            gtos = theirs(place, 1 if tags >= 5000 else repeat)
            mine["submit one more version"] = submitting(place, actors, repeat)
            results[f"{tags:,} tags"] = found | {"modelyard": mine, "gto": gtos}
    return results, {}


def tables(results: dict[str, Any]) -> list[Table]:
    """Return one table: sizes side by side."""
    first = next(iter(results.values()))
    rows = [
        [what if owner == "gto" else f"modelyard: {what}", *(_cell(sized[owner][what]) for sized in results.values())]
        for owner in ("modelyard", "gto")
        for what in first[owner]
    ]
    ratios = [sized["gto"][LISTED]["median"] / sized["modelyard"][WARM]["median"] for sized in results.values()]
    rows.append([f"{LISTED} over a new object's list: times", *map(times, ratios)])
    return [Table("Median, and processor time", ["", *results], rows)]


def _cell(told: dict[str, Any]) -> str:
    return f"{seconds(told['median'])} (CPU {seconds(told['cpu'])})"


def promises(results: dict[str, Any]) -> list[Promise]:
    """An answer at 10,000 tags in 100 ms."""
    size = "10,000 tags"
    told = []
    for what in (WARM, SHOW):
        measured = results[size]["modelyard"][what]["median"] if size in results else None
        shown = seconds(measured) if measured is not None else "not in a quick run"
        kept = None if measured is None else measured <= 0.1
        told.append(Promise(f"Model Center at 10,000 tags, {what}", "≤ 100 ms", shown, kept))
    return told


BENCHMARK = Benchmark("center", measure, tables, promises, 3, ("modelyard", "gto", "msgspec"))


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
