"""The client for programs that wait for each answer."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self, TypeVar

from modelyard.client import management
from modelyard.client.core import Call, Core
from modelyard.client.encoding import Data, Encoding
from modelyard.client.errors import ServiceError
from modelyard.client.exchange import Pause, Response, Send
from modelyard.client.prediction import Prediction
from modelyard.client.retries import Retries
from modelyard.client.transport import Verify, httpx, pool, timeouts, too_late, translated, whole

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """Asks a service over connections that are kept alive. Threads may share it; processes may not.

    Args:
        url: Where the service's HTTP interface begins, such as `http://127.0.0.1:8080`.
        api_key: Who asks, where the service wants to know; sent as `X-API-Key`.
        token: The same by a JSON Web Token; sent as `Authorization: Bearer`. Give one of both.
        timeout: Seconds that a call may take with all its attempts and pauses. The service is told what is left of
            them, so that it does not work for nobody.
        retries: When a request is sent again. Default: up to six attempts within about a second.
        verify: For https: True trusts the system's authorities, a file names others, an `ssl.SSLContext` may bring a
            certificate of the client's own.

    Raises:
        InputError: The URL, a credential or the timeout is impossible, or `verify` can't be read.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        verify: Verify = True,
    ) -> None:
        self._core = Core(url, api_key=api_key, token=token, timeout=timeout, retries=retries or Retries())
        self._http = httpx.Client(**pool(self._core.url, verify))

    def __repr__(self) -> str:
        return f"Client({self._core.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; closing twice is no error."""
        self._http.close()

    def predict(
        self,
        model: str,
        data: Data,
        *,
        version: str | None = None,
        label: str | None = None,
        encoding: Encoding | None = None,
        routing_key: str | None = None,
        traceparent: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Predict rows.

        Args:
            model: Its name.
            data: A list of mappings (rows), a mapping of lists or arrays (columns), a data frame of pandas or Polars,
                an Arrow table, a structured NumPy array; or, for a model of one input field, that field's array.
            version: The one that shall answer, such as `v1.2.0`, as long as the service holds it; default: the one that
                is served.
            label: Of the version that shall answer, such as `stable` or `canary`. Give one of both.
            encoding: `json` or `arrow`. Default: Arrow for its tables and for arrays of 4 KiB or more where the service
                takes it; else JSON.
            routing_key: Who the request is for, such as a customer's id: while a canary runs, one key is always
                answered by the same of both versions.
            traceparent: Of the trace that the request belongs to; default: OpenTelemetry's current one, if any.
            timeout: Seconds for this call; default: the client's.

        Raises:
            InvalidRequestError: The data does not fit the model's contract; `row` and `field` say where.
            ModelNotFoundError: The service has no such model, or does not hold that version.
            TooLargeError: The service takes fewer bytes or rows at once.
            OverloadedError: It is busy or not ready, and stayed so.
            ServiceTimeoutError: There was no answer in time.
            ConnectionLostError: It can't be reached, or did not answer.
            ServiceError: Anything else that the service did not do.
        """
        return self._run(
            self._core.predict(
                model,
                data,
                version=version,
                label=label,
                encoding=encoding,
                routing_key=routing_key,
                traceparent=traceparent,
                timeout=timeout,
            )
        )

    def models(self) -> list[dict[str, Any]]:
        """Return every model that is served, with version, generation and contract.

        Raises:
            ServiceError: The service did not say.
        """
        return self._run(self._core.models())

    def model(self, name: str) -> dict[str, Any]:
        """Return one model: `name`, `state`, `version`, `generation`, `package`, `contract`.

        Args:
            name: Of the model.

        Raises:
            ModelNotFoundError: The service has no such model.
            ServiceError: The service did not say.
        """
        return self._run(self._core.model(name))

    def status(self, model: str) -> dict[str, Any]:
        """Return how a model stands: `current`, `previous`, `canary`, `shadow`, `labels`, `stopped`, `held_off`.

        Args:
            model: Its name.

        Raises:
            ModelNotFoundError: The service has no such model.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.status(model)))

    def rollback(self, model: str) -> dict[str, Any]:
        """Serve the previous generation of a model again, without a load; a canary ends.

        A service that follows releases leaves the model alone from then on, until something else is released.

        Args:
            model: Its name.

        Returns:
            How the model stands then.

        Raises:
            ModelNotFoundError: The service has no such model, or it has no previous generation.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.rollback(model)))

    def canary(
        self, model: str, version: str | None = None, *, share: float, timeout: float | None = None
    ) -> dict[str, Any]:
        """Let a version answer a share of the requests, or change the share of the canary that runs.

        Args:
            model: Its name.
            version: Such as `v1.2.0`; None: the canary that runs.
            share: From 0.0 to 1.0. Who was a canary's client stays one while the share grows.
            timeout: Seconds for this call, in which the version is loaded; default: the client's.

        Returns:
            How the model stands then.

        Raises:
            ModelNotFoundError: The service has no such model or version, or no canary runs.
            ConflictError: The version is the stable one, or it may not be served.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.canary(model, version, share), timeout))

    def promote(self, model: str) -> dict[str, Any]:
        """Make the canary of a model the stable generation, without a load.

        Args:
            model: Its name.

        Returns:
            How the model stands then.

        Raises:
            ModelNotFoundError: The service has no such model, or no canary runs.
            ConflictError: The service follows releases, and the canary is not what is released.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.promote(model)))

    def end_canary(self, model: str) -> dict[str, Any]:
        """Let the stable generation of a model answer everything again.

        Args:
            model: Its name.

        Returns:
            How the model stands then.

        Raises:
            ModelNotFoundError: The service has no such model, or no canary runs.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.end_canary(model)))

    def shadow(self, model: str, version: str, *, share: float, timeout: float | None = None) -> dict[str, Any]:
        """Show a version a share of the requests after they were answered; `status` tells the differences.

        Args:
            model: Its name.
            version: Such as `v1.2.0`.
            share: From 0.0 to 1.0.
            timeout: As for `canary`.

        Returns:
            How the model stands then.

        Raises:
            ModelNotFoundError: The service has no such model or version.
            ConflictError: The version answers requests already, or it may not be served.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.shadow(model, version, share), timeout))

    def end_shadow(self, model: str) -> dict[str, Any]:
        """Show the shadow of a model nothing more.

        Args:
            model: Its name.

        Returns:
            How the model stands then.

        Raises:
            ModelNotFoundError: The service has no such model, or it has no shadow.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.end_shadow(model)))

    def label(self, model: str, label: str, version: str) -> dict[str, Any]:
        """Give a label to a version that is loaded; it stays loaded for as long as it has one.

        Args:
            model: Its name.
            label: Such as `champion`; `predict` takes it.
            version: Such as `v1.2.0`.

        Returns:
            How the model stands then.

        Raises:
            ModelNotFoundError: The service has no such model, or does not hold that version.
            InvalidRequestError: The label can't be one.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.label(model, label, version)))

    def remove_label(self, model: str, label: str) -> dict[str, Any]:
        """Take a label away.

        Args:
            model: Its name.
            label: The label.

        Returns:
            How the model stands then.

        Raises:
            ModelNotFoundError: The service has no such model or label.
            ServiceError: The service did not do it.
        """
        return self._run(self._core.manage(management.remove_label(model, label)))

    def load(self, model: str, version: str | None = None, *, timeout: float | None = None) -> None:
        """Serve an approved version; returns when every new request is answered by it.

        Args:
            model: Its name.
            version: Such as `v1.2.0`; None: the one that should be served where nobody says which.
            timeout: As for `canary`.

        Raises:
            ModelNotFoundError: There is no such model or version.
            ConflictError: The service follows releases, or the version may not be served.
            ServiceError: The service did not do it.
        """
        self._run(self._core.manage(management.load(model, version), timeout))

    def unload(self, model: str) -> None:
        """Serve a model no more.

        Args:
            model: Its name.

        Raises:
            ConflictError: The service follows releases.
            ServiceError: The service did not do it.
        """
        self._run(self._core.manage(management.unload(model)))

    def repository(self, *, ready: bool = False) -> list[dict[str, Any]]:
        """Return the versions that may be served: `name`, `version`, `state` and `reason` of each.

        Args:
            ready: Only those that are served.

        Raises:
            ServiceError: The service did not say.
        """
        return self._run(self._core.index(management.index(ready)))

    def live(self) -> bool:
        """Return whether a worker answers."""
        return self._run(self._core.probe("/healthz"))

    def ready(self) -> bool:
        """Return whether every model that should be live is."""
        return self._run(self._core.probe("/readyz"))

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until every model that should be live is.

        Args:
            timeout: Seconds to wait.

        Raises:
            ServiceTimeoutError: The service was not ready in time.
        """
        self._run(self._core.wait_ready(timeout))

    def _run(self, call: Call[T]) -> T:
        """Carry out what a call yields."""
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(call)
                    continue
                try:
                    response = self._exchange(step)
                except ServiceError as error:
                    step = call.throw(error)
                else:
                    step = call.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _exchange(self, send: Send) -> Response:
        request, deadline = send.request, time.monotonic() + send.timeout
        pieces = []
        with (
            translated(self._core.url, send),
            self._http.stream(
                request.method, request.path, content=request.body, headers=request.headers, timeout=timeouts(send)
            ) as response,
        ):
            for piece in response.iter_bytes():
                pieces.append(piece)
                if time.monotonic() > deadline:
                    raise too_late(self._core.url, send)
            return whole(response, b"".join(pieces))
