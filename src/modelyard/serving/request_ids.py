"""The ids that requests have in logs and answers: the client's own where it is harmless, else one of ours."""

from __future__ import annotations

import itertools
import os
import re

__all__ = ["RequestIds"]

_HARMLESS = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class RequestIds:
    """Gives requests their ids; no two of a service are the same, even after a restart.

    Args:
        worker: Number of the worker, from 0.
    """

    def __init__(self, worker: int) -> None:
        self._ids = itertools.count(1)
        self._prefix = f"{os.urandom(4).hex()}-{worker}"

    def of(self, given: str | None) -> str:
        """Return the id of a request.

        Args:
            given: What the client calls it, or None.
        """
        return given if given and _HARMLESS.fullmatch(given) else f"{self._prefix}-{next(self._ids):x}"
