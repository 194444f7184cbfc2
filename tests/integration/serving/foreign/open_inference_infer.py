"""Ask a service by the Open Inference Protocol's own generated stubs; print what it said."""

import json
import sys

import grpc
from open_inference.grpc.protocol import ModelInferRequest, ModelMetadataRequest, ServerMetadataRequest
from open_inference.grpc.service import GRPCInferenceServiceStub

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = GRPCInferenceServiceStub(channel)
    request = ModelInferRequest(model_name="m", id="one")
    tensor = request.inputs.add(name="x", datatype="FP64", shape=[2, 1])
    tensor.contents.fp64_contents.extend([1.0, 2.0])
    answer, call = stub.ModelInfer.with_call(request, timeout=20)
    said = {
        "server": stub.ServerMetadata(ServerMetadataRequest(), timeout=20).name,
        "inputs": [tensor.name for tensor in stub.ModelMetadata(ModelMetadataRequest(name="m"), timeout=20).inputs],
        "infer": list(answer.outputs[0].contents.fp64_contents),
        "id": answer.id,
        "version": answer.model_version,
        "generation": answer.parameters["model_generation"].int64_param,
        "metadata": dict(call.initial_metadata())["x-model-version"],
    }
sys.stdout.write(json.dumps(said) + "\n")
