"""Coinbase's feed (api.pro.coinbase.com, "websocket-feed"): level2, matches and ticker channels.

* A book is a ``snapshot`` and then ``l2update`` with absolute sizes. There are no numbers: nobody can tell from the
  frames whether one is missing.
* ``side`` of a match is the maker's: a sell was hit by a buyer. ``last_match`` is from before the session, and a ticker
  gives prices without sizes: both are ``other``.

Reasons: :data:`market.venues.formats.json_frames.REASONS`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from market.errors import FrameError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Maker,
    Number,
    checked_symbol,
    decoded,
    formed,
    id_of,
    ns_of_iso,
    side_of,
    unknown,
)
from market.venues.protocol import Parsed, Route

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


class Parser:
    """Reads the frames of one product."""

    def __init__(self, instrument: Instrument) -> None:
        self._make = Maker(instrument)

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one frame.

        Raises:
            FrameError: see the module.
        """
        value = decoded(payload)
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
        checked_symbol(update.product_id, self._make.instrument)
        exch_ns = ns_of_iso(update.time)
        levels = [(side_of(side, _SIDES), price, size) for side, price, size in update.changes]
        return Parsed("diff", self._make.levels((exch_ns, recv_ns), frame, levels), exch_ns=exch_ns)

    def _snapshot(self, snapshot: _Snapshot, recv_ns: int, frame: int) -> Parsed:
        checked_symbol(snapshot.product_id, self._make.instrument)
        levels = [(BID, *level) for level in snapshot.bids] + [(ASK, *level) for level in snapshot.asks]
        return Parsed("snapshot", self._make.snapshot((0, recv_ns), frame, levels))

    def _match(self, match: _Match, recv_ns: int, frame: int) -> Parsed:
        checked_symbol(match.product_id, self._make.instrument)
        exch_ns = ns_of_iso(match.time)
        trade = (exch_ns, id_of(match.trade_id, "a trade id"), -_SIDES[match.side], match.price, match.size)
        return Parsed("trade", self._make.trades(recv_ns, frame, [trade]), exch_ns=exch_ns)


def route() -> Route:
    """The product is in every frame of the market."""
    return _symbol_of


def _symbol_of(payload: bytes) -> str | None:
    try:
        value = decoded(payload)
    except FrameError:
        return None
    symbol = value.get("product_id") if isinstance(value, dict) else None
    return symbol if isinstance(symbol, str) else None


VENUE: Final = recorded(
    name="coinbase",
    addresses={"wss://ws-feed.pro.coinbase.com": "coinbase"},
    parser=Parser,
    reasons=REASONS,
    rule="snapshots",
    route=route,
)
