"""gRPC server reflection (https://github.com/grpc/grpc/blob/master/doc/server-reflection.md), versions 1 and 1alpha."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from modelyard.serving.grpc.calls import Call, Method
from modelyard.serving.grpc.messages import FILES, POOL, message
from modelyard.serving.grpc.status import Status

__all__ = ["REFLECTIONS", "Reflection"]

REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""By both names: grpcio's own client, among others, still asks for the older one alone."""

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
        self._types = {f"{file.package}.{kind.name}" for file in FILES.file for kind in file.message_type}

    @property
    def methods(self) -> dict[str, Method]:
        """By path."""
        # The two versions differ in nothing but the name of their package, which no message carries.
        method = Method(_Request, "read", self.inform, client_streaming=True)
        return {f"/{service}/ServerReflectionInfo": method for service in REFLECTIONS}

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
            case "all_extension_numbers_of_type" if request.all_extension_numbers_of_type in self._types:
                # Extensions are a matter of proto2: no type here has any.
                answer.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
                return
            case _:
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
        try:
            # protobuf's pool looks for methods apart.
            descriptor = POOL.FindMethodByName(symbol).containing_service.file
        except KeyError:
            return None
    file = FileDescriptorProto()
    descriptor.CopyToProto(file)
    data: bytes = file.SerializeToString()
    return data
