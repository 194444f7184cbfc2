"""The client for programs that wait for each answer."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self, TypeVar

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
