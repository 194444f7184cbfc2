"""What is remembered of a run: pure data, compared by value, kept as JSON in the store and indexed by the catalog."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

__all__ = [
    "Artifact",
    "Event",
    "EventKind",
    "Failure",
    "Fingerprint",
    "RunRecord",
    "RunState",
    "TaskCall",
    "TaskRecord",
    "TaskResult",
    "TaskState",
]


class TaskState(enum.StrEnum):
    """Where a task stands. The last six are final."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    CACHED = "cached"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether the task will not change any more."""
        return self not in (TaskState.WAITING, TaskState.RUNNING)

    @property
    def good(self) -> bool:
        """Whether the task's outputs can be used."""
        return self in (TaskState.SUCCEEDED, TaskState.CACHED)


class RunState(enum.StrEnum):
    """Where a run stands. `interrupted` is a run whose process died before it could say how it ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Artifact(msgspec.Struct, frozen=True):
    """One output of a task, kept in the store.

    Args:
        digest: BLAKE3 of the tree that holds the value's files.
        materializer: Name of the materializer that wrote it and reads it.
        size: Bytes of all files.
        summary: A few JSON facts for people: rows, shape, dtype, classes.
    """

    digest: str
    materializer: str
    size: int = 0
    summary: dict[str, Any] = {}


class Fingerprint(msgspec.Struct, frozen=True):
    """Everything a task's result depends on, part by part, so that `why` can say what changed.

    Args:
        call: `module:function` of the step.
        code: Digest of each module that the step's code reaches, by module name.
        parameters: The step's parameters after defaults and overrides.
        inputs: Digest of each input, by port; also of files read from outside, as `file:<name>`.
        distributions: Version of each installed distribution that the reached code imports.
        digest: BLAKE3 over all of the above.
    """

    call: str
    code: dict[str, str]
    parameters: dict[str, Any]
    inputs: dict[str, str]
    distributions: dict[str, str]
    digest: str


class Failure(msgspec.Struct, frozen=True):
    """Why a task failed, as a user reads it.

    Args:
        code: The `code` of a class in `modelyard.errors`.
        what: One sentence.
        where: The place, or an empty text.
        remedy: What to do, or an empty text.
    """

    code: str
    what: str
    where: str = ""
    remedy: str = ""


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one task in one run. Times are seconds since 1970, UTC; 0 where it has not happened."""

    task: str
    kind: str
    state: TaskState
    fingerprint: Fingerprint | None = None
    outputs: dict[str, Artifact] = {}
    metrics: dict[str, float] = {}
    started: float = 0.0
    finished: float = 0.0
    attempts: int = 0
    failure: Failure | None = None
    log: str | None = None
    cached_from: str | None = None
    executor: str = ""
    host: str = ""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a plan: its manifest.

    Args:
        id: Sortable by time: `20260131-142501-3f9c`.
        blueprint: The pipeline's name.
        blueprint_digest: BLAKE3 of the blueprint after overrides, as canonical JSON.
        blueprint_object: Digest of the object that holds that JSON.
        overrides: What the command line changed, as given: `{"train.alpha": 0.01}`.
        state: Where the run stands.
        tasks: By step id, in the plan's order.
        started: Seconds since 1970, UTC.
        finished: The same; 0 while it runs.
        actor: Who started it, as the identity setting or the operating system says.
        commit: Git commit of the project, or an empty text.
        dirty: Whether the work tree differed from that commit.
        environment: Python, platform and the version of every installed distribution.
        resumed: Id of the run this one goes on from, or None.
        pid: Process that runs it, so that a dead one can be told.
        host: Machine that runs it, as `socket.gethostname()` says.
        process: Boot and start time of that process, so that a later one with the same pid is not taken for it;
            an empty text where unknown.
    """

    id: str
    blueprint: str
    blueprint_digest: str
    blueprint_object: str = ""
    overrides: dict[str, Any] = {}
    state: RunState = RunState.RUNNING
    tasks: dict[str, TaskRecord] = {}
    started: float = 0.0
    finished: float = 0.0
    actor: str = ""
    commit: str = ""
    dirty: bool = False
    environment: dict[str, str] = {}
    resumed: str | None = None
    pid: int = 0
    host: str = ""
    process: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric of every task; a later task's value stands where names meet."""
        return {name: value for task in self.tasks.values() for name, value in task.metrics.items()}


class EventKind(enum.StrEnum):
    """What an event tells."""

    STATE = "state"
    LOG = "log"
    METRIC = "metric"
    PROGRESS = "progress"


class Event(msgspec.Struct, frozen=True):
    """Something that happened in a run, as listeners see it live.

    Args:
        run: The run's id.
        task: The step's id; an empty text where the whole run is meant.
        kind: What `data` holds.
        time: Seconds since 1970, UTC.
        data: `state`: {"state", "attempt", "failure"?}; `log`: {"line", "stream"};
            `metric`: {"name", "value", "step"}; `progress`: {"done", "total", "unit"}.
    """

    run: str
    task: str
    kind: EventKind
    time: float
    data: dict[str, Any]


class TaskCall(msgspec.Struct, frozen=True, kw_only=True):
    """All that a process anywhere needs to execute one task; JSON on the wire.

    Args:
        run: The run's id.
        task: The step's id.
        kind: The step's kind.
        call: `module:function`.
        parameters: The step's own parameters.
        inputs: The artefact for each input port.
        outputs: Names of the outputs that the step must produce.
        code: Digest of each reached module; the process refuses stale code by it.
        project: The project folder, put first on the import path.
        store: URL of the store.
        log: File that takes the task's standard output and error.
        seed: For the step's random numbers.
        attempt: Counted from 1.
        timeout: Seconds, or None.
        target_label: Label of the node it wants to run on, or None; executors on one machine ignore it.
        cores: CPU cores it wants, or None.
        memory: Memory it wants, such as `2Gi`, or None.
    """

    run: str
    task: str
    kind: str
    call: str
    parameters: dict[str, Any]
    inputs: dict[str, Artifact]
    outputs: list[str]
    code: dict[str, str]
    project: str
    store: str
    log: str
    seed: int = 0
    attempt: int = 1
    timeout: float | None = None
    target_label: str | None = None
    cores: float | None = None
    memory: str | None = None


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution yields: outputs, or a failure."""

    outputs: dict[str, Artifact] = {}
    metrics: dict[str, float] = {}
    failure: Failure | None = None
    started: float = 0.0
    finished: float = 0.0
