"""The texts of a package that other tools and people read: Acumos metadata, MLmodel, model card, environment lock."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.packages.codecs.proto import message_names
from modelyard.packages.contract import Contract, type_text
from modelyard.packages.model import ModelInfo
from modelyard.packages.pickles import FLAVOUR, PICKLE_FILE
from modelyard.store.materializers.skops_types import TRUSTED

__all__ = ["environment_lock", "metadata_json", "mlmodel", "model_card", "safe_json"]

_PIP = "pip:"
_MEDIA = ["application/vnd.google.protobuf", "application/json", "text/plain"]


def safe_json(value: Any) -> bytes:
    """Return readable JSON with sorted keys and a newline at the end; what JSON has no type for becomes text."""
    encoded = msgspec.json.encode(value, order="sorted", enc_hook=str)
    return msgspec.json.format(encoded, indent=2) + b"\n"


def environment_lock(provenance: Mapping[str, Any]) -> bytes:
    """Return the versions that the run had, as a requirements file for pip; Python and platform stand in comments."""
    environment = _environment(provenance)
    comments = [f"# {name}: {value}" for name, value in sorted(environment.items()) if not name.startswith(_PIP)]
    return "".join(
        f"{line}\n"
        for line in (*comments, *(f"{name}=={version}" for name, version in sorted(_installed(provenance).items())))
    ).encode()


def metadata_json(name: str, contract: Contract, info: ModelInfo, provenance: Mapping[str, Any]) -> bytes:
    """Return `metadata.json` after the Acumos model schema 0.6.0."""
    given, result = message_names(contract)

    def message(title: str, side: str) -> dict[str, Any]:
        return {"name": title, "media_type": _MEDIA, "metadata": {}, "description": f"The rows {side}."}

    method = {
        "description": f"{info.prediction_type.capitalize()} with {name}.",
        "input": message(given, "to predict"),
        "output": message(result, "predicted, in the same order"),
    }
    needed = ["modelyard", "msgspec", "numpy", "safetensors"]
    needed += (
        {"torch": ["torch"], "sklearn": ["scikit-learn", "skops"], FLAVOUR: ["scikit-learn"]}.get(info.flavour, [])
        if not info.onnx
        else []
    )
    needed += ["onnxruntime"] if info.onnx else []
    installed = _installed(provenance)
    requirements = [{"name": each, "version": installed[each]} for each in sorted(needed) if each in installed]
    return safe_json(
        {
            "schema": "acumos.schema.model:0.6.0",
            "name": name,
            "runtime": {
                "name": "python",
                "version": _environment(provenance).get("python") or platform.python_version(),
                "dependencies": {
                    "pip": {"indexes": [], "requirements": requirements},
                    "conda": {"channels": [], "requirements": []},
                },
            },
            "methods": {contract.operation: method},
        }
    )


def mlmodel(info: ModelInfo, contract: Contract, provenance: Mapping[str, Any]) -> bytes:
    """Return `MLmodel`, from which `mlflow.onnx.load_model` or `mlflow.sklearn.load_model` loads the model itself.

    The transform before it is Modelyard's own: the flavour `modelyard` names it. There is no `python_function` flavour,
    because MLflow would import code by a name out of the file.
    """
    installed = _installed(provenance)
    flavours: dict[str, Any] = {
        "modelyard": {
            "contract_digest": contract.digest,
            "flavour": info.flavour,
            "model": "model",
            "transform": "model/transform" if info.transform else None,
        }
    }
    if info.onnx is not None:
        flavours["onnx"] = {
            "code": None,
            "data": f"model/{info.onnx.file}",
            "onnx_version": installed.get("onnx", ""),
            "providers": ["CPUExecutionProvider"],
            "save_as_external_data": False,
        }
    if info.flavour == "sklearn":
        flavours["sklearn"] = {
            "code": None,
            "pickled_model": "model/model.skops",
            "serialization_format": "skops",
            "skops_trusted_types": list(TRUSTED),
            "sklearn_version": installed.get("scikit-learn", ""),
        }
    if info.flavour == FLAVOUR:
        flavours["sklearn"] = {
            "code": None,
            "pickled_model": f"model/{PICKLE_FILE}",
            "serialization_format": "pickle",
            "sklearn_version": installed.get("scikit-learn", ""),
        }
    lines = ["artifact_path: model", "flavors:"]
    for name, settings in sorted(flavours.items()):
        lines.append(f"  {name}:")
        # A JSON value is a YAML value as well.
        lines += [f"    {key}: {msgspec.json.encode(value).decode()}" for key, value in sorted(settings.items())]
    return ("\n".join(lines) + "\n").encode()


def model_card(
    name: str,
    contract: Contract,
    info: ModelInfo,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
) -> bytes:
    """Return the model card in Markdown (Mitchell et al., "Model Cards for Model Reporting", 2019): facts alone."""
    parts = [
        f"# {name}",
        f"A {info.prediction_type} model of the flavour {info.flavour}"
        + (f", trained by {_code(provenance['blueprint'])}" if provenance.get("blueprint") else "")
        + ".",
        "## Contract",
        _table(("field", "type", "side"), _fields(contract)),
    ]
    if contract.classes is not None:
        shown = ", ".join(_code(label) for label in contract.classes[:20])
        more = f" and {len(contract.classes) - 20} more" if len(contract.classes) > 20 else ""
        parts.append(f"Classes: {shown}{more}.")
    parts += ["## Metrics", _table(("metric", "value"), [(key, f"{value:.6g}") for key, value in metrics.items()])]
    parts += ["Measured on the test part; `evidence/` holds the details.", "## Data"]
    parts.append(_table(("input", "digest"), [(key, _code(v)) for key, v in _mapping(provenance, "data")]))
    parts += ["## Code", _code_lines(provenance)]
    parts.append(_table(("module", "digest"), [(key, _code(v)) for key, v in _mapping(provenance, "code")]))
    parts += ["## How it was trained"]
    for step, parameters in _mapping(provenance, "parameters"):
        parts += [f"### {step}", "```json\n" + safe_json(parameters).decode() + "```"]
    parts += ["## Limits", "\n".join(f"- {line}" for line in _limits(contract, info))]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def _limits(contract: Contract, info: ModelInfo) -> list[str]:
    lines = ["The metrics hold for data like the test part; other data needs a new evaluation."]
    if contract.classes is not None:
        lines.append("Every row gets one of the classes above, also a row that is none of them.")
    if any(field.dtype == "string" for field in contract.inputs):
        lines.append("A category that the training part did not hold counts as none of the known ones.")
    if info.onnx is None:
        lines.append(f"It needs its own library to predict: {info.onnx_missing or 'there is no ONNX file.'}")
    if contract.classes is not None and info.order:
        missing = [label for index, label in enumerate(contract.classes) if index not in info.order]
        lines.append(f"The training part had no row of {', '.join(map(_code, missing))}; it is never predicted.")
    return lines


def _fields(contract: Contract) -> list[tuple[str, str, str]]:
    sides = (("in", contract.inputs), ("out", contract.outputs))
    return [(field.name, type_text(field), side) for side, fields in sides for field in fields]


def _code_lines(provenance: Mapping[str, Any]) -> str:
    if not provenance.get("commit"):
        return "The project was not under Git."
    dirty = ", with changes that were not committed" if provenance.get("dirty") else ""
    return f"Git commit {_code(provenance['commit'])}{dirty}."


def _mapping(provenance: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    value = provenance.get(key)
    return sorted(value.items()) if isinstance(value, Mapping) else []


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return "None recorded."
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(value: Any) -> str:
    return f"`{value}`"


def _environment(provenance: Mapping[str, Any]) -> Mapping[str, str]:
    value = provenance.get("environment")
    return value if isinstance(value, Mapping) else {}


def _installed(provenance: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.removeprefix(_PIP): version
        for name, version in _environment(provenance).items()
        if name.startswith(_PIP)
    }  # fmt: skip
