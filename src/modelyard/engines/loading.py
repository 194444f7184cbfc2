"""Imports a step's function, always as the file is now: no stale module, no stale byte code, no other project's."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from modelyard.blueprint.code import CodeReader
from modelyard.errors import InputError, StepError
from modelyard.records import TaskCall

__all__ = ["StepLoader"]

_Stamp = tuple[int, int, int, int]


def _stamp(path: str) -> _Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class _SourceLoader(SourceFileLoader):
    """Compiles from source: byte code beside it counts seconds only, and would hide the second of two quick edits."""

    stamp: _Stamp | None = None
    finder: _ProjectFinder | None = None

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        self.stamp = _stamp(path)
        return self.source_to_code(self.get_data(path), path)


class _ProjectFinder:
    """Finds the modules of one project folder before anybody else does, and knows which it found."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.inside = project.rstrip("/") + "/"
        self.found: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a source module that lies in the project, or None."""
        places = [self.project] if path is None else [place for place in path if self.holds(place)]
        if not places:
            return None
        spec = PathFinder.find_spec(name, places, target)
        # A plain folder in the project must not hide an installed package of its name.
        if spec is None or spec.loader is None or not spec.origin or not self.holds(spec.origin):
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SourceLoader(spec.loader.name, spec.loader.path)
            spec.loader.finder = self
            self.found.add(name)
        return spec

    def holds(self, path: str) -> bool:
        """Say whether a path is project code: inside the folder, and in no virtual environment."""
        if path == self.project:
            return True
        if not path.startswith(self.inside):
            return False
        parts = path[len(self.inside) :].split("/")
        return not any(part.startswith(".") or part in ("site-packages", "dist-packages") for part in parts)

    def owns(self, module: ModuleType) -> bool:
        """Say whether an imported module came from this project."""
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            return self.holds(file)
        places = getattr(module, "__path__", None)
        return places is not None and any(isinstance(place, str) and self.holds(place) for place in places)


class StepLoader:
    """Finds the functions of steps; one for each process, kept between its tasks.

    Args:
        readers: Readers of project code that are warm already, by project folder.
    """

    def __init__(self, readers: Mapping[str, CodeReader] | None = None) -> None:
        self._readers = dict(readers or {})
        self._finder = _ProjectFinder("/nowhere")

    @contextlib.contextmanager
    def importing(self, project: str) -> Iterator[None]:
        """Let the block import the project's code, its folder first on the path; both are undone afterwards."""
        if self._finder.project != project:
            self._forget()
            self._finder = _ProjectFinder(project)
        finder = self._finder
        sys.path.insert(0, project)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(finder)
            with contextlib.suppress(ValueError):
                sys.path.remove(project)

    def function(self, call: TaskCall) -> Callable[..., Any]:
        """Return the function of a call; to be used inside `importing`.

        Raises:
            InputError: There is no such module or function.
            StepError: The code on disk is no longer what was planned.
        """
        module_name, _, name = call.call.partition(":")
        if self._stale(call):
            self._forget((*call.code, module_name))
        self._check(call, module_name)
        module = self._import(module_name, call)
        function = getattr(module, name, None)
        if callable(function):
            found: Callable[..., Any] = function
            return found
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, names, n=1)
        raise InputError(
            f"Module {module_name} has no function {name!r}.",
            where=f"step {call.task}",
            remedy=f"Did you mean {near[0]!r}?" if near else "Name one that it defines, as module:function.",
        )

    def _import(self, name: str, call: TaskCall) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only the step's own module, or a package on the way to it; what that module misses is its own error.
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise
            raise InputError(
                f"There is no module {name!r}.",
                where=f"step {call.task}",
                remedy=f"Write it as a file in {call.project}, or install the distribution that has it.",
            ) from error

    def _check(self, call: TaskCall, module: str) -> None:
        if not call.code:
            return
        reader = self._readers.get(call.project)
        if reader is None:
            reader = self._readers[call.project] = CodeReader(Path(call.project))
        now = dict(reader.reach(module).code)
        # Code that only a parameter names, such as an estimator, is reached from there.
        for name in call.code.keys() - now.keys():
            with contextlib.suppress(InputError):
                now |= reader.reach(name).code
        if now != call.code:
            names = sorted(key for key in now.keys() | call.code.keys() if now.get(key) != call.code.get(key))
            raise StepError(
                f"The code of {', '.join(names)} changed since the run was planned.",
                where=f"step {call.task}",
                remedy="Run again: the plan is made from the files as they are now.",
            )

    def _stale(self, call: TaskCall) -> bool:
        """Say whether a module in memory may differ from its file; a notebook's own import is of unknown age."""
        for name in self._finder.found:
            loader = _loader(name)
            if isinstance(loader, _SourceLoader) and _stamp(loader.path) != loader.stamp:
                return True
        return any(self._is_foreign(name) for name in (*call.code, call.call.partition(":")[0]))

    def _is_foreign(self, name: str) -> bool:
        """Say whether a project's module was imported by somebody else, or for another project."""
        module = sys.modules.get(name)
        if module is None or name.partition(".")[0] == "modelyard":
            return False
        loader = _loader(name)
        if isinstance(loader, _SourceLoader):
            return loader.finder is not self._finder
        return self._finder.owns(module) and isinstance(getattr(module, "__file__", None), str)

    def _forget(self, names: Iterable[str] = ()) -> None:
        """Drop what was imported from projects, and these names; modules of others are left alone."""
        for name in list(sys.modules):
            if isinstance(_loader(name), _SourceLoader):
                del sys.modules[name]
        for name in names:
            if self._is_foreign(name):
                del sys.modules[name]
        self._finder.found.clear()
        importlib.invalidate_caches()


def _loader(name: str) -> object:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "loader", None)
