"""Every surface of a worker, as one list of routes."""

from __future__ import annotations

from pathlib import Path

from modelyard.serving.auth.spec import AuthSpec, TlsSpec
from modelyard.serving.http.acumos import Acumos
from modelyard.serving.http.acumos_uploads import AcumosUploads
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
    inference: Inference,
    liaison: Liaison,
    auth: AuthSpec | None = None,
    tls: TlsSpec | None = None,
    uploads: Path | None = None,
    *,
    explicit: bool = True,
) -> tuple[Route, ...]:
    """Return the routes of all surfaces, those of predictions first.

    Args:
        inference: Of the worker.
        liaison: Asks the supervisor.
        auth: How clients prove who they are, to be described.
        tls: How connections are encrypted, to be described.
        uploads: Folder of uploads; None takes none.
        explicit: Whether clients say what is served.
    """
    routes = (
        *Plain(inference).routes,
        *OpenInference(inference, liaison).routes,
        *Acumos(inference).routes,
        *(AcumosUploads(inference, liaison, uploads, explicit=explicit).routes if uploads is not None else ()),
        *Management(liaison).routes,
        *Probes(inference.slots.page, inference.metrics).routes,
    )
    return (*routes, *OpenApi(inference, routes, Security.of(auth, tls)).routes)
