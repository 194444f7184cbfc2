"""A blueprint becomes tasks in an order that can run, each input filled from the nearest fitting output above."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.blueprint.digest import blueprint_digest
from modelyard.blueprint.graph import find_cycle, in_order
from modelyard.blueprint.load import loads_blueprint
from modelyard.blueprint.model import Blueprint
from modelyard.blueprint.plan import Placement, Plan, Source, plan
from modelyard.errors import BlueprintError

TRAINER = "- {id: train, kind: trainer, layers: [{type: fully_connected, units: 2}]}"
DATA = "- {id: data, kind: importer, format: csv, local_data: a.csv, target: y, split: {seed: 3}}"
SCALE = "operations: [{type: scale, factor: 0.5}]"


def steps(*lines: str, top: str = "", prediction: str = "classification") -> Blueprint:
    body = "\n".join(f"    {line}" for text in lines for line in text.split("\n"))
    head = f"version: 1\npipeline:\n  name: sample\n  prediction_type: {prediction}\n  steps:\n"
    return loads_blueprint(f"{head}{body}\n{top}")


def refused(blueprint: Blueprint, project: Path | None = None) -> list[str]:
    with pytest.raises(BlueprintError) as caught:
        plan(blueprint, project)
    return [str(problem) for problem in caught.value.problems]


def test_a_chain_is_wired_from_step_to_step() -> None:
    made = plan(steps(DATA, f"- {{id: prepare, kind: transform, {SCALE}}}", TRAINER, "- {id: check, kind: evaluator}"))
    assert [task.id for task in made.tasks] == ["data", "prepare", "train", "check"]
    assert made["prepare"].inputs == {"train": Source("data", "train"), "test": Source("data", "test")}
    assert made["train"].inputs == {"train": Source("prepare", "train"), "transform": Source("prepare", "transform")}
    assert made["check"].inputs == {
        "model": Source("train", "model"),
        "test": Source("prepare", "test"),
        "history": Source("train", "history"),
    }
    assert made["check"].needs == ("train", "prepare")
    assert made["train"].types == {"model": "model", "history": "history"}
    assert made["train"].outputs == ("model", "history")


def test_an_optional_input_that_nobody_gives_stays_empty() -> None:
    assert plan(steps(DATA, TRAINER))["train"].inputs == {"train": Source("data", "train")}


def test_the_nearest_output_above_counts_and_not_the_last_in_the_file() -> None:
    made = plan(
        steps(
            DATA,
            f"- {{id: a, kind: transform, {SCALE}}}",
            f"- {{id: b, kind: transform, needs: [data], {SCALE}}}",
            "- {id: train, kind: trainer, needs: [a], layers: [{type: fully_connected, units: 2}]}",
        )
    )
    assert made["b"].inputs["train"] == Source("data", "train")
    assert made["train"].inputs["train"] == Source("a", "train")


def test_of_two_equally_near_the_later_in_the_file_counts() -> None:
    made = plan(
        steps(
            DATA,
            f"- {{id: a, kind: transform, needs: [data], {SCALE}}}",
            f"- {{id: b, kind: transform, needs: [data], {SCALE}}}",
            "- {id: train, kind: trainer, needs: [b, a], layers: [{type: fully_connected, units: 2}]}",
        )
    )
    assert made["train"].inputs["train"] == Source("b", "train")


def test_an_input_given_by_name_is_taken_and_needed() -> None:
    made = plan(
        steps(
            DATA,
            f"- {{id: a, kind: transform, {SCALE}}}",
            f"- {{id: b, kind: transform, needs: [data], {SCALE}}}",
            "- {id: train, kind: trainer, inputs: {train: a.train}, layers: [{type: fully_connected, units: 2}]}",
        )
    )
    assert made["train"].inputs["train"] == Source("a", "train")
    assert set(made["train"].needs) == {"a", "b"}


def test_a_step_may_stand_before_what_it_needs() -> None:
    made = plan(
        steps(
            "- {id: train, kind: trainer, needs: [data], layers: [{type: fully_connected, units: 2}]}",
            "- {id: data, kind: importer, format: csv, local_data: a.csv, needs: []}",
        )
    )
    assert [task.id for task in made.tasks] == ["data", "train"]


def test_empty_needs_start_a_branch_of_its_own() -> None:
    made = plan(steps("- {id: a, kind: command, run: ls}", "- {id: b, kind: command, run: ls, needs: []}"))
    assert made["b"].needs == ()


def test_parameters_are_the_steps_own_fields_with_defaults() -> None:
    made = plan(steps(DATA, TRAINER, "- {id: check, kind: evaluator}"))
    parameters = made["train"].parameters
    assert parameters["alpha"] == 0.001
    assert parameters["layers"][0]["units"] == 2
    assert parameters["prediction_type"] == "classification"
    assert made["check"].parameters == {
        "metric": None, "metrics": [], "minimum": {}, "allow_pickle": None, "prediction_type": "classification",
    }  # fmt: skip
    for task in made.tasks:
        assert not set(task.parameters) & {"id", "kind", "needs", "inputs", "outputs", "retries", "cores", "cache"}


def test_shared_fields_become_placement_and_policy() -> None:
    (task,) = plan(
        steps(
            "- {id: a, kind: command, run: ls, target_label: gpu, cores: 2, memory: 2Gi, retries: 3, retry_delay: 5, "
            "timeout: 9, cache: false, estimated_time: 4}"
        )
    ).tasks
    assert task.placement == Placement("gpu", 2.0, "2Gi")
    assert (task.retries, task.retry_delay, task.timeout, task.cache, task.estimated_time) == (3, 5.0, 9.0, False, 4.0)


def test_calls_name_what_executes_each_kind() -> None:
    sklearn = "- {id: forest, kind: trainer, implementation: sklearn, estimator: sklearn.svm.SVC, needs: [data]}"
    made = plan(steps(DATA, TRAINER, sklearn, "- {id: shell, kind: command, run: ls}"))
    assert {task.id: task.call for task in made.tasks} == {
        "data": "modelyard.steps.importer:import_data",
        "train": "modelyard.steps.torch_trainer:train",
        "forest": "modelyard.steps.sklearn_trainer:train",
        "shell": "modelyard.steps.command:run_command",
    }


def test_files_are_what_a_step_reads_from_outside_with_their_checksums() -> None:
    checksum = "sha256:" + "0" * 64
    made = plan(
        steps(
            f"- {{id: data, kind: importer, format: idx, local_data: {{data: i, labels: l, checksum: '{checksum}'}}, "
            "test_data: t}",
            "- {id: train, kind: trainer, model_path: models/old}",
            "- {id: shell, kind: command, run: ls, files: [x.py]}",
        )
    )
    assert made["data"].files == {"i": checksum, "l": None, "t": None}
    assert made["train"].files == {"models/old": None}
    assert made["shell"].files == {"x.py": None}


def test_seeds_come_from_trainer_split_and_parameters(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f(seed): ...\n")
    made = plan(
        steps(
            DATA,
            "- {id: train, kind: trainer, seed: 7, layers: [{type: fully_connected, units: 2}]}",
            "- {id: own, kind: python, function: 'own:f', parameters: {seed: 9}}",
        ),
        tmp_path,
    )
    assert [task.seed for task in made.tasks] == [3, 7, 9]


def test_the_plan_carries_the_blueprints_digest() -> None:
    blueprint = steps(DATA)
    made = plan(blueprint)
    assert made.digest == blueprint_digest(blueprint)
    assert len(made.digest) == 64
    with pytest.raises(KeyError):
        made["nothing"]


@pytest.mark.parametrize(
    "step",
    [
        "- {id: tune, kind: tuner, trainer: train, space: {alpha: [1]}, "
        "objective: {metric: accuracy, direction: maximize}}",
        "- {id: choose, kind: selector, metric: accuracy, candidates: [train]}",
    ],
)
def test_a_kind_of_later_versions_loads_and_can_not_be_planned(step: str) -> None:
    (problem,) = refused(steps(DATA, TRAINER, step))
    assert "can't be run by this version" in problem
    assert "pipeline.steps[2].kind" in problem


def test_a_blueprint_made_in_python_is_checked_too() -> None:
    good = steps("- {id: a, kind: command, run: ls}", "- {id: b, kind: command, run: ls}")
    first, second = good.pipeline.steps
    waiting = (first.model_copy(update={"needs": ("b",)}), second)
    cyclic = good.model_copy(update={"pipeline": good.pipeline.model_copy(update={"steps": waiting})})
    assert "a -> b -> a" in refused(cyclic)[0]


# Python steps


def own(tmp_path: Path, source: str, *lines: str) -> Plan:
    (tmp_path / "own.py").write_text(source)
    return plan(steps(*lines), tmp_path)


def test_a_function_is_given_what_its_parameters_name(tmp_path: Path) -> None:
    made = own(
        tmp_path,
        "raise RuntimeError\ndef f(context, *, train, ratio, other=None, test=None): ...\n",
        DATA,
        "- {id: own, kind: python, function: 'own:f', parameters: {ratio: 2}, outputs: [train, extra]}",
    )
    assert made["own"].inputs == {"train": Source("data", "train"), "test": Source("data", "test")}
    assert made["own"].types == {"train": "any", "extra": "any"}
    assert made["own"].parameters == {"ratio": 2}


def test_a_function_without_outputs_gives_result(tmp_path: Path) -> None:
    made = own(tmp_path, "def f(): ...\n", "- {id: own, kind: python, function: 'own:f'}")
    assert made["own"].types == {"result": "any"}


@pytest.mark.parametrize("hint", ["None", "'None'"])
def test_a_function_that_promises_nothing_has_no_outputs(tmp_path: Path, hint: str) -> None:
    made = own(tmp_path, f"def f() -> {hint}: ...\n", "- {id: own, kind: python, function: 'own:f'}")
    assert made["own"].types == {}


def test_a_promised_dataset_fits_no_model_port(tmp_path: Path) -> None:
    source = "from modelyard.data import Dataset\ndef f() -> Dataset: ...\n"
    step = "- {id: own, kind: python, function: 'own:f', outputs: [train]}"
    assert own(tmp_path, source, step, TRAINER)["train"].inputs == {"train": Source("own", "train")}
    with pytest.raises(BlueprintError, match=r"own\.train is of type dataset, and model takes model"):
        own(tmp_path, source, step, "- {id: check, kind: evaluator, inputs: {model: own.train, test: own.train}}")


@pytest.mark.parametrize("hint", ["Dataset", "modelyard.data.Dataset", "'Dataset'"])
def test_a_hint_that_does_not_fit_the_output_is_told(tmp_path: Path, hint: str) -> None:
    source = f"def f(model: {hint}): ...\n"
    with pytest.raises(BlueprintError, match=r"train\.model is of type model, and model takes dataset"):
        own(
            tmp_path,
            source,
            DATA,
            TRAINER,
            "- {id: own, kind: python, function: 'own:f', inputs: {model: train.model}}",
        )


def test_a_parameter_that_nothing_fills_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BlueprintError) as caught:
        own(tmp_path, "def f(trian): ...\n", DATA, "- {id: own, kind: python, function: 'own:f'}")
    assert "gives its input trian" in str(caught.value)
    assert "data.test (dataset) and data.train (dataset)" in str(caught.value)
    assert "give a value in parameters" in str(caught.value)


def test_a_name_that_the_function_does_not_take_is_told(tmp_path: Path) -> None:
    with pytest.raises(BlueprintError) as caught:
        own(
            tmp_path,
            "def f(ratio=1): ...\n",
            DATA,
            "- {id: own, kind: python, function: 'own:f', parameters: {raito: 2}}",
        )
    assert "pipeline.steps[1].parameters.raito: the function own:f has no parameter raito. Did you mean ratio?" in str(
        caught.value
    )
    open_ended = "def f(**anything): ...\n"
    step = "- {id: own, kind: python, function: 'own:f', parameters: {raito: 2}, inputs: {x: data.train}}"
    assert own(tmp_path, open_ended, DATA, step)["own"].inputs == {"x": Source("data", "train")}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def g(): ...\n", "the module own has no function f"),
        ("async def f(): ...\n", "the function f is async"),
        ("def f(:\n", "can't be read: .* in line 1"),
    ],
)
def test_a_function_that_can_not_be_called_is_told(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(BlueprintError, match=message):
        own(tmp_path, source, "- {id: own, kind: python, function: 'own:f'}")


def test_a_module_that_does_not_exist_is_told(tmp_path: Path) -> None:
    assert "there is no module nowhere" in refused(steps("- {id: a, kind: python, function: 'nowhere:f'}"), tmp_path)[0]


@pytest.mark.parametrize(
    "source", ["from elsewhere import f\n", "from elsewhere import *\n", "f = make()\n", "if x:\n    def f(): ...\n"]
)
def test_a_function_made_elsewhere_is_taken_as_it_is_wired(tmp_path: Path, source: str) -> None:
    made = own(tmp_path, source, DATA, "- {id: own, kind: python, function: 'own:f', inputs: {x: data.train}}")
    assert made["own"].inputs == {"x": Source("data", "train")}


def test_functions_are_found_in_packages_and_installed_libraries(tmp_path: Path) -> None:
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    (tmp_path / "pack" / "inner" / "deep.py").write_text("def f(train): ...\n")
    made = plan(
        steps(
            DATA,
            "- {id: a, kind: python, function: 'pack.inner.deep:f'}",
            "- {id: b, kind: python, function: 'math:sqrt'}",
        ),
        tmp_path,
    )
    assert made["a"].inputs == {"train": Source("data", "train")}


# Graphs


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    count = draw(st.integers(1, 12))
    names = [f"s{index}" for index in range(count)]
    needs: dict[str, list[str]] = {}
    for index, name in enumerate(names):
        earlier = names[:index]
        needs[name] = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
    return {name: needs[name] for name in draw(st.permutations(names))}


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_every_task_follows_all_it_needs(needs: dict[str, list[str]]) -> None:
    lines = [f"- {{id: {name}, kind: command, run: ls, needs: {found}}}" for name, found in needs.items()]
    made = plan(steps(*lines))
    place = {task.id: index for index, task in enumerate(made.tasks)}
    assert set(place) == set(needs)
    for task in made.tasks:
        assert set(task.needs) == set(needs[task.id])
        assert all(place[need] < place[task.id] for need in task.needs)


@given(graphs(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_cycle_is_found_where_there_is_one_and_only_there(needs: dict[str, list[str]], data: Any) -> None:
    assert find_cycle(needs) == []
    assert len(in_order(needs)) == len(needs)
    last = in_order(needs)[-1]
    first = data.draw(st.sampled_from(in_order(needs)))
    looped = needs | {first: [*needs[first], last], last: [*needs[last], first]}
    cycle = find_cycle(looped)
    assert cycle[0] == cycle[-1]
    assert len(cycle) > 1
    for name, need in itertools.pairwise(cycle):
        assert need in looped[name]


def test_two_hundred_steps_are_planned_in_twenty_milliseconds(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f(result=None): ...\n")
    blueprint = steps(*(f"- {{id: s{index}, kind: python, function: 'own:f'}}" for index in range(200)))
    taken = []
    for _ in range(7):
        started = time.perf_counter()
        made = plan(blueprint, tmp_path)
        taken.append(time.perf_counter() - started)
    assert len(made.tasks) == 200
    assert made["s199"].inputs == {"result": Source("s198", "result")}
    assert min(taken) < 0.020


def test_the_example_of_the_explanation_is_wired_as_the_page_says() -> None:
    page = Path(__file__).parents[3] / "docs" / "explanation" / "plan-and-fingerprint.md"
    example = page.read_text(encoding="utf-8").partition("```yaml\nsteps:\n")[2].partition("```")[0]
    text = "\n".join(f"  {line}" for line in example.splitlines())
    made = plan(loads_blueprint(f"pipeline:\n  name: houses\n  prediction_type: regression\n  steps:\n{text}\n"))
    assert made["small"].inputs["train"] == Source("plain", "train")
    assert made["large"].inputs["train"] == Source("rich", "train")
    assert "small" not in made["large"].needs
