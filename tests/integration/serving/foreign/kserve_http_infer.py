"""Ask a service by KServe's REST client; print what it said."""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

url = sys.argv[1]


async def main():
    said = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=1, timeout=20)) as client:
        said["live"], said["ready"] = await client.is_server_live(url), await client.is_server_ready(url)
        said["model_ready"] = await client.is_model_ready(url, "m")
        for raw in (True, False):
            tensor = InferInput("x", [3], "FP32")
            tensor.set_data_from_numpy(np.array([1.0, 2.0, 3.0], np.float32), binary_data=raw)
            outputs = [RequestedOutput("value", {"binary_data": raw})]
            request = InferRequest("m", [tensor], request_id="one", request_outputs=outputs)
            headers = {}
            answer = await client.infer(url, request, model_name="m", response_headers=headers)
            said["raw" if raw else "json"] = answer.outputs[0].as_numpy().tolist()
            said["id"] = answer.id
        said["header"] = headers.get("x-model-version")
        try:
            await client.infer(url, request, model_name="none")
        except httpx.HTTPStatusError as error:
            said["missing"], said["why"] = error.response.status_code, str(error)
    return said


sys.stdout.write(json.dumps(asyncio.run(main())) + "\n")
