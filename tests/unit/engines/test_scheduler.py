"""The scheduler: order, cache, failures, retries, resume, stop, preview; over real executors and a real store."""

from __future__ import annotations

import dataclasses
import http.server
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest
from tests.unit.engines.desk import Desk, plan_of, task

from modelyard.blueprint.plan import Placement, Task
from modelyard.contracts import Listener
from modelyard.engines.executors import open_executor
from modelyard.engines.inline import InlineExecutor
from modelyard.engines.scheduler import Scheduler
from modelyard.errors import NotFoundError, StorageError
from modelyard.records import Event, EventKind, Failure, RunRecord, RunState, TaskCall, TaskResult, TaskState
from modelyard.store.store import Store

CHAIN = plan_of(task("one", "begin"), task("two", "add", "one"), task("three", "add", "two"))


def test_a_chain_runs_in_order_and_each_state_is_told(desk: Desk) -> None:
    run = desk.run(CHAIN)
    assert run.state is RunState.SUCCEEDED
    assert desk.value(run, "three") == 3
    assert desk.states() == [
        ("", "running"),
        ("one", "running"), ("one", "succeeded"),
        ("two", "running"), ("two", "succeeded"),
        ("three", "running"), ("three", "succeeded"),
        ("", "succeeded"),
    ]  # fmt: skip
    assert [event.time for event in desk.events] == sorted(event.time for event in desk.events)


def test_an_executor_is_told_once_what_will_be_imported_after_the_task_it_gets(desk: Desk) -> None:
    told: list[tuple[str, object]] = []

    class Noting(InlineExecutor):
        def expect(self, modules: Iterable[str]) -> None:
            told.append(("expect", sorted(modules)))

        def submit(self, call: TaskCall, emit: Listener) -> Future[TaskResult]:
            told.append(("submit", call.task))
            return super().submit(call, emit)

    for name in ("first", "second"):
        (desk.project / f"{name}.py").write_text((desk.project / "work.py").read_text())
    trainers = [
        dataclasses.replace(task(name, "add", "two"), kind="trainer", call=f"{name}:add")
        for name in ("first", "second")
    ]
    desk.executor = Noting(desk.store)
    desk.run(plan_of(task("aside", "begin"), CHAIN["one"], CHAIN["two"], *trainers))
    assert [one for one in told if one != ("submit", "aside")] == [
        ("expect", ["first", "second"]),
        *(("submit", name) for name in ("one", "two", "first", "second")),
    ]
    told.clear()
    changed = task("first", "add", "two", parameters={"more": 7})
    desk.run(plan_of(CHAIN["one"], CHAIN["two"], dataclasses.replace(changed, kind="trainer", call="first:add")))
    assert told == [("submit", "first")], "nothing comes before it that could run meanwhile"


def test_what_has_run_is_cached_with_its_outputs_and_its_run(desk: Desk) -> None:
    first = desk.run(CHAIN)
    second = desk.run(CHAIN)
    assert {record.state for record in second.tasks.values()} == {TaskState.CACHED}
    assert {record.cached_from for record in second.tasks.values()} == {first.id}
    assert second.tasks["three"].outputs == first.tasks["three"].outputs
    assert desk.count("add") == 2


def test_only_what_a_change_reaches_runs_again(desk: Desk) -> None:
    desk.run(CHAIN)
    changed = plan_of(CHAIN["one"], task("two", "add", "one", parameters={"more": 5}), CHAIN["three"])
    states = {name: record.state for name, record in desk.run(changed).tasks.items()}
    assert states == {"one": TaskState.CACHED, "two": TaskState.SUCCEEDED, "three": TaskState.SUCCEEDED}


def test_a_changed_step_with_the_same_result_stops_the_change_there(desk: Desk) -> None:
    desk.run(CHAIN)
    changed = plan_of(task("one", "begin", parameters={"value": 1}), CHAIN["two"], CHAIN["three"])
    states = [record.state.value for record in desk.run(changed).tasks.values()]
    assert states == ["succeeded", "cached", "cached"]


def test_edited_code_runs_again_and_a_comment_does_not(desk: Desk) -> None:
    desk.run(CHAIN)
    source = desk.project / "work.py"
    source.write_text("# A comment.\n" + source.read_text())
    assert {record.state for record in desk.run(CHAIN).tasks.values()} == {TaskState.CACHED}
    source.write_text(source.read_text().replace("value + more", "value + 2 * more"))
    run = desk.run(CHAIN)
    assert desk.value(run, "three") == 5


def test_a_cache_record_whose_outputs_are_gone_answers_nothing(desk: Desk) -> None:
    first = desk.run(CHAIN)
    desk.store.objects.delete(first.tasks["two"].outputs["value"].digest)
    second = desk.run(CHAIN)
    assert [record.state.value for record in second.tasks.values()] == ["cached", "succeeded", "cached"]


def test_a_step_without_cache_runs_each_time(desk: Desk) -> None:
    plan = plan_of(task("one", "begin", cache=False))
    desk.run(plan)
    assert desk.run(plan).tasks["one"].state is TaskState.SUCCEEDED
    assert desk.count("begin") == 2


def test_a_failure_skips_what_needs_it_and_lets_the_others_finish(desk: Desk) -> None:
    plan = plan_of(
        task("bad", "fail"), task("after", "add", "bad"), task("later", "add", "after"),
        task("good", "begin"), task("better", "add", "good"),
    )  # fmt: skip
    run = desk.run(plan)
    assert run.state is RunState.FAILED
    assert {name: record.state.value for name, record in run.tasks.items()} == {
        "bad": "failed", "after": "skipped", "later": "skipped", "good": "succeeded", "better": "succeeded",
    }  # fmt: skip
    failure = run.tasks["bad"].failure
    assert failure is not None
    assert (failure.code, failure.what) == ("step", "ValueError: always")
    log = run.tasks["bad"].log
    assert log is not None
    assert b"ValueError: always" in desk.store.objects.get(log)


def test_a_flaky_step_is_tried_again_until_it_succeeds(desk: Desk) -> None:
    run = desk.run(plan_of(task("one", "flaky", retries=3, retry_delay=0.01)))
    assert run.state is RunState.SUCCEEDED
    assert run.tasks["one"].attempts == 3
    assert run.tasks["one"].failure is None
    assert [state for name, state in desk.states() if name == "one"] == [
        "running", "waiting", "running", "waiting", "running", "succeeded",
    ]  # fmt: skip


def test_retries_end_and_the_last_failure_stands(desk: Desk) -> None:
    run = desk.run(plan_of(task("one", "fail", retries=2, retry_delay=0.01)))
    assert run.tasks["one"].attempts == 3
    assert run.tasks["one"].state is TaskState.FAILED
    assert desk.count("fail") == 3


def test_wrong_input_is_not_tried_again(desk: Desk) -> None:
    run = desk.run(plan_of(task("one", "begin", parameters={"vlaue": 1}, retries=5)))
    assert run.tasks["one"].attempts == 1
    failure = run.tasks["one"].failure
    assert failure is not None
    assert failure.code == "input"


def test_a_missing_module_fails_its_step_alone(desk: Desk) -> None:
    wrong = dataclasses.replace(task("wrong", "begin"), call="no_such:step")
    run = desk.run(plan_of(wrong, task("good", "begin")))
    assert [record.state.value for record in run.tasks.values()] == ["failed", "succeeded"]


def test_a_timeout_fails_the_step_and_its_log_says_so(desk: Desk) -> None:
    run = desk.run(plan_of(task("slow", "nap", parameters={"seconds": 30}, timeout=0.3)))
    failure = run.tasks["slow"].failure
    assert failure is not None
    assert failure.code == "step-timeout"
    log = run.tasks["slow"].log
    assert log is not None
    assert desk.store.objects.get(log).decode().splitlines()[0] == "napping"
    assert b"ran longer than 0.3 s" in desk.store.objects.get(log)


def test_the_manifest_is_in_the_store_from_the_start_and_equals_the_result(desk: Desk) -> None:
    states: list[str] = []

    def look(event: Event) -> None:
        digest = desk.store.names.get(f"runs/{event.run}")
        assert digest is not None
        states.append(msgspec.json.decode(desk.store.objects.get(digest), type=RunRecord).state.value)

    run = desk.run(CHAIN, listeners=(look,))
    assert states[0] == "running"
    assert states[-1] == "succeeded"
    digest = desk.store.names.get(f"runs/{run.id}")
    assert digest is not None
    assert msgspec.json.decode(desk.store.objects.get(digest), type=RunRecord) == run


def test_the_recorder_sees_every_state(desk: Desk) -> None:
    run = desk.run(CHAIN)
    seen = [[record.state.value for record in recorded.tasks.values()] for recorded in desk.recorded]
    assert seen[0] == ["waiting"] * 3
    assert ["succeeded", "running", "waiting"] in seen
    assert desk.recorded[-1] == run


def test_an_end_is_recorded_with_what_follows_it(desk: Desk) -> None:
    desk.run(CHAIN)
    assert len(desk.recorded) == 5, "the run's start, each task's, and the run's end"
    desk.recorded.clear()
    desk.run(CHAIN)
    assert len(desk.recorded) <= 3, "tasks that need not run are recorded together"
    assert desk.recorded[-1].state is RunState.SUCCEEDED


def test_an_end_is_recorded_before_others_are_waited_for(process_desk: Desk) -> None:
    quick, long = (task(name, "nap", parameters={"seconds": pause}) for name, pause in (("quick", 0.0), ("long", 0.5)))
    process_desk.run(plan_of(quick, long))
    seen = [{name: record.state.value for name, record in recorded.tasks.items()} for recorded in process_desk.recorded]
    assert {"quick": "succeeded", "long": "running"} in seen


def test_logs_are_files_while_the_run_goes_on_and_objects_afterwards(desk: Desk) -> None:
    folders: list[list[str]] = []

    def look(event: Event) -> None:
        if event.kind is EventKind.LOG:
            folder = desk.project / ".modelyard" / "runs" / event.run
            folders.append([path.name for path in folder.iterdir()])

    run = desk.run(plan_of(task("one", "nap")), listeners=(look,))
    assert folders == [["one.log"]]
    log = run.tasks["one"].log
    assert log is not None
    assert desk.store.objects.get(log) == b"napping\n"
    assert not (desk.project / ".modelyard" / "runs" / run.id).exists()


def test_a_listener_that_raises_is_dropped_with_a_line_and_the_run_goes_on(desk: Desk) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("the terminal is gone")

    run = desk.run(CHAIN, listeners=(broken, desk.events.append))
    assert run.state is RunState.SUCCEEDED
    notes = [event.data["line"] for event in desk.events if event.kind is EventKind.LOG and not event.task]
    assert notes == ["A listener was dropped: RuntimeError: the terminal is gone"]


def test_a_recorder_that_fails_is_noted_once_and_the_run_goes_on(desk: Desk) -> None:
    def broken(record: RunRecord) -> None:
        raise StorageError("The disk is full.", where="catalog.db")

    run = desk.run(CHAIN, recorder=broken)
    assert run.state is RunState.SUCCEEDED
    notes = [event.data["line"] for event in desk.events if event.kind is EventKind.LOG and not event.task]
    assert len(notes) == 1
    assert "catalog.db" in notes[0]


def test_branches_run_side_by_side_and_cores_count(process_desk: Desk) -> None:
    def most_at_once(*tasks: Task) -> int:
        process_desk.run(plan_of(*tasks))
        running = most = 0
        for name, state in process_desk.states():
            running += (state == "running") - (state in ("succeeded", "failed")) if name else 0
            most = max(most, running)
        return most

    narrow = [task(f"n{i}", "nap", parameters={"seconds": 0.2 + i / 1000}) for i in range(3)]
    assert most_at_once(*narrow) == 2
    wide = [
        task(f"w{i}", "nap", parameters={"seconds": 0.1 + i / 1000}, placement=Placement(cores=2.0)) for i in range(3)
    ]
    assert most_at_once(*wide) == 1
    huge = task("huge", "begin", parameters={"value": 9}, placement=Placement(cores=64.0))
    assert most_at_once(huge) == 1


def test_a_cluster_label_is_ignored_with_one_line(desk: Desk) -> None:
    desk.run(plan_of(task("one", "begin", placement=Placement(target_label="gpu-1"))))
    lines = [event.data["line"] for event in desk.events if event.kind is EventKind.LOG]
    assert len(lines) == 1
    assert "gpu-1" in lines[0]


def test_both_executors_give_the_same_digests(tmp_path: Path, inline_desk: Desk) -> None:
    plan = plan_of(
        task("one", "begin", parameters={"value": [1, "ä", 0.1, None]}),
        task("two", "nap", parameters={"seconds": 0.01}),
    )
    digests = []
    for name in ("inline", "processes"):
        inline_desk.store = type(inline_desk.store).open(f"file://{tmp_path}/store-{name}")
        with open_executor(name, workers=2) as executor:
            inline_desk.executor = executor
            run = inline_desk.run(plan)
        digests.append({step: (record.outputs, record.fingerprint) for step, record in run.tasks.items()})
    assert digests[0] == digests[1]


def test_resuming_repeats_only_what_had_not_finished(desk: Desk) -> None:
    plan = plan_of(task("one", "begin", cache=False), task("two", "flaky", retries=0), task("three", "add", "one"))
    first = desk.run(plan)
    assert first.state is RunState.FAILED
    second = desk.run(plan, resume=first)
    assert second.resumed == first.id
    assert second.tasks["one"].state is TaskState.CACHED
    assert second.tasks["one"].cached_from == first.id
    assert second.tasks["three"].state is TaskState.CACHED
    assert desk.count("begin") == 1


def test_a_files_content_counts_and_its_time_does_not(desk: Desk) -> None:
    file = desk.project / "data.txt"
    file.write_text("a")
    plan = plan_of(task("one", "read", parameters={"path": "data.txt"}, files={"data.txt": None}))
    desk.run(plan)
    file.touch()
    assert desk.run(plan).tasks["one"].state is TaskState.CACHED
    file.write_text("b")
    assert desk.value(desk.run(plan), "one") == "b"


def test_a_folders_content_counts(desk: Desk) -> None:
    folder = desk.project / "model"
    folder.mkdir()
    (folder / "a").write_text("1")
    plan = plan_of(task("one", "begin", files={"model": None}))
    desk.run(plan)
    assert desk.run(plan).tasks["one"].state is TaskState.CACHED
    (folder / "b").write_text("1")
    assert desk.run(plan).tasks["one"].state is TaskState.SUCCEEDED
    (folder / "b").rename(folder / "c")
    assert desk.run(plan).tasks["one"].state is TaskState.SUCCEEDED


def test_a_missing_file_fails_its_step_before_it_runs(desk: Desk) -> None:
    run = desk.run(plan_of(task("one", "read", parameters={"path": "gone"}, files={"gone": None})))
    failure = run.tasks["one"].failure
    assert failure is not None
    assert failure.code == "data"
    assert failure.where.endswith("/gone")
    assert desk.count("read") == 0


class _Server(http.server.BaseHTTPRequestHandler):
    etag: str | None = '"1"'

    def do_HEAD(self) -> None:
        self.send_response(200)
        if self.etag:
            self.send_header("ETag", self.etag)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name is http.server's)
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Server]]]:
    handler = type("Handler", (_Server,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/data.csv", handler
        running.shutdown()
        thread.join()


def test_a_url_is_cached_by_its_etag_and_never_without_one(
    inline_desk: Desk, server: tuple[str, type[_Server]]
) -> None:
    url, handler = server
    plan = plan_of(task("one", "begin", files={url: None}))
    inline_desk.run(plan)
    assert inline_desk.run(plan).tasks["one"].state is TaskState.CACHED
    handler.etag = '"2"'
    assert inline_desk.run(plan).tasks["one"].state is TaskState.SUCCEEDED
    handler.etag = None
    assert inline_desk.run(plan).tasks["one"].state is TaskState.SUCCEEDED
    assert inline_desk.run(plan).tasks["one"].state is TaskState.SUCCEEDED
    (reason,) = next(event.data["reasons"] for event in inline_desk.events if "reasons" in event.data)
    assert "has no checksum" in reason


def test_a_url_with_a_checksum_is_cached_without_asking(inline_desk: Desk) -> None:
    plan = plan_of(task("one", "begin", files={"http://127.0.0.1:9/data.csv": "sha256:" + "0" * 64}))
    inline_desk.run(plan)
    assert inline_desk.run(plan).tasks["one"].state is TaskState.CACHED


def test_stopping_cancels_what_runs_and_leaves_the_rest_unstarted(desk: Desk) -> None:
    plan = plan_of(task("one", "nap", parameters={"seconds": 60}), task("two", "add", "one"))
    scheduler: list[Scheduler] = []

    def stop_when_napping(event: Event) -> None:
        if event.kind is EventKind.LOG:
            scheduler[0].stop()

    scheduler.append(desk.scheduler(listeners=(stop_when_napping,)))
    begun = time.monotonic()
    run = scheduler[0].run(plan, run=desk.record(), project=desk.project)
    assert time.monotonic() - begun < 30
    assert run.state is RunState.CANCELLED
    assert {record.state for record in run.tasks.values()} == {TaskState.CANCELLED}
    assert run.tasks["one"].attempts == 1
    assert run.tasks["two"].attempts == 0


def test_a_run_in_another_thread_can_be_stopped(desk: Desk) -> None:
    napping = threading.Event()
    scheduler = desk.scheduler(listeners=(lambda event: napping.set() if event.kind is EventKind.LOG else None,))
    plan = plan_of(task("one", "nap", parameters={"seconds": 60}))
    runs: list[RunRecord] = []
    thread = threading.Thread(target=lambda: runs.append(scheduler.run(plan, run=desk.record(), project=desk.project)))
    thread.start()
    assert napping.wait(60)
    scheduler.stop()
    thread.join(30)
    assert [run.state for run in runs] == [RunState.CANCELLED]


def test_a_preview_says_what_would_run_and_why_and_writes_nothing(inline_desk: Desk) -> None:
    scheduler = inline_desk.scheduler()
    before = scheduler.preview(CHAIN, inline_desk.project)
    assert [(view.task, view.state) for view in before] == [("one", "run"), ("two", "unknown"), ("three", "unknown")]
    assert before[0].reasons == ["This step has not run before."]
    assert before[1].reasons == ["one would run first, and gives value."]
    run = inline_desk.run(CHAIN)
    after = scheduler.preview(CHAIN, inline_desk.project)
    assert [view.state for view in after] == ["cached"] * 3
    assert after[0].reasons == [f"Done in run {run.id}."]
    changed = plan_of(CHAIN["one"], task("two", "add", "one", parameters={"more": 5}), CHAIN["three"])
    views = scheduler.preview(changed, inline_desk.project, latest=lambda _blueprint, step: run.tasks[step])
    assert [view.state for view in views] == ["cached", "run", "unknown"]
    assert views[1].reasons == ["Parameter more is new: 5."]
    assert len(list(inline_desk.store.names.list("runs/"))) == 1


def test_an_unknown_executor_is_named_with_those_there_are() -> None:
    with pytest.raises(NotFoundError, match="inline, processes"), open_executor("slurm"):
        pass


def test_a_worker_that_dies_is_tried_again(process_desk: Desk) -> None:
    (process_desk.project / "work.py").write_text(
        "import os\nfrom pathlib import Path\n"
        "def step(context):\n"
        "    flag = context.project / 'flag'\n"
        "    if not flag.exists():\n"
        "        flag.touch()\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return {'value': 1}\n"
    )
    run = process_desk.run(plan_of(task("one", "step", retries=1, retry_delay=0.01)))
    assert run.tasks["one"].attempts == 2
    assert run.state is RunState.SUCCEEDED
    waiting = [event.data for event in process_desk.events if event.data.get("state") == "waiting"]
    assert msgspec.convert(waiting[0]["failure"], Failure).code == "worker-lost"


def test_a_store_in_memory_works_inline_and_is_refused_by_workers(process_desk: Desk) -> None:
    process_desk.store = Store.open("memory://desk")
    run = process_desk.run(plan_of(task("one", "begin")))
    failure = run.tasks["one"].failure
    assert failure is not None
    assert failure.code == "input"
    assert "inline" in failure.remedy
    process_desk.executor = InlineExecutor(process_desk.store)
    assert process_desk.run(plan_of(task("one", "begin"))).state is RunState.SUCCEEDED


def test_a_manifest_that_cannot_be_written_ends_the_run(inline_desk: Desk) -> None:
    names = inline_desk.folder / "store" / "names"
    names.parent.mkdir(exist_ok=True)
    names.write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        inline_desk.run(CHAIN)
