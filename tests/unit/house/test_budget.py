"""Starting is fast: what `import modelyard` and `modelyard --help` load, and what they cost beside bare Python."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelyard.yard import rooms

HEAVY = (
    "numpy", "pydantic", "sqlalchemy", "alembic", "torch", "sklearn", "pyarrow", "fsspec", "rich", "onnxruntime",
    "ruamel", "cryptography", "httptools", "matplotlib", "asyncio",
)  # fmt: skip


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in out.split()}


def fastest(*command: str) -> float:
    """Seconds of the quickest of nine starts: the one the machine disturbed least."""
    times = []
    for _ in range(9):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_importing_modelyard_loads_no_heavy_library() -> None:
    assert not loaded_after("import modelyard") & set(HEAVY)


def test_help_loads_no_heavy_library() -> None:
    statement = "from modelyard.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded_after(statement) & set(HEAVY)


NEVER = {
    "torch", "sklearn", "skops", "onnx", "onnxruntime", "httptools", "uvloop", "prometheus_client", "matplotlib", "PIL",
    "alembic", "pyarrow", "pandas", "fsspec", "safetensors", "numpy", "aiohttp", "httpx",
}  # fmt: skip
"""What no command loads that only looks."""

TO_LIST = NEVER | {"pydantic", "ruamel", "cryptography", "modelyard.blueprint.model", "modelyard.center"}
TO_PLAN = NEVER | {"cryptography", "modelyard.center", "modelyard.packages", "modelyard.serving"}
TO_RELEASE = NEVER | {"modelyard.packages", "modelyard.serving", "modelyard.engines"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a catalog that exists: making one needs Alembic."""
    folder = tmp_path_factory.mktemp("budget")
    for command in (("init", "--template", "digits-small"), ("ls",)):
        subprocess.run([sys.executable, "-m", "modelyard", *command], cwd=folder, capture_output=True, check=True)
    return folder


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("ls", TO_LIST),
        ("why train", TO_LIST),
        ("logs latest train", TO_LIST),
        ("plan", TO_PLAN),
        ("show digits", TO_RELEASE),
        ("release digits --to dev", TO_RELEASE),
    ],
)
def test_a_command_loads_what_it_needs(project: Path, command: str, without: set[str]) -> None:
    """The commands may fail, for nothing was run yet; what they load until then is what they load."""
    statement = (
        "import sys\nfrom modelyard.cli import main\n"
        f"try: main(['-C', {str(project)!r}, *{command.split()!r}])\nexcept SystemExit: pass\n"
        "print('loaded', *sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    assert "modelyard.yard.yard" in loaded
    assert not loaded & (without | {"sqlalchemy.dialects.postgresql"})


def test_every_name_in_rooms_is_found_where_it_is_said_to_live() -> None:
    for name, home in rooms.HOME.items():
        found = getattr(rooms, name)
        assert (found.__module__, found.__name__) == (home, name)


def test_rooms_tells_a_type_checker_what_it_hands_out_at_run_time() -> None:
    (told,) = (
        node.body
        for node in ast.parse(inspect.getsource(rooms)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = [node for node in told if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == rooms.HOME


def test_import_and_help_stay_close_to_a_bare_interpreter() -> None:
    """50 ms and 100 ms on a machine whose interpreter starts in about 12 ms: 5 and 9 times a bare start."""
    bare = fastest(sys.executable, "-c", "pass")
    assert fastest(sys.executable, "-c", "import modelyard") <= 5 * bare
    assert fastest(sys.executable, "-m", "modelyard", "--help") <= 9 * bare
