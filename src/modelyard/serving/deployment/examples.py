"""The unit and the site in `docs/examples/`: `python -m modelyard.serving.deployment.examples docs/examples`."""

from __future__ import annotations

import sys
from pathlib import Path

from modelyard.files import write_atomically
from modelyard.serving.auth.spec import AuthSpec
from modelyard.serving.deployment.nginx import Front, nginx_site
from modelyard.serving.deployment.systemd import Process, systemd_unit
from modelyard.serving.spec import ServiceSpec

__all__ = ["examples"]

PROJECT = Path("/srv/digits")


def examples() -> dict[str, str]:
    """Return the examples by file name."""
    spec = ServiceSpec(
        name="production", folder=PROJECT / ".modelyard/services/production", port=8080, grpc_port=8081,
        auth=AuthSpec(keys=PROJECT / ".modelyard/keys.json"),
    )  # fmt: skip
    command = ["/opt/modelyard/bin/python", "-m", "modelyard", "-C", str(PROJECT), "serve", spec.name]
    command += ["--port", "8080", "--grpc-port", "8081"]
    process = Process(command, PROJECT, [PROJECT / ".modelyard"], "modelyard", "4G")
    certificates = Path("/etc/letsencrypt/live/models.example.org")
    front = Front("models.example.org", certificates / "fullchain.pem", certificates / "privkey.pem")
    return {
        "modelyard-production.service": systemd_unit(spec, process),
        "modelyard-production.conf": nginx_site(spec, front),
    }


def main() -> None:
    """Write the examples into a folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in examples().items():
        write_atomically(folder / name, text.encode())


if __name__ == "__main__":
    main()
