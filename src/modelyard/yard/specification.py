"""What a project's service is asked to be: blueprints and settings in, the runner's specification out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.blueprint import model as blueprint
from modelyard.blueprint.model import Service
from modelyard.serving.route import MILLION
from modelyard.serving.sandbox import Bounds
from modelyard.serving.spec import Limits, ServiceSpec
from modelyard.yard.access import access_of

if TYPE_CHECKING:
    from modelyard.yard.yard import Yard

__all__ = ["promises_of", "specification"]


def specification(
    yard: Yard,
    name: str,
    folder: Path,
    *,
    host: str | None = None,
    port: int = 0,
    grpc_port: int | None = None,
    workers: int | None = None,
    explicit: bool = False,
) -> ServiceSpec:
    """Return what the service of an environment is asked to be.

    Args:
        yard: The project.
        name: Of the environment, or of a service that follows none.
        folder: Where it keeps its state.
        host: Default: the setting.
        port: Of HTTP; 0: the one it had last, else a free one.
        grpc_port: As `port`, for gRPC; None: as the setting says.
        workers: Default: the setting.
        explicit: Whether it serves what is loaded by hand instead of what is released.

    Raises:
        SettingsError: A setting says something impossible.
        BlueprintError: What is wrong in a blueprint.
    """
    settings = yard.settings
    return ServiceSpec(
        name=name,
        folder=folder,
        host=host or settings.serve_host,
        port=port,
        grpc_port=0 if grpc_port is None and settings.serve_grpc else grpc_port,
        workers=workers or settings.serve_workers,
        log_level=settings.log_level,
        otel_endpoint=settings.otel_endpoint,
        allow_pickle=settings.allow_pickle,
        control="explicit" if explicit else "released",
        **promises_of(_services(yard, name)),
        **access_of(settings, yard.project),
    )


def promises_of(services: Sequence[Service]) -> dict[str, Any]:
    """Return the fields of a ServiceSpec that blueprints state.

    A runner has one front door for all its models: it is as wide as the widest, and as careful as the most careful.

    Args:
        services: Of each blueprint whose model may be served; none gives the defaults.
    """
    if not services:
        return {}
    shares = [service.canary.share for service in services if service.canary.share > 0]
    rates = [service.slo.error_rate for service in services if service.slo.error_rate is not None]
    quantiles = [service.slo.p99_ms / 1000 for service in services if service.slo.p99_ms is not None]
    promises: dict[str, Any] = {
        "limits": _widest([service.limits for service in services]),
        "minimum_requests": max(service.canary.minimum for service in services),
        "canary_ppm": round(min(shares, default=0.0) * MILLION),
        "canary_seconds": max(service.canary.hold for service in services),
        "grace_seconds": max(service.grace for service in services),
    }
    if rates:
        promises["error_rate"] = min(rates)
    if quantiles:
        promises["p99_seconds"] = min(quantiles)
    return promises


def _widest(limits: Sequence[blueprint.Limits]) -> Limits:
    """Return limits of which each is the largest that a blueprint states."""
    stated = [one.model_dump() for one in limits]
    sandboxes = [one.pop("sandbox") for one in stated]
    return Limits(
        **{name: max(one[name] for one in stated) for name in stated[0]},
        sandbox=Bounds(**{name: max(one[name] for one in sandboxes) for name in sandboxes[0]}),
    )


def _services(yard: Yard, environment: str) -> list[Service]:
    """Return what blueprints say of services: those that release to the environment, else all."""
    blueprints = [yard.blueprint(name) for name in yard.blueprints()]
    released = [b.service for b in blueprints if any(e.name == environment for e in b.environments)]
    return released or [b.service for b in blueprints]
