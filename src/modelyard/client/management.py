"""What clients ask of a service beyond predictions: how a model stands, and what shall become of it.

Each function returns a request, or raises before anything is sent; `Core.manage` carries it out.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from modelyard.client.encoding import JSON
from modelyard.client.errors import InvalidRequestError
from modelyard.client.exchange import Request
from modelyard.client.paths import model_path, segment

__all__ = [
    "canary", "end_canary", "end_shadow", "index", "label", "load", "promote", "remove_label", "rollback", "shadow",
    "status", "unload",
]  # fmt: skip

_MILLION = 1_000_000
_HEADERS = {"accept": JSON}


def status(model: str) -> Request:
    """Ask how a model stands."""
    return Request("GET", f"{model_path(model)}/status", None, _HEADERS)


def rollback(model: str) -> Request:
    """Serve the previous generation again; done twice, it would undo itself."""
    return _once("POST", f"{model_path(model)}/rollback")


def canary(model: str, version: str | None, share: float) -> Request:
    """Give a canary a share; without a version, the one that runs."""
    asked: dict[str, Any] = {"share_ppm": _ppm(share)}
    if version is not None:
        asked["version"] = version
    return _with("PUT", f"{model_path(model)}/canary", asked)


def promote(model: str) -> Request:
    """Make the canary the stable generation."""
    return _once("POST", f"{model_path(model)}/canary/promote")


def end_canary(model: str) -> Request:
    """End the canary."""
    return _once("DELETE", f"{model_path(model)}/canary")


def shadow(model: str, version: str, share: float) -> Request:
    """Show a version a share of the requests."""
    return _with("PUT", f"{model_path(model)}/shadow", {"version": version, "share_ppm": _ppm(share)})


def end_shadow(model: str) -> Request:
    """End the shadow."""
    return _once("DELETE", f"{model_path(model)}/shadow")


def label(model: str, name: str, version: str) -> Request:
    """Give a label to a version."""
    return _with("PUT", f"{model_path(model)}/labels/{segment(name)}", {"version": version})


def remove_label(model: str, name: str) -> Request:
    """Take a label away."""
    return _once("DELETE", f"{model_path(model)}/labels/{segment(name)}")


def index(ready: bool) -> Request:
    """List versions; a POST that only reads."""
    return _with("POST", "/v2/repository/index", {"ready": ready})


def load(model: str, version: str | None) -> Request:
    """Serve a version that the repository knows; what answers already is left as it is."""
    parameters = {} if version is None else {"version": version}
    return _with("POST", f"/v2/repository/models/{segment(model)}/load", {"parameters": parameters})


def unload(model: str) -> Request:
    """Serve a model no more."""
    return _with("POST", f"/v2/repository/models/{segment(model)}/unload", {})


def _with(method: str, path: str, asked: dict[str, Any]) -> Request:
    return Request(method, path, msgspec.json.encode(asked), {**_HEADERS, "content-type": JSON})


def _once(method: str, path: str) -> Request:
    # A second attempt would find nothing left to do, and its refusal would hide that the first one was heard.
    return Request(method, path, None, _HEADERS, idempotent=False)


def _ppm(share: float) -> int:
    if not (math.isfinite(share) and 0.0 <= share <= 1.0):
        raise InvalidRequestError(f"A share of {share:g} is impossible.", remedy="Give 0.0 to 1.0.", sent=False)
    return round(share * _MILLION)
