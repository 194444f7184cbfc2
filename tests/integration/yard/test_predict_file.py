"""`modelyard predict --input`: which model, what is said, and that the form which asks a service is another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.projects import modelyard


@pytest.fixture(scope="module")
def project(project: Path) -> Path:
    """Beside version 1.0.0, which is released to dev, 1.1.0 is submitted, and 1.2.0 rejected."""
    folder = project
    for limit in ("50", "40"):
        modelyard(folder, "run", "-p", f"data.limit={limit}")
        modelyard(folder, "submit", "--as", "dana")
    modelyard(folder, "reject", "trees", "--version", "v1.2.0", "-m", "worse", "--as", "morgan")
    (folder / "ask.csv").write_text("name,height,width\n" + "".join(f"t{h},{h},1\n" for h in range(1000)))
    return folder


def test_the_released_version_predicts_a_file_without_a_service(project: Path) -> None:
    done = modelyard(
        project, "predict", "trees", "--input", "ask.csv", "--output", "out.jsonl", "--env", "dev",
        "--columns", "name,height", "--workers", "2", "--batch-rows", "100",
    )  # fmt: skip
    assert done.stdout.startswith("1,000 rows by trees v1.0.0 in ")
    assert "predict 100 %  1,000 rows" in done.stderr
    rows = [json.loads(line) for line in (project / "out.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [f"t{h}" for h in range(1000)]
    assert [row["label"] for row in rows] == ["oak" if h > 12 else "ash" for h in range(1000)]
    assert not list(project.glob(".out*"))


def test_a_version_that_is_not_released_predicts_where_it_is_named_and_a_rejected_one_never(project: Path) -> None:
    words = ("predict", "trees", "--input", "ask.csv", "--output", "named.csv")
    told = json.loads(modelyard(project, *words, "--version", "v1.1.0", "--json").stdout)
    assert (told["rows"], told["output"]) == (1000, "named.csv")
    assert "rejected" in modelyard(project, *words, "--version", "v1.2.0", code=3).stderr
    assert "no version v7.0.0" in modelyard(project, *words, "--version", "v7.0.0", code=2).stderr
    nowhere = modelyard(project, *words, code=2).stderr
    assert "No version of trees is released to production." in nowhere
    assert "It is released to dev." in nowhere
    assert "no model 'treees'" in modelyard(project, "predict", "treees", *words[2:], "--env", "dev", code=2).stderr


def test_a_dry_run_says_rows_model_and_parts_and_writes_nothing(project: Path) -> None:
    before = sorted(project.iterdir())
    words = ("predict", "trees", "--input", "ask.csv", "--output", "dry.parquet", "--env", "dev", "--dry-run")
    told = modelyard(project, *words, "--batch-rows", "300").stdout
    assert "1,000 rows in 4 parts of up to 300" in told
    assert "model: trees v1.0.0" in told
    assert json.loads(modelyard(project, *words, "--json").stdout)["parts"] == 1
    assert sorted(project.iterdir()) == before


def test_a_bad_row_ends_with_2_and_names_file_row_and_column(project: Path) -> None:
    (project / "bad.csv").write_text("height,width\n" + "1,1\n" * 500 + "tall,1\n")
    done = modelyard(
        project, "predict", "trees", "--input", "bad.csv", "--output", "bad.out.csv", "--env", "dev", code=2
    )
    assert "bad.csv, row 500, column 'height': Expected int64; got 'tall'." in done.stderr
    assert not (project / "bad.out.csv").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Give ROWS"),
        (("ask.csv", "--input", "ask.csv"), "Give ROWS"),
        (("--input", "ask.csv"), "--input needs --output"),
        (("ask.csv", "--workers", "2"), "--workers goes with --input"),
        (("ask.csv", "--dry-run"), "--dry-run goes with --input"),
        (("--input", "ask.csv", "--output", "o.csv", "--version", "v1.0.0", "--env", "dev"), "give one"),
    ],
)
def test_the_two_forms_are_not_mixed(project: Path, words: tuple[str, ...], said: str) -> None:
    assert said in modelyard(project, "predict", "trees", *words, code=2).stderr
