"""The supervisor's workers: started, watched, replaced, drained."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from modelyard.errors import ModelyardError, RunError, WorkerLostError
from modelyard.records import Failure
from modelyard.serving.asking import ControlReply, ControlRequest
from modelyard.serving.board import Board
from modelyard.serving.logs import Log, told_about
from modelyard.serving.spec import STAGED, ServiceSpec, WorkerSpec
from modelyard.serving.state import GenerationRecord, Page
from modelyard.serving.tracing import Origin
from modelyard.serving.wire import (
    Accept,
    Accepting,
    Announce,
    Answered,
    Ask,
    Channel,
    Drain,
    Keep,
    Load,
    Loaded,
    Named,
    Observed,
    Prepare,
    Prepared,
    Preparing,
    Refused,
    ToSupervisor,
    error_of,
)

__all__ = ["Pool", "WorkerHandle"]

YOUNG_SECONDS = 5.0
LONGEST_PAUSE = 15.0
SEND_SECONDS = 3


Short = Callable[[Collection[int], int], tuple[int, int] | None]


class WorkerHandle:
    """A worker as the supervisor sees it.

    Args:
        number: Its place, from 0; a replacement takes the same.
        process: Its process.
        channel: To and from it.
    """

    def __init__(self, number: int, process: subprocess.Popen[bytes], channel: Channel[ToSupervisor]) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.born = time.monotonic()
        self.member = False
        """Whether it was told to accept: every commit needs its consent from then on."""
        self.accepting = False
        self.lost = False
        self.beat = 0
        self.still = 0.0
        """For how many seconds its event loop has not turned."""
        self.holds: set[tuple[str, int]] = set()
        self.answers: queue.SimpleQueue[Preparing | Prepared | Refused | None] = queue.SimpleQueue()

    def prepare(self, slot: str, index: int, generation: GenerationRecord, timeout: float) -> Prepared | None:
        """Have the worker load a generation; None where the worker died before it began, so that nothing is known.

        Raises:
            WorkerLostError: It died while it loaded.
            RunError: It took too long.
            ModelyardError: Why it refused.
        """
        deadline = time.monotonic() + timeout
        began = False
        self.channel.send(Prepare(slot, index, generation, told_about()))
        while True:
            try:
                answer = self.answers.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                raise RunError(
                    f"Worker {self.number} took over {timeout:g} s to load {generation.model} {generation.version}."
                ) from None
            if answer is None:
                if not began:
                    return None
                raise WorkerLostError(
                    f"Worker {self.number} died while it loaded {generation.model} {generation.version}.",
                    remedy="The service's log may tell why; too little memory is the usual reason.",
                )
            if (answer.slot, answer.number) != (slot, generation.number):
                # An answer to an earlier prepare that took too long is of no use any more.
                continue
            if isinstance(answer, Refused):
                raise error_of(answer.failure)
            if isinstance(answer, Prepared):
                return answer
            began = True


class Pool:
    """All workers of a service.

    Args:
        spec: Of the service.
        board: The supervisor's.
        log: The supervisor's.
        listening: The socket that every worker accepts from.
        grpc: The one for gRPC, or None.
        metrics: Folder for the workers' metrics.
        wake: Wakes the supervisor's main thread, which alone starts processes.
        answer: Does what a worker's client asks of the supervisor; it never raises.
        observed: Hears what workers observe of canaries and shadows; it never waits.
        short: Says, by the processes of those that accept, whether memory is too little for as many workers more.
    """

    def __init__(
        self,
        spec: ServiceSpec,
        board: Board,
        log: Log,
        listening: socket.socket,
        grpc: socket.socket | None,
        metrics: Path,
        wake: Callable[[], None],
        answer: Callable[[ControlRequest, Origin], ControlReply],
        observed: Callable[[Observed], None],
        short: Short,
    ) -> None:
        self._spec = spec
        self._board = board
        self._log = log
        self._listening = listening
        self._grpc = grpc
        self._metrics = metrics
        self._wake = wake
        self._answer = answer
        self._observed = observed
        self._short = short
        self._workers: dict[int, WorkerHandle] = {}
        self._due = dict.fromkeys(range(spec.workers), 0.0)
        self._failures = dict.fromkeys(range(spec.workers), 0)
        self._held_back = dict.fromkeys(range(spec.workers), 0)
        self._draining = False
        self.restarts = 0

    def members(self) -> list[WorkerHandle]:
        """Return the workers whose consent a commit needs."""
        with self._board.lock:
            return [worker for worker in self._workers.values() if worker.member and not worker.lost]

    def accepting(self) -> tuple[int, ...]:
        """Return the process ids of the workers that accept."""
        return tuple(worker.process.pid for worker in self.members() if worker.accepting)

    def start_due(self) -> float | None:
        """Start what is missing and due; return the seconds until the next is, or None where all run.

        Only the supervisor's main thread may call it: the kernel ends a worker when the *thread* that started it ends.
        """
        now = time.monotonic()
        for number, due in list(self._due.items()):
            if due <= now and not self._draining and not self._hold_back(number):
                del self._due[number]
                try:
                    self._start(number)
                except OSError as error:
                    # No memory or no process to be had at this moment; the other workers go on.
                    self._log.error("worker-not-started", worker=number, reason=str(error))
                    self._due[number] = time.monotonic() + 1.0
        return max(min(self._due.values()) - now, 0.0) if self._due else None

    def _hold_back(self, number: int) -> bool:
        """Say whether a worker must wait until there is memory for what is committed.

        The kernel would kill it, or one that answers, again and again. Where nobody answers it is tried anyhow.
        """
        accepting = self.accepting()
        with self._board.lock:
            loading = sum(not worker.member for worker in self._workers.values())
        short = self._short(accepting, loading + 1) if accepting else None
        self._held_back[number] = self._held_back[number] + 1 if short else 0
        self._board.page.words[Page.HELD_BACK] = sum(map(bool, self._held_back.values()))
        if short is None:
            return False
        pause = _pause(self._held_back[number])
        self._due[number] = time.monotonic() + pause
        self._log.error("worker-held-back", worker=number, needed=short[0], left=short[1], pause=pause)
        return True

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        spec = WorkerSpec(
            service=self._spec.name,
            worker=number,
            workers=self._spec.workers,
            supervisor=os.getpid(),
            listening=self._listening.fileno(),
            grpc=self._grpc.fileno() if self._grpc is not None else None,
            control=theirs.fileno(),
            page=self._board.page.descriptor,
            limits=self._spec.limits,
            log_level=self._spec.log_level,
            loader=self._spec.loader,
            drain_seconds=self._spec.drain_seconds,
            uploads=self._spec.folder.absolute() / STAGED,
            explicit=self._spec.control == "explicit",
            auth=self._spec.auth,
            tls=self._spec.tls,
            hosts=self._spec.hosts,
            anonymous=self._spec.anonymous,
            otel_endpoint=self._spec.otel_endpoint,
        )
        # One thread for each library: a request is one unit of work, and there is a worker for each core. And
        # onnxruntime would keep an account of its use in the user's home.
        environment = {
            **os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics), "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "modelyard.serving.worker", spec.text()],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(spec.listening, spec.control, spec.page, *(() if spec.grpc is None else (spec.grpc,))),
        )
        theirs.close()
        worker = WorkerHandle(number, process, Channel(ours, ToSupervisor))
        # A worker that stands still must not stop the supervisor, which sends while it holds the board's lock.
        worker.channel.limit_sending(SEND_SECONDS)
        with self._board.lock:
            self._workers[number] = worker
        threading.Thread(target=self._listen, args=(worker,), name=f"worker-{number}", daemon=True).start()
        worker.channel.send(Load(self._board.loads()))
        self._log.info("worker-started", worker=number, worker_pid=process.pid)

    def _listen(self, worker: WorkerHandle) -> None:
        try:
            while (frame := worker.channel.receive()) is not None:
                match frame:
                    case Loaded():
                        self._join(worker, frame)
                    case Accepting():
                        worker.accepting = True
                        self._board.workers_accept()
                    case Prepared():
                        with self._board.lock:
                            worker.holds.add((frame.slot, frame.number))
                        worker.answers.put(frame)
                    case Preparing() | Refused():
                        worker.answers.put(frame)
                    case Observed():
                        self._observed(frame)
                    case Ask():
                        # A swap needs this very thread to hear what the worker says of its prepare.
                        threading.Thread(target=self._reply, args=(worker, frame), name="asked", daemon=True).start()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log.error("worker-unintelligible", worker=worker.number, reason=str(error))
        self._lose(worker)

    def _reply(self, worker: WorkerHandle, asked: Ask) -> None:
        worker.channel.send(Answered(asked.number, self._answer(asked.request, asked.origin)))

    def _join(self, worker: WorkerHandle, frame: Loaded) -> None:
        """Let a worker accept once it holds what is committed now, which may have changed while it loaded."""
        with self._board.lock:
            worker.holds = {(name, number) for name, numbers in frame.holds.items() for number in numbers}
            failures: dict[str, Failure] = {}
            for name, record in self._board.committed.slots.items():
                for number in record.held:
                    failure = frame.failures.get(f"{name}/{number}")
                    if (name, number) in worker.holds:
                        continue
                    if failure is None:
                        worker.channel.send(Load(self._board.loads()))
                        return
                    # A previous generation that can't be loaded now is loaded when somebody rolls back to it.
                    if number == record.current.number or number in record.routed:
                        failures[f"{name}/{number}"] = failure
            served = [place for place in failures if self._someone_holds(place)]
            if served:
                # Others can answer for these: a worker that can't must not take their requests.
                self._log.error("worker-refused", worker=worker.number, reason=str(failures[min(served)]))
                worker.process.kill()
                return
            self._take_down(failures)
            for name, index in ((load.name, load.index) for load in self._board.loads()):
                worker.channel.send(Announce(name, index))
            for name, record in self._board.committed.slots.items():
                worker.channel.send(Named(name, record.labels))
            worker.member = True
            worker.channel.send(Accept())
        self._log.info("worker-loaded", worker=worker.number, seconds=frame.seconds)

    def _take_down(self, failures: dict[str, Failure]) -> None:
        """Take down what no worker can hold: a model whose current generation is among it is broken."""
        current: dict[str, Failure] = {}
        for place, failure in failures.items():
            name, _, number = place.rpartition("/")
            if int(number) == self._board.committed.slots[name].current.number:
                current[name] = failure
                continue
            self._log.error("generation-lost", model=name, generation=int(number), reason=str(failure)[:500])
            try:
                self._board.forget(name, int(number))
            except ModelyardError as error:
                self._log.error("generation-not-forgotten", model=name, reason=str(error))
        self._board.mark_broken({name: failure for name, failure in current.items() if name not in self._board.broken})
        for name in [name for name in self._board.broken if name not in current]:
            self._board.mend(name)

    def _someone_holds(self, place: str) -> bool:
        name, _, number = place.rpartition("/")
        return any((name, int(number)) in member.holds for member in self.members())

    def watch(self, seconds: float) -> None:
        """Kill who stands still: a worker whose event loop has not turned for too long answers nobody.

        Args:
            seconds: Since the last look. More than a second of it counts as one: where the supervisor itself stood
                still, as on a machine that was suspended, its workers are not to blame.
        """
        for worker in self.members():
            beat = self._board.page.words[Page.PULSES + worker.number]
            if not worker.accepting or beat != worker.beat:
                worker.beat, worker.still = beat, 0.0
                continue
            worker.still += min(seconds, 1.0)
            if worker.still > self._spec.hang_seconds and not self._draining:
                self._log.error(
                    "worker-hung", worker=worker.number, worker_pid=worker.process.pid, seconds=worker.still
                )
                worker.still = 0.0
                worker.process.kill()

    def processes(self) -> list[int]:
        """Return the process ids of all workers and of the supervisor."""
        with self._board.lock:
            return [os.getpid(), *(worker.process.pid for worker in self._workers.values())]

    def _lose(self, worker: WorkerHandle) -> None:
        """Take down a worker's end, and plan its replacement."""
        with self._board.lock:
            worker.lost = True
            loaded, worker.member = worker.member, False
        worker.answers.put(None)
        worker.channel.close()
        try:
            status = worker.process.wait(self._spec.drain_seconds if self._draining else 1.0)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        with self._board.lock:
            self._board.page.words[Page.WORKERS + worker.number] = 0
            if self._workers.get(worker.number) is worker:
                del self._workers[worker.number]
            if self._draining:
                return
            # Who never came to accept, however long it loaded, would end the same way at once.
            failed = not loaded or time.monotonic() - worker.born < YOUNG_SECONDS
            self._failures[worker.number] = self._failures[worker.number] + 1 if failed else 0
            pause = _pause(self._failures[worker.number]) if failed else 0.0
            self._due[worker.number] = time.monotonic() + pause
            self.restarts += 1
            self._board.page.words[Page.RESTARTS] = self.restarts
        self._log.warning(
            "worker-lost", worker=worker.number, worker_pid=worker.process.pid, status=status, loaded=loaded,
            pause=pause,
        )  # fmt: skip
        self._wake()

    def keep(self, slot: str, numbers: tuple[int, ...]) -> None:
        """Have every worker unload the other generations of a slot after their last requests."""
        with self._board.lock:
            for worker in self._workers.values():
                worker.holds = {place for place in worker.holds if place[0] != slot or place[1] in numbers}
                worker.channel.send(Keep(slot, numbers))

    def announce(self, slot: str, index: int) -> None:
        """Tell every worker of a new slot."""
        with self._board.lock:
            for worker in self._workers.values():
                worker.channel.send(Announce(slot, index))

    def tell(self, frame: Named) -> None:
        """Send a frame to every worker."""
        with self._board.lock:
            for worker in self._workers.values():
                worker.channel.send(frame)

    def drain(self) -> None:
        """Have every worker finish what is in flight, and wait for their end; who takes too long is killed."""
        with self._board.lock:
            self._draining = True
            workers = list(self._workers.values())
        for worker in workers:
            worker.channel.send(Drain())
        deadline = time.monotonic() + self._spec.drain_seconds + 1.0
        for worker in workers:
            try:
                worker.process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                self._log.warning("worker-killed", worker=worker.number, worker_pid=worker.process.pid)
                worker.process.kill()
                worker.process.wait()


def _pause(failures: int) -> float:
    """Return the seconds before the next try: 0.25, 0.5, 1 ... 15."""
    return float(min(0.25 * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE))
