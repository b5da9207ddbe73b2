"""Coinbase's feed (api.pro.coinbase.com, "websocket-feed"): level2, matches and ticker channels.

* A book is a ``snapshot`` and then ``l2update`` with absolute sizes. There are no numbers: nobody can tell from the
  frames whether one is missing.
* ``side`` of a match is the maker's: a sell was hit by a buyer. ``last_match`` is from before the session, and a ticker
  gives prices without sizes: both are ``other``.

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
    ns_of_iso,
    side_of,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, both_sides, routed_by, text_at
from market.venues.protocol import Parsed

_SIDES: Final = {"buy": BID, "sell": ASK}
_OTHER: Final = ("subscriptions", "last_match", "ticker", "heartbeat", "error", "subscribe")


class _Snapshot(msgspec.Struct):
    product_id: str
    bids: list[tuple[Number, Number]]
    asks: list[tuple[Number, Number]]


class _Update(msgspec.Struct):
    product_id: str
    changes: list[tuple[str, Number, Number]]
    time: str


class _Match(msgspec.Struct):
    product_id: str
    trade_id: int
    side: Literal["buy", "sell"]
    size: Number
    price: Number
    time: str


class Parser(JsonParser):
    """Reads the frames of one product."""

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "l2update":
            return self._update(formed(value, _Update), recv_ns, frame)
        if kind == "snapshot":
            return self._snapshot(formed(value, _Snapshot), recv_ns, frame)
        if kind == "match":
            return self._match(formed(value, _Match), recv_ns, frame)
        if kind in _OTHER:
            return Parsed("other")
        raise unknown(payload, "l2update, snapshot or match")

    def _update(self, update: _Update, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(update.product_id)
        exch_ns = ns_of_iso(update.time)
        levels = [(side_of(side, _SIDES), price, size) for side, price, size in update.changes]
        return Parsed("diff", self._make.levels((exch_ns, recv_ns), frame, levels), exch_ns=exch_ns)

    def _snapshot(self, snapshot: _Snapshot, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(snapshot.product_id)
        levels = [(side, *level) for side, level in both_sides(snapshot.bids, snapshot.asks)]
        return Parsed("snapshot", self._make.snapshot((0, recv_ns), frame, levels))

    def _match(self, match: _Match, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(match.product_id)
        exch_ns = ns_of_iso(match.time)
        trade = (exch_ns, id_of(match.trade_id, "a trade id"), -_SIDES[match.side], match.price, match.size)
        return self._trades_of(recv_ns, frame, [trade])


VENUE: Final = recorded(
    name="coinbase",
    addresses={"wss://ws-feed.pro.coinbase.com": "coinbase"},
    parser=Parser,
    reasons=REASONS,
    rule="snapshots",
    route=routed_by(lambda value: text_at(value, "product_id")),
)
