"""A FastAPI application as its tutorial writes one: a checked body of named fields, an answer of plain lists."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from predictors import Predictor, columns
from pydantic import BaseModel, create_model

NAMES = columns()
predictor = Predictor()
app = FastAPI()

fields: dict[str, Any] = dict.fromkeys(NAMES, (float, ...)) or {"image": (list[float], ...)}
Row: Any = create_model("Row", **fields)


class Rows(BaseModel):
    """What is asked."""

    rows: list[Row]


@app.post("/predict")
async def predict(asked: Rows) -> dict[str, list[Any]]:
    """Predict; the model takes microseconds, less than a thread would cost."""
    matrix = [[getattr(row, name) for name in NAMES] if NAMES else row.image for row in asked.rows]
    return {"predictions": predictor(matrix).tolist()}


@app.post("/predict-beside")
def predict_beside(asked: Rows) -> dict[str, list[Any]]:
    """Predict in a thread, as the tutorial says for what takes longer."""
    matrix = [[getattr(row, name) for name in NAMES] if NAMES else row.image for row in asked.rows]
    return {"predictions": predictor(matrix).tolist()}
