"""Write a subject as MLflow's model, by its own flavour: `mlflow_model.py KIND SUBJECT TARGET`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    kind, subject, target = sys.argv[1:]
    if kind == "sklearn":
        import joblib
        import mlflow.sklearn

        estimator = joblib.load(Path(subject) / "model.joblib")
        mlflow.sklearn.save_model(estimator, target, serialization_format="cloudpickle")
    else:
        import mlflow.onnx
        import onnx

        options = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
        mlflow.onnx.save_model(
            onnx.load(str(Path(subject) / "model.onnx")), target, onnx_session_options=options,
            onnx_execution_providers=["CPUExecutionProvider"],
        )  # fmt: skip
