"""One task: its code, arguments, results and failures."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from modelyard.blueprint.code import CodeReader
from modelyard.engines.task import Workbench, execute
from modelyard.records import EventKind, TaskCall, TaskResult
from modelyard.testing.executor import Workplace


def run(place: Workplace, source: str, *outputs: str, **options: Any) -> TaskResult:
    """Write a module with a function `step`, and run it."""
    (place.project / "module.py").write_text(source)
    bench = options.pop("bench", None)
    return execute(call(place, *outputs, **options), place.store, place.events.append, bench)


def call(place: Workplace, *outputs: str, **options: Any) -> TaskCall:
    values: dict[str, Any] = {
        "run": "run", "task": "task", "kind": "python", "call": "module:step", "parameters": {}, "inputs": {},
        "outputs": list(outputs), "code": {}, "project": str(place.project), "store": place.store.url,
        "log": str(place.logs / "task.log"),
    }  # fmt: skip
    return TaskCall(**(values | options))


@pytest.mark.parametrize(
    ("returned", "outputs", "expected"),
    [
        ("{'a': 1, 'b': 2}", ("a", "b"), {"a": 1, "b": 2}),
        ("(1, 2)", ("a", "b"), {"a": 1, "b": 2}),
        ("7", ("a",), {"a": 7}),
        ("{'x': 7}", ("a",), {"a": {"x": 7}}),
        ("{'a': 7}", ("a",), {"a": 7}),
        ("None", (), {}),
        ("{}", (), {}),
    ],
)
def test_a_result_is_named_by_the_declared_outputs(
    place: Workplace, returned: str, outputs: tuple[str, ...], expected: dict[str, Any]
) -> None:
    result = run(place, f"def step():\n    return {returned}\n", *outputs)
    assert result.failure is None
    assert {name: place.store.load(artifact) for name, artifact in result.outputs.items()} == expected


@pytest.mark.parametrize(
    ("returned", "outputs", "words"),
    [
        ("{'a': 1, 'c': 2}", ("a", "b"), "a dict with a, c, but the step's outputs are a, b"),
        ("(1, 2, 3)", ("a", "b"), "3 values"),
        ("None", ("a",), "returned nothing"),
        ("5", (), "one int, but the step's outputs are none"),
    ],
)
def test_a_result_that_does_not_fit_is_a_step_failure(
    place: Workplace, returned: str, outputs: tuple[str, ...], words: str
) -> None:
    failure = run(place, f"def step():\n    return {returned}\n", *outputs).failure
    assert failure is not None
    assert failure.code == "step"
    assert words in failure.what
    assert failure.remedy


def test_a_function_is_given_exactly_what_it_takes(place: Workplace) -> None:
    source = "def step(a, *, b=2, **rest):\n    return [a, b, sorted(rest)]\n"
    result = run(place, source, "all", parameters={"a": 1, "z": 3})
    assert place.store.load(result.outputs["all"]) == [1, 2, ["z"]]


def test_an_error_of_modelyard_keeps_its_code(place: Workplace) -> None:
    source = (
        "from modelyard.errors import DataError\ndef step():\n    raise DataError('row 7 is empty', where='a.csv')\n"
    )
    failure = run(place, source).failure
    assert failure is not None
    assert (failure.code, failure.what, failure.where) == ("data", "row 7 is empty", "a.csv")


def test_a_value_that_nothing_can_save_is_an_input_failure_that_names_its_type(place: Workplace) -> None:
    failure = run(place, "def step():\n    return object()\n", "value").failure
    assert failure is not None
    assert failure.code == "input"
    assert "object" in failure.what


def test_an_output_called_metrics_gives_the_tasks_metrics(place: Workplace) -> None:
    result = run(place, "def step():\n    return {'metrics': {'accuracy': 0.5, 'note': 'x', 'ok': True}}\n", "metrics")
    assert result.metrics == {"accuracy": 0.5}


def test_a_metric_that_is_no_number_is_named_and_left_out(place: Workplace) -> None:
    source = (
        "def step(context):\n    context.metric('loss', float('nan'), 3)\n    context.metric('end', float('inf'))\n"
    )
    result = run(place, source)
    assert result.failure is None
    assert result.metrics == {}
    assert place.lines() == ["The metric loss is nan at step 3: not recorded.", "The metric end is inf: not recorded."]


def test_leaving_by_exit_is_a_step_failure(place: Workplace) -> None:
    failure = run(place, "import sys\ndef step():\n    sys.exit(3)\n").failure
    assert failure is not None
    assert failure.what == "The step left by sys.exit(3)."


def test_an_import_that_fails_inside_the_module_shows_its_own_traceback(place: Workplace) -> None:
    failure = run(place, "import no_such_library\ndef step():\n    pass\n").failure
    assert failure is not None
    assert failure.code == "step"
    assert "no_such_library" in failure.what
    assert "importlib" not in "\n".join(place.log())
    assert 'module.py", line 1' in "\n".join(place.log())


@pytest.mark.parametrize(
    ("target", "words"),
    [("module:stpe", "Did you mean 'step'?"), ("modul:step", "There is no module 'modul'.")],
)
def test_a_missing_module_or_function_is_named(place: Workplace, target: str, words: str) -> None:
    failure = run(place, "def step():\n    pass\n", call=target).failure
    assert failure is not None
    assert failure.code == "input"
    assert words in f"{failure.what} {failure.remedy}"


def test_a_helper_module_edited_in_a_warm_process_is_imported_anew(place: Workplace) -> None:
    bench = Workbench()
    helper = place.project / "helper.py"
    helper.write_text("N = 1\n")
    source = "import helper\ndef step():\n    return helper.N\n"
    assert place.store.load(run(place, source, "n", bench=bench).outputs["n"]) == 1
    helper.write_text("N = 2\n")
    assert place.store.load(run(place, source, "n", bench=bench).outputs["n"]) == 2


def test_two_projects_with_equal_module_names_do_not_mix(place: Workplace, tmp_path: Any) -> None:
    (tmp_path / "other").mkdir()
    other = Workplace(tmp_path / "other")
    for bench in (Workbench(), None):
        assert place.store.load(run(place, "def step():\n    return 1\n", "n", bench=bench).outputs["n"]) == 1
        assert other.store.load(run(other, "def step():\n    return 2\n", "n", bench=bench).outputs["n"]) == 2
        assert place.store.load(run(place, "def step():\n    return 1\n", "n", bench=bench).outputs["n"]) == 1


def test_a_notebooks_own_stale_import_is_replaced(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.project / "module.py").write_text("def step():\n    return 'old'\n")
    monkeypatch.syspath_prepend(place.project)
    __import__("module")
    code = {"module": "x"}
    try:
        (place.project / "module.py").write_text("def step():\n    return 'new'\n")
        code = CodeReader(place.project).reach("module").code
        result = execute(call(place, "said", code=code), place.store, place.events.append)
        assert place.store.load(result.outputs["said"]) == "new"
    finally:
        sys.modules.pop("module", None)


def test_code_that_changed_since_planning_is_refused(place: Workplace) -> None:
    (place.project / "module.py").write_text("def step():\n    return 1\n")
    code = CodeReader(place.project).reach("module").code
    (place.project / "module.py").write_text("def step():\n    return 2\n")
    result = execute(call(place, "n", code=code), place.store, place.events.append)
    assert result.failure is not None
    assert result.failure.code == "step"
    assert "module changed since the run was planned" in result.failure.what


def test_a_comment_is_no_change(place: Workplace) -> None:
    (place.project / "module.py").write_text("def step():\n    return 1\n")
    code = CodeReader(place.project).reach("module").code
    (place.project / "module.py").write_text("# A comment.\ndef step():\n    return 1\n")
    assert execute(call(place, "n", code=code), place.store, place.events.append).failure is None


def test_the_import_path_is_as_before_and_had_the_project_first(place: Workplace) -> None:
    before = list(sys.path), list(sys.meta_path)
    result = run(place, "import sys\ndef step():\n    return sys.path[0]\n", "first")
    assert place.store.load(result.outputs["first"]) == str(place.project)
    assert (list(sys.path), list(sys.meta_path)) == before


def test_a_folder_in_the_project_does_not_hide_an_installed_package(place: Workplace) -> None:
    (place.project / "msgspec").mkdir()
    source = "def step():\n    import importlib\n    return importlib.import_module('msgspec').__version__\n"
    assert run(place, source, "version").failure is None


def test_progress_is_thinned_out_but_its_end_is_told(place: Workplace) -> None:
    run(place, "def step(context):\n    for n in range(1, 1001):\n        context.progress(n, 1000)\n")
    told = [event.data["done"] for event in place.events if event.kind is EventKind.PROGRESS]
    assert told[-1] == 1000
    assert len(told) < 100


def test_a_log_that_cannot_be_opened_is_a_storage_failure(place: Workplace) -> None:
    place.logs.write_text("a file where the folder should be")
    failure = run(place, "def step():\n    pass\n").failure
    assert failure is not None
    assert failure.code == "storage"
