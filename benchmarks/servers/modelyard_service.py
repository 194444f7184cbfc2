"""Run a service of Modelyard: `modelyard_service.py SPECIFICATION`, JSON with `folder`, `store`, and options."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from modelyard.serving.service import ServiceSpec, run_service


def main() -> None:
    """Serve until stopped."""
    given = json.loads(sys.argv[1])
    store, folder = Path(given.pop("store")), Path(given.pop("folder"))
    run_service(ServiceSpec(name="bench", folder=folder, **given), fetch=lambda package: store / package)


if __name__ == "__main__":
    main()
