"""The messages of our services, from `descriptors.binpb`, which protoc makes of the .proto files beside it.

They live in a pool of their own: a process may hold another library's `inference` messages as well, and protobuf's
common pool knows each name once. `make protos` writes the file anew; a test compares.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

__all__ = ["DESCRIPTORS", "FILES", "POOL", "PROTOS", "message"]

DESCRIPTORS = "descriptors.binpb"
PROTOS = ("open_inference.proto", "health.proto", "reflection.proto", "reflection_v1alpha.proto")

FILES: Any = FileDescriptorSet.FromString(files(__package__).joinpath(DESCRIPTORS).read_bytes())
POOL = DescriptorPool()
for _file in FILES.file:
    POOL.AddSerializedFile(_file.SerializeToString())


def message(name: str) -> Any:
    """Return a message's class.

    Args:
        name: Such as `inference.ModelInferRequest`.
    """
    return GetMessageClass(POOL.FindMessageTypeByName(name))
