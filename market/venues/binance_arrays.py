"""Binance spot frames of an hour kept as JSON arrays: a snapshot, its diffs, and aggregated trades, a file each.

``<time>_snapshot.json`` is a REST snapshot; ``<time>_update.json`` and ``<time>_trades.json`` are arrays of frames. The
folder is named after the symbol. A frame is an element of an array as it stood.

* There is no receive time: it is the frame's own exchange time, that of the snapshot is the first one's of the others.
* The rest is :mod:`market.venues.binance`'s, with its reasons.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from market.clock import NS_PER_MS
from market.errors import CaptureError
from market.venues import binance
from market.venues.formats.archives import members
from market.venues.protocol import NO_STAMP, Frame, Venue

_NAME: Final = re.compile(r"(?P<hour>.+)_(snapshot|trades|update)\.json")
_SYMBOL: Final = re.compile(r"[A-Z0-9]{5,20}")


class _Stamp(msgspec.Struct):
    E: int


_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_stamp = msgspec.json.Decoder(_Stamp).decode


def recognise(path: Path) -> str | None:
    """``binance-spot.SYMBOL`` of a file of this name in a folder named after a symbol, else None."""
    named = _NAME.fullmatch(path.name) and _SYMBOL.fullmatch(path.resolve().parent.name)
    return f"binance-spot.{path.resolve().parent.name}" if named else None


def parts(path: Path) -> tuple[Path, ...]:
    """The first file of an hour has the others; any other is alone."""
    name = _NAME.fullmatch(path.name)
    hour = name["hour"] if name else path.name
    files = sorted(each for each in path.parent.glob("*.json") if _hour(each) == hour)
    return tuple(files) if files and files[0].name == path.name else (path,)


def _hour(path: Path) -> str | None:
    name = _NAME.fullmatch(path.name)
    return name["hour"] if name else None


def frames(path: Path) -> Iterator[Frame]:
    """Frame number, receive ns, frame; by time, the snapshot first.

    Raises:
        CaptureError: a file is no JSON.
    """
    snapshots = [_read(each) for each in parts(path) if each.name.endswith("_snapshot.json")]
    streams = [list(_stamped(each)) for each in parts(path) if not each.name.endswith("_snapshot.json")]
    merged = list(heapq.merge(*streams, key=lambda each: each[0]))
    first_ns = next((recv_ns for _, recv_ns, _ in merged if recv_ns != NO_STAMP), 0)
    payloads = [(first_ns, payload) for payload in snapshots] + [(recv_ns, payload) for _, recv_ns, payload in merged]
    for number, (recv_ns, payload) in enumerate(payloads, 1):
        yield number, recv_ns, payload


def _stamped(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """``(place in time, receive ns, frame)`` of every element."""
    place = 0
    try:
        elements = _elements(_read(path))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CaptureError(f"{path.name}: expected a JSON array of frames: {error}") from None
    for element in elements:
        payload = bytes(element)
        try:
            recv_ns = _stamp(payload).E * NS_PER_MS
        except (msgspec.DecodeError, UnicodeDecodeError):
            recv_ns = NO_STAMP
        place = max(place, recv_ns)
        yield place, recv_ns, payload


def _read(path: Path) -> bytes:
    return b"".join(file.read() for _, file in members(path))


VENUE: Final = Venue(
    name="binance-arrays",
    parser=binance.Parser,
    reasons=binance.VENUE.reasons,
    rule=binance.market_of,
    frames=frames,
    recognise=recognise,
    parts=parts,
)
