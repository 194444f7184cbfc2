"""How long a swap takes, and what traffic feels of it: 50 swaps of a digit-sized network under a steady load.

Run it as `python benchmarks/swap.py`; it prints a table and writes `benchmarks/results/swap.json`. Latency counts from
the moment when a request was due, so that a stall is charged with everything that waited for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from modelyard.data import Dataset, Field
from modelyard.packages.building import build_package
from modelyard.packages.model import save_model
from modelyard.serving.client import ServiceClient
from modelyard.serving.service import ServiceSpec, run_service
from modelyard.testing.load import LoadGenerator, LoadReport

RESULT = Path(__file__).parent / "results" / "swap.json"
PIXELS, HIDDEN, CLASSES = 784, 256, 10


def build(store: Path, seed: int) -> str:
    """Build the package of a 784-256-10 network with random weights, and return its name."""
    generator = np.random.default_rng(seed)
    first = generator.normal(0, 0.05, (PIXELS, HIDDEN)).astype(np.float32)
    second = generator.normal(0, 0.05, (HIDDEN, CLASSES)).astype(np.float32)
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
        folder, flavour="onnx", model=model, inputs=[Field("image", "float32", (PIXELS,))],
        prediction_type="classification", classes=list(range(CLASSES)),
    )  # fmt: skip
    samples = Dataset({"image": generator.random((8, PIXELS)).astype(np.float32)})
    name = f"digits-{seed}"
    build_package(store / name, model=folder, samples=samples, name="digits", metrics={}, provenance={})
    return name


def serve(spec: ServiceSpec, store: Path) -> None:
    """Run the service in a process of its own."""
    run_service(spec, fetch=lambda package: store / package)


def milliseconds(report: LoadReport) -> dict[str, float]:
    return {
        "requests": report.requests,
        "failed": len(report.failures),
        "p50_ms": round(report.latency(0.5) * 1000, 3),
        "p99_ms": round(report.latency(0.99) * 1000, 3),
    }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median_ms": round(statistics.median(ordered) * 1000, 3),
        "worst_ms": round(ordered[-1] * 1000, 3),
    }


def measure(store: Path, folder: Path, swaps: int, rate: float, seconds: float, workers: int) -> dict[str, Any]:
    packages = [build(store, seed) for seed in (1, 2, 3)]
    spec = ServiceSpec(name="bench", folder=folder, workers=workers, log_level="warning")
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(spec, store))
    process.start()
    client = ServiceClient(folder)
    client.wait_ready(60)
    client.swap("digits", "v0", packages[0])
    while len(client.status().workers) < workers:
        time.sleep(0.05)
    body = json.dumps({"rows": [{"image": np.random.default_rng(0).random(PIXELS).round(4).tolist()}]}).encode()
    prepares, commits, rollbacks = [], [], []
    with LoadGenerator(f"{client.url}/v1/models/digits/predict", body, connections=8, rate=rate) as load:
        time.sleep(2.0)
        begun = time.monotonic()
        time.sleep(seconds)
        first = time.monotonic()
        for number in range(1, swaps + 1):
            # Of three packages in turn, none is ever the previous one: every swap is a load.
            swapped = client.swap("digits", f"v{number}", packages[number % 3])
            prepares.append(swapped.prepare_seconds)
            commits.append(swapped.commit_seconds)
            time.sleep(seconds / swaps)
        last = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
        for _ in range(20):
            rollbacks.append(client.rollback("digits").commit_seconds)
        load.wait_for(20)
    report = load.report()
    client.stop()
    process.join()
    before, during, after = report.between(begun, first), report.between(first, last), report.between(last, end)
    steady = max(before.latency(0.99), after.latency(0.99))
    return {
        "swaps": swaps, "rollbacks": len(rollbacks), "workers": workers, "rate": rate,
        "requests": report.requests, "failed": len(report.failures),
        "prepare": spread(prepares), "commit": spread(commits), "rollback": spread(rollbacks),
        "before": milliseconds(before), "during": milliseconds(during), "after": milliseconds(after),
        "p99_during_to_steady": round(during.latency(0.99) / steady, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load before, and after")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir()
        result = measure(
            store, Path(folder) / "service", options.swaps, options.rate, options.seconds, options.workers
        )
    result = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version(),
        "cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2), **result,
    }  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['requests']} requests, {result['failed']} failed, {result['swaps']} swaps")
    for what in ("prepare", "commit", "rollback"):
        print(f"{what:9} median {result[what]['median_ms']:8.3f} ms   worst {result[what]['worst_ms']:8.3f} ms")
    for when in ("before", "during", "after"):
        print(f"{when:9} p50    {result[when]['p50_ms']:8.3f} ms   p99   {result[when]['p99_ms']:8.3f} ms")
    print(f"p99 during swaps is {result['p99_during_to_steady']} times the steady one")


if __name__ == "__main__":
    main()
