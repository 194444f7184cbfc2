"""Every setting, command, option, error, extension point and dependency is documented."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import modelyard
from modelyard import contracts, errors
from modelyard.cli import COMMANDS, root
from modelyard.config import Settings

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_every_setting_is_documented(name: str) -> None:
    assert f"| `{name}` |" in page("reference/settings.md")


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if inspect.isclass(k) and issubclass(k, Exception)])
def test_every_error_is_documented_with_its_code(kind: type[errors.ModelyardError]) -> None:
    assert f"| `{kind.__name__}` | `{kind.code}` | {kind.exit_code} |" in page("reference/errors.md")
    assert kind.__doc__


def test_error_codes_are_unique() -> None:
    codes = [k.code for k in vars(errors).values() if inspect.isclass(k) and issubclass(k, errors.ModelyardError)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_documented_with_its_options(name: str) -> None:
    text = page("reference/cli.md")
    assert f"## modelyard {name}" in text
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.help
    section = text.split(f"## modelyard {name}\n")[1].split("\n## ")[0]
    parts = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    missing = [
        option.opts[0]
        for part in parts
        for option in part.params
        if isinstance(option, click.Option) and f"`{max(option.opts, key=len)}`" not in section
    ]
    assert not missing


@pytest.mark.parametrize(
    "row",
    [
        "| `--env` | `ENVIRONMENT` | required | Whose service. |",
        "| `--template` | `digits` or `digits-small` | `digits` | What to start from. |",
        "| `--timeout` | number | `60.0` | Seconds to wait for each. |",
        "| `--json` |  |  | Print JSON. |",
    ],
)
def test_the_page_of_commands_says_what_an_option_takes_its_default_and_whether_it_is_required(row: str) -> None:
    assert row in page("reference/cli.md")


def test_public_names_are_these_and_no_others() -> None:
    """Adding a name to the front door is a decision; this list is where it is taken."""
    assert sorted(modelyard.__all__) == ["ModelyardError", "Run", "Yard", "__version__", "init", "open"]
    for name in modelyard.__all__:
        assert getattr(modelyard, name) is not None


def test_every_contract_has_at_most_seven_methods_and_says_its_entry_point_group() -> None:
    protocols = [k for k in vars(contracts).values() if inspect.isclass(k) and getattr(k, "_is_protocol", False)]
    assert protocols
    for protocol in protocols:
        methods = [
            n for n, v in vars(protocol).items() if not n.startswith("_") and (callable(v) or isinstance(v, property))
        ]
        assert len(methods) <= 7, f"{protocol.__name__} has {len(methods)} methods"
        assert protocol.__doc__


def test_every_dependency_has_a_decision_record() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(d for e in project["optional-dependencies"].values() for d in e)]
    records = "\n".join(path.read_text(encoding="utf-8").lower() for path in (DOCS / "decisions").glob("*.md"))
    names = {re.split(r"[\[>=<~!;]", entry)[0].lower() for entry in wanted} - {"modelyard"}
    missing = sorted(name for name in names if name not in records)
    assert not missing, f"no decision record names {', '.join(missing)}"


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    from modelyard.cli.reference import render

    assert page("reference/cli.md") == render(), "run make docs"


def generated() -> list[tuple[str, str]]:
    """Modules of `make docs` and what each writes, as the Makefile says."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = re.split(r"^docs:.*$", makefile, flags=re.MULTILINE)[1].split("\n\n")[0]
    return re.findall(r"-m (\S+) (\S+)", target)


@pytest.mark.parametrize(("module", "place"), generated())
def test_what_make_docs_writes_is_what_lies_there(module: str, place: str, tmp_path: Path) -> None:
    written = tmp_path / Path(place).name
    subprocess.run([sys.executable, "-m", module, str(written)], check=True)
    files = [written] if written.is_file() else sorted(written.iterdir())
    assert files
    for file in files:
        kept = ROOT / place if written.is_file() else ROOT / place / file.name
        assert file.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8"), "run make docs"


def test_every_page_that_says_it_is_generated_is_written_by_make_docs() -> None:
    said = {str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md") if "Written by `make docs`" in path.read_text()}
    assert said
    assert said <= {place for _, place in generated()}
