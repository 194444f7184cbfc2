"""A file of the project that a blueprint names and nothing gives is told with its place before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.blueprint.load import load_blueprint
from modelyard.errors import BlueprintError, Problem

HEAD = "pipeline:\n  name: sample\n  steps:\n"
DATA = "    - {id: data, kind: importer, format: csv, local_data: rows.csv, target: kind}\n"


def told(folder: Path, steps: str) -> list[Problem]:
    """Return the problems of a blueprint with these steps."""
    (folder / "blueprint.yaml").write_text(HEAD + steps)
    try:
        load_blueprint(folder / "blueprint.yaml", project=folder, files=True)
    except BlueprintError as error:
        return list(error.problems)
    return []


def test_a_missing_file_is_told_at_its_name_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "row.csv").write_text("kind\n1\n")
    (problem,) = told(tmp_path, DATA)
    assert (problem.line, problem.column) == (4, 1 + (HEAD + DATA).splitlines()[3].index("rows.csv"))
    assert problem.key == "pipeline.steps[0].local_data"
    assert problem.what == "there is no file rows.csv."
    assert "Did you mean row.csv?" in problem.remedy
    (tmp_path / "rows.csv").write_text("kind\n1\n")
    assert told(tmp_path, DATA) == []


def test_a_run_is_not_kept_from_starting_by_it(tmp_path: Path) -> None:
    """Its answer may be in the cache, and commands that only look need no data."""
    (tmp_path / "blueprint.yaml").write_text(HEAD + DATA)
    assert load_blueprint(tmp_path / "blueprint.yaml", project=tmp_path).pipeline.name == "sample"


@pytest.mark.parametrize("maker", ["kind: command, run: make rows.csv", "kind: python, function: 'made:rows'"])
def test_a_file_that_a_step_before_may_make_is_not_missed(tmp_path: Path, maker: str) -> None:
    (tmp_path / "made.py").write_text("def rows() -> None: ...\n")
    assert told(tmp_path, f"    - {{id: make, {maker}}}\n{DATA}") == []
    (problem,) = told(tmp_path, f"    - {{id: make, {maker}}}\n" + DATA.replace("{id: data,", "{id: data, needs: [],"))
    assert problem.key == "pipeline.steps[1].local_data"


@pytest.mark.parametrize("source", ["s3://bucket/rows.csv", "zip://rows.csv::https://example.org/rows.zip"])
def test_what_is_remote_is_not_looked_for(tmp_path: Path, source: str) -> None:
    assert told(tmp_path, DATA.replace("local_data: rows.csv", f"online_data: '{source}'")) == []


def test_a_file_by_its_url_is_looked_for(tmp_path: Path) -> None:
    step = DATA.replace("rows.csv", f"'file://{tmp_path}/rows.csv'")
    assert [problem.key for problem in told(tmp_path, step)] == ["pipeline.steps[0].local_data"]
    (tmp_path / "rows.csv").write_text("kind\n1\n")
    assert told(tmp_path, step) == []


def test_a_folder_is_data_for_images_alone(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    images = "    - {id: data, kind: importer, format: image_folder, local_data: pictures, image_size: [8, 8]}\n"
    assert told(tmp_path, images) == []
    (problem,) = told(tmp_path, DATA.replace("rows.csv", "pictures"))
    assert problem.what == "pictures is a folder, and a file is needed."


def test_every_file_that_a_step_names_is_looked_for(tmp_path: Path) -> None:
    steps = """\
    - {id: data, kind: importer, format: idx, local_data: {data: images, labels: labels}, test_data: tests}
    - {id: train, kind: trainer, model_path: earlier, epochs: 1}
    - {id: line, kind: command, run: cat notes.txt, files: [notes.txt]}
"""
    keys = [problem.key.removeprefix("pipeline.") for problem in told(tmp_path, steps)]
    assert keys == [
        "steps[0].local_data.data", "steps[0].local_data.labels", "steps[0].test_data", "steps[1].model_path",
        "steps[2].files[0]",
    ]  # fmt: skip
