"""Bitstamp's price levels: ``diff_order_book`` and ``live_trades`` channels, and the REST order book they start from.

* Diffs carry the exchange's time in microseconds and no number: a snapshot is joined to those that are newer than it,
  and nobody can tell from the frames whether one is missing.
* A symbol is the name in a channel: ``ethusd``. Keys have it in capitals, as those of the order-level recordings.

Reasons: :data:`market.venues.formats.json_frames.REASONS`.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from market.events import ASK, BID
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Number,
    formed,
    id_of,
    ns_of_us,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, both_sides, routed_by, text_at
from market.venues.protocol import Parsed

_BOOK: Final = re.compile(r"https://www\.bitstamp\.net/api/v2/order_book/([a-z0-9]+)")
_DIFF, _SNAPSHOT, _TRADES = "diff_order_book_", "order_book_", "live_trades_"


class _Frame(msgspec.Struct):
    event: str
    channel: str
    data: Any


class _Book(msgspec.Struct):
    microtimestamp: str
    bids: list[tuple[Number, Number]]
    asks: list[tuple[Number, Number]]


class _Trade(msgspec.Struct):
    id: int
    microtimestamp: str
    type: Literal[0, 1]
    price_str: str
    amount_str: str


class Parser(JsonParser):
    """Reads the frames of one pair."""

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if not (isinstance(value, dict) and "event" in value):
            raise unknown(payload, "an event of a channel")
        if isinstance(value["event"], str) and value["event"].startswith("bts:"):
            return Parsed("other")
        said = formed(value, _Frame)
        self._check_symbol(_symbol(said.channel))
        if said.channel.startswith(_TRADES) and said.event == "trade":
            return self._trade(formed(said.data, _Trade), recv_ns, frame)
        if said.channel.startswith(_DIFF) and said.event == "data":
            return self._levels(formed(said.data, _Book), recv_ns, frame, whole=False)
        if said.channel.startswith(_SNAPSHOT) and said.event == "data":
            return self._levels(formed(said.data, _Book), recv_ns, frame, whole=True)
        raise unknown(payload, f"{_DIFF}*, {_SNAPSHOT}* or {_TRADES}*")

    def _levels(self, book: _Book, recv_ns: int, frame: int, *, whole: bool) -> Parsed:
        exch_ns = ns_of_us(book.microtimestamp)
        levels = [(side, *level) for side, level in both_sides(book.bids, book.asks)]
        make = self._make.snapshot if whole else self._make.levels
        events = make((exch_ns, recv_ns), frame, levels)
        return Parsed("snapshot" if whole else "diff", events, first=exch_ns, last=exch_ns, exch_ns=exch_ns)

    def _trade(self, trade: _Trade, recv_ns: int, frame: int) -> Parsed:
        exch_ns = ns_of_us(trade.microtimestamp)
        side = BID if trade.type == 0 else ASK
        row = (exch_ns, id_of(trade.id, "a trade id"), side, trade.price_str, trade.amount_str)
        return self._trades_of(recv_ns, frame, [row])


def _symbol(channel: str) -> str:
    """``ethusd`` of ``diff_order_book_ethusd``, in capitals."""
    return channel.rpartition("_")[2].upper()


def snapshot_frame(address: str, body: bytes) -> bytes | None:
    """A REST order book as a frame of the channel it belongs to; None for an answer to another question."""
    pair = _BOOK.fullmatch(address)
    return (
        b'{"event":"data","channel":"%s%s","data":%s}' % (_SNAPSHOT.encode(), pair[1].encode(), body) if pair else None
    )


def _symbol_of(value: Any) -> str | None:
    """The pair is in the channel."""
    channel = text_at(value, "channel") or ""
    return _symbol(channel) if channel.startswith((_DIFF, _SNAPSHOT, _TRADES)) else None


VENUE: Final = recorded(
    name="bitstamp-levels",
    addresses={"wss://ws.bitstamp.net": "bitstamp"},
    parser=Parser,
    reasons=REASONS,
    rule="stamped",
    route=routed_by(_symbol_of),
    answer=snapshot_frame,
)
