"""A package is whole, the same for the same model, and verified before it answers."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from tests.unit.packages.conftest import PROVENANCE, customers, images, save_forest, save_network

from modelyard.data import Dataset
from modelyard.errors import ContractError, DataError, InputError, IntegrityError
from modelyard.packages.package import Package

Pack = Callable[..., Any]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def package(tmp_path: Path, network: Path, pack: Pack) -> Path:
    """A built package."""
    pack(tmp_path / "package", network, images())
    return tmp_path / "package"


def test_a_package_holds_what_the_format_says(package: Path) -> None:
    assert set(files(package)) == {
        "MLmodel", "contract.json", "manifest.json", "metadata.json", "model.proto",
        "model/layers.json", "model/model.json", "model/model.onnx", "model/model.safetensors",
        "model/transform/arrays.safetensors", "model/transform/transform.json",
        "samples/inputs.json", "samples/outputs.json",
        "evidence/confusion_matrix.json", "evidence/environment.lock", "evidence/metrics.json",
        "evidence/model_card.md", "evidence/provenance.json",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["network", "forest"])
def test_equal_models_give_equal_bytes(kind: str, tmp_path: Path, pack: Pack) -> None:
    save, data = (save_network, images()) if kind == "network" else (save_forest, customers())
    manifests = [pack(tmp_path / name, save(tmp_path / f"model-{name}"), data) for name in "ab"]
    assert manifests[0] == manifests[1]
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_an_opened_package_answers_its_golden_samples_in_every_runtime(package: Path) -> None:
    opened = Package.open(package)
    golden = opened.golden()
    assert len(golden.inputs["image"]) == 8
    for runtime in ("auto", "onnx", "native"):
        opened.check_golden(opened.predictor(runtime))  # type: ignore[arg-type]  # each is one of the literals
    assert opened.contract == opened.predictor().contract
    assert opened.name == "digits"


def test_a_wrong_answer_fails_the_golden_samples_and_names_row_and_field(package: Path) -> None:
    opened = Package.open(package)

    class Wrong:
        def predict(self, columns: Any) -> Any:
            right = dict(opened.predictor().predict(columns))
            right["probabilities"] = right["probabilities"].copy()
            right["probabilities"][3, 1] += 0.05
            return right

    with pytest.raises(IntegrityError, match="row 3, field 'probabilities'"):
        opened.check_golden(Wrong())


def test_the_samples_are_a_request_as_it_is_sent(tmp_path: Path, forest: Path, pack: Pack) -> None:
    pack(tmp_path / "p", forest, customers())
    request = json.loads((tmp_path / "p" / "samples" / "inputs.json").read_text())
    assert list(request["rows"][0]) == ["age", "visits", "city"]
    assert any(
        row["age"] is None for row in json.loads((tmp_path / "p" / "samples" / "inputs.json").read_text())["rows"]
    ) == bool(np.isnan(customers().columns["age"][:8]).any())


def test_fewer_rows_make_fewer_samples_and_none_are_refused(tmp_path: Path, network: Path, pack: Pack) -> None:
    pack(tmp_path / "few", network, images(3))
    assert len(Package.open(tmp_path / "few").golden().inputs["image"]) == 3
    with pytest.raises(DataError, match="at least one row"):
        pack(tmp_path / "none", network, images(0))
    assert not (tmp_path / "none").exists()


def test_samples_that_do_not_fit_the_contract_are_refused(tmp_path: Path, network: Path, pack: Pack) -> None:
    with pytest.raises(ContractError):
        pack(tmp_path / "p", network, Dataset({"image": np.zeros((2, 5, 5), np.uint8)}))
    assert not (tmp_path / "p").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_a_model_whose_two_forms_disagree_is_not_packed(tmp_path: Path, network: Path, pack: Pack) -> None:
    other = save_forest(tmp_path / "other")
    assert other.exists()
    import torch

    from modelyard.packages.flavours.torch import load_network

    changed = load_network(network)
    with torch.no_grad():
        changed.body[1].bias += 5
    from safetensors.torch import save_file

    save_file(changed.state_dict(), network / "model.safetensors")
    with pytest.raises(IntegrityError, match="different answers: row"):
        pack(tmp_path / "p", network, images())


def test_a_folder_that_holds_something_is_not_written_over(tmp_path: Path, network: Path, pack: Pack) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        pack(tmp_path / "p", network, images())
    assert files(tmp_path / "p") == {"mine": b"precious"}


def test_evidence_of_the_evaluator_wins_over_what_is_generated(tmp_path: Path, network: Path, pack: Pack) -> None:
    evidence = tmp_path / "mine"
    evidence.mkdir()
    (evidence / "metrics.json").write_text('{"accuracy": 1}')
    pack(tmp_path / "p", network, images(), evidence=evidence)
    assert (tmp_path / "p" / "evidence" / "metrics.json").read_text() == '{"accuracy": 1}'
    assert Package.open(tmp_path / "p")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that tests change and put right again."""
    from modelyard.packages.package import build_package

    folder = tmp_path_factory.mktemp("shared")
    build_package(
        folder / "package", model=save_network(folder / "model"), samples=images(), name="digits",
        metrics={"accuracy": 1}, provenance=PROVENANCE,
    )  # fmt: skip
    return folder / "package"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_a_flipped_bit_in_any_file_is_found_and_the_file_is_named(shared: Path, chance: random.Random) -> None:
    path = chance.choice(sorted(path for path in shared.rglob("*") if path.is_file() and path.stat().st_size))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    path.write_bytes(damaged)
    try:
        with pytest.raises(IntegrityError) as caught:
            Package.open(shared)
        assert caught.value.where == str(path)
    finally:
        path.write_bytes(whole)
    assert Package.open(shared).name == "digits"


def test_a_missing_or_added_file_or_a_link_to_something_else_is_named(shared: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for change in ("missing", "added", "linked", "manifest"):
        shutil.copytree(shared, copy)
        place = copy / "model" / "model.onnx"
        if change == "missing":
            place.unlink()
        elif change == "added":
            place = copy / "evidence" / "extra.txt"
            place.write_text("hello")
        elif change == "linked":
            place.unlink()
            place.symlink_to(shared / "contract.json")
        else:
            place = copy / "manifest.json"
            place.unlink()
        with pytest.raises(IntegrityError) as caught:
            Package.open(copy)
        assert caught.value.where == str(place)
        shutil.rmtree(copy)


def test_a_contract_that_is_not_the_models_is_found(shared: Path, tmp_path: Path) -> None:
    from modelyard.packages.manifest import MANIFEST, make_manifest

    copy = tmp_path / "copy"
    shutil.copytree(shared, copy)
    contract = json.loads((copy / "contract.json").read_text())
    contract["operation"] = "guess"
    (copy / "contract.json").write_text(json.dumps(contract))
    (copy / MANIFEST).write_bytes(make_manifest(copy, "digits").to_json())
    with pytest.raises(IntegrityError, match="different fields"):
        Package.open(copy).predictor()


def test_the_metadata_has_what_acumos_schema_0_6_0_requires(shared: Path) -> None:
    metadata = Package.open(shared).metadata
    assert metadata["schema"] == "acumos.schema.model:0.6.0"
    assert set(metadata) == {"schema", "name", "runtime", "methods"}
    runtime = metadata["runtime"]
    assert runtime["name"] in ("python", "r", "javaargus", "h2o", "javageneric")
    assert set(runtime) == {"name", "version", "dependencies"}
    assert set(runtime["dependencies"]["pip"]) == {"indexes", "requirements"}
    assert set(runtime["dependencies"]["conda"]) == {"channels", "requirements"}
    assert {each["name"]: each["version"] for each in runtime["dependencies"]["pip"]["requirements"]} == {
        "numpy": "2.4.6",
        "onnxruntime": "1.31.1",
    }
    allowed = {"application/vnd.google.protobuf", "application/octet-stream", "application/json", "text/plain"}
    for method in metadata["methods"].values():
        assert set(method) == {"description", "input", "output"}
        for side in (method["input"], method["output"]):
            assert set(side) == {"name", "media_type", "metadata", "description"}
            assert set(side["media_type"]) <= allowed
            assert f"message {side['name']} {{" in Package.open(shared).proto


def test_mlmodel_is_yaml_that_points_at_the_onnx_file_and_names_no_code(shared: Path) -> None:
    content = YAML(typ="safe").load((shared / "MLmodel").read_text())
    assert (shared / content["flavors"]["onnx"]["data"]).is_file()
    assert "python_function" not in content["flavors"]
    assert content["flavors"]["modelyard"]["contract_digest"] == Package.open(shared).contract.digest


def test_the_model_card_and_the_lock_tell_where_the_model_comes_from(shared: Path) -> None:
    card = (shared / "evidence" / "model_card.md").read_text()
    for part in (
        "# digits",
        "| accuracy | 1 |",
        "file:train.csv",
        "steps.train",
        '"alpha": 0.1',
        "not committed",
        "## Limits",
    ):
        assert part in card
    lock = (shared / "evidence" / "environment.lock").read_text()
    assert lock == "# platform: Linux\n# python: 3.11.7\nnumpy==2.4.6\nonnxruntime==1.31.1\n"


def test_a_package_answers_where_no_training_library_can_be_imported(shared: Path) -> None:
    program = textwrap.dedent("""
        import sys
        from pathlib import Path

        class Block:
            names = {"torch", "sklearn", "skops", "skl2onnx", "onnx", "onnxscript", "pydantic", "sqlalchemy", "pandas",
                     "pyarrow", "scipy", "google", "fsspec", "ruamel"}

            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in self.names:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
                return None

        sys.meta_path.insert(0, Block())
        from modelyard.packages.package import Package
        package = Package.open(Path(sys.argv[1]))
        model = package.predictor()
        package.check_golden(model)
        print(len(model.predict(package.golden().inputs)["label"]))
    """)
    done = subprocess.run([sys.executable, "-c", program, str(shared)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "8\n"
