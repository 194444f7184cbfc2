"""What a project's services are told of the versions that exist, as the Model Center's rules allow it now."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from modelyard.center.registry import Registry, State, VersionState
from modelyard.errors import RefusedError
from modelyard.packages.pickles import PICKLE_FILE
from modelyard.serving.spec import Live
from modelyard.text import short

if TYPE_CHECKING:
    from modelyard.yard.yard import Yard

__all__ = ["Versions"]


class Versions:
    """The versions that may be served in an environment: a `Repository`, and what is released. Threads may share it.

    Args:
        yard: The project.
        environment: Its name; one that nothing is released to does as well.
    """

    def __init__(self, yard: Yard, environment: str) -> None:
        self._yard = yard
        self._environment = environment
        self._reading = threading.Lock()

    def live(self) -> Mapping[str, Live]:
        """Return what is released to the environment, by model."""
        return {
            name: Live(name, f"v{place.version}", place.package)
            for name, model in self._registry().models.items()
            if (place := model.live.get(self._environment)) is not None
        }

    def index(self) -> list[Live]:
        """Return every approved version of every model, in order."""
        return [
            _live(version)
            for model in self._registry().models.values()
            for version in model.versions.values()
            if version.state is State.APPROVED
        ]

    def resolve(self, name: str, version: str | None) -> Live:
        """Return a version that may be served.

        Args:
            name: Of the model.
            version: Such as `v1.2.0`; None: the one released here, else the newest that is approved.

        Raises:
            NotFoundError: There is no such model or version.
            RefusedError: It is not approved.
        """
        model = self._registry().model(name)
        if version is None:
            place = model.live.get(self._environment)
            chosen = model.versions[place.version] if place is not None else model.newest(State.APPROVED)
            if chosen is None:
                raise RefusedError(
                    f"{name} has no approved version.", remedy=f"Approve one: modelyard approve {name} --version vX.Y.Z"
                )
            return _live(chosen)
        found = model.version(version)
        if found.state is State.REJECTED:
            raise RefusedError(f"{name} v{found.version} was rejected.", remedy="Name another version.")
        if found.state is not State.APPROVED:
            raise RefusedError(
                f"{name} v{found.version} is not approved.",
                remedy=f"Approve it: modelyard approve {name} --version v{found.version}",
            )
        return _live(found)

    def pickle(self, package: str) -> str | None:
        """Return the BLAKE3 of the pickled model in a package that is signed; None where it holds none.

        A package is signed where an approval or a release of one of its versions counts: a valid signature by a key
        that `people.yaml` lists, of somebody who may decide. The submitter's own is none.

        Args:
            package: Its digest, which the signatures name and from which that of the pickle follows.

        Raises:
            RefusedError: It holds a pickle and is not signed.
            NotFoundError: It is not in the store.
        """
        path = f"model/{PICKLE_FILE}"
        entries = self._yard.store.manifest(package).entries
        digest = next((entry.digest for entry in entries if entry.path == path), None)
        if digest is None:
            return None
        for model in self._registry().models.values():
            for version in model.versions.values():
                approved = version.package == package and version.state is State.APPROVED
                if approved and (version.approvals or version.passed):
                    return digest
        raise RefusedError(
            f"The package {short(package)} holds a pickle, and no approval or release that counts stands behind it.",
            remedy="Have its version approved: modelyard approve NAME --version vX.Y.Z",
        )

    def _registry(self) -> Registry:
        # The Model Center reads through one connection to the catalog.
        with self._reading:
            return self._yard.center.state()


def _live(version: VersionState) -> Live:
    return Live(version.model, f"v{version.version}", version.package)
