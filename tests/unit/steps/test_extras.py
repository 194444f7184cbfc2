"""What a step says where an optional library is not installed: a fresh process that can't import it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
for name in {absent!r}:
    sys.modules[name] = None
from pathlib import Path
from modelyard.errors import MissingExtraError
from modelyard.testing.context import RecordedContext
try:
    {action}
except MissingExtraError as error:
    print(error)
"""
FOLDER = "import_data(RecordedContext(Path('.'), Path('.')), format='image_folder', local_data='.')"


@pytest.mark.parametrize(
    ("absent", "action", "extra"),
    [
        (["torch"], "import modelyard.steps.torch_trainer", "modelyard[torch]"),
        (["sklearn", "sklearn.base"], "import modelyard.steps.sklearn_trainer", "modelyard[sklearn]"),
        (["PIL"], f"from modelyard.steps.importer import import_data; {FOLDER}", "modelyard[images]"),
    ],
)
def test_a_missing_library_is_named_with_the_line_that_installs_it(
    tmp_path: Path, absent: list[str], action: str, extra: str
) -> None:
    code = CODE.format(absent=absent, action=action)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"pip install '{extra}'" in done.stdout


@pytest.mark.parametrize(
    "module", ["modelyard.steps.importer", "modelyard.steps.evaluator", "modelyard.steps.transform"]
)
def test_importer_transform_and_evaluator_load_without_any_extra(module: str) -> None:
    absent = ["torch", "sklearn", "matplotlib", "PIL", "pandas", "onnxruntime", "onnx", "skops"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import {module}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
