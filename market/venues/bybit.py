"""Bybit's public streams of 2021: orderBookL2_25 and trade, inverse contracts and USDT perpetuals.

* A snapshot of 25 levels a side, then rows deleted, updated and inserted, with absolute sizes. ``cross_seq`` grows but
  not by ones: it tells repeated frames, not missing ones.
* Sizes of USDT contracts went through single-precision floats at the exchange: 642.60004 contracts are told, and kept.

Reasons: :data:`market.venues.formats.json_frames.REASONS`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from market.events import ASK, BID
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Level,
    Number,
    formed,
    ns_of_ms,
    ns_of_us,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, routed_by, text_at
from market.venues.protocol import Parsed

_SIDES: Final = {"Buy": BID, "Sell": ASK}
_BOOK, _TRADE = "orderBookL2_25.", "trade."


class _Row(msgspec.Struct):
    symbol: str
    price: Number
    side: Literal["Buy", "Sell"]
    size: Number = 0


class _Changes(msgspec.Struct):
    delete: list[_Row]
    update: list[_Row]
    insert: list[_Row]


class _Whole(msgspec.Struct):
    order_book: list[_Row]


class _Book(msgspec.Struct):
    type: Literal["snapshot", "delta"]
    data: Any
    timestamp_e6: Number


class _Traded(msgspec.Struct):
    symbol: str
    trade_time_ms: Number
    side: Literal["Buy", "Sell"]
    size: Number
    price: Number


class _Trades(msgspec.Struct):
    data: list[_Traded]


class Parser(JsonParser):
    """Reads the topics of one symbol."""

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        topic = value.get("topic") if isinstance(value, dict) else None
        if topic is None and isinstance(value, dict) and ("success" in value or "op" in value):
            return Parsed("other")
        if not isinstance(topic, str) or not topic.startswith((_BOOK, _TRADE)):
            raise unknown(payload, f"a topic {_BOOK}* or {_TRADE}*")
        self._check_symbol(topic.partition(".")[2])
        if topic.startswith(_BOOK):
            return self._book(formed(value, _Book), recv_ns, frame)
        trades = []
        for row in formed(value, _Trades).data:
            self._check_symbol(row.symbol)
            trades.append((ns_of_ms(row.trade_time_ms), frame, _SIDES[row.side], row.price, row.size))
        return self._trades_of(recv_ns, frame, trades)

    def _book(self, book: _Book, recv_ns: int, frame: int) -> Parsed:
        exch_ns = ns_of_us(book.timestamp_e6)
        if book.type == "snapshot":
            rows = (
                formed(book.data, list[_Row]) if isinstance(book.data, list) else formed(book.data, _Whole).order_book
            )
            return Parsed(
                "snapshot", self._make.snapshot((exch_ns, recv_ns), frame, self._levels(rows)), exch_ns=exch_ns
            )
        changes = formed(book.data, _Changes)
        gone = [(side, price, 0) for side, price, _ in self._levels(changes.delete)]
        levels = [*gone, *self._levels(changes.update), *self._levels(changes.insert)]
        return Parsed("diff", self._make.levels((exch_ns, recv_ns), frame, levels), exch_ns=exch_ns)

    def _levels(self, rows: list[_Row]) -> list[Level]:
        for row in rows:
            self._check_symbol(row.symbol)
        return [(_SIDES[row.side], row.price, row.size) for row in rows]


def _symbol_of(value: Any) -> str | None:
    """The symbol is in the topic."""
    return (text_at(value, "topic") or "").partition(".")[2]


VENUE: Final = recorded(
    name="bybit",
    addresses={
        "wss://stream.bybit.com/realtime": "bybit-inverse",
        "wss://stream.bybit.com/realtime_public": "bybit-linear",
    },
    parser=Parser,
    reasons=REASONS,
    rule="snapshots",
    route=routed_by(_symbol_of),
)
