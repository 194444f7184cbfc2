"""The methods of the Open Inference Protocol, asked by gRPC's own client."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import grpc
import numpy as np
import pytest
from h2.connection import H2Connection
from h2.stream import H2Stream
from tests.unit.serving.grpc.front import DOUBLING, doubling

from modelyard.serving.grpc.calls import Call
from modelyard.serving.grpc.connection import Connection
from modelyard.serving.grpc.messages import message
from modelyard.serving.grpc.open_inference import SERVICE
from modelyard.serving.route import Route
from modelyard.serving.spec import Limits

Request = message("inference.ModelInferRequest")


def call(channel: grpc.Channel, method: str, request: Any = None, service: str = SERVICE, **options: Any) -> Any:
    """Call a method; return its answer and the call."""
    request = request if request is not None else message(f"inference.{method}Request")()
    response = message(f"{service.rpartition('.')[0]}.{type(request).__name__.replace('Request', 'Response')}")
    if method == "ModelInfer":
        response = message("inference.ModelInferResponse")
    stub = channel.unary_unary(
        f"/{service}/{method}", request_serializer=type(request).SerializeToString,
        response_deserializer=response.FromString,
    )  # fmt: skip
    return stub.with_call(request, timeout=options.pop("timeout", 10), **options)


def infer(x: Any = (1.0, 2.0), *, raw: bool = True, model: str = "m", shape: Any = None, **members: Any) -> Any:
    request = Request(model_name=model, **members)
    values = np.asarray(x, dtype="<f8")
    given = request.inputs.add(name="x", datatype="FP64", shape=shape or values.shape)
    if raw:
        request.raw_input_contents.append(values.tobytes())
    else:
        given.contents.fp64_contents.extend(values.tolist())
    return request


def refused(channel: grpc.Channel, request: Any, method: str = "ModelInfer", **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, method, request, **options)
    return caught.value


def test_raw_contents_are_answered_raw_and_typed_contents_typed(front, channels):
    channel = channels(front)
    answer, _ = call(channel, "ModelInfer", infer(raw=True))
    assert np.frombuffer(answer.raw_output_contents[0], "<f8").tolist() == [2.0, 4.0]
    assert not answer.outputs[0].HasField("contents")
    answer, _ = call(channel, "ModelInfer", infer(raw=False))
    assert list(answer.outputs[0].contents.fp64_contents) == [2.0, 4.0]
    assert not answer.raw_output_contents


def test_an_answer_names_request_model_version_and_generation(front, channels):
    answer, made = call(
        channels(front), "ModelInfer", infer(id="mine"), metadata=(("x-request-id", "r-1"),)
    )  # fmt: skip
    assert (answer.id, answer.model_name, answer.model_version) == ("mine", "m", "v1.0.0")
    assert answer.parameters["model_generation"].int64_param == 1
    assert answer.parameters["model_version"].string_param == "v1.0.0"
    first, last = dict(made.initial_metadata()), dict(made.trailing_metadata())
    assert (first["x-model-version"], first["x-model-generation"], first["x-request-id"]) == ("v1.0.0", "1", "r-1")
    assert (last["x-model-version"], last["x-model-generation"]) == ("v1.0.0", "1")


def test_fields_of_every_kind_travel_typed(front, channels):
    request = Request(model_name="mixed")
    request.inputs.add(name="age", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1.5, 2.0])
    request.inputs.add(name="kind", datatype="BYTES", shape=[2, 1]).contents.bytes_contents.extend([b"a", "ü".encode()])
    flags = request.inputs.add(name="flags", datatype="BOOL", shape=[2, 2])
    flags.contents.bool_contents.extend([True, True, False, True])
    request.outputs.add(name="label")
    request.outputs.add(name="score")
    answer, _ = call(channels(front), "ModelInfer", request)
    assert [out.name for out in answer.outputs] == ["label", "score"]
    assert list(answer.outputs[0].contents.bytes_contents) == [b"a", "ü".encode()]
    assert list(answer.outputs[1].contents.fp32_contents) == [3.5, 3.0]


def test_metadata_describes_the_contract(front, channels):
    request = message("inference.ModelMetadataRequest")(name="mixed")
    answer, _ = call(channels(front), "ModelMetadata", request)
    assert [(t.name, t.datatype, list(t.shape)) for t in answer.inputs] == [
        ("age", "FP32", [-1]), ("kind", "BYTES", [-1]), ("flags", "BOOL", [-1, 2]),
    ]  # fmt: skip
    assert list(answer.versions) == ["v1.0.0"]
    server, _ = call(channels(front), "ServerMetadata")
    assert server.name == "modelyard"
    assert "model_repository" in server.extensions


def test_a_version_that_is_held_can_be_asked_for_and_no_other(front, channels):
    channel = channels(front)
    front.do(lambda: front.hold("m", 0, 2, DOUBLING, doubling))
    assert call(channel, "ModelInfer", infer())[0].model_version == "v2.0.0"
    assert call(channel, "ModelInfer", infer(model_version="v2.0.0"))[0].model_version == "v2.0.0"
    assert refused(channel, infer(model_version="v3.0.0")).code() is grpc.StatusCode.NOT_FOUND
    ready = message("inference.ModelReadyRequest")
    assert call(channel, "ModelReady", ready(name="m", version="v2.0.0"))[0].ready
    assert not call(channel, "ModelReady", ready(name="m", version="v3.0.0"))[0].ready
    assert not call(channel, "ModelReady", ready(name="nothing"))[0].ready
    front.do(lambda: None)
    assert all(g.in_flight == 0 for g in front.slots["m"].generations.values())


def test_who_has_a_routing_key_gets_the_same_of_stable_and_canary(front, channels):
    channel = channels(front)

    def begin():
        front.hold("m", 0, 2, DOUBLING, doubling)
        front.page.words[front.page.slot_word(0)] = Route(1, 2, 500_000).pack()

    front.do(begin)
    keys = [f"client-{index}" for index in range(40)]

    def versions() -> list[str]:
        return [call(channel, "ModelInfer", infer(), metadata=(("x-routing-key", k),))[0].model_version for k in keys]

    first = versions()
    assert first == versions()
    assert {"v1.0.0", "v2.0.0"} == set(first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.inputs[0].shape.__setitem__(0, 1 << 62), "takes"),
        (lambda r: r.inputs[0].shape.extend([1 << 40, 1 << 40]), "takes"),
        (lambda r: r.inputs[0].shape.__setitem__(0, -2), "impossible"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 3), "takes 24 bytes, and 16 came"),
        (lambda r: r.raw_input_contents.append(b"more"), "1 inputs and 2 raw contents"),
        (lambda r: r.inputs[0].contents.fp64_contents.append(1.0), "both raw and typed"),
        (lambda r: r.inputs.add(name="x", datatype="FP64", shape=[2]), "2 inputs and 1 raw contents"),
        (lambda r: setattr(r.inputs[0], "name", "y"), "no such input"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP128"), "no datatype"),
        (lambda r: r.outputs.add(name="nothing"), "no such output"),
        (lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "/r"), "not supported"),
    ],
)
def test_what_does_not_fit_is_an_invalid_argument_that_says_why(front, channels, change, words):
    request = infer()
    change(request)
    error = refused(channels(front), request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.details()
    assert front.page.in_flight(1) == 0


def test_contents_in_another_types_field_are_refused(front, channels):
    request = Request(model_name="m")
    request.inputs.add(name="x", datatype="FP64", shape=[1]).contents.int64_contents.append(1)
    assert "fp64_contents" in refused(channels(front), request).details()


def test_limits_are_resource_exhausted(fronts, channels):
    channel = channels(fronts(limits=Limits(body_bytes=4096, rows=100)))
    assert refused(channel, infer([1.0] * 101)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused(channel, infer([1.0] * 5000)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    huge = (("big", "x" * 20_000),)
    assert refused(channel, infer(), metadata=huge).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    squeezed = refused(channel, infer([0.0] * 5000), compression=grpc.Compression.Gzip)
    assert squeezed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(channel, "ModelInfer", infer([0.0] * 90), compression=grpc.Compression.Gzip)[0].outputs


def test_large_tensors_pass_both_windows(front, channels):
    values = np.arange(100_000, dtype="<f8")
    for _ in range(8):
        answer, _ = call(channels(front), "ModelInfer", infer(values))
        assert (np.frombuffer(answer.raw_output_contents[0], "<f8") == values * 2).all()
    assert front.held == 0


def test_a_deadline_is_kept_and_what_was_asked_is_given_up(front, channels):
    entered, leave = threading.Event(), threading.Event()

    def slow(columns):
        entered.set()
        leave.wait(10)
        return doubling(columns)

    def hold():
        front.hold("m", 0, 2, DOUBLING, slow)
        front.slots["m"].generations[2].quick = False

    front.do(hold)
    error = refused(channels(front), infer(), timeout=0.3)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert entered.is_set()
    leave.set()
    answer, _ = call(channels(front), "ModelInfer", infer())
    assert answer.model_version == "v2.0.0"
    assert front.page.in_flight(1) == 0


def test_an_unknown_method_is_unimplemented_and_an_unknown_model_not_found(front, channels):
    channel = channels(front)
    stub = channel.unary_unary(f"/{SERVICE}/ModelStatistics", request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(grpc.RpcError) as caught:
        stub(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    missing = refused(channel, infer(model="nothing"))
    assert missing.code() is grpc.StatusCode.NOT_FOUND
    assert missing.details() == "No model of that name is served here."


def test_a_failing_model_is_internal_and_tells_no_particulars(front, channels):
    def failing(columns):
        raise ValueError("a secret of /the/house")

    front.do(lambda: front.hold("m", 0, 2, DOUBLING, failing))
    error = refused(channels(front), infer())
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()


def test_a_stream_answers_in_order_and_survives_what_is_wrong(front, channels):
    stub = channels(front).stream_stream(
        f"/{SERVICE}/ModelStreamInfer", request_serializer=Request.SerializeToString,
        response_deserializer=message("inference.ModelStreamInferResponse").FromString,
    )  # fmt: skip
    requests = [infer([float(i)], id=str(i)) for i in range(50)] + [infer(model="nothing", id="bad"), infer([7.0])]
    answers = list(stub(iter(requests), timeout=20))
    values = [np.frombuffer(a.infer_response.raw_output_contents[0], "<f8")[0] for a in answers[:50]]
    assert values == [2.0 * i for i in range(50)]
    assert answers[50].error_message
    assert answers[50].infer_response.id == "bad"
    assert np.frombuffer(answers[51].infer_response.raw_output_contents[0], "<f8")[0] == 14.0


def test_calls_are_freed_when_they_are_over_without_a_search_for_cycles(front, channels):
    channel = channels(front)
    call(channel, "ModelInfer", infer())
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            call(channel, "ModelInfer", infer())
            refused(channel, infer(model="nothing"))
            refused(channel, infer(), metadata=(("big", "x" * 20_000),))
        channel.close()
        deadline = time.monotonic() + 5
        while front.do(lambda: len(front.server.clients)) and time.monotonic() < deadline:
            time.sleep(0.01)
        front.do(lambda: None)
        # By their type: asking an object for its class wakes the stand-ins of some libraries.
        left = [kept for kept in gc.get_objects() if type(kept) in (Call, Connection, H2Connection, H2Stream)]
    finally:
        gc.enable()
    assert left == []
