"""Transforms learn from the training part alone, and do the same to a batch as to each of its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.blueprint.model import Operation
from modelyard.data import Dataset, Field, schema_of
from modelyard.errors import ContractError, DataError, IntegrityError
from modelyard.packages.transform import TransformChain


def table(rows: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 12, rows)
    age[rng.random(rows) < 0.2] = np.nan
    return Dataset(
        {
            "age": age,
            "visits": rng.integers(0, 9, rows),
            "city": rng.choice(np.array(["Niš", "Belgrade", "", "Kyiv"]), rows),
            "member": rng.random(rows) < 0.5,
            "image": rng.integers(0, 256, (rows, 3, 4), dtype=np.uint8),
            "label": rng.choice(np.array(["no", "yes"]), rows),
        },
        target="label",
    )


def operations(*given: dict[str, Any]) -> list[dict[str, Any]]:
    """As a plan has them: through the metamodel, with every default."""
    return [Operation.model_validate(each).model_dump() for each in given]


EVERY = operations(
    {"type": "impute", "columns": ("age",), "strategy": "mean"},
    {"type": "impute", "columns": ("city",), "strategy": "most_frequent"},
    {"type": "standardize", "columns": ("age", "visits")},
    {"type": "one_hot"},
    {"type": "scale", "columns": ("image",), "factor": 1 / 255, "offset": -0.5},
    {"type": "flatten"},
    {"type": "reshape", "columns": ("image",), "shape": (2, -1)},
    {"type": "flatten", "columns": ("image",)},
    {"type": "stack", "into": "features"},
)


def equal(first: Any, second: Any) -> bool:
    return bool(first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000))
def test_a_batch_gives_the_bits_of_its_rows(rows: int, seed: int) -> None:
    chain = TransformChain.fit(EVERY, table(50))
    batch = table(rows, seed).features
    whole = chain.apply(batch)
    single = [chain.apply({name: values[row : row + 1] for name, values in batch.items()}) for row in range(rows)]
    assert schema_of(whole) == chain.outputs
    for name, values in whole.items():
        assert equal(values, np.concatenate([each[name] for each in single]))


def test_a_saved_chain_is_the_same_chain(tmp_path: Path) -> None:
    chain = TransformChain.fit(EVERY, table(50))
    chain.save(tmp_path / "a")
    loaded = TransformChain.load(tmp_path / "a")
    assert (loaded.inputs, loaded.outputs) == (chain.inputs, chain.outputs)
    other = table(200, 7).features
    for name, values in chain.apply(other).items():
        assert equal(values, loaded.apply(other)[name])
    loaded.save(tmp_path / "b")
    for file in ("transform.json", "arrays.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_applying_learns_nothing() -> None:
    chain = TransformChain.fit(EVERY, table(50))
    before = chain.apply(table(5, 1).features)
    chain.apply(
        {name: values * 0 if values.dtype.kind == "f" else values for name, values in table(99, 2).features.items()}
    )
    after = chain.apply(table(5, 1).features)
    assert all(equal(before[name], after[name]) for name in before)


def test_the_target_is_neither_seen_nor_given() -> None:
    chain = TransformChain.fit(operations({"type": "one_hot"}), table(50))
    assert "label" not in {field.name for field in (*chain.inputs, *chain.outputs)}
    assert "label" not in chain.apply(table(3).columns)


def test_two_fits_in_a_row_are_one_fit() -> None:
    train = table(50)
    first = TransformChain.fit(EVERY[:4], train)
    middle = Dataset({**first.apply(train.features), "label": train.labels}, target="label")
    both = TransformChain.fit(EVERY[4:], middle, upstream=first)
    once = TransformChain.fit(EVERY, train)
    fresh = table(20, 3).features
    assert both.inputs == once.inputs
    for name, values in once.apply(fresh).items():
        assert equal(values, both.apply(fresh)[name])
    rest = both.since(first).apply(first.apply(fresh))
    assert all(equal(values, rest[name]) for name, values in once.apply(fresh).items())


def test_chains_that_do_not_fit_each_other_are_refused() -> None:
    chain = TransformChain.fit(EVERY, table(50))
    with pytest.raises(DataError, match="takes"):
        chain.then(chain)


def test_scale_turns_bytes_into_float32_exactly_as_float32_arithmetic_does() -> None:
    data = Dataset({"image": np.arange(256, dtype=np.uint8).reshape(1, 256)})
    chain = TransformChain.fit(operations({"type": "scale", "factor": 1 / 255}), data)
    result = chain.apply(data.columns)["image"]
    assert result.dtype == np.float32
    assert np.array_equal(result, data.columns["image"].astype(np.float32) * np.float32(1 / 255))


def test_scale_keeps_the_precision_of_wide_types_until_the_end() -> None:
    data = Dataset({"time": np.array([1_700_000_001, 1_700_000_002])})
    chain = TransformChain.fit(operations({"type": "scale", "factor": 1e-9}), data)
    expected = (data.columns["time"] * 1e-9).astype(np.float32)
    assert np.array_equal(chain.apply(data.columns)["time"], expected)


def test_standardize_agrees_with_the_definition_and_skips_what_is_missing() -> None:
    values = np.array([1.0, 2.0, np.nan, 6.0])
    chain = TransformChain.fit(operations({"type": "standardize"}), Dataset({"x": values}))
    result = chain.apply({"x": values})["x"]
    there = values[~np.isnan(values)]
    assert np.allclose(result[[0, 1, 3]], (there - there.mean()) / there.std(), rtol=1e-6)
    assert np.isnan(result[2])


@pytest.mark.parametrize("value", [0.1, -7.3, 1e30, 0.0])
def test_a_constant_column_is_standardized_to_zero_and_not_to_noise(value: float) -> None:
    values = np.full(1001, value, dtype=np.float32)
    chain = TransformChain.fit(operations({"type": "standardize"}), Dataset({"x": values}))
    assert np.array_equal(chain.apply({"x": values})["x"], np.zeros(1001, np.float32))
    assert chain.apply({"x": values[:1] + np.float32(1)})["x"][0] == pytest.approx(
        float(values[0] + np.float32(1)) - float(values[0])
    )


def test_standardize_takes_each_element_of_an_array_for_itself() -> None:
    train = Dataset({"x": np.array([[1, 100], [3, 100], [5, 400]], dtype=np.int16)})
    result = TransformChain.fit(operations({"type": "standardize"}), train).apply(train.columns)["x"]
    assert np.allclose(result.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(result.std(axis=0), 1, atol=1e-6)


def test_large_columns_are_standardized_block_by_block_with_the_same_result() -> None:
    values = np.random.default_rng(0).integers(0, 256, (3000, 200), dtype=np.uint8)
    chain = TransformChain.fit(operations({"type": "standardize"}), Dataset({"x": values}))
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    assert np.allclose(chain.apply({"x": values})["x"], expected, rtol=1e-5, atol=1e-6)


def test_infinity_can_not_be_learnt_from() -> None:
    with pytest.raises(DataError, match="infinity"):
        TransformChain.fit(operations({"type": "standardize"}), Dataset({"x": np.array([1.0, np.inf])}))


def test_one_hot_knows_the_training_parts_categories_and_gives_zeros_for_others() -> None:
    train = Dataset({"c": np.array(["b", "a", "c", "a"])})
    chain = TransformChain.fit(operations({"type": "one_hot"}), train)
    result = chain.apply({"c": np.array(["c", "unknown", "a", "", "zebra"])})["c"]
    assert result.dtype == np.float32
    assert result.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_one_hot_joins_its_columns_where_into_is_given() -> None:
    train = Dataset({"c": np.array(["b", "a"]), "x": np.array([1, 2]), "m": np.array([True, False])})
    chain = TransformChain.fit(operations({"type": "one_hot", "into": "flags"}), train)
    assert chain.outputs == (Field("flags", "float32", (4,)), Field("x", "int64"))
    assert chain.apply(train.columns)["flags"].tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_one_hot_of_numbers_skips_what_is_missing() -> None:
    train = Dataset({"x": np.array([2.0, np.nan, 1.0])})
    chain = TransformChain.fit(operations({"type": "one_hot", "columns": ("x",)}), train)
    assert chain.apply(train.columns)["x"].tolist() == [[0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("strategy", "value", "expected"),
    [("mean", None, 3.0), ("median", None, 2.0), ("constant", -1.0, -1.0), ("most_frequent", None, 1.0)],
)
def test_impute_fills_by_its_strategy_and_keeps_the_dtype(strategy: str, value: Any, expected: float) -> None:
    values = np.array([1, 1, np.nan, 3, 7], dtype=np.float32)
    given = {"type": "impute", "strategy": strategy, "value": value}
    result = TransformChain.fit(operations(given), Dataset({"x": values})).apply({"x": values})["x"]
    assert result.dtype == np.float32
    assert result.tolist() == [1, 1, expected, 3, 7]
    assert np.isnan(values[2]), "the given array must not change"


def test_impute_fills_empty_text_with_a_constant_or_the_most_frequent() -> None:
    train = Dataset({"c": np.array(["b", "", "b", "a"])})
    for fill, expected in (
        ({"strategy": "most_frequent"}, "b"),
        ({"strategy": "constant", "value": "a longer text"}, "a longer text"),
    ):
        chain = TransformChain.fit(operations({"type": "impute", **fill}), train)
        assert chain.apply(train.columns)["c"].tolist() == ["b", expected, "b", "a"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": "scale", "factor": 2.0, "columns": ("nothing",)}, "not there"),
        ({"type": "scale", "factor": 2.0, "columns": ("city",)}, "can't take"),
        ({"type": "reshape", "shape": (5, 5)}, "No column fits"),
        ({"type": "reshape", "shape": (-1, -1)}, "not possible"),
        ({"type": "stack", "into": "city", "columns": ("age",)}, "exists"),
        ({"type": "impute", "strategy": "constant"}, "value"),
        ({"type": "one_hot", "columns": ("image",)}, "can't take"),
    ],
)
def test_an_operation_that_can_not_be_done_is_named_by_its_place(given: dict[str, Any], said: str) -> None:
    good = {"type": "flatten"}
    with pytest.raises(DataError, match=said) as caught:
        TransformChain.fit(operations(good, given), table(20)) if said != "No column fits" else TransformChain.fit(
            operations(good, given), Dataset({"image": table(20).columns["image"]})
        )
    assert caught.value.where is not None
    assert caught.value.where.startswith("operations[1]")


def test_nothing_can_be_learnt_from_a_column_without_values() -> None:
    empty = Dataset({"x": np.full(3, np.nan)})
    with pytest.raises(DataError, match="no value"):
        TransformChain.fit(operations({"type": "impute", "strategy": "median"}), empty)


def test_a_missing_input_is_a_contract_error() -> None:
    chain = TransformChain.fit(EVERY, table(20))
    with pytest.raises(ContractError, match="'age' is missing"):
        chain.apply({name: values for name, values in table(2).features.items() if name != "age"})


def test_damaged_files_are_named(tmp_path: Path) -> None:
    chain = TransformChain.fit(EVERY, table(20))
    chain.save(tmp_path)
    arrays = (tmp_path / "arrays.safetensors").read_bytes()
    text = (tmp_path / "transform.json").read_bytes()
    content = json.loads(text)
    content["operations"][0]["type"] = "pickle"
    lying = json.loads(text) | {"outputs": []}
    for file, damaged in (
        ("transform.json", b"{"),
        ("transform.json", json.dumps(content).encode()),
        ("transform.json", json.dumps(lying).encode()),
        ("arrays.safetensors", arrays[:20]),
    ):
        chain.save(tmp_path)
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(IntegrityError) as caught:
            TransformChain.load(tmp_path)
        assert caught.value.where == str(tmp_path / file)
