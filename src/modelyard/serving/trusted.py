"""Pickled models that workers may load: what the service's owner says of each package, written down for the workers.

The owner says it as data: the BLAKE3 of the pickle in a package. It is asked anew whenever a package is fetched, so
also after a restart. What clients upload is fetched from elsewhere, and never gets here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.errors import IntegrityError
from modelyard.files import storage_errors, write_atomically

__all__ = ["Trusted", "Verdict", "trusted_in"]

Verdict = Callable[[str], str | None]
"""Returns the BLAKE3 of the pickled model in the package of a digest, which may be loaded; None where it holds none.

Raises RefusedError where it holds one that may not be loaded.
"""


class Trusted:
    """The file of trusted pickles: package folder to BLAKE3. The supervisor alone writes it.

    Args:
        file: Made anew: what an earlier supervisor was told does not count.

    Raises:
        StorageError: It can't be written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._write()

    def fetching(self, fetch: Callable[[str], Path], verdict: Verdict) -> Callable[[str], Path]:
        """Return a `fetch` that asks for the verdict on each package, and writes it down.

        Raises:
            RefusedError: When called: the package holds a pickle that may not be loaded.
        """

        def fetched(package: str) -> Path:
            folder = fetch(package)
            digest = None
            try:
                digest = verdict(package)
            finally:
                self._tell(folder, digest)
            return folder

        return fetched

    def _tell(self, folder: Path, digest: str | None) -> None:
        with self._lock:
            if self._known.get(str(folder)) != digest:
                if digest is None:
                    del self._known[str(folder)]
                else:
                    self._known[str(folder)] = digest
                self._write()

    def _write(self) -> None:
        write_atomically(self.file, msgspec.json.encode(self._known) + b"\n", 0o600)


def trusted_in(file: Path, folder: Path) -> str | None:
    """Return the BLAKE3 of the pickle in a package folder that may be loaded, or None.

    Raises:
        IntegrityError: The file is damaged.
        StorageError: It can't be read.
    """
    with storage_errors(file):
        content = file.read_bytes()
    try:
        return msgspec.json.decode(content, type=dict[str, str]).get(str(folder))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"The file of trusted pickles can't be read: {error}.", where=str(file), remedy="Restart the service."
        ) from error
