"""The named moments of the runner's protocol, where a test may stop the process to see what a crash leaves behind."""

from __future__ import annotations

__all__ = ["POINTS", "Faults"]

POINTS = (
    "swap-begun",
    "staged",
    "worker-prepared",
    "prepared",
    "state-written",
    "words-stored",
    "word-stored",
    "acknowledged",
    "state-retired",
)
"""In the order in which a swap passes them; `worker-prepared` once for each worker; the last is a retirement's."""


class Faults:
    """Told about every moment. This one does nothing; a service has it unless a test brings another."""

    def at(self, point: str) -> None:
        """Pass the moment. An implementation for tests may raise, sleep or kill the process."""
