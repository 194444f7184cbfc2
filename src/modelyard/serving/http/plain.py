"""The plain surface: `POST /v1/models/{name}/predict` in JSON, CSV, Arrow and Parquet, and what is served."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from modelyard.contracts import Columns
from modelyard.serving.http.negotiation import acceptable, media_type
from modelyard.serving.http.routing import Answering, Endpoint, Request, Response, Route
from modelyard.serving.inference import Inference
from modelyard.serving.loading import ARROW, CSV, JSON, JSON_COLUMNS, PARQUET, Served
from modelyard.serving.problems import HttpProblem
from modelyard.serving.slots import Generation

__all__ = ["Plain"]

KINDS = (JSON, CSV, ARROW, PARQUET)
ARROW_KINDS = frozenset({ARROW, PARQUET})
_BY_COLUMNS = re.compile(rb'^\s*\{\s*"columns"\s*:')


class Plain:
    """Predictions by rows, columns or a table.

    Args:
        inference: Of this worker.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    @property
    def routes(self) -> tuple[Route, ...]:
        """`/v1/models` and what lies under it."""
        return (
            Route("/v1/models/{name}/predict", {"POST": Endpoint(self.predict, "infer")}),
            Route("/v1/models/{name}/versions/{version}/predict", {"POST": Endpoint(self.predict_version, "infer")}),
            Route("/v1/models/{name}/labels/{label}/predict", {"POST": Endpoint(self.predict_label, "infer")}),
            Route("/v1/models/{name}", {"GET": Endpoint(self.model, "read")}),
            Route("/v1/models", {"GET": Endpoint(self.models, "read")}),
        )

    def predict(self, request: Request) -> Answering:
        """Predict the rows of a body."""
        return self._predict(request)

    def predict_version(self, request: Request) -> Answering:
        """Predict by one version alone."""
        return self._predict(request, version=request.parameters[1])

    def predict_label(self, request: Request) -> Answering:
        """Predict by what a label names."""
        return self._predict(request, label=request.parameters[1])

    async def _predict(self, request: Request, *, version: str | None = None, label: str | None = None) -> Response:
        headers = request.exchange.headers
        kind = media_type(headers.get("content-type"), KINDS)
        wanted = acceptable(headers.get("accept"), KINDS, kind)
        with self._inference.take(
            request.parameters[0],
            request.id,
            key=request.routing_key,
            version=version,
            label=label,
            trace=request.trace,
        ) as taken:
            request.named = taken.generation.headers
            body = await request.body()

            limits = self._inference.limits

            def decode(served: Served, given: bytes) -> Columns:
                if kind in ARROW_KINDS:
                    return served.unpackers[kind](given, limits)
                return served.decoders[kind](given, limits.rows)

            def encode(generation: Generation, outputs: Columns) -> bytes:
                if wanted != JSON:
                    return generation.served.encoders[wanted](outputs)
                by_columns = kind == JSON and _BY_COLUMNS.match(body)
                answer = generation.served.encoders[JSON_COLUMNS if by_columns else JSON](outputs)
                return generation.json_prefix + b"," + answer[1:]

            # Arrow is imported at its first use, and unpacks what is far larger than the body.
            beside = kind in ARROW_KINDS or wanted in ARROW_KINDS
            answer = await taken.answer(body, decode, encode, beside=beside)
            return Response(200, [("content-type", wanted), *taken.generation.headers], answer)

    async def models(self, _request: Request) -> Response:
        """List what is served."""
        models = [self._describe(name) for name in sorted(self._inference.slots)]
        return Response(200, [("content-type", JSON)], msgspec.json.encode({"models": models}))

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        return Response(200, [("content-type", JSON)], msgspec.json.encode(self._describe(request.parameters[0])))

    def _describe(self, name: str) -> dict[str, Any]:
        slot = self._inference.slots.get(name)
        if slot is None:
            raise HttpProblem(
                404, "not-found", "No model of that name is served here.", remedy="GET /v1/models lists them."
            )
        generation = slot.committed
        if generation is None:
            return {"name": name, "state": "not loaded", "version": None, "generation": None}
        return {
            "name": name,
            "state": "live",
            "version": generation.version,
            "generation": generation.number,
            "package": generation.record.package,
            "contract": generation.served.contract,
        }
