"""The yard: what the command line does is one call each, over real stores, catalogs and Git."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelyard
from modelyard.errors import (
    BlueprintError,
    InputError,
    IntegrityError,
    MinimumNotMetError,
    NotFoundError,
    RefusedError,
    RunError,
    StepError,
)
from modelyard.records import Event, EventKind, RunState
from modelyard.yard import Yard

BLUEPRINT = """\
version: 1
model: trees
pipeline:
  name: {name}
  steps:
    - {{id: data, kind: importer, format: csv, local_data: rows.csv, target: kind, split: {{test: 0.25}}}}
    - {{id: train, kind: trainer, implementation: sklearn, estimator: {estimator}}}
    - {{id: evaluate, kind: evaluator, minimum: {{accuracy: {minimum}}}}}
review: {{approvals: 1}}
"""


def blueprint(name: str = "trees", estimator: str = "sklearn.tree.DecisionTreeClassifier", minimum: float = 0.5) -> str:
    return BLUEPRINT.format(name=name, estimator=estimator, minimum=minimum)


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("MODELYARD_EXECUTOR", "inline")
    folder = tmp_path / "project"
    modelyard.init(folder, template="digits-small", people="demo").close()
    for name in ("cnn.yaml", "digits.npz"):
        (folder / name).unlink()
    (folder / "blueprint.yaml").write_text(blueprint())
    rows = "".join(f"{h},{w},{'oak' if h > 12 else 'ash'}\n" for h in range(5, 20) for w in range(8))
    (folder / "rows.csv").write_text("height,width,kind\n" + rows)
    subprocess.run(["git", "commit", "-qam", "Trees instead of digits"], cwd=folder, check=True)
    with modelyard.open(folder) as opened:
        yield opened


def test_a_run_tells_its_metrics_outputs_and_log(yard: Yard) -> None:
    run = yard.run("trees")
    assert run.metrics["accuracy"] > 0.9
    assert run.output("evaluate.metrics")["accuracy"] == run.metrics["accuracy"]
    assert "accuracy" in run.log("evaluate")
    assert run.id in repr(run)
    assert "accuracy" in repr(run)
    assert yard.get().id == run.id
    assert yard.get(run.id[:13]).id == run.id
    assert [r.id for r in yard.runs("trees")] == [run.id]


def test_an_output_that_is_not_there_is_named_with_those_that_are(yard: Yard) -> None:
    run = yard.run()
    with pytest.raises(NotFoundError, match=r"no output 'modle'.*model"):
        run.output("train.modle")
    with pytest.raises(NotFoundError, match=r"no step 'tarin'.*train"):
        run.output("tarin.model")
    with pytest.raises(InputError, match=r"step\.output"):
        run.output("model")


def test_a_listener_sees_every_step_start_and_end_in_order(yard: Yard) -> None:
    seen: list[Event] = []
    yard.run(listeners=[seen.append])
    states = [(e.task, e.data["state"]) for e in seen if e.kind is EventKind.STATE and e.task]
    for step in ("data", "train", "evaluate"):
        assert [state for name, state in states if name == step][-2:] == ["running", "succeeded"]


def test_a_missed_minimum_fails_the_run_and_its_evidence_can_be_looked_at(yard: Yard) -> None:
    (yard.project / "blueprint.yaml").write_text(blueprint(minimum=1.1))
    with pytest.raises(MinimumNotMetError, match=r"step evaluate.*at least 1\.1 is asked for"):
        yard.run()
    run = yard.get()
    assert run.state is RunState.FAILED
    assert (run.output("evaluate.evidence") / "confusion_matrix.json").exists()
    assert run.metrics["accuracy"] > 0.9
    with pytest.raises(MinimumNotMetError):
        yard.submit(run, identity="dana")
    assert yard.center.state().models == {}


def test_a_failed_run_is_returned_where_the_caller_wants_to_look_first(yard: Yard) -> None:
    run = yard.run(params={"train.estimator": "sklearn.tree.DecisionTreeRegressor"}, check=False)
    assert run.state is RunState.FAILED
    with pytest.raises(RunError):
        run.raise_for_state()


def test_packing_the_same_run_twice_gives_the_same_digest_and_so_does_an_equal_run(yard: Yard) -> None:
    first = yard.run()
    assert yard.pack(first).digest == yard.pack(first).digest
    assert {p.digest for p in yard.packages()} == {yard.pack(first).digest}


def test_the_same_package_can_not_be_submitted_twice(yard: Yard) -> None:
    run = yard.run()
    yard.submit(run, identity="dana")
    with pytest.raises(RefusedError, match="already"):
        yard.submit(run, identity="dana")


def test_a_changed_contract_is_a_major_version_and_anything_else_a_minor_one(yard: Yard) -> None:
    assert yard.submit(yard.run(), identity="dana").version == "1.0.0"
    other = yard.run(params={"train.estimator": "sklearn.ensemble.RandomForestClassifier"})
    assert yard.submit(other, identity="dana").version == "1.1.0"
    rows = yard.project / "rows.csv"
    rows.write_text(rows.read_text().replace("width", "girth"))
    evidence = yard.submit(yard.run(), identity="dana")
    assert evidence.version == "2.0.0"


def test_review_release_and_rollback_are_recorded_announced_and_told(yard: Yard) -> None:
    yard.submit(yard.run(), identity="dana")
    with pytest.raises(RefusedError, match="manager"):
        yard.approve("trees", identity="dana")
    with pytest.raises(RefusedError, match="approv"):
        yard.release("trees", "dev", identity="morgan")
    yard.approve("trees", identity="morgan", reason="fine")
    with pytest.raises(RefusedError, match="dev"):
        yard.release("trees", "staging", identity="morgan")
    yard.release("trees", "dev", identity="morgan")
    other = yard.run(params={"train.estimator": "sklearn.ensemble.RandomForestClassifier"})
    second = yard.submit(other, identity="dana")
    yard.approve("trees", identity="morgan", reason="finer")
    yard.release("trees", "dev", f"v{second.version}", identity="morgan")
    assert yard.services.live("dev")["trees"].version == "v1.1.0"
    back = yard.rollback("trees", "dev", reason="a doubt", identity="morgan")
    assert back.version == "1.0.0"
    assert yard.services.live("dev")["trees"].version == "v1.0.0"
    announced = [m["data"]["version"] for m in yard.bus.history("releases.dev")]
    assert announced == ["v1.0.0", "v1.1.0", "v1.0.0"]
    story = [str(line) for line in yard.show("trees")]
    assert len(story) == 7
    assert any("dana" in line and "submitted v1.0.0" in line for line in story)
    evidence = yard.review("trees", "v1.1.0")
    assert evidence.live_version == "1.0.0"
    assert not evidence.changed


def test_two_blueprints_of_one_model_must_agree_on_its_review(yard: Yard) -> None:
    (yard.project / "other.yaml").write_text(blueprint("others").replace("approvals: 1", "approvals: 2"))
    subprocess.run(["git", "add", "other.yaml"], cwd=yard.project, check=True)
    subprocess.run(["git", "commit", "-qm", "Others"], cwd=yard.project, check=True)
    with pytest.raises(InputError, match=r"blueprint\.yaml and other\.yaml.*different review rules"):
        yard.center.state()


def test_one_broken_blueprint_does_not_hide_the_others(yard: Yard) -> None:
    (yard.project / "broken.yaml").write_text("pipeline: {name: broken, steps: []}\n")
    assert set(yard.blueprints()) == {"trees", "broken"}
    assert yard.center.state().models == {}
    with pytest.raises(BlueprintError, match="broken"):
        yard.check()
    yard.run("trees")


def test_a_changed_helper_runs_its_step_again_and_no_other_and_why_names_it(yard: Yard) -> None:
    (yard.project / "helper.py").write_text("def double(n):\n    return 2 * n\n")
    (yard.project / "steps.py").write_text("import helper\n\ndef count(train):\n    return helper.double(len(train))\n")
    (yard.project / "others.py").write_text("def count(test):\n    return len(test)\n")
    text = blueprint().replace(
        "review:",
        '    - {id: twice, kind: python, function: "steps:count", needs: [data]}\n'
        '    - {id: once, kind: python, function: "others:count", needs: [data]}\n'
        "review:",
    )
    (yard.project / "blueprint.yaml").write_text(text)
    first = yard.run()
    (yard.project / "helper.py").write_text("# a comment\ndef double(n):\n    return 3 * n\n")
    second = yard.run()
    assert second.output("twice.result") == first.output("twice.result") / 2 * 3
    ran = [step for step, task in second.tasks.items() if task.state == "succeeded"]
    assert ran == ["twice"]
    assert any("helper" in reason for reason in yard.why("twice").reasons)
    (yard.project / "helper.py").write_text('"""About."""\n\n\ndef double(n):\n    """Doubled."""\n    return 3 * n\n')
    assert {task.state for task in yard.run().tasks.values()} == {"cached"}


def test_the_catalog_and_the_store_survive_what_can_be_rebuilt(yard: Yard) -> None:
    run = yard.run()
    before = [r.to_json() for r in yard.runs()]
    yard.close()
    (yard.project / ".modelyard" / "catalog.db").unlink()
    assert yard.rebuild_catalog() == 1
    assert [r.to_json() for r in yard.runs()] == before
    assert yard.verify() == []
    assert yard.gc(dry_run=True).objects == ()
    assert yard.get(run.id).output("evaluate.metrics")["accuracy"] == run.metrics["accuracy"]


def test_a_step_of_ones_own_gets_a_context_and_may_have_several_outputs(yard: Yard) -> None:
    (yard.project / "steps.py").write_text(
        "from modelyard.contracts import Context\n\n"
        "def split(context: Context, train, share: float = 0.5):\n"
        "    context.metric('rows', len(train))\n"
        "    context.log('hello')\n"
        "    return {'few': int(len(train) * share), 'all': len(train)}\n"
    )
    text = blueprint().replace(
        "review:",
        '    - {id: split, kind: python, function: "steps:split", needs: [data], outputs: [few, all], '
        "parameters: {share: 0.25}}\nreview:",
    )
    (yard.project / "blueprint.yaml").write_text(text)
    run = yard.run()
    assert run.output("split.few") == run.output("split.all") // 4
    assert run.metrics["rows"] == run.output("split.all")
    assert "hello" in run.log("split")


def test_a_step_that_raises_is_told_with_file_and_line(yard: Yard) -> None:
    (yard.project / "steps.py").write_text("def fail(train):\n    raise LookupError('no tree')\n")
    text = blueprint().replace(
        "review:", '    - {id: fail, kind: python, function: "steps:fail", needs: [data]}\nreview:'
    )
    (yard.project / "blueprint.yaml").write_text(text)
    with pytest.raises(StepError, match=r"step fail, steps\.py:2 in fail: LookupError: no tree"):
        yard.run()


def test_init_names_you_where_git_and_a_key_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    config.write_text(f"[user]\n\tname = Ada\n\temail = ada@example.org\n\tsigningkey = {key}\n")
    with modelyard.init(tmp_path / "mine", template="digits-small") as yard:
        assert yard.actor is not None
        assert yard.actor.email == "ada@example.org"
        assert "ada@example.org" in (yard.project / "people.yaml").read_text()
        assert yard.center.state().models == {}


def test_init_without_an_identity_leaves_a_people_file_to_fill_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    with modelyard.init(tmp_path / "mine", template="digits-small") as yard:
        assert "people: []" in (yard.project / "people.yaml").read_text()
        assert yard.center.state().models == {}
        log = subprocess.run(["git", "log", "--oneline"], cwd=yard.project, capture_output=True, text=True, check=True)
        assert "digits-small" in log.stdout


def approved(yard: Yard) -> None:
    yard.submit(yard.run(), identity="dana")
    yard.approve("trees", identity="morgan", reason="fine")
    yard.release("trees", "dev", identity="morgan")


def commit(yard: Yard, message: str) -> None:
    subprocess.run(["git", "add", "-A"], cwd=yard.project, check=True)
    subprocess.run(["git", "commit", "-qm", message], cwd=yard.project, check=True)


def test_review_rules_that_are_not_committed_do_not_count_and_who_is_refused_is_told(yard: Yard) -> None:
    yard.submit(yard.run(), identity="dana")
    file = yard.project / "blueprint.yaml"
    file.write_text(file.read_text().replace("approvals: 1", "approvals: 0"))
    with pytest.raises(RefusedError, match=r"blueprint\.yaml differ from the committed ones"):
        yard.release("trees", "dev", identity="morgan")
    assert yard.services.live("dev") == {}
    commit(yard, "Trust everybody")
    yard.release("trees", "dev", identity="morgan")
    assert yard.services.live("dev")["trees"].version == "v1.0.0"


def test_a_running_service_follows_the_committed_rules(yard: Yard) -> None:
    approved(yard)
    services = yard.services
    assert set(services.live("dev")) == {"trees"}
    file = yard.project / "blueprint.yaml"
    file.write_text(file.read_text().replace("approvals: 1", "approvals: 2"))
    assert set(services.live("dev")) == {"trees"}
    commit(yard, "Ask two people")
    assert services.live("dev") == {}


def test_a_blueprint_that_is_wrong_elsewhere_keeps_its_review_rules(yard: Yard) -> None:
    approved(yard)
    file = yard.project / "blueprint.yaml"
    text = file.read_text()
    file.write_text(text.replace("kind: importer", "kind: exporter").replace("approvals: 1", "approvals: 2"))
    commit(yard, "Break it, and ask two people")
    assert yard.services.live("dev") == {}


@pytest.mark.parametrize(
    "change",
    [("approvals: 1", "approvals: lots"), ("model: trees", "model: [trees]"), ("review:", "review: {}\nreview:")],
)
def test_review_rules_that_can_not_be_read_are_never_taken_for_the_usual_ones(
    yard: Yard, change: tuple[str, str]
) -> None:
    approved(yard)
    file = yard.project / "blueprint.yaml"
    file.write_text(file.read_text().replace(*change))
    assert set(yard.services.live("dev")) == {"trees"}
    commit(yard, "Break the rules")
    with pytest.raises(InputError, match="can't be read"):
        yard.services.live("dev")
    with pytest.raises(InputError, match="can't be read"):
        yard.approve("trees", identity="morgan", reason="again")


def test_people_who_are_not_committed_have_no_say(yard: Yard) -> None:
    yard.submit(yard.run(), identity="dana")
    file = yard.project / "people.yaml"
    file.write_text(file.read_text().replace("data_scientist", "manager"))
    with pytest.raises(RefusedError):
        yard.approve("trees", identity="dana", reason="my own")
    assert yard.center.state().version("trees", "1.0.0").approvals == ()


def test_a_project_joins_the_repository_around_it_and_commits_its_own_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    git("init", "-q")
    (tmp_path / ".gitignore").write_text("/ignored/\n")
    (tmp_path / "mine.txt").write_text("staged, not committed")
    git("add", "mine.txt")
    modelyard.init(tmp_path / "team" / "project", template="digits-small").close()
    assert "team/project/blueprint.yaml" in git("ls-tree", "-r", "--name-only", "HEAD")
    assert "mine.txt" not in git("ls-tree", "-r", "--name-only", "HEAD")
    before = git("rev-parse", "HEAD")
    modelyard.init(tmp_path / "ignored" / "project", template="digits-small").close()
    assert (tmp_path / "ignored" / "project" / ".git").is_dir()
    assert git("rev-parse", "HEAD") == before


@pytest.mark.parametrize("claim", [{"metrics": {"accuracy": 0.999}}, {"contract_digest": "c" * 64}], ids=["m", "c"])
def test_a_registration_that_claims_what_its_package_does_not_say_can_not_be_approved(
    yard: Yard, claim: dict[str, object]
) -> None:
    packed = yard.pack(yard.run())
    facts: dict[str, object] = {"contract_digest": packed.contract.digest, "metrics": dict(packed.metrics)}
    yard.center_as("dana").submit(
        "trees", packed.digest, contract_major_change=False, run=packed.run, **(facts | claim)
    )
    with pytest.raises(IntegrityError, match="registration"):
        yard.review("trees")
    with pytest.raises(IntegrityError, match="registration"):
        yard.approve("trees", identity="morgan", reason="looks good")
    assert yard.reject("trees", identity="morgan", reason="a lie").rejections
