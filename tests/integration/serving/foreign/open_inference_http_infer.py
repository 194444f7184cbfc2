"""Ask a service by the client that is generated from the Open Inference Protocol's own OpenAPI; print what it said."""

import asyncio
import json
import sys

from open_inference.openapi.client import AsyncOpenInferenceClient, OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.types import InferenceRequest

url = sys.argv[1]
request = InferenceRequest.parse_obj(
    {"id": "one", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [[1.0], [2.5]]}]}
)

client = OpenInferenceClient(base_url=url)
client.check_server_liveness()
client.check_server_readiness()
client.check_model_readiness("m")
client.check_model_version_readiness("m", "v1.0.0")
said = {
    "server": client.read_server_metadata().dict(),
    "model": client.read_model_metadata("m").dict(),
    "pinned model": client.read_model_version_metadata("m", "v1.0.0").dict(),
    "infer": client.model_infer("m", request=request).dict(),
    "pinned": client.model_version_infer("m", "v1.0.0", request=request).dict(),
}
try:
    client.model_infer("none", request=request)
except ApiError as error:
    said["missing"] = [error.status_code, error.body["error"]]
try:
    client.read_model_version_metadata("m", "v9")
except ApiError as error:
    said["missing version"] = error.status_code


async def together():
    other = AsyncOpenInferenceClient(base_url=url)
    answers = await asyncio.gather(*(other.model_infer("m", request=request) for _ in range(10)))
    return {answer.model_version for answer in answers}


said["aio"] = sorted(asyncio.run(together()))
sys.stdout.write(json.dumps(said) + "\n")
