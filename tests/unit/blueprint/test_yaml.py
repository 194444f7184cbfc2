"""YAML becomes plain values with places, and whatever is no blueprint's YAML becomes one clear problem."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.blueprint.yaml import Place, read_yaml
from modelyard.errors import BlueprintError, Problem


def problem_of(text: str | bytes) -> Problem:
    with pytest.raises(BlueprintError) as caught:
        read_yaml(text, "blueprint.yaml")
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def reads_or_refuses(text: str | bytes) -> bool:
    """Anything else that is raised fails the test."""
    try:
        return read_yaml(text, "f").places != {}
    except BlueprintError as error:
        return len(error.problems) == 1


def test_every_key_and_value_has_its_line_and_column() -> None:
    places = read_yaml("a: 1\nb:\n  - x: 2\n", "f").places
    assert places[("a",)] == Place(key=(1, 1), value=(1, 4))
    assert places[("b", 0, "x")] == Place(key=(3, 5), value=(3, 8))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("~", None),
        ("", None),
        ("2026-01-31", "2026-01-31"),
        ("12:30", "12:30"),
        ("'5'", "5"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text: str, value: object) -> None:
    read = read_yaml(f"a: {text}\n", "f").data["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "9" * 30, "9" * 5000, "1e999"])
def test_a_number_that_json_can_not_hold_is_a_problem(text: str) -> None:
    document = read_yaml(f"a: {text}\n", "f")
    assert [(p.line, p.column, p.key) for p in document.problems] == [(1, 4, "a")]


def test_a_duplicate_key_names_the_line_of_the_first() -> None:
    document = read_yaml("a: 1\nb: 2\na: 3\n", "f")
    assert str(document.problems[0]) == "f:3:1: a: duplicate key, the first stands in line 1. Remove one of the two."
    assert document.data == {"a": 1, "b": 2}


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!mine", "!!binary", "!!set"])
def test_a_foreign_tag_is_a_problem_and_nothing_is_built(tag: str) -> None:
    document = read_yaml(f"a: {tag} {{}}\n", "f")
    assert "is not used here" in document.problems[0].what


@pytest.mark.parametrize("key", ["1", "true", "~", "[a]", "{a: 1}"])
def test_a_key_that_is_no_text_is_a_problem(key: str) -> None:
    assert "a key must be a text" in read_yaml(f"? {key}\n: 1\n", "f").problems[0].what


def test_a_tab_is_named_as_such() -> None:
    problem = problem_of("a:\n\tb: 1\n")
    assert (problem.line, problem.column) == (2, 1)
    assert str(problem) == "blueprint.yaml:2:1: a tab can't indent YAML. Use spaces."


def test_a_syntax_error_has_line_and_column() -> None:
    problem = problem_of("a: 1\nb: [1, 2\nc: 3\n")
    assert problem.line == 3
    assert problem.column > 0
    assert "not YAML" in problem.what


def test_bytes_that_are_not_utf_8_are_located() -> None:
    problem = problem_of("a: 1\nb: é\n".encode("latin-1"))
    assert (problem.line, problem.column) == (2, 4)
    assert problem.remedy == "Save the file as UTF-8."


def test_utf_16_is_no_utf_8() -> None:
    assert "not UTF-8" in problem_of("a: 1\n".encode("utf-16")).what


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    assert read_yaml("a: 1\r\nb: é\r\n".encode("utf-8-sig"), "f").data == {"a": 1, "b": "é"}


def test_a_control_character_is_located() -> None:
    problem = problem_of("a: 1\nb: x\x00y\n")
    assert (problem.line, problem.column) == (2, 5)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", b""])
def test_an_empty_file_is_told_with_a_remedy(text: str | bytes) -> None:
    problem = problem_of(text)
    assert "empty" in problem.what
    assert "modelyard init" in problem.remedy


def test_a_second_document_is_told() -> None:
    assert "more than one document" in problem_of("a: 1\n---\nb: 2\n").what


def test_aliases_and_merges_are_written_out() -> None:
    text = "base: &base {a: 1, b: {c: 2}}\nuse: *base\nmore:\n  <<: *base\n  a: 5\n"
    document = read_yaml(text, "f")
    assert document.data["use"] == {"a": 1, "b": {"c": 2}}
    assert document.data["more"] == {"a": 5, "b": {"c": 2}}
    assert document.places[("more", "b", "c")].key == (1, 24)


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    started = time.perf_counter()
    problem = problem_of("\n".join(lines))
    assert "100,000 values" in problem.what
    assert time.perf_counter() - started < 5


def test_an_alias_of_itself_is_refused() -> None:
    assert "contains itself" in problem_of("a: &a [1, *a]\n").what


def test_merging_with_itself_is_refused() -> None:
    assert "contains itself" in problem_of("a: &a\n  <<: *a\n  b: 1\n").what


def test_deep_nesting_is_refused() -> None:
    assert "deep" in problem_of("[" * 60 + "]" * 60).what
    assert "deep" in problem_of("[" * 20_000).what


def test_a_huge_file_is_refused_before_it_is_parsed() -> None:
    assert "bytes" in problem_of(b"a" * 5_000_000).what


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_values_or_a_blueprint_error(data: bytes) -> None:
    assert reads_or_refuses(data)


@given(st.text(alphabet=":-[]{}&*!|>'\"%@`#,? \n\tab1~<.", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_yaml_punctuation_gives_values_or_a_blueprint_error(text: str) -> None:
    assert reads_or_refuses(text)
