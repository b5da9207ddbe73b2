"""LOBSTER's reconstruction of NASDAQ's book (lobsterdata.com): a file of messages and, beside it, one of the levels.

A message is ``seconds after midnight in New York, type, order id, size, price * 10000, direction``; the line of the
same number in the other file is the book just after it: ``ask price, ask size, bid price, bid size`` per level. A frame
is both lines as they stood, with a line feed between, or the message alone where there is no book file.

* Types: 1 new order, 2 part of it cancelled, 3 deleted, 4 a resting order executed, 5 a hidden one executed, 6 a cross
  (an auction's trade), 7 a halt. The direction is the resting order's; hidden orders may trade between ticks.
* With ten levels or more the messages are told as orders. The recording begins in the middle of a day: the first book
  gives the lots of orders that were never seen as added. Orders that come into sight from beyond the last level are
  missing, so trust the best few levels.
* With fewer levels the messages only speak of what is in sight: the book's lines are told as changes of its levels.
* One clock, the exchange's: receive and exchange time are equal. Digits beyond the nanosecond are a double's, and cut.
  The day is only in the name of the file.

Reasons: ``not_text``, ``wrong_columns``, ``unknown_frame``, ``bad_side``, ``bad_time``, ``bad_number``, ``bad_levels``,
``zero_size``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from market.books.order_book import OrderBook
from market.clock import NS_PER_S
from market.errors import CaptureError, FrameError
from market.events import ADD, ASK, BID, EXECUTE, F_LAST, REDUCE, REMOVE, TRADE
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.depth_rows import Levels, View
from market.venues.formats.text_rows import (
    Words,
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

EXCHANGE: Final = "nasdaq"
ZONE: Final = ZoneInfo("America/New_York")
DECIMALS: Final = 4  # of prices in the feed

_LINE: Final = re.compile(rb"\d+(\.\d+)?,[1-7],\d+,\d+,-?\d+,-?1")
_SYMBOL: Final = re.compile(r"([A-Z][A-Z.]*)_")
_MESSAGES, _BOOK = "_message_", "_orderbook_"  # in the names of the two files
_FIELDS, _LEVEL_FIELDS = 6, 4
_DEEP: Final = 10
_NEW, _CANCEL, _DELETE, _EXECUTION, _HIDDEN, _CROSS, _HALT = "1234567"
_KINDS: Final = {_NEW: ADD, _CANCEL: REDUCE, _DELETE: REMOVE, _EXECUTION: EXECUTE, _HIDDEN: TRADE, _CROSS: TRADE}
_SIDES: Final = {"1": BID, "-1": ASK}
_SHOWN: Final = 80

Order = tuple[int, int, tuple[int, int, int]]


def recognise(path: Path) -> str | None:
    """``nasdaq.SYMBOL`` where the first line is a LOBSTER message (the symbol is in the name alone), or None.

    A book file is known by the message file beside it.
    """
    symbol = _SYMBOL.match(path.name)
    first, *_ = parts(path)
    for _, line in islice(lines(first), 1):
        if symbol and _LINE.fullmatch(line):
            return f"{EXCHANGE}.{symbol[1]}"
    return None


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, message (and book) of a message file; its book file is found beside it by its name.

    Raises:
        CaptureError: the two files have different numbers of lines.
    """
    messages, *book = parts(path)
    rows = _paired(messages, book[0]) if book else (line for _, line in lines(path))
    return numbered(rows, partial(_received, midnight_ns(day_in(path.name), ZONE)))


def parts(path: Path) -> tuple[Path, ...]:
    """The message file and its book file, whichever of them ``path`` is, where there are both."""
    messages = path.with_name(path.name.replace(_BOOK, _MESSAGES))
    book = path.with_name(path.name.replace(_MESSAGES, _BOOK))
    return (messages, book) if book != messages and book.exists() and messages.exists() else (path,)


def _paired(messages: Path, book: Path) -> Iterator[bytes]:
    try:
        for (_, message), (_, levels) in zip(lines(messages), lines(book), strict=True):
            yield message + b"\n" + levels
    except ValueError:
        raise CaptureError(
            f"{book.name} has not as many lines as {messages.name}; give a pair that belongs together"
        ) from None


def _received(midnight: int, row: bytes) -> int:
    return midnight + _since_midnight(row.partition(b",")[0].decode("ascii", "replace"))


def _since_midnight(text: str) -> int:
    whole, _, part = text.partition(".")
    seconds = integer(whole, "seconds after midnight") * NS_PER_S
    return within_a_day(seconds + (integer(part[:9].ljust(9, "0"), "a part of a second") if part else 0))


class Parser:
    """Reads the frames of one recording; remembers its book."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._view = View()
        self._based = False

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one message, with its book where there is one.

        Raises:
            FrameError: see the module.
        """
        message, line_feed, book = payload.partition(b"\n")
        head = (recv_ns, recv_ns, frame, frame)
        order = self._message(message)
        sides = self._book(book) if line_feed else None
        if sides is not None and book.count(b",") < _DEEP * _LEVEL_FIELDS - 1:
            return Parsed("diff", self._view.changes(head, 0, *sides, first=_trades(head, order)), exch_ns=recv_ns)
        if sides is not None and not self._based:
            self._based = True
            return Parsed("snapshot", self._view.changes(head, 0, *sides, first=_trades(head, order)), exch_ns=recv_ns)
        if order is None:
            return Parsed("other")
        kind, order_id, place = order
        return Parsed("diff", events_of(words(head, order_id, place, (kind, F_LAST))), exch_ns=recv_ns)

    def _message(self, message: bytes) -> Order | None:
        """Kind, order id and (side, price, size) of what a message says of an order or trade; a halt says neither."""
        time, form, order_id, size, price, direction = fields_of(message, _FIELDS)
        _since_midnight(time)
        if form == _HALT:
            return None
        if form not in _KINDS:
            raise FrameError("unknown_frame", f"expected a type from 1 to 7, saw {message[:_SHOWN]!r}")
        if direction not in _SIDES:
            raise FrameError("bad_side", f"expected a direction of 1 or -1, saw {message[:_SHOWN]!r}")
        kind, side = _KINDS[form], _SIDES[direction]
        place = (
            -side if form == _HIDDEN else 0 if form == _CROSS else side,  # a trade's is the aggressor's
            priced(steps_of_scaled(self._tick, price, DECIMALS)),
            positive(self._lot.of(size)),
        )
        return kind, integer(order_id, "an order id") if kind != TRADE else 0, place

    def _book(self, line: bytes) -> tuple[Levels, Levels]:
        """Bids and asks of a book line; an empty level has no size."""
        fields = line.decode("ascii", "replace").split(",")
        if len(fields) % _LEVEL_FIELDS:
            raise FrameError("bad_levels", f"expected four numbers a level, saw {line[:_SHOWN]!r}")
        asks = self._levels(fields[0::4], fields[1::4])
        return self._levels(fields[2::4], fields[3::4]), asks

    def _levels(self, prices: list[str], sizes: list[str]) -> Levels:
        return {
            priced(steps_of_scaled(self._tick, price, DECIMALS)): self._lot.of(size)
            for price, size in zip(prices, sizes, strict=True)
            if size != "0"
        }


def _trades(head: tuple[int, int, int, int], order: Order | None) -> list[Words]:
    """The trade in a message, if it is one."""
    if order is None or order[0] not in (EXECUTE, TRADE):
        return []
    kind, order_id, (side, price, size) = order
    return [words(head, order_id, (-side if kind == EXECUTE else side, price, size), (TRADE, 0))]


VENUE: Final = Venue(
    name="lobster",
    parser=Parser,
    reasons=listed(
        "bad_levels bad_number bad_side bad_time negative not_text off_lot off_tick out_of_range "
        "unknown_frame wrong_columns zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
    book=OrderBook,
    parts=parts,
)
