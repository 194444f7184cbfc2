"""Bring a source's bytes to this machine: a path of the project, or any URL that fsspec opens, with its checksum."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import fsspec
from blake3 import blake3
from fsspec.core import url_to_fs

from modelyard.contracts import Context
from modelyard.errors import DataError, MissingExtraError, ModelyardError, StorageError
from modelyard.files import storage_errors

__all__ = ["fetch", "is_url", "shown"]

_CHUNK = 1 << 20


class _Hash(Protocol):
    def update(self, data: bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


def is_url(source: str) -> bool:
    """Say whether a source is a URL or a chain of URLs, and no local path."""
    return "://" in source or "::" in source


def shown(source: str) -> str:
    """Return a source as a log may show it: without a user's password, and without a query that may hold a token."""
    return re.sub(r"\?[^\s:]*", "?…", re.sub(r"(?<=://)[^/@\s]*@", "", source))


def fetch(context: Context, source: str, checksum: str | None = None, *, folder: bool = False) -> Path:
    """Return a local file (or folder) with the source's bytes, verified.

    Args:
        context: Of the task; a download goes into its `workdir`, a relative path counts from its `project`.
        source: A path, absolute or relative to the project; or a URL, also a chain such as `zip://a.csv::https://…`.
        checksum: `sha256:<hex>` or `blake3:<hex>` of the file, checked while its bytes pass. None: not checked.
        folder: Whether the source may be a folder.

    Raises:
        DataError: There is no such file, it is a folder where a file is asked for, or its checksum differs; what was
            downloaded is removed then.
        StorageError: It can't be read or written, or the remote does not answer.
        MissingExtraError: The URL's protocol needs a library that is not installed.
    """
    if source.startswith("file://") and "::" not in source:
        source = source.removeprefix("file://")
    if is_url(source):
        return _download(context, source, checksum, folder)
    path = context.project / Path(source).expanduser()
    if not path.exists():
        raise DataError(
            "There is no such file." if not folder else "There is no such file or folder.",
            where=source,
            remedy=f"Relative paths count from the project folder, {context.project}.",
        )
    if path.is_dir():
        if not folder:
            raise DataError("This is a folder, and a file is needed.", where=source)
        _refuse_checksum(source, checksum)
        return path
    if checksum is not None:
        with storage_errors(path), path.open("rb") as file:
            digest = _new_hash(checksum)
            for chunk in _chunks(context, file, path.stat().st_size):
                digest.update(chunk)
        _compare(source, checksum, digest, "restore the file, or correct `checksum` if the new content is meant")
    return path


def _refuse_checksum(source: str, checksum: str | None) -> None:
    if checksum is not None:
        raise DataError(
            "A folder has no checksum.", where=shown(source), remedy="Leave `checksum` out, or pack it as a .zip file."
        )


def _new_hash(checksum: str) -> _Hash:
    return hashlib.sha256() if checksum.startswith("sha256:") else blake3()


def _compare(source: str, checksum: str, digest: _Hash, remedy: str) -> None:
    kind, _, expected = checksum.partition(":")
    got = digest.hexdigest()
    if got != expected.lower():
        raise DataError(
            f"The checksum differs: expected {kind}:{expected}, got {kind}:{got}.",
            where=shown(source),
            remedy=f"{remedy[0].upper()}{remedy[1:]}.",
        )


def _chunks(context: Context, file: BinaryIO, total: int | None) -> Iterator[bytes]:
    done = 0
    while chunk := file.read(_CHUNK):
        yield chunk
        done += len(chunk)
        if total:
            context.progress(done, total, "bytes")


@contextmanager
def _remote(source: str) -> Iterator[None]:
    # Each protocol's library raises classes of its own; this is the one place that turns them into ours.
    try:
        yield
    except ModelyardError:
        raise
    except FileNotFoundError as error:
        # fsspec calls a host that does not answer a missing file too; the cause tells them apart.
        cause = error.__cause__
        absent = cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) in (404, 410)
        if cause is not None and not absent:
            raise _unreadable(source, cause) from error
        raise DataError(
            "There is no such file at this address.", where=shown(source), remedy="Correct the address."
        ) from error
    except ImportError as error:
        raise MissingExtraError(
            f"This address needs a library that is not installed: {error}.",
            where=shown(source),
            remedy="Install it, for http and https with `pip install aiohttp`.",
        ) from error
    except ValueError as error:
        raise DataError(f"This address can't be opened: {error}.", where=shown(source)) from error
    except Exception as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: BaseException) -> StorageError:
    return StorageError(
        f"The remote can't be read: {type(error).__name__}: {shown(str(error))}.",
        where=shown(source),
        remedy="See whether the address is right and the network is up, then run again.",
    )


def _download(context: Context, source: str, checksum: str | None, folder: bool) -> Path:
    target = context.workdir / "downloads"
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        # Two sources may have the same file name.
        place = target / str(len(list(target.iterdir())))
        place.mkdir()
    with _remote(source):
        system, path = url_to_fs(source)
        if folder and not source.startswith(("http://", "https://")) and system.isdir(path):
            _refuse_checksum(source, checksum)
            return _download_folder(context, system, path, place)
        name = PurePosixPath(path.split("?")[0].rstrip("/")).name or "data"
        context.log(f"Downloading {shown(source)}")
        return _download_file(context, system, path, place / name, source, checksum)


def _save(chunks: Iterator[bytes], target: Path) -> None:
    # Only the local side is wrapped: an OSError while reading is the remote's.
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("wb")
    with file:
        for chunk in chunks:
            with storage_errors(target):
                file.write(chunk)


def _hashed(chunks: Iterator[bytes], digest: _Hash | None) -> Iterator[bytes]:
    for chunk in chunks:
        if digest is not None:
            digest.update(chunk)
        yield chunk


def _download_file(
    context: Context, system: fsspec.AbstractFileSystem, path: str, target: Path, source: str, checksum: str | None
) -> Path:
    digest = _new_hash(checksum) if checksum is not None else None
    try:
        with system.open(path, "rb") as remote:
            _save(_hashed(_chunks(context, remote, getattr(remote, "size", None)), digest), target)
        if checksum is not None and digest is not None:
            _compare(source, checksum, digest, "see who changed the remote file, or correct `checksum`")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _download_folder(context: Context, system: fsspec.AbstractFileSystem, path: str, target: Path) -> Path:
    root = path.rstrip("/")
    names = sorted(system.find(path))
    for done, name in enumerate(names, start=1):
        relative = PurePosixPath(name.removeprefix(root).lstrip("/"))
        if ".." in relative.parts:
            raise DataError("A file name climbs out of its folder.", where=name)
        with system.open(name, "rb") as remote:
            _save(_chunks(context, remote, None), target / relative)
        context.progress(done, len(names), "files")
    return target
