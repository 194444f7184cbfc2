"""Predicts with onnxruntime; needs neither the library that trained the model nor the onnx library."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

# It reads this when it is loaded; without it, it writes an id of the device under the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

from modelyard.contracts import Columns
from modelyard.errors import IntegrityError
from modelyard.files import storage_errors
from modelyard.packages.flavours.heads import INPUT, SCORES
from modelyard.packages.flavours.onnx_scan import scan

__all__ = ["OnnxPredictor", "check_onnx"]

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that onnxruntime has compiled in. Any other would need code from elsewhere."""


def check_onnx(file: Path) -> None:
    """See that an ONNX file needs nothing but itself, its own folder and built-in operators.

    Raises:
        IntegrityError: It is no ONNX file, names external data outside its folder, or operators of another domain.
        StorageError: It can't be read.
    """
    with storage_errors(file):
        data = file.read_bytes()
    try:
        findings = scan(data)
    except ValueError as error:
        raise IntegrityError(f"This is not an ONNX file: {error}.", where=str(file)) from error
    foreign = sorted(findings.domains - DOMAINS)
    if foreign:
        raise IntegrityError(
            f"The model uses operators of the domain {foreign[0]!r}, which would need foreign code.",
            where=str(file),
            remedy=f"Export it with operators of {', '.join(sorted(DOMAINS - {''}))} alone.",
        )
    folder = file.parent.resolve()
    for location in sorted(findings.locations):
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise IntegrityError(
                f"The model reads external data at {location!r}, outside its folder.",
                where=str(file),
                remedy="Export it with external_data=False, or with the data beside it.",
            )


class OnnxPredictor:
    """A loaded ONNX model over one float32 input.

    Args:
        file: The `.onnx` file; it is checked first.
        input_name: Name of the graph's input; None takes the first one.
        output_name: Name of the graph's output to compute; None takes the first one.
        threads: For one prediction. One is the default: a service runs many predictions side by side instead.

    Raises:
        IntegrityError: The file can't be trusted, or is no model that onnxruntime can run.
    """

    def __init__(
        self, file: Path, *, input_name: str | None = None, output_name: str | None = None, threads: int = 1
    ) -> None:
        check_onnx(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime raises a dozen classes of its own without a common base but Exception.
            raise IntegrityError(f"onnxruntime can't load the model: {error}.", where=str(file)) from error
        self.input_name: str = input_name or self._session.get_inputs()[0].name
        self.output_name: str = output_name or self._session.get_outputs()[0].name

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Of one row; None where the model takes any size."""
        shape = self._session.get_inputs()[0].shape
        return tuple(size if isinstance(size, int) else None for size in shape[1:])

    @property
    def inputs(self) -> tuple[tuple[str, str], ...]:
        """Every input of the graph that must be given: its name, and its type as onnxruntime writes it."""
        return tuple((given.name, given.type) for given in self._session.get_inputs())

    @property
    def output_names(self) -> tuple[str, ...]:
        """Every output of the graph."""
        return tuple(output.name for output in self._session.get_outputs())

    def predict(self, columns: Columns) -> Columns:
        """Return `scores` for the rows of `input`."""
        return {SCORES: np.asarray(self._session.run([self.output_name], {self.input_name: columns[INPUT]})[0])}
