"""How long it takes to start: Modelyard against a bare interpreter, and against the command lines of peers.

    python -m benchmarks.start [--repeat 15] [--quick] [--output FILE]

Each is a new process, with its files in the page cache and its bytecode compiled. Peers run in environments of their
own; a bare interpreter takes the same time in each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Benchmark, Promise, Table, output, program, scratch, seconds, summary, take_turns, timed

import modelyard

BARE, IMPORT, HELP, LIST = "bare interpreter", "import modelyard", "modelyard --help", "modelyard ls"
PEERS = ("dvc", "zenml", "mlflow", "prefect", "metaflow", "dagster")


def commands(project: Path, peers: Sequence[str]) -> dict[str, list[str]]:
    """Return every command, by what it is called."""
    ours = str(Path(sys.executable).parent / "modelyard")
    own = {
        BARE: [sys.executable, "-c", "pass"],
        IMPORT: [sys.executable, "-c", "import modelyard"],
        HELP: [ours, "--help"],
        LIST: [ours, "-C", str(project), "ls"],
    }
    return own | {f"{peer} --help": [program(peer, peer), "--help"] for peer in peers}


def started(command: list[str]) -> Callable[[Path], float]:
    """Return a contender that runs a command once."""
    return lambda folder: timed(lambda: output(command, folder))


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Start everything in turn, once more than is counted."""
    del quick
    with scratch() as folder:
        project = folder / "project"
        modelyard.init(project, template="digits-small", people="demo").close()
        place = folder / "turns"
        place.mkdir()
        contenders = {name: started(command) for name, command in commands(project, peers).items()}
        rounds, failed = take_turns(contenders, repeat + 1, place)
    return {name: summary(several[1:]) | {"best": min(several[1:])} for name, several in rounds.items()}, failed


def tables(results: dict[str, Any]) -> list[Table]:
    """Return medians, and what they are beyond a bare interpreter."""
    bare = results[BARE]["median"]
    rows = [
        [name, seconds(told["median"]), seconds(told["best"]), "" if name == BARE else seconds(told["median"] - bare)]
        for name, told in results.items()
    ]
    return [Table("A new process, start to end", ["", "median", "best", "beyond a bare interpreter"], rows)]


def promises(results: dict[str, Any]) -> list[Promise]:
    """Starting is fast: the medians of whole processes, the interpreter included."""
    return [
        Promise(
            f"`{name}`", f"≤ {limit * 1000:.0f} ms", seconds(results[name]["median"]), results[name]["median"] <= limit
        )
        for name, limit in ((HELP, 0.1), (IMPORT, 0.05))
    ]


BENCHMARK = Benchmark("start", measure, tables, promises, 15, ("modelyard",), PEERS, quick_repeat=3)


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
