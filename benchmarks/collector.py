"""Which setting of the garbage collector serves best: ours under load with each, in turns.

    python -m benchmarks.collector [--repeat 5]

It is no benchmark of the page: decision record 0098 has what it said. One service of the forest; `wrk` for what a
request costs, and 2,000 requests a second by the clock for how soon it is answered.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import Table, medians, scratch, seconds, take_turns
from benchmarks.contenders import ours, wire
from benchmarks.models import Subject, make_subject
from benchmarks.openloop import fire
from benchmarks.serving import closed, need_wrk

SETTINGS = ("default", "freeze", "rare", "freeze, rare", "off")
RATE, SPAN = 2000.0, 4.0
FROZEN_SECONDS = 2.5


def measured(setting: str, subject: Subject) -> Callable[[Path], dict[str, float]]:
    """Return what is measured with a setting."""

    def turn(folder: Path) -> dict[str, float]:
        running = ours(subject, folder, collector=setting)
        with running.server:
            running.first_answer()
            time.sleep(FROZEN_SECONDS)
            told = closed(running, folder, SPAN)
            felt = fire(running.port, wire(running), RATE, SPAN)
            return told | {f"clock {name}": felt[name] for name in ("p50", "p99", "worst")} | running.server.memory()

    return turn


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    need_wrk()
    with scratch() as place:
        subject = make_subject("forest", place / "forest")
        told, failed = take_turns({name: measured(name, subject) for name in SETTINGS}, repeat, place)
    rows = []
    for name, several in told.items():
        of = {what: float(values["median"]) for what, values in medians(several).items()}
        rows.append(
            [name, f"{of['rate']:,.0f}", f"{of['cpu'] * 1e6:.1f} µs"]
            + [seconds(of[what]) for what in ("p50", "p99", "clock p50", "clock p99", "clock worst")]
            + [f"{of['pss'] / 2**20:.1f} MiB"]
        )
    header = ["", "requests/s", "CPU for a request", "p50", "p99", "p50 by the clock", "p99", "worst", "PSS"]
    print(Table(f"{repeat} rounds, medians", header, rows).text())
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
