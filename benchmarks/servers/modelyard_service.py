"""Run a service of Modelyard: `modelyard_service.py SPECIFICATION`, JSON with `folder`, `store`, and options.

`live` is a file of what is served from the beginning, `{model: [version, package]}`; left out, clients say it.

A file `kill-worker` or `kill-supervisor` beside the service's folder has one of them killed once, after all workers
have prepared and before the swap is committed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from modelyard.serving.faults import Faults
from modelyard.serving.follower import LiveSource
from modelyard.serving.service import Live, ServiceSpec, run_service


class Kill(Faults):
    """Kills where a file asks for it.

    Args:
        place: Of the file.
    """

    def __init__(self, place: Path) -> None:
        self._place = place

    def at(self, point: str) -> None:
        """Pass the moment, or kill."""
        if point != "prepared":
            return
        if self._asked("kill-worker"):
            os.kill(self._worker(), signal.SIGKILL)
        if self._asked("kill-supervisor"):
            os.kill(os.getpid(), signal.SIGKILL)

    def _asked(self, name: str) -> bool:
        file = self._place / name
        asked = file.exists()
        file.unlink(missing_ok=True)
        return asked

    @staticmethod
    def _worker() -> int:
        children = "".join(file.read_text() for file in Path("/proc/self/task").glob("*/children"))
        return int(children.split()[0])


def main() -> None:
    """Serve until stopped."""
    given = json.loads(sys.argv[1])
    store, folder = Path(given.pop("store")), Path(given.pop("folder"))
    live = _live(Path(given.pop("live"))) if "live" in given else None
    spec = ServiceSpec(name="bench", folder=folder, **given)
    run_service(spec, fetch=lambda package: store / package, live=live, faults=Kill(folder.parent))


def _live(file: Path) -> LiveSource:
    told = json.loads(file.read_text(encoding="utf-8"))
    return lambda: {name: Live(name, version, package) for name, (version, package) in told.items()}


if __name__ == "__main__":
    main()
