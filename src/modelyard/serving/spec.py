"""What a service is asked to be: data that supervisor, workers and clients share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec

from modelyard.errors import InputError, RefusedError
from modelyard.serving.auth.loopback import is_loopback
from modelyard.serving.auth.spec import SCOPES, AuthSpec, Scope, TlsSpec
from modelyard.serving.route import MILLION
from modelyard.serving.sandbox import Bounds
from modelyard.serving.state import Page

__all__ = ["LONGEST_DEADLINE", "STAGED", "Limits", "Live", "ServiceSpec", "WorkerSpec"]

STAGED = "staged"
"""Folder of uploads and of what becomes of them, in the service's."""

DEFAULT_LOADER = "modelyard.serving.packaged"

LONGEST_DEADLINE = 3600.0
"""Seconds that a client may say it waits, whatever the protocol: nobody waits for longer."""


class Limits(msgspec.Struct, frozen=True):
    """What one request may ask for.

    Args:
        body_bytes: The longest body; the rest of a longer one is not kept.
        rows: The most rows in one request.
        in_flight: The most requests that all workers together hold.
        body_seconds: How long a body may take to arrive: who sends slowly holds one of those places.
        upload_bytes: The largest model that a client may upload.
        decompression_ratio: How many times its length a compressed body of more than 1 MiB may unpack to, and an Arrow
            or Parquet table of more than 8 MiB.
        unpacked_bytes: The most that an Arrow or Parquet table may unpack to.
        uploads: Models that one worker receives or tries at one moment; other requests have their places beside them.
        staged_seconds: How long an uploaded part waits for the others.
        sandbox: What the process that opens an upload may take.
    """

    body_bytes: int = 16 * 1024 * 1024
    rows: int = 100_000
    in_flight: int = 256
    body_seconds: float = 30.0
    upload_bytes: int = 512 * 1024 * 1024
    decompression_ratio: int = 200
    unpacked_bytes: int = 256 * 1024 * 1024
    uploads: int = 8
    staged_seconds: float = 24 * 3600.0
    sandbox: Bounds = Bounds()


class Live(msgspec.Struct, frozen=True):
    """What should be served in a slot.

    Args:
        model: Name of the model.
        version: Such as `v1.2.0`.
        package: Digest of the package.
    """

    model: str
    version: str
    package: str


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A service.

    Args:
        name: Of the service, often the environment's.
        folder: Where it keeps its state; one service at a time runs on a folder.
        host: Address to listen on. One that others can reach needs `auth`, and `tls` or `behind_proxy`.
        port: Port to listen on; 0 takes the one it had last on this folder, else a free one.
        workers: Processes that answer.
        limits: What one request may ask for.
        log_level: The least important log line to be written.
        drain_seconds: How long requests in flight may take after a stop was asked for.
        prepare_seconds: How long one worker may take to load a generation.
        loader: Module with `verify(folder, pickle)` and `load(folder, pickle)`, which makes a package folder answer;
            `pickle` is the BLAKE3 of the one pickle that may be loaded, or None.
        control: `released`: what is served follows what is released; `explicit`: clients say what is served. None:
            `released` where somebody tells what is released.
        error_rate: The share of 5xx that stops a canary or shadow; None stops none for it.
        p99_seconds: What 99 of 100 of its answers must not pass; None stops none for it.
        minimum_requests: A canary or shadow is not judged by fewer.
        grace_seconds: How long a generation whose contract was replaced answers what fits only that contract.
        canary_ppm: In `released`: the share, in parts per million, that a newly released version gets at first; 0 gives
            it all at once.
        canary_seconds: In `released`: how long it has only that share before it is promoted.
        hang_seconds: A worker whose event loop stands still for so long is replaced; longer than any prediction takes.
        memory: Bytes that the service's processes may take together. None: what the machine and the control group
            have; 0: nothing is checked before a model is loaded.
    """

    name: str
    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    workers: int = 2
    limits: Limits = Limits()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_seconds: float = 10.0
    prepare_seconds: float = 300.0
    loader: str = DEFAULT_LOADER
    control: Literal["released", "explicit"] | None = None
    error_rate: float | None = 0.02
    p99_seconds: float | None = None
    minimum_requests: int = 50
    grace_seconds: float = 30.0
    canary_ppm: int = 0
    canary_seconds: float = 60.0
    hang_seconds: float = 30.0
    memory: int | None = None
    grpc_port: int | None = None
    """Port for gRPC, as `port`; None: there is none."""
    auth: AuthSpec | None = None
    """How clients prove who they are; None: they don't, and web pages of other origins are kept out."""
    tls: TlsSpec | None = None
    """Encryption of the port; None: plain text."""
    behind_proxy: bool = False
    """Whether a proxy in front encrypts, so that others may reach a port that does not."""
    hosts: tuple[str, ...] = ()
    """Without `auth`: names besides loopback's that the service is called by, such as what a proxy puts into `Host`."""
    anonymous: tuple[Scope, ...] = SCOPES
    """Without `auth`: what everybody on this machine may do."""
    allow_pickle: Literal["signed"] | None = None
    """`signed`: a pickled model is loaded where `run_service` is told that its package is signed. None: never."""
    otel_endpoint: str | None = None
    """Where a collector takes spans by OTLP over HTTP; None: where OpenTelemetry's own variables say, if they do."""

    def check(self) -> None:
        """Raise an error where the service can't be.

        Raises:
            RefusedError: Others could reach it without proving who they are, or without encryption.
            InputError: The number of workers or the port is impossible, or what is said of an issuer.
        """
        if not is_loopback(self.host):
            if self.auth is None:
                raise RefusedError(
                    f"The service {self.name!r} may not listen on {self.host!r}: others could ask it without proving "
                    "who they are.",
                    remedy="Set serve_keys or serve_issuer, or use the host 127.0.0.1.",
                )
            if self.tls is None and not self.behind_proxy:
                raise RefusedError(
                    f"The service {self.name!r} may not listen on {self.host!r}: all would pass in the clear.",
                    remedy="Set serve_tls_certificate and serve_tls_key, or serve_behind_proxy where a proxy encrypts.",
                )
        if self.auth is not None:
            self.auth.check()
        if not 1 <= self.workers <= Page.MAX_WORKERS:
            raise InputError(f"{self.workers} workers are impossible.", remedy=f"Ask for 1 to {Page.MAX_WORKERS}.")
        self._check_numbers()
        for port in (self.port, self.grpc_port or 0):
            if not 0 <= port <= 65535:
                raise InputError(f"The port {port} is impossible.", remedy="Ask for 1 to 65535, or 0 for a free one.")
        if self.port and self.port == self.grpc_port:
            raise InputError("HTTP and gRPC can't share a port.", remedy="Give each its own, or 0 for a free one.")

    def _check_numbers(self) -> None:
        for name, value, most in (
            ("canary_ppm", self.canary_ppm, MILLION), ("error_rate", self.error_rate, 1.0),
            ("p99_seconds", self.p99_seconds, math.inf), ("minimum_requests", self.minimum_requests, math.inf),
            ("grace_seconds", self.grace_seconds, math.inf), ("canary_seconds", self.canary_seconds, math.inf),
            ("memory", self.memory, math.inf),
        ):  # fmt: skip
            if value is not None and not 0 <= value <= most:
                raise InputError(f"{name} can't be {value}.", remedy=f"Ask for 0 to {most:,}.")
        for limits in (self.limits, self.limits.sandbox):
            for name, value in msgspec.structs.asdict(limits).items():
                if not isinstance(value, Bounds) and (value < 0 or (value == 0 and name != "idle_seconds")):
                    raise InputError(f"The limit {name} can't be {value}.", remedy="Ask for more than 0.")
        if self.hang_seconds < 1:
            raise InputError(f"hang_seconds can't be {self.hang_seconds:g}.", remedy="Ask for 1 or more.")


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process is told on its command line; descriptors are inherited from the supervisor."""

    service: str
    worker: int
    workers: int
    supervisor: int
    listening: int
    control: int
    page: int
    limits: Limits
    log_level: Literal["debug", "info", "warning", "error"]
    loader: str
    drain_seconds: float
    uploads: Path | None = None
    explicit: bool = True
    grpc: int | None = None
    """Descriptor of the socket for gRPC, or None."""
    auth: AuthSpec | None = None
    tls: TlsSpec | None = None
    hosts: tuple[str, ...] = ()
    anonymous: tuple[Scope, ...] = SCOPES
    otel_endpoint: str | None = None

    def text(self) -> str:
        """Return it as one word of a command line; there is no secret in it."""
        return msgspec.json.encode(self, enc_hook=str).decode()

    @classmethod
    def parse(cls, text: str) -> WorkerSpec:
        """Return what `text` made."""
        return msgspec.json.decode(text, type=cls, dec_hook=lambda kind, value: kind(value))
