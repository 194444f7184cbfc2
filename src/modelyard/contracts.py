"""What can be replaced in Modelyard, each as a Protocol of at most seven methods.

An implementation is chosen by name through the entry-point group beside each Protocol, and is proven by the
conformance suite of the same name in `modelyard.testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from modelyard.records import Event, TaskCall, TaskResult

__all__ = [
    "Bus",
    "Columns",
    "Context",
    "Executor",
    "Expecting",
    "Flavour",
    "Listener",
    "Materializer",
    "Names",
    "Objects",
    "Predictor",
]

Columns = Mapping[str, "NDArray[Any]"]
"""Named arrays that share their first dimension, the rows."""

Listener = Callable[["Event"], None]
"""Whoever wants to see a run's events; called in the scheduler's thread, in order. It must not raise."""


@runtime_checkable
class Objects(Protocol):
    """Immutable bytes, named by their BLAKE3 digest (64 hexadecimal digits). Entry points: `modelyard.objects`."""

    def put(self, data: bytes) -> str:
        """Keep the bytes durably and return their digest. Putting the same bytes again costs a look-up."""

    def put_file(self, path: Path) -> str:
        """Keep a file's bytes durably without reading it whole into memory, and return their digest."""

    def get(self, digest: str) -> bytes:
        """Return the bytes. Raises NotFoundError, or IntegrityError if they no longer match."""

    def fetch(self, digest: str) -> Path:
        """Return a local, read-only, verified file with the bytes, fit for memory mapping."""

    def exists(self, digest: str) -> bool:
        """Say whether the object is there, without reading it."""

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield every object as digest and size in bytes."""

    def delete(self, digest: str) -> None:
        """Remove an object; removing what is not there is no error."""


@runtime_checkable
class Names(Protocol):
    """Changeable names for digests, such as `cache/<fingerprint>` or `runs/<id>`. Entry points: `modelyard.names`."""

    def set(self, name: str, digest: str) -> None:
        """Point a name at a digest, durably and atomically."""

    def get(self, name: str) -> str | None:
        """Return the digest that a name points at, or None."""

    def delete(self, name: str) -> None:
        """Remove a name; removing what is not there is no error."""

    def list(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield name and digest of every name that starts with the prefix, sorted by name."""


@runtime_checkable
class Materializer(Protocol):
    """Turns one kind of Python value into files and back, without pickle. Entry points: `modelyard.materializers`."""

    name: ClassVar[str]

    def accepts(self, value: Any) -> bool:
        """Say whether this materializer can save the value."""

    def save(self, value: Any, folder: Path) -> Mapping[str, Any]:
        """Write the value as files into an empty folder; return a small JSON summary (rows, shape, dtype)."""

    def load(self, folder: Path) -> Any:
        """Return the value; arrays are memory-mapped and read-only."""


@runtime_checkable
class Context(Protocol):
    """What a step may know and tell while it runs; a function that has a parameter named `context` is given one."""

    project: Path
    """The project folder; relative paths in parameters count from it."""
    workdir: Path
    """An empty folder of this attempt's own, removed afterwards."""
    seed: int
    """For random numbers."""
    cores: float | None
    """CPU cores that the step asked for, or None."""
    outputs: tuple[str, ...]
    """Names of the outputs that the step must produce."""

    def log(self, message: str) -> None:
        """Write one line to the task's log."""

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a metric; with `step` a point of a curve, without it the task's final value of that name."""

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """Tell how far the step is."""


@runtime_checkable
class Executor(Protocol):
    """Runs task calls somewhere. Entry points: `modelyard.executors`."""

    def submit(self, call: TaskCall, emit: Listener) -> Future[TaskResult]:
        """Start a task; its future ends with the result, or with a RunError where none could be had."""

    def cancel(self, task: str) -> None:
        """Stop a running task at once; its future ends cancelled."""

    @property
    def capacity(self) -> int:
        """How many tasks run side by side."""

    def close(self) -> None:
        """Stop every worker and give back what was held; closing twice is no error."""


@runtime_checkable
class Expecting(Protocol):
    """What an executor may have beyond `Executor`."""

    def expect(self, modules: Iterable[str]) -> None:
        """Take note of modules that later tasks of a run will import; they may be imported ahead."""


@runtime_checkable
class Predictor(Protocol):
    """A loaded model."""

    def predict(self, columns: Columns) -> Columns:
        """Return the outputs for the rows given; raises ContractError where the columns do not fit."""


@runtime_checkable
class Flavour(Protocol):
    """One way to keep and load a trained model. Entry points: `modelyard.flavours`."""

    name: ClassVar[str]

    def save(self, model: Any, folder: Path) -> Mapping[str, Any]:
        """Write the model as files into a folder, with no pickle, and with `model.onnx` beside where it can be made.

        Returns facts that `model.json` keeps: `head` (`logits`, `probabilities`, `labels` or `value`), and where known
        `onnx` ({file, input, output}) or `onnx_missing` (a sentence), `classes`, `input_shape`, `outputs`, `flat`.
        """

    def load(self, folder: Path) -> Predictor:
        """Load the model as a predictor from `input` (float32, rows first) to `scores`.

        Raises IntegrityError where a file is damaged or holds types outside the trusted list.
        """


@runtime_checkable
class Bus(Protocol):
    """Carries release events from publisher to subscribers, at least once. Entry points: `modelyard.buses`."""

    def publish(self, topic: str, message: Mapping[str, Any]) -> None:
        """Append a JSON message to a topic, durably."""

    def subscribe(self, topic: str, consumer: str) -> Iterator[Mapping[str, Any]]:
        """Yield the messages that this consumer has not acknowledged; going on to the next acknowledges the last."""

    def history(self, topic: str) -> Iterator[Mapping[str, Any]]:
        """Yield every message of the topic from the first on, acknowledging nothing."""

    def wait(self, topic: str, timeout: float) -> bool:
        """Block until the topic has grown since the last call, or for `timeout` seconds; say whether it has."""

    def close(self) -> None:
        """Give back what was held."""
