"""Recorded captures, plain or gzip, as numbered frames; and whose capture it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
from isal import isal_zlib

from market.errors import CaptureError, EmptyDataError, FrameError, InputError
from market.instruments import Instrument, find
from market.venues.formats.lines import MAX_LINE, read_line

NO_STAMP: Final = -1  # receive time of a line that carries none: its payload is then the whole line

_CHUNK: Final = 1 << 13  # small: what was decompressed together with a damaged byte is lost
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's name for "expect a gzip header"
_LOOKED_AT: Final = 2_000  # frames read to recognise an instrument


def frames(path: Path, *, growing: bool = False) -> Iterator[tuple[int, int, bytes]]:
    """``(frame number from 1, receive ns or NO_STAMP, payload)`` of every line that is not blank.

    Of a file that is ``growing`` a last line without its end, and compressed data that end too early, are what has not
    been written yet: neither is a frame or an error.

    Raises:
        InputError: the file is missing or may not be read.
        CaptureError: after the last readable frame, where the file is truncated or damaged; or it has no lines at all.
    """
    number = 0
    try:
        for line in _lines(path, growing):
            if not line.strip():
                continue
            number += 1
            try:
                recv_ns, payload = read_line(line)
            except FrameError:
                recv_ns, payload = NO_STAMP, line
            yield number, recv_ns, payload
    except CaptureError as error:
        raise CaptureError(f"{path.name}: {error}; {number} frames before that could be read") from None
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; give the path of a recorded capture"
        ) from None


def recognise(path: Path) -> Instrument:
    """The instrument of a Binance capture, from the form of its first frames.

    Raises:
        InputError: not readable, or an instrument whose steps are not known.
        CaptureError: the lines are not Binance frames.
        EmptyDataError: the file has no lines.
    """
    return find(recognise_key(path))


def recognise_key(path: Path) -> str:
    """As :func:`recognise`, but only the key ``venue.SYMBOL``, known or not.

    COIN-M frames carry the pair (``ps``), USD-M diffs the previous update id (``pu``), spot frames neither.
    """
    key = recognised_key(path)
    if key is not None:
        return key
    raise CaptureError(
        f"{path.name} is not a recording of Binance frames: none of its first lines says what it is about. "
        "Expected lines `<receive time> <json>`; say which instrument it is if you know"
    )


def recognised_key(path: Path) -> str | None:
    """As :func:`recognise_key`, None where the lines are not Binance frames.

    Raises:
        InputError: not readable.
        CaptureError: damaged before any line says what it is about.
        EmptyDataError: the file has no lines.
    """
    seen = 0
    for number, _, payload in islice(frames(path), _LOOKED_AT):
        seen = number
        key = _key(payload)
        if key is not None:
            return key
    if seen == 0:
        raise EmptyDataError(f"{path.name} holds no frames; give a recording that is not empty")
    return None


def _lines(path: Path, growing: bool) -> Iterator[bytes]:
    rest = b""
    for chunk in _chunks(path, growing):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
        if len(rest) > MAX_LINE:
            raise CaptureError("not a recording: no line end in 64 MiB")
    if rest and not growing:
        yield rest


def _chunks(path: Path, growing: bool) -> Iterator[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        pieces = iter(lambda: file.read(_CHUNK), b"")
        yield from _unzipped(pieces, growing) if zipped else pieces


def _unzipped(pieces: Iterator[bytes], growing: bool) -> Iterator[bytes]:
    """Decompressed pieces of all gzip members. What a damaged member still gives comes before the error."""
    member: Any = None
    try:
        for piece in pieces:
            data = piece
            while data:
                if member is None:
                    data = data.lstrip(b"\0")  # gzip allows zero padding after a member
                    if not data:
                        break
                    member = isal_zlib.decompressobj(_GZIP_WINDOW)
                yield member.decompress(data)
                data = member.unused_data
                member = None if member.eof else member
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub says that the class is an instance
        raise CaptureError(f"damaged, its compressed data cannot be read further ({error})") from None
    if member is not None and not growing:
        raise CaptureError("truncated, the compressed data ends too early")


def _key(payload: bytes) -> str | None:
    """Instrument key that a frame speaks for, or None where it could be of several venues."""
    try:
        outer = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    data = outer.get("data", outer) if isinstance(outer, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("s"), str):
        return None
    kind, symbol = data.get("e"), data["s"]
    if "ps" in data or "_" in symbol:
        return f"binance-coinm.{symbol}"
    if "pu" in data or "X" in data or kind in ("bookTicker", "markPriceUpdate"):
        return f"binance-usdm.{symbol}"
    if (kind == "depthUpdate" and "T" not in data) or (kind is None and "B" in data) or "M" in data:
        return f"binance-spot.{symbol}"
    return None
