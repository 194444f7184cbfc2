"""What a person does to running services by hand: one explicit service, one that follows releases, both real."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.projects import TREES, environment, modelyard, trees_project

BLUEPRINT = f"""\
{TREES}
service:
  slo: {{p99_ms: 5000, error_rate: 0.5}}
  canary: {{minimum: 7}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two approved versions, one that is not, the first released to dev; `lab` follows nothing."""
    folder = trees_project(tmp_path_factory.mktemp("swapping"), BLUEPRINT)
    (folder / "ask.json").write_text('{"rows": [{"height": 15, "width": 1}]}')
    for number, depth in enumerate((3, 2, 1)):
        modelyard(folder, "run", "-p", f"train.arguments.max_depth={depth}")
        modelyard(folder, "submit", "--as", "dana")
        if number < 2:
            modelyard(folder, "approve", "trees", "--as", "morgan")
    modelyard(folder, "release", "trees", "--to", "dev", "--version", "v1.0.0", "--as", "morgan")
    return folder


@pytest.fixture(scope="module")
def lab(project: Path):
    modelyard(project, "up", "lab", "--explicit")
    yield project
    modelyard(project, "down", "lab", code=None)


@pytest.fixture(scope="module")
def dev(project: Path):
    modelyard(project, "up", "dev")
    yield project
    modelyard(project, "down", "dev", code=None)


def told(project: Path, *words: str):
    return json.loads(modelyard(project, *words, "--json").stdout)


def slot(project: Path, name: str):
    (service,) = told(project, "services", name)
    return service["status"]["slots"]["trees"]


def answering(project: Path, name: str) -> str:
    return told(project, "predict", "trees", "ask.json", "--env", name)["version"]


def test_a_swap_is_said_before_it_is_done_and_only_approved_versions_are(lab: Path):
    plan = told(lab, "swap", "trees", "v1.0.0", "--env", "lab", "--dry-run")
    assert (plan["now"], plan["then"], plan["load"]) == (None, "v1.0.0", True)
    assert told(lab, "services", "lab")[0]["status"]["slots"] == {}
    assert told(lab, "swap", "trees", "v1.0.0", "--env", "lab")["version"] == "v1.0.0"
    assert answering(lab, "lab") == "v1.0.0"
    # Without a version, the newest that is approved: v1.2.0 is not.
    assert told(lab, "swap", "trees", "--env", "lab", "--dry-run")["then"] == "v1.1.0"
    assert "answers in lab already" in modelyard(lab, "swap", "trees", "v1.0.0", "--env", "lab").stdout
    refused = modelyard(lab, "swap", "trees", "v1.2.0", "--env", "lab", code=3)
    assert "not approved" in refused.stderr
    assert "modelyard approve trees --version v1.2.0" in refused.stderr
    assert answering(lab, "lab") == "v1.0.0"


def test_a_canary_is_begun_changed_ended_and_promoted(lab: Path):
    told(lab, "swap", "trees", "v1.0.0", "--env", "lab")
    begun = told(lab, "canary", "trees", "v1.1.0", "--share", "5%", "--env", "lab")
    assert begun["slot"]["canary"]["ppm"] == 50_000
    assert "v1.1.0 5%: 0 requests, 0 failed" in modelyard(lab, "services").stdout
    assert told(lab, "canary", "trees", "--share", "1.0", "--env", "lab")["slot"]["canary"]["ppm"] == 1_000_000
    assert answering(lab, "lab") == "v1.1.0"
    assert told(lab, "canary", "trees", "--end", "--env", "lab")["slot"]["canary"] is None
    assert answering(lab, "lab") == "v1.0.0"
    told(lab, "canary", "trees", "v1.1.0", "--share", "0.5", "--env", "lab")
    plan = told(lab, "canary", "trees", "--promote", "--dry-run", "--env", "lab")
    assert (plan["now"], plan["then"], plan["load"]) == ("v1.0.0", "v1.1.0", False)
    assert slot(lab, "lab")["canary"] is not None
    assert told(lab, "canary", "trees", "--promote", "--env", "lab")["version"] == "v1.1.0"
    assert answering(lab, "lab") == "v1.1.0"


def test_a_service_alone_is_rolled_back_without_a_word_in_git(lab: Path):
    told(lab, "swap", "trees", "v1.0.0", "--env", "lab")
    told(lab, "swap", "trees", "v1.1.0", "--env", "lab")
    tags = subprocess.run(["git", "tag"], cwd=lab, capture_output=True, check=True).stdout
    plan = told(lab, "rollback", "trees", "--env", "lab", "--service-only", "--dry-run")
    assert (plan["now"], plan["then"]) == ("v1.1.0", "v1.0.0")
    assert answering(lab, "lab") == "v1.1.0"
    back = told(lab, "rollback", "trees", "--env", "lab", "--service-only")
    assert (back["version"], back["loaded"]) == ("v1.0.0", False)
    assert subprocess.run(["git", "tag"], cwd=lab, capture_output=True, check=True).stdout == tags


def test_shadows_and_labels_stand_beside_what_answers(lab: Path):
    told(lab, "swap", "trees", "v1.0.0", "--env", "lab")
    assert told(lab, "shadow", "trees", "v1.1.0", "--share", "100%", "--env", "lab")["slot"]["shadow"]["ppm"] == 10**6
    assert answering(lab, "lab") == "v1.0.0"
    assert "champion" in told(lab, "label", "trees", "champion", "v1.0.0", "--env", "lab")["slot"]["labels"]
    shown = modelyard(lab, "services", "lab").stdout
    assert "champion=v1.0.0" in shown
    assert "v1.1.0 100%" in shown
    assert "champion" not in told(lab, "label", "trees", "champion", "--remove", "--env", "lab")["slot"]["labels"]
    assert told(lab, "shadow", "trees", "--end", "--env", "lab")["slot"]["shadow"] is None


def test_a_model_is_unloaded(lab: Path):
    told(lab, "swap", "trees", "v1.0.0", "--env", "lab")
    plan = told(lab, "unload", "trees", "--env", "lab", "--dry-run")
    assert (plan["now"], plan["then"]) == ("v1.0.0", None)
    assert answering(lab, "lab") == "v1.0.0"
    assert told(lab, "unload", "trees", "--env", "lab")["unloaded"]
    assert told(lab, "services", "lab")[0]["status"]["slots"] == {}


def test_what_would_become_of_canaries_shadows_and_labels_is_said_and_not_done(lab: Path):
    told(lab, "swap", "trees", "v1.0.0", "--env", "lab")
    before = slot(lab, "lab")
    begun = told(lab, "canary", "trees", "v1.1.0", "--share", "5%", "--env", "lab", "--dry-run")
    assert (begun["role"], begun["now"], begun["then"], begun["then_ppm"]) == ("canary", None, "v1.1.0", 50_000)
    shown = modelyard(lab, "shadow", "trees", "v1.1.0", "--share", "5%", "--env", "lab", "--dry-run").stdout
    assert shown.startswith("trees v1.1.0 would be shown 5% of the requests in lab, ")
    assert shown.endswith("; now: no shadow\n")
    label = told(lab, "label", "trees", "champion", "v1.0.0", "--env", "lab", "--dry-run")
    assert (label["label"], label["now"], label["then"]) == ("champion", None, "v1.0.0")
    assert slot(lab, "lab") == before
    told(lab, "canary", "trees", "v1.1.0", "--share", "5%", "--env", "lab")
    changed = told(lab, "canary", "trees", "--share", "50%", "--env", "lab", "--dry-run")
    assert (changed["now_ppm"], changed["then_ppm"], changed["load"]) == (50_000, 500_000, False)
    end = modelyard(lab, "canary", "trees", "--end", "--env", "lab", "--dry-run").stdout
    assert end == "trees would have no canary in lab; now: v1.1.0 5%\n"
    assert slot(lab, "lab")["canary"]["ppm"] == 50_000
    # What the change itself would refuse, its rehearsal refuses with the same words.
    for words in (
        ("canary", "trees", "v1.0.0", "--share", "5%"),
        ("canary", "trees", "v1.2.0", "--share", "5%"),
        ("shadow", "trees", "v1.1.0", "--share", "5%"),
        ("label", "trees", "champion", "v1.2.0"),
        ("label", "trees", "champion", "--remove"),
        ("shadow", "trees", "--end"),
    ):
        tried = modelyard(lab, *words, "--env", "lab", "--dry-run", code=None)
        done = modelyard(lab, *words, "--env", "lab", code=None)
        assert (tried.returncode, tried.stderr.splitlines()[0]) == (done.returncode, done.stderr.splitlines()[0])
        assert tried.returncode in (2, 3)
    told(lab, "canary", "trees", "--end", "--env", "lab")


def test_what_would_stop_is_said_and_not_done(lab: Path):
    assert told(lab, "down", "lab", "--dry-run") == {"would_stop": ["lab"]}
    assert modelyard(lab, "down", "lab", "--dry-run").stdout == "Would stop lab.\n"
    assert told(lab, "services", "lab")[0]["state"] == "ready"


def test_a_service_that_follows_releases_swaps_by_release_alone_and_is_rolled_back_by_hand(dev: Path):
    assert slot(dev, "dev")["current"]["version"] == "v1.0.0"
    for words in (
        ("swap", "trees", "v1.1.0"),
        ("swap", "trees", "v1.1.0", "--dry-run"),
        ("unload", "trees"),
        ("unload", "trees", "--dry-run"),
    ):
        assert "Release the version that you want" in modelyard(dev, *words, "--env", "dev", code=3).stderr
    # A version that is not released may stand beside, and not be promoted.
    modelyard(dev, "canary", "trees", "v1.1.0", "--share", "1%", "--env", "dev")
    for dry in ((), ("--dry-run",)):
        told_so = modelyard(dev, "canary", "trees", "--promote", "--env", "dev", *dry, code=3).stderr
        assert "Release it" in told_so
    modelyard(dev, "canary", "trees", "--end", "--env", "dev")
    assert "not approved" in modelyard(dev, "shadow", "trees", "v1.2.0", "--share", "1%", "--env", "dev", code=3).stderr
    modelyard(dev, "release", "trees", "--to", "dev", "--version", "v1.1.0", "--as", "morgan")
    modelyard(dev, "up", "dev")
    wait = subprocess.Popen(
        [sys.executable, "-m", "modelyard", "services", "dev", "--watch", "--json"],
        cwd=dev, env=environment(dev.parent), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert wait.stdout is not None
        for _ in range(30):
            line = next(line for line in wait.stdout if line.strip())
            if json.loads(line)[0]["status"]["slots"]["trees"]["current"]["version"] == "v1.1.0":
                break
        else:
            pytest.fail("the release was never followed")
    finally:
        wait.send_signal(signal.SIGINT)
        assert wait.wait(20) == 130
        wait.stdout.close()
    modelyard(dev, "rollback", "trees", "--env", "dev", "--service-only")
    assert answering(dev, "dev") == "v1.0.0"
    assert "v1.1.0 is released, and held off" in modelyard(dev, "services", "dev").stdout
    # A rollback that is recorded is rehearsed without a reason, and without a word in Git.
    tags = subprocess.run(["git", "tag"], cwd=dev, capture_output=True, check=True).stdout
    plan = told(dev, "rollback", "trees", "--env", "dev", "--as", "morgan", "--dry-run")
    assert plan == {"model": "trees", "environment": "dev", "live": "v1.1.0", "would_be_live": "v1.0.0"}
    assert "role" in modelyard(dev, "rollback", "trees", "--env", "dev", "--as", "dana", "--dry-run", code=3).stderr
    assert subprocess.run(["git", "tag"], cwd=dev, capture_output=True, check=True).stdout == tags


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("canary", "trees", "v1.1.0", "--share", "5", "--env", "lab"), 2, "Write 5% or 0.05"),
        (("canary", "trees", "v1.1.0", "--share", "101%", "--env", "lab"), 2, "is no share"),
        (("canary", "trees", "v1.1.0", "--env", "lab"), 2, "one of --share"),
        (("canary", "trees", "--share", "5%", "--end", "--env", "lab"), 2, "one of --share"),
        (("canary", "trees", "--end", "--dry-run", "--env", "idle"), 2, "an environment 'idle'"),
        (("label", "trees", "stable", "v1.1.0", "--dry-run", "--env", "lab"), 2, "can't be given as a label"),
        (("shadow", "trees", "--share", "5%", "--env", "lab"), 2, "Give a version"),
        (("label", "trees", "champion", "--env", "lab"), 2, "Give a version"),
        (("swap", "shrubs", "--env", "lab"), 2, "no model 'shrubs'"),
        (("swap", "trees", "v9.0.0", "--env", "lab"), 2, "has no version v9.0.0"),
        (("swap", "trees", "--env", "bal"), 2, "an environment 'bal'"),
        (("services", "bal"), 2, "an environment 'bal'"),
        (("swap", "trees", "--env", "../up"), 2, "an environment"),
        (("up", "../up", "--explicit"), 2, "can't be a service's name"),
        (("up", "--explicit"), 2, "needs a name"),
        (("rollback", "trees", "--env", "lab"), 2, "--reason"),
        (("rollback", "trees", "--env", "lab", "--service-only", "--to", "v1.0.0"), 2, "none of --to"),
        (("rollback", "trees", "--env", "lab", "-m", "x"), 2, "no environment 'lab'"),
        (("release", "trees", "--to", "dve"), 2, "Did you mean dev?"),
    ],
)
def test_what_makes_no_sense_is_told_with_a_remedy_and_an_exit_code(lab: Path, words, code, says):
    done = modelyard(lab, *words, code=code)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_that_does_not_run_is_told(project: Path):
    modelyard(project, "up", "idle", "--explicit")
    assert told(project, "down", "idle") == {"stopped": ["idle"]}
    assert told(project, "down", "idle") == {"stopped": []}
    assert "No service runs here" in modelyard(project, "swap", "trees", "--env", "idle", code=2).stderr
    assert told(project, "services", "idle")[0]["state"] == "stopped"


def test_the_blueprint_says_what_ends_a_canary(project: Path):
    from modelyard.yard import Yard
    from modelyard.yard.specification import specification

    with Yard.open(project) as yard:
        spec = specification(yard, "dev", project / "x")
    assert (spec.p99_seconds, spec.error_rate, spec.minimum_requests, spec.control) == (5.0, 0.5, 7, "released")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("modelyard swap ", {"trees"}),
        ("modelyard swap trees v1.", {"v1.0.0", "v1.1.0", "v1.2.0"}),
        ("modelyard swap trees --env ", {"dev", "lab"}),
        ("modelyard release trees --to ", {"dev"}),
        ("modelyard approve trees --version v1.1", {"v1.1.0"}),
        ("modelyard swap shrubs v", set()),
    ],
)
def test_a_shell_completes_models_versions_and_environments(lab: Path, line: str, offered: set[str]):
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", "from click.shell_completion import shell_complete; from modelyard.cli import root; "
         "shell_complete(root, {}, 'modelyard', '_MODELYARD_COMPLETE', 'bash_complete')"],
        cwd=lab, capture_output=True, text=True, check=False,
        env=environment(lab.parent, COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)),
    )  # fmt: skip
    assert done.stderr == ""
    found = {entry.split(",", 1)[1] for entry in done.stdout.splitlines() if entry}
    assert offered <= found if offered else not found


def test_a_reader_that_leaves_ends_the_watching(lab: Path):
    reading, writing = os.pipe()
    watch = subprocess.Popen(
        [sys.executable, "-m", "modelyard", "services", "--watch"], cwd=lab, env=environment(lab.parent), stdout=writing
    )
    os.close(writing)
    assert select.select([reading], [], [], 20)[0]
    os.close(reading)
    assert watch.wait(20) == 0
