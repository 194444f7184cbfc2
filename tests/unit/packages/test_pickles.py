"""A pickle is loaded only where its digest is the trusted one, and otherwise leaves no mark, however it is named."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression

from modelyard.data import Dataset, Field
from modelyard.errors import DataError, IntegrityError, ModelyardError, NotFoundError, RefusedError
from modelyard.files import blake3_bytes
from modelyard.packages.golden import ANSWERS
from modelyard.packages.intake import FormatError, Wishes, take_in
from modelyard.packages.manifest import MANIFEST, make_manifest
from modelyard.packages.model import load_model, save_model
from modelyard.packages.package import Package, build_package
from modelyard.packages.pickles import PICKLE_FILE, pickle_digest
from modelyard.serving import packaged

FIELDS = (Field("x", "float64"),)
ROWS = np.arange(40, dtype=np.float64)


class Threshold(ClassifierMixin, BaseEstimator):
    """An estimator of somebody's own, as skops refuses it."""

    def fit(self, X, y):  # noqa: N803  (the name is scikit-learn's)
        self.classes_, self.n_features_in_, self.bound_ = np.unique(y), X.shape[1], float(X.mean())
        return self

    def predict_proba(self, X):  # noqa: N803  (the name is scikit-learn's)
        above = (X[:, 0] > self.bound_).astype(np.float64)
        return np.stack([1 - above, above], axis=1)


def marking(content: bytes, mark: Path) -> bytes:
    """A pickle that leaves a mark when it is loaded, and gives what another one gives."""
    path = str(mark).encode()
    return b"\x80\x02cos\nmakedirs\n(X" + struct.pack("<I", len(path)) + path + b"I511\nI01\ntR0" + content


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def model(tmp_path: Path, mark: Path) -> Path:
    """A saved model that leaves a mark when it is loaded."""
    folder = tmp_path / "model"
    fitted = LinearRegression().fit(ROWS[:, None], ROWS * 2)
    save_model(folder, flavour="pickle", model=fitted, inputs=FIELDS, prediction_type="regression")
    file = folder / PICKLE_FILE
    file.write_bytes(marking(file.read_bytes(), mark))
    return folder


@pytest.fixture
def package(tmp_path: Path, model: Path) -> Path:
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    answers = [{"value": float(row * 2)} for row in range(8)]
    (evidence / ANSWERS).write_text(json.dumps({"rows": answers}))
    build_package(
        tmp_path / "package", model=model, samples=Dataset({"x": ROWS}), name="m", evidence=evidence, metrics={},
        provenance={},
    )  # fmt: skip
    return tmp_path / "package"


def sealed(package: Path) -> None:
    """Write a manifest that fits what was changed."""
    (package / MANIFEST).write_bytes(make_manifest(package, "m").to_json())


@pytest.mark.parametrize(
    "estimator", [HistGradientBoostingClassifier(max_iter=3), Threshold()], ids=lambda e: type(e).__name__
)
def test_an_estimator_that_has_no_other_form_answers_as_it_did(tmp_path: Path, estimator) -> None:
    fitted = estimator.fit(ROWS[:, None], ROWS > 15)
    info = save_model(
        tmp_path / "m", flavour="pickle", model=fitted, inputs=FIELDS, prediction_type="classification",
        classes=(False, True),
    )  # fmt: skip
    assert info.is_pickled
    loaded = load_model(tmp_path / "m", trusted_pickle=pickle_digest(tmp_path / "m"))
    answer = loaded.predict({"x": ROWS})
    np.testing.assert_allclose(answer["probabilities"], fitted.predict_proba(ROWS[:, None]), rtol=1e-6)


def test_what_is_no_fitted_estimator_or_can_not_be_pickled_is_told(tmp_path: Path) -> None:
    unfitted, odd = LinearRegression(), LinearRegression().fit(ROWS[:, None], ROWS)
    odd.hook = lambda: None
    for value, told in ((unfitted, "not fitted"), (object(), "neither a classifier"), (odd, "can't be pickled")):
        with pytest.raises(DataError, match=told):
            save_model(tmp_path / "m", flavour="pickle", model=value, inputs=FIELDS, prediction_type="regression")


def test_a_pickle_that_nobody_trusts_is_refused_with_place_and_remedy_and_does_not_run(
    package: Path, mark: Path
) -> None:
    opened = Package.open(package)
    for load in (
        lambda: load_model(package / "model"),
        lambda: load_model(package / "model", "native"),
        opened.predictor,
        opened.served,
        lambda: packaged.load(package),
        lambda: packaged.verify(package),
    ):
        with pytest.raises(RefusedError, match="runs whatever its author wrote") as told:
            load()
        assert told.value.where == str(package / "model" / PICKLE_FILE)
        assert "approved" in str(told.value.remedy)
        assert "allow_pickle" in str(told.value.remedy)
    with pytest.raises(NotFoundError):
        opened.predictor("onnx")
    assert not mark.exists()


def test_the_trusted_pickle_is_loaded_and_served(package: Path, mark: Path) -> None:
    trusted = pickle_digest(package / "model")
    packaged.verify(package, trusted)
    assert not mark.exists(), "verifying loads nothing"
    served = packaged.load(package, trusted)
    assert served.predict({"x": np.array([21.0])})["value"].tolist() == [42.0]
    assert mark.exists(), "the payload would leave a mark"


def test_a_flipped_bit_is_refused_also_with_a_manifest_that_fits(package: Path, mark: Path) -> None:
    trusted = pickle_digest(package / "model")
    file = package / "model" / PICKLE_FILE
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match="differs from the manifest"):
        packaged.load(package, trusted)
    sealed(package)
    for load in (packaged.load, packaged.verify):
        with pytest.raises(IntegrityError, match="not the one that is trusted"):
            load(package, trusted)
    assert not mark.exists()


def test_what_was_hashed_is_what_is_loaded(package: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes the file after it was hashed changes nothing: it is read once."""
    file = package / "model" / PICKLE_FILE
    honest = pickle.dumps(LinearRegression().fit(ROWS[:, None], ROWS * 2), 5)
    evil = file.read_bytes()
    file.write_bytes(honest)

    def hashed(content: bytes) -> str:
        file.write_bytes(evil)
        return blake3_bytes(content)

    monkeypatch.setattr("modelyard.packages.pickles.blake3_bytes", hashed)
    load_model(package / "model", trusted_pickle=blake3_bytes(honest))
    assert file.read_bytes() == evil
    assert not mark.exists()


@pytest.mark.parametrize(
    "flavour", ["Pickle", "PICKLE", "joblib", "cloudpickle", "python_function", "mlflow", "sklearn"]
)
def test_no_other_name_brings_a_pickle_in(package: Path, mark: Path, flavour: str) -> None:
    """As MLflow and others call it: under a name that nothing here knows, or in the place of another file."""
    trusted = pickle_digest(package / "model")
    content = (package / "model" / PICKLE_FILE).read_bytes()
    info = json.loads((package / "model" / "model.json").read_text())
    (package / "model" / "model.json").write_text(json.dumps(info | {"flavour": flavour}))
    for name in ("model.skops", "python_model.pkl", "model.joblib", "data.pkl"):
        (package / "model" / name).write_bytes(content)
    sealed(package)
    for given in (None, trusted):
        with pytest.raises(ModelyardError):
            packaged.load(package, given)
        with pytest.raises(ModelyardError):
            load_model(package / "model", trusted_pickle=given)
    assert not mark.exists()


@pytest.mark.parametrize("name", [PICKLE_FILE, "../model/model.pkl", "/tmp/model.onnx", "model.onnx"])
def test_a_pickle_as_the_onnx_file_does_not_run(package: Path, mark: Path, name: str) -> None:
    content = (package / "model" / PICKLE_FILE).read_bytes()
    (package / "model" / "model.onnx").write_bytes(content)
    info = json.loads((package / "model" / "model.json").read_text())
    onnx = {"file": name, "input": "input", "output": "scores"}
    (package / "model" / "model.json").write_text(json.dumps(info | {"onnx": onnx}))
    sealed(package)
    with pytest.raises(ModelyardError):
        packaged.load(package, blake3_bytes(content))
    assert not mark.exists()


def test_packing_loads_no_pickle_and_needs_the_evaluators_answers(tmp_path: Path, model: Path, mark: Path) -> None:
    for answers in (None, '{"rows": [{"value": 1.0}]}', '{"rows": [{"label": 1}]}', "x"):
        evidence = tmp_path / f"evidence-{answers is None}-{len(answers or '')}"
        evidence.mkdir()
        if answers is not None:
            (evidence / ANSWERS).write_text(answers)
        with pytest.raises(DataError, match="answers"):
            build_package(
                tmp_path / "p", model=model, samples=Dataset({"x": ROWS}), name="m", evidence=evidence, metrics={},
                provenance={},
            )  # fmt: skip
    assert not mark.exists()


def test_mlflow_is_told_that_it_is_a_pickle(package: Path) -> None:
    text = (package / "MLmodel").read_text()
    assert 'serialization_format: "pickle"' in text
    assert f'pickled_model: "model/{PICKLE_FILE}"' in text


@pytest.mark.parametrize("onnx", [None, {"file": "model.onnx", "input": "input", "output": "scores"}])
def test_an_uploaded_package_with_a_pickle_is_never_taken(tmp_path: Path, package: Path, mark: Path, onnx) -> None:
    info = json.loads((package / "model" / "model.json").read_text())
    (package / "model" / "model.json").write_text(json.dumps(info | {"onnx": onnx}))
    sealed(package)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for file in sorted(package.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(package).as_posix())
    upload = tmp_path / "upload.zip"
    upload.write_bytes(sink.getvalue())
    with pytest.raises(FormatError, match="never taken from a client"):
        take_in(upload, tmp_path / "taken", name="m", proto=None, own_proto=True, wishes=Wishes())
    assert not mark.exists()
