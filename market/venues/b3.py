"""B3's (Sao Paulo) best prices and trades in CSV, of several stocks and days, one a packed file.

Columns are named by the header. A ``book`` row has the best ask and bid price, without sizes: its levels carry
:data:`~market.events.F_NO_SIZE`. A ``trade`` row has both as well, as they were before the trade and often older than
that; only its trade is read. Prices went through doubles.

* ``aggressor`` is 3 for a seller and 4 for a buyer (so they stand to bid and ask), 2 for none: an auction.
* ``rpt_seq`` counts within a day. A new day begins with a snapshot; before the open the prices may be crossed.
* One clock, the receiver's: there is no exchange time.

Reasons: ``not_text``, ``wrong_columns``, ``wrong_symbol``, ``unknown_frame``, ``bad_side``, ``bad_time``,
``bad_number``, ``zero_size``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Final

from market.clock import NS_PER_S
from market.errors import FrameError
from market.events import ASK, BID, F_LAST, F_NO_EXCH_TIME, F_NO_SIZE, NO_SIDE, TRADE
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.depth_rows import View
from market.venues.formats.json_frames import ns_of_ms
from market.venues.formats.text_rows import (
    decimal_float,
    events_of,
    fields_of,
    integer,
    numbered,
    positive,
    priced,
    units,
    words,
)
from market.venues.protocol import SEVERAL, Parsed, Route, Venue, always, listed

EXCHANGE: Final = "b3"

_HEADER: Final = (
    b"symbol,rpt_seq,network_received_time,event_type,md_entry_px,md_entry_size,aggressor,en_s_px_1,en_b_px_1"
)
_FIELDS: Final = _HEADER.count(b",") + 1
_SIDES: Final = {"2.0": NO_SIDE, "3.0": ASK, "4.0": BID}
_SECONDS, _NS_DIGITS = len("2025-03-05 15:30:00"), 9
_ZONE: Final = "+00:00"
_DAY_NS: Final = 86_400 * NS_PER_S


def recognise(path: Path) -> str | None:
    """``b3.SYMBOL`` of a recording under this header, ``b3.*`` of one with several symbols, else None."""
    first = next(lines(path), None)
    if first is None or first[1] != _HEADER:
        return None
    found = symbols(path)
    return f"{EXCHANGE}.{found[0] if len(found) == 1 else SEVERAL}" if found else None


def route() -> Route:
    """What tells the symbol of a row."""
    return _symbol


def symbols(path: Path) -> list[str]:
    """The symbols that a recording has, sorted."""
    return sorted({_symbol(line) for _, line in lines(path) if line != _HEADER})


def frames(path: Path, symbol: str = "") -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, row of one symbol, or of all in turn; days in their order, headers are no rows."""
    days = [list(group) for _, group in groupby(lines(path), key=lambda each: each[0])]
    parts = [[line for _, line in day if line != _HEADER and symbol in ("", _symbol(line))] for day in days]
    ordered = sorted((part for part in parts if part), key=lambda part: (_symbol(part[0]), part[0].split(b",")[2:3]))
    return numbered((line for part in ordered for line in part), received)


def received(row: bytes) -> int:
    """Receive ns of a row.

    Raises:
        FrameError: it has no readable time.
    """
    return _time(fields_of(row, _FIELDS)[2])


def _symbol(row: bytes) -> str:
    return row.partition(b",")[0].decode("ascii", "replace")


def _time(text: str) -> int:
    """ns of ``YYYY-MM-DD HH:MM:SS[.fraction]+00:00``."""
    part = text[_SECONDS : -len(_ZONE)]
    try:
        seconds = int(datetime.fromisoformat(text[:_SECONDS] + _ZONE).timestamp())
    except ValueError:
        raise FrameError("bad_time", f"expected a time in UTC, saw {text[:80]!r}") from None
    if not text.endswith(_ZONE) or (part and (part[0] != "." or len(part) > _NS_DIGITS + 1)):
        raise FrameError("bad_time", f"expected a time in UTC, saw {text[:80]!r}")
    return ns_of_ms(seconds * 1000) + (integer(part[1:].ljust(_NS_DIGITS, "0"), "a part of a second") if part else 0)


class Parser:
    """Reads the rows of one stock; remembers its prices and the day."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._name = instrument.symbol
        self._view = View()
        self._day = -1

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        symbol, seq, _, form, price, size, aggressor, ask, bid = fields_of(payload, _FIELDS)
        if symbol != self._name:
            raise FrameError("wrong_symbol", f"expected {self._name}, saw {symbol[:80]!r}")
        head = (0, recv_ns, integer(seq, "a sequence number"), frame)
        if form == "trade":
            if aggressor not in _SIDES:
                raise FrameError("bad_side", f"expected an aggressor of 2, 3 or 4, saw {aggressor[:80]!r}")
            lots = positive(self._lot.of_float(decimal_float(size, "a size")))
            event = words(head, 0, (_SIDES[aggressor], self._price(price), lots), (TRADE, F_LAST | F_NO_EXCH_TIME))
            return Parsed("trade", events_of(event))
        if form != "book":
            raise FrameError("unknown_frame", f"expected book or trade, saw {form[:80]!r}")
        bids, asks = {self._price(bid): 1}, {self._price(ask): 1}
        if recv_ns // _DAY_NS != self._day:
            self._view, self._day = View(), recv_ns // _DAY_NS
        return Parsed("diff", self._view.changes(head, F_NO_EXCH_TIME | F_NO_SIZE, bids, asks))

    def _price(self, text: str) -> int:
        return priced(self._tick.of_float(decimal_float(text, "a price")))


VENUE: Final = Venue(
    name="b3",
    parser=Parser,
    reasons=listed(
        "bad_number bad_side bad_time negative not_text off_lot off_tick out_of_range unknown_frame "
        "wrong_columns wrong_symbol zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
    route=route,
)
