"""Real projects for tests: a folder, a Git repository, two people with keys, small real data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TREES = """\
model: trees
pipeline:
  name: trees
  steps:
    - {id: data, kind: importer, format: csv, local_data: rows.csv, target: kind}
    - {id: train, kind: trainer, implementation: sklearn, estimator: sklearn.tree.DecisionTreeClassifier}
    - {id: evaluate, kind: evaluator}
environments: [{name: dev}]
"""
"""A blueprint that is trained in an instant: oaks are higher than ashes."""


def environment(home: Path, **more: str) -> dict[str, str]:
    """Variables for a child process: our program on the path, a home of its own, nobody's Git configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "MODELYARD_", "PYTEST_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "OMP_NUM_THREADS": "1",
        **more,
    }


def modelyard(folder: Path, *arguments: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line in a folder; `code` is the exit code it must have, None for any."""
    done = subprocess.run(
        [sys.executable, "-m", "modelyard", *arguments],
        cwd=folder,
        env=environment(folder.parent, **more),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if code is not None:
        assert done.returncode == code, (
            f"modelyard {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def new_project(parent: Path, template: str = "digits-small") -> Path:
    """A project with the people of the demonstration and one commit."""
    folder = parent / "project"
    folder.mkdir(parents=True)
    modelyard(folder, "init", "--template", template, "--people", "demo")
    return folder


def trees_project(parent: Path, blueprint: str = TREES) -> Path:
    """A project whose model tells oaks from ashes by height and width, and a commit of it."""
    folder = new_project(parent)
    for name in ("cnn.yaml", "digits.npz"):
        (folder / name).unlink()
    (folder / "blueprint.yaml").write_text(blueprint)
    rows = "".join(f"{h},{w},{'oak' if h > 12 else 'ash'}\n" for h in range(5, 20) for w in range(4))
    (folder / "rows.csv").write_text("height,width,kind\n" + rows)
    for words in (("add", "-A"), ("commit", "-qm", "Trees")):
        subprocess.run(["git", *words], cwd=folder, env=environment(parent), check=True)
    return folder
