"""Which code a step reaches, found by reading imports, and a digest of each module that comments do not change."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelyard.blueprint.modules import Found, Locator, Lookup, installed_distribution
from modelyard.blueprint.plan import Task
from modelyard.blueprint.source import FactsFile, Import, Stamp, stamp_of
from modelyard.errors import NotFoundError

__all__ = ["CodeReader", "Reach"]

_FOLLOWED = ("modelyard.steps", "modelyard.packages", "modelyard.data")
"""Modelyard's own code that shapes results; the rest of it moves data around and does not."""

_RACY_NANOSECONDS = 100_000_000
"""File systems stamp times in ticks of some milliseconds: a younger stamp may hide a second change in its tick."""


@dataclass(frozen=True, slots=True)
class Reach:
    """All code that a module's import brings in.

    Args:
        code: BLAKE3 of each module's normalized syntax tree, by module name.
        distributions: Version of each installed distribution that is imported, by its name.
    """

    code: dict[str, str]
    distributions: dict[str, str]


class CodeReader:
    """Reads the code that steps reach; nothing is executed.

    From a step's module it follows imports through modules of the project and through those parts of Modelyard that
    shape results. Other imports count by the version of their installed distribution, the standard library does not
    count. Imports under `if TYPE_CHECKING` are passed over; `importlib.import_module("name")` is followed.
    What was read is remembered by time, size and inode, so that asking again costs some microseconds.

    Args:
        project: The project folder, from which imports start. Where it has a folder `.modelyard`, what was read is
            remembered there between processes.
    """

    def __init__(self, project: Path) -> None:
        self._locator = Locator(project)
        self._facts = FactsFile(Path(self._locator.project, ".modelyard", "code.json"))
        self._reached: dict[str, tuple[dict[str, Stamp | None], Reach]] = {}

    def reach(self, module: str) -> Reach:
        """Return all code that importing a module brings in.

        Args:
            module: Its dotted name, as imported from the project folder.

        Raises:
            NotFoundError: There is no such module.
            InputError: A module of the project is no Python; `where` has file and line.
            StorageError: A file can't be read.
        """
        result = self._reach(module)
        if not result.code and not result.distributions and self._locator.find(module) is None:
            raise NotFoundError(
                f"There is no module {module}.",
                where=self._locator.project,
                remedy="Modules are looked up from the project folder; write <module>:<function>.",
            )
        return result

    def reach_task(self, task: Task) -> Reach:
        """Return all code that a task reaches: its step's, and that of the estimator which a trainer names."""
        result = self.reach(task.call.partition(":")[0])
        estimator = task.parameters.get("estimator") if task.kind == "trainer" else None
        if isinstance(estimator, str) and "." in estimator:
            more = self._reach(estimator.rpartition(".")[0])
            return Reach(result.code | more.code, result.distributions | more.distributions)
        return result

    def _reach(self, module: str) -> Reach:
        known = self._reached.get(module)
        if known is not None and all(stamp is not None and stamp == stamp_of(path) for path, stamp in known[0].items()):
            return known[1]
        walk = _Reading(self)
        result = walk.run(module)
        self._reached[module] = (walk.watched, result)
        return result

    @property
    def facts(self) -> FactsFile:
        """What source files say."""
        return self._facts

    @property
    def locator(self) -> Locator:
        """Where modules are looked up."""
        return self._locator


class _Reading:
    """One walk along imports."""

    def __init__(self, reader: CodeReader) -> None:
        self.reader = reader
        self.code: dict[str, str] = {}
        self.distributions: dict[str, str] = {}
        self.watched: dict[str, Stamp | None] = {}
        self.seen: set[str] = set()
        self._now = time.time_ns()
        self._known: dict[str, Lookup] = {}

    def run(self, module: str) -> Reach:
        for place in (self.reader.locator.project, *sys.path):
            if os.path.isdir(place):
                self.watch(place)
        queue = [module]
        while queue:
            name = queue.pop()
            for prefix in _prefixes(name):
                if prefix not in self.seen:
                    self.seen.add(prefix)
                    queue.extend(self.visit(prefix))
        self.reader.facts.save()
        return Reach(dict(sorted(self.code.items())), dict(sorted(self.distributions.items())))

    def find(self, module: str) -> Found | None:
        return self.reader.locator.find(module, self._known)

    def watch(self, path: str) -> Stamp | None:
        stamp = stamp_of(path)
        if stamp is not None and self._now - max(stamp[0], stamp[1]) < _RACY_NANOSECONDS:
            stamp = None
        self.watched[path] = stamp
        return stamp

    def visit(self, module: str) -> Iterable[str]:
        """Take a module's code, or its distribution's version, and return what it imports."""
        path, package, top = None, False, module.partition(".")[0]
        if not self.outside(module, top):
            found = self.find(module)
            if found is not None:
                path, package = found.path, found.package
        if path is None:
            return ()
        if package:
            self.watch(os.path.dirname(path))
        facts = self.reader.facts.get(path, self.watch(path))
        self.code[module] = facts.digest
        return _targets(facts.imports, module if package else module.rpartition(".")[0])

    def outside(self, module: str, top: str) -> bool:
        """Say whether a module's own code does not count; where its distribution does, note the version."""
        if top == "modelyard":
            return not any(module == part or module.startswith(f"{part}.") for part in _FOLLOWED)
        locator = self.reader.locator
        found = self.find(top)
        inner = self.find(module) if found is not None and found.namespace else found
        if inner is not None and inner.path is not None and locator.is_local(inner.path):
            return False
        if top in sys.stdlib_module_names:
            return True
        named = top
        if found is not None and found.namespace:
            # Several distributions share a namespace such as google; the first real module below tells which.
            if inner is None or inner.namespace:
                return True
            named = module
        distribution = installed_distribution(named)
        if distribution is None:
            return False
        self.distributions[distribution[0]] = distribution[1]
        return True


def _prefixes(name: str) -> Iterator[str]:
    # Importing a.b.c runs a, then a.b, then a.b.c.
    end = name.find(".")
    while end != -1:
        yield name[:end]
        end = name.find(".", end + 1)
    yield name


def _targets(imports: Iterable[Import], package: str) -> Iterator[str]:
    """Yield the absolute names that imports may mean; `from a import b` may mean the module `a.b`."""
    for statement in imports:
        base = statement.module
        if statement.level:
            parts = package.split(".") if package else []
            kept = parts[: len(parts) - (statement.level - 1)]
            base = ".".join([*kept, *([statement.module] if statement.module else [])])
        if base:
            yield base
        for name in statement.names:
            if name != "*":
                yield f"{base}.{name}" if base else name
