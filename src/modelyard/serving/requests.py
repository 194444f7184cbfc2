"""Does what clients ask of a service, as far as its control mode allows it, and tells them how it stands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from modelyard.errors import ModelyardError, RefusedError
from modelyard.serving.asking import (
    CanaryRequest,
    ControlReply,
    ControlRequest,
    EndCanaryRequest,
    EndShadowRequest,
    GenerationStatus,
    LabelRequest,
    LoadRequest,
    PromoteRequest,
    RepositoryEntry,
    RepositoryIndex,
    RepositoryIndexRequest,
    RollbackRequest,
    Routed,
    ServiceStatus,
    ShadowRequest,
    ShareRequest,
    ShareStatus,
    SlotStatus,
    StagePart,
    StatusRequest,
    Stopping,
    StopRequest,
    Swapped,
    SwapRequest,
    Unloaded,
    UnloadRequest,
)
from modelyard.serving.board import Board
from modelyard.serving.faults import Faults
from modelyard.serving.follower import Follower
from modelyard.serving.install import Installed
from modelyard.serving.judge import Judge
from modelyard.serving.pool import Pool
from modelyard.serving.repository import Repository
from modelyard.serving.roles import Roles
from modelyard.serving.staging import Staging
from modelyard.serving.state import GenerationRecord, Share, SlotRecord
from modelyard.serving.swap import Swapper
from modelyard.serving.wire import Role

__all__ = ["Place", "Requests"]


class Place(msgspec.Struct, frozen=True):
    """Where a service runs.

    Args:
        name: Of the service.
        host: Address that it listens on.
        port: Port that it listens on.
        started: Seconds since 1970, UTC.
        grpc_port: Port for gRPC, or None.
    """

    name: str
    host: str
    port: int
    started: float
    grpc_port: int | None = None


class Requests:
    """Answers requests, from any thread.

    Args:
        place: Where the service runs.
        board: The supervisor's.
        pool: Its workers.
        swapper: Changes what is stable.
        roles: Changes what stands beside it.
        judge: Knows what was observed.
        follower: Makes the slots equal to what is released; None: clients say what is served.
        repository: Knows what may be served, or None.
        stop: Begins to stop the service.
        faults: For tests.
        staging: Takes candidates.
    """

    def __init__(
        self,
        place: Place,
        board: Board,
        pool: Pool,
        swapper: Swapper,
        roles: Roles,
        judge: Judge,
        follower: Follower | None,
        repository: Repository | None,
        stop: Callable[[], None],
        faults: Faults,
        staging: Staging,
    ) -> None:
        self._place = place
        self._board = board
        self._pool = pool
        self._swapper = swapper
        self._roles = roles
        self._judge = judge
        self._follower = follower
        self._repository = repository
        self._stop = stop
        self._faults = faults
        self._staging = staging

    def answer(self, request: ControlRequest) -> ControlReply:
        """Do what is asked.

        Raises:
            RefusedError: What is served follows what is released, and the request is not one for such a service.
            ModelyardError: Why it was not done; everything is as before.
        """
        if isinstance(request, StatusRequest):
            return self._status()
        if isinstance(request, RepositoryIndexRequest):
            return self._index()
        if isinstance(request, StopRequest):
            self._stop()
            return Stopping()
        reply = self._changed(request)
        self._faults.at("acknowledged")
        return reply

    def _changed(self, request: ControlRequest) -> ControlReply:
        match request:
            case SwapRequest():
                self._check_explicit(request.model)
                return self._swapper.swap(request.model, request.version, request.package)
            case LoadRequest():
                self._check_explicit(request.model)
                live = self._known().resolve(request.model, request.version)
                return self._swapper.swap(request.model, live.version, live.package)
            case UnloadRequest():
                self._check_explicit(request.model)
                self._swapper.retire(request.model)
                return Unloaded(request.model)
            case StagePart():
                self._check_explicit(request.model or "a model")
                return self._staging.take(request)
            case RollbackRequest():
                return self._swapper.rollback(request.model, self._released(request.model))
            case PromoteRequest():
                return self._promote(request.model)
            case _:
                return self._routed(request)

    def _routed(self, request: ControlRequest) -> ControlReply:
        started = time.perf_counter()
        match request:
            case CanaryRequest():
                package = self._package(request.model, request.version, request.package)
                return self._begun("canary", self._roles.canary(request.model, request.version, package, request.ppm))
            case ShadowRequest():
                package = self._package(request.model, request.version, request.package)
                return self._begun("shadow", self._roles.shadow(request.model, request.version, package, request.ppm))
            case ShareRequest():
                record = self._roles.share(request.model, request.ppm)
            case EndCanaryRequest():
                record = self._roles.end("canary", request.model)
            case EndShadowRequest():
                record = self._roles.end("shadow", request.model)
            case LabelRequest():
                record = self._roles.label(request.model, request.label, request.version)
            case _:
                raise ModelyardError(f"{type(request).__name__} can't be answered.")
        seconds = time.perf_counter() - started
        return Routed(request.model, self.slot_status(request.model, record), commit_seconds=seconds)

    def _begun(self, role: Role, installed: Installed) -> Routed:
        after, before = _share(installed.after, role), _share(installed.before, role) if installed.before else None
        assert after is not None  # noqa: S101  (the change made it)
        if before is None or before.generation.number != after.generation.number:
            self._judge.forget(role, after.generation.model, after.generation.number)
        model = after.generation.model
        return Routed(
            model, self.slot_status(model, installed.after), loaded=installed.loaded,
            prepare_seconds=installed.prepare_seconds, commit_seconds=installed.commit_seconds,
        )  # fmt: skip

    def _promote(self, model: str) -> Swapped:
        record = self._board.committed.slots.get(model)
        if self._follower is not None and record is not None and record.canary is not None:
            canary = record.canary.generation
            if self._released(model) != (canary.version, canary.package):
                raise RefusedError(
                    f"This service serves what is released, and {model} {canary.version} is not.",
                    remedy="Release it: it is promoted then, without a load.",
                )
        return self._swapper.promote(model)

    def _check_explicit(self, model: str) -> None:
        if self._follower is not None:
            raise RefusedError(
                f"This service serves what is released; {model!r} can't be served otherwise.",
                remedy="Release the version that you want.",
            )

    def _released(self, model: str) -> tuple[str, str] | None:
        return self._follower.released(model) if self._follower is not None else None

    def _known(self) -> Repository:
        if self._repository is None:
            raise RefusedError(
                "This service has no repository, and knows no version by its name.",
                remedy="Start it with one, or name a package where clients say what is served.",
            )
        return self._repository

    def _package(self, model: str, version: str, package: str) -> str:
        """Return the package to serve; what follows releases serves only what the repository knows."""
        if package and self._follower is None:
            return package
        known = self._known().resolve(model, version)
        if package and known.package != package:
            raise RefusedError(
                f"{model} {version} is another package than the one that was named.", remedy="Leave the package out."
            )
        return known.package

    def _index(self) -> RepositoryIndex:
        entries: dict[tuple[str, str], RepositoryEntry] = {}
        for live in self._repository.index() if self._repository is not None else ():
            entries[live.model, live.version] = RepositoryEntry(live.model, live.version, "UNAVAILABLE", "not loaded")
        with self._board.lock:
            committed, broken = self._board.committed, dict(self._board.broken)
        for name, record in committed.slots.items():
            for number, generation in reversed(record.held.items()):
                key = (name, generation.version)
                if number == record.current.number and name in broken:
                    entries[key] = RepositoryEntry(*key, "UNAVAILABLE", broken[name].what)
                elif record.shadow and number == record.shadow.generation.number:
                    entries.setdefault(key, RepositoryEntry(*key, "UNAVAILABLE", "shadow"))
                else:
                    labels = [label for label, named in record.labels.items() if named == number]
                    entries[key] = RepositoryEntry(*key, "READY", ", ".join(labels) or "previous")
        return RepositoryIndex(tuple(entries[key] for key in sorted(entries)))

    def _status(self) -> ServiceStatus:
        place, follower = self._place, self._follower
        with self._board.lock:
            committed = self._board.committed
            slots = {name: self.slot_status(name, record) for name, record in committed.slots.items()}
            for name in follower.troubled() if follower else ():
                if name not in slots:
                    slots[name] = self.slot_status(name, None)
            return ServiceStatus(
                place.name, os.getpid(), place.host, place.port, place.started, self._board.ready,
                self._pool.accepting(), self._pool.restarts, slots, follower.failure if follower else None,
                "released" if follower else "explicit", place.grpc_port,
            )  # fmt: skip

    def slot_status(self, name: str, record: SlotRecord | None) -> SlotStatus:
        """Return a slot as a client sees it."""
        following = self._follower.trouble(name) if self._follower else None
        if record is None:
            return SlotStatus(None, following=following)
        return SlotStatus(
            _generation_status(record.current),
            _generation_status(record.previous) if record.previous else None,
            record.labels,
            self._board.broken.get(name),
            following,
            self._share_status("canary", record.canary),
            self._share_status("shadow", record.shadow),
            {grace.generation.number: grace.until for grace in record.grace},
            record.stopped,
            record.held_off,
        )

    def _share_status(self, role: Role, share: Share | None) -> ShareStatus | None:
        if share is None:
            return None
        generation = share.generation
        total, latest = self._judge.account(role, generation.model, generation.number)
        rate = latest.errors / latest.requests if latest.requests else None
        return ShareStatus(
            _generation_status(generation), share.ppm, share.since, total, rate,
            latest.quantile(0.99) if latest.requests else None,
        )  # fmt: skip


def _share(record: SlotRecord, role: Role) -> Share | None:
    return record.canary if role == "canary" else record.shadow


def _generation_status(record: GenerationRecord) -> GenerationStatus:
    return GenerationStatus(record.number, record.version, record.package, record.committed)
