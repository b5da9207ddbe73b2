"""Kraken Futures' API (v1): books with a sequence number a product, and trades.

* ``book_snapshot``, then one level a message, whose ``seq`` is one more than the one before.
* ``trade_snapshot`` is from before the session, and ``ticker_lite`` gives prices without sizes: both are ``other``.

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
    unknown,
)
from market.venues.formats.json_streams import JsonParser, both_sides, routed_by, text_at
from market.venues.protocol import Parsed

_SIDES: Final = {"buy": BID, "sell": ASK}
_OTHER: Final = ("trade_snapshot", "ticker_lite", "ticker", "heartbeat")


class _Level(msgspec.Struct):
    price: Number
    qty: Number


class _Snapshot(msgspec.Struct):
    product_id: str
    timestamp: int
    seq: int
    bids: list[_Level]
    asks: list[_Level]


class _Change(msgspec.Struct):
    product_id: str
    timestamp: int
    seq: int
    side: Literal["buy", "sell"]
    price: Number
    qty: Number


class _Trade(msgspec.Struct):
    product_id: str
    time: int
    seq: int
    side: Literal["buy", "sell"]
    price: Number
    qty: Number


class Parser(JsonParser):
    """Reads the feeds of one product."""

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if not isinstance(value, dict):
            raise unknown(payload, "a feed's message")
        feed = value.get("feed")
        if "event" in value or feed in _OTHER:
            return Parsed("other")
        if feed == "book":
            return self._change(formed(value, _Change), recv_ns, frame)
        if feed == "book_snapshot":
            return self._snapshot(formed(value, _Snapshot), recv_ns, frame)
        if feed == "trade":
            return self._trade(formed(value, _Trade), recv_ns, frame)
        raise unknown(payload, "the feed book, book_snapshot or trade")

    def _change(self, change: _Change, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(change.product_id)
        exch_ns, seq = ns_of_ms(change.timestamp), id_of(change.seq, "a sequence number")
        level = (_SIDES[change.side], change.price, change.qty)
        events = self._make.levels((exch_ns, recv_ns), frame, [level])
        return Parsed("diff", events, first=seq, last=seq, exch_ns=exch_ns)

    def _snapshot(self, snapshot: _Snapshot, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(snapshot.product_id)
        exch_ns, seq = ns_of_ms(snapshot.timestamp), id_of(snapshot.seq, "a sequence number")
        levels = [(side, row.price, row.qty) for side, row in both_sides(snapshot.bids, snapshot.asks)]
        return Parsed("snapshot", self._make.snapshot((exch_ns, recv_ns), frame, levels), last=seq, exch_ns=exch_ns)

    def _trade(self, trade: _Trade, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(trade.product_id)
        exch_ns = ns_of_ms(trade.time)
        row = (exch_ns, id_of(trade.seq, "a trade number"), _SIDES[trade.side], trade.price, trade.qty)
        return self._trades_of(recv_ns, frame, [row])


VENUE: Final = recorded(
    name="kraken-futures",
    addresses={"wss://futures.kraken.com/ws/v1": "kraken-futures"},
    parser=Parser,
    reasons=REASONS,
    rule="sequence",
    route=routed_by(lambda value: text_at(value, "product_id")),
)
