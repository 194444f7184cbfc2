"""Which device a network trains on, and why: a pure choice, so that it can be tested without the device."""

from __future__ import annotations

from modelyard.errors import DataError

__all__ = ["choose_device"]


def choose_device(asked: str, *, cuda: int, mps: bool) -> tuple[str, str]:
    """Return the device, and the reason as the log tells it.

    Args:
        asked: `auto`, `cpu`, `cuda`, `cuda:<number>` or `mps`, as the blueprint says.
        cuda: How many CUDA devices PyTorch can use.
        mps: Whether PyTorch can use an Apple GPU.

    Raises:
        DataError: The blueprint asks for a device that this machine has not.
    """
    if asked == "auto":
        if cuda:
            return "cuda:0", f"auto: PyTorch finds {cuda} CUDA device{'s' * (cuda > 1)}"
        if mps:
            return "mps", "auto: PyTorch finds an Apple GPU, and no CUDA device"
        return "cpu", "auto: PyTorch finds no CUDA device and no Apple GPU"
    if asked == "cpu" or (asked == "mps" and mps):
        return asked, "the blueprint says so"
    kind, _, number = asked.partition(":")
    if kind == "cuda" and int(number or 0) < cuda:
        return f"cuda:{number or 0}", "the blueprint says so"
    there = f"{cuda} CUDA device{'s' * (cuda != 1)}" if cuda else "no CUDA device"
    raise DataError(
        f"The device {asked} is not there: PyTorch finds {there}{' and an Apple GPU' if mps else ''}.",
        where="device",
        remedy="Set `device: auto`, or send the step to a node that has one by `target_label`.",
    )
