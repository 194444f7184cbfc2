"""What it takes to bring out a new model by rebuilding a container image and starting it anew, with podman.

The base image has Python, Modelyard and what it needs, and is made beforehand; what is timed copies a new model into a
new image, stops the container, starts the new image, and waits for the first answer by the new version. The image
serves with Modelyard as well, so that the way of bringing out a model is all that differs from a swap.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.common import ROOT
from benchmarks.processes import free_port
from benchmarks.swap import PIXELS, build

__all__ = ["measure_container"]

CONFIGURATION = """[containers]
default_ulimits=["nofile=1024:1024","nproc=1000:1000"]
netns="host"
[engine]
runtime="runc"
events_logger="file"
"""
EXTRAS = {"serve", "onnx"}
SITE = "/site"
ANSWER_SECONDS = 30.0


class Podman:
    """Podman with a storage of its own, which is removed with its folder.

    Args:
        folder: For images and containers.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("podman") is None:
            raise RuntimeError("podman is not installed")
        folder.mkdir()
        (folder / "containers.conf").write_text(CONFIGURATION, encoding="utf-8")
        self._folder = folder
        self._variables = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}

    def __call__(self, *command: str) -> str:
        """Run a command and return what it prints, errors too; raises RuntimeError with the last line."""
        places = ("--root", str(self._folder / "storage"), "--runroot", str(self._folder / "run"))
        done = subprocess.run(
            ("podman", *places, *command), env=self._variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"podman {command[0]}: {(done.stdout.strip() or 'failed').splitlines()[-1][:300]}")
        return done.stdout

    def end(self) -> None:
        """Remove every container, and let go of the storage."""
        self("rm", "--force", "--all", "--time", "1")
        subprocess.run(("umount", str(self._folder / "storage" / "overlay")), capture_output=True, check=False)


def measure_container(folder: Path, repeat: int) -> dict[str, float]:
    """Bring out a model `repeat` times; return the seconds of each part, median and slowest.

    Raises:
        RuntimeError: There is no podman, or it failed.
    """
    podman = Podman(folder / "podman")
    try:
        (base := folder / "base").mkdir()
        _root(base / "root")
        (base / "Containerfile").write_text("FROM scratch\nCOPY root /\n", encoding="utf-8")
        podman("build", "--quiet", "--tag", "localhost/base", str(base))
        rounds = [_bring_out(podman, folder, number, free_port()) for number in range(repeat + 1)]
    finally:
        podman.end()
    # The first one stopped nothing.
    several = rounds[1:]
    middle = {name: sorted(one[name] for one in several)[len(several) // 2] for name in several[0]}
    return middle | {f"{name}, slowest": max(one[name] for one in several) for name in several[0]}


def _bring_out(podman: Podman, folder: Path, number: int, port: int) -> dict[str, float]:
    image = folder / f"image-{number}"
    (image / "model").mkdir(parents=True)
    package, version = build(image / "model", number), f"v{number}"
    (image / "model" / "live.json").write_text(json.dumps({"digits": [version, package]}), encoding="utf-8")
    given = {"folder": "/service", "store": "/model", "live": "/model/live.json", "workers": 2, "port": port}
    command = json.dumps([f"{SITE}/bin/python3", f"{SITE}/modelyard_service.py", json.dumps(given)])
    lines = [
        "FROM localhost/base",
        "COPY model /model",
        f"ENV PYTHONHOME={SITE} LD_LIBRARY_PATH={SITE}/lib",
        f"CMD {command}",
    ]
    (image / "Containerfile").write_text("\n".join([*lines, ""]), encoding="utf-8")
    begun = time.monotonic()
    podman("build", "--quiet", "--tag", f"localhost/digits:{version}", str(image))
    built = time.monotonic()
    if number:
        podman("stop", "--time", "15", f"digits-{number - 1}")
    podman("run", "--detach", "--name", f"digits-{number}", f"localhost/digits:{version}")
    try:
        _wait(port, version)
    except RuntimeError as error:
        raise RuntimeError(f"{error}: {podman('logs', f'digits-{number}').strip()[-300:]}") from None
    ended = time.monotonic()
    return {
        "image: rebuilt": built - begun,
        "image: stopped, started, answers": ended - built,
        "image: both": ended - begun,
    }


def _wait(port: int, version: str) -> None:
    body = json.dumps({"rows": [{"image": np.zeros(PIXELS).tolist()}]})
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", "/v1/models/digits/predict", body)
            response = connection.getresponse()
            if response.status == 200 and response.getheader("x-model-version") == version:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    raise RuntimeError("the container did not answer")


def _root(root: Path) -> None:
    """Lay out a root folder: this Python, what Modelyard needs of its packages, and the libraries that both load."""
    prefix, site = Path(sys.base_prefix), root / SITE.strip("/")
    ignored = shutil.ignore_patterns("__pycache__", "test", "tests", "site-packages", "idlelib", "tkinter", "*.a")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(prefix / "lib" / version, site / "lib" / version, ignore=ignored, symlinks=True)
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copyfile(library, site / "lib" / library.name)
    (site / "bin").mkdir()
    shutil.copyfile(Path(sys.executable).resolve(), site / "bin" / "python3")
    (site / "bin" / "python3").chmod(0o755)
    packages = site / "lib" / version / "site-packages"
    installed = Path(sysconfig.get_path("purelib"))
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    # Those of this tree, which may have changed since it was installed.
    wanted = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    seen: set[str] = set()
    for name in (name for requirement in wanted for name in _needed(requirement, seen)):
        for part in importlib.metadata.distribution(name).files or ():
            source = installed / part
            if ".." not in part.parts and source.is_file() and source.suffix != ".pyc":
                (packages / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, packages / part)
    shutil.copytree(ROOT / "src" / "modelyard", packages / "modelyard", ignore=ignored, dirs_exist_ok=True)
    shutil.copyfile(ROOT / "benchmarks" / "servers" / "modelyard_service.py", site / "modelyard_service.py")
    for place in ("tmp", "service", "proc", "dev", "sys", "etc"):
        (root / place).mkdir(mode=0o777, exist_ok=True)
    for library in _libraries([site / "bin" / "python3", *site.rglob("*.so*")]):
        target = root / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target)
        target.chmod(0o755)


def _needed(requirement: str, seen: set[str]) -> Iterator[str]:
    """Name a distribution and whatever it needs."""
    # A requirement begins with a name, so there is a match.
    (name, extras) = re.match(r"([\w.-]+)(?:\[([^\]]*)\])?", requirement).groups()  # type: ignore[union-attr]
    normal = name.lower().replace("_", "-")
    if normal in seen:
        return
    seen.add(normal)
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        # For another system, or another version of Python.
        return
    yield name
    for line in distribution.requires or ():
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if extra is None or extra[1] in (extras or "").split(","):
            yield from _needed(line, seen)


def _libraries(files: list[Path]) -> set[Path]:
    """Return the system's libraries that files load, the loader among them."""
    found: set[Path] = set()
    for start in range(0, len(files), 100):
        told = subprocess.run(
            ("ldd", *map(str, files[start : start + 100])), capture_output=True, text=True, check=False
        ).stdout
        found |= {Path(path) for path in re.findall(r"(?:=> |^\t)(/(?:lib|lib64|usr/lib)/\S+) \(", told, re.MULTILINE)}
    return found
