"""A subject's predictor for the servers that call one themselves: the same lines in every peer's environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np


class Predictor:
    """A model that a subject's folder has, in one thread.

    Args:
        kind: `sklearn` for the estimator as it was fitted, `onnx` for the file that all share.
        folder: Of the subject; default what the environment's BENCH_SUBJECT says.
    """

    def __init__(self, kind: str | None = None, folder: str | None = None) -> None:
        place = Path(folder or os.environ["BENCH_SUBJECT"])
        if (kind or os.environ["BENCH_KIND"]) == "sklearn":
            import joblib

            self._estimator: Any = joblib.load(place / "model.joblib")
            self._session: Any = None
        else:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(
                str(place / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
            self._input, self._outputs = self._session.get_inputs()[0].name, [self._session.get_outputs()[-1].name]

    def __call__(self, rows: Any) -> Any:
        """Predict rows, as a matrix."""
        if self._session is None:
            return self._estimator.predict(rows)
        return self._session.run(self._outputs, {self._input: np.asarray(rows, np.float32)})[0]


def columns() -> tuple[str, ...]:
    """Return the names of the subject's columns; none where it takes one tensor."""
    described = json.loads((Path(os.environ["BENCH_SUBJECT"]) / "subject.json").read_text(encoding="utf-8"))
    return tuple(described["columns"])
