"""Times, durations and digests as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["ago", "clock", "count", "short", "span"]


def clock(seconds: float) -> str:
    """Return a time as `2026-01-31 14:25:01` in UTC, or a dash for 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else "-"


def ago(seconds: float, now: float) -> str:
    """Return how long ago a time was, in its largest unit."""
    passed = max(0.0, now - seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{int(passed // size)} {unit} ago"
    return f"{int(passed)} s ago"


def span(seconds: float) -> str:
    """Return a duration in the unit that reads best."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def short(digest: str | None) -> str:
    """Return the first twelve digits of a digest, enough to name it in a project."""
    return digest[:12] if digest else "-"


def count(number: int, thing: str) -> str:
    """Return `1 run`, `2 runs`; for words that take an s."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
