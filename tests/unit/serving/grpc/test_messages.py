"""The checked-in descriptors are what protoc makes of the .proto files, and those have the protocol's numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from modelyard.serving import grpc
from modelyard.serving.grpc.messages import DESCRIPTORS, POOL, PROTOS

FOLDER = Path(grpc.__file__).parent


def test_descriptors_are_what_protoc_makes_of_the_files(tmp_path):
    out = tmp_path / DESCRIPTORS
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", *PROTOS]
    subprocess.run(command, check=True, timeout=60)
    assert out.read_bytes() == (FOLDER / DESCRIPTORS).read_bytes(), "run `make protos`"


def test_numbers_are_those_of_the_published_protocol():
    def numbers(name: str) -> dict[str, int]:
        return {f.name: f.number for f in POOL.FindMessageTypeByName(f"inference.{name}").fields}

    assert numbers("ModelInferRequest") == {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6,
        "raw_input_contents": 7,
    }  # fmt: skip
    assert numbers("ModelInferResponse") == {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5, "raw_output_contents": 6,
    }  # fmt: skip
    assert numbers("RepositoryModelLoadRequest") == {"repository_name": 1, "model_name": 2, "parameters": 3}
    assert numbers("RepositoryIndexResponse.ModelIndex") == {"name": 1, "version": 2, "state": 3, "reason": 4}
