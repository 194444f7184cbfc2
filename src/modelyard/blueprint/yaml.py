"""YAML 1.2 in, plain values with the line and column of every key out.

Only the JSON part of YAML is taken: mappings with text keys, lists, text, numbers, true, false and null. Anchors,
aliases and `<<` merges work, up to a size that a bomb passes and a blueprint does not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from modelyard.blueprint.paths import KeyPath, dotted
from modelyard.errors import BlueprintError, Problem

__all__ = ["Document", "Place", "read_yaml"]

MAXIMUM_BYTES = 4 * 1024 * 1024
MAXIMUM_VALUES = 100_000
MAXIMUM_DEPTH = 50

_CORE = "tag:yaml.org,2002:"
_FLOAT_WORDS = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, counted from 1, of a key and of its value."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content as JSON values, and where each stands."""

    data: Any
    places: dict[KeyPath, Place]
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Walk:
    """Turns nodes into values, and collects places and problems on the way."""

    file: str
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    values: int = 0
    open_nodes: set[int] = field(default_factory=set)

    def problem(self, node: Node, path: KeyPath, what: str, remedy: str = "") -> None:
        line, column = _position(node)
        self.problems.append(Problem(what, self.file, line, column, dotted(path), remedy))

    def value(self, node: Node, path: KeyPath, key: Node | None = None) -> Any:
        self.values += 1
        if self.values > MAXIMUM_VALUES or len(path) > MAXIMUM_DEPTH or id(node) in self.open_nodes:
            line, column = _position(key or node)
            problem = Problem(
                self._excess(node, path), self.file, line, column, dotted(path), "Write it without so many aliases."
            )
            raise BlueprintError((*self.problems, problem))
        self.places[path] = Place(_position(key or node), _position(node))
        if isinstance(node, ScalarNode):
            return self.scalar(node, path)
        self.open_nodes.add(id(node))
        result = self.mapping(node, path) if isinstance(node, MappingNode) else self.sequence(node, path)
        self.open_nodes.discard(id(node))
        return result

    def _excess(self, node: Node, path: KeyPath) -> str:
        if id(node) in self.open_nodes:
            return "an alias contains itself."
        if len(path) > MAXIMUM_DEPTH:
            return f"nested more than {MAXIMUM_DEPTH} deep."
        return f"more than {MAXIMUM_VALUES:,} values once aliases are written out."

    def sequence(self, node: Node, path: KeyPath) -> list[Any]:
        if node.tag != f"{_CORE}seq":
            self.problem(node, path, f"the tag {_short(node.tag)} is not used here.", "Remove it.")
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        if node.tag != f"{_CORE}map":
            self.problem(node, path, f"the tag {_short(node.tag)} is not used here.", "Remove it.")
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merges: list[tuple[Node, Node]] = []
        for key, value in node.value:
            if key.tag == f"{_CORE}merge":
                merges.append((key, value))
                continue
            if not isinstance(key, ScalarNode) or key.tag != f"{_CORE}str":
                self.problem(key, path, "a key must be a text.", "Put it in quotes if you mean a text.")
                continue
            name: str = key.value
            if name in lines:
                what = f"duplicate key, the first stands in line {lines[name]}."
                self.problem(key, (*path, name), what, "Remove one of the two.")
                continue
            lines[name] = _position(key)[0]
            result[name] = self.value(value, (*path, name), key)
        for key, value in merges:
            self.merge(key, value, path, result)
        return result

    def merge(self, key: Node, node: Node, path: KeyPath, into: dict[str, Any]) -> None:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, MappingNode):
                self.problem(key, (*path, "<<"), "only mappings can be merged.")
                continue
            inner = _Walk(self.file, problems=self.problems, values=self.values, open_nodes=self.open_nodes)
            merged = inner.value(source, path)
            self.values = inner.values
            for name, value in merged.items():
                if name not in into:
                    into[name] = value
                    start = (*path, name)
                    self.places |= {at: place for at, place in inner.places.items() if at[: len(start)] == start}

    def scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        text: str = node.value
        tag = (node.tag or "").removeprefix(_CORE)
        if tag in ("str", "timestamp"):  # a blueprint has no dates; 2026-01-31 stays the text it looks like
            return text
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag in ("int", "float"):
            number = _number(text, tag)
            if number is not None:
                return number
            self.problem(node, path, f"{text[:40]} is no finite number of 64 bits.")
            return None
        self.problem(node, path, f"the tag {_short(node.tag)} is not used here.", "Remove it.")
        return None


def _short(tag: str | None) -> str:
    return (tag or "?").replace(_CORE, "!!")


def _number(text: str, tag: str) -> int | float | None:
    plain = text.replace("_", "").lower()
    try:
        if tag == "float":
            value = _FLOAT_WORDS[plain] if plain in _FLOAT_WORDS else float(plain)
            return value if math.isfinite(value) else None
        based = re.fullmatch(r"([-+]?)0([box])([0-9a-f]+)", plain)
        whole = int(based[1] + based[3], {"b": 2, "o": 8, "x": 16}[based[2]]) if based else int(plain)
    except ValueError:
        return None
    return whole if abs(whole) < 2**63 else None


def _position(node: Node) -> tuple[int, int]:
    return (node.start_mark.line + 1, node.start_mark.column + 1)


def read_yaml(text: str | bytes, file: str) -> Document:
    """Read one YAML document.

    Args:
        text: The file's content; bytes must be UTF-8, with or without a byte-order mark.
        file: Its name, for problems.

    Returns:
        The values and places. Duplicate keys, foreign tags and the like stand in `problems`, and the rest is read.

    Raises:
        BlueprintError: It is not UTF-8, not YAML, empty, too large, or more than one document.
    """
    if len(text) > MAXIMUM_BYTES:
        what = f"the file has {len(text):,} bytes; at most {MAXIMUM_BYTES:,} are read."
        raise BlueprintError((Problem(what, file, remedy="See whether this is the right file."),))
    source = _decode(text, file) if isinstance(text, bytes) else text
    yaml = YAML(typ="safe", pure=True)
    # A second anchor of the same name is legal YAML; ruamel would print a warning about it.
    yaml.composer.warn_double_anchors = False
    try:
        node = yaml.compose(source)
    except MarkedYAMLError as error:
        raise BlueprintError((_syntax_problem(error, source, file),)) from error
    except ReaderError as error:
        line, column = _line_and_column(source, error.position if isinstance(error.position, int) else 0)
        what = f"the character {error.character!r} is not allowed in YAML."
        raise BlueprintError((Problem(what, file, line, column, remedy="Remove it."),)) from error
    except RecursionError as error:
        raise BlueprintError((Problem(f"nested more than {MAXIMUM_DEPTH} deep.", file),)) from error
    except (YAMLError, ValueError) as error:
        raise BlueprintError((Problem(f"this is not YAML: {error}.", file),)) from error
    if node is None:
        remedy = "Start with `modelyard init`, or see docs/reference."
        raise BlueprintError((Problem("the file is empty.", file, remedy=remedy),))
    walk = _Walk(file)
    data = walk.value(node, ())
    return Document(data, walk.places, tuple(walk.problems))


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", errors="replace")
        line, column = _line_and_column(before, len(before))
        what = f"this is not UTF-8: byte 0x{data[error.start]:02x}."
        raise BlueprintError((Problem(what, file, line, column, remedy="Save the file as UTF-8."),)) from error


def _line_and_column(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return (before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)


def _syntax_problem(error: MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    lines = text.splitlines()
    shown = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or (error.problem and "\\t" in error.problem):
        return Problem("a tab can't indent YAML.", file, line, shown.find("\t") + 1 or column, remedy="Use spaces.")
    if error.problem and "document" in error.problem:
        remedy = "Remove the `---` and what follows, or make it a file of its own."
        return Problem("more than one document in the file.", file, line, column, remedy=remedy)
    context = f" {error.context}" if error.context else ""
    remedy = "Look at indentation, colons and quotes in this line and the one before."
    return Problem(f"this is not YAML: {error.problem or error}{context}.", file, line, column, remedy=remedy)
