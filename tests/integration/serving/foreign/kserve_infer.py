"""Ask a service by KServe's gRPC client; print what it said."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def main():
    said = {}
    client = InferenceGRPCClient(sys.argv[1], timeout=20)
    said["live"], said["ready"] = await client.is_server_live(), await client.is_server_ready()
    said["model_ready"] = await client.is_model_ready("m")
    for raw in (True, False):
        tensor = InferInput("x", [3], "FP64")
        tensor.set_data_from_numpy(np.array([1.0, 2.0, 3.0]), binary_data=raw)
        answer = await client.infer(InferRequest("m", [tensor], request_id="one"), timeout=20)
        said["raw" if raw else "typed"] = answer.outputs[0].as_numpy().tolist()
        said["id"], said["version"] = answer.id, answer.model_version
    await client.close()
    return said


sys.stdout.write(json.dumps(asyncio.run(main())) + "\n")
