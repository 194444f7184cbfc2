"""Measure Modelyard beside its peers: every benchmark, one after the other, each in a process of its own.

    python -m benchmarks [NAME ...] [--repeat N] [--quick] [--output FOLDER] [--prepare | --page]

Results are kept in `benchmarks/results`, and the tables of `docs/explanation/performance.md` are rewritten from them.
A quick run keeps its results in `.cache/bench/quick`, and leaves the page alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import NAMES, ROOT, default_output, make_environment
from benchmarks.page import PAGE, benchmark, rewrite


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"Of {', '.join(NAMES)}; default: all.")
    parser.add_argument("--repeat", type=int, help="How often; each benchmark has its own default.")
    parser.add_argument("--quick", action="store_true", help="Less of everything: to see that they work.")
    parser.add_argument("--output", type=Path, help="Folder of the results.")
    parser.add_argument("--prepare", action="store_true", help="Install the peers, and measure nothing.")
    parser.add_argument("--page", action="store_true", help="Rewrite the page, and measure nothing.")
    read = parser.parse_args()
    unknown = sorted(set(read.names) - set(NAMES))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}: they are {', '.join(NAMES)}")
    return read


def prepare(names: list[str]) -> None:
    """Install every peer first, so that nothing is downloaded while something is measured."""
    for peer in sorted({peer for name in names for peer in benchmark(name).peers}):
        reason = make_environment(peer)
        print(f"{peer}: {'ready' if reason is None else f'left out: {reason}'}", flush=True)


def run(name: str, asked: argparse.Namespace) -> bool:
    """Run one benchmark; say whether it came to its end."""
    output = asked.output / f"{name}.json" if asked.output else default_output(name, quick=asked.quick)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--output", str(output)]
    command += ["--quick"] if asked.quick else []
    command += ["--repeat", str(asked.repeat)] if asked.repeat else []
    print(f"\n== {name}", flush=True)
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, check=False)
    print(f"{name}: {'done' if done.returncode == 0 else 'failed'} in {time.monotonic() - start:.0f} s", flush=True)
    return done.returncode == 0


def main() -> int:
    """Run what was asked for; return 1 where a benchmark failed."""
    asked = options()
    names = asked.names or list(NAMES)
    failed: list[str] = []
    if not asked.page:
        prepare(names)
        failed = [name for name in names if not run(name, asked)] if not asked.prepare else []
    if not asked.prepare and not asked.quick and asked.output is None:
        rewrite()
        print(f"rewritten: {PAGE.relative_to(ROOT)}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
