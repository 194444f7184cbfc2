"""Builds a package folder out of a model folder and what speaks for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelyard.contracts import Columns
from modelyard.data import Dataset
from modelyard.errors import ContractError, DataError, InputError, IntegrityError, MissingExtraError
from modelyard.files import durable_rename, storage_errors, sync_folder, temporary_beside
from modelyard.packages.codecs.json import decode
from modelyard.packages.codecs.proto import render
from modelyard.packages.contract import Contract
from modelyard.packages.documents import environment_lock, metadata_json, mlmodel, model_card, safe_json
from modelyard.packages.golden import ANSWERS, INPUTS, SAMPLES, difference, sample_texts
from modelyard.packages.manifest import MANIFEST, Manifest, make_manifest
from modelyard.packages.model import Model, load_model, read_contract, read_info

__all__ = ["SAMPLES", "build_package"]


def build_package(
    folder: Path,
    *,
    model: Path,
    samples: Dataset,
    name: str,
    evidence: Path | None = None,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Build a package; equal arguments give equal bytes.

    The first rows of `samples` are predicted by ONNX and by the library that trained the model, and the two must agree;
    where there is only one of them, by that. The answers are packed as golden samples.

    Args:
        folder: Where the package appears, whole or not at all; it must not exist or be empty.
        model: What `save_model` wrote.
        samples: Raw rows of test data, of which the first eight are packed. Other columns than the contract's are left
            out.
        name: Name of the model in the Model Center.
        evidence: A folder whose files are packed under `evidence/`; its own files win over generated ones of the same
            name.
        metrics: What the evaluation measured.
        provenance: Where the model comes from, as JSON values: `run`, `blueprint`, `commit`, `dirty`, `data` and `code`
            (name to digest), `parameters` by step, `environment` (`python`, `platform`, `pip:<name>` to version).

    Raises:
        ContractError: The samples do not fit the model's contract.
        DataError: There are no samples.
        InputError: The folder holds something already.
        IntegrityError: The model folder is damaged, or ONNX and the native library give different answers.
        StorageError: A full disk, a read-only folder; nothing is left behind.
    """
    with storage_errors(folder):
        if folder.exists() and any(folder.iterdir()):
            raise InputError("The folder is not empty.", where=str(folder), remedy="Give a new folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
    temp = temporary_beside(folder)
    try:
        with storage_errors(folder):
            _copy(model, temp / "model")
            if evidence is not None:
                _copy(evidence, temp / "evidence")
        for path, text in _texts(temp, samples, name, metrics, provenance).items():
            if path.startswith("evidence/") and (temp / path).exists():
                continue
            _write(temp / path, text)
        manifest = make_manifest(temp, name)
        _write(temp / MANIFEST, manifest.to_json())
        with storage_errors(folder):
            _sync(temp)
            if folder.exists():
                folder.rmdir()
        durable_rename(temp, folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return manifest


def _texts(
    folder: Path, samples: Dataset, name: str, metrics: Mapping[str, float], provenance: Mapping[str, Any]
) -> dict[str, bytes]:
    model = folder / "model"
    contract, info = read_contract(model), read_info(model)
    texts = {
        "contract.json": contract.to_json(),
        "model.proto": render(contract).encode(),
        "metadata.json": metadata_json(name, contract, info, provenance),
        "MLmodel": mlmodel(info, contract, provenance),
        "evidence/metrics.json": safe_json(dict(metrics)),
        "evidence/provenance.json": safe_json(dict(provenance)),
        "evidence/environment.lock": environment_lock(provenance),
        "evidence/model_card.md": model_card(name, contract, info, metrics, provenance),
    }
    if not len(samples):
        raise DataError("A package needs at least one row of samples.", remedy="Give it raw test data.")
    first = contract.check({name: values[:SAMPLES] for name, values in samples.columns.items()})
    # The answers are those to what is written, so that a reader of the file gets the same question.
    inputs = decode(contract, sample_texts(first, {})[INPUTS])
    outputs = _told(folder, contract, inputs) if info.is_pickled else _answered(model, inputs)
    return texts | sample_texts(inputs, outputs)


def _told(folder: Path, contract: Contract, inputs: Columns) -> Columns:
    """Return what the evaluator was answered: a pickle is not loaded to be packed, it may be somebody else's."""
    file = folder / "evidence" / ANSWERS
    try:
        outputs = decode(Contract(inputs=contract.outputs, outputs=contract.outputs), file.read_bytes())
    except (OSError, ContractError) as error:
        raise DataError(
            f"The evidence does not say what the pickled model answers: {error}.",
            where=f"evidence/{ANSWERS}",
            remedy="Evaluate it with `allow_pickle: own`.",
        ) from error
    if {len(values) for values in outputs.values()} != {len(values) for values in inputs.values()}:
        raise DataError("The evidence answers other rows than the samples.", where=f"evidence/{ANSWERS}")
    return outputs


def _answered(folder: Path, inputs: Columns) -> Columns:
    loaded = load_model(folder, "auto")
    outputs: Columns = loaded.predict(inputs)
    native = _native(folder, loaded)
    if native is not None:
        problem = difference(outputs, native.predict(inputs))
        if problem is not None:
            raise IntegrityError(
                f"ONNX and {loaded.info.flavour} give different answers: {problem}.",
                where=str(folder),
                remedy="Save the model again; if it stays so, please report it.",
            )
    return outputs


def _native(folder: Path, loaded: Model) -> Model | None:
    """Return the model in its own library, where that is installed and not what `loaded` uses already."""
    if loaded.info.onnx is None or loaded.info.flavour == "onnx":
        return None
    try:
        return load_model(folder, "native")
    except MissingExtraError:
        return None


def _copy(source: Path, target: Path) -> None:
    """Copy the files alone: a source in the store's cache is read-only, and the copy must not be."""
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _write(file: Path, data: bytes) -> None:
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)
