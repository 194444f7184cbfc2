"""Both clients against a real runner: what is right, what is refused, and what no client may notice."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from real_packages import write_package

from modelyard.client import (
    AsyncClient,
    Client,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    Retries,
    ServerError,
    ServiceTimeoutError,
    TooLargeError,
)

PATIENT = Retries(attempts=1000, longest_pause=0.1)


@pytest.fixture(scope="module")
def served(shared):
    shared.options |= {"loader": "modelyard.serving.packaged", "limits": {"rows": 20}}
    (shared.root / "store").mkdir()
    shared.start(workers=1)
    shared.client.swap("m", "v1.2.3", write_package(shared.root / "store", 2.0))
    return shared


@pytest.fixture
def client(served, connect):
    return connect(served.client.url)


@pytest.mark.parametrize(
    "data",
    [
        [{"x": 1.0}, {"x": 2.0}],
        ({"x": x} for x in (1, 2)),
        {"x": [1.0, 2.0]},
        {"x": np.array([1.0, 2.0], dtype=np.float16)},
        pd.DataFrame({"x": [1.0, 2.0], "unknown": ["a", "b"]}),
        pa.table({"x": [1.0, 2.0]}),
        np.array([(1.0,), (2.0,)], dtype=[("x", "f4")]),
        np.array([1.0, 2.0]),
    ],
    ids=["rows", "generator", "columns", "arrays", "pandas", "arrow", "structured", "array"],
)
def test_rows_columns_tables_and_arrays_are_predicted(served, data):
    data = list(data) if hasattr(data, "send") else data

    async def asked() -> Any:
        async with AsyncClient(served.client.url) as client:
            return await client.predict("m", data)

    with Client(served.client.url) as client:
        for answer in (client.predict("m", data), asyncio.run(asked())):
            assert (answer.model, answer.version, answer.generation) == ("m", "v1.2.3", 1)
            assert [values.tolist() for values in answer.columns.values()] == [[2.0, 4.0]]
            assert len(answer.rows) == len(answer) == 2


@pytest.mark.parametrize("data", [{"x": np.arange(2000, dtype=np.float32)}, pa.table({"x": np.arange(2000.0)})])
def test_large_tables_are_predicted_whatever_the_service_reads(service, connect, data):
    service.options["loader"] = "modelyard.serving.packaged"
    (service.root / "store").mkdir()
    service.start(workers=1)
    service.client.swap("m", "v1", write_package(service.root / "store", 2.0))
    answer = connect(service.client.url).predict("m", data)
    assert answer.version == "v1"
    assert next(iter(answer.columns.values())).tolist() == [2.0 * x for x in range(2000)]


def test_the_answer_names_the_request_as_the_log_does(served, client):
    with pytest.raises(InvalidRequestError) as caught:
        client.predict("m", {"x": ["no number"]})
    served.until(lambda: caught.value.request_id in served.log)
    assert client.predict("m", {"x": [1.0]}).request_id not in (None, caught.value.request_id)


def test_what_does_not_fit_names_row_field_and_remedy(client):
    with pytest.raises(InvalidRequestError) as caught:
        client.predict("m", [{"x": 1.0}, {"x": "one"}])
    error = caught.value
    assert (error.status, error.problem, error.row, error.field, error.attempts) == (422, "contract", 1, "x", 1)
    assert "'x' as float32" in error.remedy


def test_a_row_without_a_field_is_named(client):
    with pytest.raises(InvalidRequestError) as caught:
        client.predict("m", [{"x": 1.0}, {"y": 1.0}])
    assert (caught.value.status, caught.value.row) == (422, 1)


def test_an_unknown_model_is_not_found(client):
    for ask in (lambda: client.predict("no/body", {"x": [1.0]}), lambda: client.model("nobody")):
        with pytest.raises(ModelNotFoundError) as caught:
            ask()
        assert (caught.value.status, caught.value.problem) == (404, "not-found")
    with pytest.raises(InvalidRequestError, match="Nothing is named"):
        client.model("..")


def test_too_many_rows_are_too_large(client):
    with pytest.raises(TooLargeError) as caught:
        client.predict("m", {"x": np.zeros(21)})
    assert (caught.value.status, caught.value.problem) == (413, "too-many-rows")


def test_models_are_described_and_probes_answered(client):
    assert client.live() is True
    assert client.ready() is True
    client.wait_ready(5)
    assert client.models() == [client.model("m")]
    described = client.model("m")
    assert (described["name"], described["version"], described["state"]) == ("m", "v1.2.3", "live")
    assert described["contract"]["inputs"][0]["name"] == "x"


def test_an_array_without_names_needs_a_model_of_one_field(client):
    with pytest.raises(ModelNotFoundError):
        client.predict("nobody", np.zeros(3))


def test_the_name_of_an_array_s_field_is_learned_anew_when_a_swap_has_changed_it(service, connect):
    service.options["loader"] = "modelyard.serving.packaged"
    (service.root / "store").mkdir()
    # Without a grace window, in which the replaced contract is still answered.
    service.start(workers=1, grace_seconds=0.0)
    service.client.swap("m", "v1", write_package(service.root / "store", 2.0))
    client = connect(service.client.url)
    assert client.predict("m", np.ones(1)).version == "v1"
    service.client.swap("m", "v2", write_package(service.root / "store", 3.0, "other"))
    answer = client.predict("m", np.ones(1))
    assert (answer.version, next(iter(answer.columns.values())).tolist()) == ("v2", [3.0])


def test_a_version_or_a_label_can_be_asked_for_as_long_as_it_is_held(service, connect):
    service.start(workers=1)
    for version, factor in (("v1", 2), ("v2", 3)):
        service.client.swap("m", version, service.package(factor=factor))
    client = connect(service.client.url)
    asked = [client.predict("m", {"x": [1.0]}, **pinned) for pinned in ({}, {"version": "v1"}, {"label": "stable"})]
    assert [(answer.version, answer.rows) for answer in asked] == [
        ("v2", [{"value": 3.0}]), ("v1", [{"value": 2.0}]), ("v2", [{"value": 3.0}]),
    ]  # fmt: skip
    for missing in ({"version": "v3"}, {"label": "nobody/s"}):
        with pytest.raises(ModelNotFoundError):
            client.predict("m", {"x": [1.0]}, **missing)
    with pytest.raises(InvalidRequestError, match="Both a version and a label"):
        client.predict("m", {"x": [1.0]}, version="v1", label="stable")


def test_nobody_there_is_not_ready_in_time(connect):
    begun = time.monotonic()
    with pytest.raises(ServiceTimeoutError, match=r"not ready within 0\.3 s: There is no connection"):
        connect("http://127.0.0.1:1").wait_ready(0.3)
    assert time.monotonic() - begun < 3.0


def test_a_slow_model_is_a_timeout_and_is_asked_once(service, connect):
    service.start(workers=1)
    service.client.swap("slow", "v1", service.package(factor=2, predict_seconds=2.0))
    begun = time.monotonic()
    with pytest.raises(ServiceTimeoutError) as caught:
        connect(service.client.url, retries=PATIENT).predict("slow", {"x": [1.0]}, timeout=0.3)
    assert time.monotonic() - begun < 1.5
    assert (caught.value.attempts, caught.value.sent) == (1, True)


def test_a_model_that_fails_is_a_server_error(service, connect):
    service.start(workers=1)
    service.client.swap("m", "v1", service.package(factor="text"))
    with pytest.raises(ServerError) as caught:
        connect(service.client.url, retries=PATIENT).predict("m", {"x": [1.0]})
    assert (caught.value.status, caught.value.attempts) == (500, 1)


def test_an_overload_is_an_error_without_retries_and_passes_with_them(service, connect):
    service.start(workers=1, limits={"in_flight": 1})
    service.client.swap("m", "v1", service.package(factor=2))
    host, port = service.client.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as unfinished:
        unfinished.sendall(b"POST /v1/models/m/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20\r\n\r\n")
        service.until(lambda: b"\nmodelyard_in_flight 1.0\n" in service.request("GET", "/metrics").body)
        with pytest.raises(OverloadedError) as caught:
            connect(service.client.url, retries=Retries(attempts=1)).predict("m", {"x": [1.0]})
        assert (caught.value.status, caught.value.problem, caught.value.retry_after) == (429, "busy", 1.0)
        leaving = threading.Timer(0.2, lambda: unfinished.shutdown(socket.SHUT_RDWR))
        leaving.start()
        assert connect(service.client.url).predict("m", {"x": [1.0]}).rows == [{"value": 2.0}]
        leaving.join()


FACTORS = {"v1": 2.0, "v2": 3.0}


class Stream:
    """Predictions without a pause from four threads of one client, or four tasks of one event loop."""

    def __init__(self, url: str, kind: str, **options: Any) -> None:
        self.versions: list[str] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        blocking = kind == "Client"
        self._client = Client(url, **options) if blocking else None
        self._threads = (
            [threading.Thread(target=self._block) for _ in range(4)]
            if blocking
            else [threading.Thread(target=lambda: asyncio.run(self._loop(url, options)))]
        )

    def _take(self, answer: Any) -> None:
        assert answer.rows == [{"value": 7.0 * FACTORS[answer.version]}], answer
        self.versions.append(answer.version)

    def _block(self) -> None:
        assert self._client is not None
        try:
            while not self._stop.is_set():
                self._take(self._client.predict("m", {"x": [7.0]}))
        except Exception as error:
            self.failures.append(error)

    async def _loop(self, url: str, options: dict[str, Any]) -> None:
        async with AsyncClient(url, **options) as client:

            async def one() -> None:
                try:
                    while not self._stop.is_set():
                        self._take(await client.predict("m", {"x": [7.0]}))
                except Exception as error:
                    self.failures.append(error)

            await asyncio.gather(*(one() for _ in range(4)))

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        if self._client is not None:
            self._client.close()

    def more(self, until: Callable[[Callable[[], Any]], Any], answers: int = 60) -> None:
        goal = len(self.versions) + answers
        until(lambda: len(self.versions) >= goal or self.failures)


@pytest.fixture(params=["Client", "AsyncClient"])
def kind(request):
    return request.param


def test_killed_workers_are_not_seen_by_who_asks_again(service, kind):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2))
    service.all_accept()
    with Stream(service.client.url, kind) as stream:
        stream.more(service.until)
        for killed in (1, 2, 3):
            os.kill(service.all_accept()[0], signal.SIGKILL)
            stream.more(service.until)
            service.until(lambda killed=killed: service.client.status().restarts == killed)
        stream.more(service.until)
    assert stream.failures == []


def test_swaps_are_seen_as_versions_and_never_as_failures(service, kind):
    service.start()
    packages = {"v1": service.package(factor=2), "v2": service.package(factor=3)}
    service.client.swap("m", "v1", packages["v1"])
    service.all_accept()
    with Stream(service.client.url, kind, retries=Retries(attempts=1)) as stream:
        for version in ("v2", "v1", "v2"):
            stream.more(service.until)
            service.client.swap("m", version, packages[version])
        stream.more(service.until)
    assert stream.failures == []
    assert set(stream.versions) == {"v1", "v2"}
    assert stream.versions[-1] == "v2"


def test_a_service_that_is_stopped_and_started_is_waited_for(service, kind):
    service.start()
    service.client.swap("m", "v1", service.package(factor=2))
    url = service.client.url
    with Stream(url, kind, retries=PATIENT) as stream:
        stream.more(service.until)
        service.close()
        service.start()
        assert service.client.url == url
        stream.more(service.until)
    assert stream.failures == []
