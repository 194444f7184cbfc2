"""Load over gRPC by a generator that is no part of this project: h2load of nghttp2, which speaks HTTP/2 by itself.

h2load knows nothing of gRPC: to it a call that failed is a 200 like any other. What shows is how many bytes came back:
an answer has as many each time, and a failure has none.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from benchmarks.models import Subject
from benchmarks.processes import START_SECONDS, Server

from modelyard.serving.grpc.messages import message

__all__ = ["Called", "closed", "columns_message", "matrix_message", "need_h2load", "numbers"]

METHOD = "/inference.GRPCInferenceService/ModelInfer"
HEADERS = ("content-type: application/grpc", "te: trailers")
PREFIX = 5
"""Bytes before each message: whether it is compressed, and its length."""

_Request, _Response = message("inference.ModelInferRequest"), message("inference.ModelInferResponse")
_REQUESTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_DATA = re.compile(r"\((\d+)\) data")
_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")


@dataclass(frozen=True)
class Called:
    """A server that answers over gRPC.

    Args:
        server: Its processes.
        port: On 127.0.0.1.
        message: A ModelInferRequest that asks for the subject's row.
    """

    server: Server
    port: int
    message: bytes

    def first_answer(self) -> bytes:
        """Wait until it answers, and return what it says.

        Raises:
            RuntimeError: The server ended, or did not answer in time.
        """
        deadline = time.monotonic() + START_SECONDS
        said = "nothing"
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            ask: Callable[..., bytes] = channel.unary_unary(METHOD)
            while time.monotonic() < deadline:
                if self.server.process.poll() is not None:
                    raise RuntimeError(f"the server ended: {self.server.last_words()}")
                try:
                    return ask(self.message, timeout=30)
                except grpc.RpcError as problem:
                    said = f"{problem.code().name} {problem.details()}"
                time.sleep(0.1)
        raise RuntimeError(f"no answer within {START_SECONDS:g} s, the last: {said}; {self.server.last_words()}")


def columns_message(subject: Subject) -> bytes:
    """Return a request with a tensor for each column, or one for an image."""
    if not subject.columns:
        return _message(subject, {"image": np.asarray([subject.row], np.float32)})
    return _message(subject, {name: np.asarray([value], np.float32) for name, value in subject.named.items()})


def matrix_message(subject: Subject) -> bytes:
    """Return a request with one tensor of all columns, as a server without a contract takes it."""
    return _message(subject, {"input": np.asarray([subject.row], np.float32)})


def _message(subject: Subject, tensors: dict[str, Any]) -> bytes:
    request = _Request(model_name=subject.name)
    for name, values in tensors.items():
        request.inputs.add(name=name, datatype="FP32", shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    made: bytes = request.SerializeToString()
    return made


def numbers(answer: bytes) -> list[float]:
    """Return what an answer predicts: a value, or a score or probability for each class."""
    response = _Response.FromString(answer)
    found: dict[str, list[float]] = {}
    for index, output in enumerate(response.outputs):
        kind = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}.get(output.datatype)
        if kind is not None and response.raw_output_contents:
            found[output.name] = [float(value) for value in np.frombuffer(response.raw_output_contents[index], kind)]
        elif kind is not None:
            (filled,) = (values for _, values in output.contents.ListFields())
            found[output.name] = [float(value) for value in filled]
    return found.get("probabilities", next(iter(found.values())))


def need_h2load() -> None:
    """Install h2load where it is not there and this user may.

    Raises:
        SystemExit: It is not there; what to do.
    """
    if shutil.which("h2load") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(("apt-get", "install", "-y", "-q", "nghttp2-client"), capture_output=True, check=False)
    if shutil.which("h2load") is None:
        sys.exit("This benchmark needs h2load: install it, such as by `apt-get install nghttp2-client`, and try again.")


def closed(
    called: Called, answer: bytes, folder: Path, span: float, *, connections: int, calls: int = 1
) -> dict[str, float]:
    """Call over some connections, each call as soon as the one before is answered; return `rate`, `cpu`, `p50`, `p99`.

    Args:
        called: The server.
        answer: What it answers, as long as every answer should be.
        folder: For what is sent, and for the times.
        span: Seconds.
        connections: That are kept.
        calls: At once on each.

    Raises:
        RuntimeError: A call failed, or none was answered.
    """
    (folder / "message").write_bytes(struct.pack(">BL", 0, len(called.message)) + called.message)
    (times := folder / "times").unlink(missing_ok=True)
    command = [
        "h2load", "-t1", f"-c{connections}", f"-m{calls}", f"-D{max(1, round(span))}", f"--log-file={times}",
        "-d", str(folder / "message"), *(part for header in HEADERS for part in ("-H", header)),
        f"http://127.0.0.1:{called.port}{METHOD}",
    ]  # fmt: skip
    before = called.server.cpu()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    cpu = called.server.cpu() - before
    counted, data, rate = (pattern.search(done.stdout) for pattern in (_REQUESTS, _DATA, _RATE))
    if done.returncode != 0 or counted is None or data is None or rate is None:
        raise RuntimeError(f"h2load failed: {(done.stderr or done.stdout).strip()[:200]}")
    succeeded, *lost = (int(number) for number in counted.groups())
    if any(lost) or not succeeded:
        raise RuntimeError(f"{sum(lost)} of {succeeded + sum(lost)} calls failed")
    size = int(data[1]) / succeeded
    # Those in flight at the end have sent bytes and are not counted.
    if not 0 <= size - len(answer) - PREFIX <= (len(answer) + PREFIX) * connections * calls / succeeded:
        raise RuntimeError(f"answers have {size:.1f} bytes, and {len(answer) + PREFIX} are right: calls failed")
    took = [int(line.split("\t")[2]) / 1e6 for line in times.read_text(encoding="utf-8").splitlines()]
    quantiles = statistics.quantiles(took, n=100)
    return {"rate": float(rate[1]), "cpu": cpu / succeeded, "p50": statistics.median(took), "p99": quantiles[98]}
