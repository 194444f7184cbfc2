"""Kill -9 at any moment: what was said done stays done, nothing is damaged, and the next command goes on.

Commands of the real command line are killed after a random time, alone or with all they started. After each kill every
claim that an earlier command made is checked, and every byte of the store. `MODELYARD_KILLS_SEED` chooses the moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.projects import environment, modelyard, new_project

import modelyard as front_door
from modelyard.center import State
from modelyard.records import RunState

SEED = int(os.environ.get("MODELYARD_KILLS_SEED", "7"))
SECONDS = 30.0
BLUEPRINT = """\
version: 1
model: trees
pipeline:
  name: trees
  steps:
    - {id: data, kind: importer, format: csv, local_data: rows.csv, target: kind, split: {test: 0.25}}
    - {id: train, kind: trainer, implementation: sklearn, estimator: sklearn.tree.DecisionTreeClassifier}
    - {id: evaluate, kind: evaluator, minimum: {accuracy: 0.5}}
"""
COLLECT = (
    "import modelyard as m; from modelyard.store.gc import collect; collect(m.open('.').store, dry_run=False, grace=0)"
)


@dataclass
class Claims:
    """What commands said they had done."""

    runs: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    approved: set[str] = field(default_factory=set)
    live: str = ""
    """Empty after a release that was killed: it may have happened or not."""


@dataclass
class Victim:
    """A project whose commands are killed."""

    folder: Path
    chance: random.Random
    claims: Claims = field(default_factory=Claims)
    took: dict[str, float] = field(default_factory=dict)
    kills: int = 0

    def attempt(self, name: str, *command: str) -> str | None:
        """Run a command and, mostly, kill it; return what it said where it came to its end."""
        said = self.folder.parent / "said"
        with said.open("wb") as output:
            started = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.folder, stdout=output, stderr=subprocess.STDOUT,
                env=environment(self.folder.parent), start_new_session=True,
            )  # fmt: skip
            try:
                process.wait(self.chance.uniform(0.05, self.took[name]) if self.chance.random() < 0.8 else 120)
            except subprocess.TimeoutExpired:
                self.kills += 1
                kill = os.killpg if self.chance.random() < 0.5 else os.kill
                kill(process.pid, signal.SIGKILL)
                process.wait()
                return None
        self.took[name] = 0.7 * self.took[name] + 0.5 * (time.monotonic() - started)
        text = said.read_text()
        assert process.returncode in (0, 3, 7), f"{name}: {process.returncode}\n{text}"
        return text if process.returncode == 0 else None

    def step(self) -> None:
        with front_door.open(self.folder) as yard:
            model = yard.center.state().models["trees"]
        new = [v.version for v in model.versions.values() if v.state is State.NEW]
        name = self.chance.choice(
            ["run", "run", "submit", "release", "collect", "rebuild", *["approve"] * 3 * bool(new)]
        )
        call = ("-m", "modelyard")
        as_morgan = ("--as", "morgan", "-m", "tried")
        if name == "run":
            said = self.attempt(name, *call, "run", "-q", "-p", f"data.split.seed={self.chance.randrange(10**6)}")
            self.claims.runs |= {said.split()[-1]} if said else set()
        elif name == "submit":
            said = self.attempt(name, *call, "submit", "trees", "--as", "dana", "--json")
            self.claims.versions |= {json.loads(said)["registration"]["version"]} if said else set()
        elif name == "approve":
            said = self.attempt(name, *call, "approve", "trees", "--version", f"v{new[0]}", *as_morgan)
            self.claims.approved |= {new[0]} if said else set()
        elif name == "release":
            chosen = self.chance.choice([v.version for v in model.versions.values() if v.state is State.APPROVED])
            said = self.attempt(name, *call, "release", "trees", "--to", "dev", "--version", f"v{chosen}", *as_morgan)
            if chosen != model.live["dev"].version:
                self.claims.live = chosen if said else ""
        elif name == "collect":
            self.attempt(name, "-c", COLLECT)
        else:
            self.attempt(name, *call, "catalog", "rebuild")

    def check(self) -> None:
        with front_door.open(self.folder) as yard:
            runs = {run.id: run.state for run in yard.runs(limit=1000)}
            assert {runs.get(run) for run in self.claims.runs} == {RunState.SUCCEEDED}
            assert RunState.RUNNING not in runs.values(), "a killed run must not seem to go on"
            registry = yard.center.state()
            assert registry.problems == ()
            model = registry.model("trees")
            assert self.claims.versions <= model.versions.keys()
            assert {model.versions[version].state for version in self.claims.approved} == {State.APPROVED}
            assert self.claims.live in ("", model.live["dev"].version)
            for version in model.versions.values():
                yard.store.fetch_tree(version.package)
            assert yard.verify() == []


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    folder = new_project(tmp_path)
    for name in ("cnn.yaml", "digits.npz"):
        (folder / name).unlink()
    (folder / "blueprint.yaml").write_text(BLUEPRINT)
    rows = "".join(f"{h},{w},{'oak' if h > 12 else 'ash'}\n" for h in range(5, 20) for w in range(8))
    (folder / "rows.csv").write_text("height,width,kind\n" + rows)
    subprocess.run(["git", "commit", "-qam", "Trees"], cwd=folder, check=True)
    victim = Victim(folder, random.Random(SEED))
    started = time.monotonic()
    victim.claims.runs.add(modelyard(folder, "run", "-q").stdout.split()[-1])
    victim.took = dict.fromkeys(("run", "submit"), time.monotonic() - started)
    modelyard(folder, "submit", "trees", "--as", "dana")
    started = time.monotonic()
    modelyard(folder, "approve", "trees", "--as", "morgan", "-m", "good")
    victim.took |= dict.fromkeys(("approve", "release", "collect", "rebuild"), time.monotonic() - started)
    modelyard(folder, "release", "trees", "--to", "dev", "--as", "morgan")
    victim.claims.versions, victim.claims.approved, victim.claims.live = {"1.0.0"}, {"1.0.0"}, "1.0.0"
    yield victim
    modelyard(folder, "down", code=None)


def test_what_was_said_done_survives_kills_at_any_moment(victim: Victim) -> None:
    folder = victim.folder
    modelyard(folder, "up", "dev")
    end = time.monotonic() + SECONDS
    # On a busy machine commands are slow, and kills few.
    while time.monotonic() < end + (15.0 if victim.kills < 5 else 0.0):
        victim.step()
        victim.check()
        if victim.chance.random() < 0.2:
            with front_door.open(folder) as yard:
                service = yard.services.state("dev")
            assert service.pid is not None
            os.kill(service.pid, signal.SIGKILL)
            modelyard(folder, "up", "dev")
    assert victim.kills >= 2
    modelyard(folder, "verify")
    modelyard(folder, "show", "trees")
    with front_door.open(folder) as yard:
        live = yard.services.live("dev")["trees"].version
        deadline = time.monotonic() + 20
        while yard.services.predict("dev", "trees", b'{"rows":[{"height":18,"width":1}]}')["version"] != live:
            assert time.monotonic() < deadline, "the service does not follow what is live"
            time.sleep(0.1)
        answer = yard.services.predict("dev", "trees", b'{"rows":[{"height":18,"width":1}]}')
    assert answer["rows"][0]["label"] == "oak"
    modelyard(folder, "gc")
    modelyard(folder, "verify")
