"""The tables of `docs/explanation/performance.md`, rewritten from `benchmarks/results/*.json`.

A table stands between `<!-- results: NAME -->` and `<!-- end -->`; what is around it is written by hand.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import NAMES, RESULTS, ROOT, Benchmark, Promise, Table

PAGE = ROOT / "docs" / "explanation" / "performance.md"
_BLOCK = re.compile(r"(?<=<!-- results: )(?P<name>\w+) -->\n.*?(?=<!-- end -->)", re.DOTALL)

Results = Mapping[str, dict[str, Any]]


def benchmark(name: str) -> Benchmark:
    """Return the benchmark of a module."""
    found: Benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    return found


def kept_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Read every result that is there."""
    files = {name: folder / f"{name}.json" for name in NAMES}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def provenance(result: Mapping[str, Any]) -> str:
    """Return where numbers come from: date, machine, versions, load, and how often."""
    facts, settings = result["facts"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    parts = [
        f"Measured {facts['time'][:16].replace('T', ' ')} UTC at commit {facts['commit'] or 'unknown'}",
        f"machine: {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}",
        f"versions: Python {facts['python']}, {versions}",
        f"load average: {facts['load_before']} before, {facts['load_after']} after",
        f"repeated {settings['repeat']} times, {facts['took_s']} s in all" if settings["repeat"] > 1 else "one round",
    ]
    told = "; ".join(parts) + "."
    if settings["quick"]:
        told = f"**A quick run, with less of everything: it shows that the benchmark works, and little more.** {told}"
    return told + "".join(f" Left out: {peer} ({reason})." for peer, reason in result["left_out"].items())


def section(name: str, result: Mapping[str, Any]) -> str:
    """Return everything that one benchmark measured."""
    tables = (table.markdown() for table in benchmark(name).tables(result["results"]))
    return "\n\n".join([f"_{provenance(result)}_" if not result["settings"]["quick"] else provenance(result), *tables])


def promised(results: Results) -> str:
    """Return what is owed beside what was measured."""
    rows = []
    for name, result in results.items():
        for promise in benchmark(name).promises(result["results"]):
            rows.append([promise.what, promise.owed, promise.measured, _verdict(promise, result), _when(name, result)])
    table = Table("Owed and measured", ["what", "owed", "measured", "kept", "measured when, under which load"], rows)
    sources = [f"- `{name}`: {provenance(result)}" for name, result in results.items()]
    return "\n".join([table.markdown(), "", *sources])


def _verdict(promise: Promise, result: Mapping[str, Any]) -> str:
    if promise.kept is None:
        return "not measured"
    if result["settings"]["quick"]:
        return "not judged by a quick run"
    return "yes" if promise.kept else "**no**"


def _when(name: str, result: Mapping[str, Any]) -> str:
    facts, quick = result["facts"], ", quick" if result["settings"]["quick"] else ""
    return f"`{name}`, {facts['time'][:10]}, load {facts['load_before']}{quick}"


def render(text: str, results: Results) -> str:
    """Return a page with every block rewritten.

    Raises:
        KeyError: The page asks for a result that there is not.
    """

    def block(found: re.Match[str]) -> str:
        name = found["name"]
        content = promised(results) if name == "promises" else section(name, results[name])
        return f"{name} -->\n\n{content}\n\n"

    return _BLOCK.sub(block, text)


def rewrite() -> None:
    """Rewrite the page from the results that are kept."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), kept_results()), encoding="utf-8")
