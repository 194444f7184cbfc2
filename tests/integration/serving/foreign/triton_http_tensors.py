"""Send every kind of tensor by Triton's own HTTP client, raw and in JSON; say which came back as they were."""

import json
import sys

import numpy as np
import tritonclient.http as triton

VALUES = {
    "text": ("BYTES", np.array(["", "ä", "three"], dtype=object)),
    "half": ("FP16", np.array([0.5, -65504, 0.25], dtype=np.float16)),
    "grid": ("INT16", np.arange(-9, 9, dtype=np.int16).reshape(3, 2, 3)),
    "flag": ("BOOL", np.array([True, False, True])),
    "big": ("UINT64", np.array([0, 2**53 + 1, 2**64 - 1], dtype=np.uint64)),
}

said = {}
with triton.InferenceServerClient(sys.argv[1]) as client:
    for raw in (True, False):
        inputs = []
        for name, (datatype, values) in VALUES.items():
            inputs.append(triton.InferInput(name, list(values.shape), datatype))
            # This client has no way to write halves in JSON.
            inputs[-1].set_data_from_numpy(values, binary_data=raw or name == "half")
        outputs = [triton.InferRequestedOutput(name, binary_data=raw or name == "half") for name in VALUES]
        answer = client.infer("echo", inputs, outputs=outputs)
        same = []
        for name, (_, values) in VALUES.items():
            found = answer.as_numpy(name)
            if name == "text":
                found = [text.decode() if isinstance(text, bytes) else text for text in found.tolist()]
                values = values.tolist()
            same.append(bool(np.array_equal(found, values)))
        said["raw" if raw else "json"] = dict(zip(VALUES, same, strict=True))
sys.stdout.write(json.dumps(said) + "\n")
