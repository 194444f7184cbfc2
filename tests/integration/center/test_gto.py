"""GTO, unchanged, reads the Model Center's tags."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def gto(project: Any, *arguments: str) -> Any:
    program = Path(sys.executable).parent / "gto"
    done = subprocess.run((program, *arguments), cwd=project.folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def story(project: Any) -> Any:
    manager = project.center("max")
    for package in ("a", "b"):
        project.approved(package)
        manager.release("digits", "dev")
    manager.release("digits", "staging")
    manager.rollback("digits", "dev", reason="wrong on sevens")
    return project


def test_gto_show_sees_the_versions_and_what_is_live_where(story: Any) -> None:
    (row,) = json.loads(gto(story, "show", "--json")).values()
    assert row["version"] == "v1.1.0"
    registry = story.center().state()
    for place in ("dev", "staging"):
        live = registry.live("digits", place)
        assert live is not None
        assert row["stage"][place] == f"v{live.version}"
    assert gto(story, "show", "digits#dev", "--ref").strip() == "digits@v1.0.0"


def test_gto_history_tells_the_events_in_our_order(story: Any) -> None:
    theirs = [entry["ref"] for entry in json.loads(gto(story, "history", "digits", "--asc", "--json"))]
    assert theirs == [event.event.tag for event in story.center().history("digits")]


def test_the_counter_goes_on_after_a_tag_that_gto_made(story: Any) -> None:
    gto(story, "assign", "digits", "--version", "v1.1.0", "--stage", "dev", "--force")
    registry = story.center().state()
    (problem,) = registry.problems
    assert problem.tag == "digits#dev#7"
    live = registry.live("digits", "dev")
    assert live is not None
    assert live.version == "1.0.0"
    story.center("mia").lift("digits", "dev", "fixed")
    assert story.center().history("digits")[-1].event.tag == "digits#dev#8"
