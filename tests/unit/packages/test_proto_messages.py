"""Messages of any schema are what protobuf's own generated code makes of them, and what is no message is refused."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.packages.proto_golden import GOLDEN, SCALARS, load

from modelyard.errors import ContractError
from modelyard.packages.codecs.proto_messages import MAXIMUM_NESTING, from_binary, from_json, to_binary, to_json
from modelyard.packages.codecs.proto_schema import parse

KIND = parse(GOLDEN).message("All")
MODULE = load(GOLDEN, "golden")

I32, I64, U32, U64 = (
    st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
)  # fmt: skip
VALUES = {
    "double": st.floats(allow_nan=False), "float": st.floats(width=32, allow_nan=False),
    "int32": I32, "sint32": I32, "sfixed32": I32, "int64": I64, "sint64": I64, "sfixed64": I64,
    "uint32": U32, "fixed32": U32, "uint64": U64, "fixed64": U64, "bool": st.booleans(),
    "string": st.text(max_size=5), "bytes": st.binary(max_size=5),
}  # fmt: skip
INNER = st.fixed_dictionaries({}, optional={"leafName": st.text(max_size=3), "maybe": st.floats(allow_nan=False)})
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **{f"{kind}_one": VALUES[kind] for kind in SCALARS},
    **{f"{kind}_many": st.lists(VALUES[kind], max_size=3) for kind in SCALARS},
    "colour": st.sampled_from([0, 1, -2, 77]),
    "colours": st.lists(st.sampled_from([0, 1, -2]), max_size=3),
    "counts": st.dictionaries(st.text(max_size=3), I64, max_size=3),
    "inner": INNER,
    "rows": st.lists(INNER, max_size=3),
    "number": I64,
    "wrapped": st.fixed_dictionaries({"value": I64}),
    "loose": st.lists(I32, max_size=3),
}
RECORDS = st.fixed_dictionaries({}, optional=FIELDS)


@given(RECORDS)
def test_bytes_and_json_agree_with_generated_code_for_every_type(record: dict[str, Any]) -> None:
    expected = MODULE.All(**record)
    body = expected.SerializeToString(deterministic=True)
    message = from_binary(KIND, body)
    assert to_binary(message) == body
    for names, keep in (("json", False), ("proto", True)):
        text = to_json(message, names=names)  # type: ignore[arg-type]  # each is one of the literals
        assert json.loads(text) == json_format.MessageToDict(expected, preserving_proto_field_name=keep)
        assert to_binary(from_json(KIND, text)) == body
    full = json.loads(to_json(message, defaults=True))
    assert full == json_format.MessageToDict(expected, always_print_fields_with_no_presence=True)


def test_packed_fields_have_the_golden_bytes_of_acumos() -> None:
    kind = parse('syntax = "proto3"; message Out { repeated int64 value = 1; }').message("Out")
    assert to_binary(from_json(kind, '{"value": [6666, "10", 16]}')).hex() == "0a048a340a10"
    unpacked = bytes.fromhex("088a34080a0810")
    assert to_binary(from_binary(kind, unpacked)).hex() == "0a048a340a10"


def test_json_has_both_namings_and_long_integers_as_text() -> None:
    text = to_json(from_json(KIND, '{"int64One": "9007199254740993", "string_one": "a", "bytesOne": "/w=="}'))
    assert json.loads(text) == {"int64One": "9007199254740993", "stringOne": "a", "bytesOne": "/w=="}
    text = to_json(
        from_json(KIND, '{"double_one": "NaN", "colour": "BLUE", "at": "2026-01-31T00:00:00Z"}'), names="proto"
    )
    assert json.loads(text) == {"double_one": "NaN", "colour": "BLUE", "at": "2026-01-31T00:00:00Z"}
    assert json.loads(to_json(from_json(KIND, b'\xef\xbb\xbf{"wrapped": "5"}'))) == {"wrapped": "5"}


@pytest.mark.parametrize("place", ["floatOne", "floatMany", "singles", "next"])
def test_the_largest_float_reads_back_from_the_text_it_is_written_as(place: str) -> None:
    kind = parse(
        GOLDEN.replace("repeated int32 loose", "int32 less = 53; map<int32, float> singles = 54; repeated int32 loose")
    ).message("All")
    for number, largest in (("3.4028235e+38", 3.4028234663852886e38), ("-3.4028235e38", -3.4028234663852886e38)):
        value = {"floatMany": f"[1, {number}]", "singles": f'{{"1": {number}}}', "next": f'{{"floatOne": {number}}}'}
        message: Any = from_json(kind, f'{{"{place}": {value.get(place, number)}}}')
        found = {"floatOne": lambda m: m.float_one, "floatMany": lambda m: m.float_many[1],
                 "singles": lambda m: m.singles[1], "next": lambda m: m.next.float_one}[place](message)  # fmt: skip
        assert found == largest
        assert to_binary(from_json(kind, to_json(message))) == to_binary(message)
    with pytest.raises(ContractError, match="Expected"):
        from_json(kind, '{"floatOne": 3.4028236e38}')


@pytest.mark.parametrize(
    ("body", "where", "what"),
    [
        ('{"int32One": "a"}', "All.int32One", "Expected int32; got 'a'"),
        ('{"int32_one": 2147483648}', "All.int32_one", "Expected int32"),
        ('{"rows": [{}, {"maybe": "x"}]}', "All.rows[1].maybe", "Expected double; got 'x'"),
        ('{"rows": [{}, null]}', "All.rows[1]", "Expected Inner; got None"),
        ('{"rows": [{}, 3]}', "All.rows[1]", "Expected an object; got 3"),
        ('{"rows": {}}', "All.rows", "Expected a list of Inner"),
        ('{"inner": []}', "All.inner", "Expected an object; got []"),
        ('{"rows": [{}, []]}', "All.rows[1]", "Expected an object; got []"),
        ('{"bytesMany": ["/w==", "?"]}', "All.bytesMany[1]", "Expected bytes in Base64; got '?'"),
        ('{"inners": {"1": []}}', "All.inners[0]", "Expected an object"),
        ('{"next": {"next": {"int64Many": [1, 2, 1.5]}}}', "All.next.next.int64Many[2]", "Expected int64; got 1.5"),
        ('{"colour": "GREEN"}', "All.colour", "Expected Colour"),
        ('{"counts": {"a": 1, "b": "c"}}', "All.counts['b']", "Expected string to int64; got 'c'"),
        ('{"counts": []}', "All.counts", "Expected an object"),
        ('{"at": "yesterday"}', "All.at", "Expected Timestamp; got 'yesterday'"),
        ('{"floatOne": 1e39}', "All.floatOne", "Expected float"),
        ('{"doubleOne": 1e400}', "All.doubleOne", "Expected double"),
        ('{"inner": {"other": 1}}', "All.inner.other", "has no field 'other'"),
        ('{"text": "a", "number": 1}', "All", "do not fit together"),
        ('{"int32One": 1, "int32_one": 2}', "All", "both namings"),
        ('{"int32One": 1, "int32One": 2}', None, "stands twice"),
        ('{"a": ' + "9" * 5000 + "}", None, "too long"),
        ("[" * 100_000, None, "nested too deep"),
        ('{"\\ud800": 1}', None, "half of a surrogate pair"),
        (b'{"a": "\\uDFFF"}', None, "half of a surrogate pair"),
        ('{"\ud800": 1}', None, "half of a surrogate pair"),
        ('{"\\ud83d\\ude00": 1}', None, "has no field"),
        ('{"next":' * 200 + "1" + "}" * 200, None, "nested more than 64"),
        ("[]", "All", "Expected an object"),
        ("3", "All", "Expected an object"),
        ('{"int32One": 1', "line 1, column 15", "not JSON"),
        ("", "line 1, column 1", "not JSON"),
        (b"\xff\xfe", "byte 0", "not UTF-8"),
    ],
)
def test_json_errors_name_the_place(body: str | bytes, where: str | None, what: str) -> None:
    with pytest.raises(ContractError) as caught:
        from_json(KIND, body)
    if where is not None:
        assert caught.value.where == where
    assert what in caught.value.what
    assert len(str(caught.value)) < 600


def test_unknown_keys_are_left_out_when_asked() -> None:
    assert to_binary(from_json(KIND, '{"other": {"x": 1}, "int32One": 3}', ignore_unknown=True)) == b"\x18\x03"
    with pytest.raises(ContractError) as caught:
        from_json(KIND, '{"other": 1, "int32One": "x"}', ignore_unknown=True)
    assert caught.value.where == "All.int32One"


def test_a_message_may_be_nested_as_deep_as_is_allowed() -> None:
    def nested(depth: int) -> str:
        return '{"next":' * depth + "{}" + "}" * depth

    message = from_json(KIND, nested(MAXIMUM_NESTING - 1))
    assert to_binary(from_json(KIND, to_json(message))) == to_binary(message)
    with pytest.raises(ContractError, match="nested more than"):
        from_json(KIND, nested(MAXIMUM_NESTING + 1))


def deep(kind: Descriptor, levels: int) -> bytes:
    body = b""
    for _ in range(levels):
        body = b"\x8a\x03" + varint(len(body)) + body
    return body


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


@pytest.mark.parametrize(
    "body",
    [
        b"\x18",  # a tag without its value
        b"\x72\x05abc",  # a text that ends too early
        b"\x72\xff\xff\xff\xff\x0fabc",  # a length of 4 GiB
        b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\x7fa",  # a length of 2**63
        b"\x72\x02\xff\xfe",  # a text that is not UTF-8
        b"\x18" + b"\xff" * 11,  # a number of too many bytes
        b"\x07",  # a wire type that there is not
        b"\x00\x01",  # field 0
        b"\x1c",  # a group that is not closed by anything
        b"\xa9\x01\x00",  # half a packed value
        deep(KIND, 101),
        deep(KIND, 20_000),
        b'{"int32One": 1}',
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ContractError, match="not a message All"):
        from_binary(KIND, body)


def test_bytes_may_be_nested_99_deep_and_are_then_refused_as_json_or_written() -> None:
    message = from_binary(KIND, deep(KIND, 99))
    assert to_binary(message) == deep(KIND, 99)
    with contextlib.suppress(ContractError):
        assert json.loads(to_json(message))


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    with contextlib.suppress(ContractError):
        message = from_binary(KIND, body)
        assert to_binary(from_binary(KIND, to_binary(message))) == to_binary(message)
    with contextlib.suppress(ContractError):
        from_json(KIND, body)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FIELDS, "next", "at", "x"]), inner),
    max_leaves=12,
))  # fmt: skip
def test_no_json_does_more_than_be_refused(value: Any) -> None:
    with contextlib.suppress(ContractError):
        to_json(from_json(KIND, json.dumps(value)))


def test_proto2_keeps_its_required_fields_defaults_and_groups() -> None:
    kind = parse(
        'syntax = "proto2"; message A { required int32 must = 1; optional int32 five = 2 [default = 5];'
        " repeated group G = 3 { optional string s = 4; } }"
    ).message("A")
    for body in (b"", b"\x10\x01"):
        with pytest.raises(ContractError, match="required field 'must'"):
            from_binary(kind, body)
    with pytest.raises(ContractError, match="required field 'must'"):
        from_json(kind, "{}")
    message: Any = from_json(kind, '{"must": 1, "g": [{"s": "x"}]}')
    assert message.five == 5
    assert to_binary(message) == b"\x08\x01\x1b\x22\x01x\x1c"


def test_an_any_of_an_unknown_type_has_no_json() -> None:
    schema = parse('syntax = "proto3"; import "google/protobuf/any.proto"; message A { google.protobuf.Any any = 1; }')
    message = from_binary(schema.message("A"), b"\x0a\x05\x0a\x03x/y")
    with pytest.raises(ContractError, match="no form in JSON"):
        to_json(message)
    assert math.isclose(len(to_binary(message)), 7)
