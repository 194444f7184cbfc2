"""Makes a package of what a client uploads: a package as a zip file, or an ONNX file, with a proto file for either.

Whatever is uploaded is only read: a format that runs code when it is loaded (pickle, a jar) is refused by its first
bytes. This runs in a process of its own, as onnxruntime is native code that meets bytes of strangers here.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from numpy.typing import NDArray

from modelyard.data import Dataset, Field
from modelyard.errors import ContractError, DataError, InputError, IntegrityError
from modelyard.files import sha256_file, storage_errors
from modelyard.packages.archive import open_archive, unpack
from modelyard.packages.building import SAMPLES, build_package
from modelyard.packages.codecs.proto_bridge import fits, leaves_of
from modelyard.packages.codecs.proto_schema import Operation, Schema, parse
from modelyard.packages.documents import safe_json
from modelyard.packages.flavours.heads import INPUT, SCORES, Head, head_of, probe
from modelyard.packages.flavours.onnx_runtime import OnnxPredictor, check_onnx
from modelyard.packages.flavours.onnx_scan import scan
from modelyard.packages.manifest import MANIFEST, make_manifest
from modelyard.packages.model import describe_model
from modelyard.packages.package import Package
from modelyard.packages.pickles import FLAVOUR

__all__ = ["FormatError", "Intake", "Wishes", "take_in"]

_FILE = "model.onnx"
_ACCEPTED = "Send a package of Modelyard as a zip file, or an ONNX file (most libraries can export one)."
_FOREIGN = (
    (b"\x80\x02", "a pickle"), (b"\x80\x03", "a pickle"), (b"\x80\x04", "a pickle"), (b"\x80\x05", "a pickle"),
    (b"\x1f\x8b", "a gzip file"), (b"\xfd7zXZ", "an xz file"), (b"BZh", "a bzip2 file"), (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", "a program"), (b"\xca\xfe\xba\xbe", "a Java class"), (b"%PDF", "a PDF file"), (b"{", "a JSON file"),
    (b"(dp", "a pickle"), (b"(lp", "a pickle"), (b"cos\n", "a pickle"), (b"c__builtin__\n", "a pickle"),
)  # fmt: skip
"""First bytes of what people send as models, and nothing here opens."""

_MEMBERS = (
    ("META-INF/MANIFEST.MF", "a jar"), ("model.ini", "a MOJO"), ("data.pkl", "a pickle of PyTorch"),
    ("saved_model.pb", "a SavedModel of TensorFlow"), ("keras_metadata.pb", "a SavedModel of TensorFlow"),
    ("config.json", "a model of Keras"), (".npy", "an npz file"), ("schema.json", "a model of skops"),
)  # fmt: skip
_DTYPES = {
    FieldDescriptor.CPPTYPE_INT32: "int32", FieldDescriptor.CPPTYPE_INT64: "int64",
    FieldDescriptor.CPPTYPE_UINT32: "uint32", FieldDescriptor.CPPTYPE_UINT64: "uint64",
    FieldDescriptor.CPPTYPE_FLOAT: "float32", FieldDescriptor.CPPTYPE_DOUBLE: "float64",
    FieldDescriptor.CPPTYPE_BOOL: "bool", FieldDescriptor.CPPTYPE_ENUM: "int32",
}  # fmt: skip


class FormatError(InputError):
    """The upload is of no format that is taken."""

    code = "format"


class Wishes(msgspec.Struct, frozen=True):
    """What a client's configuration says.

    Args:
        model: Name of the model, or empty.
        operation: Name of the operation that must fit, or empty: one that does is enough.
        input_type: `CSV` or `JSON`, or empty.
        classes: Labels of an ONNX classifier, in the order of its scores; empty: their positions.
    """

    model: str = ""
    operation: str = ""
    input_type: str = ""
    classes: tuple[str, ...] = ()


class Intake(msgspec.Struct, frozen=True):
    """What was made of an upload.

    Args:
        kind: `package` or `onnx`.
        name: Of the model, as a package says it; empty for an ONNX file.
        digest: Of the package's manifest; empty where there is no package yet.
        unfit: Operations of the proto file that do not fit the model, and so can't be asked for.
    """

    kind: str
    name: str
    digest: str = ""
    unfit: tuple[str, ...] = ()


def take_in(upload: Path, folder: Path, *, name: str, proto: bytes | None, own_proto: bool, wishes: Wishes) -> Intake:
    """Check an upload, and where its messages are known, make a package of it.

    Args:
        upload: The file as it was sent.
        folder: New; a package appears under `folder/package`. Beside it may lie what was made on the way.
        name: Of the model, for what does not bring one.
        proto: Text of a proto file, or None.
        own_proto: Whether a package's own proto file is the one that is meant.
        wishes: What the client's configuration says.

    Raises:
        FormatError: Neither a package nor ONNX.
        IntegrityError: It is damaged, can't be trusted, or can't be run.
        DataError: The ONNX model is not one that can be served.
        ContractError: The proto file does not fit the model.
        InputError: The proto file can't be read.
        NotFoundError: It has no such operation.
    """
    with storage_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    kind = _kind(upload)
    if kind == "package":
        package = _open_package(upload, folder)
        if proto is None:
            return Intake(kind, package.name, package.manifest.digest if own_proto else "")
        unfit = _check_fit(package, parse(proto), wishes)
        return Intake(kind, package.name, _with_proto(package, proto, wishes), unfit)
    predictor = _open_onnx(upload, folder)
    if proto is None:
        head_of(_probe(predictor, _row_shape(predictor)))
        return Intake(kind, "")
    built = _build(upload, folder, predictor, name=name, schema=parse(proto), wishes=wishes)
    unfit = _check_fit(built, parse(proto), wishes)
    return Intake(kind, "", _with_proto(built, proto, wishes), unfit)


def _kind(upload: Path) -> str:
    with storage_errors(upload), upload.open("rb") as file:
        head = file.read(16)
    for start, what in _FOREIGN:
        if head.startswith(start):
            raise FormatError(f"The upload is {what}, which is not taken: it could run code, or can't be read.",
                              remedy=_ACCEPTED)  # fmt: skip
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "package"
    try:
        with storage_errors(upload):
            findings = scan(upload.read_bytes())
    except (ValueError, RecursionError):
        findings = None
    if findings is None or not findings.is_model:
        raise FormatError("The upload is neither a package nor an ONNX file.", remedy=_ACCEPTED)
    return "onnx"


def _open_package(upload: Path, folder: Path) -> Package:
    target = folder / "package"
    with open_archive(upload) as archive:
        prefix = _prefix(archive)
        unpack(archive, folder / "unpacked" if prefix else target)
    if prefix:
        with storage_errors(folder):
            (folder / "unpacked" / prefix).rename(target)
    package = _opened(target)
    model = package.info
    if model.flavour == FLAVOUR:
        raise FormatError("The package's model is a pickle, which is never taken from a client.", remedy=_ACCEPTED)
    if model.onnx is not None:
        check_onnx(target / "model" / model.onnx.file)
        _check_self_contained(target / "model" / model.onnx.file)
    package.check_golden(package.predictor("onnx"))
    return package


def _prefix(archive: ZipFile) -> str:
    """Return the one folder that everything lies in, or an empty text where the manifest lies at the top."""
    names = archive.namelist()
    if MANIFEST in names:
        return ""
    tops = {name.partition("/")[0] for name in names}
    if len(tops) == 1 and f"{next(iter(tops))}/{MANIFEST}" in names:
        return next(iter(tops))
    for member, what in _MEMBERS:
        if any(name == member or name.endswith(("/" + member, member if member[0] == "." else "/" + member))
               for name in names):  # fmt: skip
            raise FormatError(f"The upload is {what}, and not a package of Modelyard.", remedy=_ACCEPTED)
    raise FormatError(f"The zip file has no {MANIFEST}: it is no package of Modelyard.", remedy=_ACCEPTED)


def _opened(folder: Path) -> Package:
    try:
        return Package.open(folder)
    except IntegrityError as error:
        raise IntegrityError(error.what, where=_inside(error.where, folder), remedy=error.remedy) from error


def _inside(where: str | None, folder: Path) -> str | None:
    """Return a place inside the package: where the package lies on this machine is nobody's business."""
    return None if where is None else where.removeprefix(str(folder)).lstrip("/") or None


def _open_onnx(upload: Path, folder: Path) -> OnnxPredictor:
    model = folder / "model"
    with storage_errors(folder):
        model.mkdir(exist_ok=True)
        shutil.copyfile(upload, model / _FILE)
    _check_self_contained(model / _FILE)
    predictor = OnnxPredictor(model / _FILE)
    names = predictor.output_names
    output = next((one for one in ("probabilities", SCORES) if one in names), names[0])
    return OnnxPredictor(model / _FILE, output_name=output)


def _check_self_contained(file: Path) -> None:
    if scan(file.read_bytes()).locations:
        raise IntegrityError("The ONNX model keeps data outside of its file.", remedy="Export it as one file.")


def _build(
    upload: Path, folder: Path, predictor: OnnxPredictor, *, name: str, schema: Schema, wishes: Wishes
) -> Package:
    """Build a package around an ONNX model, with the contract that the proto file and the graph say together."""
    shape = _row_shape(predictor)
    scores = _probe(predictor, shape)
    fields = _inputs(_wanted(schema, wishes)[0], shape)
    head = head_of(scores)
    count = 1 if scores.ndim == 1 else int(scores.shape[1])
    classes: tuple[Any, ...] | None = None
    if head is not Head.VALUE:
        classes = wishes.classes or tuple(range(count))
    facts = {
        "head": head,
        "onnx": {"file": _FILE, "input": predictor.input_name, "output": predictor.output_name},
        "input_shape": list(shape),
        "outputs": count,
    }
    describe_model(folder / "model", facts, flavour="onnx", inputs=fields, classes=classes)
    environment = {"python": platform.python_version(), "pip:onnxruntime": version("onnxruntime")}
    build_package(
        folder / "package", model=folder / "model", samples=_samples(fields, shape), name=name, metrics={},
        provenance={"origin": "uploaded", "data": {"upload": sha256_file(upload)}, "environment": environment},
    )  # fmt: skip
    return _opened(folder / "package")


def _row_shape(predictor: OnnxPredictor) -> tuple[int, ...]:
    given = predictor.inputs
    if len(given) != 1 or given[0][1] != "tensor(float)":
        raise DataError(
            f"The ONNX model takes {', '.join(f'{one}: {kind}' for one, kind in given)[:200]}; one float32 input is "
            "needed.", remedy="Export it with a single float32 input, rows first.",
        )  # fmt: skip
    sizes = predictor.input_shape
    shape = tuple(size for size in sizes if size is not None)
    if not sizes or len(shape) != len(sizes) or min(shape) < 1:
        raise DataError("The ONNX model's rows have no fixed size.", remedy="Export it with a batch size alone open.")
    return shape


def _probe(predictor: OnnxPredictor, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return np.asarray(predictor.predict({INPUT: probe(shape, 3)})[SCORES])
    except Exception as error:
        # onnxruntime's errors have no common base; here they mean that three rows do not run.
        raise DataError(
            "The ONNX model can't run three rows at once.", remedy="Export it with a dynamic batch size."
        ) from error


def _inputs(operation: Operation, shape: tuple[int, ...]) -> tuple[Field, ...]:
    """Return the contract's inputs: the fields of the message, which must make the rows that the graph takes."""
    layout, leaves = leaves_of(operation.input)
    fields = []
    for leaf in leaves:
        dtype = _DTYPES.get(leaf.cpp_type)
        if dtype is None:
            raise ContractError(
                f"The field {leaf.name!r} of the message {operation.input.name} is no number, and the ONNX model takes "
                "numbers.", remedy="Declare the fields that the model takes, in its order.",
            )  # fmt: skip
        array = (len(leaves) == 1 and shape != (1,)) if layout == "columns" else leaf.is_repeated
        fields.append(Field(leaf.name, dtype, shape if array else ()))
    whole = len(fields) == 1 and fields[0].shape == shape
    if not whole and (any(field.shape for field in fields) or shape != (len(fields),)):
        raise ContractError(
            f"A row of the ONNX model has the shape {list(shape)}, and the message {operation.input.name} has "
            f"{len(fields)} fields.", remedy="Declare one number for each value of a row, or one repeated field.",
        )  # fmt: skip
    return tuple(fields)


def _samples(fields: tuple[Field, ...], shape: tuple[int, ...]) -> Dataset:
    rows = probe(shape, SAMPLES)
    columns: dict[str, NDArray[Any]] = {}
    for index, field in enumerate(fields):
        values = rows if field.shape else rows[:, index]
        if field.dtype == "bool":
            columns[field.name] = values > 0
        elif field.dtype.startswith("float"):
            columns[field.name] = values.astype(field.dtype)
        else:
            columns[field.name] = np.abs(np.round(values * 4)).astype(field.dtype)
    return Dataset(columns)


def _wanted(schema: Schema, wishes: Wishes) -> list[Operation]:
    if wishes.operation:
        return [schema.operation(wishes.operation)]
    if not schema.operations:
        raise ContractError(
            "The proto file has no rpc.", remedy="Declare `service Model { rpc name (In) returns (Out); }`."
        )
    return list(schema.operations.values())


def _check_fit(package: Package, schema: Schema, wishes: Wishes) -> tuple[str, ...]:
    """Return the operations that do not fit; raises ContractError where none does, or not the one that was named."""
    misfits = {one.name: fits(package.contract, one) for one in _wanted(schema, wishes)}
    unfit = tuple(name for name, problems in misfits.items() if problems)
    if len(unfit) == len(misfits):
        raise ContractError(
            " ".join(misfits[unfit[0]])[:2000], where=f"operation {unfit[0]!r}",
            remedy="Send the proto file that belongs to the model.",
        )  # fmt: skip
    return unfit


def _with_proto(package: Package, proto: bytes, wishes: Wishes) -> str:
    """Put the client's proto file in the place of the package's own, and return the new digest of the manifest."""
    folder = package.folder
    schema = parse(proto)
    metadata = package.metadata
    metadata["methods"] = _methods(metadata, package, schema, wishes)
    with storage_errors(folder):
        (folder / "model.proto").write_bytes(proto)
        (folder / "metadata.json").write_bytes(safe_json(metadata))
        manifest = make_manifest(folder, package.name)
        (folder / MANIFEST).write_bytes(manifest.to_json())
    return manifest.digest


def _methods(metadata: Mapping[str, Any], package: Package, schema: Schema, wishes: Wishes) -> dict[str, Any]:
    """Return the methods of `metadata.json` by the operations that fit, with the names of their messages."""
    pattern: Any = next(iter(metadata.get("methods", {}).values()), {})
    told = {"modelInputType": wishes.input_type} if wishes.input_type else {}
    methods = {}
    for one in schema.operations.values():
        if not fits(package.contract, one):
            given = {**pattern.get("input", {}), "name": one.input.name, "metadata": told}
            methods[one.name] = {
                **pattern,
                "input": given,
                "output": {**pattern.get("output", {}), "name": one.output.name},
            }
    return methods
