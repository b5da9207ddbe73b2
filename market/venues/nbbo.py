"""US national best bid and offer as tick files: one side a row, and trades in a file of their own; no header.

Quotes are ``ms after midnight in New York, bid price, bid size, ask price, ask size, exchange, condition, suspicious``,
prices in 1e-4 dollars, the side that did not change all zeros: it is carried forward. Trades are ``ms, price, size,
exchange, conditions, suspicious``, without an aggressor. Day and symbol are in the name of the packed file alone.

* Each row ends a batch: between the two rows of one move the market may be locked or crossed, before and after the
  session as within it. More than half of the rows repeat their millisecond.
* A row that its vendor marked is refused: ``suspicious``.
* One clock: receive and exchange time are equal.

Reasons: ``not_text``, ``wrong_columns``, ``both_sides``, ``suspicious``, ``bad_time``, ``bad_number``, ``zero_size``,
``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from market.clock import NS_PER_MS
from market.errors import FrameError
from market.events import F_LAST, NO_SIDE, TRADE
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.depth_rows import Levels, View
from market.venues.formats.text_rows import (
    day_in,
    events_of,
    fields_of,
    integer,
    midnight_ns,
    numbered,
    positive,
    priced,
    steps_of_scaled,
    units,
    within_a_day,
    words,
)
from market.venues.protocol import Parsed, Venue, always, listed

EXCHANGE: Final = "us-nbbo"
ZONE: Final = ZoneInfo("America/New_York")
DECIMALS: Final = 4

_QUOTE, _TRADE = 8, 6  # fields
_LINE: Final = re.compile(rb"\d{1,8},\d+,\d+(,\d+,\d+)?,[A-Z],[0-9A-F]*,[01]")
_NAME: Final = re.compile(r"\d{8}_([a-z.]+)_(Quote|Trade)_Tick", re.IGNORECASE)


def recognise(path: Path) -> str | None:
    """``us-nbbo.SYMBOL`` where the first row is of either form and the packed file's name gives the symbol, or None."""
    for name, line in islice(lines(path), 1):
        symbol = _NAME.search(name)
        if symbol and _LINE.fullmatch(line):
            return f"{EXCHANGE}.{symbol[1].upper()}"
    return None


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, row."""
    first = next(lines(path), None)
    midnight = midnight_ns(day_in(first[0]), ZONE) if first else 0
    return numbered((line for _, line in lines(path)), partial(_received, midnight))


def _received(midnight: int, row: bytes) -> int:
    text = row.partition(b",")[0].decode("ascii", "replace")
    return midnight + within_a_day(integer(text, "ms after midnight") * NS_PER_MS)


class Parser:
    """Reads the rows of one day; remembers both sides."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._view = View()
        self._bid: Levels = {}
        self._ask: Levels = {}

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        fields = fields_of(payload, _TRADE if payload.count(b",") == _TRADE - 1 else _QUOTE)
        if fields[-1] != "0":
            raise FrameError("suspicious", f"its vendor marked the row as suspicious: {payload[:80]!r}")
        head = (recv_ns, recv_ns, frame, frame)
        if len(fields) == _TRADE:
            place = (NO_SIDE, priced(self._price(fields[1])), positive(self._lot.of(fields[2])))
            return Parsed("trade", events_of(words(head, 0, place, (TRADE, F_LAST))), exch_ns=recv_ns)
        bid, ask = self._level(fields[1], fields[2]), self._level(fields[3], fields[4])
        if (bid and ask) or not (bid or ask):
            raise FrameError("both_sides", f"expected one side, the other all zeros; saw {payload[:80]!r}")
        self._bid, self._ask = bid or self._bid, ask or self._ask
        return Parsed("diff", self._view.changes(head, 0, self._bid, self._ask), exch_ns=recv_ns)

    def _level(self, price: str, size: str) -> Levels:
        ticks = self._price(price)
        return {ticks: positive(self._lot.of(size))} if ticks else {}

    def _price(self, text: str) -> int:
        return steps_of_scaled(self._tick, text, DECIMALS)


VENUE: Final = Venue(
    name="nbbo",
    parser=Parser,
    reasons=listed(
        "bad_number bad_time both_sides negative not_text off_lot off_tick out_of_range suspicious "
        "wrong_columns zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
)
