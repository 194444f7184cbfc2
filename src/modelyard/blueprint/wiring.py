"""Which output fills which input: the needs of every step, and the source of every port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard.blueprint.checks import check_meaning, default_needs
from modelyard.blueprint.graph import in_order
from modelyard.blueprint.paths import Issue, KeyPath, did_you_mean, listed
from modelyard.blueprint.signature import Signature, SignatureReader

__all__ = ["KINDS", "Kind", "Port", "Wired", "Wiring", "wire"]


@dataclass(frozen=True, slots=True)
class Port:
    """An input of a step: its name, the type that fits, and whether the step can do without."""

    name: str
    type: str = "any"
    required: bool = True


@dataclass(frozen=True, slots=True)
class Kind:
    """What every step of a kind takes and gives.

    Args:
        ports: Inputs.
        outputs: Name to type.
    """

    ports: tuple[Port, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)


KINDS: Mapping[str, Kind] = {
    "importer": Kind((), {"train": "dataset", "test": "dataset"}),
    "transform": Kind(
        (Port("train", "dataset"), Port("test", "dataset"), Port("transform", "transform", required=False)),
        {"train": "dataset", "test": "dataset", "transform": "transform"},
    ),
    "trainer": Kind(
        (Port("train", "dataset"), Port("transform", "transform", required=False)),
        {"model": "model", "history": "history"},
    ),
    "tuner": Kind(
        (Port("train", "dataset"), Port("transform", "transform", required=False)),
        {"model": "model", "history": "history"},
    ),
    "evaluator": Kind(
        (Port("model", "model"), Port("test", "dataset"), Port("history", "history", required=False)),
        {"metrics": "metrics", "evidence": "evidence"},
    ),
    "selector": Kind((), {"model": "model", "metrics": "metrics"}),
    "python": Kind(),
    "command": Kind(),
}
"""Inputs and outputs of the kinds; those of `python` come from its function, those of `command` from the blueprint."""

_CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Wired:
    """One step's connections.

    Args:
        index: Position in the file.
        inputs: Port to step and output.
        types: Output to type.
        needs: Ids that must succeed first, those of the inputs included.
    """

    index: int
    inputs: Mapping[str, tuple[str, str]]
    types: Mapping[str, str]
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wiring:
    """Every step's connections, each step after all it needs, and what could not be connected."""

    steps: Mapping[str, Wired]
    issues: list[Issue]


_Step = Mapping[str, Any]
_Reachable = dict[tuple[str, str], tuple[int, int]]
"""For a step: output name and type of the steps above to (distance, minus the index of the nearest that has it)."""


def wire(blueprint: Mapping[str, Any], *, project: Path | None = None, look_up: bool = True) -> Wiring:
    """Connect the steps of a valid blueprint.

    Args:
        blueprint: As JSON values with defaults.
        project: Folder in which the functions of python steps are looked up; left out: the current one.
        look_up: Whether they are looked up at all; without it, ports of python steps are those it names.
    """
    meaning = check_meaning(blueprint)
    if meaning:
        return Wiring({}, meaning)
    numbered: list[tuple[int, _Step]] = list(enumerate(blueprint["pipeline"]["steps"]))
    builder = _Builder([step for _, step in numbered], project or Path(), look_up)
    needs = {step["id"]: _needs(numbered, index, step) for index, step in numbered}
    by_id = {step["id"]: (index, step) for index, step in numbered}
    for name in in_order(needs):
        index, step = by_id[name]
        builder.add(index, step, needs[name])
    builder.issues.sort(key=lambda issue: issue.path[2] if len(issue.path) > 2 else -1)
    return Wiring(builder.wired, builder.issues)


def _needs(numbered: list[tuple[int, _Step]], index: int, step: _Step) -> tuple[str, ...]:
    sources = [source.partition(".")[0] for source in step["inputs"].values()]
    extra = [*step.get("candidates", ()), *([step["trainer"]] if step["kind"] == "tuner" else ())]
    return tuple(dict.fromkeys([*default_needs(numbered, index), *sources, *extra]))


class _Builder:
    """Adds steps one after another, each after all it needs."""

    def __init__(self, steps: Sequence[_Step], project: Path, look_up: bool) -> None:
        self.steps = steps
        self.signatures = SignatureReader(project)
        self.look_up = look_up
        self.wired: dict[str, Wired] = {}
        self.issues: list[Issue] = []
        self._reachable: dict[str, _Reachable] = {}

    def add(self, index: int, step: _Step, needs: tuple[str, ...]) -> None:
        signature = self._signature(index, step)
        self._reachable[step["id"]] = reachable = self._above(needs)
        ports = self._ports(index, step, signature)
        inputs = self._given(index, step, ports, signature)
        for port in ports:
            if port.name not in inputs:
                source = self._nearest(reachable, port)
                if source is not None:
                    inputs[port.name] = source
                elif port.required:
                    self.issues.append(self._unfilled(index, step, port, reachable))
        sources = (source for source, _ in inputs.values())
        self.wired[step["id"]] = Wired(index, inputs, _types(step, signature), tuple(dict.fromkeys((*needs, *sources))))

    def _signature(self, index: int, step: _Step) -> Signature | None:
        if step["kind"] != "python" or not self.look_up:
            return None
        found = self.signatures.read(step["function"])
        if isinstance(found, str):
            remedy = "Write it as <module>:<function>; modules are looked up from the project folder."
            self.issues.append(Issue(_at(index, "function"), found, remedy))
            return None
        if found is not None and not found.open:
            names = [parameter.name for parameter in found.parameters if parameter.name != _CONTEXT]
            for key in ("parameters", "inputs"):
                for name in step[key]:
                    if name not in names:
                        what = f"the function {step['function']} has no parameter {name}."
                        remedy = did_you_mean(name, names, "Its parameters are")
                        self.issues.append(Issue(_at(index, key, name), what, remedy, at="key"))
        return found

    def _ports(self, index: int, step: _Step, signature: Signature | None) -> tuple[Port, ...]:
        if signature is None:
            return KINDS[step["kind"]].ports
        both = sorted(set(step["parameters"]) & set(step["inputs"]))
        for name in both:
            what = f"{name} stands in parameters too."
            self.issues.append(Issue(_at(index, "inputs", name), what, "Give it once.", at="key"))
        return tuple(
            Port(parameter.name, parameter.type, parameter.required)
            for parameter in signature.parameters
            if parameter.name != _CONTEXT and parameter.name not in step["parameters"]
        )

    def _above(self, needs: tuple[str, ...]) -> _Reachable:
        """Say for every output above a step how near it is; of equally near ones the later in the file counts."""
        best: _Reachable = {}
        for need in needs:
            own = self.wired[need]
            found = dict.fromkeys(own.types.items(), (1, -own.index))
            further = ((key, (far + 1, order)) for key, (far, order) in self._reachable[need].items())
            for key, rank in (*found.items(), *further):
                if key not in best or rank < best[key]:
                    best[key] = rank
        return best

    def _nearest(self, reachable: _Reachable, port: Port) -> tuple[str, str] | None:
        ranks = [rank for (name, kind), rank in reachable.items() if name == port.name and _fits(kind, port.type)]
        if not ranks:
            return None
        return self.steps[-min(ranks)[1]]["id"], port.name

    def _given(
        self, index: int, step: _Step, ports: tuple[Port, ...], signature: Signature | None
    ) -> dict[str, tuple[str, str]]:
        """Check the inputs that the blueprint names."""
        known = {port.name: port for port in ports}
        free = step["kind"] == "command" or (step["kind"] == "python" and (signature is None or signature.open))
        inputs: dict[str, tuple[str, str]] = {}
        for name, text in step["inputs"].items():
            path = _at(index, "inputs", name)
            source, _, output = text.partition(".")
            types = self.wired[source].types
            if name not in known and not free and step["kind"] != "python":
                what = f"a {step['kind']} has no input {name}."
                self.issues.append(Issue(path, what, did_you_mean(name, known, "Its inputs are"), at="key"))
            elif output not in types:
                what = f"the step {source} has no output {output}."
                remedy = did_you_mean(output, types, "Its outputs are") or "It has no outputs."
                self.issues.append(Issue(path, what, remedy))
            elif name in known and not _fits(types[output], known[name].type):
                what = f"{text} is of type {types[output]}, and {name} takes {known[name].type}."
                self.issues.append(Issue(path, what, "Name an output of that type."))
            inputs[name] = (source, output)
        return inputs

    def _unfilled(self, index: int, step: _Step, port: Port, reachable: _Reachable) -> Issue:
        sources = sorted((rank, name, kind) for (name, kind), rank in reachable.items())
        shown = [f"{self.steps[-rank[1]]['id']}.{name} ({kind})" for rank, name, kind in sources[:8]]
        there = f"The outputs above are {listed(shown)}." if shown else "No step above has outputs."
        kind = "" if port.type == "any" else f" of type {port.type}"
        what = f"no step above {step['id']} gives its input {port.name}{kind}. {there}"
        remedy = "Name one in inputs, or say in needs which step comes first."
        if step["kind"] == "python":
            remedy = "Name one in inputs, or give a value in parameters."
        return Issue(_at(index), what, remedy)


def _at(index: int, *rest: str | int) -> KeyPath:
    return ("pipeline", "steps", index, *rest)


def _fits(given: str, wanted: str) -> bool:
    return given == wanted or "any" in (given, wanted)


def _types(step: _Step, signature: Signature | None) -> Mapping[str, str]:
    if step["kind"] == "python":
        if step["outputs"] is None and signature is not None and signature.returns == "none":
            return {}
        outputs = ("result",) if step["outputs"] is None else step["outputs"]
        kind = signature.returns if signature is not None and len(outputs) == 1 else "any"
        return dict.fromkeys(outputs, "any" if kind == "none" else kind)
    if step["kind"] == "command":
        return dict.fromkeys(step["outputs"] or (), "folder")
    return KINDS[step["kind"]].outputs
