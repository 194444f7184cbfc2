"""What becomes of an ONNX file and a proto file: the contract, the package, and every refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from modelyard.data import Field
from modelyard.errors import ContractError, DataError, IntegrityError, NotFoundError
from modelyard.packages.intake import FormatError, Wishes, take_in
from modelyard.packages.package import Package

OUT = "message Out { repeated string prediction = 1; } service S { rpc go (In) returns (Out); }"


def text(messages: str, rest: str = OUT) -> bytes:
    return f'syntax = "proto3"; {messages} {rest}'.encode()


def dense(inputs: int, outputs: int, *operators: str, shape: tuple[int, ...] | None = None) -> ModelProto:
    """Rows times ones, and then the operators."""
    names = ["flat", *(f"v{index}" for index in range(len(operators))), "scores"]
    nodes = [helper.make_node("Flatten", ["given"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], [names[1]])]
    nodes += [
        helper.make_node(name, [one], [other])
        for name, one, other in zip(operators, names[1:], names[2:], strict=False)
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, ["n", *(shape or (inputs,))])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(np.ones((inputs, outputs), dtype=np.float32), "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def taken(folder: Path, model: ModelProto, proto: bytes, **wishes) -> Package:
    upload = folder / "upload"
    upload.write_bytes(model.SerializeToString())
    intake = take_in(upload, folder / "made", name="m", proto=proto, own_proto=False, wishes=Wishes(**wishes))
    package = Package.open(folder / "made" / "package")
    assert (intake.kind, package.manifest.digest) == ("onnx", intake.digest)
    package.check_golden(package.predictor("onnx"))
    assert package.proto.encode() == proto
    return package


@pytest.mark.parametrize(
    ("messages", "shape", "inputs"),
    [
        ("message R { double a = 1; int64 b = 2; } message In { repeated R rows = 1; }", (2,),
         (Field("a", "float64"), Field("b", "int64"))),
        ("message In { repeated float a = 1; repeated bool b = 2; }", (2,),
         (Field("a", "float32"), Field("b", "bool"))),
        ("message In { uint32 a = 1; int32 b = 2; }", (2,), (Field("a", "uint32"), Field("b", "int32"))),
        ("message R { repeated float pixels = 1; } message In { repeated R rows = 1; }", (4, 4),
         (Field("pixels", "float32", (4, 4)),)),
        ("message In { repeated int64 value = 1; }", (1,), (Field("value", "int64"),)),
        ("message In { repeated int64 value = 1; }", (3,), (Field("value", "int64", (3,)),)),
        ("message Leaf { float b = 1; } message R { Leaf leaf = 1; float c = 2; } message In { repeated R rows = 1; }",
         (2,), (Field("c", "float32"), Field("b", "float32"))),
    ],
)  # fmt: skip
def test_the_messages_make_the_contract(tmp_path, messages, shape, inputs):
    package = taken(tmp_path, dense(int(np.prod(shape)), 1, shape=shape), text(messages))
    assert package.contract.inputs == inputs
    assert package.contract.outputs == (Field("value", "float32"),)
    assert package.metadata["methods"]["go"]["input"]["name"] == "In"


def test_rows_of_scores_are_a_classifiers(tmp_path):
    messages = "message In { repeated double x = 1; }"
    package = taken(tmp_path, dense(1, 3, "Softmax"), text(messages), classes=("a", "b", "c"))
    assert package.contract.classes == ("a", "b", "c")
    assert package.info.head == "probabilities"
    assert [field.name for field in package.contract.outputs] == ["label", "probabilities"]
    (tmp_path / "other").mkdir()
    assert taken(tmp_path / "other", dense(1, 3), text(messages)).contract.classes == (0, 1, 2)
    with pytest.raises(DataError, match="3 scores"):
        taken(tmp_path, dense(1, 3), text(messages), classes=("a", "b"))


@pytest.mark.parametrize(
    ("messages", "error", "what"),
    [
        ("message In { repeated double x = 1; }", ContractError, "shape"),
        ("message In { repeated string a = 1; repeated string b = 2; }", ContractError, "number"),
        ("message In { repeated bytes a = 1; repeated float b = 2; }", ContractError, "number"),
        ("message R { repeated float a = 1; repeated float b = 2; } message In { repeated R r = 1; }", ContractError,
         "shape"),
        ("message In { }", ContractError, "shape"),
    ],
)  # fmt: skip
def test_messages_that_do_not_make_the_rows_are_refused(tmp_path, messages, error, what):
    with pytest.raises(error, match=what):
        taken(tmp_path, dense(2, 1, shape=(2,)) if "repeated double x" not in messages else dense(4, 1, shape=(2, 2)),
              text(messages.replace("double x = 1;", "double x = 1; repeated double y = 2;")))  # fmt: skip


def test_operations_are_asked_for_by_name(tmp_path):
    messages = "message In { repeated double x = 1; } message Other { repeated double y = 1; }"
    rest = "message Out { repeated float value = 1; } "
    rest += "service S { rpc go (In) returns (Out); rpc no (Other) returns (Out); }"
    upload = tmp_path / "upload"
    upload.write_bytes(dense(1, 1).SerializeToString())

    def made(name: str, **wishes):
        proto = text(messages, rest)
        return take_in(upload, tmp_path / name, name="m", proto=proto, own_proto=False, wishes=Wishes(**wishes))

    assert made("first").unfit == ("no",)
    made("second", operation="no")
    assert Package.open(tmp_path / "second" / "package").contract.inputs == (Field("y", "float64"),)
    with pytest.raises(NotFoundError, match="nope"):
        made("third", operation="nope")


def test_models_that_can_t_be_served_are_refused(tmp_path):
    proto = text("message In { repeated double x = 1; }")
    integers = dense(1, 1)
    integers.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises((DataError, IntegrityError)):
        taken(tmp_path, integers, proto)
    with pytest.raises(DataError, match="fixed size"):
        # A name in place of a size is what is tested.
        taken(tmp_path, dense(1, 1, shape=("any",)), proto)  # type: ignore[arg-type]
    for content in (b"", b"{}", b"\x80\x04.", b"PK\x03\x04", b"hello", b"\x08\x01"):
        (tmp_path / "upload").write_bytes(content)
        with pytest.raises((FormatError, IntegrityError)):
            take_in(tmp_path / "upload", tmp_path / "x", name="m", proto=None, own_proto=False, wishes=Wishes())
