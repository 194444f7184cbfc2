"""The whole loop through the real command line, as the README tells it, on real data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.projects import environment, modelyard, new_project

import modelyard as front_door
from modelyard.testing.load import LoadGenerator

GTO = Path(sys.executable).with_name("gto")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose first model is trained, reviewed, released everywhere and served in production."""
    folder = new_project(tmp_path_factory.mktemp("loop"))
    modelyard(folder, "run", "digits")
    modelyard(folder, "submit", "digits", "--as", "dana")
    refused = modelyard(folder, "approve", "digits", "--as", "dana", "-m", "mine", code=3)
    assert "manager" in refused.stderr
    modelyard(folder, "approve", "digits", "--as", "morgan", "-m", "good")
    for place in ("dev", "staging", "production"):
        modelyard(folder, "release", "digits", "--to", place, "--as", "morgan")
    modelyard(folder, "up", "production")
    yield folder
    modelyard(folder, "down", code=None)


def said(folder: Path, *arguments: str) -> Any:
    return json.loads(modelyard(folder, *arguments, "--json").stdout)


def pixels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / "digits.npz") as file:
        return file["image"], file["label"]


def url(folder: Path) -> str:
    return next(s["url"] for s in said(folder, "ls", "services") if s["environment"] == "production")


def test_the_first_model_is_good_and_its_evidence_is_there(project: Path) -> None:
    found = said(project, "review", "digits", "--version", "v1.0.0")
    assert found["metrics"]["accuracy"] > 0.95
    names = {Path(path).name for path in found["files"]}
    assert {"confusion_matrix.png", "loss_curve.png", "metrics.json", "model_card.md", "environment.lock"} <= names
    assert all(Path(path).stat().st_size for path in found["files"])


def test_a_second_run_is_answered_from_the_cache_and_why_says_so(project: Path) -> None:
    run = said(project, "run", "digits")
    assert {task["state"] for task in run["tasks"].values()} == {"cached"}
    assert "fingerprint" in modelyard(project, "why", "train").stdout


def test_a_changed_learning_rate_runs_the_trainer_and_what_follows_alone(project: Path) -> None:
    tasks = said(project, "plan", "digits", "-p", "train.alpha=0.004")["tasks"]
    assert {task["id"]: task["state"] for task in tasks} == {
        "data": "cached", "prepare": "cached", "train": "run", "evaluate": "unknown",
    }  # fmt: skip
    assert any("alpha" in reason for task in tasks for reason in task["reasons"])
    run = said(project, "run", "digits", "-p", "train.alpha=0.004")
    assert [name for name, task in run["tasks"].items() if task["state"] == "succeeded"] == ["train", "evaluate"]
    answer = modelyard(project, "why", "train", "--run", run["id"]).stdout
    assert "alpha changed from 0.005 to 0.004" in answer


def test_predictions_over_http_equal_the_labels_as_often_as_the_evaluation_said(project: Path) -> None:
    images, labels = pixels(project)
    rows = project / "rows.json"
    rows.write_text(json.dumps({"rows": [{"image": image.tolist()} for image in images[:200]]}))
    answer = said(project, "predict", "digits", str(rows))
    right = np.mean([row["label"] == label for row, label in zip(answer["rows"], labels[:200], strict=True)])
    assert right > 0.95
    assert answer["version"] == "v1.0.0"


def test_gto_reads_our_tags(project: Path) -> None:
    show = subprocess.run(
        [GTO, "show", "--json"], cwd=project, env=environment(project), capture_output=True, text=True
    )
    assert json.loads(show.stdout)["digits"]["version"] == "v1.0.0"
    history = subprocess.run(
        [GTO, "history", "digits", "--json"], cwd=project, env=environment(project), capture_output=True, text=True
    )
    events = {(event["event"], event.get("stage")) for event in json.loads(history.stdout)}
    assert {("assignment", "approved"), ("assignment", "production")} <= events


def test_a_release_swaps_the_service_under_load_without_a_failed_request_and_rollback_brings_the_first_back(
    project: Path,
) -> None:
    images, _ = pixels(project)
    modelyard(project, "run", "digits-cnn")
    modelyard(project, "submit", "digits-cnn", "--as", "dana")
    modelyard(project, "approve", "digits", "--as", "morgan", "-m", "better")
    modelyard(project, "release", "digits", "--to", "dev", "--as", "morgan", "--version", "v1.1.0")
    modelyard(project, "release", "digits", "--to", "staging", "--as", "morgan")
    body = json.dumps({"columns": {"image": images[:1].tolist()}}).encode()
    service = front_door.open(project).services.client("production")
    with LoadGenerator(f"{url(project)}/v1/models/digits/predict", body, rate=100.0) as load:
        load.wait_for(50)
        modelyard(project, "release", "digits", "--to", "production", "--as", "morgan")
        wait_for_version(load, "v1.1.0")
        modelyard(project, "rollback", "digits", "--env", "production", "--as", "morgan", "-m", "a test")
        generation = service.status().slots["digits"].current
        wait_for_version(load, "v1.0.0")
        report = load.stop()
    assert report.failures == []
    assert report.mixed == []
    assert set(report.versions) == {"v1.0.0", "v1.1.0"}
    assert generation is not None
    held = modelyard(
        project, "release", "digits", "--to", "production", "--as", "morgan", "--version", "v1.1.0", code=3
    )
    assert "held" in held.stderr
    modelyard(project, "lift", "digits", "--env", "production", "--as", "morgan", "-m", "go on")
    modelyard(project, "release", "digits", "--to", "production", "--as", "morgan", "--version", "v1.1.0")


def wait_for_version(load: LoadGenerator, version: str) -> None:
    start = len(load.report().samples)
    for _ in range(100):
        load.wait_for(10)
        if load.report().samples[-1].version == version:
            return
    versions = {s.version for s in load.report().samples[start:]}
    raise AssertionError(f"{version} never answered; {versions} did")


def test_the_story_names_who_did_what_on_what(project: Path) -> None:
    story = modelyard(project, "show", "digits").stdout
    for word in ("dana <dana@example.org>", "morgan <morgan@example.org>", "submitted v1.0.0", "released v1.0.0 to dev",
                 "digits.npz", "run 2", "package"):  # fmt: skip
        assert word in story


def test_a_flipped_bit_in_a_package_is_found_by_verify_and_the_package_is_not_served(
    project: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "project"
    shutil.copytree(project, copy, symlinks=True, ignore=shutil.ignore_patterns("services", "cache"))
    found = json.loads(modelyard(copy, "ls", "models", "--json").stdout)
    objects = sorted(
        (copy / ".modelyard/store/objects").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0
    )
    for victim in objects[-12:]:
        victim.chmod(0o644)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    assert found
    told = modelyard(copy, "verify", "--json", code=4).stdout
    assert sum(damage["kind"] == "changed" for damage in json.loads(told)) == 12
    shown = modelyard(copy, "review", "digits", code=4)
    assert "have changed" in shown.stderr


def test_the_catalog_is_the_same_after_it_was_deleted_and_rebuilt(project: Path) -> None:
    before = said(project, "ls", "runs")
    (project / ".modelyard/catalog.db").unlink()
    for leftover in (project / ".modelyard").glob("catalog.db-*"):
        leftover.unlink()
    modelyard(project, "catalog", "rebuild")
    assert said(project, "ls", "runs") == before
    assert said(project, "ls", "models")
