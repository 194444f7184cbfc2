"""Several processes at once, and processes that are killed: what was said done stays, and nothing is half done."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from modelyard.center import Policy, State

SCRIPT = """
import json, sys, time
from pathlib import Path
from modelyard.center import Actor, Center, Policy
from modelyard.errors import ModelyardError

folder, email, key, deed, start = sys.argv[1:]
center = Center(Path(folder), policy=Policy(approvals=2), actor=Actor("", email, Path(key)))
center.state()
time.sleep(max(0.0, float(start) - time.time()))
for index in range(4 if deed == "submit" else 1):
    try:
        if deed == "submit":
            done = center.submit("digits", f"{email}-{index}", contract_digest="c", contract_major_change=False,
                                 metrics={}, run="r").version
        elif deed == "approve":
            done = center.approve("digits", "1.0.0", "yes").version
        else:
            done = center.reject("digits", "1.0.0", "no").version
        print(json.dumps(["done", done]), flush=True)
    except ModelyardError as error:
        print(json.dumps([error.code, str(error)]), flush=True)
"""


def start(project: Any, name: str, deed: str, when: float) -> subprocess.Popen[bytes]:
    email = f"{name}@example.org"
    key = str(project.actors[email].signing_key)
    command = (sys.executable, "-c", SCRIPT, str(project.folder), email, key, deed, str(when))
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def outcomes(processes: list[subprocess.Popen[bytes]]) -> list[tuple[str, str]]:
    found = []
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        found += [tuple(json.loads(line)) for line in output.splitlines()]
    return found


def test_submissions_at_once_get_different_versions(project: Any) -> None:
    when = time.time() + 1.5
    found = outcomes([start(project, name, "submit", when) for name in ("ann", "bob", "max")])
    assert {code for code, _ in found} == {"done"}
    versions = [version for _, version in found]
    assert len(set(versions)) == 12
    registry = project.center().state()
    assert set(registry.model("digits").versions) == set(versions)
    assert registry.problems == ()


def test_decisions_at_once_are_all_kept_in_an_order_that_counts(project: Any) -> None:
    project.submit()
    when = time.time() + 1.5
    found = outcomes([start(project, "max", "approve", when), start(project, "mia", "approve", when)])
    assert [code for code, _ in found] == ["done", "done"]
    registry = project.center().state()
    assert len(registry.version("digits", "1.0.0").approvals) == 2
    assert project.git("tag", "-l", "digits#*").split() == ["digits#approved#1", "digits#approved#2"]


def test_an_approval_and_a_rejection_at_once_tell_each_the_truth(project: Any) -> None:
    project.submit()
    when = time.time() + 1.5
    both = [start(project, "max", "approve", when), start(project, "mia", "reject", when)]
    codes = [code for code, _ in outcomes(both)]
    registry = project.center(policy=Policy(approvals=2)).state()
    assert registry.version("digits", "1.0.0").state is State.REJECTED
    assert codes in (["done", "done"], ["refused", "done"])
    assert registry.problems == ()


def test_a_tag_that_another_tool_makes_meanwhile_is_stepped_over(project: Any, tmp_path: Path) -> None:
    """The signing program is the moment between looking and tagging: there another tool takes the number."""
    program = tmp_path / "signer"
    program.write_text(
        f'#!/bin/sh\ncd "{project.folder}"\ngit update-ref "refs/tags/digits#approved#1" HEAD\nexec ssh-keygen "$@"\n',
        encoding="utf-8",
    )
    program.chmod(0o700)
    project.submit()
    project.git("config", "gpg.ssh.program", str(program))
    project.center("max").approve("digits", "1.0.0", "yes")
    registry = project.center().state()
    assert registry.version("digits", "1.0.0").approvals[0].tag == "digits#approved#2"
    assert [problem.tag for problem in registry.problems] == ["digits#approved#1"]


def test_one_center_can_be_asked_by_several_threads(project: Any) -> None:
    center = project.center()
    project.approved()
    expected = project.center().state()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: center.state(), range(40)))
    assert all(registry == expected for registry in found)


def test_what_was_said_done_survives_a_kill_and_the_next_one_goes_on(project: Any) -> None:
    said: list[str] = []
    for pause in (0.0, 0.01, 0.02, 0.03, 0.05):
        process = start(project, "ann", "submit", 0.0)
        assert process.stdout is not None
        line = process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        said += [json.loads(text)[1] for text in (line, *process.stdout.readlines()) if json.loads(text)[0] == "done"]
        process.stdout.close()
        process.wait()
    assert said
    model = project.center().state().model("digits")
    assert set(said) <= set(model.versions)
    assert project.submit("after") in project.center().state().model("digits").versions
