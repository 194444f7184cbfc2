"""A `.proto` text as descriptors: read by protoc inside this process, each text with a descriptor pool of its own.

Language: https://protobuf.dev/reference/protobuf/proto3-spec/ and proto2-spec. The compiler is the one of grpcio-tools
(decision 0087): it sees a folder that holds the text alone, and the files that Google ships with protobuf.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_tools import _protoc_compiler, protoc

from modelyard.errors import InputError, NotFoundError
from modelyard.files import storage_errors
from modelyard.packages.codecs.proto_notes import printed
from modelyard.packages.contract import shown

__all__ = [
    "MAXIMUM_BLOCKS",
    "MAXIMUM_DEPTH",
    "MAXIMUM_MESSAGES",
    "MAXIMUM_TEXT",
    "REMEMBERED",
    "WELL_KNOWN",
    "Operation",
    "Schema",
    "parse",
]

MAXIMUM_TEXT = 256 * 1024
"""Bytes of a text in UTF-8."""

MAXIMUM_BLOCKS = 2048
"""Opening braces and angle brackets, wherever they stand: the compiler's time grows with messages and maps."""

MAXIMUM_MESSAGES = 1000
"""Messages of a text, nested ones and the entries of maps included."""

MAXIMUM_DEPTH = 16
"""Messages declared inside messages; the compiler itself gives up at 32."""

REMEMBERED = 64
"""Texts whose descriptors are kept; the one that was asked for the longest time ago goes first."""

WELL_KNOWN = frozenset(
    f"google/protobuf/{name}.proto"
    for name in (
        *("any", "api", "descriptor", "duration", "empty", "field_mask", "source_context", "struct"),
        *("timestamp", "type", "wrappers"),
    )
)
"""What a text may import."""

_NAME = "model.proto"
_LISTED = 8


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One rpc.

    Args:
        name: Of the rpc, such as `predict`.
        service: Full name of its service.
        input: Descriptor of the message that it takes.
        output: Descriptor of the message that it gives.
    """

    name: str
    service: str
    input: Descriptor
    output: Descriptor

    def new_input(self) -> Message:
        """Return an empty input message."""
        return message_factory.GetMessageClass(self.input)()

    def new_output(self) -> Message:
        """Return an empty output message."""
        return message_factory.GetMessageClass(self.output)()


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """The descriptors of one text, in a pool that nothing else is in.

    Args:
        digest: SHA-256 of the text, as 64 hexadecimal digits.
        text: The text as it was given.
        file: Descriptor of the whole file.
        operations: Full name of the rpc, such as `Model.predict`, to the operation; streams are not among them.
        streams: Full names of the rpcs that stream.
        warnings: What the compiler finds unwise in it, each with line and column where it names them.
    """

    digest: str
    text: str
    file: FileDescriptor
    operations: Mapping[str, Operation]
    streams: frozenset[str]
    warnings: tuple[str, ...] = ()

    def operation(self, name: str) -> Operation:
        """Return the operation of a name.

        Args:
            name: Of the rpc (`predict`), with its service before it (`Model.predict`) where several have that name.

        Raises:
            NotFoundError: There is none; the remedy lists those there are.
            InputError: Several services have an rpc of that name, or the rpc is a stream.
        """
        found = [one for full, one in self.operations.items() if name in (one.name, full, _without_package(full))]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"The operation {shown(name)} stands in {len(found)} services.",
                remedy=f"Ask for one of {_listed([f'{one.service}.{one.name}' for one in found])}.",
            )
        if any(name in (full, full.rpartition(".")[2], _without_package(full)) for full in self.streams):
            raise InputError(
                f"The operation {shown(name)} is a stream.", remedy="Declare it as `rpc name (In) returns (Out)`."
            )
        raise NotFoundError(
            f"The proto file has no operation {shown(name)}.",
            remedy=f"It has {_listed([one.name for one in self.operations.values()]) or 'no rpc at all'}.",
        )

    def message(self, name: str) -> Descriptor:
        """Return the descriptor of a message.

        Args:
            name: With or without the package, dots between nested names.

        Raises:
            NotFoundError: There is none.
        """
        for full in (name, f"{self.file.package}.{name}"):
            try:
                return self.file.pool.FindMessageTypeByName(full)
            except KeyError:
                continue
        raise NotFoundError(
            f"The proto file has no message {shown(name)}.",
            remedy=f"It has {_listed(list(self.file.message_types_by_name)) or 'no message at all'}.",
        )


def parse(text: str | bytes) -> Schema:
    """Return the descriptors of a `.proto` text; a text that was read lately is not read again.

    Args:
        text: proto2, proto3 or an edition, in UTF-8; it may import the well-known types of Google and nothing else.

    Raises:
        InputError: It is too large, nested too deep, imports something, or is not right; `where` is line and column.
        StorageError: The folder for temporary files can't be written.
    """
    body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    _check_size(body)
    digest = hashlib.sha256(body).hexdigest()
    with _lock:
        schema = _schemas.get(digest)
        if schema is None:
            schema = _schemas[digest] = _read(digest, body)
            while len(_schemas) > REMEMBERED:
                _schemas.popitem(last=False)
        _schemas.move_to_end(digest)
    return schema


_lock = threading.Lock()
"""Warnings, and what the compiler prints, are caught for the whole process, so one text is read at a time."""

_schemas: OrderedDict[str, Schema] = OrderedDict()


def _check_size(body: bytes) -> None:
    if len(body) > MAXIMUM_TEXT:
        raise InputError(
            f"The proto file has {len(body)} bytes; {MAXIMUM_TEXT} are allowed.", remedy="Leave out what no rpc uses."
        )
    if body.count(b"{") + body.count(b"<") > MAXIMUM_BLOCKS:
        raise InputError(f"The proto file has more than {MAXIMUM_BLOCKS} blocks.", remedy="Leave out what no rpc uses.")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            "The proto file is not UTF-8.", where=f"byte {error.start}", remedy="Save it as UTF-8."
        ) from None


def _read(digest: str, body: bytes) -> Schema:
    files, warned = _compile(body)
    for one in files.file:
        if one.name != _NAME and one.name not in WELL_KNOWN:
            raise _import_refused(one.name)
    own = files.file[-1]
    _check_messages(own.message_type)
    pool = DescriptorPool()
    try:
        for one in files.file:
            pool.Add(one)
        file: FileDescriptor = pool.FindFileByName(_NAME)
    except (TypeError, KeyError) as error:
        # The runtime is narrower than the compiler in a few corners: it holds a message to 64 KiB without its contents.
        raise InputError(
            "The proto file is right, and this runtime can't load it.", remedy="Give no message thousands of fields."
        ) from error
    methods = [method for service in file.services_by_name.values() for method in service.methods]
    return Schema(
        digest=digest,
        text=body.decode(),
        file=file,
        operations=MappingProxyType({one.full_name: _operation(one) for one in methods if not _streams(one)}),
        streams=frozenset(one.full_name for one in methods if _streams(one)),
        warnings=tuple(warned),
    )


def _compile(body: bytes) -> tuple[descriptor_pb2.FileDescriptorSet, list[str]]:
    place = Path(tempfile.gettempdir())
    shipped = str(importlib.resources.files("grpc_tools") / "_proto")
    with storage_errors(place), tempfile.TemporaryDirectory(prefix="modelyard-proto-") as folder:
        source, target = Path(folder, "in"), Path(folder, "descriptors")
        source.mkdir()
        Path(source, _NAME).write_bytes(body)
        arguments = [f"-I{source}", f"-I{shipped}", "--include_imports", f"--descriptor_set_out={target}", _NAME]
        with printed(Path(folder, "printed")) as warned:
            _check(source, shipped)
            if protoc.main(["protoc", *arguments]) != 0:
                raise InputError("The proto file can't be compiled.", remedy="Try it with protoc.")
        return descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()), warned


def _check(source: Path, shipped: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _protoc_compiler.get_protos(_NAME.encode(), [str(source).encode(), shipped.encode()])
        except _protoc_compiler.ProtocErrors as error:
            raise _refused(error.errors()) from None


def _refused(errors: Sequence[Any]) -> InputError:
    """Return what the compiler found, by its first finding in the text itself; it counts from 0, people from 1."""
    own = [error for error in errors if error.filename == _NAME.encode()] or list(errors)
    first = min(own, key=lambda error: (error.line, error.column))
    what = first.message.decode("utf-8", "replace")
    where = f"line {first.line + 1}, column {first.column + 1}"
    if what.startswith('Import "'):
        return _import_refused(what.split('"')[1], where)
    more = f" ({len(own) - 1} more findings follow.)" if len(own) > 1 else ""
    return InputError(f"{what.rstrip('.')}.{more}", where=where, remedy="Mend the proto file.")


def _import_refused(name: str, where: str | None = None) -> InputError:
    return InputError(
        f"The import {shown(name)} is not allowed.",
        where=where,
        remedy="Write the messages into the file itself; only google/protobuf/*.proto can be imported.",
    )


def _check_messages(messages: Sequence[Any]) -> None:
    for count, depth in enumerate(_depths(messages), start=1):
        if depth > MAXIMUM_DEPTH:
            raise InputError(
                f"Messages are nested more than {MAXIMUM_DEPTH} deep.", remedy="Declare them side by side."
            )
        if count > MAXIMUM_MESSAGES:
            raise InputError(
                f"The proto file has more than {MAXIMUM_MESSAGES} messages.", remedy="Leave out what no rpc uses."
            )


def _depths(messages: Sequence[Any], depth: int = 1) -> Iterator[int]:
    for message in messages:
        yield depth
        yield from _depths(message.nested_type, depth + 1)


def _operation(method: MethodDescriptor) -> Operation:
    return Operation(method.name, method.containing_service.full_name, method.input_type, method.output_type)


def _streams(method: MethodDescriptor) -> bool:
    return bool(method.client_streaming or method.server_streaming)


def _without_package(full: str) -> str:
    return ".".join(full.rsplit(".", 2)[-2:])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
