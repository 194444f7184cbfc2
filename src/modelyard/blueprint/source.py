"""What one source file says: its imports, and a digest of its meaning."""

from __future__ import annotations

import ast
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from modelyard.errors import InputError
from modelyard.files import blake3_bytes, storage_errors, temporary_beside

__all__ = ["Facts", "FactsFile", "Import", "Stamp", "stamp_of"]

_FORMAT = f"1 on {sys.implementation.name} {sys.hexversion:x}"
"""Of the remembered facts; syntax trees differ between versions of Python."""

_MOST = 10_000

_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
"""Fields that hold statements, in the order in which every node that has them has them."""

Stamp = tuple[int, int, int, int]
"""Modification time, change time, size and inode."""


class Import(msgspec.Struct, frozen=True, array_like=True):
    """One import statement: `from <level dots><module> import <names>`, or `import <module>` with no names."""

    level: int
    module: str
    names: tuple[str, ...]


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What a source file says.

    Args:
        digest: BLAKE3 of the syntax tree without docstrings; comments and formatting are not in it.
        imports: In the order of the walk.
    """

    digest: str
    imports: tuple[Import, ...]


class _Remembered(msgspec.Struct):
    """The file that keeps facts between processes."""

    format: str
    files: dict[str, tuple[Stamp, Facts]]


def stamp_of(path: str) -> Stamp | None:
    """Return what changes with a file's content, or None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


class FactsFile:
    """Facts of source files, in memory and in one file that processes share; the file is a cache and may be lost.

    Args:
        path: The file, or None for memory alone. Nothing is made where its folder does not exist.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._files: dict[str, tuple[Stamp, Facts]] | None = None
        self._changed = False

    def get(self, path: str, stamp: Stamp | None) -> Facts:
        """Return what a source file says; it is read where the stamp is new, or None for not to be trusted.

        Raises:
            InputError: It is no Python; `where` has file and line.
            StorageError: It can't be read.
        """
        if self._files is None:
            self._files = self._load()
        known = self._files.get(path)
        if known is not None and stamp is not None and known[0] == stamp:
            return known[1]
        with storage_errors(path):
            source = Path(path).read_bytes()
        facts = _read(source, path)
        if stamp is not None:
            self._files[path] = (stamp, facts)
            self._changed = True
        return facts

    def save(self) -> None:
        """Write what was learnt, where there is something new; a folder that can't be written is no error."""
        if not self._changed or self._path is None or self._files is None or not self._path.parent.is_dir():
            return
        self._changed = False
        kept = dict(list(self._files.items())[-_MOST:])
        temp = temporary_beside(self._path)
        try:
            # No fsync: after a power cut it is read as empty or broken, and made again.
            temp.write_bytes(msgspec.json.encode(_Remembered(_FORMAT, kept)))
            temp.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temp.unlink(missing_ok=True)

    def _load(self) -> dict[str, tuple[Stamp, Facts]]:
        if self._path is not None:
            with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
                found = msgspec.json.decode(self._path.read_bytes(), type=_Remembered)
                if found.format == _FORMAT:
                    return found.files
        return {}


def _read(source: bytes, path: str) -> Facts:
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}:{line}" if line else path
        raise InputError(f"This is not Python: {getattr(error, 'msg', error)}.", where=where) from error
    # Most of a tree is expressions, and all that they can hide is a call by this name, or by its letters beyond ASCII,
    # which Python takes for the plain ones.
    by_name = b"import_module" in source or not source.isascii()
    imports = tuple(_imports(tree, ast.iter_child_nodes if by_name else _inner))
    _strip_docstrings(tree)
    return Facts(blake3_bytes(ast.dump(tree, annotate_fields=False).encode("utf-8", "surrogatepass")), imports)


def _imports(tree: ast.AST, children: Callable[[ast.AST], Iterator[ast.AST]]) -> Iterator[Import]:
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(0, alias.name, ())
        elif isinstance(node, ast.ImportFrom):
            yield Import(node.level, node.module or "", tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            stack.extend(node.orelse)
        else:
            if isinstance(node, ast.Call):
                yield from _by_name(node)
            stack.extend(children(node))


def _inner(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements, and what holds statements, right inside a node."""
    for name in _BLOCKS:
        yield from getattr(node, name, ())


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _by_name(call: ast.Call) -> Iterator[Import]:
    """Yield the module of an `import_module("name")`."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "import_module" and call.args:
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
            yield Import(0, first.value, ())


def _strip_docstrings(tree: ast.AST) -> None:
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        stack.extend(_inner(node))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del node.body[0]
