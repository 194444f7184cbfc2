"""The page of performance says what the kept results say, and where they come from."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from benchmarks.common import NAMES, Table
from benchmarks.page import PAGE, benchmark, kept_results, provenance, render

RESULTS = kept_results()


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    return dict(re.findall(r"<!-- results: (\w+) -->\n(.*?)<!-- end -->", page(), re.DOTALL))


def test_the_page_is_what_the_results_say() -> None:
    assert page() == render(page(), RESULTS), "run python -m benchmarks --page"


def test_the_page_shows_every_benchmark_and_what_is_owed() -> None:
    assert sorted(sections()) == sorted((*NAMES, "promises"))
    assert sorted(RESULTS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_says_date_machine_versions_and_load(name: str) -> None:
    facts = RESULTS[name]["facts"]
    for text in (sections()[name], sections()["promises"]):
        assert facts["time"][:16].replace("T", " ") in text
        assert facts["cpu"] in text
        assert f"{facts['cores']} cores, {facts['memory_gib']} GiB" in text
        assert f"Python {facts['python']}" in text
        assert f"load average: {facts['load_before']} before, {facts['load_after']} after" in text
        for distribution, version in facts["versions"].items():
            assert f"{distribution} {version}" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_median_that_is_kept_comes_from_as_many_values_as_it_says(name: str) -> None:
    settings = RESULTS[name]["settings"]
    summaries = list(found(RESULTS[name]["results"]))
    if name != "training":
        assert summaries
    assert all(len(summary["all"]) >= 1 for summary in summaries)
    assert max(len(summary["all"]) for summary in summaries) >= settings["repeat"]


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_shows_its_results_and_owes_something(name: str) -> None:
    results = RESULTS[name]["results"]
    tables = benchmark(name).tables(results)
    assert tables
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
    assert benchmark(name).promises(results)


def test_another_result_gives_another_page() -> None:
    other = copy.deepcopy(RESULTS)
    other["start"]["results"]["modelyard --help"]["median"] = 4.25
    other["start"]["settings"]["quick"] = False
    changed = render(page(), other)
    assert changed != page()
    assert "| `modelyard --help` | ≤ 100 ms | 4.25 s | **no** |" in changed


def test_a_quick_run_gives_no_verdict() -> None:
    other = copy.deepcopy(RESULTS)
    other["start"]["settings"]["quick"] = True
    changed = render(page(), other)
    assert re.search(r"`modelyard --help` \| ≤ 100 ms \| [\d.]+ m?s \| not judged by a quick run \|", changed)


def test_a_quick_run_and_a_peer_left_out_are_named() -> None:
    result = copy.deepcopy(RESULTS["start"])
    result["settings"]["quick"], result["left_out"] = True, {"dvc": "no network"}
    assert "quick run" in provenance(result)
    assert "Left out: dvc (no network)." in provenance(result)
    result["settings"]["quick"], result["left_out"] = False, {}
    assert "quick run" not in provenance(result)
    assert "Left out" not in provenance(result)


def test_text_around_the_tables_is_kept() -> None:
    outside = re.compile(r"<!-- results: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
    changed = render("before\n<!-- results: start -->\nold\n<!-- end -->\nafter\n", RESULTS)
    assert outside.sub("X", changed) == "before\nX\nafter\n"
    assert "old" not in changed


def test_a_table_is_aligned_in_the_terminal_and_marked_on_the_page() -> None:
    table = Table("Speed", ["", "ours"], [["add", "1 ms"], ["checkout", "12 ms"]])
    assert table.text() == "Speed\n             ours\n  add        1 ms\n  checkout  12 ms"
    assert table.markdown() == "**Speed**\n\n|  | ours |\n| --- | ---: |\n| add | 1 ms |\n| checkout | 12 ms |"


def found(value: Any) -> Any:
    if isinstance(value, dict):
        if "median" in value and "all" in value:
            yield value
        else:
            for inner in value.values():
                yield from found(inner)
