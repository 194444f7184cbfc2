"""What a function asks for, read from its source without importing it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from modelyard.blueprint.modules import Locator

__all__ = ["Parameter", "Signature", "SignatureReader"]

_TYPES = {"Dataset": "dataset", "Path": "folder"}
"""Type hints, by their last name, that say which type of output fits."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function: its name, whether it can be left out, and the type its hint asks for."""

    name: str
    required: bool
    type: str = "any"


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameters, whether it takes any other by keyword, and the type its hint promises.

    A hint of None is the type `none`: such a function gives nothing.
    """

    parameters: tuple[Parameter, ...]
    open: bool
    returns: str = "any"


class SignatureReader:
    """Reads signatures of functions, each module once.

    Args:
        project: The folder that imports start from.
    """

    def __init__(self, project: Path) -> None:
        self._locator = Locator(project)
        self._modules: dict[str, ast.Module | str | None] = {}
        self._read: dict[str, Signature | str | None] = {}

    def read(self, function: str) -> Signature | str | None:
        """Read the signature of `module:function`.

        Args:
            function: As a blueprint names it.

        Returns:
            The signature; None where the function is compiled, made at run time or imported from elsewhere; or,
            where the module or the function does not exist, a sentence that says so.
        """
        if function not in self._read:
            module, _, name = function.partition(":")
            if module not in self._modules:
                self._modules[module] = self._module(module)
            tree = self._modules[module]
            self._read[function] = _find(tree, module, name) if isinstance(tree, ast.Module) else tree
        return self._read[function]

    def _module(self, module: str) -> ast.Module | str | None:
        found = self._locator.find(module)
        if found is None:
            return f"there is no module {module} in the project folder or among the installed ones."
        if found.path is None:
            return None
        try:
            return ast.parse(Path(found.path).read_bytes())
        except (OSError, SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            place = f" in line {line}" if line else ""
            return f"the module {module} can't be read: {getattr(error, 'msg', error)}{place}."


def _find(tree: ast.Module, module: str, name: str) -> Signature | str | None:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _signature(node)
        if isinstance(node, ast.AsyncFunctionDef) and node.name == name:
            return f"the function {name} is async; steps are plain functions."
    if _bound_names(tree) & {name, "*"}:
        return None
    return f"the module {module} has no function {name}."


def _signature(node: ast.FunctionDef) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    optional = {argument.arg for argument in positional[len(positional) - len(arguments.defaults) :]}
    optional |= {
        argument.arg
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    }
    parameters = tuple(
        Parameter(argument.arg, argument.arg not in optional, _type(argument.annotation))
        for argument in (*positional, *arguments.kwonlyargs)
    )
    return Signature(parameters, arguments.kwarg is not None, _type(node.returns))


def _type(hint: ast.expr | None) -> str:
    if isinstance(hint, ast.Constant) and hint.value in (None, "None"):
        return "none"
    if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        return _TYPES.get(hint.value.rpartition(".")[2], "any")
    if isinstance(hint, ast.Attribute):
        return _TYPES.get(hint.attr, "any")
    return _TYPES.get(hint.id, "any") if isinstance(hint, ast.Name) else "any"


def _bound_names(tree: ast.Module) -> set[str]:
    """Return names that the module binds at its top other than by `def`; a star import may bind any."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
    return names
