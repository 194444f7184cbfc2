"""A blueprint loads, or every problem in it is told at once: where, what, and what to do."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.blueprint.checks import check_meaning
from modelyard.blueprint.digest import blueprint_digest
from modelyard.blueprint.load import load_blueprint, loads_blueprint
from modelyard.blueprint.yaml import read_yaml
from modelyard.errors import BlueprintError, NotFoundError

DIGITS = """\
version: 1
pipeline:
  name: digits
  steps:
    - id: data
      kind: importer
      format: idx
      local_data: {data: images, labels: labels}
    - id: prepare
      kind: transform
      operations:
        - {type: scale, factor: 0.5}
    - id: train
      kind: trainer
      alpha: 0.001
      layers:
        - {type: fully_connected, units: 10}
    - id: evaluate
      kind: evaluator
      minimum: {accuracy: 0.9}
"""


def problems(text: str, **options: Any) -> list[str]:
    """Return every problem of a text as a user reads it, or an empty list."""
    try:
        loads_blueprint(text, "blueprint.yaml", **options)
    except BlueprintError as error:
        return [str(problem) for problem in error.problems]
    return []


def edited(old: str, new: str) -> list[str]:
    assert old in DIGITS
    return problems(DIGITS.replace(old, new))


def with_steps(text: str, top: str = "") -> str:
    indented = "\n".join(f"    {line}" if line else "" for line in text.strip("\n").split("\n"))
    return f"version: 1\npipeline:\n  name: sample\n  steps:\n{indented}\n{top}"


def test_a_good_blueprint_has_no_problem_and_its_defaults() -> None:
    blueprint = loads_blueprint(DIGITS)
    assert blueprint.model_name == "digits"
    assert [environment.name for environment in blueprint.environments] == ["dev", "staging", "production"]


def test_a_misspelt_key_is_told_with_place_path_and_nearest_key() -> None:
    assert edited("alpha: 0.001", "alhpa: 0.001") == [
        "blueprint.yaml:15:7: pipeline.steps[2].alhpa: unknown key. Did you mean alpha?"
    ]


def test_a_key_like_no_other_is_told_with_all_keys() -> None:
    (problem,) = edited("name: digits", "name: digits\n  zzz: 1")
    assert problem == (
        "blueprint.yaml:4:3: pipeline.zzz: unknown key. "
        "The keys here are name, prediction_type, repeat_time, customer_id, description and steps."
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("alpha: 0.001", "alpha: fast", '15:14: pipeline.steps[2].alpha: must be a number, not "fast".'),
        (
            "alpha: 0.001",
            "alpha: '0.1'",
            '15:14: pipeline.steps[2].alpha: must be a number, not "0.1". Remove the quotes.',
        ),
        ("alpha: 0.001", "alpha: -1", "15:14: pipeline.steps[2].alpha: must be greater than 0, not -1."),
        ("alpha: 0.001", "epochs: 1.5", "15:15: pipeline.steps[2].epochs: must be a whole number, not 1.5."),
        ("alpha: 0.001", "epochs: 0", "15:15: pipeline.steps[2].epochs: must be at least 1, not 0."),
        ("alpha: 0.001", "validation: 1", "15:19: pipeline.steps[2].validation: must be less than 1, not 1."),
        ("alpha: 0.001", "cache: 1", "15:14: pipeline.steps[2].cache: must be true or false, not 1."),
        ("alpha: 0.001", "retries: 101", "15:16: pipeline.steps[2].retries: must be at most 100, not 101."),
        (
            "alpha: 0.001",
            "optimizer: adm",
            "15:18: pipeline.steps[2].optimizer: must be one of adam, adamw, sgd, adadelta or rmsprop, "
            'not "adm". Did you mean adam?',
        ),
        (
            "alpha: 0.001",
            "memory: 2GB",
            "15:15: pipeline.steps[2].memory: must be a whole number and Mi or Gi, such as 512Mi or 2Gi, not \"2GB\".",
        ),
        (
            "id: train",
            "id: Train",
            "13:11: pipeline.steps[2].id: must be a lower-case letter, then lower-case letters, digits, - and _, "
            'not "Train".',
        ),
        ("id: train", "id: 5", "13:11: pipeline.steps[2].id: must be a text, not 5. Put it in quotes."),
        ("version: 1", "version: 2", "1:10: version: must be 1, not 2."),
        (
            "kind: trainer",
            "kind: trainr",
            "14:13: pipeline.steps[2].kind: trainr is no kind of step. Did you mean trainer?",
        ),
        (
            "units: 10}",
            "}",
            "17:11: pipeline.steps[2].layers[0]: a layer of type fully_connected needs units.",
        ),
        (
            "minimum: {accuracy: 0.9}",
            "minimum: {acuracy: 0.9}",
            "20:17: pipeline.steps[3].minimum.acuracy: must be one of accuracy, f1_macro, log_loss, "
            'mean_relative_error, mae, rmse or r2, not "acuracy". Did you mean accuracy?',
        ),
        (
            "{data: images, labels: labels}",
            "{data: images, lables: labels}",
            "8:34: pipeline.steps[0].local_data.lables: unknown key. Did you mean labels?",
        ),
        (
            "{data: images, labels: labels}",
            "5",
            "8:19: pipeline.steps[0].local_data: must be a mapping of keys to values or a text, not 5.",
        ),
        (
            "{data: images, labels: labels}",
            "{data: images, checksum: abc}",
            "8:44: pipeline.steps[0].local_data.checksum: must be sha256: or blake3: and 64 lower-case hexadecimal "
            'digits, not "abc".',
        ),
        ("    - {type: fully_connected, units: 10}", "    - 7", "17:11: pipeline.steps[2].layers[0]: must be a "
         "mapping of keys to values, not 7."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_place_and_what_is_allowed(old: str, new: str, expected: str) -> None:
    assert edited(old, new) == [f"blueprint.yaml:{expected}"]


def test_a_missing_key_is_told_where_its_mapping_starts() -> None:
    assert edited("kind: importer\n      format: idx", "kind: importer") == [
        "blueprint.yaml:5:7: pipeline.steps[0].format: is missing. "
        "Give one of idx, npz, csv, parquet, jsonl or image_folder."
    ]
    assert edited("      kind: trainer\n", "")[0].startswith(
        "blueprint.yaml:13:7: pipeline.steps[2].kind: is missing. Give one of importer,"
    )


def test_a_missing_pipeline_and_an_empty_list_of_steps_are_told() -> None:
    assert problems("version: 1\n") == ["blueprint.yaml:1:1: pipeline: is missing. What is trained, and how. Add it."]
    assert problems("version: 1\npipeline: {name: a, steps: []}\n") == [
        "blueprint.yaml:2:28: pipeline.steps: needs at least 1 entry. Add one."
    ]


@pytest.mark.parametrize(("text", "shown"), [("- 1\n", "a list"), ("hello\n", '"hello"'), ("null\n", "nothing")])
def test_a_file_that_is_no_mapping_is_told(text: str, shown: str) -> None:
    assert problems(text) == [f"blueprint.yaml:1:1: must be a mapping of keys to values, not {shown}."]


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = (
        DIGITS.replace("version: 1", "version: 1\nmodle: x")
        .replace("format: idx", "format: idxx")
        .replace("alpha: 0.001", "alhpa: 1\n      alpha: x\n      needs: [prepere]")
        .replace("{accuracy: 0.9}", "{rmse: 0.9}\n      metric: [1]")
    )
    found = problems(text + "service: {limits: {rows: 0}}\nservice: {}\n")
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines)
    assert len(found) == 9
    assert [problem.split(": ")[1] for problem in found] == [
        "modle",
        "pipeline.steps[0].format",
        "pipeline.steps[2].alhpa",
        "pipeline.steps[2].alpha",
        "pipeline.steps[2].needs[0]",
        "pipeline.steps[3].minimum.rmse",
        "pipeline.steps[3].metric",
        "service.limits.rows",
        "service",
    ]


@pytest.mark.parametrize(
    "kind", ["importer", "transform", "trainer", "tuner", "evaluator", "selector", "python", "command"]
)
def test_no_path_contains_a_word_that_is_not_in_the_file(kind: str) -> None:
    text = with_steps(f"- id: a\n  kind: {kind}\n  wrong: 1\n  retries: x\n  {kind}: 1\n  parameters: [1]\n  inputs: 3")
    keys = [problem.split(": ")[1] for problem in problems(text)]
    assert keys
    allowed = {"", ".wrong", ".retries", f".{kind}", ".parameters", ".inputs"}
    for key in keys:
        assert key.startswith("pipeline.steps[0]")
        rest = key.removeprefix("pipeline.steps[0]")
        assert rest in allowed or "is missing" in "".join(p for p in problems(text) if key in p)


def test_members_of_a_union_are_told_once() -> None:
    found = problems(with_steps("- id: a\n  kind: command\n  run: ls\n  parameters: {x: [1]}"))
    assert found == [
        "blueprint.yaml:8:23: pipeline.steps[0].parameters.x: must be a text, a number or true or false, not a list."
    ]


def test_whole_numbers_are_fine_where_numbers_are_asked_for() -> None:
    assert edited("alpha: 0.001", "alpha: 1") == []


# What no schema says


def test_two_steps_of_one_id_are_told() -> None:
    assert edited("id: prepare", "id: data") == [
        "blueprint.yaml:9:11: pipeline.steps[1].id: data is also the id of pipeline.steps[0]. "
        "Give each step an id of its own."
    ]


def test_an_unknown_step_is_told_with_the_nearest() -> None:
    assert edited("kind: trainer", "kind: trainer\n      needs: [prepar]") == [
        "blueprint.yaml:15:15: pipeline.steps[2].needs[0]: there is no step prepar. Did you mean prepare?"
    ]
    assert edited("kind: trainer", "kind: trainer\n      inputs: {train: dat.train}") == [
        "blueprint.yaml:15:23: pipeline.steps[2].inputs.train: there is no step dat. Did you mean data?"
    ]


def test_an_unknown_output_is_told_with_the_nearest() -> None:
    assert edited("kind: trainer", "kind: trainer\n      inputs: {train: prepare.trian}") == [
        "blueprint.yaml:15:23: pipeline.steps[2].inputs.train: the step prepare has no output trian. "
        "Did you mean train?"
    ]


def test_an_input_that_names_no_output_is_told() -> None:
    (problem,) = edited("kind: trainer", "kind: trainer\n      inputs: {train: prepare}")
    assert 'inputs.train: "prepare" names no output. Write <step>.<output>' in problem


def test_an_input_that_the_kind_does_not_have_is_told() -> None:
    assert edited("kind: trainer", "kind: trainer\n      inputs: {trian: prepare.train}") == [
        "blueprint.yaml:15:16: pipeline.steps[2].inputs.trian: a trainer has no input trian. Did you mean train?"
    ]


def test_an_input_of_another_type_is_told() -> None:
    assert edited("kind: trainer", "kind: trainer\n      inputs: {train: prepare.transform}") == [
        "blueprint.yaml:15:23: pipeline.steps[2].inputs.train: prepare.transform is of type transform, "
        "and train takes dataset. Name an output of that type."
    ]


def test_an_input_that_no_step_fills_says_what_there_is() -> None:
    found = problems(with_steps("- {id: a, kind: command, run: ls, outputs: [x]}\n- {id: b, kind: evaluator}"))
    assert found == [
        "blueprint.yaml:6:7: pipeline.steps[1]: no step above b gives its input model of type model. "
        "The outputs above are a.x (folder). Name one in inputs, or say in needs which step comes first.",
        "blueprint.yaml:6:7: pipeline.steps[1]: no step above b gives its input test of type dataset. "
        "The outputs above are a.x (folder). Name one in inputs, or say in needs which step comes first.",
    ]


def test_a_cycle_is_shown() -> None:
    text = with_steps(
        "- {id: x, kind: command, run: ls}\n"
        "- {id: a, kind: command, run: ls, needs: [x, c]}\n"
        "- {id: b, kind: command, run: ls}\n"
        "- {id: c, kind: command, run: ls}\n"
    )
    assert problems(text) == [
        "blueprint.yaml:6:39: pipeline.steps[1].needs: the steps wait for each other: a -> c -> b -> a. "
        "Remove one of these needs or inputs."
    ]


def test_a_step_that_needs_itself_is_told() -> None:
    (problem,) = edited("kind: trainer", "kind: trainer\n      needs: [train]")
    assert "pipeline.steps[2].needs[0]: train can't refer to itself." in problem


def test_two_environments_and_two_nodes_of_one_name_are_told() -> None:
    found = problems(DIGITS + "environments: [{name: dev}, {name: dev}]\n")
    assert found == ["blueprint.yaml:21:36: environments[1].name: dev stands here twice. Give each a name of its own."]
    found = problems(DIGITS + "cluster: {nodes: [{label: a}, {label: a}]}\n")
    assert found == ["blueprint.yaml:21:39: cluster.nodes[1].label: a stands here twice. Give each a label of its own."]


def test_a_label_that_no_node_has_is_told_where_there_is_a_cluster() -> None:
    labelled = DIGITS.replace("kind: trainer", "kind: trainer\n      target_label: gpus")
    assert problems(labelled) == []
    assert problems(labelled + "cluster: {nodes: [{label: gpu}]}\n") == [
        "blueprint.yaml:15:21: pipeline.steps[2].target_label: no node of the cluster has the label gpus. "
        "Did you mean gpu?"
    ]


def test_a_metric_of_the_other_prediction_type_is_told() -> None:
    found = problems(DIGITS.replace("  name: digits", "  name: digits\n  prediction_type: regression"))
    assert found == [
        "blueprint.yaml:21:17: pipeline.steps[3].minimum.accuracy: accuracy does not measure regression. "
        "Choose mean_relative_error, mae, rmse or r2."
    ]
    found = problems(DIGITS + "review: {require: {r2: 0.5}}\n")
    assert found == [
        "blueprint.yaml:21:20: review.require.r2: r2 does not measure classification. "
        "Choose accuracy, f1_macro or log_loss."
    ]


def test_a_loss_of_the_other_prediction_type_is_told() -> None:
    assert edited("alpha: 0.001", "loss: mse") == [
        "blueprint.yaml:15:13: pipeline.steps[2].loss: mse is no loss for classification. Give cross_entropy."
    ]


def test_outputs_belong_to_python_and_command_steps() -> None:
    (problem,) = edited("kind: trainer", "kind: trainer\n      outputs: [x]")
    assert "pipeline.steps[2].outputs: a trainer has outputs of its own. Remove the key." in problem
    (problem,) = problems(with_steps("- {id: a, kind: command, run: ls, outputs: [x, x]}"))
    assert "pipeline.steps[0].outputs[1]: x stands here twice." in problem


PIECES = (
    *("- ", ": ", "{", "}", "[", "]", "~", "5", "1e400", "'", "&a ", "*a", "<<: ", "? ", "!!int ", "# ", "\t", "\n"),
    *('"\\ud800"', '"\\0"', "\n    ", "é", "null", "true", "kind", "needs", "steps", "id: ", "train", "data.train"),
)


@given(
    st.lists(
        st.tuples(st.integers(0, len(DIGITS)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4
    )
)
@settings(max_examples=150, deadline=None)
def test_any_edit_of_a_blueprint_loads_or_is_told_with_its_line(edits: list[tuple[int, int, str]]) -> None:
    text = DIGITS
    for place, removed, added in edits:
        text = text[:place] + added + text[place + removed :]
    for problem in problems(text):
        assert re.match(r"blueprint\.yaml(:\d+(:\d+)?)?: ", problem)


def test_a_thousand_steps_are_checked_in_a_blink() -> None:
    many = "\n".join(f"- {{id: s{index}, kind: command, run: ls, needs: [s0]}}" for index in range(1, 1000))
    data = read_yaml(with_steps(f"- {{id: s0, kind: command, run: ls}}\n{many}"), "f").data
    started = time.perf_counter()
    assert check_meaning(data) == []
    assert time.perf_counter() - started < 1


# Overrides


def test_an_override_changes_one_value_and_the_digest() -> None:
    plain = loads_blueprint(DIGITS)
    changed = loads_blueprint(DIGITS, overrides={"train.alpha": 0.01, "service.limits.rows": 5})
    # The third step is of the kind that has it.
    assert changed.pipeline.steps[2].alpha == 0.01  # type: ignore[union-attr]
    assert changed.service.limits.rows == 5
    assert blueprint_digest(changed) != blueprint_digest(plain)


def test_an_override_of_the_same_value_leaves_the_digest() -> None:
    same = loads_blueprint(DIGITS, overrides={"train.alpha": 0.001, "train.epochs": 10})
    assert blueprint_digest(same) == blueprint_digest(loads_blueprint(DIGITS))


@pytest.mark.parametrize("name", ["train.layers[0].units", "train.layers.0.units", "pipeline.steps[2].layers[0].units"])
def test_an_override_reaches_into_lists(name: str) -> None:
    changed = loads_blueprint(DIGITS, overrides={name: 12})
    # The third step is of the kind that has it.
    assert changed.pipeline.steps[2].layers[0].units == 12  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"train.alhpa": 1}, "override train.alhpa: unknown key. Did you mean alpha?"),
        ({"trian.alpha": 1}, "override trian.alpha: there is no step trian. Did you mean train?"),
        ({"train.alpha": "x"}, 'override train.alpha: must be a number, not "x".'),
        ({"alpha": 1}, "override alpha: names no value. Write <step id>.<key>, such as train.alpha."),
        (
            {"train.layers[5].units": 1},
            "override train.layers[5].units: pipeline.steps[2].layers has no entry 5. Count from 0.",
        ),
        (
            {"train.alpha.x": 1},
            "override train.alpha.x: pipeline.steps[2].alpha has no keys of its own in this blueprint.",
        ),
        (
            {"train.alpha": float("nan")},
            "override train.alpha: nan is no JSON value. Give a text, number, true, false, null or list.",
        ),
        (
            {"train.layers[0]": {"type": "fully_connected", "unit": 1, "units": 10}},
            "override train.layers[0]: unit: unknown key. Did you mean units?",
        ),
        ({"train.needs": ["prepar"]}, "override train.needs: [0]: there is no step prepar. Did you mean prepare?"),
        ({"service.limit.rows": 5}, "override service.limit.rows: unknown key. Did you mean limits?"),
    ],
)
def test_a_wrong_override_is_named_and_no_line(overrides: dict[str, Any], expected: str) -> None:
    assert problems(DIGITS, overrides=overrides) == [expected]


def test_an_override_does_not_hide_problems_of_the_file() -> None:
    found = problems(DIGITS.replace("alpha: 0.001", "batch: 0"), overrides={"train.epochs": 0})
    assert found == [
        "blueprint.yaml:15:14: pipeline.steps[2].batch: must be at least 1, not 0.",
        "override train.epochs: must be at least 1, not 0.",
    ]


# Files


def test_a_missing_file_names_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "blueprint.yaml").write_text(DIGITS)
    with pytest.raises(NotFoundError) as caught:
        load_blueprint(tmp_path / "blueprnt.yaml")
    assert "blueprint.yaml" in (caught.value.remedy or "")


def test_a_missing_file_in_an_empty_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="modelyard init"):
        load_blueprint(tmp_path / "blueprint.yaml")


def test_a_folder_is_no_blueprint(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="folder"):
        load_blueprint(tmp_path)


def test_problems_name_the_file_as_the_user_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(DIGITS.replace("alpha", "alhpa"))
    with pytest.raises(BlueprintError) as caught:
        load_blueprint(Path("b.yaml"))
    assert str(caught.value).startswith("b.yaml:15:7: ")


def test_python_functions_are_looked_up_where_the_project_is_known(tmp_path: Path) -> None:
    text = with_steps("- {id: a, kind: python, function: 'features:make'}")
    (tmp_path / "b.yaml").write_text(text)
    load_blueprint(tmp_path / "b.yaml")
    with pytest.raises(BlueprintError) as caught:
        load_blueprint(tmp_path / "b.yaml", project=tmp_path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (5, "pipeline.steps[0].function")
    (tmp_path / "features.py").write_text("def make(): ...\n")
    load_blueprint(tmp_path / "b.yaml", project=tmp_path)
