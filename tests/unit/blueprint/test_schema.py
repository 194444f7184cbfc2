"""Editors and people read the same language as the loader."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from modelyard.blueprint.load import load_blueprint
from modelyard.blueprint.messages import concepts
from modelyard.blueprint.plan import plan
from modelyard.blueprint.reference import render
from modelyard.blueprint.schema import json_schema
from modelyard.blueprint.yaml import read_yaml

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "src" / "modelyard" / "templates" / "digits"
NAMES = ("blueprint.yaml", "cnn.yaml")


def values(name: str) -> Any:
    return copy.deepcopy(read_yaml((TEMPLATES / name).read_bytes(), name).data)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_takes_the_demo(validator: jsonschema.Draft202012Validator, name: str) -> None:
    assert [error.message for error in validator.iter_errors(values(name))] == []


def test_the_schema_refuses_an_unknown_key(validator: jsonschema.Draft202012Validator) -> None:
    data = values("blueprint.yaml")
    data["modle"] = "x"
    assert not validator.is_valid(data)
    data = values("blueprint.yaml")
    data["pipeline"]["steps"][2]["alhpa"] = 1
    assert not validator.is_valid(data)


def test_every_property_has_a_description() -> None:
    bare = [
        f"{c.__name__}.{name}" for c in concepts() for name, field in c.model_fields.items() if not field.description
    ]
    assert bare == []
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_reference_page_is_what_the_metamodel_says() -> None:
    assert (ROOT / "docs" / "reference" / "blueprint.md").read_text(encoding="utf-8") == render()


@pytest.mark.parametrize("name", NAMES)
def test_the_demo_blueprints_are_planned_in_four_steps(name: str) -> None:
    blueprint = load_blueprint(TEMPLATES / name)
    made = plan(blueprint)
    assert [task.id for task in made.tasks] == ["data", "prepare", "train", "evaluate"]
    assert blueprint.model_name == "digits"
    assert blueprint.review.approvals == 1
    assert made["evaluate"].parameters["minimum"] == {"accuracy": 0.97}
    assert all(checksum for checksum in made["data"].files.values())


def test_the_demo_blueprints_import_the_same_data() -> None:
    first, second = (plan(load_blueprint(TEMPLATES / name))["data"] for name in NAMES)
    assert first == second
