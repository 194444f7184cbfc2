"""Half-sentences that help a user who mistyped a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]

_SHOWN = 12


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a remedy: the name meant, or the names there are.

    Args:
        name: What was asked for.
        names: What there is.
    """
    known = list(dict.fromkeys(names))
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        lower = {each.lower(): each for each in known}
        close = [lower[name.lower()]] if name.lower() in lower else []
    if close:
        return f"Did you mean {close[0]!r}?"
    if not known:
        return "There are none."
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"There are {', '.join(known[:_SHOWN])}{more}."
