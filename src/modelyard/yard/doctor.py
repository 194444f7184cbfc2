"""What is missing on this machine, or broken in this project, each with its remedy."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelyard.errors import BlueprintError, ModelyardError
from modelyard.text import count
from modelyard.yard.project import find_project
from modelyard.yard.yard import Yard

__all__ = ["Finding", "examine"]

ENOUGH_DISK = 2 * 1024**3
"""Bytes under which a training run is likely to fill the disk."""

EXTRAS = {"torch": "torch", "sklearn": "sklearn", "onnx": "onnxruntime", "serve": "httptools", "plots": "matplotlib"}
"""Extra to the module that shows whether it is installed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        level: `ok`; `note` where something optional is missing; `wrong` where work is hindered.
        what: What was looked at.
        found: What was seen.
        remedy: What to do, or an empty text.
    """

    level: Literal["ok", "note", "wrong"]
    what: str
    found: str
    remedy: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at the machine and at the project that a folder lies in; nothing is changed."""
    findings = list(_machine())
    try:
        project = find_project(folder)
        yard = Yard.open(project)
    except ModelyardError as error:
        return [*findings, Finding("wrong", "project", error.what, error.remedy or "")]
    findings.append(Finding("ok", "project", str(project)))
    free = shutil.disk_usage(project).free
    findings.append(
        Finding("ok" if free > ENOUGH_DISK else "wrong", "free disk", f"{free / 1e9:.1f} GB", ""
                if free > ENOUGH_DISK else "Free some space: modelyard gc")
    )  # fmt: skip
    findings += _blueprints(yard)
    for what, look in (
        ("store", lambda: f"{yard.store.url}"),
        ("catalog", lambda: count(len(yard.catalog.runs(limit=1000)), "run")),
        ("Model Center", lambda: _center(yard)),
        ("you", lambda: _identity(yard)),
        ("services", lambda: ", ".join(f"{s.environment} {s.state}" for s in yard.services.all()) or "none"),
    ):
        findings.append(_try(what, look))
    return findings


def _try(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", what, look())
    except ModelyardError as error:
        return Finding("wrong", what, error.what, error.remedy or "")


def _machine() -> Iterator[Finding]:
    right = sys.version_info >= (3, 11)
    yield Finding(
        "ok" if right else "wrong", "Python", platform.python_version(), "" if right else "Use 3.11 or newer."
    )
    for program, remedy, level in (
        ("git", "apt install git", "wrong"),
        ("ssh-keygen", "apt install openssh-client", "wrong"),
        ("npm", "Only the demonstration's data needs it: apt install npm", "note"),
    ):
        path = shutil.which(program)
        if path is None:
            yield Finding("wrong" if level == "wrong" else "note", program, "not on the PATH", remedy)
        else:
            yield Finding("ok", program, _version(path) if program == "git" else path)
    for extra, module in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding("note", f"extra {extra}", "not installed", f"pip install 'modelyard[{extra}]'")
        else:
            yield Finding("ok", f"extra {extra}", "installed")


def _version(git: str) -> str:
    return subprocess.run([git, "--version"], capture_output=True, text=True, check=False).stdout.strip()


def _blueprints(yard: Yard) -> Iterator[Finding]:
    for name, path in yard.blueprints().items():
        try:
            steps = len(yard.blueprint(name).pipeline.steps)
            yield Finding("ok", f"blueprint {path.name}", f"{name}, {steps} steps")
        except BlueprintError as error:
            yield Finding(
                "wrong", f"blueprint {path.name}", f"{len(error.problems)} problems", f"modelyard check {name}"
            )


def _center(yard: Yard) -> str:
    registry = yard.center.state()
    ignored = f", {len(registry.problems)} tags ignored" if registry.problems else ""
    return f"{sum(len(m.versions) for m in registry.models.values())} versions{ignored}"


def _identity(yard: Yard) -> str:
    actor = yard.actor
    if actor is None:
        return "nobody: set `identity` in modelyard.toml to your name in people.yaml"
    return f"{actor.name or actor.email} <{actor.email}>" + ("" if actor.signing_key else ", no signing key")
