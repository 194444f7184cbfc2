"""A worker process: loads what is committed, then accepts, then prepares whatever the supervisor asks it to.

The event loop's thread answers requests. The control thread reads the supervisor's frames; each prepare runs in a
thread of its own at a low priority. When the supervisor is gone, the worker finishes what is in flight and exits.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modelyard.errors import ModelyardError, RefusedError
from modelyard.serving.accepting import new_event_loop, raise_descriptors
from modelyard.serving.auth.guard import Guard, guard_of
from modelyard.serving.auth.tls import tls_context
from modelyard.serving.http.application import Application
from modelyard.serving.http.credentials import HttpCredentials
from modelyard.serving.http.server import HttpServer
from modelyard.serving.http.surfaces import routes_of
from modelyard.serving.inference import Inference
from modelyard.serving.liaison import Liaison
from modelyard.serving.loading import Loader, Served, loader_of
from modelyard.serving.logs import Log, log_about
from modelyard.serving.memory import private_bytes
from modelyard.serving.metrics import Metrics
from modelyard.serving.observer import Observer
from modelyard.serving.priority import ask_for_short_slices, lower_priority
from modelyard.serving.slots import Generation, Slots
from modelyard.serving.spec import WorkerSpec
from modelyard.serving.state import GenerationRecord, Page
from modelyard.serving.tracers import tracer_of
from modelyard.serving.wire import (
    Abort,
    Accept,
    Accepting,
    Announce,
    Answered,
    Channel,
    Drain,
    Keep,
    Load,
    Loaded,
    Named,
    Prepare,
    Prepared,
    Preparing,
    Refused,
    ToWorker,
    failure_of,
)

if TYPE_CHECKING:
    from modelyard.serving.grpc.server import GrpcServer

__all__ = ["main"]

SWITCH_SECONDS = 0.0005
"""How long a thread that prepares may hold the interpreter while the event loop waits for it."""
ORPHAN_SECONDS = 2.0
BEAT_SECONDS = 0.25
PR_SET_PDEATHSIG = 1


class Worker:
    """One worker.

    Args:
        spec: What the supervisor said on the command line.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._log = Log(spec.log_level, service=spec.service, worker=spec.worker, pid=os.getpid())
        self._page = Page(spec.page)
        self._slots = Slots(self._page)
        self._channel: Channel[ToWorker] = Channel(socket.socket(fileno=spec.control), ToWorker)
        self._loader: Loader = loader_of(spec.loader)
        self._loop = new_event_loop()
        self._liaison = Liaison(self._channel.send)
        metrics = Metrics(self._page, self._slots, spec.workers)
        inference = Inference(self._slots, spec.limits, metrics, self._log, spec.worker, spec.workers)
        self._tracer = inference.tracer = tracer_of(spec.otel_endpoint, spec.service, self._log)
        routes = routes_of(inference, self._liaison, spec.auth, spec.tls, spec.uploads, explicit=spec.explicit)
        guard = guard_of(spec.auth, self._log, hosts=spec.hosts, anonymous=spec.anonymous)
        application = Application(routes, inference, spec.worker, HttpCredentials(guard))
        tls = tls_context(spec.tls, "http/1.1") if spec.tls is not None else None
        self._server = HttpServer(
            application,
            application.refusal,
            self._loop,
            spec.listening,
            spec.limits.body_seconds,
            tls,
        )
        self._grpc = self._grpc_server(inference, guard) if spec.grpc is not None else None
        self._accept = asyncio.Event()
        self._stop = asyncio.Event()

    def _grpc_server(self, inference: Inference, guard: Guard) -> GrpcServer:
        # protobuf and h2 take megabytes of each worker: only where gRPC is spoken.
        from modelyard.serving.grpc.front import grpc_server  # noqa: PLC0415

        assert self._spec.grpc is not None  # noqa: S101  (narrows the type)
        tls = tls_context(self._spec.tls, "h2") if self._spec.tls is not None else None
        return grpc_server(inference, self._liaison, self._loop, self._spec.grpc, self._spec.worker, guard, tls)

    def run(self) -> int:
        """Serve until the supervisor says drain, or is gone; return the exit status."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._loop.add_signal_handler(signal.SIGTERM, self._terminated)
        threading.Thread(target=self._control, name="control", daemon=True).start()
        threading.Thread(target=Observer(self._slots, self._channel.send).run, name="observer", daemon=True).start()
        self._beat()
        self._loop.run_until_complete(self._serve())
        if self._tracer is not None:
            self._tracer.close()
        return 0

    async def _serve(self) -> None:
        accept = asyncio.ensure_future(self._accept.wait())
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((accept, stop), return_when=asyncio.FIRST_COMPLETED)
        if self._accept.is_set():
            # What is there now stays: a full collection that went through it would stop the event loop for 6 ms.
            gc.collect()
            gc.freeze()
            self._server.start()
            if self._grpc is not None:
                self._grpc.start()
            self._channel.send(Accepting())
            self._log.info("accepting")
            await stop
            self._server.drain()
            if self._grpc is not None:
                self._grpc.drain()
                await self._grpc.wait_drained()
            await self._server.wait_drained()
        self._log.info("stopped")

    def _beat(self) -> None:
        """Show the supervisor that the event loop turns."""
        self._page.words[Page.PULSES + self._spec.worker] += 1
        self._loop.call_later(BEAT_SECONDS, self._beat)

    def _terminated(self) -> None:
        orphaned = os.getppid() != self._spec.supervisor
        self._begin_drain(ORPHAN_SECONDS if orphaned else self._spec.drain_seconds)

    def _begin_drain(self, seconds: float) -> None:
        if not self._stop.is_set():
            self._stop.set()
            # A request that never ends must not keep the process, nor must native code that holds the interpreter.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))

    def _control(self) -> None:
        try:
            while (frame := self._channel.receive()) is not None:
                self._obey(frame)
        except Exception as error:
            self._log.error("control-failed", reason=repr(error)[:500])
        self._log.debug("supervisor-gone")
        self._loop.call_soon_threadsafe(self._begin_drain, min(ORPHAN_SECONDS, self._spec.drain_seconds))

    def _obey(self, frame: ToWorker) -> None:
        match frame:
            case Load():
                self._load(frame)
            case Accept():
                self._loop.call_soon_threadsafe(self._accept.set)
            case Announce():
                self._slots.announce(frame.slot, frame.index)
            case Prepare():
                threading.Thread(target=self._prepare, args=(frame,), name="prepare", daemon=True).start()
            case Abort():
                self._slots.forget(frame.slot, frame.number)
            case Keep():
                for generation in self._slots.keep(frame.slot, frame.numbers):
                    threading.Thread(target=self._unload, args=(generation,), name="unload", daemon=True).start()
            case Named():
                self._slots.tell_labels(frame.slot, frame.labels)
            case Answered():
                self._loop.call_soon_threadsafe(self._liaison.answered, frame.number, frame.reply)
            case Drain():
                self._loop.call_soon_threadsafe(self._begin_drain, self._spec.drain_seconds)

    def _load(self, frame: Load) -> None:
        """Hold what is committed; done at full priority, as nothing is served yet."""
        started = time.perf_counter()
        failures = {}
        for wanted in frame.slots:
            self._slots.announce(wanted.name, wanted.index)
            held = self._slots[wanted.name].generations
            for record in wanted.generations:
                if record.number in held:
                    continue
                try:
                    held[record.number] = Generation(record, self._serving(record))
                except Exception as error:
                    failures[f"{wanted.name}/{record.number}"] = failure_of(error)
                    self._log_refusal(record, error)
        holds = {name: tuple(slot.generations) for name, slot in self._slots.items()}
        self._channel.send(Loaded(holds, failures, time.perf_counter() - started))

    def _prepare(self, frame: Prepare) -> None:
        with log_about(**frame.about):
            self._hold(frame)

    def _hold(self, frame: Prepare) -> None:
        record = frame.generation
        lower_priority()
        started, before = time.perf_counter(), private_bytes()
        self._channel.send(Preparing(frame.slot, record.number))
        try:
            generation = Generation(record, self._serving(record))
            inputs = hashlib.sha256(msgspec.json.encode(generation.served.contract.inputs)).hexdigest()
        except Exception as error:
            self._log_refusal(record, error)
            self._channel.send(Refused(frame.slot, record.number, failure_of(error)))
            return
        self._slots.hold(frame.slot, frame.index, generation)
        growth = max(0, private_bytes() - before)
        seconds = time.perf_counter() - started
        self._log.info(
            "prepared", model=record.model, version=record.version, generation=record.number, seconds=seconds,
            bytes=growth,
        )  # fmt: skip
        self._channel.send(Prepared(frame.slot, record.number, seconds, inputs, growth))

    def _serving(self, record: GenerationRecord) -> Served:
        try:
            return self._loader(Path(record.folder), record.pickle)
        except MemoryError as error:
            raise RefusedError(
                f"There is not enough memory for {record.model} {record.version}.",
                remedy="Serve it on a larger machine.",
            ) from error

    def _log_refusal(self, record: GenerationRecord, error: Exception) -> None:
        reason = str(error) if isinstance(error, ModelyardError) else repr(error)
        self._log.error("load-refused", model=record.model, generation=record.number, reason=reason[:500])

    def _unload(self, generation: Generation) -> None:
        """Let a generation go after its last request; freeing a large model would stop the event loop."""
        while generation.in_flight:
            time.sleep(0.02)
        self._log.info("unloaded", model=generation.record.model, generation=generation.number)


def die_with(supervisor: int) -> None:
    """Ask the kernel to send SIGTERM when the supervisor dies, and exit if it is dead already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor:
        sys.exit(1)


def main() -> None:
    """Run a worker; its one argument is a WorkerSpec as JSON."""
    spec = WorkerSpec.parse(sys.argv[1])
    die_with(spec.supervisor)
    sys.setswitchinterval(SWITCH_SECONDS)
    ask_for_short_slices()
    raise_descriptors()
    status = Worker(spec).run()
    sys.stdout.flush()
    # Threads that load a model or wait for a request must not hold up the exit.
    os._exit(status)


if __name__ == "__main__":
    main()
