"""A number that only the model finds too large is refused by row and field; it never becomes infinity by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelyard.data import Dataset, Field
from modelyard.errors import ContractError
from modelyard.packages.assemble import assemble
from modelyard.packages.model import Model, load_model, save_model
from modelyard.packages.table import Table
from modelyard.packages.transform import TransformChain

FIELDS = (Field("a", "float64"), Field("n", "int64"), Field("m", "float64", (2, 2)), Field("s", "float32"))


def columns(rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "a": rng.random(rows), "n": rng.integers(0, 9, rows), "m": rng.random((rows, 2, 2)),
        "s": rng.random(rows).astype(np.float32),
    }  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_the_first_row_and_its_first_field_with_a_number_past_float32_are_named(rows):
    given = columns(rows)
    given["m"][rows - 1, 1, 0] = -1e300
    with pytest.raises(ContractError) as caught:
        assemble(FIELDS, given, flat=True, first=10)
    assert caught.value.where == f"row {10 + rows - 1}, field 'm' at [1, 0]"
    given["m"][rows // 2, 0, 1] = 1e39
    given["a"][rows // 2] = 1e39
    with pytest.raises(ContractError) as caught:
        assemble(FIELDS, given, flat=True)
    assert caught.value.where == f"row {rows // 2}, field 'a'"
    assert "got 1e+39" in caught.value.what
    assert caught.value.remedy == "Give 'a' nearer to 0: float32 ends at 3.4028235e+38."


def test_what_is_infinite_or_no_number_already_passes_and_so_does_the_largest_number():
    largest = float(np.finfo(np.float32).max)
    given = {"a": np.array([np.inf, -np.inf, np.nan, largest, -largest, 1e-300])}
    found = assemble((Field("a", "float64"),), given)
    np.testing.assert_array_equal(found[:, 0], np.array([np.inf, -np.inf, np.nan, largest, -largest, 0.0], np.float32))


def test_an_array_column_by_itself_is_looked_at_too():
    given = columns(4)["m"]
    given[2, 0, 0] = 4e38
    with pytest.raises(ContractError) as caught:
        assemble((FIELDS[2],), {"m": given})
    assert caught.value.where == "row 2, field 'm' at [0, 0]"


def test_a_table_of_wide_floats_is_looked_at_and_one_of_float32_is_taken_as_it_is():
    fields = (Field("a", "float64"), Field("b", "float64"))
    matrix = np.array([[1.0, 2.0], [3.0, -1e39]])
    with pytest.raises(ContractError) as caught:
        assemble(fields, Table(("a", "b"), matrix))
    assert caught.value.where == "row 1, field 'b'"
    narrow = np.array([[1.0, np.inf]], dtype=np.float32)
    assert assemble(fields, Table(("a", "b"), narrow)) is narrow


def summing(folder: Path, fields: tuple[Field, ...], width: int, chain: TransformChain | None) -> Model:
    """A model that adds up its inputs."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.ones((width, 1), dtype=np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save_model(folder, flavour="onnx", model=model, inputs=fields, prediction_type="regression", transform=chain)
    return load_model(folder, "onnx")


def test_rows_are_counted_over_all_parts_of_a_long_request(tmp_path):
    model = summing(tmp_path / "m", (Field("x", "float64"),), 1, None)
    values = np.ones(5000)
    assert model.predict({"x": values})["value"].tolist() == [1.0] * 5000
    values[4321] = 1e200
    with pytest.raises(ContractError) as caught:
        model.predict({"x": values})
    assert caught.value.where == "row 4321, field 'x'"


def test_behind_a_transform_the_field_of_the_contract_is_named(tmp_path):
    train = Dataset({"x": np.linspace(-1.0, 1.0, 50), "y": np.linspace(0.0, 1.0, 50)})
    chain = TransformChain.fit(
        [{"type": "scale", "factor": 1e30, "columns": ["y"]}, {"type": "stack", "columns": ["x", "y"], "into": "both"}],
        train,
    )
    model = summing(tmp_path / "m", chain.outputs, 2, chain)
    given = {"x": np.ones(6), "y": np.zeros(6)}
    assert model.predict(given)["value"].tolist() == [1.0] * 6
    # It fits float32 itself, and not once it is scaled.
    given["y"][4] = 1e20
    with pytest.raises(ContractError) as caught:
        model.predict(given)
    assert caught.value.where == "row 4, field 'y'"
    # It passes the scaling, and not the joining.
    given["x"][2] = 1e200
    with pytest.raises(ContractError) as caught:
        model.predict(given)
    assert caught.value.where == "row 2, field 'x'"
