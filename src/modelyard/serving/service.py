"""Run a service: the supervisor, which starts workers, follows what is live, and answers clients on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import select
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from types import FrameType

import msgspec

from modelyard.errors import BusyError, InputError, MissingExtraError, ModelyardError
from modelyard.files import storage_error, storage_errors, write_atomically
from modelyard.records import Failure
from modelyard.serving.asking import ControlReply, ControlRequest
from modelyard.serving.auth.guard import check_auth
from modelyard.serving.auth.tls import check_tls
from modelyard.serving.board import Board
from modelyard.serving.client import SERVICE_FILE, STOPPED_FILE, ServiceFile
from modelyard.serving.control import ControlServer
from modelyard.serving.faults import Faults
from modelyard.serving.fetching import Fetch, Fetching, Verdict, judged
from modelyard.serving.follower import Follower, LiveSource, Rollout, Wake
from modelyard.serving.install import Installer
from modelyard.serving.judge import Judge, JudgeLimits
from modelyard.serving.loading import verifier_of
from modelyard.serving.logs import Log
from modelyard.serving.memory import Memory, available
from modelyard.serving.notify import Notifier
from modelyard.serving.pool import Pool
from modelyard.serving.repository import Repository
from modelyard.serving.requests import Place, Requests
from modelyard.serving.roles import Roles
from modelyard.serving.spec import Limits, Live, ServiceSpec
from modelyard.serving.staging import Shelf, Staging
from modelyard.serving.state import Committed, CommittedFile, GenerationRecord, Page, SlotRecord
from modelyard.serving.swap import Swapper
from modelyard.serving.tracers import check_tracing, tracer_of
from modelyard.serving.tracing import Origin
from modelyard.serving.wire import Role, failure_of

__all__ = ["Limits", "Live", "ServiceSpec", "run_service"]

BIND_SECONDS = 5.0
BACKLOG = 1024
LOOK_SECONDS = 0.25


def run_service(
    spec: ServiceSpec,
    *,
    fetch: Fetch,
    live: LiveSource | None = None,
    wake: Wake | None = None,
    repository: Repository | None = None,
    pickles: Verdict | None = None,
    faults: Faults | None = None,
) -> None:
    """Run a service in this process until it is stopped by a client, SIGTERM or SIGINT; it drains before it returns.

    Args:
        spec: What it is.
        fetch: Returns a local, verified folder with the package of a digest.
        live: Returns what should be served, by slot; asked again and again. None: only clients change what is served.
            In the control mode `explicit` it is not asked.
        wake: Blocks until that may have changed, or for the seconds given. None: it is asked every second.
        repository: Knows which versions may be served, for who loads by name and version.
        pickles: Says which package's pickled model may be loaded; asked where the specification allows any at all.
        faults: For tests.

    Raises:
        InputError: A value of the specification is impossible, or `released` without `live`.
        MissingExtraError: A port for gRPC is asked for, and its libraries are not installed.
        RefusedError: Others could reach it without proving who they are, or without encryption.
        BusyError: Another service runs on the folder, or the port is taken.
        KeyboardInterrupt: SIGINT ended it; it has drained.
        StorageError: The folder can't be written.
        IntegrityError: The committed state was damaged by something else.
    """
    spec.check()
    if spec.grpc_port is not None:
        _check_grpc()
    log = Log(spec.log_level, service=spec.name, pid=os.getpid())
    check_tracing(spec.otel_endpoint)
    if spec.tls is not None:
        check_tls(spec.tls)
    if spec.auth is not None:
        check_auth(spec.auth, log)
    with _folder_lock(spec.folder, spec.name):
        fetching = judged(fetch, pickles if spec.allow_pickle == "signed" else None)
        Supervisor(spec, fetching, live, wake, repository, faults or Faults(), log).run()


def _check_grpc() -> None:
    """Raise an error before anything is started where the workers could not speak gRPC."""
    for library in ("h2", "google.protobuf"):
        try:
            importlib.import_module(library)
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "gRPC needs h2 and protobuf.",
                remedy="Install them with: pip install 'modelyard[serve]', or leave out the port for gRPC.",
            ) from error


@contextlib.contextmanager
def _folder_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the folder; the kernel lets it go when the process ends, however it ends."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"The service {name!r} runs already.",
                where=str(folder),
                remedy=f"Look: modelyard services {name}. Stop it first: modelyard down {name}",
            ) from error
        yield
    finally:
        os.close(descriptor)


class Supervisor:
    """One service. Its main thread starts workers; other threads follow releases and answer clients.

    Args:
        spec: What it is.
        fetch: Where packages come from, and which pickles in them may be loaded.
        live: What should be served, or None.
        wake: Waits for a change, or None.
        repository: What may be served, or None.
        faults: For tests.
        log: Its log.
    """

    def __init__(
        self,
        spec: ServiceSpec,
        fetch: Fetching,
        live: LiveSource | None,
        wake: Wake | None,
        repository: Repository | None,
        faults: Faults,
        log: Log,
    ) -> None:
        if spec.control == "released" and live is None:
            raise InputError("Nobody tells the service what is released.", remedy="Use the control mode `explicit`.")
        follows = live is not None and spec.control != "explicit"
        spec = msgspec.structs.replace(spec, control="released" if follows else "explicit")
        self._spec = spec
        self._log = log
        shelf = Shelf(spec.folder.absolute())
        shelf.prepare()
        fetch = shelf.fetching(fetch)
        self._started = time.time()
        self._stop = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        file = CommittedFile(spec.folder)
        committed, broken = _refetch(file.read(), fetch, log)
        self._board = Board(file, committed, Page.create(), faults, log)
        self._board.mark_broken(broken)
        self._listening, self._grpc = _sockets(spec)
        limits = JudgeLimits(spec.error_rate, spec.p99_seconds, spec.minimum_requests)
        self._judge = Judge(limits, self._condemn, self._board, log)
        memory = Memory(spec.memory, lambda: self._pool.processes(), log, available)
        self._pool = Pool(
            spec, self._board, log, self._listening, self._grpc, _metrics_folder(spec.folder), self._wake,
            self._reply, self._judge.observed, memory.short,
        )  # fmt: skip
        installer = Installer(
            self._board,
            self._pool,
            fetch=fetch,
            verify=verifier_of(spec.loader),
            memory=memory,
            prepare_seconds=spec.prepare_seconds,
            faults=faults,
            log=log,
        )
        swapper = Swapper(installer, grace_seconds=spec.grace_seconds)
        self._roles = Roles(installer)
        self._follower = None
        if live is not None and follows:
            rollout = Rollout(spec.canary_ppm, spec.canary_seconds)
            waiting = wake or threading.Event().wait
            self._follower = Follower(live, waiting, swapper, self._roles, rollout, self._board, log)
        host, port = self._listening.getsockname()[:2]
        grpc_port = self._grpc.getsockname()[1] if self._grpc is not None else None
        self._place = Place(spec.name, host, port, self._started, grpc_port)
        self._requests = Requests(
            self._place, self._board, self._pool, swapper, self._roles, self._judge, self._follower, repository,
            self._stop_soon, faults, Staging(shelf, swapper, self._board, log, spec.limits),
        )  # fmt: skip
        self._tracer = tracer_of(spec.otel_endpoint, spec.name, log)
        self._control = ControlServer(spec.folder, self._requests.answer, log, self._tracer)

    def run(self) -> None:
        """Serve until stopped."""
        place = self._place
        tls = self._spec.tls is not None
        file = ServiceFile(place.name, os.getpid(), place.host, place.port, place.started, tls, place.grpc_port)
        write_atomically(self._spec.folder / SERVICE_FILE, msgspec.json.encode(file) + b"\n")
        self._control.start()
        self._judge.start()
        threading.Thread(target=self._look_after, name="watch", daemon=True).start()
        with _signals(self._stop_soon, self._wake_write) as taken:
            self._log.info(
                "started", host=place.host, port=place.port, grpc_port=place.grpc_port, workers=self._spec.workers
            )
            self._pool.start_due()
            if self._follower is not None:
                self._follower.start()
            else:
                self._board.expect(self._board.committed.slots)
            self._watch()
            self._shut()
        if self._tracer is not None:
            self._tracer.close()
        self._log.info("stopped")
        if signal.SIGINT in taken:
            # A shell that sees it leaves its script as well; after SIGTERM, which asks for a stop, it goes on.
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while not self._stop:
            pause = self._pool.start_due()
            readable, _, _ = select.select([self._wake_read], [], [], pause)
            if readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)

    def _look_after(self) -> None:
        """Look at everything that changes by the passing of time alone."""
        before, notifier = time.monotonic(), Notifier()
        while not self._stop:
            notifier.look(len(self._pool.accepting()), self._spec.workers)
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            try:
                self._pool.watch(now - before)
                self._roles.expire()
            except Exception as error:
                # Such as a full disk: what is over now is over at the next look, too.
                self._log.error("watch-failed", reason=str(error)[:500])
            before = now

    def _condemn(self, role: Role, model: str, number: int, reason: str) -> None:
        released = self._follower.released(model) if self._follower is not None else None
        self._roles.stop(role, model, number, reason, released)

    def _shut(self) -> None:
        self._log.info("draining")
        Notifier().stopping()
        if self._follower is not None:
            self._follower.stop()
        # The queue ends with the last worker that takes from it: who comes later is refused, and knows that it was not
        # heard, where a socket of ours would let it in and reset it.
        self._listening.close()
        if self._grpc is not None:
            self._grpc.close()
        self._pool.drain()
        with contextlib.suppress(FileNotFoundError):
            (self._spec.folder / SERVICE_FILE).replace(self._spec.folder / STOPPED_FILE)
        self._control.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def _stop_soon(self) -> None:
        self._stop = True
        self._wake()

    def _reply(self, request: ControlRequest, origin: Origin) -> ControlReply:
        return self._control.reply(request, origin)


def _refetch(committed: Committed, fetch: Fetching, log: Log) -> tuple[Committed, dict[str, Failure]]:
    """Fetch again what was committed: after a restart nothing is served from a folder that was not verified."""
    slots: dict[str, SlotRecord] = {}
    broken: dict[str, Failure] = {}
    for name, record in committed.slots.items():
        fetched: dict[int, GenerationRecord] = {}
        for number, generation in record.held.items():
            fetched[number], failure = _fetched(generation, fetch, log)
            if failure is not None and number == record.current.number:
                broken[name] = failure
            elif failure is not None:
                record = record.without(number)
        slots[name] = record.replaced(fetched)
    return msgspec.structs.replace(committed, slots=slots), broken


def _fetched(record: GenerationRecord, fetch: Fetching, log: Log) -> tuple[GenerationRecord, Failure | None]:
    try:
        folder, pickle = fetch(record.package)
        return msgspec.structs.replace(record, folder=str(folder), pickle=pickle), None
    except Exception as error:
        reason = str(error) if isinstance(error, ModelyardError) else repr(error)
        log.error("fetch-failed", model=record.model, generation=record.number, reason=reason[:500])
        return msgspec.structs.replace(record, folder="", pickle=None), failure_of(error)


def _sockets(spec: ServiceSpec) -> tuple[socket.socket, socket.socket | None]:
    """Return the sockets for HTTP and, where it is asked for, gRPC, on the ports that the service had last."""
    last = ServiceFile.read(spec.folder) or ServiceFile.read(spec.folder, STOPPED_FILE)
    listening = _listen(spec.host, spec.port, last.port if last else 0)
    if spec.grpc_port is None:
        return listening, None
    return listening, _listen(spec.host, spec.grpc_port, (last.grpc_port or 0) if last else 0)


def _listen(host: str, wanted: int, last: int) -> socket.socket:
    """Return a listening socket for all workers. Those of a supervisor that was killed may hold the port for a moment.

    Args:
        host: Address to listen on.
        wanted: Port; 0 for the one that the service had last, or a free one.
        last: The port that it had last, or 0.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + BIND_SECONDS
    port = wanted or last
    while True:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            if time.monotonic() < deadline:
                time.sleep(0.05)
            elif wanted == 0 and port != 0:
                port, deadline = 0, 0.0
            else:
                raise BusyError(
                    f"{host}:{port} can't be listened on: {error.strerror}.",
                    remedy="Choose another port, or 0 for a free one.",
                ) from error
            continue
        listening.setblocking(False)
        return listening


def _metrics_folder(folder: Path) -> Path:
    """Return an empty folder for the workers' metrics; counters begin anew with each service, as Prometheus expects."""
    metrics = folder / "metrics"
    try:
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(metrics, error) from error
    return metrics


@contextlib.contextmanager
def _signals(stop: Callable[[], None], wake: int) -> Iterator[Set[int]]:
    """Stop on SIGTERM and SIGINT, where this is the process's main thread; another thread is never told of signals.

    Yields:
        The signals that were taken.
    """
    taken: set[int] = set()
    if threading.current_thread() is not threading.main_thread():
        yield taken
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        taken.add(number)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    # Python runs a handler when the main thread is awake; one that is about to wait would not be, and sleep on.
    waker = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield taken
    finally:
        signal.set_wakeup_fd(waker)
        for number, handler in before.items():
            signal.signal(number, handler)
