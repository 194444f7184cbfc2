"""The plain surface: `POST /v1/models/{name}/predict` in JSON, CSV, Arrow and Parquet, and what is served."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from modelyard.contracts import Columns
from modelyard.packages.table import Table
from modelyard.serving.http.negotiation import acceptable, media_type
from modelyard.serving.http.routing import Endpoint, Prediction, Request, Response, Route
from modelyard.serving.inference import Inference
from modelyard.serving.loading import ARROW, CSV, JSON, JSON_COLUMNS, PARQUET, Served
from modelyard.serving.problems import HttpProblem
from modelyard.serving.slots import Generation
from modelyard.serving.spec import Limits

__all__ = ["Plain"]

KINDS = (JSON, CSV, ARROW, PARQUET)
ARROW_KINDS = frozenset({ARROW, PARQUET})
_BY_COLUMNS = re.compile(rb'^\s*\{\s*"columns"\s*:')


class _Rows:
    """How one request's rows are read and answered.

    Args:
        kind: Media type of the body.
        wanted: Media type of the answer.
        limits: What a request may ask for.
    """

    __slots__ = ("_by_columns", "_kind", "_limits", "_wanted")

    def __init__(self, kind: str, wanted: str, limits: Limits) -> None:
        self._kind = kind
        self._wanted = wanted
        self._limits = limits
        self._by_columns = False

    def decode(self, served: Served, body: bytes) -> Columns:
        """Return checked columns."""
        kind = self._kind
        if kind in ARROW_KINDS:
            return served.unpackers[kind](body, self._limits)
        columns = served.decoders[kind](body, self._limits.rows)
        # Nobody makes a table of columns that come one by one.
        self._by_columns = kind == JSON and not isinstance(columns, Table) and _BY_COLUMNS.match(body) is not None
        return columns

    def encode(self, generation: Generation, outputs: Columns) -> Response:
        """Return the response; in JSON it is by columns where the request was."""
        encoders, wanted = generation.served.encoders, self._wanted
        if wanted == JSON:
            answer = encoders[JSON_COLUMNS if self._by_columns else JSON](outputs)
            answer = generation.json_prefix + b"," + answer[1:]
        else:
            answer = encoders[wanted](outputs)
        return Response(200, (("content-type", wanted), *generation.headers), answer)


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

    def predict(self, request: Request) -> Prediction:
        """Predict the rows of a body."""
        return self._predict(request)

    def predict_version(self, request: Request) -> Prediction:
        """Predict by one version alone."""
        return self._predict(request, version=request.parameters[1])

    def predict_label(self, request: Request) -> Prediction:
        """Predict by what a label names."""
        return self._predict(request, label=request.parameters[1])

    def _predict(self, request: Request, *, version: str | None = None, label: str | None = None) -> Prediction:
        headers = request.exchange.headers
        kind = media_type(headers.get("content-type"), KINDS)
        wanted = acceptable(headers.get("accept"), KINDS, kind)
        # Arrow is imported at its first use, and unpacks what is far larger than the body.
        beside = kind in ARROW_KINDS or wanted in ARROW_KINDS
        codec = _Rows(kind, wanted, self._inference.limits)
        return Prediction(request.parameters[0], codec, version, label, beside)

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
