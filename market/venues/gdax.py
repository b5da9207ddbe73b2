"""Coinbase's (then GDAX's) level2 channel of 2018 as CSV: a snapshot of the whole book, then one changed level a row.

``snapshot_bids.csv`` and ``snapshot_asks.csv`` are ``side,price,size``; ``l2update*.csv`` are ``side,price,size,time``
with the size that is there now. The snapshot's rows are one frame, with the time of the first update; every update is a
frame.

* One clock, the exchange's, in ms: receive and exchange time are equal.
* Sizes are doubles as a program wrote them. The symbol is nowhere in the files: all of this form are of BTC-USD.
* There are no numbers: nobody can tell from the rows whether one is missing.

Reasons: ``not_text``, ``wrong_columns``, ``bad_side``, ``bad_time``, ``bad_number``, ``zero_size``, ``negative``,
``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from market.events import ASK, BID, CLEAR, DEPTH, F_LAST, F_NO_EXCH_TIME, F_SNAPSHOT
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.json_frames import ns_of_iso, side_of
from market.venues.formats.text_rows import (
    Words,
    decimal_float,
    events_of,
    fields_of,
    numbered,
    positive,
    priced,
    units,
    words,
)
from market.venues.protocol import Frame, Parsed, Venue, always, listed

KEY: Final = "coinbase.BTC-USD"

_UPDATE: Final = b"side,price,size,time"
_REST: Final = b"side,price,size"
_SIDES: Final = {"buy": BID, "sell": ASK}


def recognise(path: Path) -> str | None:
    """The key where the first line is the header of updates, else None.

    Of an archive None: its files belong together by their names.
    """
    return KEY if any((name, line) == (path.name, _UPDATE) for name, line in islice(lines(path), 1)) else None


def parts(path: Path) -> tuple[Path, ...]:
    """The first file of updates has all others of its folder, and the snapshot; any other is alone."""
    updates = sorted(path.parent.glob("l2update*.csv"))
    if not updates or updates[0].name != path.name:
        return (path,)
    return (path, *sorted(path.parent.glob("snapshot_*.csv")), *updates[1:])


def frames(path: Path) -> Iterator[Frame]:
    """Frame number, receive ns, rows."""
    return numbered(_payloads(path), received)


def _payloads(path: Path) -> Iterator[bytes]:
    files = parts(path)
    updates = _rows([each for each in files if each.name.startswith("l2update") or each == path])
    first = next(updates, None)
    rests = list(_rows([each for each in files if each.name.startswith("snapshot_")]))
    if rests and first is not None:
        yield b"\n".join([first.rpartition(b",")[2], *rests])
    if first is not None:
        yield first
    yield from updates


def _rows(files: list[Path]) -> Iterator[bytes]:
    for file in files:
        for _, line in lines(file):
            if line not in (_UPDATE, _REST):
                yield line


def rows(payload: bytes) -> int:
    """How many rows of the files a frame is."""
    return payload.count(b"\n") or 1


def received(payload: bytes) -> int:
    """The time of an update, or that of a snapshot's first line, in ns.

    Raises:
        FrameError: ``bad_time``.
    """
    return ns_of_iso(payload.partition(b"\n")[0].rpartition(b",")[2].decode("ascii", "replace"))


class Parser:
    """Reads the rows of one recording."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one frame.

        Raises:
            FrameError: see the module.
        """
        stamp, *resting = payload.split(b"\n")
        if resting:
            return self._snapshot(resting, recv_ns, frame)
        side, price, size, time = fields_of(stamp, 4)
        exch_ns = ns_of_iso(time)
        event = self._level((exch_ns, recv_ns, frame, frame), (side, price, size), F_LAST)
        return Parsed("diff", events_of(event), exch_ns=exch_ns)

    def _snapshot(self, resting: list[bytes], recv_ns: int, frame: int) -> Parsed:
        head, flags = (0, recv_ns, frame, frame), F_SNAPSHOT | F_NO_EXCH_TIME
        levels = []
        for row in resting:
            side, price, size = fields_of(row, 3)
            levels.append(self._level(head, (side, price, size), flags))
            positive(levels[-1][6])
        events = events_of(words(head, 0, (0, 0, 0), (CLEAR, flags)), *levels)
        events["flags"][-1] |= F_LAST
        return Parsed("snapshot", events)

    def _level(self, head: tuple[int, int, int, int], row: tuple[str, str, str], flags: int) -> Words:
        side, price, size = row
        ticks = priced(self._tick.of_float(decimal_float(price, "a price")))
        lots = self._lot.of_float(decimal_float(size, "a size"))
        return words(head, 0, (side_of(side, _SIDES), ticks, lots), (DEPTH, flags))


VENUE: Final = Venue(
    name="gdax",
    parser=Parser,
    reasons=listed(
        "not_text wrong_columns bad_side bad_time bad_number zero_size negative off_tick off_lot out_of_range"
    ),
    rule=always("snapshots"),
    frames=frames,
    recognise=recognise,
    parts=parts,
    rows=rows,
)
