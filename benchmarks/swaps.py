"""Whether a swap ever hurts: 1,000 of them under load, a tenth with another contract, and then with failures injected.

    python -m benchmarks.swaps [--repeat 1] [--quick] [--output FILE]

Requests by the clock, 200 a second, to two workers. Each answer is compared with what the version that it names says.
The same load meets MLServer while it loads new versions by its repository API, and at the end a swap is timed beside
rebuilding a container image and starting it anew. Where a worker or the supervisor is killed, a request whose
connection was lost is sent again, as any client may, and counts as sent again; `failed` counts whatever was not
answered by 200.
"""

from __future__ import annotations

import http.client
import json
import resource
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import Benchmark, Promise, Table, medians, peer_variables, program, scratch, seconds
from benchmarks.containers import measure_container
from benchmarks.contenders import SERVERS, service
from benchmarks.openloop import OpenLoop, Sample, quantile
from benchmarks.processes import Server, free_port
from benchmarks.swap import PIXELS, build

from modelyard.errors import ModelyardError
from modelyard.serving.client import ServiceClient

RATE = 200.0
PATIENCE = 20.0
FIELDS = ("image", "pixels")
"""What the two contracts call their input; who asks by one name does not fit the other contract."""

SEEDS = 3
FLIP = 10
"""Every so many swaps the contract changes."""

PAUSE = 0.1
"""Seconds between a swap's acknowledgement and the next one's begin."""

LAG = 0.03
"""Seconds until clients ask by the new contract; the grace window answers meanwhile."""

WIDE = 24_000
"""Neurons of a network of 76 MB, which a worker that may take 20 MB more can't load."""

COUNTS = ("swaps", "flips", "requests", "failed", "mixed", "stale", "grace", "sent again")
INJECTIONS = ("corrupt file", "out of memory", "worker killed", "supervisor killed")


@dataclass
class Story:
    """What was swapped, and when it was acknowledged.

    Args:
        expected: Package to the CRC 32 of what it answers.
    """

    expected: Mapping[str, int] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    contracts: dict[str, int] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    acknowledged: list[tuple[float, str]] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    flips: int = 0

    def begin(self, package: str, contract: int) -> str:
        """Return a new version of a package."""
        version = f"v{len(self.order) + 1}"
        self.packages[version], self.contracts[version] = package, contract
        self.order[version] = len(self.order) + 1
        return version

    def judge(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Count the requests that failed, the answers that are not their version's, and those of an old version.

        An old one may answer after the acknowledgement only what does not fit the new contract: `grace`.
        """
        counts = dict.fromkeys(COUNTS, 0.0)
        place = -1
        for one in sorted(samples, key=lambda one: one.begun):
            while place + 1 < len(self.acknowledged) and self.acknowledged[place + 1][0] <= one.begun:
                place += 1
            counts["requests"] += 1
            counts["sent again"] += one.tries > 1
            if one.status != 200:
                counts["failed"] += 1
                continue
            # An answer whose version nobody ever swapped in is mixed as well.
            counts["mixed"] += self.expected.get(self.packages.get(one.version, "")) != one.content
            newest = self.acknowledged[place][1] if place >= 0 else None
            if newest is not None and self.order.get(one.version, len(self.order)) < self.order[newest]:
                counts["stale" if self.contracts[newest] == one.kind else "grace"] += 1
        return counts | {"swaps": len(self.took), "flips": self.flips}


def request(port: int, path: str, body: bytes) -> bytes:
    """Return a request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def ask(port: int, path: str, body: bytes = b"") -> bytes:
    """Return the body of one answer; raises RuntimeError where it is not 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {answer[:200].decode(errors='replace')}")
        return answer
    finally:
        connection.close()


def content(answer: bytes, begins: str) -> int:
    """Return the CRC 32 of what an answer says."""
    return zlib.crc32(answer[answer.find(begins.encode()) :])


def phases(samples: Sequence[Sample], edges: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return p50 and p99 of what was due in each span of time; steady is all that was due before or after the swaps."""
    due = {name: [one.latency for one in samples if first <= one.due < last] for name, (first, last) in edges.items()}
    due["steady"] = due["before"] + due["after"]
    told: dict[str, float] = {}
    for name, inside in due.items():
        told |= {f"p50 {name}": quantile(inside, 0.5), f"p99 {name}": quantile(inside, 0.99)}
    return told | {"over steady": told["p99 during"] / told["p99 steady"]}


class Yard:
    """A service of Modelyard under load.

    Args:
        folder: Empty; for the service and its packages.
    """

    PATH = "/v1/models/digits/predict"

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.store.mkdir()
        self.packages = [
            [build(self.store, 10 * contract + seed, field=name) for seed in range(SEEDS)]
            for contract, name in enumerate(FIELDS)
        ]
        self.client = ServiceClient(folder / "service")
        self.server = service(folder, self.store)
        self.story = Story()
        self.contract = 0
        self.load: OpenLoop | None = None

    def begin(self) -> None:
        """Learn what each package answers, and start the load."""
        self.client.wait_ready(60)
        port = int(self.client.url.rpartition(":")[2])
        row = np.random.default_rng(0).random(PIXELS).round(4).tolist()
        bodies = [json.dumps({"rows": [{name: row}]}).encode() for name in FIELDS]
        expected = {}
        for contract in (1, 0):
            for package in self.packages[contract]:
                self.client.swap("digits", f"learn-{package}", package)
                expected[package] = content(ask(port, self.PATH, bodies[contract]), '"rows"')
        self.story.expected = expected
        self.swap()
        while len(self.client.status().workers) < 2:
            time.sleep(0.05)
        self.load = OpenLoop(
            port, [request(port, self.PATH, body) for body in bodies], RATE, None, connections=16, patience=PATIENCE,
            version='"version":"([^"]+)"', content='"rows"',
        )  # fmt: skip

    def swap(self, *, flip: bool = False, package: str | None = None) -> None:
        """Swap a package in, of three in turn; after a flip clients go on for a moment as before."""
        contract = 1 - self.contract if flip else self.contract
        number = len(self.story.order)
        chosen = package or self.packages[contract][number % SEEDS]
        version = self.story.begin(chosen, contract)
        begun = time.monotonic()
        self.client.swap("digits", version, chosen)
        self.story.acknowledged.append((time.monotonic(), version))
        self.story.took.append(time.monotonic() - begun)
        if flip:
            self.story.flips += 1
            self.contract = contract
            time.sleep(LAG)
            assert self.load is not None
            self.load.send(contract)

    def refused(self, package: str) -> None:
        """Swap in what can't be served; raises RuntimeError where it is not refused."""
        version = self.story.begin(package, self.contract)
        try:
            self.client.swap("digits", version, package)
        except ModelyardError:
            return
        raise RuntimeError("what can't be served was not refused")

    def corrupt_file(self) -> None:
        """Swap in a package with one byte of its weights turned."""
        broken = self.store / f"broken-{len(self.story.order)}"
        shutil.copytree(self.store / self.packages[self.contract][0], broken)
        (file,) = broken.glob("model/*.onnx")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
        self.refused(broken.name)

    def out_of_memory(self) -> None:
        """Swap in a wide network while one worker may take little more than it has."""
        wide = self.store / "digits-99"
        if not wide.exists():
            build(self.store, 99, field=FIELDS[self.contract], hidden=WIDE)
        worker = self.client.status().workers[0]
        size = int(Path(f"/proc/{worker}/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        before = resource.prlimit(worker, resource.RLIMIT_AS)
        resource.prlimit(worker, resource.RLIMIT_AS, (size + 20 * 2**20, before[1]))
        try:
            self.refused(wide.name)
        finally:
            resource.prlimit(worker, resource.RLIMIT_AS, before)

    def worker_killed(self) -> None:
        """Swap while one worker dies after it prepared, and wait until it is replaced."""
        before = set(self.client.status().workers)
        (self.folder / "kill-worker").touch()
        self.swap()
        deadline = time.monotonic() + 20
        while len(now := set(self.client.status().workers)) < 2 or now == before:
            if time.monotonic() > deadline:
                raise RuntimeError("the worker was not replaced")
            time.sleep(0.02)

    def supervisor_killed(self) -> None:
        """Swap while the supervisor dies after all prepared, and start it again on the same folder."""
        (self.folder / "kill-supervisor").touch()
        self.refused(self.packages[self.contract][len(self.story.order) % SEEDS])
        self.server.process.wait(10)
        ended, self.server = self.server, service(self.folder, self.store)
        self.client.wait_ready(30)
        while len(self.client.status().workers) < 2:
            time.sleep(0.02)
        ended.end()

    def end(self) -> None:
        """End service and load."""
        if self.load is not None:
            self.load.kill()
        self.server.end()


def swap_ours(folder: Path, swaps: int, injected: int, span: float) -> dict[str, float]:
    """Swap without and with failures; return counts and times."""
    yard = Yard(folder)
    try:
        yard.begin()
        time.sleep(1)
        edges = {"before": _span(lambda: time.sleep(span))}
        edges["during"] = _span(lambda: paced(swaps, lambda number: yard.swap(flip=number % FLIP == 0)))
        edges["after"] = _span(lambda: time.sleep(span))
        injections = (yard.corrupt_file, yard.out_of_memory, yard.worker_killed, yard.supervisor_killed)
        for _ in range(injected):
            for inject in injections:
                inject()
                yard.swap()
                time.sleep(0.1)
        assert yard.load is not None
        samples = yard.load.stop()
    finally:
        yard.end()
    told = yard.story.judge(samples) | phases(samples, edges)
    return told | {
        "swap": quantile(yard.story.took, 0.5), "slowest swap": max(yard.story.took),
        "injected": injected * len(injections), "longest wait": max(one.latency for one in samples),
    }  # fmt: skip


def paced(swaps: int, swap: Callable[[int], None], pause: float = PAUSE, until: float = float("inf")) -> None:
    """Swap again and again, with a pause after each, and begin none after a time on the monotonic clock."""
    for number in range(1, swaps + 1):
        if time.monotonic() >= until:
            break
        swap(number)
        time.sleep(pause)


def _span(work: Callable[[], None]) -> tuple[float, float]:
    begun = time.monotonic()
    work()
    return begun, time.monotonic()


def swap_mlserver(folder: Path, swaps: int, span: float, limit: float = 60.0) -> dict[str, float]:
    """Have MLServer load one version after the other by its repository API, for at most `limit` seconds."""
    store = folder / "store"
    store.mkdir()
    packages = [build(store, seed) for seed in range(SEEDS)]
    port = free_port()
    settings = {
        "debug": False, "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(),
        "metrics_port": free_port(), "parallel_workers": 2,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    path, story = "/v2/models/digits/infer", Story()

    def write(package: str) -> str:
        version = story.begin(package, 0)
        parameters = {"uri": str(store / package / "model"), "version": version}
        model = {"name": "digits", "implementation": "mlserver_onnx.OnnxModel", "parameters": parameters}
        (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
        return version

    def swap(number: int) -> None:
        version = write(packages[number % SEEDS])
        begun = time.monotonic()
        ask(port, "/v2/repository/models/digits/load", b"{}")
        story.acknowledged.append((time.monotonic(), version))
        story.took.append(time.monotonic() - begun)

    write(packages[0])
    variables = peer_variables(folder) | {"PYTHONPATH": str(SERVERS)}
    row = np.random.default_rng(0).random(PIXELS).round(4).tolist()
    body = json.dumps({"inputs": [{"name": "input", "shape": [1, PIXELS], "datatype": "FP32", "data": row}]}).encode()
    with Server([program("mlserver", "mlserver"), "start", "."], folder, variables) as server:
        server.wait_answer(port, "POST", path, body, {"content-type": "application/json"})
        expected = {}
        for number in (1, 2, 3):
            swap(number)
            expected[packages[number % SEEDS]] = content(ask(port, path, body), '"outputs"')
        story.expected = expected
        story.took.clear()
        load = OpenLoop(
            port, [request(port, path, body)], RATE, None, connections=16, version='"model_version":"([^"]+)"',
            content='"outputs"',
        )  # fmt: skip
        try:
            time.sleep(1)
            edges = {"before": _span(lambda: time.sleep(span))}
            deadline = time.monotonic() + limit
            edges["during"] = _span(lambda: paced(swaps, swap, until=deadline))
            edges["after"] = _span(lambda: time.sleep(span))
            samples = load.stop()
        finally:
            load.kill()
    told = story.judge(samples) | phases(samples, edges)
    return told | {
        "swap": quantile(story.took, 0.5), "slowest swap": max(story.took), "injected": 0.0,
        "longest wait": max(one.latency for one in samples),
    }  # fmt: skip


def measure(repeat: int, quick: bool, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Swap ours, MLServer's and an image, as often as asked for."""
    swaps, injected, span = (40, 1, 3.0) if quick else (1000, 5, 30.0)
    told: dict[str, list[dict[str, float]]] = {}
    left: dict[str, str] = {}

    def turn(name: str, work: Callable[[Path], dict[str, float]]) -> None:
        with scratch() as folder:
            try:
                measured = work(folder)
                told.setdefault(name, []).append(measured)
            except (RuntimeError, OSError) as error:
                left[name] = str(error)

    for _ in range(repeat):
        turn("modelyard", lambda folder: swap_ours(folder, swaps, injected, span))
        if "mlserver" in peers:
            turn("mlserver", lambda folder: swap_mlserver(folder, swaps, span))
        if quick:
            left["container"] = "a quick run builds no image"
        else:
            turn("container", lambda folder: measure_container(folder, 3))
    results: dict[str, Any] = {}
    for name, several in told.items():
        results[name] = medians(several)
        counts = (*COUNTS, "injected") if name != "container" else ()
        results[name] |= {count: sum(int(one[count]) for one in several) for count in counts}
    return results, left


def tables(results: dict[str, Any]) -> list[Table]:
    """Return counts, latencies, and what a swap takes."""
    servers = [name for name in ("modelyard", "mlserver") if name in results]
    counts = [*COUNTS, "injected"]
    counted = [[name, *(f"{results[name][count]:,}" for count in counts)] for name in servers]
    what = [f"{share} {phase}" for share in ("p50", "p99") for phase in ("before", "during", "after")]
    felt = [
        [
            name, *(seconds(results[name][one]["median"]) for one in what),
            f"{results[name]['over steady']['median']:.2f}", seconds(results[name]["longest wait"]["median"]),
        ]
        for name in servers
    ]  # fmt: skip
    names = {"modelyard": "a swap", "mlserver": "MLServer, load"}
    took = [
        [names[name], *(seconds(results[name][one]["median"]) for one in ("swap", "slowest swap"))] for name in servers
    ]
    if "container" in results:
        for name in ("image: rebuilt", "image: stopped, started, answers", "image: both"):
            took.append([name, *(seconds(results["container"][f"{name}{how}"]["median"]) for how in ("", ", slowest"))])
    return [
        Table("Counts", ["", *counts[:-1], "failures injected"], counted),
        Table(
            "Latency: without injected failures; the longest wait with them",
            ["", *what, "p99 during over steady", "longest wait"],
            felt,
        ),
        Table("Until a new version answers everything", ["", "median", "slowest"], took),
    ]


def promises(results: dict[str, Any]) -> list[Promise]:
    """Nothing fails, nothing is mixed up, nothing is stale, and little is slower."""
    own = results["modelyard"]
    of = (
        f"of {own['requests']:,}, {own['swaps']:,} swaps, {own['flips']:,} of contract, "
        f"{own['injected']} failures injected"
    )
    none = [
        Promise(what, "none", f"{own[count]:,} {of}", own[count] == 0)
        for what, count in (
            ("Requests that fail", "failed"),
            ("Answers whose content is not their version's", "mixed"),
            ("Answers by an old generation after the acknowledgement", "stale"),
        )
    ]
    ratio = own["over steady"]["median"]
    return [*none, Promise("p99 during 1,000 swaps over the steady one", "≤ 1.5", f"{ratio:.2f}", ratio <= 1.5)]


BENCHMARK = Benchmark("swaps", measure, tables, promises, 1, ("modelyard", "onnxruntime", "httptools"), ("mlserver",))


def main() -> None:
    """Measure, print, and keep the result."""
    BENCHMARK.main(__doc__)


if __name__ == "__main__":
    main()
