"""Pictures: for few classes and many, few rows and many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelyard.steps import plots


@pytest.mark.parametrize("size", [2, 10, 40, 150])
def test_a_confusion_matrix_of_any_size_is_a_picture(tmp_path: Path, size: int) -> None:
    matrix = np.eye(size, dtype=np.int64) * 50 + 1
    plots.draw_confusion_matrix(matrix, [f"class {i}" for i in range(size)], tmp_path / "m")
    with Image.open(tmp_path / "m.png") as image:
        assert min(image.size) > 400
        assert max(image.size) < 3000
    assert "<svg" in (tmp_path / "m.svg").read_text()


def test_a_class_without_rows_and_one_epoch_alone_can_be_drawn(tmp_path: Path) -> None:
    plots.draw_confusion_matrix(np.array([[3, 0], [0, 0]]), [False, True], tmp_path / "m")
    plots.draw_loss_curve([{"epoch": 1, "loss": 0.5}], tmp_path / "l")
    plots.draw_regression(np.ones(3), np.ones(3), "y", tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_many_rows_are_counted_so_that_the_drawing_stays_small(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    plots.draw_regression(draw.random(100_000), draw.random(100_000), "y", tmp_path)
    assert (tmp_path / "residuals.svg").stat().st_size < 1_500_000


def test_the_settings_of_matplotlib_stay_the_users(tmp_path: Path) -> None:
    code = (
        "import matplotlib, sys; from pathlib import Path; before = matplotlib.rcParams.copy();"
        "from modelyard.steps import plots;"
        "plots.draw_loss_curve([{'epoch': 1, 'loss': 1.0}], Path(sys.argv[1]) / 'l');"
        "assert matplotlib.rcParams.copy() == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
