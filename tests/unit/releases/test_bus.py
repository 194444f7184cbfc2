"""The bus in a folder: its files, its repairs, its errors, and how a bus is chosen."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.errors import BusyError, InputError, IntegrityError, SettingsError, StorageError
from modelyard.releases import FileBus, MemoryBus, open_bus
from modelyard.releases import bus as bus_module


@pytest.fixture
def bus(tmp_path: Path) -> FileBus:
    return FileBus(tmp_path / "bus")


def file_of(bus: FileBus, topic: str = "t") -> Path:
    return bus.folder / topic / "messages.jsonl"


def fill(bus: FileBus, count: int) -> None:
    for number in range(count):
        bus.publish("t", {"n": number})


def test_a_topic_is_a_file_with_one_line_of_json_for_each_message(bus: FileBus) -> None:
    fill(bus, 2)
    assert file_of(bus).read_text() == '{"n":0}\n{"n":1}\n'


@given(keep=st.integers(0, 60), torn=st.binary(min_size=1, max_size=70_000).filter(lambda b: b"\n" not in b))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_line_torn_anywhere_is_not_read_and_goes_with_the_next_message(keep: int, torn: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bus = FileBus(Path(folder))
        fill(bus, 5)
        path = file_of(bus)
        whole = path.read_bytes()
        cut = whole[: whole.rfind(b"\n", 0, keep) + 1]
        path.write_bytes(cut + torn)
        kept = [{"n": number} for number in range(cut.count(b"\n"))]
        assert list(bus.history("t")) == kept
        assert list(bus.subscribe("t", "before")) == kept
        bus.publish("t", {"n": "new"})
        assert list(bus.history("t")) == [*kept, {"n": "new"}]
        assert list(bus.subscribe("t", "before")) == [{"n": "new"}]


def test_a_file_that_was_replaced_is_read_from_its_beginning(bus: FileBus) -> None:
    fill(bus, 3)
    assert len(list(bus.subscribe("t", "c"))) == 3
    file_of(bus).unlink()
    bus.publish("t", {"n": "restored"})
    bus.publish("t", {"n": "a much longer message than what the consumer has seen before " * 3})
    assert next(iter(bus.subscribe("t", "c"))) == {"n": "restored"}


def test_a_file_that_lost_its_end_is_read_again_rather_than_too_little(bus: FileBus) -> None:
    fill(bus, 3)
    list(bus.subscribe("t", "c"))
    file_of(bus).write_text('{"n":0}\n')
    bus.publish("t", {"n": "x"})
    assert list(bus.subscribe("t", "c")) == [{"n": 0}, {"n": "x"}]


def test_a_damaged_position_means_that_everything_comes_again(bus: FileBus) -> None:
    fill(bus, 2)
    list(bus.subscribe("t", "c"))
    (bus.folder / "t" / "consumers" / "c.json").write_text("{")
    assert len(list(bus.subscribe("t", "c"))) == 2


def test_a_damaged_message_is_told_with_its_place_and_is_not_passed_over(bus: FileBus) -> None:
    fill(bus, 3)
    path = file_of(bus)
    path.write_bytes(path.read_bytes().replace(b'{"n":1}', b'{"n"#1}'))
    for _ in range(2):
        with pytest.raises(IntegrityError) as caught:
            list(bus.subscribe("t", "c"))
        assert caught.value.where == f"{path}, byte 8"
        assert caught.value.remedy


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_name_that_fits_no_file_is_refused(bus: FileBus, name: str) -> None:
    with pytest.raises(InputError):
        bus.publish(name, {})
    with pytest.raises(InputError):
        list(bus.subscribe("t", name))
    assert not bus.folder.exists()


def test_no_name_leads_out_of_the_folder(bus: FileBus) -> None:
    for name in ("../x", "/etc/x", "..", ".", "a/../../x"):
        bus.publish(name, {})
        list(bus.subscribe(name, name))
    assert [path.name for path in bus.folder.parent.iterdir()] == ["bus"]


def test_a_folder_that_can_not_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        FileBus(tmp_path / "file").publish("t", {})
    assert str(tmp_path / "file") in str(caught.value.where)


def test_a_topic_that_is_held_for_long_is_told(bus: FileBus, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(bus, 1)
    monkeypatch.setattr(bus_module, "_BUSY_SECONDS", 0.1)
    with bus_module._open_locked(file_of(bus), 0, fcntl.LOCK_EX):
        with pytest.raises(BusyError):
            bus.publish("t", {})
        with pytest.raises(BusyError):
            list(bus.history("t"))
    fill(bus, 1)


def test_a_message_goes_into_the_file_that_has_the_name_when_its_turn_comes(
    bus: FileBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bus, 1)
    lock = bus_module._try_lock

    def moved_away_between_opening_and_locking(file: int, how: int) -> bool:
        monkeypatch.setattr(bus_module, "_try_lock", lock)
        file_of(bus).rename(bus.folder / "moved away")
        return lock(file, how)

    monkeypatch.setattr(bus_module, "_try_lock", moved_away_between_opening_and_locking)
    bus.publish("t", {"n": "new file"})
    assert list(bus.history("t")) == [{"n": "new file"}]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_in_any_order_of_publishing_and_reading_nothing_is_lost_or_reordered(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sent, seen = 0, {"a": 0, "b": 0}
        for _ in range(data.draw(st.integers(1, 12))):
            bus = FileBus(Path(folder))
            if data.draw(st.booleans()):
                bus.publish("t", {"n": sent})
                sent += 1
                continue
            consumer = data.draw(st.sampled_from(["a", "b"]))
            most = data.draw(st.integers(1, 4))
            got: list[Any] = []
            for message in bus.subscribe("t", consumer):
                got.append(message["n"])
                if len(got) == most:
                    break
            stopped_early = len(got) == most
            assert got == list(range(seen[consumer], min(sent, seen[consumer] + most)))
            # The message it stopped at was not gone on from.
            seen[consumer] += len(got) - stopped_early


def test_a_bus_is_chosen_by_its_url(tmp_path: Path) -> None:
    opened = open_bus(f"file://{tmp_path}/a%20b")
    assert isinstance(opened, FileBus)
    assert opened.folder == tmp_path / "a b"
    assert isinstance(open_bus("memory://"), MemoryBus)
    assert open_bus("memory://") is not open_bus("memory://")


@pytest.mark.parametrize("url", ["", "kafka://broker", "file://", "nonsense"])
def test_a_url_that_no_bus_opens_is_refused_with_those_that_do(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_bus(url)
    assert "file://" in str(caught.value.remedy)
