"""Every surface of a worker, as one list of routes."""

from __future__ import annotations

from modelyard.serving.http.acumos import Acumos
from modelyard.serving.http.management import Management
from modelyard.serving.http.openinference import OpenInference
from modelyard.serving.http.plain import Plain
from modelyard.serving.http.probes import Probes
from modelyard.serving.http.routing import Route
from modelyard.serving.inference import Inference
from modelyard.serving.liaison import Liaison

__all__ = ["routes_of"]


def routes_of(inference: Inference, liaison: Liaison) -> tuple[Route, ...]:
    """Return the routes of all surfaces, those of predictions first.

    Args:
        inference: Of the worker.
        liaison: Asks the supervisor.
    """
    return (
        *Plain(inference).routes,
        *OpenInference(inference, liaison).routes,
        *Acumos(inference).routes,
        *Management(liaison).routes,
        *Probes(inference.slots.page, inference.metrics).routes,
    )
