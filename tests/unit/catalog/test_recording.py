"""Properties of recording, over records that Hypothesis makes up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.catalog import Catalog
from modelyard.records import Artifact, Failure, Fingerprint, RunRecord, RunState, TaskRecord, TaskState

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NUMBER = st.floats(allow_nan=False)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
ARTIFACT = st.builds(Artifact, TEXT, TEXT, st.integers(0, 2**60), OBJECT)
FINGERPRINT = st.builds(Fingerprint, TEXT, TEXTS, OBJECT, TEXTS, TEXTS, TEXT)
FAILURE = st.builds(Failure, TEXT, TEXT, TEXT, TEXT)


def task(name: str) -> st.SearchStrategy[TaskRecord]:
    return st.builds(
        TaskRecord, task=st.just(name), kind=TEXT, state=st.sampled_from(TaskState),
        fingerprint=st.none() | FINGERPRINT, outputs=st.dictionaries(TEXT, ARTIFACT, max_size=2),
        metrics=st.dictionaries(TEXT, NUMBER, max_size=2), started=NUMBER, finished=NUMBER,
        attempts=st.integers(0, 1000), failure=st.none() | FAILURE, log=st.none() | TEXT, cached_from=st.none() | TEXT,
        executor=TEXT, host=TEXT,
    )  # fmt: skip


def run(identity: str) -> st.SearchStrategy[RunRecord]:
    names = st.lists(TEXT, max_size=4, unique=True)
    tasks = names.flatmap(lambda chosen: st.tuples(*map(task, chosen))).map(lambda t: {each.task: each for each in t})
    return st.builds(
        RunRecord, id=st.just(identity), blueprint=TEXT, blueprint_digest=TEXT, blueprint_object=TEXT, overrides=OBJECT,
        state=st.sampled_from(RunState), tasks=tasks, started=NUMBER, finished=st.just(0.0), actor=TEXT, commit=TEXT,
        dirty=st.booleans(), environment=TEXTS, resumed=st.none() | TEXT, pid=st.integers(0, 2**31), host=TEXT,
        process=TEXT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def catalog() -> Iterator[Catalog]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/catalog.db"
        with Catalog.open(url) as opened:
            # Whether its process lives is another test's question.
            yield Catalog(opened.database, alive=lambda _: True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(record=run("r"))
def test_every_record_comes_back_as_it_was(catalog: Catalog, record: RunRecord) -> None:
    catalog.record(record)
    found = catalog.run("r")
    assert found == record
    assert list(found.tasks) == list(record.tasks)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), first=run("s"))
def test_writing_only_what_changed_leaves_what_writing_all_leaves(
    catalog: Catalog, data: st.DataObject, first: RunRecord
) -> None:
    catalog.record(first)
    record = first
    for _ in range(data.draw(st.integers(1, 4))):
        changed = {name: data.draw(st.just(old) | task(name)) for name, old in record.tasks.items()}
        actor = data.draw(st.sampled_from([record.actor, "somebody"]))
        record = msgspec.structs.replace(record, tasks=changed, actor=actor)
        catalog.record(record)
        assert catalog.run("s") == record
    digests = {d for t in (*first.tasks.values(), *record.tasks.values()) for d in _touched(t)}
    for digest in digests:
        expected = {(t.task, port) for t in record.tasks.values() for port, d in _inputs(t).items() if d == digest}
        assert {(link.task, link.port) for link in catalog.lineage(digest).used_by if link.run == "s"} == expected


def _inputs(record: TaskRecord) -> dict[str, str]:
    return record.fingerprint.inputs if record.fingerprint else {}


def _touched(record: TaskRecord) -> list[str]:
    return [*_inputs(record).values(), *(artifact.digest for artifact in record.outputs.values())]
