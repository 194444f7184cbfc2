"""Calls of a service by gRPC's own Python client."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc

from modelyard.serving.grpc.messages import message

Request, Response = message("inference.ModelInferRequest"), message("inference.ModelInferResponse")


def infer(x: float = 7.0, model: str = "m", **members: Any) -> Any:
    request = Request(model_name=model, **members)
    request.inputs.add(name="x", datatype="FP64", shape=[1]).contents.fp64_contents.append(x)
    return request


def channel(address: str, **options: Any) -> grpc.Channel:
    """Return a connection of its own."""
    given = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", int(options.pop("retries", False)))]
    return grpc.insecure_channel(address, options=given)


def predict(open_channel: grpc.Channel, request: Any = None, **options: Any) -> Any:
    stub = open_channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer", request_serializer=Request.SerializeToString,
        response_deserializer=Response.FromString,
    )  # fmt: skip
    ask_it = stub.with_call if options.pop("with_call", False) else stub
    return ask_it(request if request is not None else infer(), timeout=options.pop("timeout", 20), **options)


def ask(open_channel: grpc.Channel, method: str, request: Any, **options: Any) -> Any:
    name = type(request).__name__.replace("Request", "Response")
    stub = open_channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}", request_serializer=type(request).SerializeToString,
        response_deserializer=message(f"inference.{name}").FromString,
    )  # fmt: skip
    return stub(request, timeout=20, **options)


class Load:
    """Threads that call without a pause, over a connection each or a new one for each call.

    Who fails connects anew: a client that has not noticed yet that its connection is gone would start any number of
    calls on it, all of which fail without ever having left the machine that they are on.

    Args:
        address: Of the service.
        factors: By version, what x = 7 is multiplied by.
        threads: How many.
        fresh: Whether each call has a connection of its own.
    """

    def __init__(self, address: str, factors: dict[str, float], threads: int = 4, fresh: bool = False) -> None:
        self.address, self.factors, self.fresh = address, factors, fresh
        self.calls = 0
        self.wrong: list[str] = []
        self.failed: list[grpc.RpcError] = []
        self.failed_at: list[float] = []
        self.failed_on: list[str] = []
        """What had answered before over the connection of a call that failed; empty where nothing had."""
        self.held = [""] * threads
        """What each thread is connected to, as the ids of its answers begin; empty where it does not know yet."""
        self.versions: dict[str, int] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait(self, calls: int, timeout: float = 30.0) -> None:
        """Wait until so many more calls were answered."""
        goal, deadline = self.calls + calls, time.monotonic() + timeout
        while self.calls < goal:
            assert time.monotonic() < deadline, f"{self.calls} calls, {len(self.failed)} failed: {self.failed[:1]}"
            time.sleep(0.01)

    def _run(self, number: int) -> None:
        kept = channel(self.address)
        while not self._stop.is_set():
            used = channel(self.address) if self.fresh else kept
            try:
                answer, call = predict(used, with_call=True)
                self.held[number] = dict(call.initial_metadata())["x-request-id"].rpartition("-")[0]
                version = answer.model_version
                if answer.outputs[0].contents.fp64_contents[:] != [7.0 * self.factors[version]]:
                    self.wrong.append(str(answer))
                self.versions[version] = self.versions.get(version, 0) + 1
                self.calls += 1
            except grpc.RpcError as error:
                self.failed.append(error)
                self.failed_at.append(time.monotonic())
                self.failed_on.append(self.held[number])
                if not self.fresh:
                    self.held[number] = ""
                    kept.close()
                    kept = channel(self.address)
            finally:
                if self.fresh:
                    used.close()
        kept.close()
