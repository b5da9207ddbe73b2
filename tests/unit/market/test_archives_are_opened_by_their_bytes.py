"""Every compression gives the same lines, whatever the file is called; damage is reported after the readable part."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest

from market.errors import CaptureError, InputError
from market.venues.formats.archives import lines, members

TEXT = b"first\r\n\nsecond\nthird"
LINES = [b"first", b"second", b"third"]


def tar(*files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(*files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["plain", "gzip", "bz2", "lzma"]
)
def test_a_packed_file_gives_its_lines(tmp_path, pack):
    path = tmp_path / "recording"
    path.write_bytes(pack(TEXT))
    assert list(lines(path)) == [("recording", line) for line in LINES]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "lzma"])
def test_members_of_a_tar_come_in_the_order_of_their_names(tmp_path, pack):
    path = tmp_path / "recording"
    path.write_bytes(pack(tar(("b", b"2\n"), ("a", TEXT))))
    assert list(lines(path)) == [("a", line) for line in LINES] + [("b", b"2")]


def test_members_of_a_zip_come_in_the_order_of_their_names(tmp_path):
    path = tmp_path / "recording"
    path.write_bytes(zipped(("b", b"2\n"), ("a", TEXT)))
    assert [name for name, _ in members(path)] == ["a", "b"]
    assert list(lines(path)) == [("a", line) for line in LINES] + [("b", b"2")]


def test_an_empty_file_has_no_lines(tmp_path):
    path = tmp_path / "recording"
    path.write_bytes(b"")
    assert list(lines(path)) == []


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bz2", "lzma"])
def test_a_truncated_file_gives_what_it_has_and_then_an_error(tmp_path, pack):
    path = tmp_path / "recording"
    data = pack(b"".join(os.urandom(40).hex().encode() + b"\n" for _ in range(20_000)))
    path.write_bytes(data[: len(data) * 2 // 3])
    seen: list[tuple[str, bytes]] = []
    with pytest.raises(CaptureError, match="recording: damaged or truncated"):
        seen.extend(lines(path))
    assert len(seen) > 4_000


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(30), b"\x1f\x8b" + bytes(30), b"BZh9" + bytes(30)])
def test_what_only_begins_like_an_archive_is_damaged(tmp_path, data):
    path = tmp_path / "recording"
    path.write_bytes(data)
    with pytest.raises(CaptureError, match="damaged"):
        list(lines(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nowhere.*No such file"):
        list(lines(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="directory"):
        list(lines(tmp_path))
