"""The whole loop: from a blueprint to a hot-swapped service, with a summary of what was measured."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np

import modelyard
from modelyard.data import Dataset, Field
from modelyard.demo.mnist import FILES, fetch_mnist
from modelyard.demo.stage import Stage
from modelyard.errors import DataError, MissingExtraError, RunError
from modelyard.packages.codecs.csv import cell_names
from modelyard.testing.load import LoadGenerator, LoadReport
from modelyard.text import span
from modelyard.yard import Yard

__all__ = ["Outcome", "play"]

SWAP_TIMEOUT = 60.0


@dataclass(frozen=True)
class Swap:
    """What one change of the served version took.

    Args:
        seconds: From the start of the command to the first answer of the new version.
        prepare: Seconds that loading and warming up took, over all workers; 0 for a rollback.
        commit: Seconds of the commit.
    """

    seconds: float
    prepare: float
    commit: float


@dataclass(frozen=True)
class Outcome:
    """What the demonstration measured."""

    first: float
    second: float
    images: int
    load: LoadReport
    swap: Swap
    rollback: Swap
    seconds: float
    project: Path
    data: str


def play(folder: Path, cache: Path, *, small: bool = False) -> Outcome:
    """Play the loop in a new project.

    Args:
        folder: The project folder; created.
        cache: Where fetched data is kept between demonstrations.
        small: Use scikit-learn's digits, and fetch nothing.

    Raises:
        ModelyardError: Where a part of the loop does not do what it should.
    """
    stage = Stage(folder)
    data = _set_up(stage, None if small else cache)
    yard = Yard.open(folder)
    kept = _train(stage)
    _review(stage, kept, "a perceptron, as good as asked")
    first = yard.get(kept).metrics["accuracy"]
    stage.title("Serve the three environments, and ask the service")
    stage.run("up")
    images, labels = _test_images(yard)
    url = yard.services.client("production").url
    _ask(url, images, labels)
    stage.title("Train a convolutional network, and swap it in while the service is under load")
    target = f"{url}/v1/models/digits/predict"
    with LoadGenerator(target, _body(images[:1]), connections=2, rate=200.0) as load:
        stage.run("run", "digits-cnn")
        _review(
            stage, "digits-cnn", "a convolutional network, better on the test images", environments=("dev", "staging")
        )
        swap = _swap(stage, url, load, "v1.1.0", "release", "digits", "--to", "production", "--as", "morgan")
        stage.title("Bring the first one back")
        reason = ("-m", "the demonstration shows a rollback")
        back = ("rollback", "digits", "--env", "production", "--as", "morgan", *reason)
        rollback = _swap(stage, url, load, "v1.0.0", *back)
        report = load.stop()
    second = yard.get("digits-cnn").metrics["accuracy"]
    stage.title("The story of the model")
    stage.run("show", "digits")
    if report.failures or report.mixed:
        raise RunError(
            f"{len(report.failures)} requests failed and {len(report.mixed)} answers were mixed during the swaps: "
            f"{report.failures[:1]}{report.mixed[:1]}",
            remedy="This is a defect in Modelyard.",
        )
    return Outcome(first, second, len(images), report, swap, rollback, stage.seconds, folder, data)


def _set_up(stage: Stage, cache: Path | None) -> str:
    stage.title("Start a project with two people: dana (data scientist) and morgan (manager)")
    template, data = "digits-small", "the 1,797 digits that scikit-learn carries"
    if cache is not None:
        try:
            fetch_mnist(cache)
            template, data = "digits", "MNIST, 60,000 training and 10,000 test images"
        except (MissingExtraError, DataError) as error:
            click.echo(f"MNIST can't be had: {error}\nThe 1,797 digits that scikit-learn carries stand in.")
    stage.folder.mkdir(parents=True)
    # Where a repository is around us, the demonstration's commits and tags are none of its business.
    subprocess.run(["git", "init", "-q", "-b", "main", str(stage.folder)], check=True)
    click.echo(click.style(f"$ modelyard init --template {template} --people demo {stage.folder.name}", fg="cyan"))
    modelyard.init(stage.folder, template=template, people="demo")
    if cache is not None and template == "digits":
        (stage.folder / "data").mkdir()
        for name in FILES:
            shutil.copyfile(cache / name, stage.folder / "data" / name)
    stage.run("check")
    return data


def _train(stage: Stage) -> str:
    """Run, run again, change a parameter; return the id of the run that is worth submitting."""
    stage.title("Run the pipeline: import, transform, train, evaluate")
    stage.run("run", "digits")
    stage.title("Run it again: every step is answered from the cache")
    stage.run("run", "digits")
    stage.run("why", "train")
    kept = Yard.open(stage.folder).get("digits").id
    stage.title("Change the learning rate: only the trainer and what follows run")
    stage.run("plan", "digits", "-p", "train.alpha=0.002")
    stage.run("run", "digits", "-p", "train.alpha=0.002")
    stage.run("why", "train")
    stage.run("diff", kept, "latest")
    return kept


def _review(
    stage: Stage, run: str, reason: str, environments: tuple[str, ...] = ("dev", "staging", "production")
) -> None:
    stage.title(f"Submit the model of {run}, review it, and release it")
    stage.run("submit", run, "--as", "dana")
    stage.run("review", "digits")
    if run != "digits-cnn":
        click.echo("# dana may not approve her own model:")
        stage.run("approve", "digits", "--as", "dana", "-m", "looks good to me", code=3)
    stage.run("approve", "digits", "--as", "morgan", "-m", reason)
    for environment in environments:
        stage.run("release", "digits", "--to", environment, "--as", "morgan")


def _test_images(yard: Yard) -> tuple[Any, Any]:
    test = yard.get("digits").output("data.test")
    assert isinstance(test, Dataset)  # noqa: S101  (narrows the type; the importer gives data sets)
    return np.asarray(test.columns["image"]), np.asarray(test.labels)


def _body(images: Any) -> bytes:
    return json.dumps({"columns": {"image": images.tolist()}}).encode()


def _ask(url: str, images: Any, labels: Any) -> None:
    """Send every test image over HTTP, as JSON and some as CSV too, and compare with the labels."""
    right, batch = 0, 500
    started = time.perf_counter()
    for start in range(0, len(images), batch):
        answer = _post(url, _body(images[start : start + batch]), "application/json")
        right += int(np.sum(np.asarray(answer["columns"]["label"]) == labels[start : start + batch]))
    took = time.perf_counter() - started
    click.echo(f"{len(images):,} test images as JSON in {span(took)}: {right / len(images):.2%} right")
    rows = images[:100].reshape(100, -1)
    header = cell_names(Field("image", "uint8", images.shape[1:]))
    text = "\r\n".join([",".join(header), *(",".join(map(str, row)) for row in rows.tolist())])
    answer = _post(url, text.encode(), "text/csv")
    same = sum(row["label"] == int(label) for row, label in zip(answer["rows"], labels[:100], strict=True))
    click.echo(f"100 test images as CSV: {same} right")


def _post(url: str, body: bytes, media: str) -> Any:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.request("POST", "/v1/models/digits/predict", body, {"Content-Type": media, "Accept": "application/json"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    if response.status != 200:
        raise RunError(f"The service answered {response.status}: {content[:300].decode(errors='replace')}")
    return json.loads(content)


def _swap(stage: Stage, url: str, load: LoadGenerator, version: str, *arguments: str) -> Swap:
    """Run a command that changes what is served, and wait until the load sees the new version answer."""
    started = time.monotonic()
    stage.run(*arguments)
    while True:
        samples = [s for s in load.report().samples if s.begun >= started and s.version == version]
        if samples:
            break
        if time.monotonic() > started + SWAP_TIMEOUT:
            raise RunError(f"{version} did not answer within {SWAP_TIMEOUT:.0f} s.", where=url)
        time.sleep(0.02)
    load.wait_for(100)
    click.echo(f"the service answers with {version}, {span(samples[0].ended - started)} after the command was given")
    return Swap(samples[0].ended - started, _gauge(url, "prepare"), _gauge(url, "commit"))


def _gauge(url: str, name: str) -> float:
    """Return what the service's metrics say of its last swap, in seconds."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:  # noqa: S310  (our own loopback URL)
        text = response.read().decode()
    found = re.search(rf'^modelyard_{name}_seconds{{model="digits"}} (\S+)$', text, re.MULTILINE)
    if found is None:
        raise RunError(f"The service's metrics do not tell of its last {name}.", where=url)
    return float(found.group(1))
