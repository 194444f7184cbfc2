"""What a schema can't say: names that refer to each other, cycles, metrics that fit the prediction type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.blueprint.graph import find_cycle
from modelyard.blueprint.paths import Issue, KeyPath, did_you_mean, listed

__all__ = ["METRICS", "check_meaning", "default_needs"]

METRICS: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1_macro", "log_loss"),
    "regression": ("mean_relative_error", "mae", "rmse", "r2"),
}
"""Which metrics a prediction type has."""

_LOSSES = {"classification": ("cross_entropy",), "regression": ("mse", "mae", "huber")}


def check_meaning(data: Any) -> list[Issue]:
    """Check a blueprint's values for what the schema can't say.

    It takes values that the schema may have refused, so that a user sees everything at once: what has the wrong
    type is passed over here.

    Args:
        data: The blueprint as JSON values.
    """
    if not isinstance(data, Mapping):
        return []
    steps = _steps(data)
    issues = [*_unique_steps(steps), *_references(steps), *_outputs(steps), *_cycle(steps)]
    issues += _unique(data, ("environments",), "name")
    issues += _unique(data, ("cluster", "nodes"), "label")
    issues += _labels(data, steps)
    issues += _metrics(data, steps)
    return issues


def default_needs(steps: list[tuple[int, Mapping[str, Any]]], index: int) -> list[str]:
    """Return the ids that a step's `needs` name, or the one before it in the file where there is none."""
    step = steps[index][1]
    needs = step.get("needs")
    if isinstance(needs, list | tuple):
        return [need for need in needs if isinstance(need, str)]
    before = steps[index - 1][1].get("id") if index else None
    return [before] if isinstance(before, str) else []


def _get(data: Any, *path: str) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _entries(data: Any, *path: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the mappings of a list with their indices."""
    found = _get(data, *path)
    if not isinstance(found, list | tuple):
        return []
    return [(index, entry) for index, entry in enumerate(found) if isinstance(entry, Mapping)]


def _steps(data: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    return _entries(data, "pipeline", "steps")


def _at(index: int, *rest: str | int) -> KeyPath:
    return ("pipeline", "steps", index, *rest)


def _ids(steps: list[tuple[int, Mapping[str, Any]]]) -> list[str]:
    return [step["id"] for _, step in steps if isinstance(step.get("id"), str)]


def _unique_steps(steps: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Issue]:
    first: dict[str, int] = {}
    for index, step in steps:
        name = step.get("id")
        if not isinstance(name, str):
            continue
        if name in first:
            what = f"{name} is also the id of pipeline.steps[{first[name]}]."
            yield Issue(_at(index, "id"), what, "Give each step an id of its own.")
        first.setdefault(name, index)


def _unique(data: Mapping[str, Any], path: tuple[str, ...], key: str) -> Iterator[Issue]:
    seen: set[str] = set()
    for index, entry in _entries(data, *path):
        name = entry.get(key)
        if isinstance(name, str):
            if name in seen:
                yield Issue((*path, index, key), f"{name} stands here twice.", f"Give each a {key} of its own.")
            seen.add(name)


def _references(steps: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Issue]:
    """Yield every reference to a step that does not exist, or to the step itself."""
    ids = dict.fromkeys(_ids(steps))
    for index, step in steps:
        for path, name in _referred(index, step):
            if name in ids and name != step.get("id"):
                continue
            others = [other for other in ids if other != step.get("id")]
            what = f"{name} can't refer to itself." if name in ids else f"there is no step {name}."
            yield Issue(path, what, did_you_mean(name, others, "The other steps are"))
        for port, source in _inputs(step):
            if source.count(".") != 1 or source.startswith(".") or source.endswith("."):
                remedy = "Write <step>.<output>, such as data.train."
                yield Issue(_at(index, "inputs", port), f'"{source}" names no output.', remedy)


def _inputs(step: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    inputs = step.get("inputs")
    if isinstance(inputs, Mapping):
        for port, source in inputs.items():
            if isinstance(port, str) and isinstance(source, str):
                yield port, source


def _referred(index: int, step: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for key in ("needs", "candidates"):
        names = step.get(key)
        if isinstance(names, list | tuple):
            for position, name in enumerate(names):
                if isinstance(name, str):
                    yield _at(index, key, position), name
    if step.get("kind") == "tuner" and isinstance(step.get("trainer"), str):
        yield _at(index, "trainer"), step["trainer"]
    for port, source in _inputs(step):
        if source.count(".") == 1:
            yield _at(index, "inputs", port), source.partition(".")[0]


def _outputs(steps: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Issue]:
    for index, step in steps:
        outputs, kind = step.get("outputs"), step.get("kind")
        if not isinstance(outputs, list | tuple):
            continue
        if isinstance(kind, str) and kind not in ("python", "command"):
            yield Issue(_at(index, "outputs"), f"a {kind} has outputs of its own.", "Remove the key.", at="key")
        for position, name in enumerate(outputs):
            if name in outputs[:position]:
                yield Issue(_at(index, "outputs", position), f"{name} stands here twice.", "Remove one of the two.")


def _cycle(steps: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Issue]:
    needs: dict[str, list[str]] = {}
    where: dict[str, int] = {}
    for position, (index, step) in enumerate(steps):
        name = step.get("id")
        if not isinstance(name, str) or name in needs:
            continue
        sources = [source.partition(".")[0] for _, source in _inputs(step)]
        # A step that needs itself is told of as a wrong reference, not as a cycle.
        needs[name] = [need for need in (*default_needs(steps, position), *sources) if need != name]
        where[name] = index
    cycle = find_cycle(needs)
    if cycle:
        step = dict(steps)[where[cycle[0]]]
        key = "needs" if step.get("needs") is not None else "inputs" if step.get("inputs") else "id"
        what = f"the steps wait for each other: {' -> '.join(cycle)}."
        yield Issue(_at(where[cycle[0]], key), what, "Remove one of these needs or inputs.", at="key")


def _labels(data: Mapping[str, Any], steps: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Issue]:
    if not isinstance(data.get("cluster"), Mapping):
        return
    labels = [node["label"] for _, node in _entries(data, "cluster", "nodes") if isinstance(node.get("label"), str)]
    for index, step in steps:
        label = step.get("target_label")
        if isinstance(label, str) and label not in labels:
            what = f"no node of the cluster has the label {label}."
            yield Issue(_at(index, "target_label"), what, did_you_mean(label, labels, "The labels are"))


def _metrics(data: Mapping[str, Any], steps: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Issue]:
    """Yield every metric or loss that the prediction type does not have."""
    given = _get(data, "pipeline", "prediction_type")
    prediction = given if isinstance(given, str) else "classification"
    if prediction not in METRICS:
        return
    named: list[tuple[KeyPath, Any]] = []
    for index, step in steps:
        named += [
            (_at(index, "metric"), step.get("metric")),
            (_at(index, "objective", "metric"), _get(step, "objective", "metric")),
        ]
        metrics, minimum = step.get("metrics"), step.get("minimum")
        if isinstance(metrics, list | tuple):
            named += [(_at(index, "metrics", position), name) for position, name in enumerate(metrics)]
        if isinstance(minimum, Mapping):
            named += [(_at(index, "minimum", name), name) for name in minimum]
        loss = step.get("loss")
        if loss in {*_LOSSES["classification"], *_LOSSES["regression"]} and loss not in _LOSSES[prediction]:
            what = f"{loss} is no loss for {prediction}."
            yield Issue(_at(index, "loss"), what, f"Give {listed(_LOSSES[prediction], 'or')}.")
    require = _get(data, "review", "require")
    if isinstance(require, Mapping):
        named += [(("review", "require", name), name) for name in require]
    others = {name for kind, names in METRICS.items() if kind != prediction for name in names}
    for path, name in named:
        if isinstance(name, str) and name in others:
            what = f"{name} does not measure {prediction}."
            yield Issue(path, what, f"Choose {listed(METRICS[prediction], 'or')}.", at="key")
