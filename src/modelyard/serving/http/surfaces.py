"""Every surface of a worker, as one list of routes."""

from __future__ import annotations

from modelyard.serving.auth.spec import AuthSpec, TlsSpec
from modelyard.serving.http.acumos import Acumos
from modelyard.serving.http.management import Management
from modelyard.serving.http.openapi import OpenApi, Security
from modelyard.serving.http.openinference import OpenInference
from modelyard.serving.http.plain import Plain
from modelyard.serving.http.probes import Probes
from modelyard.serving.http.routing import Route
from modelyard.serving.inference import Inference
from modelyard.serving.liaison import Liaison

__all__ = ["routes_of"]


def routes_of(
    inference: Inference, liaison: Liaison, auth: AuthSpec | None = None, tls: TlsSpec | None = None
) -> tuple[Route, ...]:
    """Return the routes of all surfaces, those of predictions first.

    Args:
        inference: Of the worker.
        liaison: Asks the supervisor.
        auth: How clients prove who they are, to be described.
        tls: How connections are encrypted, to be described.
    """
    routes = (
        *Plain(inference).routes,
        *OpenInference(inference, liaison).routes,
        *Acumos(inference).routes,
        *Management(liaison).routes,
        *Probes(inference.slots.page, inference.metrics).routes,
    )
    return (*routes, *OpenApi(inference, routes, Security.of(auth, tls)).routes)
