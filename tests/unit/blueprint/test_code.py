"""The code that a step reaches is found by reading, and only what it means changes its digest."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.blueprint.code import CodeReader
from modelyard.blueprint.modules import installed_distribution
from modelyard.blueprint.plan import Task
from modelyard.errors import InputError, NotFoundError


def write(project: Path, **files: str) -> None:
    """Write modules; a double underscore in a name stands for a folder."""
    for name, text in files.items():
        path = project / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def reached(project: Path, module: str) -> set[str]:
    return set(CodeReader(project).reach(module).code)


def test_project_modules_are_followed_to_the_end(tmp_path: Path) -> None:
    write(tmp_path, step="import a\n", a="from b import thing\n", b="thing = 1\n", unrelated="x = 1\n")
    assert reached(tmp_path, "step") == {"step", "a", "b"}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import pack.mod", {"pack", "pack.mod"}),
        ("import pack.mod as m", {"pack", "pack.mod"}),
        ("from pack import mod", {"pack", "pack.mod"}),
        ("from pack import name", {"pack"}),
        ("from pack import *", {"pack"}),
        ("from pack.sub import deep", {"pack", "pack.sub", "pack.sub.deep", "pack.mod"}),
        ("def f():\n    import pack.mod", {"pack", "pack.mod"}),
        ("try:\n    import pack\nexcept ImportError:\n    import missing", {"pack"}),
        ("import importlib\nimportlib.import_module('pack.mod')", {"pack", "pack.mod"}),
        ("import space.inner", {"space.inner"}),
        ("from space import inner", {"space.inner"}),
    ],
)
def test_every_way_to_import_is_followed(tmp_path: Path, statement: str, expected: set[str]) -> None:
    write(
        tmp_path,
        step=statement + "\n",
        pack____init__="name = 1\n",
        pack__mod="",
        pack__sub____init__="",
        pack__sub__deep="from ..mod import x\nfrom . import nothing\n",
        space__inner="",
    )
    (tmp_path / "pack" / "__init__.py").write_text("name = 1\n")
    (tmp_path / "pack" / "sub" / "__init__.py").write_text("")
    assert reached(tmp_path, "step") == {"step"} | expected


def test_relative_imports_of_packages_are_followed(tmp_path: Path) -> None:
    (tmp_path / "pack" / "sub").mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text("from .one import x\n")
    (tmp_path / "pack" / "one.py").write_text("from . import two\n")
    (tmp_path / "pack" / "two.py").write_text("from .sub.three import y\n")
    (tmp_path / "pack" / "sub" / "__init__.py").write_text("")
    (tmp_path / "pack" / "sub" / "three.py").write_text("from ... import beyond\n")
    assert reached(tmp_path, "pack") == {"pack", "pack.one", "pack.two", "pack.sub", "pack.sub.three"}


def test_imports_for_type_checkers_are_passed_over(tmp_path: Path) -> None:
    text = (
        "from typing import TYPE_CHECKING\nimport typing\n"
        "if TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        "if typing.TYPE_CHECKING:\n    import a\n"
    )
    write(tmp_path, step=text, a="", b="")
    assert reached(tmp_path, "step") == {"step", "b"}


def test_modules_that_import_each_other_come_to_an_end(tmp_path: Path) -> None:
    write(tmp_path, a="import b\n", b="import a\n")
    assert reached(tmp_path, "a") == {"a", "b"}


def test_distributions_count_by_version_and_the_standard_library_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        step="import os, json.decoder\nimport numpy as np\nimport google.protobuf.message\n"
        "from sklearn.svm import SVC\nimport not_there\n",
    )
    found = CodeReader(tmp_path).reach("step")
    assert set(found.distributions) == {"numpy", "scikit-learn", "protobuf"}
    script = "import numpy, sklearn; print(numpy.__version__, sklearn.__version__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [found.distributions["numpy"], found.distributions["scikit-learn"]] == done.stdout.split()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("blake3", "blake3"),
        ("ruamel.yaml", "ruamel-yaml"),
        ("google.protobuf", "protobuf"),
        ("_pytest", "pytest"),
        ("nothing_like_it", None),
    ],
)
def test_the_distribution_of_a_module_is_found_whatever_it_is_called(module: str, name: str | None) -> None:
    found = installed_distribution(module)
    assert (found[0] if found else None) == name


def test_modelyards_own_code_counts_where_it_shapes_results(tmp_path: Path) -> None:
    write(tmp_path, step="import modelyard.errors\nfrom modelyard.data import Dataset\n")
    assert reached(tmp_path, "step") == {"step", "modelyard.data"}


def test_a_module_of_the_project_hides_an_installed_one(tmp_path: Path) -> None:
    write(tmp_path, step="import numpy\n", numpy="x = 1\n")
    found = CodeReader(tmp_path).reach("step")
    assert set(found.code) == {"step", "numpy"}
    assert found.distributions == {}


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    write(tmp_path, step="import side\n", side=f"open({str(mark)!r}, 'w')\nraise SystemExit\n")
    assert reached(tmp_path, "step") == {"step", "side"}
    assert not mark.exists()


def test_a_module_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no module nowhere"):
        CodeReader(tmp_path).reach("nowhere")


def test_a_module_that_is_no_python_is_told_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, step="import broken\n", broken="x = 1\ndef f(:\n")
    with pytest.raises(InputError) as caught:
        CodeReader(tmp_path).reach("step")
    assert caught.value.where == f"{tmp_path / 'broken.py'}:2"


def test_an_environment_inside_the_project_is_not_the_projects_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / ".venv" / "lib" / "site-packages"
    write(site, thirdparty="x = 1\n")
    (site / "Third_Party-1.2.dist-info").mkdir()
    (site / "Third_Party-1.2.dist-info" / "RECORD").write_text("thirdparty.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    write(tmp_path, step="import thirdparty\n")
    found = CodeReader(tmp_path).reach("step")
    assert set(found.code) == {"step"}
    assert found.distributions == {"third-party": "1.2"}


def test_source_on_the_import_path_without_a_distribution_counts_as_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "elsewhere", shared="x = 1\n")
    write(tmp_path / "project", step="import shared\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert reached(tmp_path / "project", "step") == {"step", "shared"}


def test_the_estimators_code_is_part_of_a_trainers_reach(tmp_path: Path) -> None:
    write(tmp_path, mine="import helper\nclass Model: ...\n", helper="x = 1\n", step="import os\n")
    task = Task("t", "trainer", "step:train", {"estimator": "mine.Model"}, {}, {}, (), {})
    assert set(CodeReader(tmp_path).reach_task(task).code) == {"step", "mine", "helper"}
    other = Task("t", "trainer", "step:train", {"estimator": "sklearn.svm.SVC"}, {}, {}, (), {})
    assert set(CodeReader(tmp_path).reach_task(other).distributions) == {"scikit-learn"}


# Digests


BODY = '''\
"""Module text."""

import math

LIMIT = 5


class Thing:
    """Class text."""

    size = 3

    def area(self, side):
        """Method text."""
        return math.pi * side + LIMIT


def main(x, y=2):
    # a comment
    total = (x + y) * 7
    return [total, "text"]
'''


def digest(project: Path, text: str) -> str:
    write(project, step=text)
    return CodeReader(project).reach("step").code["step"]


@st.composite
def cosmetic_edits(draw: st.DrawFn) -> str:
    """Return BODY with comments, blank lines, wrapped expressions, and other docstrings."""
    lines: list[str] = []
    words = st.text(alphabet="abc xyz#'", max_size=12)
    for line in BODY.split("\n"):
        if draw(st.booleans()):
            lines.append("")
        if draw(st.booleans()):
            lines.append(" " * draw(st.integers(0, 8)) + "# " + draw(words))
        if '"""' in line:
            line = line[: line.index('"')] + f'"""{draw(words)}."""'
        elif line.strip() and draw(st.booleans()):
            line += "   # " + draw(words)
        lines.append(line.replace("(x + y) * 7", draw(st.sampled_from(["(x + y) * 7", "((x+y)  *  (7))"]))))
    return "\n".join(lines)


@given(cosmetic_edits())
@settings(max_examples=100, deadline=None)
def test_comments_formatting_and_docstrings_do_not_change_a_digest(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    ast.parse(text)
    project = tmp_path_factory.getbasetemp() / "cosmetic"
    assert digest(project, text) == digest(project, BODY)


@given(st.sampled_from(["5", "3", "7", "2", '"text"', "math.pi", "total, ", "+ LIMIT"]), st.integers(8, 10**9))
@settings(max_examples=60, deadline=None)
def test_a_changed_constant_or_name_changes_the_digest(
    tmp_path_factory: pytest.TempPathFactory, part: str, number: int
) -> None:
    project = tmp_path_factory.getbasetemp() / "meaning"
    new = f"{number}, " if part.endswith(", ") else f"+ {number}" if part.startswith("+") else str(number)
    assert digest(project, BODY.replace(part, new, 1)) != digest(project, BODY)


def test_a_text_that_is_no_docstring_counts(tmp_path: Path) -> None:
    assert digest(tmp_path, "def f():\n    x = 1\n    return 'a'\n") != digest(
        tmp_path, "def f():\n    x = 1\n    return 'b'\n"
    )


def test_an_unrelated_module_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, step="import a\n", a="x = 1\n")
    reader = CodeReader(tmp_path)
    before = reader.reach("step")
    write(tmp_path, other="x = 2\n")
    assert reader.reach("step") == before
    assert CodeReader(tmp_path).reach("step") == before


# Memory


def test_a_change_is_seen_at_once_even_in_one_tick_of_the_clock(tmp_path: Path) -> None:
    reader = CodeReader(tmp_path)
    write(tmp_path, step="import a\n", a="x = 1\n")
    seen = []
    for number in range(30):
        write(tmp_path, a=f"x = {number % 10}\n")
        seen.append(reader.reach("step").code["a"])
    assert all(one != two for one, two in itertools.pairwise(seen))
    assert seen[:10] == seen[10:20]


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    write(tmp_path, step="x = 1\n")
    old = time.time() - 1000
    os.utime(tmp_path / "step.py", (old, old))
    reader = CodeReader(tmp_path)
    time.sleep(0.15)
    before = reader.reach("step").code
    assert reader.reach("step").code == before
    write(tmp_path, step="x = 2\n")
    os.utime(tmp_path / "step.py", (old, old))
    assert reader.reach("step").code != before


def test_a_module_that_appears_or_goes_is_seen(tmp_path: Path) -> None:
    write(tmp_path, step="try:\n    import extra\nexcept ImportError: ...\n")
    reader = CodeReader(tmp_path)
    time.sleep(0.15)
    assert set(reader.reach("step").code) == {"step"}
    write(tmp_path, extra="x = 1\n")
    assert set(reader.reach("step").code) == {"step", "extra"}
    time.sleep(0.15)
    assert set(reader.reach("step").code) == {"step", "extra"}
    (tmp_path / "extra.py").unlink()
    assert set(reader.reach("step").code) == {"step"}


def test_asking_again_costs_microseconds(tmp_path: Path) -> None:
    write(tmp_path, step="from modelyard.data import Dataset\nimport a, b, c\n", a="", b="", c="")
    time.sleep(0.15)
    reader = CodeReader(tmp_path)
    first = reader.reach("step")
    taken = []
    for _ in range(50):
        started = time.perf_counter()
        again = reader.reach("step")
        taken.append(time.perf_counter() - started)
    assert again is first
    assert min(taken) < 200e-6


def aged(project: Path) -> None:
    """Let the clock pass the ticks in which a second change could hide."""
    for path in project.rglob("*.py"):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    time.sleep(0.15)


def test_what_was_read_is_remembered_between_readers_where_the_project_has_its_folder(tmp_path: Path) -> None:
    write(tmp_path, step="import a\n", a="x = 1\n")
    aged(tmp_path)
    first = CodeReader(tmp_path).reach("step")
    assert {path.name for path in tmp_path.iterdir()} == {"a.py", "step.py"}
    (tmp_path / ".modelyard").mkdir()
    assert CodeReader(tmp_path).reach("step") == first
    kept = tmp_path / ".modelyard" / "code.json"
    # A digest that no source has shows that the file is what answers.
    kept.write_text(kept.read_text().replace(first.code["a"], "f" * 64))
    assert CodeReader(tmp_path).reach("step").code == {**first.code, "a": "f" * 64}
    write(tmp_path, a="x = 1\n")
    assert CodeReader(tmp_path).reach("step") == first


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": "0", "files": {}}'])
def test_a_damaged_or_foreign_memory_is_read_as_none(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, step="x = 1\n")
    aged(tmp_path)
    first = CodeReader(tmp_path).reach("step")
    (tmp_path / ".modelyard").mkdir()
    (tmp_path / ".modelyard" / "code.json").write_bytes(content)
    assert CodeReader(tmp_path).reach("step") == first


def test_a_memory_that_can_not_be_written_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, step="x = 1\n")
    aged(tmp_path)
    (tmp_path / ".modelyard" / "code.json").mkdir(parents=True)
    assert set(CodeReader(tmp_path).reach("step").code) == {"step"}
    assert [path.name for path in (tmp_path / ".modelyard").iterdir()] == ["code.json"]
