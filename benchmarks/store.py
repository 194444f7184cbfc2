"""The store against DVC (command line and Python API), a plain copy and a bare hash, in one run.

    python -m benchmarks.store [--repeat 3] [--quick] [--output FILE]

Each contender keeps the same folder of small files (1 to 8 KiB) and the same large file in a store of its own: `add`
into an empty store, `re-add` of the unchanged data, `checkout` into a folder that is not there. The page cache is warm
for all, and what is still to be written goes to the disk before a clock starts. A ratio is a contender's median over
the store's: 5 means five times as long.

Nothing is deleted between two runs over small files: for minutes after a deletion ext4 steps over the inodes that were
freed, one by one, which makes new files up to ten times as dear.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Benchmark,
    Promise,
    Table,
    medians,
    output,
    peer_variables,
    program,
    scratch,
    seconds,
    take_turns,
    timed,
    times,
)
from blake3 import blake3

from modelyard.store.store import Store

OPERATIONS = ("add", "sync", "re-add", "checkout")
OURS = "modelyard, Python API"
FILES, MEBIBYTES = 5000, 1024

Timings = dict[str, float]

DVC_SCRIPT = """
import json, os, time
from dvc.repo import Repo
repo, timings = Repo.init(".", no_scm=True), {}
def measure(name, work):
    os.sync(); start = time.perf_counter(); work(); timings[name] = time.perf_counter() - start
measure("add", lambda: repo.add("data"))
measure("re-add", lambda: repo.add("data"))
os.rename("data", "../gone")
measure("checkout", lambda: repo.checkout())
print(json.dumps(timings))
"""

STORE_SCRIPT = """
import sys
from pathlib import Path
from modelyard.store.store import Store
store = Store.open("file://" + sys.argv[1])
if sys.argv[2] == "add":
    store.names.set("data", store.add(Path(sys.argv[3])))
else:
    store.checkout(store.names.get("data"), Path(sys.argv[3]))
"""


def synced(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes, with nothing left to be written from before."""
    os.sync()
    return timed(work)


def modelyard_in_process(data: Path, folder: Path) -> Timings:
    """The Python API; `sync` is what makes the added data survive a power cut, which no other contender does."""
    store = Store.open(f"file://{folder}/store")
    source = data if data.is_dir() else _folder_of(data, folder)
    timings = {"add": synced(lambda: store.add(data)), "sync": timed(store.sync)}
    timings["re-add"] = synced(lambda: store.add(data))
    tree = store.add(source)
    return timings | {"checkout": synced(lambda: store.checkout(tree, folder / "out"))}


def modelyard_processes(data: Path, folder: Path) -> Timings:
    """A new process for each operation, as a command line would be."""
    source = data if data.is_dir() else _folder_of(data, folder)

    def run(how: str, path: Path) -> Callable[[], object]:
        command = [sys.executable, "-c", STORE_SCRIPT, str(folder / "store"), how, str(path)]
        return lambda: subprocess.run(command, check=True)

    return {
        "add": synced(run("add", source)),
        "re-add": synced(run("add", source)),
        "checkout": synced(run("checkout", folder / "out")),
    }


def dvc_command_line(data: Path, folder: Path) -> Timings:
    """`dvc add` and `dvc checkout`."""
    place = _project(data, folder)

    def run(*arguments: str) -> None:
        command = [program("dvc", "dvc"), *arguments, "-q"]
        subprocess.run(command, cwd=place.parent, env=peer_variables(folder), check=True)

    run("init", "--no-scm")
    timings = {"add": synced(lambda: run("add", "data")), "re-add": synced(lambda: run("add", "data"))}
    place.rename(folder / "gone")
    return timings | {"checkout": synced(lambda: run("checkout"))}


def dvc_in_process(data: Path, folder: Path) -> Timings:
    """`dvc.repo.Repo`, without its start-up and import."""
    place = _project(data, folder)
    told = output([program("dvc", "python"), "-c", DVC_SCRIPT], place.parent, home=folder)
    timings: Timings = json.loads(told.splitlines()[-1])
    return timings


def plain_copy(data: Path, folder: Path) -> Timings:
    """`cp -r`, which keeps nothing and checks nothing: the limit for add and checkout."""
    command = ["cp", "-r", "--reflink=never", str(data), str(folder / "copy")]
    taken = synced(lambda: subprocess.run(command, check=True))
    return {"add": taken, "checkout": taken}


def bare_hash(data: Path, _folder: Path) -> Timings:
    """BLAKE3 of every file: the limit for a re-add that trusts no stat."""

    def hash_all() -> None:
        for path in sorted(data.rglob("*")) if data.is_dir() else [data]:
            if path.is_file():
                blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()

    taken = synced(hash_all)
    return {"add": taken, "re-add": taken}


CONTENDERS: dict[str, Callable[[Path, Path], Timings]] = {
    OURS: modelyard_in_process,
    "modelyard, a new process each": modelyard_processes,
    "dvc, Python API": dvc_in_process,
    "dvc, command line": dvc_command_line,
    "cp -r": plain_copy,
    "bare BLAKE3": bare_hash,
}


def _folder_of(data: Path, folder: Path) -> Path:
    place = folder / "one"
    place.mkdir()
    os.link(data, place / data.name)
    # A link changes the file's stamp, and a file that has only just changed is not taken for unchanged.
    time.sleep(0.2)
    return place


def _project(data: Path, folder: Path) -> Path:
    place = folder / "project" / "data"
    place.parent.mkdir()
    subprocess.run(["cp", "-r", str(data), str(place)], check=True)
    return place


def make_small_files(folder: Path, count: int) -> Path:
    """Write files of 1 to 8 KiB into fifty folders."""
    rng = random.Random(0)
    for number in range(count):
        path = folder / f"d{number % 50:02d}" / f"f{number:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randint(1024, 8192)))
    return folder


def make_large_file(path: Path, mebibytes: int) -> Path:
    """Write random bytes."""
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1 << 20))
    return path


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Run every contender in turn over both kinds of data."""
    files, mebibytes = (500, 64) if quick else (FILES, MEBIBYTES)
    results: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    with scratch() as folder:
        cases = {
            f"{files:,} files of 1 to 8 KiB": make_small_files(folder / "small", files),
            f"one file of {mebibytes:,} MiB": make_large_file(folder / "large", mebibytes),
        }
        # For the same reason.
        time.sleep(0.2)
        for title, data in cases.items():
            able = {
                name: partial(contender, data)
                for name, contender in CONTENDERS.items()
                if "dvc" in peers or not name.startswith("dvc")
            }
            place = folder / f"turns-{data.name}"
            place.mkdir()
            rounds, failed = take_turns(able, repeat, place, remove=data.is_file())
            results[title] = {name: medians(several) for name, several in rounds.items()}
            left_out |= failed
    return results, left_out


def tables(results: dict[str, Any]) -> list[Table]:
    """Return, for each kind of data, medians and ratios."""
    return [
        Table(
            f"{title}: median, and how many times the store's Python API",
            ["", *OPERATIONS],
            [
                [name, *(_cell(operations, contenders[OURS], operation) for operation in OPERATIONS)]
                for name, operations in contenders.items()
            ],
        )
        for title, contenders in results.items()
    ]


def _cell(operations: dict[str, Any], ours: dict[str, Any], operation: str) -> str:
    if operation not in operations:
        return ""
    taken = operations[operation]["median"]
    return f"{seconds(taken)} ({times(taken / ours[operation]['median'])})"


def promises(results: dict[str, Any]) -> list[Promise]:
    """At least five times as fast as DVC, like against like: API against API, process against process."""
    told = []
    for title, contenders in results.items():
        for operation in ("add", "checkout"):
            ratios = {
                how: contenders[theirs][operation]["median"] / contenders[ours][operation]["median"]
                for how, ours, theirs in (
                    ("Python API", OURS, "dvc, Python API"),
                    ("new processes", "modelyard, a new process each", "dvc, command line"),
                )
                if theirs in contenders
            }
            shown = ", ".join(f"{times(ratio)} ({how})" for how, ratio in ratios.items())
            kept = min(ratios.values()) >= 5 if ratios else None
            told.append(Promise(f"Store, {operation}, {title}", "≥ 5 times as fast as DVC", shown or "no DVC", kept))
    return told


BENCHMARK = Benchmark("store", measure, tables, promises, 3, ("modelyard", "blake3"), ("dvc",))


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
