"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
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

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """As `Client`, for asyncio: the same arguments, and the same methods as coroutines. One event loop may use it.

    Args:
        url: As for `Client`.
        api_key: As for `Client`.
        token: As for `Client`.
        timeout: As for `Client`.
        retries: As for `Client`.
        verify: As for `Client`.

    Raises:
        InputError: As for `Client`.
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
        self._http = httpx.AsyncClient(**pool(self._core.url, verify))

    def __repr__(self) -> str:
        return f"AsyncClient({self._core.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; closing twice is no error."""
        await self._http.aclose()

    async def predict(
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
        """Predict rows; see `Client.predict`."""
        return await self._run(
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

    async def models(self) -> list[dict[str, Any]]:
        """Return every model that is served; see `Client.models`."""
        return await self._run(self._core.models())

    async def model(self, name: str) -> dict[str, Any]:
        """Return one model; see `Client.model`."""
        return await self._run(self._core.model(name))

    async def status(self, model: str) -> dict[str, Any]:
        """Return how a model stands; see `Client.status`."""
        return await self._run(self._core.manage(management.status(model)))

    async def rollback(self, model: str) -> dict[str, Any]:
        """Serve the previous generation of a model again, without a load; see `Client.rollback`."""
        return await self._run(self._core.manage(management.rollback(model)))

    async def canary(
        self, model: str, version: str | None = None, *, share: float, timeout: float | None = None
    ) -> dict[str, Any]:
        """Let a version answer a share of the requests; see `Client.canary`."""
        return await self._run(self._core.manage(management.canary(model, version, share), timeout))

    async def promote(self, model: str) -> dict[str, Any]:
        """Make the canary of a model the stable generation, without a load; see `Client.promote`."""
        return await self._run(self._core.manage(management.promote(model)))

    async def end_canary(self, model: str) -> dict[str, Any]:
        """Let the stable generation of a model answer everything again; see `Client.end_canary`."""
        return await self._run(self._core.manage(management.end_canary(model)))

    async def shadow(self, model: str, version: str, *, share: float, timeout: float | None = None) -> dict[str, Any]:
        """Show a version a share of the requests after they were answered; see `Client.shadow`."""
        return await self._run(self._core.manage(management.shadow(model, version, share), timeout))

    async def end_shadow(self, model: str) -> dict[str, Any]:
        """Show the shadow of a model nothing more; see `Client.end_shadow`."""
        return await self._run(self._core.manage(management.end_shadow(model)))

    async def label(self, model: str, label: str, version: str) -> dict[str, Any]:
        """Give a label to a version that is loaded; see `Client.label`."""
        return await self._run(self._core.manage(management.label(model, label, version)))

    async def remove_label(self, model: str, label: str) -> dict[str, Any]:
        """Take a label away; see `Client.remove_label`."""
        return await self._run(self._core.manage(management.remove_label(model, label)))

    async def load(self, model: str, version: str | None = None, *, timeout: float | None = None) -> None:
        """Serve an approved version; see `Client.load`."""
        await self._run(self._core.manage(management.load(model, version), timeout))

    async def unload(self, model: str) -> None:
        """Serve a model no more; see `Client.unload`."""
        await self._run(self._core.manage(management.unload(model)))

    async def repository(self, *, ready: bool = False) -> list[dict[str, Any]]:
        """Return the versions that may be served; see `Client.repository`."""
        return await self._run(self._core.index(management.index(ready)))

    async def live(self) -> bool:
        """Return whether a worker answers."""
        return await self._run(self._core.probe("/healthz"))

    async def ready(self) -> bool:
        """Return whether every model that should be live is."""
        return await self._run(self._core.probe("/readyz"))

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until every model that should be live is; see `Client.wait_ready`."""
        await self._run(self._core.wait_ready(timeout))

    async def _run(self, call: Call[T]) -> T:
        """Carry out what a call yields."""
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(call)
                    continue
                try:
                    response = await self._exchange(step)
                except ServiceError as error:
                    step = call.throw(error)
                else:
                    step = call.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _exchange(self, send: Send) -> Response:
        request = send.request
        try:
            with translated(self._core.url, send):
                async with asyncio.timeout(send.timeout):
                    response = await self._http.request(
                        request.method,
                        request.path,
                        content=request.body,
                        headers=request.headers,
                        timeout=timeouts(send),
                    )
        except TimeoutError as error:
            if isinstance(error, ServiceError):
                raise
            raise too_late(self._core.url, send) from error
        return whole(response, response.content)
