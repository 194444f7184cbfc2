"""Measuring: turns are fair, medians are medians, and a failing peer stops nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import common
from benchmarks.common import facts, output, peer_variables, seconds, summary, take_turns, times


def test_contenders_take_turns_and_the_order_turns_around(tmp_path: Path) -> None:
    order: list[str] = []

    def contender(name: str) -> Callable[[Path], int]:
        def run(folder: Path) -> int:
            assert not list(folder.iterdir())
            order.append(name)
            return len(order)

        return run

    rounds, failed = take_turns({"a": contender("a"), "b": contender("b")}, 3, tmp_path)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert rounds == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert not failed
    assert not list(tmp_path.iterdir())


def test_a_contender_that_fails_is_left_out_with_its_reason(tmp_path: Path) -> None:
    def broken(folder: Path) -> int:
        return len(output(["sh", "-c", "echo first >&2; echo it broke >&2; exit 3"], folder))

    rounds, failed = take_turns({"broken": broken, "whole": lambda _: 1}, 2, tmp_path)
    assert rounds == {"whole": [1, 1]}
    assert failed == {"broken": "it broke"}


def test_a_silent_failure_names_the_exit_code(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit 7"):
        output(["sh", "-c", "exit 7"], tmp_path)


def test_a_summary_is_the_median_and_all_that_it_comes_from() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "all": [3.0, 1.0, 2.0]}


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0002, "0.20 ms"), (0.0123, "12.3 ms"), (0.9, "900 ms"), (1.5, "1.50 s"), (61.0, "61.00 s")]
)
def test_seconds_are_shown_with_the_digits_that_count(value: float, shown: str) -> None:
    assert seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.7, "0.70"), (12.34, "12.3"), (1234.5, "1,234")])
def test_ratios_are_shown_with_the_digits_that_count(value: float, shown: str) -> None:
    assert times(value) == shown


def test_a_peer_keeps_everything_in_its_folder(tmp_path: Path) -> None:
    variables = peer_variables(tmp_path)
    for name in ("HOME", "PREFECT_HOME", "ZENML_CONFIG_PATH", "DVC_SITE_CACHE_DIR", "XDG_CONFIG_HOME"):
        assert Path(variables[name]).is_relative_to(tmp_path)


def test_facts_name_the_machine_and_the_versions() -> None:
    known = facts(["modelyard"])
    assert known["cpu"]
    assert known["cores"] >= 1
    assert known["load_before"] >= 0
    assert set(known["versions"]) == {"modelyard"}


def test_a_quick_result_never_takes_the_place_of_a_real_one() -> None:
    kept = {common.default_output(name, quick=False) for name in common.NAMES}
    quick = {common.default_output(name, quick=True) for name in common.NAMES}
    assert not kept & quick
    assert all(path.parent == common.RESULTS for path in kept)


def test_every_peer_says_which_version_it_has() -> None:
    for file in (common.ROOT / "benchmarks" / "environments").glob("*.txt"):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        assert first.partition("==")[0].partition("[")[0] == file.stem
        assert first.partition("==")[2]
