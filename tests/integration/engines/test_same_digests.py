"""A real blueprint gives the same bytes in this process and in worker processes."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path

import pytest

from modelyard.blueprint.code import CodeReader
from modelyard.blueprint.load import load_blueprint
from modelyard.blueprint.plan import plan
from modelyard.engines.executors import open_executor
from modelyard.engines.scheduler import Scheduler
from modelyard.records import RunRecord, RunState
from modelyard.store.store import Store

TEMPLATE = Path(str(resources.files("modelyard") / "templates" / "digits-small"))


@pytest.mark.slow
def test_every_output_of_the_template_has_the_same_digest_inline_and_in_workers(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for file in TEMPLATE.iterdir():
        if file.is_file():
            (project / file.name).write_bytes(file.read_bytes())
    blueprint = load_blueprint(project / "blueprint.yaml", {"train.epochs": 2, "evaluate.minimum": {"accuracy": 0.5}})
    found = {}
    for name in ("inline", "processes"):
        store = Store.open(f"file://{tmp_path}/{name}")
        with open_executor(name, workers=2, store=store) as executor:
            scheduler = Scheduler(store, CodeReader(project), executor)
            record = RunRecord(id=name, blueprint="digits", blueprint_digest="0", started=time.time())
            run = scheduler.run(plan(blueprint, project=project), run=record, project=project)
        assert run.state is RunState.SUCCEEDED, run.tasks
        found[name] = {
            f"{step}.{output}": artifact.digest
            for step, task in run.tasks.items()
            for output, artifact in task.outputs.items()
        }
    assert found["inline"] == found["processes"]
    assert "train.model" in found["inline"]
