"""Messages of any schema as protobuf bytes and as proto3 JSON.

Formats: https://protobuf.dev/programming-guides/encoding/ and https://protobuf.dev/programming-guides/json/. Both are
the library's; here its errors become ours, and each names the place in the message.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message

from modelyard.errors import ContractError
from modelyard.packages.contract import limit_rows, shown

__all__ = ["MAXIMUM_NESTING", "Names", "from_binary", "from_json", "is_map", "new_message", "round_single", "to_binary",
           "to_json", "type_name"]  # fmt: skip

MAXIMUM_NESTING = 64
"""How deep the messages of a JSON text may be nested; bytes are held to protobuf's own 100."""

Names = Literal["json", "proto"]

_SINGLE = 2.0**128 - 2.0**104
"""The largest float32."""

_SINGLE_ROUNDED = 2.0**128 - 2.0**103
"""Below it a number is rounded to the largest float32, from it on to infinity (IEEE 754)."""

_URL_SAFE = str.maketrans("-_", "+/")

_OWN_FORM = "google.protobuf"
"""The package of the well-known types, whose JSON form need not be an object."""

_TYPES = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""What begins an escaped half of a pair, and maybe a whole one."""


def new_message(kind: Descriptor) -> Message:
    """Return an empty message of a kind."""
    return message_factory.GetMessageClass(kind)()


def from_binary(kind: Descriptor, body: bytes | bytearray | memoryview) -> Message:
    """Return the message that protobuf bytes hold; no bytes are an empty message.

    Args:
        kind: Of the message.
        body: Fields that the message does not know are kept, as protobuf does.

    Raises:
        ContractError: The bytes end too early, are no protobuf, nested too deep, or lack a field that proto2 requires.
    """
    message = new_message(kind)
    try:
        message.ParseFromString(bytes(body))
    except (DecodeError, UnicodeDecodeError):
        raise ContractError(
            f"The body is not a message {kind.name} in protobuf's format.",
            where=f"{len(body)} bytes",
            remedy=f"Send a serialized {kind.name}.",
        ) from None
    return _complete(message)


def to_binary(message: Message) -> bytes:
    """Return a message as protobuf bytes; the entries of maps are in order, so that equal messages give equal bytes.

    Raises:
        ContractError: It lacks a field that proto2 requires.
    """
    try:
        return bytes(message.SerializeToString(deterministic=True))
    except EncodeError:
        raise _incomplete(message) from None


def from_json(
    kind: Descriptor,
    body: str | bytes | bytearray | memoryview,
    *,
    ignore_unknown: bool = False,
    max_rows: int | None = None,
    aligned: bool = False,
) -> Message:
    """Return the message that proto3 JSON holds, with names in camelCase or as the file has them.

    Args:
        kind: Of the message.
        body: In UTF-8; a byte order mark is skipped.
        ignore_unknown: Leave out keys that the message does not know; False refuses them, as protobuf does.
        max_rows: How many rows a request may have; None for any number. They are counted before they are read.
        aligned: Whether the message holds columns side by side, so that their values are rows too.

    Raises:
        TooManyRowsError: It has more rows.
        ContractError: It is not JSON, or a value does not fit; `where` names it, such as `PredictIn.rows[3].age`.
    """
    remedy = f"Send the message {kind.name} in proto3 JSON."
    value = _loaded(body, remedy)
    if max_rows is not None:
        _limit_rows(kind, value, max_rows, aligned)
    if not isinstance(value, dict) and kind.file.package != _OWN_FORM:
        raise ContractError(f"Expected an object; got {shown(value)}.", where=kind.name, remedy=remedy)
    message = new_message(kind)
    taken = _parse(value, message, ignore_unknown)
    if not taken and _round_singles(kind, value, 0):
        message = new_message(kind)
        taken = _parse(value, message, ignore_unknown)
    if not taken:
        where, what = _find(kind, value, kind.name, ignore_unknown)
        if _depth(value) > MAXIMUM_NESTING:
            what = f"The messages are nested more than {MAXIMUM_NESTING} deep."
        raise ContractError(what, where=where, remedy=remedy)
    lax = _find_lax(kind, value, kind.name, {})
    if lax is not None:
        raise ContractError(lax[1], where=lax[0], remedy=remedy)
    return _complete(message)


def to_json(message: Message, *, names: Names = "json", defaults: bool = False) -> bytes:
    """Return a message in proto3 JSON: 64-bit integers and NaN as texts, bytes in Base64, enums by name.

    Args:
        message: Of any kind.
        names: `json` for camelCase, `proto` for the names that the file has.
        defaults: Write also what is zero, false or empty, where the file has no `optional`.

    Raises:
        ContractError: It lacks a field that proto2 requires, or an `Any` holds what the file does not declare.
    """
    _complete(message)
    try:
        value = json_format.MessageToDict(
            message,
            preserving_proto_field_name=names == "proto",
            always_print_fields_with_no_presence=defaults,
            descriptor_pool=message.DESCRIPTOR.file.pool,
        )
    except (json_format.Error, TypeError, ValueError, RecursionError):
        raise ContractError(
            f"The message {message.DESCRIPTOR.name} has no form in JSON.", remedy="Ask for it in protobuf's format."
        ) from None
    return msgspec.json.encode(value)


def is_map(field: FieldDescriptor) -> bool:
    """Say whether a field is a map, which protobuf keeps as a repeated message of keys and values."""
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def round_single(value: float) -> float:
    """Return a number as float32 holds it where it is a hair over the largest one, else the number itself."""
    return math.copysign(_SINGLE, value) if _SINGLE < abs(value) < _SINGLE_ROUNDED else value


def type_name(field: FieldDescriptor) -> str:
    """Return a field's type as the file has it, without `repeated`: `int64`, or the name of a message or enum."""
    if field.message_type is not None:
        return str(field.message_type.name)
    if field.enum_type is not None:
        return str(field.enum_type.name)
    return str(_TYPES[field.type])


class _TwiceError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        # What `add` returns is None, which is false.
        raise _TwiceError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return values


def _loaded(body: str | bytes | bytearray | memoryview, remedy: str) -> Any:
    """Return what a JSON text says; a ContractError tells what is wrong with it."""
    try:
        text = body if isinstance(body, str) else bytes(body).decode("utf-8-sig")
        value: Any = json.loads(text, object_pairs_hook=_unique)
        if isinstance(body, str) or _SURROGATE.search(text):
            # Half a pair is no character (RFC 8259, 8.2): the library looks names up by UTF-8, and breaks at it.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ContractError("The body holds half of a surrogate pair.", remedy="Send whole characters.") from None
    except _TwiceError as error:
        raise ContractError(f"The key {shown(error.key)} stands twice in an object.", remedy=remedy) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ContractError(f"The body is not JSON: {error.msg}.", where=where, remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise ContractError("The body is not UTF-8.", where=f"byte {error.start}", remedy="Save it as UTF-8.") from None
    except RecursionError:
        raise ContractError("The body is nested too deep.", remedy=remedy) from None
    except ValueError:
        raise ContractError("The body holds a number that is too long.", remedy=remedy) from None
    return value


def _limit_rows(kind: Descriptor, value: Any, max_rows: int, aligned: bool) -> None:
    """Raise TooManyRowsError for a list that holds more messages, or values of a column, than a request may have rows.

    The library takes microseconds for each, so a text is refused before it looks at one.
    """
    level = [(kind, value)]
    while level:
        message, one = level.pop()
        if isinstance(one, list):
            # What the JSON form of `google.protobuf.ListValue` is.
            limit_rows(len(one), max_rows)
        if not isinstance(one, dict):
            continue
        for field in message.fields:
            for name in {field.name, field.json_name} & one.keys():
                inner = one[name]
                if not field.is_repeated:
                    if field.message_type is not None:
                        level.append((field.message_type, inner))
                elif isinstance(inner, list) and (aligned or field.message_type is not None):
                    limit_rows(len(inner), max_rows)


def _parse(value: Any, message: Message, ignore_unknown: bool) -> bool:
    try:
        json_format.ParseDict(
            value,
            message,
            ignore_unknown_fields=ignore_unknown,
            descriptor_pool=message.DESCRIPTOR.file.pool,
            max_recursion_depth=MAXIMUM_NESTING,
        )
    except (json_format.Error, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        # The library lets Python's own errors through where a value has another shape than it looks for.
        return False
    return True


def _round_singles(kind: Descriptor, value: Any, depth: int) -> bool:
    """Round the numbers of `float` fields that are over the largest one and nearest to it, in place; say if any was.

    The shortest text of the largest float32, 3.4028235e+38, is over it by a hair: the library writes it, and then
    refuses it.
    """
    rounded = False
    if depth > MAXIMUM_NESTING or not isinstance(value, dict):
        return rounded
    for leaf, key in [(field, key) for field in kind.fields for key in {field.name, field.json_name} & value.keys()]:
        values, places = value, [key]
        if is_map(leaf):
            values, places = value[key], list(value[key]) if isinstance(value[key], dict) else []
            leaf = leaf.message_type.fields_by_name["value"]
        elif leaf.is_repeated:
            values, places = value[key], list(range(len(value[key]))) if isinstance(value[key], list) else []
        for place in places:
            if leaf.message_type is not None:
                rounded |= _round_singles(leaf.message_type, values[place], depth + 1)
            elif leaf.cpp_type == FieldDescriptor.CPPTYPE_FLOAT and isinstance(values[place], float):
                given, values[place] = values[place], round_single(values[place])
                rounded |= values[place] != given
    return rounded


def _depth(value: Any) -> int:
    """Return how deep objects stand in objects, without recursion."""
    depth, level = 0, [value]
    while level:
        lists = [one for one in level if isinstance(one, list)]
        objects = [one for one in level if isinstance(one, dict)]
        level = [inner for one in lists for inner in one]
        if not level:
            depth += bool(objects)
            objects, level = [], [inner for one in objects for inner in one.values()]
        level += objects
    return depth


def _find_lax(
    kind: Descriptor, value: Any, place: str, known: dict[Descriptor, dict[str, FieldDescriptor]]
) -> tuple[str, str] | None:
    """Return the first value that the library takes and proto3 JSON does not say, else None.

    The library reads an empty list as a message, skips what is no Base64, and lets one naming overwrite the other.
    """
    if kind.file.package == _OWN_FORM:
        return None
    if not isinstance(value, dict):
        return place, f"Expected an object; got {shown(value)}."
    fields = known.get(kind)
    if fields is None:
        fields = known[kind] = {name: field for field in kind.fields for name in (field.name, field.json_name)}
    present = [(field, key) for key in value if (field := fields.get(key)) is not None]
    if len({field.number for field, _ in present}) < len(present):
        return place, "A field stands there in both namings."
    for field, key in present:
        inner, leaf = value[key], field
        if is_map(field):
            leaf, inner = field.message_type.fields_by_name["value"], list((inner or {}).values())
        if inner is None or not (leaf.message_type is not None or leaf.type == FieldDescriptor.TYPE_BYTES):
            continue
        for at, one in enumerate(inner if field.is_repeated else [inner]):
            spot = f"{place}.{key}[{at}]" if field.is_repeated else f"{place}.{key}"
            if leaf.message_type is not None:
                found = _find_lax(leaf.message_type, one, spot, known)
                if found is not None:
                    return found
            elif not _is_base64(one):
                return spot, f"Expected bytes in Base64; got {shown(one)}."
    return None


def _is_base64(text: str) -> bool:
    plain = text.translate(_URL_SAFE).rstrip("=")
    try:
        base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return False
    return True


def _find(kind: Descriptor, value: Any, place: str, ignore_unknown: bool) -> tuple[str, str]:
    """Return where a value does not fit and why; the library's own errors name a place for some values only."""
    for _ in range(MAXIMUM_NESTING):
        if not isinstance(value, dict):
            return place, f"Expected an object; got {shown(value)}."
        fields = {name: field for field in kind.fields for name in (field.name, field.json_name)}
        for key, inner in value.items():
            field = fields.get(key)
            if field is None and not ignore_unknown and kind.file.package != _OWN_FORM:
                return f"{place}.{key}"[:200], f"The message {kind.name} has no field {shown(key)}."
            if field is not None and not _parse({key: inner}, new_message(kind), ignore_unknown):
                break
        else:
            return place, f"The values do not fit together in the message {kind.name}."
        place = f"{place}.{key}"
        nested = field.message_type is not None and not is_map(field) and field.message_type.file.package != _OWN_FORM
        if not field.is_repeated:
            if not nested:
                return place, _expected(field, inner)
        elif is_map(field):
            return _find_in_map(kind, key, field, inner, place, ignore_unknown)
        else:
            at = _bad_element(kind, key, inner, ignore_unknown)
            if at is None:
                return place, f"Expected a list of {type_name(field)}; got {shown(inner)}."
            place, inner = f"{place}[{at}]", inner[at]
            if not nested or inner is None:
                return place, _expected(field, inner)
        kind, value = field.message_type, inner
    return place, f"The values do not fit together in the message {kind.name}."


def _bad_element(kind: Descriptor, key: str, values: Any, ignore_unknown: bool) -> int | None:
    if not isinstance(values, list):
        return None
    return next(
        (at for at, one in enumerate(values) if not _parse({key: [one]}, new_message(kind), ignore_unknown)), None
    )


def _find_in_map(
    kind: Descriptor, key: str, field: FieldDescriptor, values: Any, place: str, ignore_unknown: bool
) -> tuple[str, str]:
    if isinstance(values, dict):
        for name, one in values.items():
            if not _parse({key: {name: one}}, new_message(kind), ignore_unknown):
                types = field.message_type.fields_by_name
                return (
                    f"{place}[{shown(name)}]",
                    f"Expected {type_name(types['key'])} to {type_name(types['value'])}; got {shown(one)}.",
                )
    return place, f"Expected an object; got {shown(values)}."


def _expected(field: FieldDescriptor, value: Any) -> str:
    return f"Expected {type_name(field)}; got {shown(value)}."


def _complete(message: Message) -> Message:
    if not message.IsInitialized():
        raise _incomplete(message)
    return message


def _incomplete(message: Message) -> ContractError:
    missing: Iterator[str] = iter(message.FindInitializationErrors())
    name = next(missing, "")
    return ContractError(
        f"The required field {name!r} is missing.", where=message.DESCRIPTOR.name, remedy=f"Give {name!r} a value."
    )
