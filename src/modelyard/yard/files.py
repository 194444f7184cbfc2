"""Which blueprints a project holds."""

from __future__ import annotations

import re
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

__all__ = ["named_blueprints"]

_PIPELINE = re.compile(r"^pipeline\s*:", re.MULTILINE)


def named_blueprints(project: Path) -> dict[str, Path]:
    """Return the blueprints of a project by name: YAML files in it or in `blueprints/` that have a pipeline.

    The name is the pipeline's. A file whose name can't be read, or is another file's already, is listed under its own,
    so that it can be named and its problems be told.
    """
    found: dict[str, Path] = {}
    for folder in (project, project / "blueprints"):
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                # An unreadable file is reported when somebody names it, not when all are listed.
                continue
            if _PIPELINE.search(text):
                name = _pipeline_name(text) or path.stem
                # Two of one name is a mistake that `check` tells; until then no file may hide another.
                found.setdefault(name if name not in found else str(path.relative_to(project)), path)
    return found


def _pipeline_name(text: str) -> str | None:
    try:
        document = YAML(typ="safe").load(text)
        name = document["pipeline"]["name"]
    except (YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return name if isinstance(name, str) else None
