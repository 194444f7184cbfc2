"""Starting is fast: what `import modelyard` and `modelyard --help` load, and what they cost beside bare Python."""

from __future__ import annotations

import subprocess
import sys
import time

HEAVY = (
    "numpy", "pydantic", "sqlalchemy", "alembic", "torch", "sklearn", "pyarrow", "fsspec", "rich", "onnxruntime",
    "ruamel", "cryptography", "granian", "matplotlib", "asyncio",
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


def test_import_and_help_stay_close_to_a_bare_interpreter() -> None:
    """50 ms and 100 ms on a machine whose interpreter starts in about 12 ms: 5 and 9 times a bare start."""
    bare = fastest(sys.executable, "-c", "pass")
    assert fastest(sys.executable, "-c", "import modelyard") <= 5 * bare
    assert fastest(sys.executable, "-m", "modelyard", "--help") <= 9 * bare
