"""Ask a service all that Triton's own HTTP client can ask, synchronously and with asyncio; print what it said."""

import asyncio
import json
import sys

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

address = sys.argv[1]
x = np.array([1.0, 2.5], dtype=np.float32)


def given(module, values=x, *, raw=True):
    tensor = module.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=raw)
    return [tensor]


def refused(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


said = {}
with triton.InferenceServerClient(address) as client:
    said["live"], said["ready"] = client.is_server_live(), client.is_server_ready()
    said["model_ready"] = [client.is_model_ready("m"), client.is_model_ready("m", "v9"), client.is_model_ready("none")]
    said["server"] = client.get_server_metadata()
    said["model"] = client.get_model_metadata("m")
    answer = client.infer("m", given(triton), request_id="one")
    said["infer"], said["response"] = answer.as_numpy("value").tolist(), answer.get_response()
    for raw in (True, False):
        for raw_answer in (True, False):
            outputs = [triton.InferRequestedOutput("value", binary_data=raw_answer)]
            found = client.infer("m", given(triton, raw=raw), outputs=outputs).as_numpy("value")
            said[f"raw {raw} {raw_answer}"] = found.tolist()
    said["pinned"] = client.infer("m", given(triton), model_version="v1.0.0").as_numpy("value").tolist()
    for coding in ("gzip", "deflate"):
        found = client.infer(
            "m", given(triton), request_compression_algorithm=coding, response_compression_algorithm=coding
        )
        said[coding] = found.as_numpy("value").tolist()
    large = np.arange(90_000, dtype=np.float32)
    said["large"] = bool((client.infer("m", given(triton, large)).as_numpy("value") == large * 2).all())
    several = [client.async_infer("m", given(triton, np.array([float(i)], np.float32))) for i in range(20)]
    said["async"] = [float(one.get_result().as_numpy("value")[0]) for one in several]
    said["missing"] = refused(client.infer, "none", given(triton))
    said["unfit"] = refused(client.infer, "m", given(triton, np.zeros((2, 3), np.float32)))

    said["index"] = client.get_model_repository_index()
    client.load_model("m")
    said["loaded"] = client.get_model_metadata("m")["versions"][0]
    said["config"] = refused(client.load_model, "m", config="{}")
    said["unknown"] = refused(client.load_model, "none")
    client.unload_model("other")
    said["unloaded"] = client.is_model_ready("other")


async def together():
    async with triton_aio.InferenceServerClient(address) as client:
        answers = await asyncio.gather(
            *(client.infer("m", given(triton_aio, np.array([float(i)], np.float32))) for i in range(50))
        )
        said["aio index"] = len(await client.get_model_repository_index())
        said["aio gzip"] = (
            await client.infer("m", given(triton_aio), request_compression_algorithm="gzip")
        ).as_numpy("value").tolist()  # fmt: skip
        return [float(answer.as_numpy("value")[0]) for answer in answers]


said["aio"] = asyncio.run(together())
sys.stdout.write(json.dumps(said) + "\n")
