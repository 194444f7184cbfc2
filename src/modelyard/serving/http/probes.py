"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio

from modelyard.serving.http.routing import Endpoint, Request, Response, Route
from modelyard.serving.loading import JSON
from modelyard.serving.metrics import CONTENT_TYPE, Metrics
from modelyard.serving.state import Page

__all__ = ["Probes"]


class Probes:
    """What an orchestrator and Prometheus ask.

    Args:
        page: Shared with the supervisor.
        metrics: Of this worker.
    """

    def __init__(self, page: Page, metrics: Metrics) -> None:
        self._words = page.words
        self._metrics = metrics

    @property
    def routes(self) -> tuple[Route, ...]:
        """`/healthz`, `/readyz`, `/metrics`."""
        return (
            Route("/healthz", {"GET": Endpoint(self.live, "public")}),
            Route("/readyz", {"GET": Endpoint(self.ready, "public")}),
            Route("/metrics", {"GET": Endpoint(self.metrics, "read")}),
        )

    async def live(self, _request: Request) -> Response:
        """Say that a worker answers."""
        return Response(200, [("content-type", JSON)], b'{"status":"live"}')

    async def ready(self, _request: Request) -> Response:
        """Say whether every model that should be live is."""
        if self._words[Page.READY]:
            return Response(200, [("content-type", JSON)], b'{"status":"ready"}')
        return Response(503, [("content-type", JSON), ("retry-after", "1")], b'{"status":"not ready"}')

    async def metrics(self, _request: Request) -> Response:
        """Return the metrics of all workers; reading their files takes milliseconds."""
        text = await asyncio.get_running_loop().run_in_executor(None, self._metrics.render)
        return Response(200, [("content-type", CONTENT_TYPE)], text)
