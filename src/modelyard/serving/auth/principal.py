"""Who asks, and what is allowed to them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelyard.errors import ForbiddenError
from modelyard.serving.auth.spec import SCOPES

__all__ = ["REALM", "Principal", "anybody"]

REALM = 'Bearer realm="modelyard"'


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a credential stands for.

    Args:
        name: Such as `key:k3vq7m2xw5`, `token:ada@example.org` or `anybody`; fit for a log, and the same at every
            request.
        scopes: What is allowed.
        models: Globs; a model counts if its name matches one. Case matters.
        expires: Seconds since 1970, UTC; infinite where it never ends.
        known: False where nothing was proven, so that the name tells nobody from anybody else.
    """

    name: str
    scopes: frozenset[str]
    models: tuple[str, ...] = ("*",)
    expires: float = float("inf")
    known: bool = True
    _pattern: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = "|".join(f"(?:{fnmatch.translate(glob)})" for glob in self.models)
        every = "*" in self.models
        object.__setattr__(self, "_pattern", None if every else re.compile(text or r"(?!)"))

    def require(self, scope: str, model: str | None = None) -> None:
        """Return if that is allowed.

        Args:
            scope: What the route needs.
            model: What it is about; None where it is about all of them, which is not for who may use only some.

        Raises:
            ForbiddenError: It names the missing scope, or the model.
        """
        if scope not in self.scopes:
            raise ForbiddenError(
                f"These credentials lack the scope {scope!r}.",
                remedy=f"Ask with a key or token that has {scope!r}.",
                challenge=f'{REALM}, error="insufficient_scope", scope="{scope}"',
            )
        if self._pattern is None:
            return
        if model is None:
            raise ForbiddenError(
                "These credentials are for single models, and this is about all of them.",
                remedy="Ask for one model by its name, or with a key for all.",
            )
        if self._pattern.match(model) is None:
            raise ForbiddenError(
                "These credentials are not for this model.", remedy="Ask with a key that is made for it."
            )


def anybody(scopes: Iterable[str] = SCOPES) -> Principal:
    """Return who asks where nobody need prove anything."""
    return Principal("anybody", frozenset(scopes), known=False)
