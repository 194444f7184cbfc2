"""What the description says of a body is what the codecs take and give."""

from __future__ import annotations

import json

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from modelyard.data import Field
from modelyard.errors import ContractError
from modelyard.packages.codecs import csv, tensors
from modelyard.packages.codecs.json import JsonCodec, encode
from modelyard.packages.contract import DTYPES, Contract
from modelyard.packages.golden import Golden
from modelyard.serving.http.schemas import Model, component

CONTRACT = Contract(
    inputs=(
        *(Field(f"a {dtype}", dtype) for dtype in DTYPES),
        Field("grid", "uint8", (2, 3)),
        Field("words", "string", (2,)),
    ),
    outputs=(Field("value", "float64"), Field("label", "string"), Field("probabilities", "float32", (2,))),
)
ROW = {
    **{f"a {dtype}": {"bool": True, "string": "ä"}.get(dtype, 1) for dtype in DTYPES},
    "grid": [[1, 2, 3], [4, 5, 255]],
    "words": ["a", ""],
}
CODEC = JsonCodec(CONTRACT)


def model(contract: Contract = CONTRACT, golden: Golden | None = None) -> Model:
    return Model("m", "v1", 3, contract, golden)


def valid(name: str, value: object, given: Model | None = None) -> bool:
    schemas = (given or model()).schemas()
    root = {"$ref": f"#/components/schemas/m.{name}", "components": {"schemas": schemas}}
    Draft202012Validator.check_schema(root)
    return Draft202012Validator(root).is_valid(value)


def taken(value: object) -> bool:
    try:
        CODEC.decode(json.dumps(value).encode())
    except ContractError:
        return False
    return True


def rows(**changes: object) -> dict[str, object]:
    return {"rows": [ROW | changes]}


BODIES = [
    rows(),
    {"rows": []},
    [ROW],
    [],
    {"columns": {name: [value] for name, value in ROW.items()}},
    {"columns": {name: [] for name in ROW}, "rows": None},
    rows() | {"columns": None},
    rows() | {"columns": 3},
    rows() | {"unknown": 1},
    rows(unknown=1),
    {},
    None,
    3,
    {"rows": None},
    {"rows": {}},
    {"rows": [3]},
    {"rows": [{}]},
    {"columns": []},
    {"columns": {}},
    *(rows(**{f"a {dtype}": value}) for dtype in DTYPES for value in (None, True, "1", [1], 2.5, 3.0, -1, {})),
    *(rows(**{f"a {dtype}": value}) for dtype in DTYPES if "int" in dtype
      for limits in (np.iinfo(dtype),) for value in (int(limits.min), limits.min - 1, int(limits.max), limits.max + 1)),
    *(rows(**{f"a {dtype}": value}) for dtype in DTYPES if "float" in dtype
      for value in (float(np.finfo(dtype).max), -float(np.finfo(dtype).max), 65505.0, 1e39)),
    *(rows(grid=value) for value in ([1, 2], [[1, 2, 3]], [[1, 2], [3, 4]])),
    *(rows(grid=[[1, 2, 3], [4, 5, value]]) for value in (256, -1, None, 1.5)),
    *(rows(words=value) for value in (["a"], ["a", None], "ab", ["a", "b", "c"])),
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[-60:])
def test_a_body_fits_the_schema_if_and_only_if_the_codec_takes_it(body):
    body = json.loads(json.dumps(body, default=int))
    assert valid("Request", body) == taken(body)


@pytest.mark.parametrize("missing", ROW)
def test_each_field_is_needed(missing):
    body = {"rows": [{name: value for name, value in ROW.items() if name != missing}]}
    assert (valid("Request", body), taken(body)) == (False, False)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_answers_fit_whatever_the_numbers_are(layout):
    outputs = {
        "value": np.array([np.nan, np.inf, 1e300]),
        "label": np.array(["", "a", "ä"]),
        "probabilities": np.array([[0, 1], [np.nan, 0.5], [1, 0]], dtype=np.float32),
    }
    answer = {"model": "m", "version": "v1", "generation": 3, layout: json.loads(encode(outputs, layout))}
    assert valid("Answer", answer)
    assert not valid("Answer", {name: value for name, value in answer.items() if name != layout})
    request = tensors.Request({}, tensors.asked_outputs(CONTRACT, None, {}))
    told, _ = tensors.encode(CONTRACT, outputs, request, model_name="m", model_version="v1")
    assert valid("InferAnswer", json.loads(told))


def golden(contract: Contract) -> Golden:
    def columns(fields: tuple[Field, ...]) -> dict[str, np.ndarray]:
        return {
            field.name: np.ones((3, *field.shape), dtype="<U1" if field.dtype == "string" else field.dtype)
            for field in fields
        }

    return Golden(columns(contract.inputs), columns(contract.outputs))


def test_examples_fit_their_schemas_and_are_taken_by_the_codecs():
    one = model(golden=golden(CONTRACT))
    examples = one.examples()
    for name, expected in (("rows", 2), ("columns", 2)):
        request, answer = examples[name]
        assert valid("Request", request, one)
        assert valid("Answer", answer, one)
        assert len(CODEC.decode(json.dumps(request).encode())["grid"]) == expected
    request, answer = examples["tensors"]
    assert valid("InferRequest", request, one)
    assert valid("InferAnswer", answer, one)
    assert tensors.decode(CONTRACT, json.dumps(request).encode()).columns["grid"].shape == (2, 2, 3)
    assert len(csv.decode(CONTRACT, examples["csv"][0].encode())["grid"]) == 2


def test_an_example_of_a_long_row_has_one():
    contract = Contract((Field("image", "uint8", (28, 28)),), (Field("value", "float64"),))
    request, _ = model(contract, golden(contract)).examples()["rows"]
    assert len(request["rows"]) == 1


def test_a_package_without_golden_rows_has_no_examples():
    assert model().examples() == {}


def test_components_of_two_models_never_share_a_name():
    names = ["m", "m.x", "m-x", "m_x", "m x", "m/x", "m.2ex", "ä"]
    assert len({component(name) for name in names}) == len(names)
    assert all(set(component(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in names)
