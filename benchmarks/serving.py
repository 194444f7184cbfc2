"""How fast a row is answered, beside other servers with the same model, and beside our own HTTP server's ceiling.

    python -m benchmarks.serving [--repeat 2] [--quick] [--output FILE]

Two workers each, one row a request. How much: `wrk`, 16 connections, each sends when the last is answered. How soon:
requests by the clock, at the same rate for all and at half of what each one can do, over connections that are kept and
over fresh ones; latency counts from when a request was due. Load generator and server share the machine's cores, so CPU
time for a request stands beside. Before anything is measured, every contender must predict what scikit-learn or ONNX
Runtime predicts here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import Benchmark, Promise, Summary, Table, medians, scratch, seconds, take_turns, times
from benchmarks.contenders import SURFACES, Contender, Running, ceiling, contenders, other_surface, ours, wire
from benchmarks.models import SUBJECTS, Subject, make_subject
from benchmarks.openloop import fire

from modelyard.packages.model import load_model

CONNECTIONS = 16
RATE = 100.0
"""Requests a second that even the slowest contender answers."""

MOST = 3000.0
"""Requests a second that the load generator sends without being late itself, beside a server on the other core."""

PEERS = ("fastapi", "mlserver", "bentoml", "litserve", "ray", "mlflow")
DOCUMENTED = PEERS[1:]
"""Those whose documentation says how to serve scikit-learn's model as it is."""

BATCHING = ", batching"
CEILING, CEILING_READ = "ceiling: a constant", "ceiling, body read"
OURS = "modelyard"
QUICK_PEERS = ("fastapi",)
SLOW_TO_START = ("ray", "mlflow")
"""Measured with the forest alone."""

PLANS = ("same", "half", "fresh")

Rounds = dict[str, list[dict[str, float]]]

LUA = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{{"requests": %d, "microseconds": %d, "failed": %d, "p50": %d, "p99": %d}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def need_wrk() -> None:
    """Install wrk where it is not there and this user may.

    Raises:
        SystemExit: It is not there; what to do.
    """
    if shutil.which("wrk") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(("apt-get", "install", "-y", "-q", "wrk"), capture_output=True, check=False)
    if shutil.which("wrk") is None:
        sys.exit("The serving benchmark needs wrk: install it, such as by `apt-get install wrk`, and run this again.")


def closed(running: Running, folder: Path, span: float) -> dict[str, float]:
    """Send over 16 connections, each as soon as it was answered; return `rate`, `cpu`, `p50` and `p99`.

    Raises:
        RuntimeError: A request failed, or none was answered.
    """
    (folder / "body").write_bytes(running.body)
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in running.headers.items())
    script = folder / "post.lua"
    script.write_text(LUA.format(body=folder / "body", headers=headers), encoding="utf-8")
    url = f"http://127.0.0.1:{running.port}{running.path}"
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{max(1, round(span))}s",
        "--timeout",
        "20s",
        "-s",
        str(script),
        url,
    ]
    before = running.server.cpu()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    cpu = running.server.cpu() - before
    if done.returncode != 0:
        raise RuntimeError(f"wrk failed: {(done.stderr or done.stdout).strip()[:200]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    if told["failed"] or not told["requests"]:
        raise RuntimeError(f"{told['failed']} of {told['requests']} requests failed")
    return {
        "rate": told["requests"] / told["microseconds"] * 1e6, "cpu": cpu / told["requests"],
        "p50": told["p50"] / 1e6, "p99": told["p99"] / 1e6,
    }  # fmt: skip


def by_the_clock(running: Running, capacity: float, span: float) -> dict[str, float]:
    """Send at the rate of all, at half of what it can do, and over fresh connections."""
    plans = {
        # At so low a rate, two seconds would leave the 99th percentile to two requests.
        "same": (RATE, span * 4, False),
        "half": (min(capacity / 2, MOST), span, False),
        "fresh": (RATE, span * 2, True),
    }
    told: dict[str, float] = {}
    for name, (rate, seconds_, fresh) in plans.items():
        felt = fire(running.port, wire(running, close=fresh), rate, seconds_, fresh=fresh)
        if felt["failed"]:
            raise RuntimeError(f"{felt['failed']} of {felt['requests']} requests failed at {rate:,.0f} a second")
        told |= {f"{name} {quantity}": felt[quantity] for quantity in ("p50", "p99", "late")}
    return told


def measured(
    contender: Contender, subject: Subject, expected: Sequence[float], span: float, *, clock: bool
) -> Callable[[Path], dict[str, float]]:
    """Return what a contender does at its turn."""

    def turn(folder: Path) -> dict[str, float]:
        running = contender.start(subject, folder)
        with running.server:
            same(running.numbers(running.first_answer()), expected, contender.name)
            closed(running, folder, span / 4)
            told = closed(running, folder, span)
            told |= running.server.memory()
            if clock:
                told |= by_the_clock(running, told["rate"], span)
            if contender.name == OURS:
                for surface in SURFACES[1:]:
                    other = other_surface(subject, running, surface)
                    same(other.numbers(other.first_answer()), expected, surface)
                    told |= {f"{surface} {name}": value for name, value in closed(other, folder, span / 2).items()}
            return told

    return turn


def same(numbers: Sequence[float], expected: Sequence[float], who: str) -> None:
    """Raise RuntimeError where an answer is another prediction. Of scores, the softmax is what we answer."""
    found = np.asarray(numbers)
    if len(found) == len(expected) > 1 and abs(found.sum() - 1) > 1e-3:
        powers = np.exp(found - found.max())
        found = powers / powers.sum()
    if len(found) != len(expected) or not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise RuntimeError(f"{who} predicts {list(found)[:3]}, and {list(expected)[:3]} is right")


def expected_of(subject: Subject) -> list[float]:
    """Return what is right: by the package, without any server."""
    model = load_model(subject.folder / "package" / "model")
    columns = {name: np.asarray([value], np.float32) for name, value in subject.named.items()}
    outputs = model.predict(columns)
    found = outputs["probabilities"] if "probabilities" in outputs else outputs["value"]
    return [float(value) for value in np.ravel(found)]


def constants(subject: Subject, place: Path) -> list[Contender]:
    """Return our HTTP server with the forest's whole answer as a constant: without reading the body, and with it."""
    running = ours(subject, place)
    with running.server:
        answer = running.first_answer()

    def start(read: bool) -> Callable[[Subject, Path], Running]:
        return lambda one, folder: ceiling(one, folder, answer=answer, read=read)

    return [Contender(CEILING, None, start(False)), Contender(CEILING_READ, None, start(True))]


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Let all measure themselves, model by model; return their medians, and who could not."""
    need_wrk()
    span = 1.0 if quick else 2.0
    chosen = [peer for peer in peers if peer in QUICK_PEERS] if quick else list(peers)
    told: dict[str, Rounds] = {}
    failed: dict[str, str] = {}
    with scratch() as place:
        subjects = {name: make_subject(name, place / name) for name in SUBJECTS}
        own = Contender(OURS, None, ours)
        (place / "first").mkdir()
        ceilings = constants(subjects["forest"], place / "first")
        unbatched = [one for one in contenders("onnx", chosen) if BATCHING not in one.name]
        groups = {
            "forest, ONNX": ("forest", [own, *ceilings, *contenders("onnx", chosen)], True),
            "forest, scikit-learn": ("forest", contenders("sklearn", chosen), False),
            "digits, ONNX": ("digits", [own, *(one for one in unbatched if one.peer not in SLOW_TO_START)], False),
            "no-op, ONNX": ("noop", [own, *(one for one in unbatched if one.peer == "fastapi")], False),
        }
        for title, (name, who, clock) in groups.items():
            subject = subjects[name]
            expected = expected_of(subject)
            turns = {one.name: measured(one, subject, expected, span, clock=clock) for one in who}
            (inside := place / title.replace(", ", "-")).mkdir()
            told[title], broken = take_turns(turns, repeat, inside)
            failed |= {f"{title}, {who}": reason for who, reason in broken.items()}
    return {title: {who: medians(several) for who, several in group.items()} for title, group in told.items()}, failed


Group = Mapping[str, Mapping[str, Summary]]


def _median(group: Group, who: str, what: str) -> float:
    return float(group[who][what]["median"])


def _best(group: Group, peer: str) -> str | None:
    """Return which way of a peer answers more; None where it could not be measured."""
    ways = [who for who in group if who.removesuffix(BATCHING) == peer]
    return max(ways, key=lambda who: _median(group, who, "rate"), default=None)


def tables(results: dict[str, Any]) -> list[Table]:
    """Return throughput by model, latency by the clock, and our surfaces."""
    made = [_throughput(title, group, results) for title, group in results.items() if group]
    forest = results["forest, ONNX"]
    header = ["", "p50", "p99", "p50, half load", "p99, half load", "p50, fresh", "p99, fresh"]
    rows = [
        [who, *(seconds(_median(forest, who, f"{plan} {share}")) for plan in PLANS for share in ("p50", "p99"))]
        for who in forest
    ]
    title = f"forest, ONNX: latency at {RATE:,.0f} requests/s, at half of what each can do, and over fresh connections"
    surfaces = [
        [
            {"forest, ONNX": "forest", "digits, ONNX": "digits", "no-op, ONNX": "no-op"}[title],
            *(f"{_median(group, OURS, f'{surface} rate'.removeprefix('plain ')):,.0f}" for surface in SURFACES),
            *(_micro(_median(group, OURS, f"{surface} cpu".removeprefix("plain "))) for surface in SURFACES),
        ]
        for title, group in results.items()
        if OURS in group
    ]
    names = ("JSON rows", "OIP, JSON", "OIP, binary")
    own = ["", *(f"{name}, requests/s" for name in names), *(f"{name}, CPU" for name in names)]
    return [*made, Table(title, header, rows), Table("Modelyard's surfaces", own, surfaces)]


def _throughput(title: str, group: Group, results: Mapping[str, Group]) -> Table:
    header = [
        "", "requests/s", "Modelyard's over it", "CPU for a request", "p50", "p99", "processes", "PSS", "PSS, a worker",
        "RSS, largest",
    ]  # fmt: skip
    own = _median(results[title.split(", ")[0] + ", ONNX"], OURS, "rate")
    rows = []
    for who in group:
        of = {what: _median(group, who, what) for what in ("rate", "cpu", "p50", "p99", "processes", "pss", "rss")}
        rows.append(
            [
                who, f"{of['rate']:,.0f}", times(own / of["rate"]), _micro(of["cpu"]), seconds(of["p50"]),
                seconds(of["p99"]), f"{of['processes']:.0f}", _mib(of["pss"]), _mib(of["pss"] / 2), _mib(of["rss"]),
            ]
        )  # fmt: skip
    return Table(f"{title}: one row a request, {CONNECTIONS} connections", header, rows)


def _micro(value: float) -> str:
    return f"{value * 1e6:,.0f} µs"


def _mib(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


def promises(results: dict[str, Any]) -> list[Promise]:
    """Near our own ceiling, and far from everybody else."""
    forest, plain = results["forest, ONNX"], results["forest, scikit-learn"]
    own = _median(forest, OURS, "rate")
    share = own / _median(forest, CEILING, "rate")
    read = own / _median(forest, CEILING_READ, "rate")
    shown = f"{share:.0%} ({read:.0%} where it reads the body)"
    made = [Promise("The forest over our HTTP server's ceiling", "≥ 70 %", shown, share >= 0.7)]
    made += [_over(plain, peer, own, 20, f"The forest over {peer} with scikit-learn's") for peer in DOCUMENTED]
    for peer in PEERS:
        made.append(_over(forest, peer, own, 5, f"The forest over {peer} with the same ONNX file"))
        made.append(_sooner(forest, peer))
    return made


def _over(group: Group, peer: str, own: float, owed: float, what: str) -> Promise:
    best = _best(group, peer)
    if best is None:
        return Promise(what, f"≥ {owed:g} times", "", None)
    ratio = own / _median(group, best, "rate")
    return Promise(what, f"≥ {owed:g} times", f"{times(ratio)} ({best})", ratio >= owed)


def _sooner(group: Group, peer: str) -> Promise:
    what = f"p99 of the forest beside {peer}'s with the same ONNX file"
    best = _best(group, peer)
    if best is None:
        return Promise(what, "lower", "", None)
    pairs = [(_median(group, OURS, f"{plan} p99"), _median(group, best, f"{plan} p99")) for plan in PLANS]
    shown = ", ".join(f"{seconds(mine)} beside {seconds(theirs)}" for mine, theirs in pairs)
    return Promise(
        what, "lower", f"{shown} (same rate, half load, fresh)", all(mine < theirs for mine, theirs in pairs)
    )


BENCHMARK = Benchmark(
    "serving", measure, tables, promises, 2, ("modelyard", "onnxruntime", "httptools", "scikit-learn"), PEERS
)


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
