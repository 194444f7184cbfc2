"""Imports go downwards only: the table of rooms in docs/explanation/architecture.md, walked over the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import modelyard

SOURCE = Path(modelyard.__file__).parent

LAYER = {
    "errors": 0, "contracts": 0, "records": 0, "config": 0, "data": 0, "files": 0, "text": 0,
    "blueprint": 1, "client": 1,
    "store": 2, "catalog": 2,
    "center": 3, "engines": 3, "packages": 3, "steps": 3,
    "serving": 4, "releases": 4,
    "yard": 5,
    "demo": 6,
    "cli": 7,
}  # fmt: skip

SIDEWAYS = {("steps", "packages")}
"""Arrows within a layer that the table allows: a trainer saves its model by a flavour."""

NARROW = {
    "serving": {"errors", "contracts", "records", "config", "data", "files", "packages"},
    "client": {"errors", "contracts", "records", "data", "text"},
}
"""Rooms that may reach less than their layer allows: a runner is handed the rest as callables, a client needs none."""

LIGHT = {"errors", "contracts", "records", "files", "text"}
"""Rooms that load no third-party library but msgspec and blake3."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if ("migrations" in parts and "versions" in parts) or parts[0] == "templates":
            continue
        yield ".".join(("modelyard", *(parts[:-1] if parts[-1] == "__init__" else parts))), path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide the room; name it"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_imports_go_downwards_only() -> None:
    wrong = []
    for module, path in modules():
        room = room_of(module)
        if room in ("", "testing", "__main__"):
            continue
        for name, line in imports(path):
            if not name.startswith("modelyard."):
                continue
            other = room_of(name)
            if other in ("", "__version__", "init", "open") or other == room or (room, other) == ("demo", "testing"):
                continue
            down = other in LAYER and (LAYER[other] < LAYER[room] or (LAYER[room] == 0 and LAYER[other] == 0))
            allowed = (down and other in NARROW.get(room, LAYER)) or (room, other) in SIDEWAYS
            if not allowed:
                wrong.append(f"{path.relative_to(SOURCE)}:{line}: {room} may not import {name}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(module) for module, _ in modules()} - {"", "testing", "__main__"}
    assert rooms <= LAYER.keys()


def test_no_module_is_part_of_an_import_cycle() -> None:
    names = {module for module, _ in modules()}
    graph: dict[str, set[str]] = {}
    for module, path in modules():
        reached = set()
        for name, _ in imports(path):
            while name and name not in names:
                name = name.rpartition(".")[0]
            if name and name != module:
                reached.add(name)
        graph[module] = reached
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(module: str) -> None:
        state[module] = 1
        trail.append(module)
        for other in sorted(graph[module]):
            assert state.get(other) != 1, f"cycle: {' -> '.join([*trail[trail.index(other) :], other])}"
            if other not in state:
                visit(other)
        trail.pop()
        state[module] = 2

    limit = sys.getrecursionlimit()
    assert len(graph) < limit
    for module in sorted(graph):
        if module not in state:
            visit(module)


def test_the_lowest_layer_loads_no_heavy_library() -> None:
    allowed = set(sys.stdlib_module_names) | {"modelyard", "msgspec", "blake3"}
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: {name}"
        for module, path in modules()
        if room_of(module) in LIGHT
        for name, line in imports(path)
        if name.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_small() -> None:
    long = []
    for _, path in modules():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 600:
            long.append(f"{path.relative_to(SOURCE)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    long.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {node.name} has {length} lines")
    assert not long, "\n".join(long)
