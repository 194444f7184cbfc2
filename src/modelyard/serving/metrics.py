"""What Prometheus reads: counters of all workers together, and the supervisor's numbers from the shared page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from modelyard.serving.state import Page

if TYPE_CHECKING:
    from modelyard.serving.slots import Slots

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The metrics of one worker. `PROMETHEUS_MULTIPROC_DIR` must name a folder that the workers of a service share.

    Args:
        page: Shared with the supervisor.
        slots: The worker's.
        workers: How many workers the service has.
    """

    def __init__(self, page: Page, slots: Slots, workers: int) -> None:
        own = CollectorRegistry()
        self._requests = Counter(
            "modelyard_requests", "Requests answered.", ("model", "version", "status"), registry=own
        )
        self._seconds = Histogram(
            "modelyard_request_seconds",
            "From the request's head to its answer.",
            ("model",),
            registry=own,
            buckets=_BUCKETS,
        )
        self._shared = CollectorRegistry()
        self._shared.register(_SharedPage(page, slots, workers))
        # Children are looked up once: the library's own look-up costs more than the increment.
        self._counts: dict[tuple[str, str, int], Counter] = {}
        self._latencies: dict[str, Histogram] = {}

    def answered(self, model: str, version: str, status: int, seconds: float) -> None:
        """Count a request."""
        key = (model, version, status)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._requests.labels(model, version, str(status))
        count.inc()
        latency = self._latencies.get(model)
        if latency is None:
            latency = self._latencies[model] = self._seconds.labels(model)
        latency.observe(seconds)

    def render(self) -> bytes:
        """Return the text that Prometheus reads, over all workers."""
        everyone = CollectorRegistry()
        # The library's constructor has no type hints.
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone) + generate_latest(self._shared)


class _SharedPage(Collector):
    """Metrics that stand in the shared page's words."""

    def __init__(self, page: Page, slots: Slots, workers: int) -> None:
        self._page = page
        self._slots = slots
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        page = self._page
        yield GaugeMetricFamily("modelyard_in_flight", "Requests held now.", value=page.in_flight(self._workers))
        yield GaugeMetricFamily(
            "modelyard_ready", "Whether every model that should be live is.", value=page.words[page.READY]
        )
        generation = GaugeMetricFamily("modelyard_generation", "Committed generation.", labels=("model",))
        swaps = CounterMetricFamily("modelyard_swaps", "Swaps committed.", labels=("model",))
        failed = CounterMetricFamily("modelyard_swaps_failed", "Swaps refused.", labels=("model",))
        rollbacks = CounterMetricFamily("modelyard_rollbacks", "Rollbacks committed.", labels=("model",))
        prepare = GaugeMetricFamily(
            "modelyard_prepare_seconds", "Last prepare over all workers; 0 for a rollback.", labels=("model",)
        )
        commit = GaugeMetricFamily("modelyard_commit_seconds", "Last commit.", labels=("model",))
        for name, slot in list(self._slots.items()):
            words = page.words[slot.word : slot.word + page.SLOT_WORDS]
            generation.add_metric((name,), slot.committed_number)
            swaps.add_metric((name,), words[page.SWAPS])
            failed.add_metric((name,), words[page.FAILED])
            rollbacks.add_metric((name,), words[page.ROLLBACKS])
            prepare.add_metric((name,), words[page.PREPARE_NS] / 1e9)
            commit.add_metric((name,), words[page.COMMIT_NS] / 1e9)
        yield from (generation, swaps, failed, rollbacks, prepare, commit)
