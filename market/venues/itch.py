"""NASDAQ TotalView-ITCH order messages in CSV, each with the ten best levels of the book just after it.

The columns are named by the header: message type, order id, size, price in dollars, direction (1 buy, -1 sell) and,
where the type has them, the replaced order's id and the price of an execution; then ask and bid price and size a level.

* Types as in NASDAQ's specification: A and F add (F with a market participant's name), E and C execute (C at a price of
  its own), X cancels a part, D deletes, U replaces: the old order is gone and a new one stands at the end of its queue.
* A sample begins in the middle of a day: its first book gives the lots of orders that were never seen as added. Orders
  resting deeper than its ten levels stay unknown.
* One clock, nanoseconds after midnight in New York: receive and exchange time are equal. The day is in the file's name
  or nowhere; then the day is the epoch's.

Reasons: ``not_text``, ``wrong_columns``, ``wrong_symbol``, ``unknown_frame``, ``bad_side``, ``bad_time``,
``bad_number``, ``zero_size``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from market.books.order_book import OrderBook
from market.decimals import Unit
from market.errors import FrameError
from market.events import ADD, ASK, BID, EXECUTE, F_LAST, REDUCE, REMOVE
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.depth_rows import Levels, View
from market.venues.formats.text_rows import (
    Words,
    day_in,
    decimal_float,
    events_of,
    fields_of,
    integer,
    midnight_ns,
    numbered,
    positive,
    priced,
    units,
    within_a_day,
    words,
)
from market.venues.protocol import Parsed, Venue, always, listed

EXCHANGE: Final = "nasdaq"
ZONE: Final = ZoneInfo("America/New_York")
LEVELS: Final = 10

_SHOWN_BOOK: Final = [
    f"{side}_{what}_{level}" for level in range(1, LEVELS + 1) for side in ("ask", "bid") for what in ("price", "size")
]
COLUMNS: Final = [
    "event_index", "source_message_sequence", "source_file_offset", "timestamp_ns", "time_seconds", "message_type",
    "event_type", "order_id", "old_order_id", "size", "old_size", "price", "old_price", "execution_price", "direction",
    "stock_locate", "stock", *_SHOWN_BOOK,
]  # fmt: skip
_AT: Final = {name: i for i, name in enumerate(COLUMNS)}
_KINDS: Final = {"A": ADD, "F": ADD, "E": EXECUTE, "C": EXECUTE, "X": REDUCE, "D": REMOVE, "U": ADD}
_SIDES: Final = {"1": BID, "-1": ASK}
_ID: Final = Unit(Decimal(1), limit=2**53, off_step="bad_number")


def recognise(path: Path) -> str | None:
    """``nasdaq.SYMBOL`` where the header is this one and a row follows; None elsewhere."""
    first = [line for _, line in islice(lines(path), 2)]
    if len(first) < 2 or first[0] != ",".join(COLUMNS).encode():
        return None
    return f"{EXCHANGE}.{fields_of(first[1], len(COLUMNS))[_AT['stock']]}"


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, row; the header is no row."""
    rows = (line for _, line in islice(lines(path), 1, None))
    return numbered(rows, partial(_received, midnight_ns(day_in(path.name), ZONE)))


def _received(midnight: int, row: bytes) -> int:
    stamp = fields_of(row, len(COLUMNS))[_AT["timestamp_ns"]]
    return midnight + within_a_day(integer(stamp, "ns after midnight"))


class Parser:
    """Reads the rows of one recording; remembers whether it has told the first book."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._symbol = instrument.symbol
        self._based = False

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        row = fields_of(payload, len(COLUMNS))
        stock, form, direction = row[_AT["stock"]], row[_AT["message_type"]], row[_AT["direction"]]
        if stock != self._symbol:
            raise FrameError("wrong_symbol", f"expected {self._symbol}, saw {stock!r}")
        if form not in _KINDS:
            raise FrameError("unknown_frame", f"expected a message type of {', '.join(_KINDS)}; saw {form!r}")
        if direction not in _SIDES:
            raise FrameError("bad_side", f"expected a direction of 1 or -1, saw {direction!r}")
        head = (recv_ns, recv_ns, integer(row[_AT["source_message_sequence"]], "a message number"), frame)
        order = self._order(row, form, _SIDES[direction], head)
        bids, asks = self._side(row, "bid"), self._side(row, "ask")
        if self._based:
            return Parsed("diff", events_of(*order), exch_ns=recv_ns)
        self._based = True
        return Parsed("snapshot", View().changes(head, 0, bids, asks), exch_ns=recv_ns)

    def _order(self, row: list[str], form: str, side: int, head: tuple[int, int, int, int]) -> list[Words]:
        order_id = integer(row[_AT["order_id"]], "an order id")
        price = row[_AT["execution_price"]] if form == "C" else row[_AT["price"]]
        place = (side, priced(self._tick.of(price)), positive(self._lot.of(row[_AT["size"]])))
        event = words(head, order_id, place, (_KINDS[form], F_LAST))
        if form != "U":
            return [event]
        old_id = _ID.of_float(
            decimal_float(row[_AT["old_order_id"]], "the replaced order's id")
        )  # a double in the file
        old = (side, self._tick.of(row[_AT["old_price"]]), self._lot.of(row[_AT["old_size"]]))
        return [words(head, old_id, old, (REMOVE, 0)), event]

    def _side(self, row: list[str], side: str) -> Levels:
        levels = {}
        for level in range(1, LEVELS + 1):
            price, size = row[_AT[f"{side}_price_{level}"]], row[_AT[f"{side}_size_{level}"]]
            if price or size:
                levels[priced(self._tick.of(price))] = positive(self._lot.of(size))
        return levels


VENUE: Final = Venue(
    name="itch",
    parser=Parser,
    reasons=listed(
        "bad_number bad_side bad_time negative not_text off_lot off_tick out_of_range unknown_frame "
        "wrong_columns wrong_symbol zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
    book=OrderBook,
)
