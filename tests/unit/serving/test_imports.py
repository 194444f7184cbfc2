from __future__ import annotations

import json
import subprocess
import sys

ALLOWED = {
    "numpy",
    "msgspec",
    "onnxruntime",
    "httptools",
    "uvloop",
    "prometheus_client",
    "safetensors",
    "blake3",
    "multipart",
}
GRANIAN_TAKES_WHERE_INSTALLED = {
    "anyio",
    "sniffio",
    "dotenv",
    "setproctitle",
    "watchfiles",
    "typing_extensions",
    "idna",
}
PROGRAM = """
import sys, json
before = set(sys.modules)
import modelyard.serving.worker, modelyard.serving.packaged, modelyard.packages.flavours.onnx_runtime
loaded = {name.partition(".")[0] for name in set(sys.modules) - before if getattr(sys.modules[name], "__spec__", None)}
print(json.dumps(sorted(loaded - set(sys.stdlib_module_names))))
"""


def test_a_worker_imports_only_what_answering_needs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, check=True, env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
    )  # fmt: skip
    loaded = {name for name in json.loads(done.stdout) if not name.startswith(("_", "cython"))}
    assert loaded - GRANIAN_TAKES_WHERE_INSTALLED - {"modelyard"} == ALLOWED


def test_starting_and_asking_a_service_needs_no_event_loop(tmp_path):
    program = "import sys, modelyard.serving.service, modelyard.serving.client; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
