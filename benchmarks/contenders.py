"""Who serves: how each is started, asked, and understood. Two workers each, one thread in each model.

Each peer is set up as its documentation advises for throughput: processes for the cores, the fast event loop and HTTP
parser where it can choose, logs of requests off. Where the documentation recommends batching by the server, the peer
runs both ways, and the better of the two counts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import ROOT, output, peer_variables, program
from benchmarks.models import Subject
from benchmarks.processes import Server, free_port

from modelyard.serving.client import ServiceClient

__all__ = [
    "SERVERS",
    "SURFACES",
    "WORKERS",
    "Contender",
    "Running",
    "ceiling",
    "contenders",
    "other_surface",
    "ours",
    "service",
    "wire",
]

WORKERS = 2
SURFACES = ("plain", "oip", "binary")
"""Plain JSON rows; the Open Inference Protocol in JSON; and with its binary tensors."""

SERVERS = ROOT / "benchmarks" / "servers"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Args:
        server: Its processes.
        port: On 127.0.0.1.
        path: Where it predicts.
        body: That asks for the subject's row.
        headers: Of the request.
        numbers: Returns the predicted numbers of an answer: a value, or a score or probability for each class.
    """

    server: Server
    port: int
    path: str
    body: bytes
    numbers: Callable[[bytes], list[float]]
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)

    def first_answer(self) -> bytes:
        """Wait until it answers, and return what it says."""
        return self.server.wait_answer(self.port, "POST", self.path, self.body, self.headers)


@dataclass(frozen=True)
class Contender:
    """A way to serve a subject.

    Args:
        name: As it is shown.
        peer: Whose environment it needs, or None.
        start: Starts it in an empty folder.
    """

    name: str
    peer: str | None
    start: Callable[[Subject, Path], Running]


def wire(running: Running, *, close: bool = False) -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"POST {running.path} HTTP/1.1", f"host: 127.0.0.1:{running.port}", f"content-length: {len(running.body)}"]
    lines += [f"{name}: {value}" for name, value in running.headers.items()]
    lines += ["connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + running.body


def _variables(subject: Subject, folder: Path, kind: str, **more: str) -> dict[str, str]:
    """Return a peer's environment: it keeps everything in its folder, and finds the subject."""
    own = {"BENCH_SUBJECT": str(subject.folder), "BENCH_KIND": kind, "PYTHONPATH": str(SERVERS), **more}
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", "LITSERVE_DISABLE_UPDATE_CHECK": "1"}
    return peer_variables(folder) | quiet | own


def _flat(value: Any) -> list[float]:
    return [float(number) for number in np.asarray(value, np.float64).ravel()]


def service(folder: Path, store: Path, *, collector: str | None = None, **options: Any) -> Server:
    """Start a service of Modelyard that serves nothing yet.

    Args:
        folder: Where its own folder, `service`, is.
        store: Folder of packages.
        collector: A setting of the garbage collector that `servers/collector` knows; None leaves it alone.
        options: Of the service.
    """
    given = {
        "folder": str(folder / "service"), "store": str(store), "workers": WORKERS, "log_level": "warning", **options,
    }  # fmt: skip
    variables = peer_variables(folder) | {"PYTHONPATH": str(ROOT)}
    if collector is not None:
        variables |= {"PYTHONPATH": f"{SERVERS / 'collector'}:{ROOT}", "BENCH_COLLECTOR": collector}
    return Server([sys.executable, str(SERVERS / "modelyard_service.py"), json.dumps(given)], folder, variables)


def ours(subject: Subject, folder: Path, surface: str = "plain", **options: Any) -> Running:
    """Start a service of Modelyard.

    Args:
        subject: What it serves.
        folder: Of the service.
        surface: `plain`, `oip` (the Open Inference Protocol in JSON) or `binary` (its binary tensors).
        options: Of the service.
    """
    server = service(folder, subject.folder, **options)
    try:
        client = ServiceClient(folder / "service")
        client.wait_ready(60)
        client.swap(subject.name, "v1", "package")
        while len(client.status().workers) < WORKERS:
            client.wait_ready(60)
        return _surface(subject, server, int(client.url.rpartition(":")[2]), surface)
    except BaseException:
        server.end()
        raise


def _surface(subject: Subject, server: Server, port: int, surface: str) -> Running:
    if surface == "plain":
        body = json.dumps({"rows": [subject.named]}, separators=(",", ":")).encode()
        return Running(server, port, f"/v1/models/{subject.name}/predict", body, _plain_numbers)
    path = f"/v2/models/{subject.name}/infer"
    tensors = (
        [(name, [1], np.asarray([value], np.float32)) for name, value in subject.named.items()]
        if subject.columns
        else [("image", [1, len(subject.row)], np.asarray(subject.row, np.float32))]
    )
    inputs: list[dict[str, Any]] = [{"name": name, "shape": shape, "datatype": "FP32"} for name, shape, _ in tensors]
    if surface == "oip":
        for described, (_, _, values) in zip(inputs, tensors, strict=True):
            described["data"] = [float(str(value)) for value in values]
        return Running(server, port, path, json.dumps({"inputs": inputs}).encode(), _oip_numbers)
    for described, (_, _, values) in zip(inputs, tensors, strict=True):
        described["parameters"] = {"binary_data_size": values.nbytes}
    head = json.dumps({"inputs": inputs}).encode()
    raw = b"".join(values.tobytes() for _, _, values in tensors)
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return Running(server, port, path, head + raw, _oip_numbers, headers)


def other_surface(subject: Subject, running: Running, surface: str) -> Running:
    """Return another surface of a service that runs."""
    return _surface(subject, running.server, running.port, surface)


def _plain_numbers(answer: bytes) -> list[float]:
    (row,) = json.loads(answer)["rows"]
    return _flat(row["probabilities"] if "probabilities" in row else row["value"])


def _oip_numbers(answer: bytes) -> list[float]:
    outputs = {one["name"]: one["data"] for one in json.loads(answer)["outputs"]}
    return _flat(outputs.get("probabilities", next(iter(outputs.values()))))


def ceiling(subject: Subject, folder: Path, *, answer: bytes, read: bool) -> Running:
    """Start our HTTP server with a constant behind it."""
    port = free_port()
    command = [
        sys.executable, str(SERVERS / "constant.py"), str(port), str(WORKERS), answer.decode(),
        "read" if read else "skip",
    ]  # fmt: skip
    server = Server(command, folder, peer_variables(folder) | {"PYTHONPATH": str(ROOT)})
    body = json.dumps({"rows": [subject.named]}, separators=(",", ":")).encode()
    return Running(server, port, f"/v1/models/{subject.name}/predict", body, _plain_numbers)


def contenders(kind: str, peers: Sequence[str]) -> list[Contender]:
    """Return the peers' ways to serve a subject, `sklearn` or `onnx`, of those that are installed."""

    def of(name: str, peer: str, start: Callable[..., Running], **more: Any) -> Contender:
        return Contender(name, peer, lambda subject, folder: start(subject, folder, kind, **more))

    known = [
        of("fastapi", "fastapi", _fastapi),
        of("mlserver", "mlserver", _mlserver),
        of("mlserver, batching", "mlserver", _mlserver, batched=True),
        of("bentoml", "bentoml", _bentoml),
        of("bentoml, batching", "bentoml", _bentoml, batched=True),
        of("litserve", "litserve", _litserve),
        of("litserve, batching", "litserve", _litserve, batched=True),
        of("ray", "ray", _ray),
        of("ray, batching", "ray", _ray, batched=True),
        of("mlflow", "mlflow", _mlflow),
    ]
    return [one for one in known if one.peer in peers]


def _predictions(answer: bytes) -> list[float]:
    told = json.loads(answer)["predictions"]
    # MLflow gives an ONNX graph's outputs by their names, each for all rows or one for each row.
    rows = list(told.values()) if isinstance(told, dict) else told
    return _flat([list(row.values()) if isinstance(row, dict) else row for row in rows])


def _fastapi(subject: Subject, folder: Path, kind: str) -> Running:
    port = free_port()
    command = [
        program("fastapi", "uvicorn"), "fastapi_app:app", "--host", "127.0.0.1", "--port", str(port),
        "--workers", str(WORKERS), "--loop", "uvloop", "--http", "httptools", "--no-access-log",
        "--log-level", "warning",
    ]  # fmt: skip
    server = Server(command, folder, _variables(subject, folder, kind))
    path = "/predict" if kind == "onnx" else "/predict-beside"
    return Running(server, port, path, json.dumps({"rows": [subject.named]}).encode(), _predictions)


def _mlserver(subject: Subject, folder: Path, kind: str, *, batched: bool = False) -> Running:
    port = free_port()
    settings = {
        "debug": False, "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(),
        "metrics_port": free_port(), "parallel_workers": WORKERS,
    }  # fmt: skip
    model: dict[str, Any] = {
        "name": subject.name,
        "implementation": "mlserver_sklearn.SKLearnModel" if kind == "sklearn" else "mlserver_onnx.OnnxModel",
        "parameters": {"uri": str(subject.folder / "model.joblib" if kind == "sklearn" else subject.folder)},
    }
    model |= {"max_batch_size": 64, "max_batch_time": 0.001} if batched else {}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    server = Server([program("mlserver", "mlserver"), "start", "."], folder, _variables(subject, folder, kind))
    tensor = {"name": "input", "shape": [1, len(subject.row)], "datatype": "FP32", "data": list(subject.row)}
    body = json.dumps({"inputs": [tensor]}).encode()
    return Running(server, port, f"/v2/models/{subject.name}/infer", body, _oip_numbers)


def _bentoml(subject: Subject, folder: Path, kind: str, *, batched: bool = False) -> Running:
    port = free_port()
    command = [
        program("bentoml", "bentoml"), "serve", "bentoml_service:Bench", "--working-dir", str(SERVERS),
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    variables = _variables(subject, folder, kind, BENTOML_HOME=str(folder / "bentoml"))
    server = Server(command, folder, variables)
    path = "/predict_batched" if batched else "/predict"
    return Running(
        server, port, path, json.dumps({"rows": [subject.row]}).encode(), lambda text: _flat(json.loads(text))
    )


def _litserve(subject: Subject, folder: Path, kind: str, *, batched: bool = False) -> Running:
    port = free_port()
    command = [program("litserve", "python"), str(SERVERS / "litserve_app.py"), str(port)]
    variables = _variables(subject, folder, kind, BENCH_BATCHED=str(int(batched)))
    server = Server(command, folder, variables)
    return Running(server, port, "/predict", json.dumps({"rows": [subject.row]}).encode(), _predictions)


def _ray(subject: Subject, folder: Path, kind: str, *, batched: bool = False) -> Running:
    port = free_port()
    command = [program("ray", "python"), str(SERVERS / "ray_app.py"), str(port)]
    # A socket's path may have 107 characters, and Ray adds 70.
    place = Path(tempfile.mkdtemp(prefix="ray-"))
    variables = _variables(
        subject, folder, kind, BENCH_BATCHED=str(int(batched)), BENCH_RAY=str(place),
        RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
    )  # fmt: skip
    server = Server(command, folder, variables, place)
    return Running(server, port, "/predict", json.dumps({"rows": [subject.row]}).encode(), _predictions)


def _mlflow(subject: Subject, folder: Path, kind: str) -> Running:
    port = free_port()
    variables = _variables(subject, folder, kind)
    saved = folder / "saved"
    python = program("mlflow", "python")
    output([python, str(SERVERS / "mlflow_model.py"), kind, str(subject.folder), str(saved)], folder)
    command = [
        python, "-m", "mlflow", "models", "serve", "--model-uri", str(saved), "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port), "--workers", str(WORKERS),
    ]  # fmt: skip
    server = Server(command, folder, variables | {"PATH": f"{Path(python).parent}:{variables['PATH']}"})
    return Running(server, port, "/invocations", json.dumps({"inputs": [subject.row]}).encode(), _predictions)
