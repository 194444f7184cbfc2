"""Packages that were made to do harm: each is refused before anything of it is believed or run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from skops import io as skops_io
from tests.unit.packages.conftest import images

from modelyard.data import Field
from modelyard.errors import ContractError, IntegrityError, ModelyardError
from modelyard.packages.contract import Contract
from modelyard.packages.manifest import MANIFEST, FileEntry, make_manifest
from modelyard.packages.model import load_model
from modelyard.packages.package import Package


@pytest.fixture
def package(tmp_path: Path, network: Path, pack: Callable[..., Any]) -> Path:
    pack(tmp_path / "package", network, images())
    return tmp_path / "package"


def seal(package: Path) -> None:
    """Write a manifest that fits, as whoever made the package could."""
    (package / MANIFEST).write_bytes(make_manifest(package, "digits").to_json())


def edit(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def opened(package: Path) -> None:
    found = Package.open(package)
    found.check_golden(found.predictor("onnx"))


@pytest.mark.parametrize("place", ["../outside.onnx", "sub/../../outside.onnx", "absolute", ".", "..", ""])
def test_a_model_file_outside_the_model_is_refused_although_it_is_a_good_model(package: Path, place: str) -> None:
    outside = package / "outside.onnx"
    shutil.copyfile(package / "model" / "model.onnx", outside)
    name = str(outside) if place == "absolute" else place
    edit(package / "model" / "model.json", lambda info: info["onnx"].update(file=name))
    seal(package)
    with pytest.raises(IntegrityError, match="does not lie in the model's folder"):
        opened(package)


@pytest.mark.parametrize("path", ["../../../../etc/passwd", "/etc/passwd", "model/../../x"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(package: Path, path: str) -> None:
    manifest = make_manifest(package, "digits")
    files = manifest.files | {path: FileEntry("0" * 64, 1)}
    changed = type(manifest)("digits", files, _digest("digits", files))
    (package / MANIFEST).write_bytes(changed.to_json())
    with pytest.raises(IntegrityError):
        opened(package)


def _digest(name: str, files: dict[str, FileEntry]) -> str:
    from modelyard.packages import manifest

    return manifest._digest(name, files)


@pytest.mark.parametrize("kind", ["fifo", "folder link"])
def test_what_is_no_plain_file_is_refused(package: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(package / "pipe")
    else:
        (package / "link").symlink_to("/etc")
    with pytest.raises(IntegrityError, match="plain files and folders"):
        opened(package)


@pytest.mark.parametrize("name", [MANIFEST, "contract.json", "model/model.json", "model/transform/transform.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{", b'{"deep":' + b"[" * 200_000, b'{"inputs":' * 100_000], ids=range(5)
)
def test_a_file_of_rubbish_is_an_error_of_ours(package: Path, name: str, content: bytes) -> None:
    (package / name).write_bytes(content)
    if name != MANIFEST:
        seal(package)
    with pytest.raises(ModelyardError):
        opened(package)


@pytest.mark.parametrize("flavour", ["os:system", "../torch", "modelyard.packages.flavours.torch", ""])
def test_a_flavour_is_a_known_name_and_never_a_module(package: Path, flavour: str) -> None:
    edit(package / "model" / "model.json", lambda info: info.update(flavour=flavour))
    with pytest.raises(ModelyardError, match="no flavour"):
        load_model(package / "model", "native")


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\0b"])
def test_a_field_name_that_no_request_could_carry_is_no_contract(name: str) -> None:
    with pytest.raises(ContractError, match="control character"):
        Contract((Field(name, "float32"),), (Field("value", "float32"),))


def test_a_shape_of_thousands_of_dimensions_is_no_contract() -> None:
    with pytest.raises(ContractError, match="impossible shape"):
        Contract((Field("x", "float32", (1,) * 3000),), (Field("value", "float32"),))


class Mark:
    """Leaves a mark when it is built."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.path),))

    def __setstate__(self, state: Any) -> None:
        Path(state["path"]).touch()


def test_a_skops_file_that_would_leave_a_mark_leaves_none(package: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (package / "model" / "model.skops").write_bytes(skops_io.dumps(Mark(str(mark))))
    mark.unlink(missing_ok=True)
    edit(package / "model" / "model.json", lambda info: info.update(flavour="sklearn"))
    seal(package)
    opened(package)
    with pytest.raises(IntegrityError, match="not trusted"):
        load_model(package / "model", "native")
    assert not mark.exists()
