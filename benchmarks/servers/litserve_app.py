"""A LitServe API with two workers, two API servers, and the queue that its guide advises for speed."""

import os
import sys
from typing import Any

import litserve
import numpy as np
from predictors import Predictor

BATCHED = os.environ.get("BENCH_BATCHED") == "1"


class Bench(litserve.LitAPI):
    """One model."""

    # LitServe would take a type written here for a schema.
    def setup(self, device):  # type: ignore[no-untyped-def]
        """Load."""
        del device
        self.predictor = Predictor()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # as for `setup`
        """Return a row, or the rows of one request; LitServe would take a type written here for a schema."""
        rows = np.asarray(request["rows"], np.float32)
        return rows[0] if BATCHED else rows

    def batch(self, inputs: list[Any]) -> Any:
        """Return a matrix of several rows."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Predict a matrix."""
        return self.predictor(x)

    def unbatch(self, output: Any) -> Any:
        """Return the predictions, one for each request."""
        return list(output)

    # LitServe would take a type written here for a schema.
    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """Answer plain lists."""
        return {"predictions": [output.tolist()] if BATCHED else output.tolist()}


if __name__ == "__main__":
    api = Bench(max_batch_size=64, batch_timeout=0.001) if BATCHED else Bench()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=2, log_level="warning", generate_client_file=False,
        access_log=False,
    )  # fmt: skip
