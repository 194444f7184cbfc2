"""How commands tell of what went wrong: to people as lines, with `--json` as one object in one form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.projects import modelyard

BLUEPRINT = """\
pipeline:
  name: tiny
  steps:
    - {id: hello, kind: command, run: echo hello}
    - {id: fails, kind: command, run: exit 3}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors") / "project"
    folder.mkdir()
    (folder / "blueprint.yaml").write_text(BLUEPRINT)
    return folder


def error_of(project: Path, *words: str, code: int) -> dict[str, Any]:
    """The error of a command that prints nothing else."""
    done = modelyard(project, *words, code=code)
    (line,) = done.stderr.splitlines()
    error: dict[str, Any] = json.loads(line)["error"]
    assert error["exit_code"] == code
    return error


def test_the_problems_of_a_blueprint_are_json_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "blueprint.yaml").write_text(BLUEPRINT.replace("run: exit", "rum: exit"))
    error = error_of(tmp_path, "check", "--json", code=2)
    assert error["code"] == "blueprint"
    places = [(problem["file"], problem["line"], problem["key"]) for problem in error["problems"]]
    assert ("blueprint.yaml", 5, "pipeline.steps[1].rum") in places
    assert any("run" in problem["remedy"] for problem in error["problems"])
    assert modelyard(tmp_path, "check", "--json", code=2).stdout == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ls", "--json", "-n", "none"), "usage"),
        (("diff", "--json"), "usage"),
        (("lsx", "--json"), "usage"),
        (("why", "hello", "--json"), "not-found"),
        (("check", "nosuch.yaml", "--json"), "not-found"),
        (("run", "-p", "hello", "--json"), "input"),
    ],
)
def test_every_kind_of_wrong_input_has_the_same_form(project: Path, words: tuple[str, ...], code: str) -> None:
    error = error_of(project, *words, code=2)
    assert error["code"] == code
    assert error["what"]
    assert error["remedy"]
    assert error.keys() == {"code", "exit_code", "what", "where", "remedy"}


def test_a_run_that_fails_is_told_whole_and_so_is_its_error(project: Path) -> None:
    done = modelyard(project, "run", "--json", code=7)
    assert json.loads(done.stdout)["state"] == "failed"
    assert json.loads(done.stderr)["error"]["code"] == "step"


def test_words_behind_two_dashes_ask_for_no_json(project: Path) -> None:
    assert modelyard(project, "check", "--", "--json", code=2).stderr.startswith("error: ")


def test_check_tells_of_a_data_file_that_is_not_there(tmp_path: Path) -> None:
    step = "    - {id: data, kind: importer, format: csv, local_data: rows.csv}\n"
    (tmp_path / "blueprint.yaml").write_text(BLUEPRINT.replace("    - {id: hello", step + "    - {id: hello"))
    told = modelyard(tmp_path, "check", code=2).stderr
    assert "blueprint.yaml:4:59: pipeline.steps[0].local_data: there is no file rows.csv." in told


def test_a_misspelt_setting_is_told_with_the_nearest_and_the_command_that_lists_all(tmp_path: Path) -> None:
    (tmp_path / "blueprint.yaml").write_text(BLUEPRINT)
    (tmp_path / "modelyard.toml").write_text("worker = 2\nexecutor = 'inline'\n")
    error = error_of(tmp_path, "ls", "--json", code=2)
    assert error["code"] == "settings"
    assert "Did you mean workers?" in error["remedy"]
    found = {one["name"]: one for one in json.loads(modelyard(tmp_path, "settings", "--json").stdout)}
    assert found["executor"]["source"] == "modelyard.toml"
    assert "modelyard settings" in error["remedy"]
