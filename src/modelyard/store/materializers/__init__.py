"""Turn values into files and back, without pickle; each materializer is a module of its own, imported when needed.

A library adds its own types with an entry point in the group `modelyard.materializers`: its name is the materializer's,
its object a class with the methods of `modelyard.contracts.Materializer`. One whose files are
read whole may have those of `Packer`, too: then no file is written but the object itself.
"""

from modelyard.store.materializers.registry import Materializers, Packer

__all__ = ["Materializers", "Packer"]
