"""What somebody meets who starts: a key in its usual place, a clone with an empty store, a name taken twice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.projects import TREES, environment, modelyard, trees_project


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env=environment(folder.parent), check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return trees_project(tmp_path)


def test_who_is_named_by_the_usual_key_can_sign_with_it(project: Path) -> None:
    home = project.parent
    (home / ".ssh").mkdir()
    key = home / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (project / "people.yaml").unlink()
    git(project, "config", "user.name", "Ada")
    git(project, "config", "user.email", "ada@example.org")
    for file in ("blueprint.yaml", "digits.npz", ".gitignore"):
        (project / file).unlink(missing_ok=True)
    modelyard(project, "init", "--template", "digits-small")
    (project / "cnn.yaml").unlink()
    (project / "blueprint.yaml").write_text(TREES)
    git(project, "commit", "-qam", "Trees again")
    modelyard(project, "run")
    assert "ada@example.org" in modelyard(project, "submit").stdout


def test_who_is_not_named_is_told_so_by_init(tmp_path: Path) -> None:
    told = modelyard(tmp_path, "init", "--template", "digits-small", "mine").stdout
    assert "people.yaml names nobody yet" in told
    told = modelyard(tmp_path, "init", "--template", "digits-small", "--people", "demo", "theirs").stdout
    assert "nobody" not in told


def test_a_clone_is_told_that_it_has_not_the_package(project: Path) -> None:
    modelyard(project, "run")
    modelyard(project, "submit", "--as", "dana")
    clone = project.parent / "clone"
    git(project.parent, "clone", "-q", str(project), str(clone))
    told = modelyard(clone, "review", code=2).stderr
    assert "not in this store" in told
    assert "modelyard.toml" in told
    (clone / "modelyard.toml").write_text(f'store = "{(project / ".modelyard/store").as_uri()}"\n')
    assert "accuracy" in modelyard(clone, "review").stdout


def test_a_deleted_catalog_is_made_anew_from_the_store(project: Path) -> None:
    modelyard(project, "run")
    before = json.loads(modelyard(project, "ls", "--json").stdout)
    for file in (project / ".modelyard").glob("catalog.db*"):
        file.unlink()
    assert json.loads(modelyard(project, "ls", "--json").stdout) == before


def test_a_pipeline_that_never_ran_is_named(project: Path) -> None:
    modelyard(project, "run")
    (project / "other.yaml").write_text(TREES.replace("trees", "other"))
    told = modelyard(project, "submit", "other", "--as", "dana", code=2).stderr
    assert "no runs of other yet" in told
    assert "modelyard run other" in told


def test_no_blueprint_hides_another_of_its_name(project: Path) -> None:
    (project / "twin.yaml").write_text(TREES)
    assert "twin.yaml" in modelyard(project, "ls", "blueprints").stdout
    told = modelyard(project, "check", code=2).stderr
    assert "twin.yaml: pipeline.name: blueprint.yaml has a pipeline 'trees' too." in told
    modelyard(project, "check", "blueprint.yaml")


def test_a_file_nested_without_end_is_one_problem_and_hinders_no_other_blueprint(project: Path) -> None:
    (project / "deep.yaml").write_text("pipeline: " + "{a: " * 3000)
    assert "deep.yaml: nested more than" in modelyard(project, "check", code=2).stderr
    modelyard(project, "plan")


def test_a_file_is_not_taken_for_a_project_folder(project: Path) -> None:
    assert "Name its folder" in modelyard(project, "-C", "blueprint.yaml", "check", code=2).stderr


def test_a_dry_release_says_what_would_go_live_or_why_it_may_not_and_does_nothing(project: Path) -> None:
    modelyard(project, "run")
    assert json.loads(modelyard(project, "submit", "--as", "dana", "--json").stdout)["version"] == "v1.0.0"
    release = ("release", "trees", "--to", "dev", "--dry-run", "--as")
    assert "not approved" in modelyard(project, *release, "morgan", code=3).stderr
    approved = json.loads(modelyard(project, "approve", "trees", "--as", "morgan", "--json").stdout)
    assert (approved["model"], approved["version"], approved["state"]) == ("trees", "v1.0.0", "approved")
    assert "may not release" in modelyard(project, *release, "dana", code=3).stderr
    assert "trees v1.0.0 would go live in dev" in modelyard(project, *release, "morgan").stdout
    would = json.loads(modelyard(project, *release, "morgan", "--json").stdout)
    assert (would["live"], would["would_be_live"]) == (None, "v1.0.0")
    assert json.loads(modelyard(project, "show", "--json").stdout)["live"] == {}
