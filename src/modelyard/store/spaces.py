"""Spaces: names with an access rule each.

The rules hold for everything that goes through Modelyard. Who can write to the store's folder or bucket by other means
is a matter of that folder's or bucket's own permissions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelyard.contracts import Names
from modelyard.errors import InputError, RefusedError

__all__ = ["MANAGER", "Space", "Visitor"]

MANAGER = "manager"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who wants to use a space.

    Args:
        user: The identity, as in `people.yaml`.
        roles: Such as `manager` or `data-scientist`.
        projects: The projects whose member the user is.
    """

    user: str
    roles: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()


class Space:
    """The names of one space, as one visitor may see and change them; it is a `Names` itself.

    | space | who may enter |
    |---|---|
    | `private/<user>` | that user |
    | `project/<name>` | members of the project, and managers |
    | `staging` | managers |

    Args:
        names: All names of the store.
        path: Which space.
        visitor: Who enters.

    Raises:
        InputError: There is no such space.
        RefusedError: The visitor may not enter it.
    """

    def __init__(self, names: Names, path: str, visitor: Visitor) -> None:
        refusal = _refusal(path, visitor)
        if refusal:
            raise RefusedError(
                f"{visitor.user} may not enter the space {path}: {refusal}.",
                remedy="Ask a manager, or use your own space.",
            )
        self._names = names
        self._prefix = f"spaces/{path}/"
        self.path = path

    def __repr__(self) -> str:
        return f"Space({self.path!r})"

    def set(self, name: str, digest: str) -> None:
        """Point a name of this space at a digest."""
        self._names.set(self._prefix + name, digest)

    def get(self, name: str) -> str | None:
        """Return the digest that a name of this space points at, or None."""
        return self._names.get(self._prefix + name)

    def delete(self, name: str) -> None:
        """Remove a name from this space."""
        self._names.delete(self._prefix + name)

    def list(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield name and digest of this space's names, sorted, without the space's own path."""
        for name, digest in self._names.list(self._prefix + prefix):
            yield name.removeprefix(self._prefix), digest


def _refusal(path: str, visitor: Visitor) -> str:
    """Return why the visitor may not enter, or an empty text."""
    kind, _, owner = path.partition("/")
    manager = MANAGER in visitor.roles
    if kind == "private" and owner and "/" not in owner:
        return "" if visitor.user == owner else f"it is {owner}'s own"
    if kind == "project" and owner and "/" not in owner:
        return "" if manager or owner in visitor.projects else f"it is for members of {owner}"
    if path == "staging":
        return "" if manager else "it is for managers"
    raise InputError(f"There is no space {path!r}.", remedy="Spaces are private/<user>, project/<name> and staging.")
