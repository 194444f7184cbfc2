"""Media types: what a body is, and what an answer may be (RFC 9110, sections 8.3 and 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.serving.problems import HttpProblem

__all__ = ["acceptable", "media_type"]

_UTF8 = ("utf-8", "utf8", "us-ascii")


def media_type(content_type: str | None, known: Sequence[str]) -> str:
    """Return the media type of a body, without parameters.

    Args:
        content_type: The header; None means the first that is known.
        known: Media types that are understood, in lower case.

    Raises:
        HttpProblem: 415, it is not known, or its character set is not UTF-8.
    """
    if content_type is None or content_type == known[0]:
        return known[0]
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind not in known:
        raise HttpProblem(415, "media-type", "The body's media type is not known.", remedy=f"Send {_listed(known)}.")
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset" and value.strip().strip('"').lower() not in _UTF8:
            raise HttpProblem(415, "charset", "The body's character set is not known.", remedy="Send UTF-8.")
    return kind


def acceptable(accept: str | None, offered: Sequence[str], preferred: str) -> str:
    """Return the media type that an `Accept` header prefers.

    Args:
        accept: The header; None accepts everything.
        offered: What can be made.
        preferred: One of them, taken among equals.

    Raises:
        HttpProblem: 406, nothing that is offered is accepted.
    """
    if accept is None or accept == "*/*" or accept == preferred:
        return preferred
    quality: dict[str, tuple[float, int]] = {}
    for part in accept.split(","):
        given, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = _weight(parameters)
        for known in offered:
            precision = {known: 3, known.partition("/")[0] + "/*": 2, "*/*": 1}.get(given, 0)
            if precision > quality.get(known, (0.0, 0))[1]:
                quality[known] = (weight, precision)
    best = max(offered, key=lambda known: (quality.get(known, (0.0, 0))[0], known == preferred))
    if quality.get(best, (0.0, 0))[0] <= 0.0:
        raise HttpProblem(
            406, "not-acceptable", "No answer in an accepted media type.", remedy=f"Accept {_listed(offered)}."
        )
    return best


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def _listed(kinds: Sequence[str]) -> str:
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else kinds[0]
