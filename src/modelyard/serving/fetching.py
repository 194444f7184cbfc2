"""Packages as they are fetched: their folder, and which pickle in it may be loaded, as the service's owner says.

The owner says it as data: the BLAKE3 of the pickle in a package. It is asked anew whenever a package is fetched, so
also after a restart, and goes with the generation to each worker. What clients upload is fetched from elsewhere, and
nobody is asked about it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Fetch", "Fetched", "Fetching", "Verdict", "judged"]

Fetch = Callable[[str], Path]
"""Returns a local, verified, read-only folder with the package of that digest."""

Verdict = Callable[[str], str | None]
"""Returns the BLAKE3 of the pickled model in the package of a digest, which may be loaded; None where it holds none.

Raises RefusedError where it holds one that may not be loaded.
"""


class Fetched(NamedTuple):
    """A package on this machine.

    Args:
        folder: Local, verified and read-only.
        pickle: BLAKE3 of the pickled model in it that may be loaded; None: none may.
    """

    folder: Path
    pickle: str | None = None


Fetching = Callable[[str], Fetched]
"""Returns the package of that digest, and the verdict on it; raises ModelyardError where it can't, or there is none."""


def judged(fetch: Fetch, verdict: Verdict | None) -> Fetching:
    """Return a `fetch` that asks for the verdict on each package; without one no pickle may be loaded."""

    def fetched(package: str) -> Fetched:
        folder = fetch(package)
        return Fetched(folder, verdict(package) if verdict is not None else None)

    return fetched
