"""Read a service's descriptors, call it by them, and watch its health to the end; print each as a line of JSON."""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def tell(said):
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


with grpc.insecure_channel(sys.argv[1]) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    methods = {method.name: method for method in service.methods}
    infer = methods["ModelInfer"]
    request, response = GetMessageClass(infer.input_type), GetMessageClass(infer.output_type)
    asked = request(model_name="m")
    asked.inputs.add(name="x", datatype="FP64", shape=[1]).contents.fp64_contents.append(4.0)
    answer = channel.unary_unary(
        f"/{service.full_name}/{infer.name}", request.SerializeToString, response.FromString
    )(asked, timeout=20)  # fmt: skip
    try:
        database.FindFileContainingSymbol("no.such.Symbol")
        missing = False
    except KeyError:
        missing = True
    tell(
        {
            "services": list(database.get_services()), "methods": sorted(methods), "missing": missing,
            "extensions": list(database.FindAllExtensionNumbers("inference.ModelInferRequest")),
            "infer": list(answer.outputs[0].contents.fp64_contents),
        }
    )  # fmt: skip
    health = HealthStub(channel)
    statuses = HealthCheckResponse.ServingStatus
    tell({"check": statuses.Name(health.Check(HealthCheckRequest(), timeout=20).status)})
    unknown = health.Watch(HealthCheckRequest(service="other"), timeout=20)
    tell({"unknown": statuses.Name(next(unknown).status)})
    unknown.cancel()
    watched = health.Watch(HealthCheckRequest(service="inference.GRPCInferenceService"), timeout=100)
    try:
        for one in watched:
            tell({"watch": statuses.Name(one.status)})
    except grpc.RpcError as error:
        tell({"end": error.code().name})
