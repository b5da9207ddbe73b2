"""Bitstamp's order-level stream, in the two forms its recorders kept it.

*Log* (2015): ``<local ms> <event> <json>`` with order_created, order_changed, order_deleted, trade and, every few
seconds, order_book with the best 20 levels a side. *Rows* (2026): CSV of orders
(``id,timestamp,exchange_timestamp,price,volume,action,direction``) and, in a file of its own, of trades.

What the recordings need to be known about them:

* ``datetime`` of the log is when the order was *created*, in seconds: only a creation has an exchange time.
* Trades of the log and all numbers of the rows went through doubles.
* The rows begin with a snapshot that the recorder wrote as creations, all with one pair of stamps, later than those of
  the first live rows: the local clock runs back once. They end with deletions of everything that still rested, which
  no exchange sent: their two stamps are equal, which those of live rows are not. They give no event.
* The price of a change in the rows is that of the trade which caused it, not the order's: the order is deleted at its
  own price again. In the log it is the order's: market orders follow the book until they are filled.
* A market order is created with the price 999999999 and no volume: no order that rests, ``zero_size``.
* The recording of 2015 starts with orders resting that are never created in it: the book refuses what it then hears of
  them. order_book is a view of the same book from beside it, and gives no event.

Reasons: ``not_text``, ``unknown_frame``, ``wrong_columns``, ``wrong_type``, ``missing_field``, ``bad_number``,
``bad_side``, ``bad_time``, ``zero_size``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec

from market.books.order_book import OrderBook
from market.clock import NS_PER_MS, NS_PER_S
from market.errors import FrameError
from market.events import ADD, ASK, BID, CHANGE, CLEAR, F_LAST, F_NO_EXCH_TIME, F_SNAPSHOT, REMOVE, TRADE
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.text_rows import (
    decimal_float,
    events_of,
    fields_of,
    instant,
    integer,
    numbered,
    positive,
    priced,
    units,
    words,
)
from market.venues.protocol import Parsed, Venue, always, listed

KEY: Final = "bitstamp.BTCUSD"
_ORDER_ROW: Final = b"id,timestamp,exchange_timestamp,price,volume,action,direction"
_TRADE_ROW: Final = b"trade_id,timestamp,exchange_timestamp,price,amount,buy_order_id,sell_order_id,side"
_ORDER_FIELDS, _TRADE_FIELDS = 7, 8
_KINDS: Final = {
    "order_created": ADD, "order_changed": CHANGE, "order_deleted": REMOVE,
    "created": ADD, "changed": CHANGE, "deleted": REMOVE,
}  # fmt: skip
_SIDES: Final = {"bid": BID, "ask": ASK, "buy": BID, "sell": ASK, "0": BID, "1": ASK}
_SHOWN: Final = 80


class _Order(msgspec.Struct):
    id: int
    price: str
    amount: str
    datetime: str
    order_type: Literal[0, 1]


class _Trade(msgspec.Struct):
    id: int
    price: float
    amount: float


class _Levels(msgspec.Struct):
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


_FORMS: Final[
    dict[str, msgspec.json.Decoder[_Order] | msgspec.json.Decoder[_Trade] | msgspec.json.Decoder[_Levels]]
] = {
    "order_created": msgspec.json.Decoder(_Order),
    "order_changed": msgspec.json.Decoder(_Order),
    "order_deleted": msgspec.json.Decoder(_Order),
    "trade": msgspec.json.Decoder(_Trade),
    "order_book": msgspec.json.Decoder(_Levels),
}


def recognise(path: Path) -> str | None:
    """The key of the instrument where the first rows are Bitstamp's; None where they are not."""
    for _, line in islice(lines(path), 1):
        event = line.split(b" ", 2)[1:2]
        if line in (_ORDER_ROW, _TRADE_ROW) or (event and event[0].decode("ascii", "replace") in _FORMS):
            return KEY
    return None


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, row; a header is no row."""
    return numbered((line for _, line in lines(path) if line not in (_ORDER_ROW, _TRADE_ROW)), received)


def received(row: bytes) -> int:
    """Receive ns of a row.

    Raises:
        FrameError: it has no readable time.
    """
    stamp = row.split(b" ", 1)[0] if b" " in row else [*row.split(b",", 2), b"", b""][1]
    return instant(stamp.decode("ascii", "replace"), "a local time in ms", NS_PER_MS)


class Parser:
    """Reads the rows of one recording; remembers the stamps of its first row, which are those of a snapshot."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._first: tuple[str, str] | None = None

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        stamp, blank, _ = payload.partition(b" ")
        if blank and stamp.isdigit():
            return self._log(payload, recv_ns, frame)
        if payload.count(b",") == _TRADE_FIELDS - 1:
            return self._trade_row(payload, recv_ns, frame)
        return self._order_row(payload, recv_ns, frame)

    def _log(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        name, _, text = payload.partition(b" ")[2].partition(b" ")
        event = name.decode("ascii", "replace")
        if event not in _FORMS:
            raise FrameError("unknown_frame", f"expected one of {', '.join(_FORMS)}; saw {payload[:_SHOWN]!r}")
        try:
            data = _FORMS[event].decode(text)
        except msgspec.ValidationError as error:
            reason = "missing_field" if "missing required" in str(error) else "wrong_type"
            raise FrameError(reason, f"{event}: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FrameError("not_text", f"expected JSON: {error}; saw {payload[:_SHOWN]!r}") from None
        if isinstance(data, _Levels):
            return self._order_book(data)
        if isinstance(data, _Trade):
            return self._log_trade(data, recv_ns, frame)
        return self._log_order(data, _KINDS[event], recv_ns, frame)

    def _log_order(self, order: _Order, kind: int, recv_ns: int, frame: int) -> Parsed:
        ticks, lots = priced(self._tick.of(order.price)), self._lot.of(order.amount)
        created_ns = instant(order.datetime, "a creation time in s", NS_PER_S)
        exch_ns, flags = (created_ns, F_LAST) if kind == ADD else (0, F_LAST | F_NO_EXCH_TIME)
        side = BID if order.order_type == 0 else ASK
        place = (side, ticks, lots if kind == REMOVE else positive(lots))
        events = events_of(words((exch_ns, recv_ns, _id(order.id), frame), order.id, place, (kind, flags)))
        return Parsed("diff", events, exch_ns=exch_ns)

    def _log_trade(self, trade: _Trade, recv_ns: int, frame: int) -> Parsed:
        place = (0, priced(self._tick.of_float(trade.price)), positive(self._lot.of_float(trade.amount)))
        event = words((0, recv_ns, _id(trade.id), frame), 0, place, (TRADE, F_LAST | F_NO_EXCH_TIME))
        return Parsed("trade", events_of(event))

    def _order_book(self, levels: _Levels) -> Parsed:
        for price, size in (*levels.bids, *levels.asks):
            priced(self._tick.of(price))
            positive(self._lot.of(size))
        return Parsed("other")

    def _order_row(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        order_id, local, exchange, price, volume, action, direction = fields_of(payload, _ORDER_FIELDS)
        if action not in _KINDS:
            raise FrameError("unknown_frame", f"expected created, changed or deleted; saw {payload[:_SHOWN]!r}")
        kind, side = _KINDS[action], _side(direction)
        stamps = (local, exchange)
        self._first = self._first or stamps
        exch_ns = instant(exchange, "an exchange time in ms", NS_PER_MS)
        ticks = priced(self._tick.of_float(decimal_float(price, "a price")))
        lots = self._lot.of_float(decimal_float(volume, "a volume"))
        if kind == REMOVE and local == exchange:
            return Parsed("other")
        flags = F_SNAPSHOT if stamps == self._first else F_LAST
        head = (exch_ns, recv_ns, integer(order_id, "an order id"), frame)
        place = (side, 0 if kind == CHANGE else ticks, lots if kind == REMOVE else positive(lots))
        row = words(head, head[2], place, (kind, flags))
        begin = [words(head, 0, (0, 0, 0), (CLEAR, flags))] if frame == 1 and flags == F_SNAPSHOT else []
        return Parsed("snapshot" if begin else "diff", events_of(*begin, row), exch_ns=exch_ns)

    def _trade_row(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        trade_id, _, exchange, price, amount, bought, sold, aggressor = fields_of(payload, _TRADE_FIELDS)
        side = _side(aggressor)
        exch_ns = instant(exchange, "an exchange time in ms", NS_PER_MS)
        head = (exch_ns, recv_ns, integer(trade_id, "a trade id"), frame)
        resting = integer(sold if side == BID else bought, "an order id")
        ticks = priced(self._tick.of_float(decimal_float(price, "a price")))
        lots = positive(self._lot.of_float(decimal_float(amount, "an amount")))
        event = words(head, resting, (side, ticks, lots), (TRADE, F_LAST))
        return Parsed("trade", events_of(event), exch_ns=exch_ns)


def _side(text: str) -> int:
    if text not in _SIDES:
        raise FrameError("bad_side", f"expected bid, ask, buy or sell; saw {text[:_SHOWN]!r}")
    return _SIDES[text]


def _id(value: int) -> int:
    if not 0 < value < 2**63:
        raise FrameError("out_of_range", f"expected an id, saw {value}")
    return value


VENUE: Final = Venue(
    name="bitstamp",
    parser=Parser,
    reasons=listed(
        "bad_number bad_side bad_time missing_field negative not_text off_lot off_tick out_of_range "
        "unknown_frame wrong_columns wrong_type zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
    book=OrderBook,
)
