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
    ns_of_us,
    unknown,
)
from market.venues.protocol import Parsed, Route

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


class Parser:
    """Reads the frames of one pair."""

    def __init__(self, instrument: Instrument) -> None:
        self._make = Maker(instrument)

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one frame.

        Raises:
            FrameError: see the module.
        """
        value = decoded(payload)
        if not (isinstance(value, dict) and "event" in value):
            raise unknown(payload, "an event of a channel")
        if isinstance(value["event"], str) and value["event"].startswith("bts:"):
            return Parsed("other")
        said = formed(value, _Frame)
        checked_symbol(_symbol(said.channel), self._make.instrument)
        if said.channel.startswith(_TRADES) and said.event == "trade":
            return self._trade(formed(said.data, _Trade), recv_ns, frame)
        if said.channel.startswith(_DIFF) and said.event == "data":
            return self._levels(formed(said.data, _Book), recv_ns, frame, whole=False)
        if said.channel.startswith(_SNAPSHOT) and said.event == "data":
            return self._levels(formed(said.data, _Book), recv_ns, frame, whole=True)
        raise unknown(payload, f"{_DIFF}*, {_SNAPSHOT}* or {_TRADES}*")

    def _levels(self, book: _Book, recv_ns: int, frame: int, *, whole: bool) -> Parsed:
        exch_ns = ns_of_us(book.microtimestamp)
        levels = [(BID, *level) for level in book.bids] + [(ASK, *level) for level in book.asks]
        make = self._make.snapshot if whole else self._make.levels
        events = make((exch_ns, recv_ns), frame, levels)
        return Parsed("snapshot" if whole else "diff", events, first=exch_ns, last=exch_ns, exch_ns=exch_ns)

    def _trade(self, trade: _Trade, recv_ns: int, frame: int) -> Parsed:
        exch_ns = ns_of_us(trade.microtimestamp)
        side = BID if trade.type == 0 else ASK
        row = (exch_ns, id_of(trade.id, "a trade id"), side, trade.price_str, trade.amount_str)
        return Parsed("trade", self._make.trades(recv_ns, frame, [row]), exch_ns=exch_ns)


def _symbol(channel: str) -> str:
    """``ethusd`` of ``diff_order_book_ethusd``, in capitals."""
    return channel.rpartition("_")[2].upper()


def snapshot_frame(address: str, body: bytes) -> bytes | None:
    """A REST order book as a frame of the channel it belongs to; None for an answer to another question."""
    pair = _BOOK.fullmatch(address)
    return (
        b'{"event":"data","channel":"%s%s","data":%s}' % (_SNAPSHOT.encode(), pair[1].encode(), body) if pair else None
    )


def route() -> Route:
    """The pair is in the channel."""
    return _symbol_of


def _symbol_of(payload: bytes) -> str | None:
    try:
        value = decoded(payload)
    except FrameError:
        return None
    channel = value.get("channel") if isinstance(value, dict) else None
    if not (isinstance(channel, str) and channel.startswith((_DIFF, _SNAPSHOT, _TRADES))):
        return None
    return _symbol(channel) or None


VENUE: Final = recorded(
    name="bitstamp-levels",
    addresses={"wss://ws.bitstamp.net": "bitstamp"},
    parser=Parser,
    reasons=REASONS,
    rule="stamped",
    route=route,
    answer=snapshot_frame,
)
