"""Equal work gives equal bytes, in this process and another."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

DRAW = """
import sys
from pathlib import Path
import numpy as np
from modelyard.steps import plots
folder = Path(sys.argv[1])
draw = np.random.default_rng(0)
history = [{"epoch": n, "loss": 1 / n, "validation_loss": 1 / n + 0.01 * n} for n in range(1, 9)]
plots.draw_loss_curve(history, folder / "loss_curve")
plots.draw_confusion_matrix(draw.integers(0, 90, (3, 3)), ["a", "b", "c"], folder / "confusion_matrix")
plots.draw_regression(draw.random(50), draw.random(50), "price", folder)
"""


TRAIN = """
import sys
from pathlib import Path
import numpy as np
from modelyard.data import Dataset
from modelyard.steps.torch_trainer import train
from modelyard.testing.context import RecordedContext
root = Path(sys.argv[1])
image = np.random.default_rng(0).random((120, 12, 12)).astype("f4")
data = Dataset({"image": image, "label": np.arange(120) % 4}, "label", (0, 1, 2, 3))
layers = [
    {"type": "convolutional", "units": 4, "kernel": 3, "activation": "relu"},
    {"type": "batch_norm"},
    {"type": "max_pooling", "kernel": 2},
    {"type": "dropout", "rate": 0.2},
    {"type": "flatten"},
    {"type": "fully_connected", "units": 4},
]
context = RecordedContext(root, root, cores=2)
train(context, train=data, layers=layers, epochs=2, batch=32, validation=0.2, seed=5)
"""


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("code", "file"), [(DRAW, "residuals.svg"), (TRAIN, "model/model.safetensors")])
def test_two_processes_make_the_same_bytes(tmp_path: Path, code: str, file: str) -> None:
    seen = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / name)], check=True)
        seen.append(digests(tmp_path / name))
    assert file in seen[0]
    assert seen[0] == seen[1]
