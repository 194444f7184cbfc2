"""Health and reflection: what is said at once, what is pushed, how much of it there may be, and how it ends."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.unit.serving.grpc.test_open_inference import call, refused

from modelyard.serving.grpc import health
from modelyard.serving.grpc.front import SERVICES
from modelyard.serving.grpc.messages import message
from modelyard.serving.grpc.open_inference import SERVICE

Check, Response = message("grpc.health.v1.HealthCheckRequest"), message("grpc.health.v1.HealthCheckResponse")
Question = message("grpc.reflection.v1alpha.ServerReflectionRequest")
Answer = message("grpc.reflection.v1alpha.ServerReflectionResponse")
UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)


def watch(channel: grpc.Channel, service: str = "", **options: Any) -> Any:
    stub = channel.unary_stream(
        "/grpc.health.v1.Health/Watch", request_serializer=Check.SerializeToString,
        response_deserializer=Response.FromString,
    )  # fmt: skip
    return stub(Check(service=service), timeout=options.pop("timeout", 20), **options)


def watchers(front: Any) -> int:
    methods = front.server._dispatcher._methods
    return len(methods[b"/grpc.health.v1.Health/Watch"].answer.__self__._watchers)


def make_ready(front: Any, ready: int) -> None:
    front.page.words[front.page.READY] = ready


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_health_follows_readiness(front, channels):
    channel = channels(front)
    for service in ("", *SERVICES):
        assert call(channel, "Check", Check(service=service), "grpc.health.v1.Health")[0].status == SERVING
    make_ready(front, 0)
    assert call(channel, "Check", Check(), "grpc.health.v1.Health")[0].status == NOT_SERVING
    assert not call(channel, "ServerReady")[0].ready
    assert call(channel, "ServerLive")[0].live
    unknown = refused(channel, Check(service="other"), "Check", service="grpc.health.v1.Health")
    assert unknown.code() is grpc.StatusCode.NOT_FOUND


def test_a_watch_is_told_the_status_at_once_and_each_change_after(front, channels):
    channel = channels(front)
    several = [watch(channel), watch(channel, SERVICE), watch(channels(front))]
    for ready, status in ((1, SERVING), (0, NOT_SERVING), (1, SERVING)):
        make_ready(front, ready)
        assert [next(one).status for one in several] == [status] * 3


def test_a_watch_of_an_unknown_service_says_so_and_stays(front, channels):
    watched = watch(channels(front), "other", timeout=0.5)
    assert next(watched).status == SERVICE_UNKNOWN
    with pytest.raises(grpc.RpcError) as caught:
        next(watched)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_watch_tells_nothing_while_nothing_changes(front, channels):
    watched = watch(channels(front), timeout=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        assert [one.status for one in watched] == [SERVING]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("end", ["cancel", "close", "deadline"])
def test_who_watches_no_more_is_forgotten(front, channels, end):
    channel = channels(front)
    watched = watch(channel, timeout=0.3 if end == "deadline" else 20)
    assert next(watched).status == SERVING
    assert front.do(lambda: watchers(front)) == 1
    if end == "cancel":
        watched.cancel()
    elif end == "close":
        channel.close()
    until(lambda: front.do(lambda: watchers(front)) == 0)


def test_no_more_watch_than_a_worker_holds(front, channels, monkeypatch):
    monkeypatch.setattr(health, "WATCHERS", 2)
    channel = channels(front)
    held = [watch(channel), watch(channel)]
    assert [next(one).status for one in held] == [SERVING] * 2
    with pytest.raises(grpc.RpcError) as caught:
        next(watch(channel))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    held[0].cancel()
    until(lambda: front.do(lambda: watchers(front)) == 1)
    assert next(watch(channel)).status == SERVING


def test_a_drain_ends_a_watch(front, channels):
    watched = watch(channels(front))
    assert next(watched).status == SERVING
    front.drained(5)
    with pytest.raises(grpc.RpcError) as caught:
        next(watched)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert watchers(front) == 0


def test_a_watch_asks_once(front, wires):
    wire = wires(front)
    path = "/grpc.health.v1.Health/Watch"
    wire.headers(1, path=path)
    wire.data(1, bytes(5) + bytes(5))
    assert wire.trailers(1)["grpc-status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
    wire.call(3, b"", path=path)
    assert wire.until(0, 3)[1] == b"\0\0\0\0\2\x08\1"


def test_who_never_says_what_to_watch_is_told_so(fronts, wires):
    wire = wires(front := fronts(stall=0.3))
    wire.headers(1, path="/grpc.health.v1.Health/Watch")
    assert wire.trailers(1)["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    assert watchers(front) == 0


def test_a_client_that_takes_nothing_is_told_the_latest_alone(front, wires):
    wire = wires(front, greet=False)
    # A window that holds one message of seven bytes.
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\6\4\0\0\0\0\0\0\4\0\0\0\7")
    wire.call(1, b"", path="/grpc.health.v1.Health/Watch")
    assert wire.until(0, 1)[1][-1] == SERVING
    # The next is on its way already, and the one after it waits for it; the third changes nothing.
    make_ready(front, 0)
    (connection,) = front.server.clients
    until(lambda: front.do(lambda: [one.waiting for one in connection._streams.values()]) == [True])
    for ready in (1, 0, 1, 0, 1):
        make_ready(front, ready)
        # Longer than from one look to the next.
        time.sleep(1.5 * health.LOOK_SECONDS)
    wire.send(b"\0\0\4\x08\0\0\0\0\1\0\0\1\0")
    said = [wire.until(0, 1)[1][-1], wire.until(0, 1)[1][-1]]
    assert said == [NOT_SERVING, SERVING]
    # Nothing else was kept for it: what comes now is the next change.
    make_ready(front, 0)
    assert wire.until(0, 1)[1][-1] == NOT_SERVING


def test_the_kernel_asks_silent_clients_whether_they_are_there(front, channels):
    call(channels(front), "ServerLive")
    accepted = front.do(lambda: next(iter(front.server.clients)).transport.get_extra_info("socket"))
    assert front.do(lambda: accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == 1


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_tells_services_files_and_that_there_are_no_extensions(front, channels, version):
    stub = channels(front).stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=Question.SerializeToString, response_deserializer=Answer.FromString,
    )  # fmt: skip
    asked = [
        Question(list_services="*"),
        *(Question(file_containing_symbol=name) for name in (*SERVICES, f"{SERVICE}.ModelInfer")),
        Question(all_extension_numbers_of_type="inference.ModelInferRequest"),
        Question(file_by_filename="none"),
        Question(all_extension_numbers_of_type="none"),
    ]
    services, *files, extensions, no_file, no_type = list(stub(iter(asked), timeout=10))
    assert [one.name for one in services.list_services_response.service] == sorted(SERVICES)
    for name, file in zip((*SERVICES, SERVICE), files, strict=True):
        assert name.rpartition(".")[2].encode() in file.file_descriptor_response.file_descriptor_proto[0]
    assert extensions.all_extension_numbers_response.base_type_name == "inference.ModelInferRequest"
    assert not extensions.all_extension_numbers_response.extension_number
    assert (no_file.error_response.error_code, no_type.error_response.error_code) == (5, 5)
