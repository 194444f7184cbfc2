"""The Materializer contract, over every materializer that comes with Modelyard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pandas as pd
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelyard.contracts import Materializer
from modelyard.data import Dataset
from modelyard.store.materializers import Materializers
from modelyard.testing.materializer import MaterializerConformance


def equal_arrays(left: Any, right: Any) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    )


class Builtin(MaterializerConformance):
    named: str

    def new_materializer(self) -> Materializer:
        return Materializers().named(self.named)


class TestJson(Builtin):
    named = "json"

    def values(self, folder: Path) -> Sequence[Any]:
        return (
            None,
            True,
            0,
            -(2**70),
            1.5,
            1e-300,
            math.inf,
            "",
            "größe \x00 \ud800 🎉",
            [],
            {},
            {"b": [1, {"a": None}], "a": 2},
        )

    def others(self) -> Sequence[Any]:
        return (*super().others(), {1: 2}, [object()], {"a": np.zeros(2)}, np.float64(1), b"bytes", Path())


class TestArray(Builtin):
    named = "array"

    def values(self, folder: Path) -> Sequence[Any]:
        random = np.random.default_rng(0)
        return (
            np.arange(12, dtype=np.int8).reshape(3, 4),
            np.asfortranarray(random.random((50, 3))),
            random.random((100, 4))[::2],
            np.zeros((0, 3), np.float32),
            np.array(3.5),
            np.float32(2),
            np.array(["a", "größe"]),
            np.array([True, False]),
            np.array(["2026-01-31"], dtype="datetime64[D]"),
            np.arange(4, dtype=">i4"),
        )

    def others(self) -> Sequence[Any]:
        return (*super().others(), [1, 2], np.array([object()]))

    def same(self, saved: Any, loaded: Any) -> bool:
        assert type(loaded) is np.ndarray
        assert not loaded.flags.writeable
        return equal_arrays(np.asarray(saved), loaded)


class TestDataset(Builtin):
    named = "dataset"

    def values(self, folder: Path) -> Sequence[Any]:
        random = np.random.default_rng(0)
        return (
            Dataset(
                {
                    "image": random.random((20, 4, 4)).astype(np.float32),
                    "größe/../x": random.integers(0, 9, 20).astype(np.uint8),
                    "label": np.array(["cat", "hund 🐕", "", "b\nc"] * 5),
                },
                target="label",
                classes=("", "b\nc", "cat", "hund 🐕"),
            ),
            Dataset({"words": np.array([["a", "bb"], ["ccc", ""]]), "y": np.array([0.5, math.nan])}, target="y"),
            Dataset({"y": np.arange(3)}, target="y", classes=(np.int64(0), np.int64(1), np.int64(2))),
            Dataset({"empty": np.zeros(0), "text": np.zeros(0, dtype="<U5")}),
            Dataset({}),
        )

    def others(self) -> Sequence[Any]:
        return (*super().others(), {"a": np.zeros(2)}, np.zeros(2))

    def same(self, saved: Dataset, loaded: Dataset) -> bool:
        assert list(saved.columns) == list(loaded.columns)
        assert not any(values.flags.writeable for values in loaded.columns.values())
        columns = all(equal_arrays(values, loaded.columns[name]) for name, values in saved.columns.items())
        return columns and saved.target == loaded.target and saved.classes == loaded.classes


class TestTable(Builtin):
    named = "table"

    def values(self, folder: Path) -> Sequence[Any]:
        return (
            pa.table({"a": [1, None, 3], "b": ["x", "größe", None]}),
            pa.table({"a": pa.array([], pa.float32())}),
            pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=[10, 20]),
            pd.DataFrame({"t": pd.to_datetime(["2026-01-31"])}),
        )

    def others(self) -> Sequence[Any]:
        return (*super().others(), pd.Series([1]), pa.array([1]))

    def same(self, saved: Any, loaded: Any) -> bool:
        assert type(saved) is type(loaded)
        return bool(saved.equals(loaded))


class TestSafetensors(Builtin):
    named = "safetensors"

    def values(self, folder: Path) -> Sequence[Any]:
        random = np.random.default_rng(0)
        return (
            {"w": random.random((4, 3)), "b": np.zeros(3, np.float32), "n": np.array(5)},
            {"strided": random.random((10, 4))[::2, ::-1], "mask": np.array([True, False])},
        )

    def others(self) -> Sequence[Any]:
        return (*super().others(), {}, {"a": 1}, {"a": np.array(["text"])}, {1: np.zeros(2)})

    def same(self, saved: Any, loaded: Any) -> bool:
        return saved.keys() == loaded.keys() and all(equal_arrays(saved[name], loaded[name]) for name in saved)


class TestFolder(Builtin):
    named = "folder"

    def values(self, folder: Path) -> Sequence[Any]:
        tree = folder / "produced"
        (tree / "sub").mkdir(parents=True)
        (tree / "sub" / "a.txt").write_text("a")
        (tree / "run.sh").write_text("#!/bin/sh")
        (tree / "run.sh").chmod(0o755)
        (folder / "single.bin").write_bytes(b"\x00" * 100)
        return (tree, folder / "single.bin")

    def others(self) -> Sequence[Any]:
        return (*super().others(), "a text")

    def same(self, saved: Path, loaded: Path) -> bool:
        if saved.is_file():
            return saved.name == loaded.name and saved.read_bytes() == loaded.read_bytes()
        files = [path.relative_to(saved) for path in saved.rglob("*") if path.is_file()]
        assert files == [path.relative_to(loaded) for path in loaded.rglob("*") if path.is_file()]
        return all((saved / path).read_bytes() == (loaded / path).read_bytes() for path in files)


class TestSkops(Builtin):
    named = "skops"

    def values(self, folder: Path) -> Sequence[Any]:
        random = np.random.default_rng(0)
        rows = random.random((60, 3))
        labels = np.array(["no", "yes"])[(rows[:, 0] > 0.5).astype(int)]
        return (
            make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels),
            RandomForestClassifier(3, random_state=0).fit(rows, labels),
            HistGradientBoostingClassifier(max_iter=3, random_state=0).fit(rows, labels),
        )

    def same(self, saved: Any, loaded: Any) -> bool:
        rows = np.random.default_rng(1).random((40, 3))
        return np.array_equal(saved.predict_proba(rows), loaded.predict_proba(rows))


class TestOnnx(Builtin):
    named = "onnx"

    def values(self, folder: Path) -> Sequence[Any]:
        sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        return (onnx.helper.make_model(onnx.helper.make_graph([node], "g", sides[:1], sides[1:])),)
