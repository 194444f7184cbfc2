"""The store against DVC (command line and Python API), a plain copy and a bare hash, in one run.

    python -m benchmarks.store [--files 5000] [--megabytes 1024] [--repeat 3] [--out benchmarks/results/store.json]

Each contender keeps the same folder of small files (1 to 8 KiB) and the same large file in a store of its own: `add`
into an empty store, `re-add` of the unchanged data, `checkout` into a folder that is not there. The page cache is warm
for all, and what is still to be written goes to the disk before a clock starts. DVC lives in `.cache/bench/dvc`, made
from `benchmarks/environments/dvc.txt`. A ratio is a contender's median over the store's: 5 means five times as long.

Nothing is deleted between two runs over small files: for minutes after a deletion ext4 steps over the inodes that were
freed, one by one, which makes new files up to ten times as dear.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blake3 import blake3

from modelyard.store.store import Store

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".cache" / "bench" / "dvc"
REQUIREMENTS = ROOT / "benchmarks" / "environments" / "dvc.txt"
OPERATIONS = ("add", "sync", "re-add", "checkout")

Timings = dict[str, float]

DVC_SCRIPT = """
import json, os, time
from dvc.repo import Repo
repo, timings = Repo.init(".", no_scm=True), {}
def measure(name, work):
    start = time.perf_counter(); work(); timings[name] = time.perf_counter() - start
measure("add", lambda: repo.add("data"))
time.sleep(0.2)
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


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes, with nothing left over from before."""
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def modelyard_in_process(data: Path, folder: Path) -> Timings:
    """The Python API; `sync` is what makes the added data survive a power cut, which no other contender does."""
    store = Store.open(f"file://{folder}/store")
    source = data if data.is_dir() else _folder_of(data, folder)
    timings = {"add": timed(lambda: store.add(data))}
    start = time.perf_counter()
    store.sync()
    timings["sync"] = time.perf_counter() - start
    timings["re-add"] = timed(lambda: store.add(data))
    tree = store.add(source)
    return timings | {"checkout": timed(lambda: store.checkout(tree, folder / "out"))}


def modelyard_processes(data: Path, folder: Path) -> Timings:
    """A new process for each operation, as a command line would be."""
    source = data if data.is_dir() else _folder_of(data, folder)

    def run(how: str, path: Path) -> Callable[[], object]:
        command = [sys.executable, "-c", STORE_SCRIPT, str(folder / "store"), how, str(path)]
        return lambda: subprocess.run(command, check=True)

    return {
        "add": timed(run("add", source)),
        "re-add": timed(run("add", source)),
        "checkout": timed(run("checkout", folder / "out")),
    }


def dvc_command_line(data: Path, folder: Path) -> Timings:
    """`dvc add` and `dvc checkout`."""
    place = _project(data, folder)
    dvc = str(ENVIRONMENT / "bin" / "dvc")

    def run(*arguments: str) -> None:
        subprocess.run([dvc, *arguments, "-q"], cwd=place.parent, env=_variables(folder), check=True)

    run("init", "--no-scm")
    timings = {"add": timed(lambda: run("add", "data")), "re-add": timed(lambda: run("add", "data"))}
    place.rename(folder / "gone")
    return timings | {"checkout": timed(lambda: run("checkout"))}


def dvc_in_process(data: Path, folder: Path) -> Timings:
    """`dvc.repo.Repo`, without its start-up and import."""
    place = _project(data, folder)
    os.sync()
    command = [str(ENVIRONMENT / "bin" / "python"), "-c", DVC_SCRIPT]
    done = subprocess.run(
        command, cwd=place.parent, env=_variables(folder), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    result: Timings = json.loads(done.stdout.splitlines()[-1])
    return result


def plain_copy(data: Path, folder: Path) -> Timings:
    """`cp -r`, which keeps nothing and checks nothing: the limit for add and checkout."""
    command = ["cp", "-r", "--reflink=never", str(data), str(folder / "copy")]
    seconds = timed(lambda: subprocess.run(command, check=True))
    return {"add": seconds, "checkout": seconds}


def bare_hash(data: Path, _folder: Path) -> Timings:
    """BLAKE3 of every file: the limit for a re-add that trusts no stat."""

    def hash_all() -> None:
        for path in sorted(data.rglob("*")) if data.is_dir() else [data]:
            if path.is_file():
                blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()

    seconds = timed(hash_all)
    return {"add": seconds, "re-add": seconds}


CONTENDERS: dict[str, Callable[[Path, Path], Timings]] = {
    "modelyard (API)": modelyard_in_process,
    "modelyard (new process)": modelyard_processes,
    "dvc (API)": dvc_in_process,
    "dvc (command line)": dvc_command_line,
    "cp -r": plain_copy,
    "bare BLAKE3": bare_hash,
}


def _folder_of(data: Path, folder: Path) -> Path:
    place = folder / "one"
    place.mkdir()
    os.link(data, place / data.name)
    return place


def _project(data: Path, folder: Path) -> Path:
    place = folder / "project" / "data"
    place.parent.mkdir()
    subprocess.run(["cp", "-r", str(data), str(place)], check=True)
    return place


def _variables(folder: Path) -> dict[str, str]:
    places = {"DVC_SITE_CACHE_DIR": str(folder / "site"), "XDG_CONFIG_HOME": str(folder / "config")}
    return os.environ | places | {"DVC_NO_ANALYTICS": "1", "HOME": str(folder)}


def make_environment() -> None:
    """Install DVC where it is not there yet."""
    if not (ENVIRONMENT / "bin" / "dvc").exists():
        venv.create(ENVIRONMENT, with_pip=True)
        subprocess.run([ENVIRONMENT / "bin" / "pip", "install", "-q", "-r", REQUIREMENTS], check=True)


def make_small_files(folder: Path, count: int) -> Path:
    """Write files of 1 to 8 KiB into fifty folders."""
    rng = random.Random(0)
    for number in range(count):
        path = folder / f"d{number % 50:02d}" / f"f{number:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randint(1024, 8192)))
    return folder


def make_large_file(path: Path, megabytes: int) -> Path:
    """Write random bytes."""
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
    return path


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
        "versions": {
            "modelyard": importlib.metadata.version("modelyard"),
            "blake3": importlib.metadata.version("blake3"),
            "dvc": REQUIREMENTS.read_text().partition("==")[2].strip(),
        },
    }


def measure(data: Path, repeat: int) -> dict[str, dict[str, Any]]:
    """Run every contender in turn, so that a disturbance meets all of them; return medians and what they come from."""
    rounds: dict[str, list[Timings]] = {name: [] for name in CONTENDERS}
    for number in range(repeat):
        for name, contender in CONTENDERS.items():
            folder = data.parent / f"{data.name}-{number}-{name.replace(' ', '-')}"
            folder.mkdir()
            rounds[name].append(contender(data, folder))
            if data.is_file():
                shutil.rmtree(folder)
    return {
        name: {
            operation: {
                "median_s": round(statistics.median(timings[operation] for timings in several), 6),
                "all_s": [round(timings[operation], 6) for timings in several],
            }
            for operation in several[0]
        }
        for name, several in rounds.items()
    }


def table(title: str, results: dict[str, dict[str, Any]]) -> str:
    """Return medians, and each over the store's API."""
    lines = [f"{title:34}" + "".join(f"{operation:>22}" for operation in OPERATIONS)]
    ours = results["modelyard (API)"]
    for name, operations in results.items():
        line = f"  {name:32}"
        for operation in OPERATIONS:
            if operation in operations:
                median = operations[operation]["median_s"]
                line += f"{median:12.3f} s {median / ours[operation]['median_s']:6.1f} x"
            else:
                line += f"{'':22}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "store.json")
    arguments = parser.parse_args()
    make_environment()
    result: dict[str, Any] = {"machine": machine(), "repeat": arguments.repeat}
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        cases = {
            f"{arguments.files} small files": make_small_files(Path(folder, "small"), arguments.files),
            f"one file of {arguments.megabytes} MiB": make_large_file(Path(folder, "large"), arguments.megabytes),
        }
        for title, data in cases.items():
            result[title] = measure(data, arguments.repeat)
            print(table(title, result[title]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
