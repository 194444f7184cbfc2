"""Ask a service all that Triton's own gRPC client can ask, synchronously and with asyncio; print what it said."""

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

address = sys.argv[1]
x = np.array([1.0, 2.5], dtype=np.float64)


def given(module, values=x):
    tensor = module.InferInput("x", values.shape, "FP64")
    tensor.set_data_from_numpy(values)
    return [tensor]


said = {}
with triton.InferenceServerClient(address) as client:
    said["live"], said["ready"] = client.is_server_live(), client.is_server_ready()
    said["model_ready"] = [client.is_model_ready("m"), client.is_model_ready("m", "v9"), client.is_model_ready("none")]
    said["server"] = client.get_server_metadata(as_json=True)
    said["model"] = client.get_model_metadata("m", as_json=True)
    answer = client.infer("m", given(triton), request_id="one", outputs=[triton.InferRequestedOutput("value")])
    said["infer"] = answer.as_numpy("value").tolist()
    said["response"] = answer.get_response(as_json=True)
    said["pinned"] = client.infer("m", given(triton), model_version="v1.0.0").as_numpy("value").tolist()
    said["gzip"] = client.infer("m", given(triton), compression_algorithm="gzip").as_numpy("value").tolist()
    large = np.arange(90_000, dtype=np.float64)
    said["large"] = bool((client.infer("m", given(triton, large)).as_numpy("value") == large * 2).all())
    said["index"] = [(m.name, m.version, m.state) for m in client.get_model_repository_index().models]
    try:
        client.infer("none", given(triton))
    except InferenceServerException as error:
        said["missing"] = error.status()
    streamed = []
    client.start_stream(lambda result, error: streamed.append((result, error)))
    for index in range(20):
        client.async_stream_infer("m", given(triton, np.array([float(index)])), request_id=str(index))
    client.stop_stream()
    said["stream"] = [float(result.as_numpy("value")[0]) for result, error in streamed if error is None]


async def together():
    async with triton_aio.InferenceServerClient(address) as client:
        answers = await asyncio.gather(*(client.infer("m", given(triton_aio, np.array([float(i)]))) for i in range(50)))
        return [float(answer.as_numpy("value")[0]) for answer in answers]


said["aio"] = asyncio.run(together())
sys.stdout.write(json.dumps(said) + "\n")
