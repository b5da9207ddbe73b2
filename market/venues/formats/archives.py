"""Recordings as they are packed: plain, gzip, bzip2, xz, zip and tar, told apart by their first bytes, never by name.

A recording of several files (zip, tar) gives its members in the order of their names.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from market.errors import CaptureError, InputError

_GZIP, _BZIP2, _XZ, _ZIP = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"PK\x03\x04"
_TAR_AT, _TAR = 257, b"ustar"
_PIECE: Final = 1 << 20
_DAMAGE: Final = (
    *(EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile),
    RuntimeError,  # a zip that is encrypted, or of a kind that the library does not read
)


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file as it lies there, packed or not.

    Raises:
        InputError: the file is missing or may not be read.
    """
    with _sentences(path), path.open("rb") as file:
        return file.read(count)


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """``(member, line)`` for every line that is not blank, without its line end; a single file's member is its name.

    Raises:
        InputError: the file is missing or may not be read.
        CaptureError: after the last readable line, where the file is truncated or damaged.
    """
    for name, file in members(path):
        with _sentences(path):
            for line in file:
                stripped = line.rstrip(b"\r\n")
                if stripped:
                    yield name, stripped


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """``(name, file)`` of every member, open until the next one is asked for.

    Raises:
        InputError: the file is missing or may not be read.
        CaptureError: it is damaged.
    """
    with _sentences(path), path.open("rb") as packed:
        if packed.read(4) == _ZIP:
            with zipfile.ZipFile(path) as archive:
                for info in sorted(archive.infolist(), key=lambda each: each.filename):
                    with archive.open(info) as member:
                        yield info.filename, member
            return
        packed.seek(0)
        file = _unpacked(packed)
        head = file.read(_TAR_AT + len(_TAR))
        file.seek(0)
        if head[_TAR_AT:] != _TAR:
            yield path.name, file
            return
        with tarfile.open(fileobj=file) as archive:
            for entry in sorted(archive.getmembers(), key=lambda each: each.name):
                extracted = archive.extractfile(entry)
                if extracted is not None:
                    yield entry.name, extracted


def pieces(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a member of ``path``, a part at a time.

    Raises:
        InputError: they may not be read.
        CaptureError: it is damaged.
    """
    with _sentences(path):
        while piece := file.read(_PIECE):
            yield piece


def _unpacked(packed: IO[bytes]) -> IO[bytes]:
    head = packed.read(len(_XZ))
    packed.seek(0)
    if head.startswith(_GZIP):
        return cast(IO[bytes], gzip.open(packed))
    if head.startswith(_BZIP2):
        return bz2.open(packed)
    return lzma.open(packed) if head == _XZ else packed


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise CaptureError(f"{path.name}: damaged or truncated, it cannot be read further ({error})") from None
    except OSError as error:
        if error.errno is None:  # bzip2 says it so
            raise CaptureError(f"{path.name}: damaged or truncated, it cannot be read further ({error})") from None
        raise InputError(f"cannot read {path}: {error.strerror}; give the path of a recorded capture") from None
