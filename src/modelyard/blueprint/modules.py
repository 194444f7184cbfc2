"""Where a module's source lies, found without executing anything."""

from __future__ import annotations

import functools
import importlib.machinery
import os
import re
import sys
from pathlib import Path

__all__ = ["Found", "Locator", "Lookup", "installed_distribution"]

_PACKAGES_FOLDERS = ("site-packages", "dist-packages")


class Found:
    """A module's source.

    Args:
        path: The file, or None for a package without `__init__.py` and for compiled code.
        package: Whether the module is a package.
    """

    __slots__ = ("package", "path")

    @property
    def namespace(self) -> bool:
        """Whether this is a folder without `__init__.py`, over which several distributions may spread."""
        return self.package and self.path is None

    def __init__(self, path: str | None, *, package: bool) -> None:
        self.path = path
        self.package = package


Lookup = tuple[Found | None, list[str]]
"""Where a module lies, and the folders in which its submodules are looked up."""


class Locator:
    """Finds modules as an import from the project folder would: the project first, then the import path.

    Args:
        project: The project folder.
    """

    def __init__(self, project: Path) -> None:
        self.project = os.path.realpath(project)

    def find(self, module: str, known: dict[str, Lookup] | None = None) -> Found | None:
        """Return where a module's source lies; its path is None where it has none to read. None: no such module.

        Args:
            module: Its dotted name.
            known: Answers of this moment, read and added to.
        """
        return self._look_up(module, {} if known is None else known)[0]

    def _look_up(self, module: str, known: dict[str, Lookup]) -> Lookup:
        if module not in known:
            parent, _, name = module.rpartition(".")
            if not parent and name in sys.builtin_module_names:
                known[module] = (Found(None, package=False), [])
            elif not parent:
                known[module] = self._in([self.project, *sys.path], name)
            else:
                known[module] = self._in(self._look_up(parent, known)[1], name)
        return known[module]

    def is_local(self, path: str) -> bool:
        """Say whether a file belongs to the project: under its folder, and not in an environment there."""
        inside = path.startswith(self.project + os.sep)
        return inside and not any(f"{os.sep}{folder}{os.sep}" in path for folder in _PACKAGES_FOLDERS)

    def _in(self, places: list[str], name: str) -> Lookup:
        # The order of Python's own path finder: in each place a package, then a module; last, a namespace of folders.
        folders = []
        for place in places:
            base = os.path.join(place or os.getcwd(), name)
            for file, package in ((f"{base}{os.sep}__init__.py", True), (f"{base}.py", False)):
                if os.path.isfile(file):
                    return Found(file, package=package), [base] if package else []
            if any(os.path.isfile(base + suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES):
                return Found(None, package=False), []
            if os.path.isdir(base):
                folders.append(base)
        return (Found(None, package=True), folders) if folders else (None, [])


_DIST_INFO = re.compile(r"^(?P<name>.+?)-(?P<version>[^-]+)(-py[\d.]+)?\.(dist|egg)-info$")


def installed_distribution(module: str) -> tuple[str, str] | None:
    """Return name and version of the installed distribution that provides a module, or None.

    Args:
        module: A top-level module, or one below a namespace, such as `google.protobuf`.

    It reads the names of `*.dist-info` folders, and where the distribution has another name than the module, their
    `top_level.txt` and `RECORD`: a hundred times cheaper than `importlib.metadata.packages_distributions`.
    """
    return _provider(module, tuple(sys.path), tuple(_modified(place) for place in sys.path))


def _modified(place: str) -> int:
    try:
        return os.stat(place).st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=4096)
def _provider(module: str, places: tuple[str, ...], modified: tuple[int, ...]) -> tuple[str, str] | None:
    infos = _infos(places, modified)
    plain = _plain(module)
    if plain in infos:
        name, version, _ = infos[plain]
        return name, version
    for look in (_in_top_level, _in_record):
        for name, version, folder in infos.values():
            if look(module, folder):
                return name, version
    return None


@functools.lru_cache(maxsize=4)
def _infos(places: tuple[str, ...], modified: tuple[int, ...]) -> dict[str, tuple[str, str, Path]]:
    del modified  # part of the key, so that an installation is seen
    infos: dict[str, tuple[str, str, Path]] = {}
    for place in places:
        try:
            names = sorted(os.listdir(place))
        except OSError:
            continue
        for entry in names:
            match = _DIST_INFO.match(entry)
            if match:
                name = _plain(match["name"])
                infos.setdefault(name, (name.replace("_", "-"), match["version"], Path(place, entry)))
    return infos


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _in_top_level(module: str, folder: Path) -> bool:
    try:
        return module in (folder / "top_level.txt").read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return False


def _in_record(module: str, folder: Path) -> bool:
    try:
        record = (folder / "RECORD").read_bytes()
    except OSError:
        return False
    name = re.escape(module.replace(".", "/").encode())
    return re.search(rb"^" + name + rb"(/|\.py,|\.[^/\n]*\.so,|\.so,|\.pyd,)", record, re.MULTILINE) is not None
