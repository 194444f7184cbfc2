"""Which code a step reaches, found by reading imports, and a digest of each module that comments do not change."""

from __future__ import annotations

import ast
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelyard.blueprint.modules import Locator, installed_distribution
from modelyard.blueprint.plan import Task
from modelyard.errors import InputError, NotFoundError
from modelyard.files import blake3_bytes, storage_errors

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


@dataclass(frozen=True, slots=True)
class _Import:
    """One import statement: `from <level dots><module> import <names>`, or `import <module>` with no names."""

    level: int
    module: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a source file says: its digest and its imports."""

    digest: str
    imports: tuple[_Import, ...]


_Stamp = tuple[int, ...] | None
"""Times, size and inode of a file; None where a change could hide behind them, or where there is no file."""


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116  (this is the warm path: microseconds count)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


class CodeReader:
    """Reads the code that steps reach; nothing is executed.

    From a step's module it follows imports through modules of the project and through those parts of Modelyard that
    shape results. Other imports count by the version of their installed distribution, the standard library does not
    count. Imports under `if TYPE_CHECKING` are passed over; `importlib.import_module("name")` is followed.
    What was read is remembered by time, size and inode, so that asking again costs some microseconds.

    Args:
        project: The project folder, from which imports start.
    """

    def __init__(self, project: Path) -> None:
        self._locator = Locator(project)
        self._facts: dict[str, tuple[_Stamp, _Facts]] = {}
        self._reached: dict[str, tuple[dict[str, _Stamp], Reach]] = {}

    def reach(self, module: str) -> Reach:
        """Return all code that importing a module brings in.

        Args:
            module: Its dotted name, as imported from the project folder.

        Raises:
            NotFoundError: There is no such module.
            InputError: A module of the project is no Python; `where` has file and line.
            StorageError: A file can't be read.
        """
        known = self._reached.get(module)
        if known is not None and all(stamp is not None and stamp == _stamp(path) for path, stamp in known[0].items()):
            return known[1]
        walk = _Reading(self)
        result = walk.run(module)
        self._reached[module] = (walk.watched, result)
        return result

    def reach_task(self, task: Task) -> Reach:
        """Return all code that a task reaches: its step's, and that of the estimator which a trainer names."""
        result = self.reach(task.call.partition(":")[0])
        estimator = task.parameters.get("estimator") if task.kind == "trainer" else None
        if isinstance(estimator, str) and "." in estimator:
            walk = _Reading(self)
            more = walk.run(estimator.rpartition(".")[0], must_exist=False)
            return Reach(result.code | more.code, result.distributions | more.distributions)
        return result

    def facts(self, path: str, stamp: _Stamp) -> _Facts:
        """Return what a source file says, read again only where its stamp has changed."""
        known = self._facts.get(path)
        if known is not None and stamp is not None and known[0] == stamp:
            return known[1]
        with storage_errors(path):
            source = Path(path).read_bytes()
        facts = _read(source, path)
        self._facts[path] = (stamp, facts)
        return facts

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
        self.watched: dict[str, _Stamp] = {}
        self.seen: set[str] = set()
        self._now = time.time_ns()

    def run(self, module: str, *, must_exist: bool = True) -> Reach:
        for place in (self.reader.locator.project, *sys.path):
            if os.path.isdir(place):  # noqa: PTH112
                self.watch(place)
        queue = [module]
        while queue:
            name = queue.pop()
            for prefix in _prefixes(name):
                if prefix not in self.seen:
                    self.seen.add(prefix)
                    queue.extend(self.visit(prefix))
        if must_exist and not self.code and not self.distributions and self.reader.locator.find(module) is None:
            raise NotFoundError(
                f"There is no module {module}.",
                where=self.reader.locator.project,
                remedy="Modules are looked up from the project folder; write <module>:<function>.",
            )
        return Reach(dict(sorted(self.code.items())), dict(sorted(self.distributions.items())))

    def watch(self, path: str) -> _Stamp:
        stamp = _stamp(path)
        if stamp is not None and self._now - max(stamp[0], stamp[1]) < _RACY_NANOSECONDS:
            stamp = None
        self.watched[path] = stamp
        return stamp

    def visit(self, module: str) -> Iterable[str]:
        """Take a module's code, or its distribution's version, and return what it imports."""
        path, package, top = None, False, module.partition(".")[0]
        if not self.outside(module, top):
            found = self.reader.locator.find(module)
            if found is not None:
                path, package = found.path, found.package
        if path is None:
            return ()
        if package:
            self.watch(os.path.dirname(path))  # noqa: PTH120
        facts = self.reader.facts(path, self.watch(path))
        self.code[module] = facts.digest
        return _targets(facts.imports, module if package else module.rpartition(".")[0])

    def outside(self, module: str, top: str) -> bool:
        """Say whether a module's own code does not count; where its distribution does, note the version."""
        if top == "modelyard":
            return not any(module == part or module.startswith(f"{part}.") for part in _FOLLOWED)
        locator = self.reader.locator
        found = locator.find(top)
        inner = locator.find(module) if found is not None and found.namespace else found
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


def _targets(imports: Iterable[_Import], package: str) -> Iterator[str]:
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


def _read(source: bytes, path: str) -> _Facts:
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}:{line}" if line else path
        raise InputError(f"This is not Python: {getattr(error, 'msg', error)}.", where=where) from error
    imports = tuple(_imports(tree))
    _strip_docstrings(tree)
    return _Facts(blake3_bytes(ast.dump(tree, annotate_fields=False).encode("utf-8", "surrogatepass")), imports)


def _imports(tree: ast.AST) -> Iterator[_Import]:
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(0, alias.name, ())
        elif isinstance(node, ast.ImportFrom):
            yield _Import(node.level, node.module or "", tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            stack.extend(node.orelse)
        else:
            if isinstance(node, ast.Call):
                yield from _by_name(node)
            stack.extend(ast.iter_child_nodes(node))


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _by_name(call: ast.Call) -> Iterator[_Import]:
    """Yield the module of an `import_module("name")`."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "import_module" and call.args:
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
            yield _Import(0, first.value, ())


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del node.body[0]
