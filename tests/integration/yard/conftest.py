"""The project that most of these tests begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.projects import modelyard, trees_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trees, of which version 1.0.0 is released to dev."""
    folder = trees_project(tmp_path_factory.mktemp("trees"))
    modelyard(folder, "run")
    modelyard(folder, "submit", "--as", "dana")
    modelyard(folder, "approve", "trees", "--as", "morgan")
    modelyard(folder, "release", "trees", "--to", "dev", "--as", "morgan")
    return folder
