"""What every Flavour promises, as tests. Subclass `FlavourConformance`, and give the hooks."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelyard.contracts import Flavour, Predictor
from modelyard.errors import DataError, IntegrityError
from modelyard.packages.flavours.heads import INPUT, SCORES, Head, close
from modelyard.packages.flavours.onnx_runtime import OnnxPredictor

__all__ = ["FlavourConformance"]


class FlavourConformance:
    """Tests over one implementation; a class of yours derives from it, with the hooks below."""

    has_onnx = True
    """Whether the models given have an ONNX form."""

    def new_flavour(self) -> Flavour:
        """Return the flavour."""
        raise NotImplementedError

    def model(self) -> Any:
        """Return a trained model, made anew on each call but equal."""
        raise NotImplementedError

    def rows(self, count: int) -> NDArray[np.float32]:
        """Return so many rows that the model takes."""
        raise NotImplementedError

    def scores(self, model: Any, rows: NDArray[np.float32]) -> NDArray[Any]:
        """Return what the library itself gives for the rows."""
        raise NotImplementedError

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        """A folder with the saved model."""
        folder = tmp_path / "saved"
        folder.mkdir()
        self.new_flavour().save(self.model(), folder)
        return folder

    def test_it_is_a_flavour_with_a_name(self) -> None:
        flavour = self.new_flavour()
        assert isinstance(flavour, Flavour)
        assert flavour.name

    def test_saving_says_what_the_scores_are(self, tmp_path: Path) -> None:
        facts = self.new_flavour().save(self.model(), tmp_path)
        assert Head(facts["head"])
        assert ("onnx" in facts) == self.has_onnx
        if self.has_onnx:
            assert (tmp_path / facts["onnx"]["file"]).is_file()
        else:
            assert facts["onnx_missing"], "what is missing must be told"

    def test_a_loaded_model_gives_the_librarys_scores(self, saved: Path) -> None:
        predictor = self.new_flavour().load(saved)
        assert isinstance(predictor, Predictor)
        for count in (1, 2, 9):
            rows = self.rows(count)
            scores = predictor.predict({INPUT: rows})[SCORES]
            assert close(np.asarray(self.scores(self.model(), rows)), scores)

    def test_onnx_gives_the_same_scores(self, tmp_path: Path) -> None:
        facts = self.new_flavour().save(self.model(), tmp_path)
        if not self.has_onnx:
            assert not list(tmp_path.glob("*.onnx")), "a file that is not said to be there must not be"
            return
        graph = facts["onnx"]
        predictor = OnnxPredictor(tmp_path / graph["file"], input_name=graph["input"], output_name=graph["output"])
        for count in (1, 2, 9):
            rows = self.rows(count)
            scores = predictor.predict({INPUT: rows})[SCORES]
            assert close(np.asarray(self.scores(self.model(), rows)).reshape(-1), scores.reshape(-1))

    def test_a_row_does_not_depend_on_its_neighbours(self, saved: Path) -> None:
        predictor = self.new_flavour().load(saved)
        rows = self.rows(5)
        whole = predictor.predict({INPUT: rows})[SCORES]
        single = [predictor.predict({INPUT: rows[index : index + 1]})[SCORES] for index in range(5)]
        assert close(whole, np.concatenate(single))

    def test_predicting_changes_neither_rows_nor_model(self, saved: Path) -> None:
        predictor = self.new_flavour().load(saved)
        rows = self.rows(4)
        before = rows.copy()
        first = predictor.predict({INPUT: rows})[SCORES]
        second = predictor.predict({INPUT: rows})[SCORES]
        assert np.array_equal(rows, before)
        assert np.array_equal(first, second)

    def test_equal_models_give_equal_files(self, saved: Path, tmp_path: Path) -> None:
        again = tmp_path / "again"
        again.mkdir()
        self.new_flavour().save(self.model(), again)
        names = sorted(path.name for path in saved.iterdir())
        assert names == sorted(path.name for path in again.iterdir())
        for name in names:
            assert (saved / name).read_bytes() == (again / name).read_bytes(), name

    def test_no_file_is_a_pickle(self, saved: Path) -> None:
        for path in saved.iterdir():
            parts = [path.read_bytes()]
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    parts += [archive.read(name) for name in archive.namelist()]
            # Since protocol 2 a pickle starts with its protocol and ends with a stop.
            assert not any(part[:1] == b"\x80" and part[1:2] <= b"\x05" and part[-1:] == b"." for part in parts), path

    def test_a_truncated_or_missing_model_is_an_integrity_error(self, saved: Path) -> None:
        flavour = self.new_flavour()
        for path in sorted(saved.iterdir()):
            if path.suffix == ".onnx" and len(list(saved.iterdir())) > 1:
                # The native runtime does not read it.
                continue
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            with pytest.raises(IntegrityError):
                flavour.load(saved)
            path.unlink()
            with pytest.raises(IntegrityError):
                flavour.load(saved)
            path.write_bytes(whole)

    def test_what_is_no_model_of_the_library_is_refused(self, tmp_path: Path) -> None:
        for value in (object(), {"weights": [1]}, lambda rows: rows):
            with pytest.raises(DataError):
                self.new_flavour().save(value, tmp_path)
