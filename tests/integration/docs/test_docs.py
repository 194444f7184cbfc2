"""Every snippet of the documentation does what the page says: run, loaded, or parsed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from grpc_tools import protoc
from ruamel.yaml import YAML
from tests.integration.docs.snippets import LANGUAGES, Page, commands, read
from tests.projects import environment, new_project

from modelyard.blueprint.load import loads_blueprint

ROOT = Path(__file__).parents[3]
PAGES = [read(path) for path in sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])]


def name(page: Page) -> str:
    return str(page.path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_names_a_language_that_is_checked(page: Page) -> None:
    wrong = [
        f"{name(page)}:{s.line}: {s.language or 'no language'}" for s in page.snippets if s.language not in LANGUAGES
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_data_snippets_are_well_formed_and_blueprints_load(page: Page, tmp_path: Path) -> None:
    for snippet in page.snippets:
        where = f"{name(page)}:{snippet.line}"
        if snippet.language == "json":
            json.loads(snippet.text)
        elif snippet.language == "toml":
            tomllib.loads(snippet.text)
        elif snippet.language == "protobuf":
            (tmp_path / "page.proto").write_text(snippet.text)
            assert protoc.main(["protoc", f"-I{tmp_path}", f"-o{os.devnull}", str(tmp_path / "page.proto")]) == 0, where
        elif snippet.language == "yaml":
            YAML(typ="safe").load(snippet.text)
            if re.search(r"^pipeline:", snippet.text, re.MULTILINE) and snippet.not_run is None:
                loads_blueprint(snippet.text, file=where)


@pytest.mark.parametrize("page", [page for page in PAGES if page.runs], ids=name)
def test_a_page_works_when_followed_from_top_to_bottom(page: Page, tmp_path: Path) -> None:
    folder = new_project(tmp_path, page.project) if page.project else tmp_path
    variables = environment(tmp_path)
    session: list[str] = []
    try:
        for snippet in page.snippets:
            where = f"{name(page)}:{snippet.line}"
            if snippet.not_run is not None:
                pass
            elif snippet.language == "console":
                for command, code in commands(snippet):
                    done = subprocess.run(
                        ["bash", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, timeout=240,
                        check=False,
                    )  # fmt: skip
                    assert done.returncode == code, f"{where}: $ {command}\n{done.stdout}{done.stderr}"
            elif snippet.language == "python":
                # One namespace for the page, as in a notebook: earlier snippets run again before the next.
                session.append(snippet.text)
                done = subprocess.run(
                    [sys.executable, "-c", "\n".join(session)], cwd=folder, env=variables, capture_output=True,
                    text=True, timeout=240, check=False,
                )  # fmt: skip
                assert done.returncode == 0, f"{where}:\n{done.stdout}{done.stderr}"
    finally:
        if (folder / ".modelyard" / "services").exists():
            subprocess.run([sys.executable, "-m", "modelyard", "down"], cwd=folder, env=variables, check=False)


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        text = page.path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (page.path.parent / target).exists():
                broken.append(f"{name(page)}: {target}")
    assert not broken, "\n".join(broken)


def test_the_environment_of_the_snippets_finds_the_program() -> None:
    assert subprocess.run(["modelyard", "--version"], env=environment(Path(os.devnull)), check=False).returncode == 0
