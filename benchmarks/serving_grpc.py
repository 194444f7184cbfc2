"""How fast a row is answered over gRPC, beside MLServer, which speaks the same protocol: Open Inference Protocol v2.

    python -m benchmarks.serving_grpc [--repeat 2] [--quick] [--output FILE]

Two workers each, one row a call, raw tensors, and `h2load` as the load generator: 16 connections with one call at a
time, and 2 connections with 16 calls at once. Before anything is measured, every contender must predict what ONNX
Runtime or scikit-learn predicts here. Load generator and server share the machine's cores, so CPU time for a call
stands beside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Benchmark, Promise, Summary, Table, medians, scratch, seconds, take_turns, times
from benchmarks.contenders import contenders, ours
from benchmarks.grpc_load import Called, closed, columns_message, matrix_message, need_h2load, numbers
from benchmarks.models import Subject, make_subject
from benchmarks.serving import expected_of, same

from modelyard.serving.client import ServiceClient

PEER = "mlserver"
OURS = "modelyard"
SUBJECTS = {"forest": "forest", "no-op": "noop"}
SHAPES = {"16 connections": (16, 1), "2 connections, 16 calls at once": (2, 16)}

Start = Callable[[Subject, Path], Called]
Group = Mapping[str, Mapping[str, Summary]]


def _ours(subject: Subject, folder: Path) -> Called:
    running = ours(subject, folder, grpc_port=0)
    address = ServiceClient(folder / "service").grpc
    if address is None:
        running.server.end()
        raise RuntimeError("the service speaks no gRPC")
    return Called(running.server, int(address.rpartition(":")[2]), columns_message(subject))


def _peers(kind: str, peers: Sequence[str]) -> dict[str, Start]:
    """Return the ways of those peers that speak the protocol."""

    def start(contender: Any) -> Start:
        def started(subject: Subject, folder: Path) -> Called:
            running = contender.start(subject, folder)
            port = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["grpc_port"]
            return Called(running.server, port, matrix_message(subject))

        return started

    known = {one.name: start(one) for one in contenders(kind, [peer for peer in peers if peer == PEER])}
    return known if kind == "onnx" else {f"{name}, {kind}": one for name, one in known.items()}


def measured(
    start: Start, subject: Subject, expected: Sequence[float], span: float
) -> Callable[[Path], dict[str, float]]:
    """Return what a contender does at its turn."""

    def turn(folder: Path) -> dict[str, float]:
        called = start(subject, folder)
        with called.server:
            answer = called.first_answer()
            same(numbers(answer), expected, subject.name)
            told: dict[str, float] = {}
            for shape, (connections, calls) in SHAPES.items():
                closed(called, answer, folder, span / 4, connections=connections, calls=calls)
                felt = closed(called, answer, folder, span, connections=connections, calls=calls)
                told |= {f"{shape} {quantity}": value for quantity, value in felt.items()}
            return told | called.server.memory()

    return turn


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Let all measure themselves, model by model; return their medians, and who could not."""
    need_h2load()
    span = 1.0 if quick else 4.0
    told: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with scratch() as place:
        for title, name in SUBJECTS.items():
            subject = make_subject(name, place / name)
            expected = expected_of(subject)
            starts = {OURS: _ours, **_peers("onnx", peers)}
            if name == "forest" and not quick:
                starts |= _peers("sklearn", peers)
            turns = {who: measured(start, subject, expected, span) for who, start in starts.items()}
            (inside := place / f"turns-{name}").mkdir()
            rounds, broken = take_turns(turns, repeat, inside)
            failed |= {f"{title}, {who}": reason for who, reason in broken.items()}
            told[title] = {who: medians(several) for who, several in rounds.items()}
    return told, failed


def _median(group: Group, who: str, what: str) -> float:
    return float(group[who][what]["median"])


def tables(results: dict[str, Any]) -> list[Table]:
    """Return throughput, latency and memory by model."""
    header = [
        "",
        *(part for shape in SHAPES for part in (f"calls/s, {shape}", "Modelyard's over it", "CPU", "p50", "p99")),
    ]
    made = []
    for title, group in results.items():
        rows = []
        for who in group:
            row = [who]
            for shape in SHAPES:
                rate, cpu, p50, p99 = (_median(group, who, f"{shape} {what}") for what in ("rate", "cpu", "p50", "p99"))
                over = times(_median(group, OURS, f"{shape} rate") / rate)
                row += [f"{rate:,.0f}", over, f"{cpu * 1e6:,.0f} µs", seconds(p50), seconds(p99)]
            rows.append([*row, f"{_median(group, who, 'pss') / 2**20:,.0f} MiB"])
        made.append(Table(f"{title}: one row a call over gRPC", [*header, "PSS"], rows))
    return made


def promises(results: dict[str, Any]) -> list[Promise]:
    """Return what is owed, which holds for gRPC as for HTTP: far from the peer, with its model and with ours."""
    forest = results["forest"]
    shape = next(iter(SHAPES))
    own = _median(forest, OURS, f"{shape} rate")
    made = []
    for what, owed, ways in (
        (f"The forest by gRPC over {PEER} with the same ONNX file", 5, [w for w in forest if "sklearn" not in w]),
        (f"The forest by gRPC over {PEER} with scikit-learn's", 20, [w for w in forest if "sklearn" in w]),
    ):
        best = max(
            (way for way in ways if way != OURS), key=lambda way: _median(forest, way, f"{shape} rate"), default=""
        )
        if not best:
            made.append(Promise(what, f"≥ {owed} times", "", None))
            continue
        ratio = own / _median(forest, best, f"{shape} rate")
        made.append(Promise(what, f"≥ {owed} times", f"{times(ratio)} ({best})", ratio >= owed))
    return made


BENCHMARK = Benchmark(
    "serving_grpc", measure, tables, promises, 2, ("modelyard", "onnxruntime", "h2", "protobuf", "uvloop"), (PEER,)
)


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
