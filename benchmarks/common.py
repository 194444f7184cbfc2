"""What the benchmarks share: their options, the machine's facts, peers in environments of their own, medians, tables.

Every duration in a result is in seconds. A result is kept as JSON: `facts` of the machine, `settings` of the
measurement, `results`, and `left_out` (which peer, and why).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ENVIRONMENTS = ROOT / ".cache" / "bench"
NAMES = ("start", "steps", "training", "store", "center", "swap", "swaps", "serving", "serving_grpc")
"""Every benchmark, in the order in which they are run and shown: `benchmarks.<name>.BENCHMARK`."""

T = TypeVar("T")
Summary = dict[str, Any]
"""`median` and `all`, in seconds."""


@dataclass(frozen=True)
class Table:
    """Numbers to show, in the terminal and on the page; the first column is text, the others are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return columns aligned by spaces."""
        widths = [max(len(row[column]) for row in (self.header, *self.rows)) for column in range(len(self.header))]
        lines = [
            "  ".join(f"{cell:{'<' if number == 0 else '>'}{widths[number]}}" for number, cell in enumerate(row))
            for row in (self.header, *self.rows)
        ]
        return "\n".join([self.title, *(f"  {line}" for line in lines)])

    def markdown(self) -> str:
        """Return a table of the page."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (self.header, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])


@dataclass(frozen=True)
class Promise:
    """What the project owes, and what was measured; `kept` is None where this run can't say."""

    what: str
    owed: str
    measured: str
    kept: bool | None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: Of its module, and of its result.
        measure: From repeats, quick, and the peers that are installed, to results and what was left out.
        tables: What to show of the results.
        promises: What of them was owed.
        repeat: How often by default.
        distributions: Whose versions matter, of those installed beside Modelyard.
        peers: Each with an environment of its own.
        quick_repeat: How often by default where it shall be quick.
    """

    name: str
    measure: Callable[[int, bool, Sequence[str]], tuple[dict[str, Any], dict[str, str]]]
    tables: Callable[[dict[str, Any]], list[Table]]
    promises: Callable[[dict[str, Any]], list[Promise]]
    repeat: int
    distributions: tuple[str, ...]
    peers: tuple[str, ...] = ()
    quick_repeat: int = 1

    def main(self, description: str | None) -> None:
        """Read the options, measure, print, and keep the result."""
        parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
        parser.add_argument("--repeat", type=int, help=f"Default {self.repeat}; with --quick {self.quick_repeat}.")
        parser.add_argument("--quick", action="store_true", help="Less of everything: to see that it works.")
        parser.add_argument("--output", type=Path, help="Default: benchmarks/results, or .cache/bench with --quick.")
        options = parser.parse_args()
        output = options.output or default_output(self.name, quick=options.quick)
        repeat = options.repeat or (self.quick_repeat if options.quick else self.repeat)
        result = self.run(repeat, options.quick)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print("\n\n".join(table.text() for table in self.tables(result["results"])))
        for peer, reason in result["left_out"].items():
            print(f"left out: {peer}: {reason}")

    def run(self, repeat: int, quick: bool) -> dict[str, Any]:
        """Measure, and return the result with where it comes from."""
        missing = {peer: reason for peer in self.peers if (reason := make_environment(peer)) is not None}
        peers = [peer for peer in self.peers if peer not in missing]
        known = facts(self.distributions, peers)
        started = time.monotonic()
        results, failed = self.measure(repeat, quick, peers)
        known |= {"load_after": _load(), "took_s": round(time.monotonic() - started)}
        settings = {"repeat": repeat, "quick": quick}
        return {"facts": known, "settings": settings, "results": results, "left_out": missing | failed}


def default_output(name: str, *, quick: bool) -> Path:
    """Return where a result is kept: that of a quick run never takes the place of a real one."""
    return (ENVIRONMENTS / "quick" if quick else RESULTS) / f"{name}.json"


def facts(distributions: Iterable[str] = (), peers: Iterable[str] = ()) -> dict[str, Any]:
    """Return what the numbers are measured on: time, machine, versions, load."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: importlib.metadata.version(name) for name in distributions}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions | {peer: peer_version(peer) for peer in peers},
        "commit": _commit(),
        "load_before": _load(),
    }


def _load() -> float:
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    command = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def program(peer: str, name: str) -> str:
    """Return the path of a program in a peer's environment."""
    return str(ENVIRONMENTS / peer / "bin" / name)


def make_environment(peer: str) -> str | None:
    """Install a peer where it is not there as its file of requirements says; return why that failed, or None."""
    place = ENVIRONMENTS / peer
    requirements = ROOT / "benchmarks" / "environments" / f"{peer}.txt"
    stamp, wanted = place / "installed.txt", requirements.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return None
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=True)
    command = [program(peer, "pip"), "install", "-q", "--disable-pip-version-check", "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1]
    stamp.write_text(wanted, encoding="utf-8")
    return None


def peer_version(peer: str) -> str:
    """Return the version that is installed in a peer's environment."""
    places = [str(path) for path in (ENVIRONMENTS / peer).glob("lib/python*/site-packages")]
    return next(iter(importlib.metadata.distributions(name=peer, path=places))).version


def peer_variables(folder: Path) -> dict[str, str]:
    """Return variables under which peers keep everything in a folder, tell nobody, and use one thread."""
    places = {
        "HOME": str(folder), "USER": "bench", "XDG_CONFIG_HOME": str(folder / "config"),
        "PREFECT_HOME": str(folder / "prefect"), "ZENML_CONFIG_PATH": str(folder / "zenml"),
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "metaflow"), "DVC_SITE_CACHE_DIR": str(folder / "site"),
    }  # fmt: skip
    quiet = {
        "DVC_NO_ANALYTICS": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
        "ZENML_ANALYTICS_OPT_IN": "false", "PREFECT_LOGGING_LEVEL": "CRITICAL", "ZENML_LOGGING_VERBOSITY": "ERROR",
        "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "PYTHONPATH")}
    return kept | places | quiet


def output(command: Sequence[str], folder: Path, *, home: Path | None = None) -> str:
    """Run a peer in a folder and return what it prints.

    Raises:
        RuntimeError: It failed; the last line that it printed.
    """
    done = subprocess.run(
        command, cwd=folder, env=peer_variables(home or folder), capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(((done.stderr or done.stdout).strip() or f"exit {done.returncode}").splitlines()[-1])
    return done.stdout


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def take_turns(
    contenders: Mapping[str, Callable[[Path], T]], repeat: int, inside: Path, *, remove: bool = True
) -> tuple[dict[str, list[T]], dict[str, str]]:
    """Let all contenders measure themselves in turn, so that a disturbance meets all of them.

    Each gets an empty folder, and starts with nothing left to be written to the disk by whoever came before; the order
    is turned around every second time. One that fails is left out, and the reason is returned.
    """
    told: dict[str, list[T]] = {name: [] for name in contenders}
    failed: dict[str, str] = {}
    for number in range(repeat):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            if name in failed:
                continue
            folder = inside / f"{number}-{name.replace(' ', '-')}"
            folder.mkdir()
            os.sync()
            try:
                told[name].append(contenders[name](folder))
            except (RuntimeError, subprocess.SubprocessError) as error:
                failed[name] = str(error)
            if remove:
                shutil.rmtree(folder, ignore_errors=True)
    return {name: several for name, several in told.items() if name not in failed}, failed


def summary(values: Sequence[float]) -> Summary:
    """Return the median and what it comes from."""
    return {"median": round(statistics.median(values), 6), "all": [round(value, 6) for value in values]}


def medians(several: Sequence[Mapping[str, float]]) -> dict[str, Summary]:
    """Return the summary of each quantity over all rounds."""
    return {name: summary([one[name] for one in several]) for name in several[0]}


def seconds(value: float) -> str:
    """Return seconds or milliseconds with three digits that count."""
    if value >= 1:
        return f"{value:.2f} s"
    shown = value * 1000
    return f"{shown:.{0 if shown >= 100 else 1 if shown >= 10 else 2}f} ms"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
