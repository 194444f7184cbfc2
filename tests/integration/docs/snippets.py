"""Reads the fenced snippets of a Markdown page, and what the page says about how to run them.

A page may carry HTML comments, unseen by readers:

- `<!-- project: digits-small -->`: the snippets run in a fresh project of that template (default: an empty folder);
- `<!-- not run: reason -->` right before a fence: the snippet is not run, and the reason is printed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

LANGUAGES = {"console", "python", "yaml", "toml", "json", "protobuf", "text"}


@dataclass(frozen=True)
class Snippet:
    language: str
    text: str
    line: int
    not_run: str | None = None


@dataclass(frozen=True)
class Page:
    path: Path
    project: str | None
    snippets: list[Snippet] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return any(s.language in ("console", "python") and s.not_run is None for s in self.snippets)


def read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    project = re.search(r"<!-- project: ([\w-]+) -->", text)
    page = Page(path, project.group(1) if project else None)
    lines = text.splitlines()
    reason = None
    number = 0
    while number < len(lines):
        line = lines[number]
        said = re.fullmatch(r"\s*<!-- not run: (.+) -->", line)
        fence = re.match(r"(\s*)```([\w-]*)\s*$", line)
        if said:
            reason = said.group(1)
        elif fence:
            start = number + 1
            indent = len(fence.group(1))
            number += 1
            body = []
            while number < len(lines) and lines[number].strip() != "```":
                body.append(lines[number][indent:])
                number += 1
            page.snippets.append(Snippet(fence.group(2), "\n".join(body), start, reason))
            reason = None
        elif line.strip():
            reason = None
        number += 1
    return page


def commands(snippet: Snippet) -> list[tuple[str, int]]:
    """The commands of a console snippet with the exit code each must have (`# exits 3` at its end)."""
    found = []
    lines = iter(snippet.text.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue
        command = line[2:]
        while command.endswith("\\"):
            command = command[:-1] + next(lines).lstrip("> ")
        code = re.search(r"#\s*exits (\d+)\s*$", command)
        found.append((command, int(code.group(1)) if code else 0))
    return found
