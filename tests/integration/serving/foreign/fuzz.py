"""Fuzz a service by schemathesis, from its own description; print what it found.

Arguments: the service's address, an empty folder, cases for each operation, the checks, then further options.
"""

import json
import subprocess
import sys
from pathlib import Path

HOOKS = """
import schemathesis

@schemathesis.hook
def filter_case(context, case):
    # HTTP lets anybody add headers; a service that refused unknown ones would be wrong (RFC 9110, 5.1).
    return not any(name.lower().startswith("x-schemathesis-unknown") for name in case.headers or {})
"""

# 504 is the right answer to who waits for less than nothing; 503 to who asks for what is being loaded.
SETTINGS = """
hooks = "hooks.py"
[checks.negative_data_rejection]
# A form of too many parts, too: what is too large is refused as well.
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]
"""

url, folder, cases, checks = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
(folder / "hooks.py").write_text(HOOKS)
(folder / "schemathesis.toml").write_text(SETTINGS)
done = subprocess.run(
    [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "--config-file", str(folder / "schemathesis.toml"), "run", f"{url}/openapi.json",
        "--phases", "examples,coverage,fuzzing", "--max-examples", cases, "--seed", "7", "--checks", checks,
        "--continue-on-failure", "--no-color", "--report", "json", "--report-json-path", str(folder / "report.json"),
        *sys.argv[5:],
    ],
    cwd=folder, capture_output=True, text=True, check=False,
)  # fmt: skip
if not (folder / "report.json").exists():
    sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
report = json.loads((folder / "report.json").read_text())
said = {
    "tested": (report["operations"] or {}).get("tested", 0),
    "errors": report["errors"],
    "cases": (report["test_cases"] or {}).get("generated", 0),
    "failures": report["failures"],
    "code": done.returncode,
    "text": done.stdout[-6000:],
}
sys.stdout.write(json.dumps(said) + "\n")
