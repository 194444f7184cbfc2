"""Candidates: a model, its proto file and a configuration that arrive one by one, and are served once they fit.

The parts lie in `staged/` in the service's folder and survive a kill. What was made of them is a package as any other,
kept there too as long as a slot holds it, and swapped in by two phases. A set that does not fit is refused as a whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from modelyard.errors import InputError, ModelyardError, StorageError
from modelyard.files import durable_rename, storage_errors, sync_folder, write_atomically
from modelyard.records import Failure
from modelyard.serving.asking import Staged, StagePart, Swapped
from modelyard.serving.board import Board
from modelyard.serving.fetching import Fetched, Fetching
from modelyard.serving.logs import Log
from modelyard.serving.sandbox import Sandbox, SandboxLostError, SandboxRefusedError
from modelyard.serving.spec import STAGED, Limits
from modelyard.serving.swap import Swapper
from modelyard.serving.wire import failure_of

__all__ = ["Shelf", "Staging"]

PREFIX = "staged-"
"""Before the digest of a package that came as a candidate, and lies here and in no store."""

_TOKEN = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEFAULT = "model"


class _Part(msgspec.Struct, frozen=True):
    file: str
    since: float
    own_proto: bool = False


class _Candidate(msgspec.Struct, frozen=True):
    """What waits; `count` numbers the versions, and `package` is what is being swapped in."""

    parts: dict[str, _Part] = {}
    model: str | None = None
    count: int = 0
    package: str = ""

    def emptied(self) -> _Candidate:
        return _Candidate(count=self.count)


class Shelf:
    """The folder of candidates.

    Args:
        folder: Of the service.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / STAGED
        self.incoming = self.folder / "incoming"
        self.parts = self.folder / "parts"
        self.packages = self.folder / "packages"
        self.work = self.folder / "work"

    def prepare(self) -> None:
        """Make the folders, and remove what a process left that was killed while it received or built something.

        Raises:
            StorageError: They can't be written.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for passing in (self.incoming, self.work):
                shutil.rmtree(passing, ignore_errors=True)
            for folder in (self.incoming, self.parts, self.packages, self.work):
                folder.mkdir(mode=0o700, exist_ok=True)

    def fetching(self, fetch: Fetching) -> Fetching:
        """Return a `fetch` that knows the packages on this shelf, too; no pickle in them may be loaded."""

        def fetched(package: str) -> Fetched:
            digest = package.removeprefix(PREFIX)
            if package.startswith(PREFIX) and _DIGEST.fullmatch(digest):
                return Fetched(self.packages / digest)
            return fetch(package)

        return fetched


class Staging:
    """Takes parts, one at a time.

    Args:
        shelf: Where they lie; prepared.
        swapper: Serves what they become.
        board: Knows what is held.
        log: The supervisor's.
        limits: How long a part waits for the others, and what the process that opens an upload may take.
    """

    def __init__(self, shelf: Shelf, swapper: Swapper, board: Board, log: Log, limits: Limits) -> None:
        self._shelf = shelf
        self._swapper = swapper
        self._board = board
        self._log = log
        self._limits = limits
        self._turn = threading.Lock()
        self._file = shelf.folder / "candidate.json"
        self._candidate = self._recovered()
        self._sweep()

    def take(self, request: StagePart) -> Staged:
        """Take a part, and serve the set where it is whole.

        Raises:
            InputError: There is no such file, or the model's name can't be one.
            StorageError: The part can't be kept.
        """
        incoming = self._shelf.incoming / request.file
        if not _TOKEN.fullmatch(request.file) or not incoming.is_file():
            raise InputError("There is no such upload.")
        try:
            with self._turn:
                return self._take(request, incoming)
        finally:
            incoming.unlink(missing_ok=True)

    def _take(self, request: StagePart, incoming: Path) -> Staged:
        if request.model is not None and not _NAME.fullmatch(request.model):
            raise InputError("This can't be the name of a model.", remedy="Use letters, digits, `.`, `-` and `_`.")
        candidate = self._joined(request)
        if request.part == "model":
            # What can't be served by itself is refused before it takes the place of what waits.
            try:
                self._made(incoming, candidate, None, own_proto=request.own_proto, keep=False)
            except (SandboxRefusedError, SandboxLostError) as error:
                return self._refused(error, alone=True)
        file = secrets.token_hex(16)
        durable_rename(incoming, self._shelf.parts / file)
        part = _Part(file, time.time(), request.own_proto)
        self._write(msgspec.structs.replace(candidate, parts={**candidate.parts, request.part: part}))
        self._sweep()
        self._log.info("staged", part=request.part, staged=sorted(self._candidate.parts))
        missing = self._missing()
        if missing:
            return Staged(tuple(sorted(self._candidate.parts)), missing)
        return self._serve()

    def _joined(self, request: StagePart) -> _Candidate:
        """Return the candidate that a part belongs to, without what is too old or is another model's."""
        now, waiting = time.time(), self._candidate
        if request.model is not None and waiting.model not in (None, request.model):
            waiting = waiting.emptied()
        parts = {name: part for name, part in waiting.parts.items() if now - part.since < self._limits.staged_seconds}
        return msgspec.structs.replace(waiting, parts=parts, model=request.model or waiting.model)

    def _missing(self) -> tuple[str, ...]:
        parts = self._candidate.parts
        model = parts.get("model")
        if model is not None and model.own_proto and "proto" not in parts:
            return ()
        return tuple(name for name in ("model", "proto") if name not in parts)

    def _serve(self) -> Staged:
        candidate = self._candidate
        try:
            configured = self._wishes(candidate).get("model") or None
            upload = self._shelf.parts / candidate.parts["model"].file
            proto = self._proto(candidate)
            made, folder = self._made(upload, candidate, proto, own_proto=proto is None, keep=True)
            try:
                model = candidate.model or configured or self._only_slot(made["name"])
                swapped = self._swap(candidate, model, made["digest"], folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except StorageError:
            # The parts stay: the client's set may fit, and the disk can be made room on.
            raise
        except ModelyardError as error:
            self._write(candidate.emptied())
            self._sweep()
            return self._refused(error)
        self._write(_Candidate(count=candidate.count + swapped.changed))
        self._sweep()
        return Staged((), (), tuple(made["unfit"]), swapped)

    def _swap(self, candidate: _Candidate, model: str, digest: str, folder: Path) -> Swapped:
        package, target = PREFIX + digest, self._shelf.packages / digest
        current = self._board.committed.slots.get(model)
        if current is not None and current.current.package == package:
            return self._swapper.swap(model, current.current.version, package)
        if not self._is_held(digest):
            with storage_errors(folder):
                shutil.rmtree(target, ignore_errors=True)
                _sync(folder)
            durable_rename(folder, target)
        self._write(msgspec.structs.replace(candidate, package=package))
        return self._swapper.swap(model, f"v0.0.{candidate.count + 1}+staged", package)

    def _made(
        self, upload: Path, candidate: _Candidate, proto: bytes | None, *, own_proto: bool, keep: bool
    ) -> tuple[dict[str, Any], Path]:
        """Open an upload in a sandbox; return what it is and, where it shall be kept, the folder of its package."""
        sandbox = Sandbox(self._shelf.work / secrets.token_hex(16), self._limits.sandbox)
        try:
            question = {
                "do": "take_in", "upload": str(upload), "name": candidate.model or _DEFAULT, "own_proto": own_proto,
                "wishes": self._wishes(candidate),
            }  # fmt: skip
            made, _ = sandbox.ask(question, proto or b"")
            kept = self._shelf.work / secrets.token_hex(16)
            if keep:
                if not made["digest"]:
                    raise InputError("An ONNX file has no proto file of its own.", remedy="Send one.")
                with storage_errors(kept):
                    (sandbox.folder / "made" / "package").rename(kept)
            return made, kept
        finally:
            sandbox.end()

    def _proto(self, candidate: _Candidate) -> bytes | None:
        part = candidate.parts.get("proto")
        with storage_errors(self._shelf.parts):
            return None if part is None else (self._shelf.parts / part.file).read_bytes()

    def _wishes(self, candidate: _Candidate) -> dict[str, Any]:
        part = candidate.parts.get("configuration")
        if part is None:
            return {}
        with storage_errors(self._shelf.parts):
            text = (self._shelf.parts / part.file).read_bytes()
        return msgspec.json.decode(text, type=dict[str, Any])

    def _only_slot(self, said: str) -> str:
        slots = self._board.committed.slots
        if len(slots) > 1:
            raise InputError(
                "The service has several models, and the set does not say which it is.",
                remedy=f"Send the query parameter model, with one of {', '.join(sorted(slots)[:20])}.",
            )
        return next(iter(slots), said or _DEFAULT)

    def _refused(self, error: ModelyardError, *, alone: bool = False) -> Staged:
        """Tell why nothing has changed: 415 or 422 where the upload itself is at fault, else 409."""
        waiting = tuple(sorted(self._candidate.parts))
        status, failure = 409, failure_of(error)
        if isinstance(error, SandboxRefusedError):
            failure = error.failure
            status = error.status if error.status == 415 else 422 if alone or not error.joined else 409
        elif isinstance(error, SandboxLostError):
            status = 422
        # A place on this machine is nobody's business.
        failure = Failure(failure.code, failure.what, "" if failure.where.startswith("/") else failure.where,
                          failure.remedy)  # fmt: skip
        self._log.error("staging-refused", status=status, reason=str(error)[:1000])
        return Staged(waiting, self._missing() if waiting else (), refused=failure, status=status)

    def _recovered(self) -> _Candidate:
        """Return what waited when the service ended; a set whose swap was committed waits no more."""
        try:
            candidate = msgspec.json.decode(self._file.read_bytes(), type=_Candidate)
        except FileNotFoundError:
            return _Candidate()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log.error("staged-unreadable", reason=str(error)[:500])
            return _Candidate()
        parts = {name: part for name, part in candidate.parts.items() if (self._shelf.parts / part.file).is_file()}
        candidate = msgspec.structs.replace(candidate, parts=parts)
        if candidate.package and self._is_held(candidate.package.removeprefix(PREFIX)):
            candidate = _Candidate(count=candidate.count + 1)
        return msgspec.structs.replace(candidate, package="")

    def _is_held(self, digest: str) -> bool:
        return any(
            generation.package == PREFIX + digest
            for record in self._board.committed.slots.values()
            for generation in record.held.values()
        )

    def _write(self, candidate: _Candidate) -> None:
        write_atomically(self._file, msgspec.json.encode(candidate) + b"\n", 0o600)
        self._candidate = candidate

    def _sweep(self) -> None:
        """Remove parts that nobody waits for, packages that no slot holds, and uploads that were given up."""
        wanted = {part.file for part in self._candidate.parts.values()}
        latest = time.time() - 3600.0
        with contextlib.suppress(OSError):
            for file in self._shelf.parts.iterdir():
                if file.name not in wanted:
                    file.unlink(missing_ok=True)
            for folder in self._shelf.packages.iterdir():
                if not self._is_held(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
            for file in self._shelf.incoming.iterdir():
                if file.stat().st_mtime < latest:
                    file.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)
