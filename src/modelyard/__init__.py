"""Modelyard: from one declarative blueprint to a reviewed, released, hot-swappable machine-learning service.

>>> import modelyard
>>> yard = modelyard.open(".")                      # doctest: +SKIP
>>> run = yard.run("digits", params={"train.alpha": 0.01})  # doctest: +SKIP
>>> run.metrics["accuracy"]                         # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.errors import ModelyardError
    from modelyard.yard import Run, Yard, init, open  # noqa: A004  (modelyard.open(".") is how a project is opened)

__version__ = "0.1.0"
__all__ = ["ModelyardError", "Run", "Yard", "__version__", "init", "open"]

_HOMES = {"ModelyardError": "modelyard.errors", "Run": "modelyard.yard", "Yard": "modelyard.yard",
          "init": "modelyard.yard", "open": "modelyard.yard"}  # fmt: skip


def __getattr__(name: str) -> Any:
    # PEP 562: importing modelyard stays cheap, and names load the room they live in when first used.
    if name not in _HOMES:
        raise AttributeError(f"module 'modelyard' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
