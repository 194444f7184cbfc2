"""What a service is told of the versions that exist; it is handed in, as a runner knows neither store nor reviews."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from modelyard.serving.spec import Live

__all__ = ["Repository"]


class Repository(Protocol):
    """Names versions that may be served. Both methods are called from several threads."""

    def index(self) -> Sequence[Live]:
        """Return every version that may be served."""

    def resolve(self, name: str, version: str | None) -> Live:
        """Return a version of a model.

        Args:
            name: Of the model.
            version: Such as `v1.2.0`; None: the one that should be served where nobody says which.

        Raises:
            NotFoundError: There is no such model or version.
            RefusedError: It may not be served.
        """
