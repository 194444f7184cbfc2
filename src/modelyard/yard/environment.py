"""What is installed where a run runs."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys

__all__ = ["environment_lock"]

_FOLDER = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-.*)?\.(dist|egg)-info")


def environment_lock() -> dict[str, str]:
    """Return Python's version, the platform, and the version of every installed distribution, as `pip:<name>`.

    Names are normalized (PEP 503). They are read off the names of the folders that hold the distributions' metadata
    (PEP 376): parsing the metadata of some hundred distributions would take longer than a small run.
    """
    found: dict[str, str] = {}
    for place in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(place or "."):
                match = _FOLDER.fullmatch(entry)
                if match:
                    # The first on the path is the one that is imported.
                    found.setdefault(f"pip:{re.sub('[-_.]+', '-', match['name']).lower()}", match["version"])
    return {"python": platform.python_version(), "platform": platform.platform(), **dict(sorted(found.items()))}
