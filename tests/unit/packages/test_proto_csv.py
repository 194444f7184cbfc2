"""CSV becomes messages by the rules of Acumos, and a cell that does not fit is named by row and column."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.packages.proto_golden import GOLDEN, SCALARS, load
from tests.unit.packages.test_proto_messages import VALUES

from modelyard.errors import ContractError
from modelyard.packages.codecs import proto_csv
from modelyard.packages.codecs.proto_csv import from_csv
from modelyard.packages.codecs.proto_messages import to_binary, to_json
from modelyard.packages.codecs.proto_schema import parse

KIND = parse(GOLDEN).message("All")
MODULE = load(GOLDEN.replace("golden.v1", "golden.csv.v1"), "golden_csv")


def kind_of(declarations: str, name: str = "In") -> Any:
    return parse(f'syntax = "proto3"; {declarations}').message(name)


def made(declarations: str, body: str, **options: Any) -> Any:
    return json.loads(to_json(from_csv(kind_of(declarations), body.encode(), **options).message, names="proto"))


def test_the_golden_bytes_of_acumos_come_out() -> None:
    kind = kind_of("message Row { int64 operand = 1; } message In { repeated Row rows = 1; }")
    for body in (
        b"operand\n2\n7\n8\n",
        b"operand\r\n2\r\n7\r\n8",
        b'\xef\xbb\xbf"operand"\n"2"\n7\n8\n',
        b"operand\n 2\n7.0\n8 ",
    ):
        assert to_binary(from_csv(kind, body).message).hex() == "0a0208020a0208070a020808"


def cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
ROW = st.fixed_dictionaries({
    **{f"{kind}_one": TEXTS if kind == "string" else VALUES[kind] for kind in SCALARS},
    **{f"{kind}_many": st.lists(TEXTS.filter(bool) if kind == "string" else VALUES[kind].filter(lambda v: v != b""),
       min_size=2, max_size=2) for kind in SCALARS},
    "colour": st.sampled_from([0, 1, -2, 77]), "leafName": TEXTS.filter(bool), "maybe": VALUES["double"],
})  # fmt: skip


@given(st.lists(ROW, min_size=1, max_size=3), st.randoms(), st.booleans())
def test_every_type_says_what_generated_code_says(rows: list[dict[str, Any]], random: Any, names: bool) -> None:
    header = [name for name, value in rows[0].items() for _ in range(2 if isinstance(value, list) else 1)]
    order = random.sample(range(len(header)), len(header))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([header[index] for index in order] + ["unknown"])
    expected = MODULE.All()
    for row in rows:
        seen: dict[str, int] = {}
        cells = []
        for index in order:
            name, value = header[index], row[header[index]]
            if isinstance(value, list):
                at = seen[name] = seen.get(name, -1) + 1
                value = value[at]
            if names and name == "colour" and value in (1, -2):
                value = {1: "RED", -2: "BLUE"}[value]
            cells.append(cell(value))
        writer.writerow([*cells, "ignored"])
        for name, value in row.items():
            if name in ("leafName", "maybe"):
                setattr(expected.inner, name, value)
            elif isinstance(value, list):
                getattr(expected, name).extend(value)
            elif value not in ("", b""):
                setattr(expected, name, value)
        expected.rows.add(leafName=row["leafName"], maybe=row["maybe"])
    reading = from_csv(KIND, text.getvalue().encode())
    assert (reading.rows, reading.refused) == (len(rows), {})
    assert to_binary(reading.message) == expected.SerializeToString(deterministic=True)


def test_columns_are_found_by_exact_name_and_others_are_ignored() -> None:
    rows = "message Row { int64 a = 1; string b = 2; } message In { repeated Row rows = 1; }"
    assert made(rows, "A,b,x,a\n1,2,3,4\n") == {"rows": [{"a": "4", "b": "2"}]}
    assert made(rows, "x\n1\n2\n") == {"rows": [{}, {}]}
    assert made(rows, "a,b\n") == {}


def test_an_empty_or_missing_cell_leaves_its_field_unset() -> None:
    rows = "message Row { optional int64 a = 1; optional string b = 2; Deep d = 3; } message Deep { int64 c = 1; }"
    rows += " message In { repeated Row rows = 1; }"
    assert made(rows, "a,b,c\n,,\n1\n,x,0\n") == {"rows": [{}, {"a": "1"}, {"b": "x", "d": {}}]}


def test_a_repeated_scalar_takes_every_column_of_its_name_in_each_row() -> None:
    assert made("message In { repeated int64 v = 1; int64 one = 2; }", "v,one,v,one\n1,5,2,6\n3,,,\n,7,4,8\n") == {
        "v": ["1", "2", "3", "4"],
        "one": "7",
    }


def test_a_singular_field_takes_the_first_column_and_the_last_row_that_has_one() -> None:
    assert made("message In { int64 a = 1; }", "a,a\n1,2\n3,4\n,6\n") == {"a": "3"}


def test_an_empty_cell_does_not_shift_columns_side_by_side() -> None:
    text = "message In { repeated int64 n = 1; repeated double x = 2; repeated string s = 3; repeated bytes y = 4; }"
    assert made(text, "n,x,s\n1,,a\n2,1.5,\n") == {"n": ["1", "2"], "x": [1.5], "s": ["a"]}
    assert made(text, "n,x,s\n1,,a\n2,1.5\n", aligned=True) == {"n": ["1", "2"], "x": ["NaN", 1.5], "s": ["a", ""]}
    for column in "ny":
        with pytest.raises(ContractError, match="got ''") as caught:
            made(text, f"x,{column}\n1,\n", aligned=True)
        assert caught.value.where == f"row 0, column {column!r}"


def test_nested_messages_are_filled_from_the_same_row_by_leaf_name() -> None:
    text = (
        "message In { repeated Row rows = 1; } message Row { int64 id = 1; Where where = 2; repeated Tag tags = 3; }"
        " message Where { double lat = 1; Deep deep = 2; } message Deep { string id = 1; }"
        " message Tag { string t = 1; }"
    )
    assert made(text, "id,lat,t\n1,0.5,x\n2,,\n") == {
        "rows": [
            {"id": "1", "where": {"lat": 0.5, "deep": {"id": "1"}}, "tags": [{"t": "x"}]},
            {"id": "2", "where": {"deep": {"id": "2"}}, "tags": [{}]},
        ]
    }


def test_maps_oneofs_and_messages_of_google_are_filled() -> None:
    text = "message In { map<string, int64> m = 1; oneof o { string t = 2; int64 n = 3; } }"
    assert made(text, "key,value,n\na,1,\nb,2,5\n") == {"m": {"a": "1", "b": "2"}, "n": "5"}
    assert made(text, "t,n\nx,5\n") == {"n": "5"}
    google = 'import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";'
    google += "message In { google.protobuf.Timestamp at = 1; google.protobuf.BoolValue sure = 2; }"
    assert made(google, "at,sure\n2026-01-31T00:00:00Z,false\n") == {"at": "2026-01-31T00:00:00Z", "sure": False}
    with pytest.raises(ContractError, match="Expected Timestamp; got 'now'"):
        made(google, "at,sure\nnow,false\n")


def test_quotes_line_breaks_and_spaces_are_those_of_rfc_4180() -> None:
    text = "message Row { string a = 1; string b = 2; } message In { repeated Row rows = 1; }"
    assert made(text, 'a,b\r\n"x,""y""","two\r\nlines"\r\n  kept , \r\n') == {
        "rows": [{"a": 'x,"y"', "b": "two\r\nlines"}, {"a": "  kept ", "b": " "}]
    }


EVERY = "enum E { Z = 0; ONE = 1; } message Row { int32 i = 1; uint64 u = 2; float f = 3; double d = 4; bool b = 5;"
EVERY += " bytes y = 6; E e = 7; string s = 8; } message In { repeated Row rows = 1; }"


def test_the_largest_float_reads_back_from_its_shortest_text() -> None:
    message: Any = from_csv(kind_of(EVERY), b"f\n3.4028235e38\n").message
    assert message.rows[0].f == 3.4028234663852886e38


@pytest.mark.parametrize(
    ("column", "bad", "expected"),
    [
        ("i", "x", "int32"), ("i", "2147483648", "int32"), ("i", "1.5", "int32"), ("i", "1_000", "int32"),
        ("i", "٣", "int32"), ("i", "1e400", "int32"), ("i", "nan", "int32"), ("i", "9" * 5000, "int32"),
        ("u", "-1", "uint64"), ("u", "18446744073709551616", "uint64"), ("f", "1e39", "float"), ("f", "?", "float"),
        ("d", "1,5", "double"), ("d", "0x1", "double"), ("b", "yes", "bool"), ("b", "2", "bool"),
        ("y", "?", "bytes"), ("y", "a", "bytes"), ("e", "TWO", "E"), ("e", "2147483648", "E"),
    ],
)  # fmt: skip
def test_a_bad_cell_is_refused_by_row_and_column(column: str, bad: str, expected: str) -> None:
    body = f'{column},s\n,fine\n"{bad}",x\n'.encode()
    with pytest.raises(ContractError, match=f"Expected {expected}; got") as caught:
        from_csv(kind_of(EVERY), body)
    assert caught.value.where == f"row 1, column {column!r}"
    assert len(str(caught.value)) < 300


def test_an_enum_of_proto2_takes_its_own_numbers_alone() -> None:
    kind = parse("message In { optional E e = 1; enum E { A = 1; } }").message("In")
    assert to_binary(from_csv(kind, b"e\nA\n").message) == b"\x08\x01"
    with pytest.raises(ContractError, match="Expected E; got '2'"):
        from_csv(kind, b"e\n2\n")


def test_bad_rows_are_told_one_by_one_when_asked() -> None:
    """And nothing of a bad row is left in the message, wherever in the row the bad cell stands."""
    text = (
        "message Row { int64 a = 1; Deep d = 2; } message Deep { double x = 1; } message In { repeated Row rows = 1; }"
    )
    reading = from_csv(kind_of(text), b"a,x\n1,0.5\n2,bad\n3,1.5\nbad,2\n5,1,extra\n6,3\n", errors="rows")
    # The class is made at run time.
    assert [(row.a, row.d.x) for row in reading.message.rows] == [(1, 0.5), (3, 1.5), (6, 3)]  # type: ignore[attr-defined]
    assert (reading.rows, reading.kept) == (6, [0, 2, 5])
    assert {row: error.where for row, error in reading.refused.items()} == {
        1: "row 1, column 'x'",
        3: "row 3, column 'a'",
        4: "row 4",
    }


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"", "empty"), (b"\n\n", "empty"), (b"a\n1,2\n", "row 0: The row has 2 cells"), (b'a\n"1\n', "not CSV"),
        (b"a\n\xff\n", "not UTF-8"), (b"a\n1\n2\n3\n", "more than 2 rows"),
        (b"a\n" + b"1" * 200_000, "not CSV"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused(body: bytes, match: str) -> None:
    with pytest.raises(ContractError, match=match):
        from_csv(kind_of("message In { repeated int64 a = 1; }"), body, max_rows=2)


def test_a_message_inside_itself_ends() -> None:
    text = "message In { string name = 1; In next = 2; repeated In kids = 3; Other other = 4; }"
    text += " message Other { In back = 1; string other = 2; }"
    assert made(text, "name,other\na,b\n") == {"name": "a", "other": {"other": "b"}}


def test_a_schema_that_doubles_at_each_level_is_refused() -> None:
    levels = "".join(f"message M{i} {{ M{i + 1} a = 1; M{i + 1} b = 2; }}" for i in range(40))
    with pytest.raises(ContractError, match="more than 4096 fields"):
        from_csv(kind_of(levels + "message M40 { int64 x = 1; }", "M0"), b"x\n1\n")


def test_few_rows_of_many_repeated_messages_do_not_fill_the_memory() -> None:
    fields = "".join(f"repeated R r{i} = {i + 1};" for i in range(1000))
    kind = kind_of(f"message R {{ int64 a = 1; }} message In {{ {fields} }}")
    # The class is made at run time.
    assert len(from_csv(kind, b"a\n1\n").message.r999) == 1  # type: ignore[attr-defined]
    with pytest.raises(ContractError, match=f"more than {proto_csv.MAXIMUM_ELEMENTS} messages"):
        from_csv(kind, b"a\n" + b"1\n" * 1100)


@given(st.binary(max_size=80) | st.text('ab,"\n\r1 é\0', max_size=40).map(str.encode))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    kind = kind_of(
        "message Row { int64 a = 1; string b = 2; } message In { repeated Row rows = 1; repeated int64 b = 2; }"
    )
    with contextlib.suppress(ContractError):
        from_csv(kind, body)
    with contextlib.suppress(ContractError):
        reading = from_csv(kind, body, errors="rows")
        # The class is made at run time.
        assert len(reading.message.rows) + len(reading.refused) == reading.rows  # type: ignore[attr-defined]
