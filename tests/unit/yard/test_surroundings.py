"""What a yard finds when it is opened: its settings, and what is installed."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from modelyard.config import Settings, list_settings, load_settings
from modelyard.errors import SettingsError
from modelyard.yard.environment import environment_lock


def test_without_a_file_every_setting_has_its_default(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()


def test_a_variable_wins_over_the_file_and_is_read_as_the_setting_s_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modelyard.toml").write_text("workers = 2\nserve_workers = 3\nidentity = '12'\n")
    monkeypatch.setenv("MODELYARD_WORKERS", "4")
    settings = load_settings(tmp_path)
    assert (settings.workers, settings.serve_workers, settings.identity) == (4, 3, "12")


@pytest.mark.parametrize(
    ("text", "variable", "where"),
    [
        ("workers = 0", {}, "modelyard.toml"),
        ("workers = 'many'", {}, "modelyard.toml"),
        ("store = 3", {}, "modelyard.toml"),
        ("log_level = 'loud'", {}, "modelyard.toml"),
        ("workers = 2", {"MODELYARD_WORKERS": "0"}, "MODELYARD_WORKERS"),
        ("", {"MODELYARD_LOG_LEVEL": "loud"}, "MODELYARD_LOG_LEVEL"),
        ("stoer = 'x'", {}, "modelyard.toml"),
        ("store = ", {}, "modelyard.toml"),
    ],
)
def test_a_wrong_setting_is_refused_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, variable: dict[str, str], where: str
) -> None:
    (tmp_path / "modelyard.toml").write_text(text)
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path)
    assert (caught.value.where or "").endswith(where)


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("stroe = 'x'", "There is no setting stroe.", "Did you mean store? All there are: modelyard settings"),
        ("zzz = 1", "There is no setting zzz.", "All there are: modelyard settings"),
        ("stroe = 'x'\nworkres = 1", "There are no settings stroe, workres.", "Did you mean store, workers?"),
    ],
)
def test_an_unknown_setting_is_told_with_the_nearest(tmp_path: Path, text: str, what: str, remedy: str) -> None:
    (tmp_path / "modelyard.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path)
    assert caught.value.what == what
    assert str(caught.value.remedy).startswith(remedy)


def test_settings_are_listed_with_their_source_even_where_one_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modelyard.toml").write_text("stroe = 'x'\nworkers = 0\ncatalog = 'postgresql://me:secret@db/x'")
    monkeypatch.setenv("MODELYARD_EXECUTOR", "inline")
    found = {one.name: one for one in list_settings(tmp_path)}
    assert list(found) == list(Settings.__struct_fields__)
    assert (found["executor"].value, found["executor"].source) == ("inline", "MODELYARD_EXECUTOR")
    assert (found["workers"].value, found["workers"].source) == ("0", "modelyard.toml")
    assert (found["identity"].value, found["identity"].source) == (None, "default")
    assert found["catalog"].value == "postgresql://me:…@db/x"
    assert all(one.description for one in found.values())


def test_a_setting_of_a_few_words_names_them_where_it_says_another(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text("log_level = 'loud'")
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path)
    assert caught.value.remedy == "Write debug, info, warning or error."


def test_the_environment_lock_says_what_the_metadata_of_each_distribution_says() -> None:
    lock = environment_lock()
    said: dict[str, str] = {}
    for distribution in metadata.distributions():
        said.setdefault(f"pip:{re.sub('[-_.]+', '-', distribution.metadata['Name']).lower()}", distribution.version)
    assert {name: version for name, version in lock.items() if name.startswith("pip:")} == said
    assert lock["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_first_distribution_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, version in (("near", "2.0"), ("far", "1.0")):
        (tmp_path / place / f"Some_thing-{version}.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "near"), str(tmp_path / "far"), str(tmp_path / "missing")])
    assert environment_lock().items() >= {"pip:some-thing": "2.0"}.items()
