from __future__ import annotations

import os
import subprocess
import sys

import pytest

from modelyard.errors import RefusedError
from modelyard.serving.logs import Log
from modelyard.serving.memory import FACTOR, FLOOR, RESERVE, Memory, available, private_bytes
from modelyard.serving.state import GenerationRecord

MIB = 1024 * 1024


def package(tmp_path, name: str, megabytes: int, suffix: str = ".onnx") -> GenerationRecord:
    folder = tmp_path / name
    folder.mkdir()
    with (folder / f"model{suffix}").open("wb") as file:
        file.truncate(megabytes * MIB)
    return GenerationRecord(1, "m", "v1", name, str(folder))


def memory(left: int | None = 10**12, limit: int | None = None) -> Memory:
    return Memory(limit, lambda: [os.getpid()], Log("error", os.open(os.devnull, os.O_WRONLY)), lambda: left)


def write(place, **files: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(text)


def test_before_anything_was_measured_a_package_takes_its_size_times_the_factor(tmp_path):
    asked = memory()
    assert asked.estimate(package(tmp_path, "large", 100)) == int(100 * MIB * FACTOR)
    assert asked.estimate(package(tmp_path, "small", 0)) == FLOOR


def test_what_the_first_worker_measured_counts_for_the_package_and_for_others_of_its_kind(tmp_path):
    asked = memory()
    first = package(tmp_path, "first", 100)
    asked.learn(first, 150 * MIB)
    assert asked.estimate(first) == 150 * MIB
    assert asked.estimate(package(tmp_path, "second", 200)) == 300 * MIB
    assert asked.estimate(package(tmp_path, "other", 100, ".npz")) == int(100 * MIB * FACTOR)
    asked.learn(first, 10 * MIB)
    assert asked.estimate(first) == 150 * MIB, "a worker that had memory to reuse does not make a model smaller"


def test_a_package_that_fits_into_what_is_left_for_all_workers_passes_and_one_byte_less_refuses_it(tmp_path):
    one = package(tmp_path, "one", 100)
    needed = 3 * int(100 * MIB * FACTOR)
    memory(needed + RESERVE).check(one, 3)
    with pytest.raises(RefusedError, match="3 x 300 MiB are needed, 900 MiB are left") as refused:
        memory(needed + RESERVE - 1).check(one, 3)
    assert str(tmp_path) not in str(refused.value)


def test_a_limit_of_the_service_counts_what_its_processes_have(tmp_path):
    own = private_bytes(os.getpid())
    assert own > MIB
    left = memory(limit=own + 500 * MIB).left()
    assert 400 * MIB < left < 600 * MIB
    assert memory(limit=1).left() == 0
    memory(0, limit=0).check(package(tmp_path, "huge", 10**6), 8)


def test_a_worker_more_needs_what_those_beside_it_have():
    own = private_bytes(os.getpid())
    assert memory(own * 4 + RESERVE).short([os.getpid()], 2) is None
    needed, left = memory(own // 2 + RESERVE).short([os.getpid()], 3)
    assert needed % 3 == 0
    assert needed > left
    assert memory(limit=0).short([os.getpid()], 1000) is None
    assert memory(None).short([os.getpid()], 1000) is None


def test_where_the_kernel_does_not_say_nothing_is_refused(tmp_path):
    memory(None).check(package(tmp_path, "huge", 10**6), 8)


def test_the_memory_of_a_process_grows_by_what_it_takes_and_that_of_a_dead_one_is_none():
    code = (
        "from modelyard.serving.memory import private_bytes; before = private_bytes(); "
        "block = bytearray(64 * 1024 * 1024); block[::4096] = b'x' * len(block[::4096]); "
        "print(private_bytes() - before)"
    )
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout)
    assert 60 * MIB < grown < 80 * MIB
    assert private_bytes(2**22 + 1) == 0


def test_this_machine_says_what_it_has_left():
    assert available() > MIB


def test_the_least_of_machine_and_control_groups_is_left(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    write(proc, meminfo="MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert available(proc, groups) == 8000 * 1024
    write(proc / "self", cgroup="0::/a/b\n")
    write(groups / "a" / "b", memory__max="max\n", memory__current="5\n", memory__stat="inactive_file 0\n")
    assert available(proc, groups) == 8000 * 1024
    write(
        groups / "a", memory__max="5000000\n", memory__current="4500000\n", memory__stat="anon 1\ninactive_file 300\n"
    )
    assert available(proc, groups) == 500_300
    write(groups, memory__max="100\n", memory__current="200\n")
    assert available(proc, groups) == 0, "a container's own group stands at the root"


def test_control_groups_of_version_one_are_read_too(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    write(proc / "self", cgroup="9:cpu:/x\n4:memory:/box\n")
    write(
        groups / "memory" / "box", memory__limit_in_bytes="1000\n", memory__usage_in_bytes="900\n",
        memory__stat="total_inactive_file 50\n",
    )  # fmt: skip
    assert available(proc, groups) == 150
    assert available(tmp_path / "nothing", groups) is None
