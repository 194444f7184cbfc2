"""What runs in a sandbox: makes packages of uploads, and answers for them."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import sys
from pathlib import Path
from typing import Any

import msgspec

from modelyard.errors import ContractError, ModelyardError, NotFoundError
from modelyard.serving.sandbox import Bounds, read_frame, write_frame

__all__ = ["main"]


class _Told(msgspec.Struct):
    bounds: Bounds
    niceness: int


class Guest:
    """The upload, once it was taken in.

    Args:
        folder: Where it works.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._served: Any = None
        self._schema: Any = None

    def do(self, question: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Do what is asked."""
        if question["do"] == "take_in":
            return self._take_in(question, body), b""
        if question["do"] == "load":
            taken = self._take_in(question, body)
            self._load(body)
            return taken, b""
        return self._answer(question, body)

    def _take_in(self, question: dict[str, Any], body: bytes) -> dict[str, Any]:
        intake = importlib.import_module("modelyard.packages.intake")
        taken = intake.take_in(
            Path(question["upload"]), self._folder / "made", name=question["name"], proto=body or None,
            own_proto=question["own_proto"], wishes=msgspec.convert(question["wishes"], intake.Wishes),
        )  # fmt: skip
        told: dict[str, Any] = msgspec.to_builtins(taken)
        return told

    def _load(self, proto: bytes) -> None:
        loader = importlib.import_module("modelyard.serving.packaged")
        calls = importlib.import_module("modelyard.serving.http.acumos_calls")
        self._served = loader.load(self._folder / "made" / "package")
        self._schema = calls.parse(proto)

    def _answer(self, question: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        calls = importlib.import_module("modelyard.serving.http.acumos_calls")
        call = calls.Call(
            question["kind"], question["operation"], question["wanted"], by_rows=question["by_rows"],
            max_rows=question["max_rows"], schema=self._schema,
        )  # fmt: skip
        columns = call.decode(self._served, body)
        try:
            outputs = self._served.predict(columns)
        except ContractError:
            # A number that only the model finds too large.
            raise
        except Exception as error:
            raise _ModelFailedError(repr(error)) from error
        return {"headers": call.headers()}, call.answer(self._served, outputs)


class _ModelFailedError(Exception):
    """The model of the upload raised."""


def _refusal(error: Exception) -> dict[str, Any]:
    problems = importlib.import_module("modelyard.serving.problems")
    problem = problems.problem_of(error)
    status, what, where, remedy = problem.status, problem.detail, problem.where, problem.remedy
    joined = False
    if isinstance(error, MemoryError):
        status, what, remedy = 422, "The upload needs more memory than it may take.", "Upload a smaller model."
    elif isinstance(error, ModelyardError) and not isinstance(error, NotFoundError):
        # What is wrong is the upload and not the service: it is told.
        joined = error.code in ("contract", "input")
        status = 415 if error.code == "format" else status if joined else 422
        what, where, remedy = error.what, _told(error.where), error.remedy
    elif isinstance(error, NotFoundError):
        joined = True
    elif not isinstance(error, ModelyardError | problems.HttpProblem):
        what = f"{type(error).__name__}: {error}"[:500]
    code = "memory" if isinstance(error, MemoryError) else getattr(error, "code", "internal")
    failure = {"code": code, "what": what, "where": where or "", "remedy": remedy or ""}
    return {"refused": failure, "status": status, "joined": joined}


def _told(where: str | None) -> str | None:
    """Return a place in the upload; a path of this machine is nobody's business."""
    return None if where is None or where.startswith("/") else where


def main() -> None:
    """Answer until the other side is gone."""
    told = msgspec.json.decode(sys.argv[1], type=_Told)
    bounds = told.bounds
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, bounds.memory),
        (resource.RLIMIT_CPU, bounds.cpu_seconds),
        (resource.RLIMIT_FSIZE, bounds.file_bytes),
        (resource.RLIMIT_NOFILE, 256),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    os.nice(told.niceness)
    # What native code prints must not come between the frames.
    answers = os.dup(1)
    os.dup2(2, 1)
    guest = Guest(Path.cwd())
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            question, body = read_frame(0)
            try:
                head, content = guest.do(question, body)
            except Exception as error:
                head, content = _refusal(error), b""
            write_frame(answers, head, content)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
