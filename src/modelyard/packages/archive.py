"""Unpacks zip files that come from anybody: plain files and folders alone, each once, within limits.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT. What an archive says of itself is not believed: the
bytes are counted as they are unpacked, and every name is judged before anything is written.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from modelyard.errors import IntegrityError
from modelyard.files import storage_errors

__all__ = ["MAXIMUM_BYTES", "MAXIMUM_FILES", "MAXIMUM_RATIO", "open_archive", "unpack"]

MAXIMUM_FILES = 2000
"""Entries of an archive, folders included."""

MAXIMUM_BYTES = 2 * 1024**3
"""Unpacked, all files together."""

MAXIMUM_RATIO = 200
"""Unpacked bytes for each packed one, of a file larger than a mebibyte; numbers of a model pack to a half at best."""

_SMALL = 1024 * 1024
_CHUNK = 256 * 1024
_DEPTH = 16
_REMEDY = "Pack the folder again, with a plain zip."


def open_archive(file: Path) -> zipfile.ZipFile:
    """Open an archive whose list of entries is sound.

    Raises:
        IntegrityError: It is no zip file, has too many entries, or an entry that must not be unpacked; it names it.
        StorageError: It can't be read.
    """
    with storage_errors(file):
        _check_directory(file)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, zlib.error) as error:
            raise IntegrityError("This is not a zip file.", remedy=_REMEDY) from error
    try:
        _check_entries(archive)
    except BaseException:
        archive.close()
        raise
    return archive


def unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpack a whole archive.

    Args:
        archive: What `open_archive` returned.
        folder: New; it is made.

    Raises:
        IntegrityError: An entry is damaged, or holds more than it says.
        StorageError: The folder can't be written.
    """
    with storage_errors(folder):
        folder.mkdir(mode=0o700)
    left = MAXIMUM_BYTES
    for entry in archive.infolist():
        target = folder / entry.filename
        with storage_errors(folder):
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
        left -= _unpack(archive, entry, target, left)


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int) -> int:
    """Unpack a file, and return its bytes."""
    size = 0
    try:
        with archive.open(entry) as source, target.open("xb") as sink:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > left or size > entry.file_size:
                    raise _refused(entry, "holds more than it says")
                sink.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _refused(entry, "is damaged") from error
    except OSError as error:
        with storage_errors(target.parent):
            raise error
    if size != entry.file_size:
        raise _refused(entry, "holds less than it says")
    return size


def _check_directory(file: Path) -> None:
    """Refuse too many entries before they become objects: the directory is at the end, and says how many it has."""
    size = file.stat().st_size
    with file.open("rb") as source:
        source.seek(max(0, size - 66_000))
        tail = source.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        raise IntegrityError("This is not a zip file.", remedy=_REMEDY)
    entries = int.from_bytes(tail[place + 10 : place + 12], "little")
    length = int.from_bytes(tail[place + 12 : place + 16], "little")
    # Each entry of the directory has at least 46 bytes, and a name of ours no more than a few hundred.
    if entries > MAXIMUM_FILES or (length > MAXIMUM_FILES * 1024 and length != 0xFFFFFFFF):
        raise _too_many()
    if entries == 0xFFFF or length == 0xFFFFFFFF:
        raise _too_many()


def _check_entries(archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    if len(entries) > MAXIMUM_FILES:
        raise _too_many()
    kinds: dict[str, bool] = {}
    total = 0
    for entry in entries:
        _check_entry(entry)
        key = entry.filename.rstrip("/").casefold()
        if key in kinds:
            raise _refused(entry, "is there twice")
        kinds[key] = entry.is_dir()
        total += entry.file_size
    if total > MAXIMUM_BYTES:
        raise IntegrityError(f"The archive unpacks to more than {MAXIMUM_BYTES} bytes.", remedy=_REMEDY)
    _check_parents(kinds)


def _check_parents(kinds: Mapping[str, bool]) -> None:
    for name in kinds:
        for parent in PurePosixPath(name).parents:
            if kinds.get(str(parent)) is False:
                raise IntegrityError(f"The archive has {str(parent)[:80]!r} as a file and as a folder.", remedy=_REMEDY)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    # zipfile cuts a name at a NUL byte, and looks only at the rest.
    if entry.orig_filename != name or any(ord(letter) < 32 or letter in '\\:"<>|?*' for letter in name):
        raise _refused(entry, "has a name that no file should have")
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts) or len(parts) > _DEPTH or len(name) > 512:
        raise _refused(entry, "leads out of its folder, or too deep into it")
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(entry, "is a link or a device")
    if entry.flag_bits & 0x1:
        raise _refused(entry, "is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(entry, "is packed in an unusual way")
    if entry.file_size > _SMALL and entry.file_size > MAXIMUM_RATIO * max(entry.compress_size, 1):
        raise _refused(entry, f"unpacks to more than {MAXIMUM_RATIO} times its size")


def _refused(entry: zipfile.ZipInfo, why: str) -> IntegrityError:
    return IntegrityError(f"The archive's entry {entry.orig_filename[:80]!r} {why}.", remedy=_REMEDY)


def _too_many() -> IntegrityError:
    return IntegrityError(f"The archive has more than {MAXIMUM_FILES} entries.", remedy=_REMEDY)
