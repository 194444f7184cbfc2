"""A loader of tiny packages for the process model's own tests: one `double.json` says how the model behaves."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np

from modelyard.data import Field
from modelyard.errors import ContractError, IntegrityError
from modelyard.packages.contract import Contract
from modelyard.serving.loading import CSV, JSON, JSON_COLUMNS, Served


def write_double(store: Path, **behaviour: object) -> str:
    """Write a package into a folder named by its digest, and return the digest."""
    text = json.dumps(behaviour, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest()
    (store / digest).mkdir(parents=True, exist_ok=True)
    (store / digest / "double.json").write_bytes(text)
    return digest


def verify(folder: Path, _pickle: str | None = None) -> dict:
    text = (folder / "double.json").read_bytes()
    if hashlib.sha256(text).hexdigest() != folder.name:
        raise IntegrityError("The file double.json differs from its manifest.", where="double.json")
    return json.loads(text)


def load(folder: Path, _pickle: str | None = None) -> Served:
    behaviour = verify(folder)
    time.sleep(behaviour.get("load_seconds", 0.0))
    if behaviour.get("kill_on_load"):
        os.kill(os.getpid(), 9)
    if behaviour.get("refuse"):
        raise IntegrityError("The golden outputs differ.")
    factor, column = behaviour["factor"], behaviour.get("input", "x")

    def decode_json(body: bytes, _max_rows: int) -> dict:
        try:
            given = json.loads(body)
            values = given["columns"][column] if "columns" in given else [row[column] for row in given["rows"]]
            return {column: np.asarray(values, dtype=np.float64)}
        except (KeyError, ValueError, TypeError) as error:
            raise ContractError(f"The rows do not fit: {error!r}.") from error

    ballast = bytearray(behaviour.get("megabytes", 0) * 1024 * 1024)
    for place in range(0, len(ballast), 4096):
        ballast[place] = 1

    def predict(columns: dict) -> dict:
        time.sleep(behaviour.get("predict_seconds", 0.0))
        if behaviour.get("fail") or (ballast and not ballast[0]):
            raise RuntimeError("The double was told to fail.")
        # A row of this value makes the model stand still, as native code with a fault would.
        while behaviour.get("hang_at") in columns[column]:
            time.sleep(3600)
        return {"value": columns[column] * factor}

    def encode_csv(outputs: dict) -> bytes:
        return b"value\n" + b"".join(b"%r\n" % float(value) for value in outputs["value"])

    return Served(
        contract=Contract((Field(column, "float64"),), (Field("value", "float64"),)),
        predict=predict,
        decoders={
            JSON: decode_json,
            CSV: lambda body, _: {column: np.loadtxt(body.decode().splitlines()[1:], ndmin=1)},
        },
        encoders={
            JSON: lambda outputs: json.dumps({"rows": [{"value": v} for v in outputs["value"].tolist()]}).encode(),
            JSON_COLUMNS: lambda outputs: json.dumps({"columns": {"value": outputs["value"].tolist()}}).encode(),
            CSV: encode_csv,
        },
        row_seconds=behaviour.get("row_seconds", 0.0),
    )
