"""A saved model answers raw rows the same in every runtime, and refuses what it can't be trusted with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import skops.io
import torch
from onnx import TensorProto, helper
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from tests.unit.packages.conftest import customers, images

from modelyard.data import Dataset, Field
from modelyard.errors import (
    ContractError,
    DataError,
    InputError,
    IntegrityError,
    MissingExtraError,
    NotFoundError,
    StorageError,
)
from modelyard.packages.assemble import assemble, input_shape
from modelyard.packages.flavours.onnx_runtime import OnnxPredictor, check_onnx
from modelyard.packages.flavours.torch import build_network
from modelyard.packages.model import load_model, read_info, save_model
from modelyard.packages.transform import TransformChain

SCALARS = (Field("a", "float32"), Field("b", "int64"))


def dense(units: int) -> dict[str, Any]:
    return {"type": "fully_connected", "units": units}


def twice(rows: Any) -> Any:
    return rows * 2


def linear(rows: int = 60) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(0)
    columns = {"a": rng.standard_normal(rows).astype(np.float32), "b": rng.integers(0, 5, rows)}
    return columns, assemble(SCALARS, columns)


@pytest.mark.parametrize("kind", ["network", "forest"])
def test_both_runtimes_answer_alike_and_in_chunks(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    rows = (images if kind == "network" else customers)(2500, seed=1).features
    onnx_model, native = load_model(folder, "onnx"), load_model(folder, "native")
    first, second = onnx_model.predict(rows), native.predict(rows)
    np.testing.assert_allclose(first["probabilities"], second["probabilities"], rtol=1e-3, atol=1e-5)
    assert (first["label"] == second["label"]).mean() > 0.999
    few = onnx_model.predict({name: values[2000:2003] for name, values in rows.items()})
    np.testing.assert_allclose(first["probabilities"][2000:2003], few["probabilities"], rtol=1e-5, atol=1e-6)
    assert [field.name for field in onnx_model.contract.outputs] == list(first)


def test_the_contract_is_that_of_the_raw_data(forest: Path) -> None:
    contract = load_model(forest).contract
    assert contract.inputs == (Field("age", "float64"), Field("visits", "int64"), Field("city", "string"))
    assert contract.outputs == (Field("label", "string"), Field("probabilities", "float32", (2,)))
    assert contract.classes == ("no", "yes")


def test_transformed_rows_give_what_raw_rows_give(forest: Path) -> None:
    model = load_model(forest)
    raw = customers(30, seed=2).features
    assert model.transform is not None
    first, second = model.predict(raw), model.predict_transformed(model.transform.apply(raw))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_raw_rows_are_checked(network: Path) -> None:
    with pytest.raises(ContractError, match="uint8"):
        load_model(network).predict({"image": np.full((1, 4, 4), 300)})


def test_no_rows_give_no_answers(network: Path) -> None:
    predicted = load_model(network).predict({"image": np.empty((0, 4, 4), np.uint8)})
    assert predicted["label"].shape == (0,)
    assert predicted["probabilities"].shape == (0, 3)


def test_a_regression_gives_one_value_for_each_row(tmp_path: Path) -> None:
    columns, rows = linear()
    estimator = LinearRegression().fit(rows, rows[:, 0] * 2 + 1)
    torch.manual_seed(0)
    network = build_network([dense(4), dense(1)], (2,), 1)
    for flavour, model in (("sklearn", estimator), ("torch", network)):
        save_model(tmp_path / flavour, flavour=flavour, model=model, inputs=SCALARS, prediction_type="regression")
        answers = [load_model(tmp_path / flavour, runtime).predict(columns)["value"] for runtime in ("native", "onnx")]
        assert answers[0].dtype == np.float32
        assert answers[0].shape == (60,)
        np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-5)


def test_a_classifier_without_probabilities_gives_labels_alone(tmp_path: Path) -> None:
    columns, rows = linear()
    names = np.where(rows[:, 0] > 0, "up", "down")
    for folder, targets in (("labels", names), ("positions", (names == "up").astype(np.int64))):
        save_model(
            tmp_path / folder, flavour="sklearn", model=LinearSVC().fit(rows, targets), inputs=SCALARS,
            prediction_type="classification", classes=("down", "up"),
        )  # fmt: skip
        for runtime in ("native", "onnx"):
            model = load_model(tmp_path / folder, runtime)
            assert model.contract.outputs == (Field("label", "string"),)
            assert (model.predict(columns)["label"] == names).mean() > 0.95


def test_a_class_that_training_has_not_seen_has_probability_zero(tmp_path: Path) -> None:
    columns, rows = linear()
    estimator = LogisticRegression().fit(rows, np.where(rows[:, 0] > 0, "c", "a"))
    save_model(
        tmp_path / "m", flavour="sklearn", model=estimator, inputs=SCALARS, prediction_type="classification",
        classes=("a", "b", "c"),
    )  # fmt: skip
    for runtime in ("native", "onnx"):
        predicted = load_model(tmp_path / "m", runtime).predict(columns)
        assert predicted["probabilities"].shape == (60, 3)
        assert not predicted["probabilities"][:, 1].any()
        assert predicted["label"].tolist() == estimator.predict(rows).tolist()


def test_labels_that_may_be_classes_or_positions_are_refused_and_not_guessed(tmp_path: Path) -> None:
    _, rows = linear()
    estimator = LogisticRegression().fit(rows, np.where(rows[:, 0] > 0, 1, 2))
    with pytest.raises(DataError, match="positions"):
        save_model(
            tmp_path / "m", flavour="sklearn", model=estimator, inputs=SCALARS, prediction_type="classification",
            classes=(1, 2, 3),
        )  # fmt: skip


@pytest.mark.parametrize("classes", [("a", "b"), (3, 7), (False, True), (0.5, 1.5)])
def test_labels_have_the_dtype_of_the_classes(classes: tuple[Any, ...], tmp_path: Path) -> None:
    network = build_network([dense(2)], (2,), 2)
    save_model(
        tmp_path / "m", flavour="torch", model=network, inputs=SCALARS, prediction_type="classification",
        classes=classes,
    )  # fmt: skip
    columns, _ = linear()
    model = load_model(tmp_path / "m")
    label = model.predict(columns)["label"]
    assert set(label.tolist()) <= set(classes)
    assert model.contract.outputs[0].dtype == {"a": "string", 3: "int64", False: "bool", 0.5: "float64"}[classes[0]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("a",)}, "two classes"),
        ({"classes": None}, "two classes"),
        ({"classes": ("a", "b", "c")}, "3 classes"),
        ({"classes": ("a", 1)}, "mix types"),
        ({"inputs": (Field("a", "float32"),)}, "shape"),
        ({"inputs": (Field("a", "string"), Field("b", "int64"))}, "text"),
        ({"prediction_type": "regression"}, "classifier"),
        ({"prediction_type": "ranking"}, "neither"),
        ({"outputs": (Field("label", "string"),)}, "outputs"),
        ({"model": object()}, "build_network"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    usual = {
        "flavour": "torch", "model": build_network([dense(2)], (2,), 2), "inputs": SCALARS,
        "prediction_type": "classification", "classes": ("a", "b"),
    }  # fmt: skip
    with pytest.raises(DataError, match=said):
        save_model(tmp_path / "m", **(usual | changed))
    assert not (tmp_path / "m" / "model.json").exists()


def test_a_transform_that_does_not_lead_to_the_model_is_refused(tmp_path: Path) -> None:
    chain = TransformChain.fit([{"type": "flatten"}], images())
    with pytest.raises(DataError, match="transform gives"):
        save_model(
            tmp_path / "m", flavour="torch", model=build_network([dense(2)], (2,), 2), inputs=SCALARS,
            prediction_type="classification", classes=("a", "b"), transform=chain,
        )  # fmt: skip


def test_columns_are_joined_in_the_order_of_the_fields() -> None:
    fields = (Field("m", "uint8", (2, 2)), Field("x", "float64"), Field("b", "bool"))
    columns = {"b": np.array([True]), "x": np.array([0.5]), "m": np.array([[[1, 2], [3, 4]]], np.uint8)}
    assert assemble(fields, columns, flat=True).tolist() == [[1, 2, 3, 4, 0.5, 1]]
    assert assemble(fields[1:], columns).tolist() == [[0.5, 1]]
    assert assemble(fields[:1], columns).shape == (1, 2, 2)
    assert input_shape(fields[1:2]) == (1,)
    with pytest.raises(DataError, match="stack"):
        input_shape(fields)


def test_unknown_flavours_and_missing_files_are_told(tmp_path: Path, network: Path) -> None:
    with pytest.raises(NotFoundError, match="no flavour 'shelve'"):
        save_model(
            tmp_path / "m", flavour="shelve", model=None, inputs=SCALARS, prediction_type="classification",
            classes=("a", "b"),
        )  # fmt: skip
    with pytest.raises(IntegrityError, match="no model folder"):
        load_model(tmp_path / "nothing")
    (network / "model.onnx").unlink()
    with pytest.raises(StorageError, match=r"model\.onnx"):
        load_model(network, "onnx")


def test_an_estimator_with_code_of_ones_own_is_refused(tmp_path: Path) -> None:
    _, rows = linear()
    estimator = make_pipeline(FunctionTransformer(twice), LinearRegression())
    with pytest.raises(InputError, match=r"not trusted: .*twice"):
        save_model(
            tmp_path / "u", flavour="sklearn", model=estimator.fit(np.abs(rows), rows[:, 0]), inputs=SCALARS,
            prediction_type="regression",
        )  # fmt: skip


def test_an_estimator_without_a_converter_says_so_and_works_natively(tmp_path: Path) -> None:
    columns, rows = linear()
    info = save_model(
        tmp_path / "k", flavour="sklearn", model=KernelRidge().fit(rows, rows[:, 0]), inputs=SCALARS,
        prediction_type="regression",
    )  # fmt: skip
    assert info.onnx is None
    assert "KernelRidge" in info.onnx_missing
    assert read_info(tmp_path / "k") == info
    assert load_model(tmp_path / "k").predict(columns)["value"].shape == (60,)
    with pytest.raises(NotFoundError, match="KernelRidge"):
        load_model(tmp_path / "k", "onnx")


def test_an_estimator_file_with_foreign_types_is_not_loaded(forest: Path) -> None:
    (forest / "model.skops").write_bytes(skops.io.dumps(make_pipeline(FunctionTransformer(json.dumps))))
    with pytest.raises(IntegrityError, match=r"json\.dumps"):
        load_model(forest, "native")


def test_a_missing_library_is_told_with_the_pip_line(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("modelyard.packages.flavours.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"modelyard\[torch\]"):
        load_model(network, "native")


def onnx_file(folder: Path, *, domain: str = "", location: str = "") -> Path:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    if location:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"], domain=domain)]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        initializer=[weight],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    file.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return file


def test_onnx_with_foreign_operators_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"evil\.ops"):
        OnnxPredictor(onnx_file(tmp_path, domain="evil.ops"))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_onnx_with_data_outside_its_folder_is_refused(location: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="outside its folder"):
        check_onnx(onnx_file(tmp_path / "m", location=location))


def test_onnx_data_behind_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.ones(2, np.float32).tobytes())
    file = onnx_file(tmp_path / "m", location="weights")
    (tmp_path / "m" / "weights").symlink_to(tmp_path / "secret")
    with pytest.raises(IntegrityError, match="outside its folder"):
        OnnxPredictor(file)


def test_onnx_data_in_its_folder_is_read_and_saved_as_one_file(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "m", location="weights")
    (tmp_path / "m" / "weights").write_bytes(np.array([3, 4], np.float32).tobytes())
    assert OnnxPredictor(file).predict({"input": np.ones((1, 2), np.float32)})["scores"].tolist() == [[3, 4]]
    info = save_model(
        tmp_path / "s", flavour="onnx", model=file, inputs=[Field("x", "float32", (2,))],
        prediction_type="classification", classes=("a", "b"),
    )  # fmt: skip
    assert info.head == "logits"
    assert load_model(tmp_path / "s").predict({"x": np.ones((1, 2))})["label"].tolist() == ["b"]


def test_operators_inside_branches_are_seen() -> None:
    from modelyard.packages.flavours.onnx_scan import scan

    inner = helper.make_graph([helper.make_node("Trick", [], ["t"], domain="evil.ops")], "inner", [], [])
    outer = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)], "g", [], [])
    model = helper.make_model(outer, opset_imports=[helper.make_opsetid("", 20)])
    assert "evil.ops" in scan(model.SerializeToString()).domains


def test_a_file_of_zeros_is_told_from_a_model_at_its_first_byte() -> None:
    from modelyard.packages.flavours.onnx_scan import scan

    with pytest.raises(ValueError, match="before byte 1 has the number 0"):
        scan(bytes(1_000_000))


def test_an_onnx_model_with_two_inputs_or_another_type_is_refused(tmp_path: Path) -> None:
    model = onnx.load(onnx_file(tmp_path / "m"))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises((DataError, IntegrityError)):
        save_model(
            tmp_path / "s", flavour="onnx", model=model, inputs=[Field("x", "float32", (2,))],
            prediction_type="regression",
        )  # fmt: skip


def test_data_sets_keep_their_target_out_of_the_contract(network: Path) -> None:
    data: Dataset = images()
    assert "label" not in [field.name for field in load_model(network).contract.inputs]
    assert len(load_model(network).predict(data.columns)["label"]) == len(data)
