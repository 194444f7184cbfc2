from __future__ import annotations

import json

import numpy as np
import pytest

from modelyard.data import Dataset, Field
from modelyard.errors import ContractError
from modelyard.packages.assemble import assemble
from modelyard.packages.codecs.json import JsonCodec
from modelyard.packages.contract import Contract
from modelyard.packages.table import Table
from modelyard.packages.transform import TransformChain

FIELDS = (Field("a", "float32"), Field("b", "float32"))


def codec(*fields):
    return JsonCodec(Contract(fields, (Field("y", "float32"),)))


def body(*rows):
    return json.dumps({"rows": [dict(zip("ab", row, strict=True)) for row in rows]}).encode()


def test_rows_of_one_float_type_are_decoded_into_one_array():
    columns = codec(*FIELDS).decode(body((1.5, 2), (None, -3.25)))
    assert isinstance(columns, Table)
    assert {name: values.tolist() for name, values in columns.items() if name == "b"} == {"b": [2.0, -3.25]}
    np.testing.assert_array_equal(columns["a"], np.array([1.5, np.nan], dtype=np.float32))
    assert assemble(FIELDS, columns) is columns.matrix


def test_another_order_of_the_columns_is_joined_anew():
    columns = codec(*FIELDS).decode(body((1.0, 2.0)))
    np.testing.assert_array_equal(assemble(FIELDS[::-1], columns), [[2.0, 1.0]])


def test_a_number_past_float32_is_refused_with_its_row_and_field():
    with pytest.raises(ContractError) as caught:
        codec(*FIELDS).decode(body((1.0, 2.0), (1.0, 1e39)))
    assert caught.value.where == "row 1, field 'b'"
    assert "3.4028" in caught.value.what


@pytest.mark.parametrize("other", [Field("b", "int64"), Field("b", "float64"), Field("b", "float32", (1,))])
def test_columns_of_different_types_are_no_table(other):
    given = (1.0, [2.0]) if other.shape else (1.0, 2)
    columns = codec(FIELDS[0], other).decode(body(given))
    assert not isinstance(columns, Table)
    assert columns["b"].dtype == other.dtype


def test_standardizing_a_table_gives_the_same_bits_as_its_columns():
    rng = np.random.default_rng(0)
    matrix = rng.normal(5, 3, (7, 3)).astype(np.float32)
    names = ("a", "b", "c")
    train = Dataset({name: rng.normal(5, 3, 50).astype(np.float32) for name in names})
    chain = TransformChain.fit([{"type": "standardize"}], train)
    table = chain.apply(Table(names, matrix))
    columns = chain.apply({name: matrix[:, index].copy() for index, name in enumerate(names)})
    assert isinstance(table, Table)
    for name in names:
        np.testing.assert_array_equal(table[name], columns[name])
        assert table[name].dtype == columns[name].dtype == np.float32


def test_rows_become_an_array_when_it_is_asked_for_and_joined_ones_become_one():
    tables = [Table.of_rows(("a", "b"), [(1.0, None), (3.0, 4.0)], np.dtype("float32"))]
    tables.append(Table.of_rows(("a", "b"), [(5.0, 6.0)], np.dtype("float32")))
    assert [table.rows for table in tables] == [2, 1]
    joined = Table.joined(tables)
    assert joined.rows == 3
    assert joined.matrix.dtype == np.float32
    np.testing.assert_array_equal(joined.matrix, np.array([[1, np.nan], [3, 4], [5, 6]], np.float32))
    assert joined.matrix is joined.matrix, "it is made once"
    # One that is an array already is joined as such.
    np.testing.assert_array_equal(Table.joined([tables[1], joined.part(slice(1, 2))])["b"], [6.0, 4.0])
