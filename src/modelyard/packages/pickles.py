"""Models that are kept as a pickle: loaded only where its digest is the one that is trusted.

Who trusts a digest, and why, is decided elsewhere and told as data. Here the bytes are read once, hashed, and handed
on: what was hashed is what is loaded, whatever happens to the file meanwhile.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from modelyard.errors import IntegrityError, RefusedError
from modelyard.files import blake3_bytes, storage_errors

__all__ = ["FLAVOUR", "PICKLE_FILE", "pickle_digest", "trusted_pickle"]

FLAVOUR = "pickle"
PICKLE_FILE = "model.pkl"
"""In the model's folder."""


def pickle_digest(folder: Path) -> str:
    """Return the BLAKE3 of a model folder's pickle.

    Raises:
        StorageError: It can't be read.
    """
    with storage_errors(folder / PICKLE_FILE):
        return blake3_bytes((folder / PICKLE_FILE).read_bytes())


def trusted_pickle(folder: Path, trusted: str | None) -> bytes:
    """Return the bytes of a model folder's pickle, if they are those that are trusted.

    Args:
        folder: Of the model.
        trusted: BLAKE3 of the pickle that may be loaded; None: none may.

    Raises:
        RefusedError: None may be loaded.
        IntegrityError: The pickle is another one.
        StorageError: It can't be read.
    """
    file = folder / PICKLE_FILE
    if trusted is None:
        raise RefusedError(
            "The model is a pickle, and loading one runs whatever its author wrote.",
            where=str(file),
            remedy='Train it with `format: skops`; or have its version approved, and set `allow_pickle = "signed"` '
            "where it is served.",
        )
    with storage_errors(file):
        content = file.read_bytes()
    if not hmac.compare_digest(blake3_bytes(content), trusted):
        raise IntegrityError(
            "The pickle is not the one that is trusted.", where=str(file), remedy="Fetch the package again."
        )
    return content
