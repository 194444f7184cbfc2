"""A Ray Serve deployment of two replicas on this machine alone."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from predictors import Predictor
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

QUIET = LoggingConfig(enable_access_log=False, log_level="ERROR")


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
class Bench:
    """One model."""

    def __init__(self, kind: str, folder: str) -> None:
        self.predictor = Predictor(kind, folder)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Predict rows."""
        asked = await request.json()
        return {"predictions": self.predictor(asked["rows"]).tolist()}


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
class Batched:
    """One model, asked by batches."""

    def __init__(self, kind: str, folder: str) -> None:
        self.predictor = Predictor(kind, folder)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Predict a row together with others."""
        asked = await request.json()
        return {"predictions": [await self.together(asked["rows"][0])]}

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def together(self, rows: list[Any]) -> list[Any]:
        """Predict rows of several requests at once."""
        return list(self.predictor(rows).tolist())


if __name__ == "__main__":
    here = str(Path(__file__).parent.resolve())
    ray.init(
        num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False,
        _temp_dir=os.environ["BENCH_RAY"], object_store_memory=100_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config=QUIET)
    deployment: Any = Batched if os.environ.get("BENCH_BATCHED") == "1" else Bench
    serve.run(
        deployment.bind(os.environ["BENCH_KIND"], os.environ["BENCH_SUBJECT"]), route_prefix="/predict",
        logging_config=QUIET,
    )  # fmt: skip
    threading.Event().wait()
