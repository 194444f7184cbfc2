"""Training under Modelyard against bare PyTorch scripts: the same network, data, batches, optimizer and epochs.

    python -m benchmarks.training [--repeat 5] [--quick] [--output FILE]

60,000 and 10,000 images of 28 x 28 bytes are read from IDX files as MNIST has them, scaled, flattened, and the first
part trains a 784-128-10 perceptron by Adam in batches of 64, on one thread. Nothing is downloaded: the images are drawn
around ten centres with a tenth of the labels wrong, and training takes the same time over them. The contenders are
whole processes, from start to end:

- the tutorial's script: `TensorDataset` and `DataLoader`, as PyTorch's quickstart has it;
- the tuned script: batches by index, and the fused Adam; it draws the same batches as Modelyard, and both must end with
  the same loss to the last bit, or the benchmark fails;
- `modelyard run` in a new project: importer, transform and trainer, by either executor. It does more than the scripts:
  it hashes and keeps data, code, versions and model, and writes and checks an ONNX file.

Each is run with few epochs and with many. What an epoch costs is the difference by the epochs between them. The
training loop alone is timed inside the process; what a run takes beyond its loop is the fixed cost. The end of each
epoch is noted, too: other guests of a machine slow an epoch down by more than Modelyard could, and never speed it up,
so the lower quartile of all epochs of all rounds tells what an undisturbed one takes. How far every second round agrees
with the others on it is told beside it.

A script loads PyTorch's compiler with its first optimizer, as every script does; Modelyard's trainer, which never
compiles, does not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import Benchmark, Promise, Table, medians, scratch, seconds, take_turns

import modelyard

ROWS, TEST_ROWS, CLASSES = 60_000, 10_000, 10
FEW, MANY = 2, 15
TUTORIAL, TUNED = "tutorial's script", "tuned script"
EXECUTORS = ("inline", "processes")

HEAD = """
import json, sys, time
import numpy as np, torch
from torch import nn
folder, epochs = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
def read(name):
    images = np.fromfile(f"{folder}/{name}-images", np.uint8, offset=16).reshape(-1, 784).astype(np.float32)
    labels = np.fromfile(f"{folder}/{name}-labels", np.uint8, offset=8).astype(np.int64)
    return torch.from_numpy(images * np.float32(1 / 255)), torch.from_numpy(labels)
inputs, targets = read("train")
test = read("test")
ends = []
network = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
criterion = nn.CrossEntropyLoss()
"""

LOOPS = {
    TUTORIAL: """
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True)
optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
start = time.perf_counter()
for epoch in range(epochs):
    total = 0.0
    for values, wanted in loader:
        optimizer.zero_grad()
        loss = criterion(network(values), wanted)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(wanted)
    ends.append(time.time())
""",
    TUNED: """
optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
generator = torch.Generator().manual_seed(0)
start = time.perf_counter()
for epoch in range(epochs):
    total = torch.zeros(())
    for chosen in torch.randperm(len(targets), generator=generator).split(64):
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(network(inputs[chosen]), targets[chosen])
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(chosen)
    ends.append(time.time())
""",
}

TAIL = """
loop = time.perf_counter() - start
torch.save(network.state_dict(), f"model-{epochs}.pt")
print(json.dumps({"loop": loop, "loss": float(total) / len(targets), "ends": ends}))
"""

BLUEPRINT = """
version: 1
pipeline:
  name: training
  prediction_type: classification
  steps:
    - id: data
      kind: importer
      format: idx
      local_data: {data: train-images, labels: train-labels}
      test_data: {data: test-images, labels: test-labels}
    - id: prepare
      kind: transform
      operations:
        - {type: scale, columns: [image], factor: 0.00392156862745098}
        - {type: flatten, columns: [image]}
    - id: train
      kind: trainer
      batch: 64
      alpha: 0.001
      seed: 0
      threads: 1
      layers:
        - {type: fully_connected, units: 128, activation: relu}
        - {type: fully_connected, units: 10}
"""

Timings = dict[str, Any]
"""Numbers by their name, and `ends`: when each epoch ended."""
Train = Callable[[Path, int, Path], Timings]
"""From the data's folder, epochs and an empty folder."""


def make_data(folder: Path) -> Path:
    """Write IDX files of noisy images of ten kinds."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    centres = generator.integers(0, 160, (CLASSES, 28, 28))
    for name, rows in (("train", ROWS), ("test", TEST_ROWS)):
        labels = generator.integers(0, CLASSES, rows, dtype=np.uint8)
        # Some labels are wrong, so that there is always something left to learn: a loss of zero would prove nothing.
        shown = np.where(generator.random(rows) < 0.1, generator.integers(0, CLASSES, rows), labels)
        images = (centres[shown] + generator.integers(0, 96, (rows, 28, 28))).astype(np.uint8)
        big = [number.to_bytes(4, "big") for number in (0x803, rows, 28, 28)]
        (folder / f"{name}-images").write_bytes(b"".join(big) + images.tobytes())
        (folder / f"{name}-labels").write_bytes((0x801).to_bytes(4, "big") + big[1] + labels.tobytes())
    return folder


def process(command: list[str], folder: Path) -> tuple[str, float, float]:
    """Run a process to its end; return what it printed, its seconds, and those of the processor with its children's.

    Raises:
        RuntimeError: It failed.
    """
    told = folder / "printed.txt"
    start = time.perf_counter()
    with told.open("wb") as file:
        child = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        # wait4 knows the processor time of this one child, and of those that it waited for.
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    text = told.read_text(encoding="utf-8")
    if child.returncode != 0:
        raise RuntimeError(text[-2000:])
    return text, wall, usage.ru_utime + usage.ru_stime


def script(which: str, data: Path, epochs: int, folder: Path) -> Timings:
    """Train by a bare script."""
    file = folder / "train.py"
    file.write_text(HEAD + LOOPS[which] + TAIL, encoding="utf-8")
    told, wall, cpu = process([sys.executable, str(file), str(data), str(epochs)], folder)
    timings: Timings = json.loads(told.splitlines()[-1])
    return timings | {"wall": wall, "cpu": cpu}


def under_modelyard(executor: str, data: Path, epochs: int, folder: Path) -> Timings:
    """Train by `modelyard run` in a project that has never run."""
    (folder / "blueprint.yaml").write_text(BLUEPRINT, encoding="utf-8")
    for file in data.iterdir():
        os.link(file, folder / file.name)
    options = ["-q", "--executor", executor, "-p", f"train.epochs={epochs}"]
    told, wall, cpu = process([sys.executable, "-m", "modelyard", "run", *options], folder)
    with modelyard.open(folder) as yard:
        run = yard.get(told.split()[-1])
        rate = re.search(r"epochs, ([\d,]+) rows a second", run.log("train"))
        assert rate is not None
        loss = run.output("train.history")[-1]["loss"]
        step = run.task("train").finished - run.task("train").started
        ends = [point.time for point in yard.catalog.curves(run.id, "train")["train"]["loss"]]
    loop = epochs * ROWS / int(rate[1].replace(",", ""))
    return {"loop": loop, "loss": loss, "wall": wall, "cpu": cpu, "step": step, "ends": ends}


def both_lengths(
    train: Callable[[Path, int, Path], Timings], data: Path, lengths: Sequence[int], folder: Path
) -> Timings:
    """Train with few epochs and with many; return the long one's times, and what follows from the two."""
    few, many = lengths
    told = {}
    for epochs in lengths:
        place = folder / str(epochs)
        place.mkdir()
        told[epochs] = train(data, epochs, place)
        shutil.rmtree(place, ignore_errors=True)
    short, long = told[few], told[many]
    derived: Timings = {}
    for clock in ("wall", "cpu"):
        epoch = (long[clock] - short[clock]) / (many - few)
        derived |= {f"{clock} of an epoch": epoch, f"{clock} fixed": long[clock] - many * epoch}
    derived["wall fixed"] = statistics.mean(one["wall"] - one["loop"] for one in told.values())
    ends = long.pop("ends")
    return long | derived | {"epochs": [after - before for before, after in pairwise(ends)]}


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Let all train in turn, and compare each round's times within the round."""
    del peers
    lengths = (1, 3) if quick else (FEW, MANY)
    able: dict[str, Train] = {
        **{name: partial(script, name) for name in (TUNED, TUTORIAL)},
        **{f"modelyard, {executor}": partial(under_modelyard, executor) for executor in EXECUTORS},
    }
    with scratch() as folder:
        data = make_data(folder / "data")
        turns = {name: partial(both_lengths, train, data, lengths) for name, train in able.items()}
        place = folder / "turns"
        place.mkdir()
        rounds, failed = take_turns(turns, repeat, place)
    _same_work(rounds)
    epochs = {name: [one.pop("epochs") for one in several] for name, several in rounds.items()}
    results = {"epochs": lengths[1], "contenders": {name: medians(several) for name, several in rounds.items()}}
    over = _overheads(rounds)
    for name in over:
        over[name] |= _undisturbed_overheads(epochs[name], epochs[TUNED])
    quiet = {name: _undisturbed(several) for name, several in epochs.items()}
    return results | {"undisturbed epoch": quiet, "over the tuned script": over}, failed


def _undisturbed(rounds: Sequence[Sequence[float]]) -> float:
    """Return the lower quartile of all epochs."""
    return float(np.quantile([epoch for one in rounds for epoch in one], 0.25))


def _undisturbed_overheads(rounds: Sequence[Sequence[float]], bare: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the overhead of an undisturbed epoch in percent: by all rounds, and by every second one from each end."""

    def percent(first: int, step: int) -> float:
        return 100 * (_undisturbed(rounds[first::step]) / _undisturbed(bare[first::step]) - 1)

    halves = [percent(first, 2) for first in range(min(2, len(rounds)))]
    return {"undisturbed epoch, percent": percent(0, 1), "undisturbed epoch, by halves, percent": halves}


def _same_work(rounds: dict[str, list[Timings]]) -> None:
    losses = {one["loss"] for name, several in rounds.items() if name != TUTORIAL for one in several}
    if len(losses) != 1 or losses == {0.0}:
        raise RuntimeError(f"The tuned script and Modelyard did not train the same: losses {sorted(losses)}.")


def _overheads(rounds: dict[str, list[Timings]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, several in rounds.items():
        if name == TUNED:
            continue
        pairs = list(zip(several, rounds[TUNED], strict=True))
        told[name] = {
            f"{what}, percent": statistics.median(100 * (one[what] / bare[what] - 1) for one, bare in pairs)
            for what in ("wall", "cpu", "loop", "wall of an epoch", "cpu of an epoch")
        } | {
            f"{what}, more": statistics.median(one[what] - bare[what] for one, bare in pairs)
            for what in ("wall fixed", "cpu fixed")
        }
    return told


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the times, and what they are over the tuned script."""
    columns = ("wall", "cpu", "loop", "wall fixed", "wall of an epoch", "cpu of an epoch")
    head: tuple[str, ...] = ("whole run", "its CPU time", "training loop", "fixed", "an epoch", "its CPU time")
    rows = [[name, *(seconds(of[what]["median"]) for what in columns)] for name, of in results["contenders"].items()]
    percents = ("wall", "cpu", "loop", "wall of an epoch", "cpu of an epoch")
    over = [
        [
            name,
            *(f"{of[f'{what}, percent']:+.1f} %" for what in percents),
            f"{of['wall fixed, more']:+.2f} s",
            f"{of['cpu fixed, more']:+.2f} s",
        ]
        for name, of in results["over the tuned script"].items()
    ]
    if "undisturbed epoch" in results:
        head += ("an undisturbed epoch",)
        for row in rows:
            row.append(seconds(results["undisturbed epoch"][row[0]]))
        for row in over:
            row.insert(6, f"{results['over the tuned script'][row[0]]['undisturbed epoch, percent']:+.2f} %")
    more: tuple[str, ...] = (
        "whole run",
        "its CPU time",
        "training loop",
        "an epoch",
        "its CPU time",
        "fixed",
        "its CPU time",
    )
    if "undisturbed epoch" in results:
        more = (*more[:5], "an undisturbed epoch", *more[5:])
    return [
        Table(f"Training for {results['epochs']} epochs: median", ["", *head], rows),
        Table("Over the tuned script: median of the rounds' differences", ["", *more], over),
    ]


def promises(results: dict[str, Any]) -> list[Promise]:
    """At most one percent over the tuned script; the whole run says from which length on that holds."""
    told = []
    owed = "≤ 1 % over the tuned script"
    for executor in EXECUTORS:
        of = results["over the tuned script"][f"modelyard, {executor}"]
        whole = of["wall, percent"]
        told.append(Promise(f"Training loop, `{executor}`", owed, _shown_loop(of), _loop(of) <= 1))
        shown = f"{whole:+.1f} % at {results['epochs']} epochs; ≤ 1 % {_enough(of)}"
        told.append(Promise(f"Whole training run, `{executor}`", owed, shown, whole <= 1))
    return told


def _loop(of: dict[str, Any]) -> float:
    """Return the loop's overhead in percent: of undisturbed epochs, where their ends were noted."""
    return float(of.get("undisturbed epoch, percent", of["loop, percent"]))


def _shown_loop(of: dict[str, Any]) -> str:
    halves = of.get("undisturbed epoch, by halves, percent")
    if halves is None:
        return f"{_loop(of):+.1f} %"
    return f"{_loop(of):+.2f} % (half of the rounds each: {', '.join(f'{half:+.2f} %' for half in halves)})"


def _enough(of: dict[str, Any]) -> str:
    """Say how long a training must be for fixed cost and the loop's overhead to stay within one percent of it."""
    # A loop that seems to be faster than the script is noise, and shall not pay for the fixed cost.
    left = 1 - max(_loop(of), 0.0)
    if left > 0 >= of["wall fixed, more"]:
        return "at every length"
    return f"from {of['wall fixed, more'] / left * 100 / 60:.0f} minutes of training on" if left > 0 else "at no length"


BENCHMARK = Benchmark("training", measure, tables, promises, 5, ("modelyard", "torch", "numpy"))


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
