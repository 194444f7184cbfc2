"""gRPC server reflection (https://github.com/grpc/grpc/blob/master/doc/server-reflection.md), version 1."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from modelyard.serving.grpc.calls import Call, Method
from modelyard.serving.grpc.messages import FILES, POOL, message
from modelyard.serving.grpc.status import Status

__all__ = ["Reflection"]

_Request = message("grpc.reflection.v1.ServerReflectionRequest")
_Response = message("grpc.reflection.v1.ServerReflectionResponse")


class Reflection:
    """Says which services there are, and what their messages look like.

    Args:
        services: Their full names.
    """

    def __init__(self, services: Collection[str]) -> None:
        self._services = sorted(services)
        self._files = {file.name: file.SerializeToString() for file in FILES.file}

    @property
    def methods(self) -> dict[str, Method]:
        """By path."""
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        return {path: Method(_Request, "read", self.inform, streaming=True)}

    async def inform(self, call: Call, _request: Any) -> None:
        """Answer each question of a call."""
        async for request in call.messages():
            answer = _Response(valid_host=request.host, original_request=request)
            self._answer(request, answer)
            await call.send(answer)

    def _answer(self, request: Any, answer: Any) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
                return
            case "file_by_filename":
                found = self._files.get(request.file_by_filename)
            case "file_containing_symbol":
                found = _file_of(request.file_containing_symbol)
            case _:
                # Extensions are a matter of proto2.
                found = None
        if found is not None:
            answer.file_descriptor_response.file_descriptor_proto.append(found)
        else:
            answer.error_response.error_code = Status.NOT_FOUND
            answer.error_response.error_message = "There is no such thing here."


def _file_of(symbol: str) -> bytes | None:
    try:
        descriptor = POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        return None
    file = FileDescriptorProto()
    descriptor.CopyToProto(file)
    data: bytes = file.SerializeToString()
    return data
