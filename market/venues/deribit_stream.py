"""Deribit's API (JSON-RPC subscriptions): raw books, trades and tickers of options and futures.

* A book's snapshot and each change carry ``change_id``; a change also the id before it: a gap shows.
* A raw ticker comes with every change of the best bid or ask, and carries mark and index price (and, of a perpetual,
  its funding) as a slow record. A side without orders has the amount 0.

Reasons: :data:`market.venues.formats.json_frames.REASONS`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from market.events import ASK, BID
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Number,
    formed,
    id_of,
    ns_of_ms,
    slow_of,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, both_sides, routed_by
from market.venues.protocol import Parsed

_SIDES: Final = {"buy": BID, "sell": ASK}

_Level = tuple[Literal["new", "change", "delete"], Number, Number]


class _Params(msgspec.Struct):
    channel: str
    data: Any


class _Frame(msgspec.Struct):
    method: Literal["subscription"]
    params: _Params


class _Book(msgspec.Struct):
    type: Literal["snapshot", "change"]
    instrument_name: str
    timestamp: int
    change_id: int
    bids: list[_Level]
    asks: list[_Level]
    prev_change_id: int = 0


class _Ticker(msgspec.Struct):
    instrument_name: str
    timestamp: int
    mark_price: Number
    index_price: Number
    best_bid_price: Number | None
    best_bid_amount: Number
    best_ask_price: Number | None
    best_ask_amount: Number
    current_funding: Number = 0


class _Trade(msgspec.Struct):
    instrument_name: str
    timestamp: int
    trade_seq: int
    direction: Literal["buy", "sell"]
    price: Number
    amount: Number


class Parser(JsonParser):
    """Reads the channels of one instrument."""

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if isinstance(value, dict) and "method" not in value and ("result" in value or "error" in value):
            return Parsed("other")
        if not (isinstance(value, dict) and "method" in value):
            raise unknown(payload, "a subscription's notice")
        params = formed(value, _Frame).params
        kind = params.channel.partition(".")[0]
        if kind == "book":
            return self._book(formed(params.data, _Book), recv_ns, frame)
        if kind == "ticker":
            return self._ticker(formed(params.data, _Ticker), recv_ns, frame)
        if kind == "trades":
            return self._trades(formed(params.data, list[_Trade]), recv_ns, frame)
        raise unknown(payload, "a book, ticker or trades channel")

    def _book(self, book: _Book, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(book.instrument_name)
        exch_ns = ns_of_ms(book.timestamp)
        levels = [
            (side, price, 0 if what == "delete" else size)
            for side, (what, price, size) in both_sides(book.bids, book.asks)
        ]
        last = id_of(book.change_id, "a change id")
        times = (exch_ns, recv_ns)
        if book.type == "snapshot":
            return Parsed("snapshot", self._make.snapshot(times, frame, levels), last=last, exch_ns=exch_ns)
        before = id_of(book.prev_change_id, "the change id before")
        events = self._make.levels(times, frame, levels)
        return Parsed("diff", events, first=before, last=last, previous=before, exch_ns=exch_ns)

    def _ticker(self, ticker: _Ticker, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(ticker.instrument_name)
        exch_ns = ns_of_ms(ticker.timestamp)
        times = (exch_ns, recv_ns)
        bid = (ticker.best_bid_price or 0, ticker.best_bid_amount)
        ask = (ticker.best_ask_price or 0, ticker.best_ask_amount)
        slow = slow_of(times, frame, mark=ticker.mark_price, index=ticker.index_price, funding=ticker.current_funding)
        return Parsed("ticker", self._make.ticker(times, frame, bid, ask), slow=slow, exch_ns=exch_ns)

    def _trades(self, rows: list[_Trade], recv_ns: int, frame: int) -> Parsed:
        for row in rows:
            self._check_symbol(row.instrument_name)
        trades = [
            (
                ns_of_ms(row.timestamp),
                id_of(row.trade_seq, "a trade number"),
                _SIDES[row.direction],
                row.price,
                row.amount,
            )
            for row in rows
        ]
        return self._trades_of(recv_ns, frame, trades)


def _symbol_of(value: Any) -> str | None:
    """The instrument is in the channel."""
    if not (isinstance(value, dict) and "method" in value):
        return None
    channel = formed(value, _Frame).params.channel
    return channel.split(".")[1] if "." in channel else None


VENUE: Final = recorded(
    name="deribit-stream",
    addresses={"wss://www.deribit.com/ws/api/v2": "deribit"},
    parser=Parser,
    reasons=REASONS,
    rule="previous",
    route=routed_by(_symbol_of),
)
