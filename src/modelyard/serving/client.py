"""Talk to a running service from its folder."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from modelyard.errors import BusyError, IntegrityError, NotFoundError, RunError
from modelyard.files import storage_errors
from modelyard.serving.asking import (
    CanaryRequest,
    ControlReply,
    ControlRequest,
    EndCanaryRequest,
    EndShadowRequest,
    Failed,
    LabelRequest,
    LoadRequest,
    PromoteRequest,
    RepositoryIndex,
    RepositoryIndexRequest,
    RollbackRequest,
    Routed,
    ServiceStatus,
    ShadowRequest,
    ShareRequest,
    StatusRequest,
    Stopping,
    StopRequest,
    Swapped,
    SwapRequest,
    UnloadRequest,
)
from modelyard.serving.control import connect
from modelyard.serving.wire import Channel, error_of

__all__ = ["SERVICE_FILE", "STOPPED_FILE", "ServiceClient", "ServiceFile"]

SERVICE_FILE = "service.json"

STOPPED_FILE = "stopped.json"
"""What a graceful stop makes of the service's file, so that the next start finds its port."""


class ServiceFile(msgspec.Struct, frozen=True):
    """What `service.json` tells of a service that was started on its folder.

    Args:
        name: Of the service.
        pid: Of the supervisor.
        host: Address that it listens on.
        port: Port that it listens on.
        started: Seconds since 1970, UTC.
        tls: Whether the ports are encrypted.
        grpc_port: Port for gRPC, or None.
    """

    name: str
    pid: int
    host: str
    port: int
    started: float
    tls: bool = False
    grpc_port: int | None = None

    @property
    def grpc(self) -> str | None:
        """Where gRPC is spoken, such as `127.0.0.1:8001`, or None."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return None if self.grpc_port is None else f"{host}:{self.grpc_port}"

    @property
    def url(self) -> str:
        """Where the HTTP interface begins."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @classmethod
    def read(cls, folder: Path, name: str = SERVICE_FILE) -> ServiceFile | None:
        """Return what the file says, or None where there is none.

        Args:
            folder: Of the service.
            name: Of the file.

        Raises:
            IntegrityError: Something else than the service wrote the file.
        """
        path = folder / name
        with storage_errors(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise IntegrityError(f"This is not a service's file: {error}.", where=str(path)) from error


class ServiceClient:
    """Asks the service on a folder. It holds no connection; each call makes its own.

    Args:
        folder: The service's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"ServiceClient({str(self.folder)!r})"

    @property
    def alive(self) -> bool:
        """Whether a service runs on the folder; what a dead one left behind does not count."""
        connection = connect(self.folder)
        if connection is None:
            return False
        connection.close()
        return True

    @property
    def url(self) -> str:
        """Where the HTTP interface of the running service begins.

        Raises:
            NotFoundError: No service runs on the folder.
        """
        file = ServiceFile.read(self.folder)
        if file is None or not self.alive:
            raise self._missing()
        return file.url

    @property
    def grpc(self) -> str | None:
        """Where the running service speaks gRPC, such as `127.0.0.1:8001`, or None where it does not.

        Raises:
            NotFoundError: No service runs on the folder.
        """
        file = ServiceFile.read(self.folder)
        if file is None or not self.alive:
            raise self._missing()
        return file.grpc

    def status(self) -> ServiceStatus:
        """Return how the service stands.

        Raises:
            NotFoundError: No service runs on the folder.
        """
        reply = self._ask(StatusRequest())
        assert isinstance(reply, ServiceStatus)  # noqa: S101  (narrows the type; the protocol says so)
        return reply

    def swap(self, model: str, version: str, package: str) -> Swapped:
        """Serve a version of a package; returns when every new request is answered by it. A canary ends.

        Args:
            model: Name of the slot.
            version: Such as `v1.2.0`.
            package: Digest of the package.

        Raises:
            NotFoundError: No service runs on the folder, or there is no such package.
            RefusedError: The service follows releases.
            ModelyardError: Why the package can't be served; the old generation goes on answering.
        """
        return self._swapped(SwapRequest(model, version, package))

    def rollback(self, model: str) -> Swapped:
        """Serve the previous generation again, without a load; a canary ends.

        A service that follows releases leaves the model alone from then on, until something else is released.

        Raises:
            NotFoundError: No service runs on the folder, or there is no previous generation.
        """
        return self._swapped(RollbackRequest(model))

    def canary(self, model: str, version: str, package: str = "", *, ppm: int) -> Routed:
        """Let a version answer a share of the requests; returns when every new request is routed so.

        Another canary ends. Asked again for the same version, only its share changes.

        Args:
            model: Name of the slot.
            version: Such as `v1.2.0`.
            package: Digest of the package; default what the service's repository knows of the version.
            ppm: The share in parts per million.

        Raises:
            NotFoundError: No service runs on the folder, the model is not served, or there is no such package.
            RefusedError: The version is the stable one, or it may not be served.
            ModelyardError: Why the package can't be served; everything goes on as before.
        """
        return self._routed(CanaryRequest(model, version, package, ppm))

    def share(self, model: str, ppm: int) -> Routed:
        """Let the canary answer another share of the requests.

        Args:
            model: Name of the slot.
            ppm: The share in parts per million. Who was a canary's client stays one while the share grows.

        Raises:
            NotFoundError: No service runs on the folder, or the model has no canary.
        """
        return self._routed(ShareRequest(model, ppm))

    def promote(self, model: str) -> Swapped:
        """Make the canary the stable generation, without a load; what was stable becomes the previous.

        Args:
            model: Name of the slot.

        Raises:
            NotFoundError: No service runs on the folder, or the model has no canary.
            RefusedError: The service follows releases, and the canary is not what is released.
        """
        return self._swapped(PromoteRequest(model))

    def end_canary(self, model: str) -> Routed:
        """Let the stable generation answer all requests again.

        Args:
            model: Name of the slot.

        Raises:
            NotFoundError: No service runs on the folder, or the model has no canary.
        """
        return self._routed(EndCanaryRequest(model))

    def shadow(self, model: str, version: str, package: str = "", *, ppm: int) -> Routed:
        """Show a version a share of the requests after they were answered, and count what it answers otherwise.

        Another shadow ends; the status has the differences.

        Args:
            model: Name of the slot.
            version: Such as `v1.2.0`.
            package: Digest of the package; default what the service's repository knows of the version.
            ppm: The share that it sees, in parts per million.

        Raises:
            NotFoundError: No service runs on the folder, the model is not served, or there is no such package.
            RefusedError: The version is the stable one or the canary, or it may not be served.
            ModelyardError: Why the package can't be loaded; everything goes on as before.
        """
        return self._routed(ShadowRequest(model, version, package, ppm))

    def end_shadow(self, model: str) -> Routed:
        """Show the shadow nothing more.

        Args:
            model: Name of the slot.

        Raises:
            NotFoundError: No service runs on the folder, or the model has no shadow.
        """
        return self._routed(EndShadowRequest(model))

    def label(self, model: str, label: str, version: str | None) -> Routed:
        """Give a label to a version that is loaded, or take the label away.

        A label keeps its generation loaded, whatever else is served.

        Args:
            model: Name of the slot.
            label: Up to 63 letters, digits, dots, dashes and underscores; not `stable` or `canary`.
            version: That is loaded; None takes the label away.

        Raises:
            InputError: The label can't be one.
            NotFoundError: No service runs on the folder, the version is not loaded, or there is no such label.
            RefusedError: The model has as many labels as it can have.
        """
        return self._routed(LabelRequest(model, label, version))

    def load(self, model: str, version: str | None = None) -> Swapped:
        """Serve a version that the service's repository knows.

        Args:
            model: Name of the model, and of its slot.
            version: Such as `v1.2.0`; None: the one that the repository names.

        Raises:
            NotFoundError: No service runs on the folder, or there is no such version.
            RefusedError: The service follows releases, has no repository, or the version may not be served.
            ModelyardError: Why the package can't be served; the old generation goes on answering.
        """
        return self._swapped(LoadRequest(model, version))

    def unload(self, model: str) -> None:
        """Serve a model no more.

        Args:
            model: Name of the slot.

        Raises:
            NotFoundError: No service runs on the folder.
            RefusedError: The service follows releases.
        """
        self._ask(UnloadRequest(model))

    def index(self) -> RepositoryIndex:
        """Return the versions that the service's repository knows, and which of them are served.

        Raises:
            NotFoundError: No service runs on the folder.
        """
        reply = self._ask(RepositoryIndexRequest())
        # What the supervisor answers to this; for the type checker.
        assert isinstance(reply, RepositoryIndex)  # noqa: S101
        return reply

    def stop(self, timeout: float = 30.0) -> None:
        """Have the service finish what is in flight and stop, and wait for its end.

        Args:
            timeout: Seconds to wait.

        Raises:
            NotFoundError: No service runs on the folder.
            BusyError: It did not end in time.
        """
        self._ask(StopRequest())
        deadline = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > deadline:
                raise BusyError(f"The service did not stop within {timeout:g} s.", where=str(self.folder))
            time.sleep(0.02)

    def wait_ready(self, timeout: float = 60.0) -> ServiceStatus:
        """Wait until every model that should be live is, and return the status.

        Args:
            timeout: Seconds to wait.

        Raises:
            BusyError: The service runs and was not ready in time; it says what stands in the way.
            NotFoundError: No service came to run on the folder.
        """
        deadline = time.monotonic() + timeout
        while True:
            status = None
            try:
                status = self.status()
                if status.ready:
                    return status
            except NotFoundError:
                if time.monotonic() > deadline:
                    raise
            if status is not None and time.monotonic() > deadline:
                why = f": {status.obstacle.what}" if status.obstacle else "."
                raise BusyError(
                    f"The service {status.name!r} was not ready within {timeout:g} s{why}",
                    where=str(self.folder),
                    remedy="Its log tells more.",
                )
            time.sleep(0.02)

    def _swapped(self, request: ControlRequest) -> Swapped:
        reply = self._ask(request)
        assert isinstance(reply, Swapped)  # noqa: S101  (narrows the type; the protocol says so)
        return reply

    def _routed(self, request: ControlRequest) -> Routed:
        reply = self._ask(request)
        # What the supervisor answers to this; for the type checker.
        assert isinstance(reply, Routed)  # noqa: S101
        return reply

    def _ask(self, request: ControlRequest) -> ControlReply:
        connection = connect(self.folder)
        if connection is None:
            raise self._missing()
        channel: Channel[ControlReply] = Channel(connection, ControlReply)
        try:
            channel.send(request)
            reply = channel.receive()
        finally:
            channel.close()
        if reply is None:
            if isinstance(request, StopRequest):
                return Stopping()
            raise RunError(
                "The service died before it answered.",
                where=str(self.folder),
                remedy="Start it again; its log may tell why.",
            )
        if isinstance(reply, Failed):
            raise error_of(reply.failure)
        return reply

    def _missing(self) -> NotFoundError:
        file = ServiceFile.read(self.folder)
        if file is None:
            return NotFoundError(
                "No service runs here.", where=str(self.folder), remedy="Start one with `modelyard up`."
            )
        return NotFoundError(
            f"The service {file.name!r} does not run; process {file.pid}, which served it last, is gone.",
            where=str(self.folder),
            remedy="Start it with `modelyard up`; it goes on with what it served last.",
        )
