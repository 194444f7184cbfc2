"""A pickled model through a whole project: refused by every way in, and served where it is signed and allowed.

Every model here leaves a mark when it is loaded, and then answers as it should.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import httpx
import pytest
from tests.integration.serving import grpc_calls
from tests.projects import TREES, environment, modelyard, trees_project

from modelyard.center.keys import make_key
from modelyard.center.people import Person, parse_people, render_people
from modelyard.center.signatures import parse_public_key
from modelyard.errors import IntegrityError, RefusedError
from modelyard.packages.manifest import MANIFEST, make_manifest
from modelyard.packages.package import Package
from modelyard.packages.pickles import PICKLE_FILE
from modelyard.serving.client import ServiceClient
from modelyard.serving.grpc.messages import message
from modelyard.testing.tags import load_key, sign
from modelyard.yard.yard import Yard

BLUEPRINT = TREES.replace("DecisionTreeClassifier}", "DecisionTreeClassifier, format: pickle}").replace(
    "kind: evaluator}", "kind: evaluator, allow_pickle: own}"
)
ALLOWED = {"MODELYARD_ALLOW_PICKLE": "signed"}
PROTO = 'syntax = "proto3"; message In { double height = 1; } message Out { string label = 1; } '
PROTO += "service Model { rpc transform (In) returns (Out); }"


class Made:
    """The project, its packages by what stands behind them, and the mark that each would leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}

    def mark(self, name: str) -> Path:
        return self.folder.parent / "marks" / name

    @property
    def marks(self) -> set[str]:
        folder = self.folder.parent / "marks"
        return {path.name for path in folder.iterdir()} if folder.exists() else set()

    def git(self, *arguments: str, data: bytes | None = None) -> bytes:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment(self.folder.parent), input=data, capture_output=True, check=True
        )
        return done.stdout

    def package(self, name: str, source: str) -> str:
        """A package like the source, whose model leaves a mark of that name when it is loaded."""
        target = self.folder.parent / "packages" / name
        with Yard.open(self.folder) as yard:
            yard.store.checkout(source, target)
            file = target / "model" / PICKLE_FILE
            path = str(self.mark(name)).encode()
            call = b"\x80\x02cos\nmakedirs\n(X" + struct.pack("<I", len(path)) + path + b"I511\nI01\ntR0"
            file.write_bytes(call + file.read_bytes())
            (target / MANIFEST).write_bytes(make_manifest(target, "trees").to_json())
            self.digests[name] = yard.store.add(target)
            center = yard.center_as("dana")
            version = center.submit(
                "trees", self.digests[name], contract_digest=Package.open(target).contract.digest,
                contract_major_change=False, metrics={}, run="",
            )  # fmt: skip
        return version.version


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`plain` is ONNX, `signed` approved, `unsigned` submitted, `unlisted` and `forged` approved by keys so."""
    folder = trees_project(tmp_path_factory.mktemp("pickles"), BLUEPRINT)
    made = Made(folder)
    people = parse_people((folder / "people.yaml").read_bytes()).people
    gone = make_key(folder / ".modelyard" / "keys" / "max", "max@example.org")
    fingerprint = parse_public_key(gone).fingerprint
    guest = Person("max", "max@example.org", ("manager",), (gone,), (fingerprint,))
    (folder / "people.yaml").write_text(render_people([*people, guest]))
    made.git("commit", "-qam", "Max is here")
    modelyard(folder, "run")
    modelyard(folder, "submit", "--as", "dana")
    modelyard(folder, "run", "-p", "train.format=skops")
    modelyard(folder, "submit", "--as", "dana")
    modelyard(folder, "approve", "trees", "--version", "v1.1.0", "--as", "morgan")
    with Yard.open(folder) as yard:
        versions = yard.center.state().model("trees").versions
    made.digests["plain"] = versions["1.1.0"].package
    source = versions["1.0.0"].package
    for name, who in (("signed", "morgan"), ("unlisted", "max"), ("unsigned", ""), ("forged", "")):
        version = made.package(name, source)
        if who:
            modelyard(folder, "approve", "trees", "--version", f"v{version}", "--as", who)
    forge_approval(made, version)
    with Yard.open(folder) as yard:
        assert {v for v, state in yard.center.state().model("trees").versions.items() if state.approvals} == {
            "1.1.0", "1.2.0", "1.3.0"
        }  # fmt: skip
        assert [problem.tag for problem in yard.center.state().problems] == ["trees#approved#4"]
        assert "key" in yard.center.state().problems[0].what
    (folder / "people.yaml").write_text(render_people(people))
    made.git("commit", "-qam", "Max is gone")
    assert made.marks == set(), "nothing was loaded to be packed, submitted or approved"
    return made


def forge_approval(made: Made, version: str) -> None:
    """Approve a version as Morgan, signed by a key that nobody lists."""
    tag = made.git("cat-file", "tag", "trees#approved#2").decode().partition("-----BEGIN")[0]
    with Yard.open(made.folder) as yard:
        state = yard.center.state().model("trees").versions
    tag = tag.replace("trees#approved#2", "trees#approved#4")
    old = state["1.2.0"]
    tag = tag.replace(old.commit, state[version].commit).replace(old.package, state[version].package)
    tag = tag.replace('"1.2.0"', f'"{version}"')
    path = made.folder.parent / "stranger"
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)), check=True)
    content = tag.encode() + sign(tag.encode(), load_key(path))
    made_id = made.git("hash-object", "-t", "tag", "-w", "--stdin", "--literally", data=content).decode().strip()
    made.git("update-ref", "refs/tags/trees#approved#4", made_id)


@contextmanager
def serving(made: Made, name: str = "lab", *words: str, **variables: str) -> Iterator[ServiceClient]:
    """An explicit service that answers by the plain model first."""
    modelyard(made.folder, "up", "--explicit", name, *words, **variables)
    try:
        client = ServiceClient(made.folder / ".modelyard" / "services" / name)
        client.swap("trees", "v1.1.0", made.digests["plain"])
        yield client
    finally:
        modelyard(made.folder, "down", code=None)
        shutil.rmtree(made.folder / ".modelyard" / "services" / name, ignore_errors=True)


def wait(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ways_in(client: ServiceClient, package: str, version: str = "v9.9.9"):
    """Every way in which a client brings a package of the store into a service."""
    yield "swap", lambda: client.swap("trees", version, package)
    yield "another slot", lambda: client.swap("other", version, package)
    yield "canary", lambda: client.canary("trees", version, package, ppm=1_000_000)
    yield "shadow", lambda: client.shadow("trees", version, package, ppm=1_000_000)


def load(channel: grpc.Channel, version: str) -> None:
    """Load a version of the repository over gRPC."""
    request = message("inference.RepositoryModelLoadRequest")(model_name="trees")
    request.parameters["version"].string_param = version
    grpc_calls.ask(channel, "RepositoryModelLoad", request)


def refused(channel: grpc.Channel, version: str) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        load(channel, version)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    return caught.value.details()


def answers(client: ServiceClient) -> dict:
    body = {"rows": [{"height": 19, "width": 1}]}
    return httpx.post(f"{client.url}/v1/models/trees/predict", json=body).raise_for_status().json()


def test_a_service_that_allows_none_refuses_them_all_signed_or_not(made: Made) -> None:
    with serving(made) as client:
        for name in ("signed", "unsigned", "unlisted", "forged"):
            for way, bring in ways_in(client, made.digests[name]):
                with pytest.raises(RefusedError, match="runs whatever its author wrote"):
                    bring()
                assert made.marks == set(), (name, way)
        asked = httpx.post(f"{client.url}/v2/repository/models/trees/load", json={})
        assert (asked.status_code, "approved" in asked.text) == (409, True), asked.text
        assert str(made.folder) not in asked.text
        assert made.marks == set()
        assert answers(client)["version"] == "v1.1.0"


def test_a_service_that_allows_signed_ones_refuses_all_others(made: Made) -> None:
    with serving(made, **ALLOWED) as client:
        for name in ("unsigned", "unlisted", "forged"):
            for way, bring in ways_in(client, made.digests[name]):
                with pytest.raises(RefusedError, match="no approval or release that counts"):
                    bring()
                assert made.marks == set(), (name, way)
        assert answers(client)["version"] == "v1.1.0"


def test_a_bit_that_flips_after_the_signature_is_found_before_anything_is_loaded(made: Made) -> None:
    """In the local copy, with a manifest that fits: the store's own is served, or nothing."""
    with Yard.open(made.folder) as yard:
        folder = yard.store.fetch_tree(made.digests["signed"])
        file = folder / "model" / PICKLE_FILE
        original, manifest = file.read_bytes(), (folder / MANIFEST).read_bytes()
        evil = original.replace(b"marks/signed", b"marks/fliped")
        assert evil != original
        with serving(made, **ALLOWED) as client:
            for changed in (file, folder / MANIFEST):
                changed.chmod(0o644)
            file.write_bytes(evil)
            (folder / MANIFEST).write_bytes(make_manifest(folder, "trees").to_json())
            # The store may have its own bytes put there again; then these are what is loaded.
            with suppress(IntegrityError):
                client.swap("trees", "v1.2.0", made.digests["signed"])
        assert "fliped" not in made.marks
        file.write_bytes(original)
        (folder / MANIFEST).write_bytes(manifest)
    shutil.rmtree(made.mark("signed"), ignore_errors=True)


def test_an_upload_never_qualifies_not_even_with_the_bytes_of_a_signed_package(made: Made) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        folder = made.folder.parent / "packages" / "signed"
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    package = sink.getvalue()
    pickled = (folder / "model" / PICKLE_FILE).read_bytes()
    with serving(made, **ALLOWED) as client:
        for content in (package, pickled):
            for method, path, more in (
                ("PUT", "/model", {}),
                ("POST", "/modelrunner/putModel", {}),
                ("POST", "/transformCSV", {"csvFile": b"height\n1\n", "proto": PROTO.encode()}),
                ("POST", "/transform", {"csvFile": b"height\n1\n", "proto": PROTO.encode()}),
            ):
                answer = httpx.request(method, client.url + path, files={"model": content, **more})
                assert (answer.status_code, "pickle" in answer.text) == (415, True), (path, answer.text)
        assert made.marks == set()
        assert answers(client)["version"] == "v1.1.0"


def test_over_grpc_a_signed_pickle_is_loaded_and_answers_and_an_unsigned_one_is_refused(made: Made) -> None:
    asked = grpc_calls.Request(model_name="trees")
    for name, value in (("height", 19), ("width", 1)):
        asked.inputs.add(name=name, datatype="INT64", shape=[1]).contents.int64_contents.append(value)
    with serving(made, "lab", "--grpc-port", "0") as client, grpc_calls.channel(client.grpc) as channel:
        assert "runs whatever its author wrote" in refused(channel, "v1.2.0")
        assert made.marks == set()
    with serving(made, "lab", "--grpc-port", "0", **ALLOWED) as client, grpc_calls.channel(client.grpc) as channel:
        for version in ("v1.3.0", "v1.4.0", "v1.5.0"):
            assert "approved" in refused(channel, version)
        assert made.marks == set()
        load(channel, "v1.2.0")
        answer = grpc_calls.predict(channel, asked)
        assert (answer.model_version, answer.outputs[0].contents.bytes_contents[0]) == ("v1.2.0", b"oak")
        assert made.marks == {"signed"}
        made.mark("signed").rmdir()


def test_a_file_is_predicted_by_a_signed_pickle_alone_and_only_where_it_is_allowed(made: Made) -> None:
    (made.folder / "ask.csv").write_text("height,width\n19,1\n5,1\n")
    words = ("predict", "trees", "--input", "ask.csv", "--output", "out.jsonl", "--workers", "1", "--version")
    assert "runs whatever" in modelyard(made.folder, *words, "v1.2.0", code=3).stderr
    for version in ("v1.3.0", "v1.4.0", "v1.5.0"):
        assert "runs whatever" in modelyard(made.folder, *words, version, code=3).stderr
        assert "no approval or release" in modelyard(made.folder, *words, version, code=3, **ALLOWED).stderr
    assert made.marks == set()
    modelyard(made.folder, *words, "v1.2.0", **ALLOWED)
    labels = [json.loads(line)["label"] for line in (made.folder / "out.jsonl").read_text().splitlines()]
    assert labels == ["oak", "ash"]
    assert made.marks == {"signed"}
    made.mark("signed").rmdir()


def test_a_run_evaluates_a_pickle_only_where_the_evaluator_is_told_so(made: Made) -> None:
    told = modelyard(made.folder, "run", "-p", "evaluate.allow_pickle=null", code=None)
    assert told.returncode != 0
    assert "runs whatever its author wrote" in told.stderr + told.stdout


def test_a_trainer_that_pickles_is_never_answered_by_the_cache(made: Made) -> None:
    modelyard(made.folder, "run")
    with Yard.open(made.folder) as yard:
        tasks = yard.get().record.tasks
        assert tasks["data"].cached_from is not None
        assert tasks["train"].cached_from is None


def test_a_model_that_another_step_hands_on_is_not_unpickled_to_be_evaluated(made: Made, tmp_path: Path) -> None:
    evil = made.folder.parent / "packages" / "unsigned" / "model"
    shutil.copytree(evil, made.folder / "given")
    (made.folder / "given_model.py").write_text(
        "from pathlib import Path\nfrom typing import Any\n\n\ndef give() -> Any:\n    return Path.cwd() / 'given'\n"
    )
    text = BLUEPRINT.replace("name: trees\n  steps", "name: given\n  steps").replace(", allow_pickle: own", "")
    start, end = text.index("    - {id: train"), text.index("    - {id: evaluate")
    step = "    - {id: train, kind: python, function: 'given_model:give', outputs: [model]}\n"
    (made.folder / "given.yaml").write_text(text[:start] + step + text[end:])
    done = modelyard(made.folder, "run", "given", code=None)
    assert done.returncode != 0
    assert "runs whatever its author wrote" in done.stdout + done.stderr, done.stdout + done.stderr
    assert made.marks == set()
    for name in ("given.yaml", "given_model.py"):
        (made.folder / name).unlink()
    shutil.rmtree(made.folder / "given")


def test_a_signed_pickle_is_served_where_it_is_allowed_until_it_is_not(made: Made) -> None:
    with serving(made, **ALLOWED) as client:
        client.canary("trees", "v1.2.0", made.digests["signed"], ppm=1000)
        client.promote("trees")
        answer = answers(client)
        assert (answer["version"], answer["rows"][0]["label"]) == ("v1.2.0", "oak")
        assert made.marks == {"signed"}, "the payload leaves a mark where it is loaded"
        os.kill(client.status().workers[0], signal.SIGKILL)
        wait(lambda: client.status().restarts and len(client.status().workers) == 2)
        assert {answers(client)["version"] for _ in range(20)} == {"v1.2.0"}
        made.mark("signed").rmdir()
        modelyard(made.folder, "down")
        modelyard(made.folder, "up", "--explicit", "lab", **ALLOWED)
        assert answers(client)["version"] == "v1.2.0"
        modelyard(made.folder, "down")
        assert made.marks == {"signed"}
        made.mark("signed").rmdir()
        # What an earlier service was told does not count for the next one.
        committed = made.folder / ".modelyard" / "services" / "lab" / "committed.json"
        current = json.loads(committed.read_text())["slots"]["trees"]["current"]
        assert (current["package"], len(current["pickle"])) == (made.digests["signed"], 64)
        modelyard(made.folder, "up", "--explicit", "lab", code=None)
        assert httpx.get(f"{client.url}/readyz").status_code == 503
        assert made.marks == set()


def test_a_pickle_whose_signature_counts_no_more_stays_until_the_model_is_loaded_anew(made: Made) -> None:
    people = made.folder / "people.yaml"
    kept = people.read_text()
    with serving(made, **ALLOWED) as client:
        client.swap("trees", "v1.2.0", made.digests["signed"])
        try:
            others = [one for one in parse_people(kept.encode()).people if one.name != "morgan"]
            people.write_text(render_people(others))
            made.git("commit", "-qam", "Morgan is gone")
            with pytest.raises(RefusedError, match="no approval or release that counts"):
                client.swap("other", "v1.2.0", made.digests["signed"])
            # A worker that is replaced is to do what those beside it do, or it would be replaced again and again.
            os.kill(client.status().workers[0], signal.SIGKILL)
            wait(lambda: client.status().restarts and len(client.status().workers) == 2)
            assert client.status().restarts == 1
            assert {answers(client)["version"] for _ in range(20)} == {"v1.2.0"}
            made.mark("signed").rmdir()
            modelyard(made.folder, "down")
            modelyard(made.folder, "up", "--explicit", "lab", code=None, **ALLOWED)
            assert httpx.get(f"{client.url}/readyz").status_code == 503
            assert made.marks == set()
        finally:
            people.write_text(kept)
            made.git("commit", "-qam", "Morgan is back")
            shutil.rmtree(made.mark("signed"), ignore_errors=True)


def test_a_release_of_a_pickle_is_followed_only_where_it_is_allowed(made: Made) -> None:
    modelyard(made.folder, "release", "trees", "--version", "v1.2.0", "--to", "dev", "--as", "morgan")
    try:
        told = modelyard(made.folder, "up", "dev", code=7).stderr
        assert "runs whatever its author wrote" in told
        modelyard(made.folder, "down")
        assert made.marks == set()
        modelyard(made.folder, "up", "dev", **ALLOWED)
        file = made.folder / "rows.json"
        file.write_text('{"rows": [{"height": 19, "width": 1}]}')
        assert "oak" in modelyard(made.folder, "predict", "trees", str(file), "--env", "dev").stdout
        assert made.marks == {"signed"}
    finally:
        modelyard(made.folder, "down", code=None)
        shutil.rmtree(made.mark("signed"), ignore_errors=True)


def test_where_the_rules_ask_for_no_approval_a_release_signs_it_and_the_submission_does_not(made: Made) -> None:
    blueprint = made.folder / "blueprint.yaml"
    blueprint.write_text(BLUEPRINT + "review: {approvals: 0}\n")
    made.git("commit", "-qam", "No approvals")
    (made.folder / "ask.csv").write_text("height,width\n19,1\n")
    words = ("predict", "trees", "--input", "ask.csv", "--output", "out.jsonl", "--workers", "1", "--version", "v1.4.0")
    try:
        assert "no approval or release" in modelyard(made.folder, *words, code=3, **ALLOWED).stderr
        with serving(made, "lab", "--grpc-port", "0", **ALLOWED) as client, grpc_calls.channel(client.grpc) as channel:
            assert "no approval or release" in refused(channel, "v1.4.0")
        assert made.marks == set()
        modelyard(made.folder, "release", "trees", "--version", "v1.4.0", "--to", "dev", "--as", "morgan")
        modelyard(made.folder, *words, **ALLOWED)
        assert made.marks == {"unsigned"}
    finally:
        blueprint.write_text(BLUEPRINT)
        made.git("commit", "-qam", "Approvals again")
        shutil.rmtree(made.mark("unsigned"), ignore_errors=True)
