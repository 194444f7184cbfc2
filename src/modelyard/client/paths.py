"""Paths of a service, percent-encoded."""

from __future__ import annotations

from urllib.parse import quote

from modelyard.client.errors import InvalidRequestError

__all__ = ["model_path", "predict_path", "segment"]


def segment(name: str) -> str:
    """Return one part of a path.

    Raises:
        InvalidRequestError: Nothing can have that name.
    """
    # A path ends at a dot segment wherever a client or a proxy tidies it up.
    if name in ("", ".", ".."):
        raise InvalidRequestError(f"Nothing is named {name!r}.", remedy="Give a name.", sent=False)
    return quote(name, safe="")


def model_path(name: str) -> str:
    """Return where a model lies."""
    return f"/v1/models/{segment(name)}"


def predict_path(model: str, version: str | None, label: str | None) -> str:
    """Return where a model predicts.

    Raises:
        InvalidRequestError: Both a version and a label are given, or a name is none.
    """
    if version is not None and label is not None:
        raise InvalidRequestError("Both a version and a label are given.", remedy="Give one of them.", sent=False)
    pinned = [(kind, name) for kind, name in (("versions", version), ("labels", label)) if name is not None]
    return model_path(model) + "".join(f"/{kind}/{segment(name)}" for kind, name in pinned) + "/predict"
