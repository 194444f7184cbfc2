"""The gRPC front of a worker: its services, and the server that takes their calls."""

from __future__ import annotations

import asyncio
import ssl

from modelyard.serving.grpc.calls import Dispatcher, Guard
from modelyard.serving.grpc.health import HEALTH, Health
from modelyard.serving.grpc.open_inference import SERVICE, OpenInference
from modelyard.serving.grpc.reflection import REFLECTIONS, Reflection
from modelyard.serving.grpc.repository import Repository
from modelyard.serving.grpc.server import GrpcServer
from modelyard.serving.inference import Inference
from modelyard.serving.liaison import Liaison

__all__ = ["SERVICES", "grpc_server"]

SERVICES = (SERVICE, HEALTH, *REFLECTIONS)


def grpc_server(
    inference: Inference,
    liaison: Liaison,
    loop: asyncio.AbstractEventLoop,
    descriptor: int,
    worker: int,
    guard: Guard | None = None,
    tls: ssl.SSLContext | None = None,
) -> GrpcServer:
    """Return the server of a worker's gRPC port; it accepts once it is started.

    Args:
        inference: Of the worker.
        liaison: To the supervisor.
        loop: The event loop.
        descriptor: Of the listening socket, shared with other processes.
        worker: Number of the worker, from 0.
        guard: Who may do what; None lets everybody do everything.
        tls: How connections are encrypted, or None.
    """
    health = Health(inference.slots.page, SERVICES)
    services = (OpenInference(inference), Repository(liaison, inference.tracer), health, Reflection(SERVICES))
    methods = {path: method for service in services for path, method in service.methods.items()}
    dispatcher = Dispatcher(methods, inference.limits, inference.log, loop, worker, guard)
    return GrpcServer(dispatcher, loop, descriptor, tls)
