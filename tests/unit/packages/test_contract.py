"""A contract lets through what keeps its value, and names the row and field of what does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.data import Field, dtype_name
from modelyard.errors import ContractError
from modelyard.packages.contract import DTYPES, Contract, coerce, next_version

NUMERIC = [dtype for dtype in DTYPES if dtype not in ("bool", "string")]
SHAPES = st.lists(st.integers(1, 3), max_size=2).map(tuple)
NAMES = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters='"\\'), min_size=1, max_size=8)
FIELDS = st.builds(Field, NAMES, st.sampled_from(DTYPES), SHAPES)
SIDES = st.lists(FIELDS, min_size=1, max_size=4, unique_by=lambda field: field.name).map(tuple)


def contract(*inputs: Field, **more: Any) -> Contract:
    return Contract(inputs, (Field("value", "float32"),), **more)


@given(SIDES, SIDES, st.none() | st.tuples(st.text(), st.text()))
def test_a_contract_survives_its_json(
    inputs: tuple[Field, ...], outputs: tuple[Field, ...], classes: tuple[str, ...] | None
) -> None:
    made = Contract(inputs, outputs, classes=classes)
    assert Contract.from_json(made.to_json()) == made
    assert Contract.from_json(made.to_json()).digest == made.digest


def test_the_digest_tells_every_part_apart() -> None:
    base = contract(Field("a", "int8"))
    others = [
        contract(Field("b", "int8")),
        contract(Field("a", "int16")),
        contract(Field("a", "int8", (2,))),
        contract(Field("a", "int8"), operation="score"),
        contract(Field("a", "int8"), classes=("x", "y")),
        contract(Field("a", "int8"), Field("b", "int8")),
    ]
    assert len({each.digest for each in (base, *others)}) == 7


@pytest.mark.parametrize(
    "inputs",
    [
        (),
        (Field("a", "int8"), Field("a", "int8")),
        (Field("", "int8"),),
        (Field("a", "complex64"),),
        (Field("a", "int8", (0,)),),
    ],
)
def test_an_impossible_contract_is_refused(inputs: tuple[Field, ...]) -> None:
    with pytest.raises(ContractError):
        contract(*inputs)


def test_a_damaged_contract_file_is_a_contract_error() -> None:
    for text in (b"", b"{", b'{"inputs": 3}', b'{"inputs": [], "outputs": []}'):
        with pytest.raises(ContractError):
            Contract.from_json(text)


@given(st.sampled_from(NUMERIC), st.sampled_from(NUMERIC), st.data())
def test_a_coercion_keeps_the_value_or_is_refused(source: str, target: str, data: st.DataObject) -> None:
    values = data.draw(hnp.arrays(np.dtype(source), st.integers(1, 4)))
    misfits = [row for row, value in enumerate(values) if not fits(value, target)]
    if misfits:
        with pytest.raises(ContractError) as caught:
            coerce(Field("x", target), values)
        assert caught.value.where == f"row {misfits[0]}, field 'x'"
        return
    result = coerce(Field("x", target), values)
    assert result.dtype == target
    for before, after in zip(values.tolist(), result.tolist(), strict=True):
        if isinstance(before, float) and isinstance(after, float):
            with np.errstate(over="ignore"):
                rounded = float(np.dtype(target).type(before))
            assert after == rounded or (math.isnan(after) and math.isnan(before))
        else:
            assert before == after


def fits(value: Any, target: str) -> bool:
    """Say by Python's exact arithmetic whether a number may become the target type."""
    number = value.item()
    if target.startswith("float"):
        with np.errstate(over="ignore"):
            rounded = float(np.dtype(target).type(number))
        if isinstance(number, float):
            return not math.isinf(rounded) or math.isinf(number)
        return math.isfinite(rounded) and int(rounded) == number
    limits = np.iinfo(target)
    return math.isfinite(number) and number == int(number) and int(limits.min) <= int(number) <= int(limits.max)


@pytest.mark.parametrize(
    ("field", "values", "where"),
    [
        (Field("n", "int64"), np.array([1.0, np.nan]), "row 1, field 'n'"),
        (Field("n", "int64"), np.array([1.0, 2.0, np.inf]), "row 2, field 'n'"),
        (Field("n", "int8"), np.array([1, 128]), "row 1, field 'n'"),
        (Field("n", "uint8"), np.array([-1]), "row 0, field 'n'"),
        (Field("n", "int64"), np.array([2**63], dtype=np.uint64), "row 0, field 'n'"),
        (Field("x", "float32"), np.array([0, 2**24 + 1]), "row 1, field 'x'"),
        (Field("x", "float32"), np.array([0.0, 1e39]), "row 1, field 'x'"),
        (Field("x", "float32"), np.array(["1"]), "row 0, field 'x'"),
        (Field("x", "float32"), np.array([True]), "row 0, field 'x'"),
        (Field("b", "bool"), np.array([1]), "row 0, field 'b'"),
        (Field("s", "string"), np.array([1]), "row 0, field 's'"),
        (Field("s", "string"), ["a", 1], "row 1, field 's'"),
        (Field("x", "float32"), [1, None], "row 1, field 'x'"),
        (Field("i", "uint8", (2, 2)), np.array([[[1, 2], [3, 4]], [[5, 6], [7, 300]]]), "row 1, field 'i' at [1, 1]"),
        (Field("i", "uint8", (2,)), [[1, 2], [3]], "row 1, field 'i'"),
        (Field("i", "uint8", (2,)), np.zeros((3, 3), np.uint8), "row 0, field 'i'"),
        (Field("i", "uint8"), np.zeros((3, 1), np.uint8), "row 0, field 'i'"),
    ],
)
def test_an_error_names_row_and_field_and_what_was_expected(field: Field, values: Any, where: str) -> None:
    with pytest.raises(ContractError) as caught:
        contract(field).check({field.name: values})
    assert caught.value.where == where
    assert field.dtype in caught.value.what
    assert caught.value.remedy


def test_checked_columns_have_the_contracts_order_and_types_and_no_others() -> None:
    made = contract(Field("s", "string"), Field("x", "float64"), Field("n", "int64"))
    checked = made.check(
        {"n": np.array([1, 2], np.uint8), "extra": np.zeros(5), "x": np.array([1, 2]), "s": ["a", "b"]}
    )
    assert list(checked) == ["s", "x", "n"]
    assert [dtype_name(values.dtype) for values in checked.values()] == ["string", "float64", "int64"]


def test_a_missing_field_and_unequal_lengths_are_named() -> None:
    made = contract(Field("a", "int64"), Field("b", "int64"))
    with pytest.raises(ContractError, match="'b' is missing"):
        made.check({"a": np.array([1])})
    with pytest.raises(ContractError, match="a has 1 rows, b has 2 rows"):
        made.check({"a": np.array([1]), "b": np.array([1, 2])})


def test_no_rows_fit_every_contract() -> None:
    made = contract(Field("a", "int64"), Field("i", "float32", (2, 3)), Field("s", "string"))
    checked = made.check({"a": [], "i": [], "s": []})
    assert [values.shape for values in checked.values()] == [(0,), (0, 2, 3), (0,)]


def test_right_arrays_are_passed_on_without_a_copy() -> None:
    values = np.zeros((2, 3), np.float32)
    assert contract(Field("x", "float32", (3,))).check({"x": values})["x"] is values


def test_a_version_follows_from_the_contracts() -> None:
    old, new = contract(Field("a", "int8")), contract(Field("a", "int16"))
    assert next_version(None, new, None) == "1.0.0"
    assert next_version(old, old, "1.4.2") == "1.5.0"
    assert next_version(old, new, "v1.4.2") == "2.0.0"
    with pytest.raises(ContractError):
        next_version(old, new, "latest")
