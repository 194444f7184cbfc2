"""A package: a trained model, its contract and its evidence, as an immutable folder.

Opening one and predicting from it needs NumPy, msgspec, safetensors and onnxruntime, and no library that trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modelyard.contracts import Predictor
from modelyard.errors import ContractError, IntegrityError
from modelyard.packages import pickles
from modelyard.packages.building import build_package
from modelyard.packages.contract import Contract
from modelyard.packages.golden import Golden, check_golden, read_golden
from modelyard.packages.manifest import FileEntry, Manifest, verify
from modelyard.packages.model import Model, ModelInfo, Runtime, load_model, read_info

__all__ = ["FileEntry", "Golden", "Manifest", "Package", "build_package"]


class Package:
    """An opened package; every file was as its manifest says when it was opened.

    Args:
        folder: Where it lies.
        manifest: Its files.
        contract: What it takes and gives.
    """

    def __init__(self, folder: Path, manifest: Manifest, contract: Contract) -> None:
        self.folder = folder
        self.manifest = manifest
        self.contract = contract

    @classmethod
    def open(cls, folder: Path) -> Package:
        """Open a package and verify every file.

        Raises:
            IntegrityError: A file is missing, added or changed; `where` names it.
            StorageError: A file can't be read.
        """
        manifest = verify(folder)
        file = folder / "contract.json"
        try:
            contract = Contract.from_json(file.read_bytes())
        except (OSError, ContractError) as error:
            raise IntegrityError(f"The package has no contract: {error}", where=str(file)) from error
        return cls(folder, manifest, contract)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def proto(self) -> str:
        """The text of `model.proto`."""
        return (self.folder / "model.proto").read_text(encoding="utf-8")

    @property
    def metadata(self) -> dict[str, Any]:
        """The content of `metadata.json`."""
        return msgspec.json.decode((self.folder / "metadata.json").read_bytes(), type=dict[str, Any])

    @property
    def info(self) -> ModelInfo:
        """The content of `model/model.json`."""
        return read_info(self.folder / "model")

    def predictor(self, runtime: Runtime = "auto", *, threads: int = 1, trusted_pickle: str | None = None) -> Model:
        """Load the model.

        Args:
            runtime: `auto` takes ONNX where the package has it; see `load_model`.
            threads: Of onnxruntime, for one prediction.
            trusted_pickle: BLAKE3 of the pickle that may be loaded, where the model is one; None: none may.

        Raises:
            IntegrityError: The model's contract is not the package's.
            MissingExtraError: The library that the runtime needs is not installed.
            NotFoundError: `onnx` was asked for, and the package has none.
            RefusedError: The model is a pickle, and none is trusted.
        """
        model = load_model(self.folder / "model", runtime, threads=threads, trusted_pickle=trusted_pickle)
        if model.contract.digest != self.contract.digest:
            raise IntegrityError("The model and the contract name different fields.", where=str(self.folder))
        return model

    def served(self, pickle: str | None = None) -> Model:
        """Load the model as it is served: by ONNX; or a pickle, if its BLAKE3 is the one given.

        Raises:
            IntegrityError: The model's contract is not the package's, or the pickle is another one.
            MissingExtraError: The library that the model needs is not installed.
            NotFoundError: The package has no ONNX model.
            RefusedError: The model is a pickle, and none is trusted.
        """
        return self.predictor("native" if self.info.is_pickled else "onnx", trusted_pickle=pickle)

    def check_pickle(self, trusted: str | None) -> None:
        """See that the model is no pickle or the trusted one, and load nothing; raises what `served` raises."""
        if self.info.is_pickled:
            pickles.trusted_pickle(self.folder / "model", trusted)

    def golden(self) -> Golden:
        """Return the golden samples; raises IntegrityError where they do not fit the contract."""
        return read_golden(self.folder, self.contract)

    def check_golden(self, predictor: Predictor) -> None:
        """See that a predictor answers the golden samples as it did when it was packed.

        Raises:
            IntegrityError: It does not; it names row and field.
        """
        check_golden(self.golden(), predictor)
