"""The three best levels of SGX's FTSE China A50 future as text blocks.

After a header, each block is ``TimeStamp,<date>D<time>`` and three rows ``bid, bid quantity, ask, ask quantity``, best
first, prices times 100 as doubles. A frame is a block's four lines as they stood. The symbol is nowhere in the file: it
is the only product in this form. One clock, taken for UTC: receive and exchange time are equal.

Reasons: ``not_text``, ``wrong_columns``, ``bad_time``, ``bad_levels``, ``bad_number``, ``zero_size``, ``negative``,
``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from market.errors import FrameError
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.depth_rows import Levels, View
from market.venues.formats.json_frames import ns_of_ms
from market.venues.formats.text_rows import decimal_float, fields_of, integer, numbered, positive, priced, units
from market.venues.protocol import Parsed, Venue, always, listed

KEY: Final = "sgx.CN"
LEVELS: Final = 3

_HEADER: Final = b"Bid,Bid_Quantity,Ask,Ask_Quantity"
_STAMP: Final = b"TimeStamp,"
_SCALE: Final = 100
_FIELDS: Final = 4
_SECONDS, _NS_DIGITS = len("2014-01-09D04:21:26"), 9


def recognise(path: Path) -> str | None:
    """The key where header and first stamp are of this form, else None."""
    first = [line for _, line in islice(lines(path), 2)]
    return KEY if len(first) == 2 and first[0] == _HEADER and first[1].startswith(_STAMP) else None


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, block."""
    return numbered(_blocks(path), received)


def _blocks(path: Path) -> Iterator[bytes]:
    block: list[bytes] = []
    for _, line in islice(lines(path), 1, None):
        if line.startswith(_STAMP) and block:
            yield b"\n".join(block)
            block = []
        block.append(line)
    if block:
        yield b"\n".join(block)


def received(block: bytes) -> int:
    """The time of a block in ns.

    Raises:
        FrameError: ``bad_time``.
    """
    text = block.partition(b"\n")[0].removeprefix(_STAMP).decode("ascii", "replace")
    whole, part = text[:_SECONDS], text[_SECONDS:]
    try:
        seconds = int(datetime.strptime(whole, "%Y-%m-%dD%H:%M:%S").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise FrameError("bad_time", f"expected TimeStamp,<date>D<time>; saw {block[:60]!r}") from None
    if part[:1] != "." or len(part) != _NS_DIGITS + 1:
        raise FrameError("bad_time", f"expected nanoseconds, saw {text!r}")
    return ns_of_ms(seconds * 1000) + integer(part[1:], "a part of a second")


class Parser:
    """Reads the blocks of one recording; remembers the one before."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._view = View()

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one block.

        Raises:
            FrameError: see the module.
        """
        stamp, *rows = payload.split(b"\n")
        received(stamp)
        if len(rows) != LEVELS:
            raise FrameError("bad_levels", f"expected {LEVELS} levels after the time, saw {len(rows)}")
        bids: Levels = {}
        asks: Levels = {}
        for row in rows:
            bid, bid_size, ask, ask_size = fields_of(row, _FIELDS)
            bids[self._price(bid)] = self._size(bid_size)
            asks[self._price(ask)] = self._size(ask_size)
        head = (recv_ns, recv_ns, frame, frame)
        return Parsed("diff", self._view.changes(head, 0, bids, asks), exch_ns=recv_ns)

    def _price(self, text: str) -> int:
        return priced(self._tick.of_float(decimal_float(text, "a price") / _SCALE))

    def _size(self, text: str) -> int:
        return positive(self._lot.of_float(decimal_float(text, "a quantity")))


VENUE: Final = Venue(
    name="sgx",
    parser=Parser,
    reasons=listed(
        "bad_levels bad_number bad_time negative not_text off_lot off_tick out_of_range wrong_columns zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
)
