"""What Prometheus reads: counters of all workers together, and the supervisor's numbers from the shared page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from modelyard.serving.route import MILLION, Route, Sampling
from modelyard.serving.state import Page
from modelyard.serving.tally import BUCKETS, Counts, Tally

if TYPE_CHECKING:
    from modelyard.serving.slots import Slot, Slots

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one worker. `PROMETHEUS_MULTIPROC_DIR` must name a folder that the workers of a service share.

    Args:
        page: Shared with the supervisor.
        slots: The worker's.
        workers: How many workers the service has.
    """

    def __init__(self, page: Page, slots: Slots, workers: int) -> None:
        self._tally = Tally(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        self._registry = CollectorRegistry()
        self._registry.register(_Answered(self._tally))
        self._registry.register(_SharedPage(page, slots, workers))
        self.answered = self._tally.count
        """Counts a request: model, version, status, seconds."""

    def render(self) -> bytes:
        """Return the text that Prometheus reads, over all workers."""
        return generate_latest(self._registry)


class _Answered(Collector):
    """Requests that were answered, and how long they took."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "modelyard_requests", "Requests answered.", labels=("model", "version", "status")
        )
        seconds = HistogramMetricFamily(
            "modelyard_request_seconds", "From the request's head to its answer.", labels=("model",)
        )
        models: dict[str, Counts] = {}
        for (model, version, status), counts in sorted(self._tally.together().items()):
            requests.add_metric((model, version, str(status)), counts.requests)
            models.setdefault(model, Counts()).add(counts)
        for model, counts in models.items():
            bounds = [*map(str, BUCKETS), "+Inf"]
            seconds.add_metric((model,), list(zip(bounds, accumulate(counts.buckets), strict=True)), counts.seconds)
        yield from (requests, seconds)


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
        yield CounterMetricFamily("modelyard_worker_restarts", "Workers replaced.", value=page.words[page.RESTARTS])
        yield GaugeMetricFamily(
            "modelyard_workers_held_back", "Workers that wait for memory.", value=page.words[page.HELD_BACK]
        )
        generation = GaugeMetricFamily("modelyard_generation", "Committed generation.", labels=("model",))
        swaps = CounterMetricFamily("modelyard_swaps", "Swaps committed.", labels=("model",))
        failed = CounterMetricFamily("modelyard_swaps_failed", "Swaps refused.", labels=("model",))
        rollbacks = CounterMetricFamily("modelyard_rollbacks", "Rollbacks committed.", labels=("model",))
        prepare = GaugeMetricFamily(
            "modelyard_prepare_seconds", "Last prepare over all workers; 0 for a rollback.", labels=("model",)
        )
        commit = GaugeMetricFamily("modelyard_commit_seconds", "Last commit.", labels=("model",))
        roles = _Roles()
        for name, slot in list(self._slots.items()):
            words = page.words[slot.word : slot.word + page.SLOT_WORDS]
            generation.add_metric((name,), slot.committed_number)
            swaps.add_metric((name,), words[page.SWAPS])
            failed.add_metric((name,), words[page.FAILED])
            rollbacks.add_metric((name,), words[page.ROLLBACKS])
            prepare.add_metric((name,), words[page.PREPARE_NS] / 1e9)
            commit.add_metric((name,), words[page.COMMIT_NS] / 1e9)
            roles.add(name, slot, words)
        yield from (generation, swaps, failed, rollbacks, prepare, commit, *roles.families)


class _Roles:
    """Metrics of what stands beside the stable generations."""

    def __init__(self) -> None:
        model = ("model",)
        self._canary = GaugeMetricFamily("modelyard_canary_generation", "Canary; 0 for none.", labels=model)
        self._share = GaugeMetricFamily("modelyard_canary_share", "Of the requests, from 0 to 1.", labels=model)
        self._shadow = GaugeMetricFamily("modelyard_shadow_generation", "Shadow; 0 for none.", labels=model)
        self._sampled = GaugeMetricFamily(
            "modelyard_shadow_share", "Of the requests that it sees, from 0 to 1.", labels=model
        )
        self._label = GaugeMetricFamily(
            "modelyard_label_generation", "Generation that a label names.", labels=("model", "label")
        )
        self._counters = {
            Page.CANARIES_STOPPED: CounterMetricFamily(
                "modelyard_canaries_stopped", "Canaries that passed the limits.", labels=model
            ),
            Page.SHADOWS_STOPPED: CounterMetricFamily(
                "modelyard_shadows_stopped", "Shadows that passed the limits.", labels=model
            ),
            Page.COMPARED: CounterMetricFamily(
                "modelyard_shadow_compared", "Answers compared with a shadow's.", labels=model
            ),
            Page.DIFFERING: CounterMetricFamily(
                "modelyard_shadow_differing", "Of these, with any difference.", labels=model
            ),
            Page.DROPPED: CounterMetricFamily(
                "modelyard_shadow_dropped", "Requests that a shadow was too slow to see.", labels=model
            ),
        }

    def add(self, name: str, slot: Slot, words: memoryview) -> None:
        """Add a slot.

        Args:
            name: Of its model.
            slot: The worker's.
            words: Of the slot in the shared page.
        """
        route, sampling = Route.unpack(words[Page.ROUTE]), Sampling.unpack(words[Page.SHADOW])
        self._canary.add_metric((name,), route.canary)
        self._share.add_metric((name,), route.ppm / MILLION)
        self._shadow.add_metric((name,), sampling.generation)
        self._sampled.add_metric((name,), sampling.ppm / MILLION)
        for label, number in slot.labels.items():
            self._label.add_metric((name, label), number)
        for word, counter in self._counters.items():
            counter.add_metric((name,), words[word])

    @property
    def families(self) -> tuple[Metric, ...]:
        """All of them."""
        return (self._canary, self._share, self._shadow, self._sampled, self._label, *self._counters.values())
