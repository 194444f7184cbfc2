"""Each data format, whole and damaged: what is read is what was written, and an error names the place."""

from __future__ import annotations

import gzip
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pyarrow import parquet

from modelyard.errors import DataError, StorageError
from modelyard.steps.readers import csv, idx, image_folder, jsonl, npz
from modelyard.steps.readers import parquet as parquet_reader
from modelyard.steps.readers.request import Request, cast_columns

IDX_TYPES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx_bytes(values: np.ndarray) -> bytes:
    code = IDX_TYPES[values.dtype.str[1:]]
    head = bytes([0, 0, code, values.ndim]) + b"".join(struct.pack(">I", size) for size in values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def ask(path: Path, **more: Any) -> Request:
    return Request(data=path, name=path.name, workdir=path.parent, **more)


class TestIdx:
    @given(
        hnp.arrays(
            st.sampled_from([np.dtype(name) for name in IDX_TYPES]),
            hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
        ),
        st.booleans(),
    )
    def test_what_is_read_is_what_was_written(
        self, tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, packed: bool
    ) -> None:
        path = tmp_path_factory.mktemp("idx") / "data"
        path.write_bytes(gzip.compress(idx_bytes(values)) if packed else idx_bytes(values))
        read = idx.read_idx(path, "data")
        assert read.dtype == values.dtype
        assert read.dtype.isnative
        np.testing.assert_array_equal(read, values)

    def test_a_file_cut_anywhere_is_an_error_that_names_file_and_byte(self, tmp_path: Path) -> None:
        whole = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
        path = tmp_path / "train-images"
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match="byte") as told:
                idx.read_idx(path, "data/train-images")
            assert told.value.where == "data/train-images"
            if length > 4:
                assert str(length) in told.value.what

    def test_bytes_after_the_end_are_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(idx_bytes(np.zeros(3, np.uint8)) + b"!")
        with pytest.raises(DataError, match="goes on after byte 11"):
            idx.read_idx(path, "x")

    def test_a_cut_or_flipped_gzip_file_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "x.gz"
        packed = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 255, 5000).astype(np.uint8)))
        path.write_bytes(packed[:-200])
        with pytest.raises(DataError, match="gzip data is damaged"):
            idx.read_idx(path, "x.gz")
        path.write_bytes(packed[:3000] + b"\xff\xff" + packed[3002:])
        with pytest.raises(DataError, match=r"damaged|cut short"):
            idx.read_idx(path, "x.gz")

    def test_a_header_that_claims_terabytes_costs_no_memory(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">III", 2**31, 2**10, 2**10) + b"abc")
        with pytest.raises(DataError, match="ends at byte 19, its header promises 2251799813685264"):
            idx.read_idx(path, "x")

    def test_another_file_is_no_idx(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"PK\x03\x04")
        with pytest.raises(DataError, match="no IDX file: byte 0 begins with 50 4b 03 04"):
            idx.read_idx(path, "x")

    def test_images_and_labels_must_be_as_many(self, tmp_path: Path) -> None:
        (tmp_path / "i").write_bytes(idx_bytes(np.zeros((3, 2, 2), np.uint8)))
        (tmp_path / "l").write_bytes(idx_bytes(np.zeros(2, np.uint8)))
        with pytest.raises(DataError, match="3 images and 2 labels"):
            idx.read(ask(tmp_path / "i", labels=tmp_path / "l", labels_name="l", target="label"))


class TestNpz:
    def test_arrays_come_in_the_order_asked_for_with_the_target_last(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, y=np.arange(3), x=np.eye(3, dtype=">f4"), z=np.zeros(3))
        columns = npz.read(ask(path, columns=("z", "x"), target="y"))
        assert list(columns) == ["z", "x", "y"]
        assert columns["x"].dtype.isnative

    def test_python_objects_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, x=np.array([{}, []], dtype=object))
        with pytest.raises(DataError, match="would need pickle") as told:
            npz.read(ask(path))
        assert "array 'x'" in str(told.value)

    def test_a_flipped_bit_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, x=np.arange(1000))
        data = bytearray(path.read_bytes())
        data[500] ^= 1
        path.write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            npz.read(ask(path))

    @pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04nothing", b"\x93NUMPY"])
    def test_another_file_is_no_npz(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match="no NPZ archive"):
            npz.read(ask(path))

    def test_a_single_array_is_no_archive(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.arange(3))
        with pytest.raises(DataError, match="no NPZ archive"):
            npz.read(ask(tmp_path / "a.npy"))

    @pytest.mark.parametrize("values", [np.array(3), np.array([1j]), np.array(["2020"], dtype="M8[Y]")])
    def test_what_is_no_column_is_told(self, tmp_path: Path, values: np.ndarray) -> None:
        np.savez(tmp_path / "a.npz", x=values)
        with pytest.raises(DataError, match=r"no rows|can't have the dtype"):
            npz.read(ask(tmp_path / "a.npz"))

    def test_bytes_become_text(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=np.array([b"cat", b"dog"]))
        assert npz.read(ask(tmp_path / "a.npz"))["x"].tolist() == ["cat", "dog"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class TestCsv:
    def test_types_are_guessed(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "i,f,b,s,d\n1,1.5,true,x,2020-01-01\n2,2,false,äö,2020-01-02\n")
        columns = csv.read(ask(path))
        assert [values.dtype.kind for values in columns.values()] == ["i", "f", "b", "U", "U"]
        assert columns["s"].tolist() == ["x", "äö"]
        assert columns["d"].tolist() == ["2020-01-01", "2020-01-02"]

    def test_times_stay_the_text_they_are(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "t\n2020-01-01T10:00:00Z\n2020-01-02T10:00:00Z\n")
        assert csv.read(ask(path))["t"].tolist() == ["2020-01-01T10:00:00Z", "2020-01-02T10:00:00Z"]

    def test_what_is_missing_is_nan_or_the_empty_text(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "i,f,b,s\n1,,true,\n,2.5,,x\n")
        columns = csv.read(ask(path))
        np.testing.assert_array_equal(columns["i"], [1, np.nan])
        np.testing.assert_array_equal(columns["f"], [np.nan, 2.5])
        np.testing.assert_array_equal(columns["b"], [1, np.nan])
        assert columns["s"].tolist() == ["", "x"]

    def test_dtypes_decide(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "zip,n,h\n00123,1,0.5\n00456,2,0.25\n")
        columns = csv.read(ask(path, dtypes={"zip": "string", "n": "int8", "h": "float16"}))
        assert columns["zip"].tolist() == ["00123", "00456"]
        assert [values.dtype.name for values in columns.values()] == ["str160", "int8", "float16"]

    def test_the_first_fraction_may_come_late(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "x\n" + "1\n" * 600_000 + "1.5\n")
        assert csv.read(ask(path))["x"][-1] == 1.5

    def test_a_value_that_does_not_fit_names_its_row(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "x\n1\n2\nthree\n")
        with pytest.raises(DataError, match=r"Row #4.*three"):
            csv.read(ask(path, dtypes={"x": "int64"}))

    def test_a_missing_value_in_an_integer_column_names_row_and_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "x,y\n1,1\n,2\n")
        with pytest.raises(DataError, match="missing") as told:
            csv.read(ask(path, dtypes={"x": "int32"}))
        assert told.value.where == "a.csv, column 'x', row 2 (line 3)"

    def test_a_ragged_line_names_its_row(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "x,y\n1,2\n1,2,3\n")
        with pytest.raises(DataError, match="Row #3: Expected 2 columns, got 3"):
            csv.read(ask(path))

    def test_a_missing_column_names_the_nearest(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "price,rooms\n1,2\n")
        with pytest.raises(DataError, match="no column 'prize'") as told:
            csv.read(ask(path, target="prize"))
        assert told.value.remedy == "Did you mean 'price'?"

    def test_a_name_for_two_columns_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="Two columns are called 'x'"):
            csv.read(ask(write(tmp_path / "a.csv", "x,x\n1,2\n")))

    def test_an_empty_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="can't be read"):
            csv.read(ask(write(tmp_path / "a.csv", "")))

    def test_another_encoding_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes("name\nMüller\n".encode("latin-1"))
        with pytest.raises(DataError, match="UTF-8"):
            csv.read(ask(tmp_path / "a.csv"))

    def test_gzip_is_unpacked_by_its_ending(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"x\n1\n2\n"))
        assert csv.read(ask(tmp_path / "a.csv.gz"))["x"].tolist() == [1, 2]

    def test_a_damaged_gzip_file_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"x\n" + b"123\n" * 1000)[:-12])
        with pytest.raises((DataError, StorageError)):
            csv.read(ask(tmp_path / "a.csv.gz"))


class TestParquet:
    def test_every_type_that_a_column_can_have_is_read(self, tmp_path: Path) -> None:
        table = pa.table(
            {
                "i": pa.array([1, None], pa.int32()),
                "u": pa.array([1, 2], pa.uint8()),
                "s": pa.array(["a", None]).dictionary_encode(),
                "v": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())),
                "m": pa.array([[[1, 2]], [[3, 4]]], pa.list_(pa.list_(pa.int64()))),
                "f": pa.array([[1, 2], [3, 4]], pa.list_(pa.int16(), 2)),
                "n": pa.nulls(2),
                "d": pa.array([1, 2], pa.decimal128(5, 2)),
                "t": pa.array([0, 1], pa.timestamp("s")),
            }
        )
        parquet.write_table(table, tmp_path / "a.parquet")
        columns = parquet_reader.read(ask(tmp_path / "a.parquet"))
        assert {name: (values.dtype.name[:4], values.shape[1:]) for name, values in columns.items()} == {
            "i": ("floa", ()), "u": ("uint", ()), "s": ("str3", ()), "v": ("floa", (2,)), "m": ("int6", (1, 2)),
            "f": ("int1", (2,)), "n": ("floa", ()), "d": ("floa", ()), "t": ("str7", ()),
        }  # fmt: skip
        assert columns["m"].tolist() == [[[1, 2]], [[3, 4]]]

    def test_only_the_wanted_columns_are_read(self, tmp_path: Path) -> None:
        table = pa.table({"a": [1], "b": [b"bytes"], "c": [2]})
        parquet.write_table(table, tmp_path / "a.parquet")
        assert list(parquet_reader.read(ask(tmp_path / "a.parquet", columns=("c",), target="a"))) == ["c", "a"]
        with pytest.raises(DataError, match="can't have the type binary"):
            parquet_reader.read(ask(tmp_path / "a.parquet"))

    def test_lists_of_different_lengths_name_the_row(self, tmp_path: Path) -> None:
        parquet.write_table(pa.table({"v": [[1, 2], [1, 2], [1]]}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match="has 1 values, the first row's has 2") as told:
            parquet_reader.read(ask(tmp_path / "a.parquet"))
        assert "row 3" in str(told.value)

    def test_a_missing_target_names_the_row(self, tmp_path: Path) -> None:
        parquet.write_table(pa.table({"x": [1, 2], "y": ["a", None]}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match="missing") as told:
            parquet_reader.read(ask(tmp_path / "a.parquet", target="y"))
        assert told.value.where == "a.parquet, column 'y', row 2"

    def test_every_cut_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        parquet.write_table(pa.table({"x": list(range(1000))}), path)
        whole = path.read_bytes()
        for length in (0, 4, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match="can't be read"):
                parquet_reader.read(ask(path))

    def test_a_value_that_does_not_fit_its_dtype_is_told(self, tmp_path: Path) -> None:
        parquet.write_table(pa.table({"x": [1, 300]}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match="300"):
            parquet_reader.read(ask(tmp_path / "a.parquet", dtypes={"x": "uint8"}))


class TestJsonl:
    def test_a_key_that_a_line_lacks_is_missing(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", '{"x": 1, "s": "a"}\n{"s": "b", "x": null}\n{"x": 3}\n')
        columns = jsonl.read(ask(path))
        np.testing.assert_array_equal(columns["x"], [1, np.nan, 3])
        assert columns["s"].tolist() == ["a", "b", ""]

    def test_lists_become_arrays(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", '{"v": [[1, 2], [3, 4]]}\n{"v": [[5, 6], [7, 8]]}\n')
        assert jsonl.read(ask(path))["v"].shape == (2, 2, 2)

    @pytest.mark.parametrize("text", ["", "{", '{"x": 1}\n[1]\n', '{"x": 1}\n{"x": "a"}\n'])
    def test_what_is_no_table_is_told(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(DataError, match="can't be read"):
            jsonl.read(ask(write(tmp_path / "a.jsonl", text)))

    def test_a_nested_object_is_no_column(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="can't have the type struct"):
            jsonl.read(ask(write(tmp_path / "a.jsonl", '{"x": {"y": 1}}\n')))


def paint(folder: Path, size: tuple[int, int] = (4, 3), mode: str = "L", classes: str = "ab", count: int = 2) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            colour = 10 * number + index if mode == "L" else (10 * number + index, 0, 255)
            Image.new(mode, size, colour).save(folder / name / f"{index}.png")
    return folder


class TestImageFolder:
    def test_each_sub_folder_is_a_class(self, tmp_path: Path) -> None:
        columns = image_folder.read(ask(paint(tmp_path / "images"), target="label"))
        assert columns["label"].tolist() == ["a", "a", "b", "b"]
        assert columns["image"].shape == (4, 3, 4)
        assert columns["image"][:, 0, 0].tolist() == [0, 1, 10, 11]

    def test_colour_puts_its_channels_first(self, tmp_path: Path) -> None:
        paint(tmp_path / "images")
        Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / "images" / "a" / "9.png")
        columns = image_folder.read(ask(tmp_path / "images"))
        assert columns["image"].shape == (5, 3, 3, 4)
        assert columns["image"][2, :, 0, 0].tolist() == [1, 2, 3]

    def test_sizes_that_differ_need_image_size(self, tmp_path: Path) -> None:
        paint(tmp_path / "images")
        Image.new("L", (8, 8)).save(tmp_path / "images" / "b" / "big.png")
        with pytest.raises(DataError, match="has 8 x 8 pixels, the first one has 3 x 4") as told:
            image_folder.read(ask(tmp_path / "images"))
        assert told.value.where == "images/b/big.png"
        columns = image_folder.read(ask(tmp_path / "images", image_size=(6, 5)))
        assert columns["image"].shape == (5, 6, 5)

    @pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\0\0"])
    def test_a_damaged_image_is_named(self, tmp_path: Path, content: bytes) -> None:
        paint(tmp_path / "images")
        (tmp_path / "images" / "a" / "1.png").write_bytes(content)
        with pytest.raises(DataError, match="can't be read") as told:
            image_folder.read(ask(tmp_path / "images"))
        assert told.value.where == "images/a/1.png"

    def test_an_image_cut_short_is_named(self, tmp_path: Path) -> None:
        paint(tmp_path / "images", size=(64, 64))
        noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
        path = tmp_path / "images" / "a" / "1.png"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(DataError, match="can't be read"):
            image_folder.read(ask(tmp_path / "images"))

    def test_an_image_outside_a_class_is_named(self, tmp_path: Path) -> None:
        paint(tmp_path / "images")
        Image.new("L", (4, 3)).save(tmp_path / "images" / "stray.png")
        with pytest.raises(DataError, match="in no class's folder"):
            image_folder.read(ask(tmp_path / "images"))

    def test_no_images_are_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "images" / "a").mkdir(parents=True)
        with pytest.raises(DataError, match="no images"):
            image_folder.read(ask(tmp_path / "images"))

    @pytest.mark.parametrize("kind", ["zip", "tar.gz"])
    def test_an_archive_is_unpacked(self, tmp_path: Path, kind: str) -> None:
        paint(tmp_path / "images")
        path = tmp_path / f"images.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted((tmp_path / "images").rglob("*.png")):
                    archive.write(file, file.relative_to(tmp_path))
        else:
            with tarfile.open(path, "w:gz") as archive:
                archive.add(tmp_path / "images", "images")
        assert image_folder.read(ask(path))["label"].tolist() == ["a", "a", "b", "b"]

    def test_an_archive_cannot_write_outside(self, tmp_path: Path) -> None:
        (tmp_path / "work").mkdir()
        path = tmp_path / "images.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(paint(tmp_path / "images") / "a" / "0.png", "../../escaped.png")
        with pytest.raises(DataError, match="damaged"):
            image_folder.read(Request(data=path, name="images.tar", workdir=tmp_path / "work"))
        assert not list(tmp_path.rglob("escaped.png"))

    def test_another_file_is_neither_folder_nor_archive(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="neither a folder nor"):
            image_folder.read(ask(write(tmp_path / "x.txt", "x")))


class TestCast:
    @given(
        hnp.arrays(st.sampled_from([np.dtype(n) for n in ("i8", "u1", "f4", "f8")]), st.integers(0, 20)),
        st.sampled_from(["int8", "int64", "uint8", "uint64", "float16", "float32", "float64", "bool"]),
    )
    def test_a_cast_keeps_every_integer_or_names_the_row(self, values: np.ndarray, dtype: str) -> None:
        request = Request(data=Path("x"), name="x", dtypes={"v": dtype})
        problem, result = "", values
        try:
            result = cast_columns({"v": values}, request)["v"]
        except DataError as error:
            problem = str(error)
        if problem:
            assert "row" in problem
            return
        assert result.dtype == np.dtype(dtype)
        if result.dtype.kind in "biu":
            assert [int(a) for a in result] == [int(b) for b in values]


def test_one_long_text_does_not_widen_a_whole_column(tmp_path: Path) -> None:
    text = "a,y\n" + "".join(f"{'x' * 3_000_000 if i == 7 else i},{i % 2}\n" for i in range(1000))
    (tmp_path / "long.csv").write_text(text)
    with pytest.raises(DataError, match="3,000,000 characters") as caught:
        csv.read(ask(tmp_path / "long.csv"))  # widened it would be 12 GB
    assert "column 'a', row 8" in (caught.value.where or "")
