"""A BentoML service as its guide writes one for a NumPy model."""

from __future__ import annotations

import bentoml
import numpy as np
from predictors import Predictor


@bentoml.service(workers=2, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Bench:
    """One model."""

    def __init__(self) -> None:
        self.predictor = Predictor()

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Predict a matrix."""
        return self.predictor(rows)

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict_batched(self, rows: np.ndarray) -> np.ndarray:
        """Predict what several requests ask for at once."""
        return self.predictor(rows)
