"""Which materializer saves a value, and which one has a name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from modelyard.contracts import Materializer
from modelyard.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["GROUP", "Materializers", "Packer"]

GROUP = "modelyard.materializers"


@runtime_checkable
class Packer(Protocol):
    """What a materializer may have besides, where its files are read whole: they then pass through memory alone."""

    def pack(self, value: Any) -> tuple[Mapping[str, bytes], Mapping[str, Any]]:
        """Return the files that `save` would write, by name, and what it would return."""

    def unpack(self, files: Mapping[str, bytes]) -> Any:
        """Return what `load` would return."""


class _Builtin(NamedTuple):
    """Where a built-in materializer is, and the packages whose types it may accept: others need not be imported."""

    where: str
    packages: frozenset[str]


_HERE = "modelyard.store.materializers"

_BUILTINS = {
    "json": _Builtin(f"{_HERE}.json:JsonMaterializer", frozenset({"builtins"})),
    "dataset": _Builtin(f"{_HERE}.dataset:DatasetMaterializer", frozenset({"modelyard"})),
    "array": _Builtin(f"{_HERE}.array:ArrayMaterializer", frozenset({"numpy"})),
    "folder": _Builtin(f"{_HERE}.folder:FolderMaterializer", frozenset({"pathlib"})),
    "table": _Builtin(f"{_HERE}.table:TableMaterializer", frozenset({"pyarrow", "pandas"})),
    "safetensors": _Builtin(f"{_HERE}.tensors:SafetensorsMaterializer", frozenset({"builtins"})),
    "skops": _Builtin(f"{_HERE}.skops:SkopsMaterializer", frozenset({"sklearn"})),
    "onnx": _Builtin(f"{_HERE}.onnx:OnnxMaterializer", frozenset({"onnx"})),
}


class Materializers:
    """The built-in materializers, and those that installed libraries bring."""

    def __init__(self) -> None:
        self._loaded: dict[str, Materializer] = {}

    def choose(self, value: Any, name: str | None = None) -> Materializer:
        """Return the first materializer that accepts the value, built-in ones first.

        Args:
            value: What is to be saved.
            name: Ask only this one.

        Raises:
            InputError: None accepts it, or the named one does not.
        """
        candidates = [self.named(name)] if name is not None else self._candidates(value)
        for materializer in candidates:
            if materializer.accepts(value):
                return materializer
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        known = name if name is not None else ", ".join(self.names())
        raise InputError(
            f"A value of type {kind} can't be saved.",
            remedy=f"Return what one of these accepts: {known}; or install one for it (entry points {GROUP!r}).",
        )

    def named(self, name: str) -> Materializer:
        """Return the materializer of a name.

        Raises:
            InputError: None has it.
            MissingExtraError: The library it needs is not installed.
        """
        if name not in self._loaded:
            builtin = _BUILTINS.get(name)
            self._loaded[name] = _load(name, builtin.where) if builtin else self._installed(name)
        return self._loaded[name]

    def names(self) -> list[str]:
        """Return the names of all materializers, in the order in which they are asked."""
        return list(dict.fromkeys([*_BUILTINS, *(point.name for point in _entry_points())]))

    def _candidates(self, value: Any) -> Iterator[Materializer]:
        packages = {kind.__module__.partition(".")[0] for kind in type(value).__mro__ if kind is not object}
        # The type of None and of a function are builtins as well; only `object` itself says nothing.
        for name, builtin in _BUILTINS.items():
            if not packages.isdisjoint(builtin.packages):
                yield self.named(name)
        for point in _entry_points():
            if point.name not in _BUILTINS:
                yield self.named(point.name)

    def _installed(self, name: str) -> Materializer:
        for point in _entry_points():
            if point.name == name:
                return _load(name, point.value)
        raise InputError(f"There is no materializer {name!r}.", remedy=f"There are {', '.join(self.names())}.")


def _entry_points() -> EntryPoints:
    # Built-in types never ask, and the module takes a tenth of what opening a store takes.
    found: EntryPoints = importlib.import_module("importlib.metadata").entry_points(group=GROUP)
    return found


def _load(name: str, where: str) -> Materializer:
    module, _, attribute = where.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"The materializer {name!r} needs the module {error.name!r}.", remedy=f"Run `pip install {error.name}`."
        ) from error
    materializer: Materializer = kind()
    return materializer
