"""A fingerprint changes with whatever a result depends on, and says which part it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from modelyard.blueprint.code import CodeReader, Reach
from modelyard.blueprint.fingerprint import explain, fingerprint
from modelyard.blueprint.load import loads_blueprint
from modelyard.blueprint.plan import Placement, Task, plan
from modelyard.records import Fingerprint

TASK = Task("train", "trainer", "steps.mine:train", {"alpha": 0.1, "seed": 0}, {}, {"model": "model"}, (), {})
REACH = Reach({"steps.mine": "a" * 64}, {"numpy": "2.1"})
INPUTS = {"train": "b" * 64, "file:model/old": "c" * 64}
START = fingerprint(TASK, reach=REACH, inputs=INPUTS)


def changed(**fields: object) -> Fingerprint:
    # `fields` is what the test says.
    return fingerprint(dataclasses.replace(TASK, **fields), reach=REACH, inputs=INPUTS)  # type: ignore[arg-type]


def test_equal_parts_give_equal_digests_whatever_their_order() -> None:
    task = dataclasses.replace(TASK, parameters={"seed": 0, "alpha": 0.1})
    again = fingerprint(task, reach=REACH, inputs=dict(reversed(INPUTS.items())))
    assert again.digest == START.digest
    assert explain(START, again) == []


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (changed(call="steps.mine:fit"), "The step calls steps.mine:fit, before steps.mine:train."),
        (changed(parameters={"alpha": 0.01, "seed": 0}), "Parameter alpha changed from 0.1 to 0.01."),
        (changed(parameters={"alpha": 0.1, "seed": 0, "x": [1]}), "Parameter x is new: [1]."),
        (changed(parameters={"seed": 0}), "Parameter alpha is gone; it was 0.1."),
        (changed(seed=5), "Parameter seed is new: 5."),
        (fingerprint(TASK, reach=Reach({"steps.mine": "d" * 64}, {"numpy": "2.1"}), inputs=INPUTS),
         "The code of steps.mine changed."),
        (fingerprint(TASK, reach=Reach({**REACH.code, "helper": "d" * 64}, {"numpy": "2.1"}), inputs=INPUTS),
         "helper is now reached."),
        (fingerprint(TASK, reach=Reach({}, {"numpy": "2.1"}), inputs=INPUTS), "steps.mine is not reached any more."),
        (fingerprint(TASK, reach=Reach(REACH.code, {"numpy": "2.2"}), inputs=INPUTS),
         "numpy changed from 2.1 to 2.2."),
        (fingerprint(TASK, reach=Reach(REACH.code, {"numpy": "2.1", "scipy": "1.0"}), inputs=INPUTS),
         "The code now imports scipy 1.0."),
        (fingerprint(TASK, reach=Reach(REACH.code, {}), inputs=INPUTS), "The code does not import numpy any more."),
        (fingerprint(TASK, reach=REACH, inputs={**INPUTS, "train": "e" * 64}), "The input train changed."),
        (fingerprint(TASK, reach=REACH, inputs={**INPUTS, "file:model/old": "e" * 64}),
         "The file model/old changed."),
        (fingerprint(TASK, reach=REACH, inputs={**INPUTS, "transform": "e" * 64}), "The input transform is new."),
    ],
)  # fmt: skip
def test_each_part_changes_the_digest_and_is_named(new: Fingerprint, sentence: str) -> None:
    assert new.digest != START.digest
    assert explain(START, new) == [sentence]


def test_the_innermost_change_of_nested_parameters_is_named() -> None:
    old = changed(parameters={"layers": [{"units": 8, "type": "x"}, {"units": 10, "type": "x"}]})
    new = changed(parameters={"layers": [{"units": 16, "type": "x"}, {"units": 10, "type": "x"}]})
    assert explain(old, new) == ["Parameter layers[0].units changed from 8 to 16."]


@pytest.mark.parametrize(
    "fields",
    [
        {"placement": Placement("gpu", 2.0, "1Gi")},
        {"retries": 3},
        {"timeout": 9.0},
        {"cache": False},
        {"estimated_time": 4.0},
        {"needs": ("other",)},
        {"id": "fit"},
    ],
)
def test_where_and_how_often_a_task_runs_does_not_count(fields: dict[str, object]) -> None:
    assert changed(**fields).digest == START.digest


def test_output_names_of_own_functions_count() -> None:
    one = dataclasses.replace(TASK, kind="python", types={"a": "any"})
    two = dataclasses.replace(TASK, kind="python", types={"b": "any"})
    first, second = (fingerprint(task, reach=REACH, inputs={}) for task in (one, two))
    assert explain(first, second) == ['Parameter outputs[0] changed from "a" to "b".']


def test_a_first_run_is_told() -> None:
    assert explain(None, START) == ["This step has not run before."]


def test_a_fingerprint_survives_json() -> None:
    again = msgspec.json.decode(msgspec.json.encode(START), type=Fingerprint)
    assert again == START


def test_a_helpers_change_changes_the_steps_that_import_it_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("FACTOR = 2\n")
    (tmp_path / "one.py").write_text("import helper\ndef f(): return helper.FACTOR\n")
    (tmp_path / "two.py").write_text("def f(): return 1\n")
    blueprint = loads_blueprint(
        "pipeline:\n  name: p\n  steps:\n"
        "    - {id: one, kind: python, function: 'one:f'}\n    - {id: two, kind: python, function: 'two:f'}\n"
    )
    reader = CodeReader(tmp_path)

    def prints() -> dict[str, Fingerprint]:
        tasks = plan(blueprint, tmp_path).tasks
        return {task.id: fingerprint(task, reach=reader.reach_task(task), inputs={}) for task in tasks}

    before = prints()
    (tmp_path / "helper.py").write_text("FACTOR = 3\n")
    after = prints()
    assert explain(before["one"], after["one"]) == ["The code of helper changed."]
    assert after["two"] == before["two"]
    (tmp_path / "helper.py").write_text('"""Text."""\nFACTOR = 3  # three\n')
    assert prints() == after
