from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.errors import IntegrityError
from modelyard.packages import archive


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", kind) as made:
        for name, content in entries:
            made.writestr(name, content)
    return sink.getvalue()


def unpacked(content: bytes, folder: Path) -> dict[str, bytes]:
    file = folder / "a.zip"
    file.write_bytes(content)
    with archive.open_archive(file) as opened:
        archive.unpack(opened, folder / "out")
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes()
            for path in (folder / "out").rglob("*") if path.is_file()}  # fmt: skip


def test_files_and_folders_come_out_as_they_went_in(tmp_path):
    content = zipped(("a/b/c", b"1" * 5000), ("a/d", b""), ("e/", b""))
    assert unpacked(content, tmp_path) == {"a/b/c": b"1" * 5000, "a/d": b""}
    assert (tmp_path / "out" / "e").is_dir()


def entry(kind: int) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo("link")
    made.external_attr = (kind | 0o777) << 16
    return made


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    with pytest.raises(IntegrityError, match="link or a device"):
        unpacked(zipped((entry(kind), b"/etc/passwd")), tmp_path)


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "./a", "a//b", "C:\\a", "a\\b", "a:b", "x\nz", "a/" * 20])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(IntegrityError):
        unpacked(zipped((name, b"")), tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path):
    """The directory says 10 bytes; the stream has a megabyte."""
    content = bytearray(zipped(("a", b"\1" * 1_000_000)))
    place = content.rfind(b"PK\x01\x02")
    content[place + 24 : place + 28] = (10).to_bytes(4, "little")
    with pytest.raises(IntegrityError, match="'a'"):
        unpacked(bytes(content), tmp_path)


def test_more_than_allowed_is_refused(tmp_path, monkeypatch):
    with pytest.raises(IntegrityError, match="times its size"):
        unpacked(zipped(("zeros", bytes(8 << 20))), tmp_path)
    with pytest.raises(IntegrityError, match="entries"):
        unpacked(zipped(*((f"f{number}", b"") for number in range(2001))), tmp_path)
    monkeypatch.setattr(archive, "MAXIMUM_BYTES", 1000)
    with pytest.raises(IntegrityError, match="1000 bytes"):
        unpacked(zipped(("a", b"\1" * 600), ("b", b"\1" * 600)), tmp_path)


def test_unusual_packing_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="unusual"):
        unpacked(zipped(("a", b"x"), kind=zipfile.ZIP_LZMA), tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.integers(0, 400))
def test_a_damaged_archive_is_refused_by_our_own_error_or_read(tmp_path_factory, place, noise, cut):
    folder = tmp_path_factory.mktemp("a")
    content = bytearray(zipped(("manifest.json", b"{}" * 40), ("model/model.onnx", bytes(range(200)))))
    content[place : place + len(noise)] = noise
    try:
        files = unpacked(bytes(content[: len(content) - cut if place % 3 == 0 else None]), folder)
    except IntegrityError:
        return
    assert all(".." not in name for name in files)
