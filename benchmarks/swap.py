"""How long a swap takes, and what traffic feels of it: 50 swaps of a digit-sized network under a steady load.

    python -m benchmarks.swap [--repeat 3] [--quick] [--output FILE]

200 requests a second, and two workers. Latency counts from the moment when a request was due, so that a stall is
charged with everything that waited for it. `steady` is the slower of the times before and after the swaps. At last half
of the requests go to a canary.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import Benchmark, Promise, Table, scratch, seconds, summary
from onnx import TensorProto, helper, numpy_helper

from modelyard.data import Dataset, Field
from modelyard.packages.building import build_package
from modelyard.packages.model import save_model
from modelyard.serving.client import ServiceClient
from modelyard.serving.service import ServiceSpec, run_service
from modelyard.testing.load import LoadGenerator

PIXELS, HIDDEN, CLASSES = 784, 256, 10
RATE, WORKERS = 200.0, 2
PHASES = {
    "before": "before the swaps",
    "during": "during the swaps",
    "after": "after the swaps",
    "canary": "half of them to a canary",
}


def build(store: Path, seed: int, *, field: str = "image", hidden: int = HIDDEN) -> str:
    """Build the package of a 784-256-10 network with random weights, and return its name.

    Args:
        store: Where it is put.
        seed: Of the weights, and in the name.
        field: What the contract calls the pixels.
        hidden: How wide the network is.
    """
    generator = np.random.default_rng(seed)
    first = generator.normal(0, 0.05, (PIXELS, hidden)).astype(np.float32)
    second = generator.normal(0, 0.05, (hidden, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["input", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", PIXELS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = store / f".model-{seed}"
    save_model(
        folder, flavour="onnx", model=model, inputs=[Field(field, "float32", (PIXELS,))],
        prediction_type="classification", classes=list(range(CLASSES)),
    )  # fmt: skip
    samples = Dataset({field: generator.random((8, PIXELS)).astype(np.float32)})
    name = f"digits-{seed}"
    build_package(store / name, model=folder, samples=samples, name="digits", metrics={}, provenance={})
    return name


def serve(spec: ServiceSpec, store: Path) -> None:
    """Run the service in a process of its own."""
    run_service(spec, fetch=lambda package: store / package)


def one_round(folder: Path, swaps: int, span: float) -> dict[str, Any]:
    """Load a service for a span of seconds before, while and after it swaps."""
    store = folder / "store"
    store.mkdir(parents=True)
    packages = [build(store, seed) for seed in (1, 2, 3)]
    spec = ServiceSpec(name="bench", folder=folder / "service", workers=WORKERS, log_level="warning")
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(spec, store))
    process.start()
    client = ServiceClient(folder / "service")
    client.wait_ready(60)
    client.swap("digits", "v0", packages[0])
    while len(client.status().workers) < WORKERS:
        time.sleep(0.05)
    body = json.dumps({"rows": [{"image": np.random.default_rng(0).random(PIXELS).round(4).tolist()}]}).encode()
    prepares, commits, rollbacks = [], [], []
    with LoadGenerator(f"{client.url}/v1/models/digits/predict", body, connections=8, rate=RATE) as load:
        time.sleep(2.0)
        begun = time.monotonic()
        time.sleep(span)
        first = time.monotonic()
        for number in range(1, swaps + 1):
            # Of three packages in turn, none is ever the previous one: every swap is a load.
            swapped = client.swap("digits", f"v{number}", packages[number % 3])
            prepares.append(swapped.prepare_seconds)
            commits.append(swapped.commit_seconds)
            time.sleep(span / swaps)
        last = time.monotonic()
        time.sleep(span)
        end = time.monotonic()
        for _ in range(20):
            rollbacks.append(client.rollback("digits").commit_seconds)
        client.canary("digits", "canary", packages[(swaps + 1) % 3], ppm=500_000)
        routed = time.monotonic()
        time.sleep(span)
        over = time.monotonic()
        load.wait_for(20)
    report = load.report()
    client.stop()
    process.join()
    spans = ((begun, first), (first, last), (last, end), (routed, over))
    phases = dict(zip(PHASES, (report.between(*ends) for ends in spans), strict=True))
    return {
        "requests": report.requests, "failed": len(report.failures), "swaps": swaps, "rollbacks": len(rollbacks),
        "prepare": statistics.median(prepares), "slowest prepare": max(prepares),
        "commit": statistics.median(commits), "slowest commit": max(commits),
        "rollback": statistics.median(rollbacks), "slowest rollback": max(rollbacks),
        **{f"p50 {name}": phase.latency(0.5) for name, phase in phases.items()},
        **{f"p99 {name}": phase.latency(0.99) for name, phase in phases.items()},
    }  # fmt: skip


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Repeat the round; counts are added up, and times summed up by their medians."""
    del peers
    rounds = []
    for _ in range(repeat):
        with scratch() as folder:
            rounds.append(one_round(folder, *((10, 3.0) if quick else (50, 8.0))))
    counts = ("requests", "failed", "swaps", "rollbacks")
    results: dict[str, Any] = {name: sum(one[name] for one in rounds) for name in counts}
    results |= {name: summary([one[name] for one in rounds]) for name in rounds[0] if name not in counts}
    ratios = [one["p99 during"] / max(one["p99 before"], one["p99 after"]) for one in rounds]
    return results | {"p99 during over steady": summary(ratios)}, {}


def tables(results: dict[str, Any]) -> list[Table]:
    """Return what the swaps took, and what requests felt."""
    deeds = [
        [
            f"{name}s" if name == "rollback" else name,
            *(seconds(results[which]["median"]) for which in (name, f"slowest {name}")),
        ]
        for name in ("prepare", "commit", "rollback")
    ]
    felt = [
        [title, *(seconds(results[f"{quantile} {name}"]["median"]) for quantile in ("p50", "p99"))]
        for name, title in PHASES.items()
        if f"p50 {name}" in results
    ]
    count = f"{results['swaps']} swaps and {results['rollbacks']} rollbacks"
    return [
        Table(f"{count}: median over rounds of a round's median, and of its slowest", ["", "median", "slowest"], deeds),
        Table(f"{results['requests']:,} requests, {results['failed']} failed: latency", ["", "p50", "p99"], felt),
    ]


def promises(results: dict[str, Any]) -> list[Promise]:
    """No request fails, and few are slower."""
    failed, ratio = results["failed"], results["p99 during over steady"]["median"]
    return [
        Promise("Requests that fail during swaps", "none", f"{failed} of {results['requests']:,}", failed == 0),
        Promise("p99 of requests during swaps over the steady one", "≤ 1.5", f"{ratio:.2f}", ratio <= 1.5),
    ]


BENCHMARK = Benchmark("swap", measure, tables, promises, 3, ("modelyard", "onnxruntime", "httptools"))


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
