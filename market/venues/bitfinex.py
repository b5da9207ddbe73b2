"""Bitfinex's API (v2): books at precision P0, trades and tickers of channels that a subscription numbers.

* A channel's number stands for its symbol only since ``subscribed`` said so: parser and route remember it.
* A book row is ``[price, orders, amount]``: amount below zero is an ask, no orders means the level is gone. The first
  message of a channel is its snapshot. A trade is told when executed (``te``) and again when settled (``tu``): the
  first one counts.
* With the flag SEQ_ALL every message of a connection ends with its number, whatever its channel: the route sees a
  missing one, and every book of the connection is then lost.
* A ticker is a summary, later than the book: it is ``other``.

Reasons: :data:`market.venues.formats.json_frames.REASONS` and ``unknown_channel``.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from market.errors import FrameError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Level,
    Number,
    decoded,
    formed,
    id_of,
    ns_of_ms,
    unknown,
)
from market.venues.formats.json_streams import JsonParser
from market.venues.protocol import Parsed

_EXECUTED, _HEARTBEATS = "te", ("hb", "tu", "cs")


class _Subscribed(msgspec.Struct):
    channel: str
    chanId: int  # noqa: N815 the wire's name
    symbol: str


class _Row(msgspec.Struct, array_like=True):
    price: Number
    orders: int
    amount: Number


class _Trade(msgspec.Struct, array_like=True):
    id: int
    ms: int
    amount: Number
    price: Number


class Parser(JsonParser):
    """Reads the channels of one symbol; remembers their numbers, and of which the snapshot came."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument)
        self._channels: dict[int, str] = {}
        self._begun: set[int] = set()

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if isinstance(value, dict) and "event" in value:
            if value["event"] == "subscribed":
                said = formed(value, _Subscribed)
                self._check_symbol(said.symbol)
                self._channels[said.chanId] = said.channel
                self._begun.discard(said.chanId)
            return Parsed("other")
        if not (isinstance(value, list) and len(value) > 1 and isinstance(value[0], int)):
            raise unknown(payload, "an event or a channel's message")
        channel = value[0]
        if channel not in self._channels:
            raise FrameError(
                "unknown_channel", f"channel {channel} was never subscribed to {self._make.instrument.symbol}"
            )
        kind = self._channels[channel]
        if value[1] in _HEARTBEATS or kind == "ticker":
            return Parsed("other")
        if kind == "book":
            return self._book(channel, value[1], recv_ns, frame)
        if kind == "trades":
            return self._trade(value, recv_ns, frame)
        raise unknown(payload, "a book, trades or ticker channel")

    def _book(self, channel: int, rows: Any, recv_ns: int, frame: int) -> Parsed:
        whole = isinstance(rows, list) and (not rows or isinstance(rows[0], list))
        if whole != (channel not in self._begun):
            raise FrameError("wrong_type", f"expected a {'row' if whole else 'snapshot'} of channel {channel}")
        self._begun.add(channel)
        if whole:
            levels = [_level(row) for row in formed(rows, list[_Row])]
            return Parsed("snapshot", self._make.snapshot((0, recv_ns), frame, levels))
        return Parsed("diff", self._make.levels((0, recv_ns), frame, [_level(formed(rows, _Row))]))

    def _trade(self, value: list[Any], recv_ns: int, frame: int) -> Parsed:
        if value[1] != _EXECUTED:
            formed(value[1], list[_Trade])
            return Parsed("other")  # of before the session
        if len(value) < 3:
            raise FrameError("missing_field", "a trade was announced and not told")
        trade = formed(value[2], _Trade)
        exch_ns = ns_of_ms(trade.ms)
        side, size = _signed(trade.amount)
        row = (exch_ns, id_of(trade.id, "a trade id"), side, trade.price, size)
        return self._trades_of(recv_ns, frame, [row])


def _signed(amount: Number) -> tuple[int, str]:
    text = str(amount)
    return (ASK, text[1:]) if text.startswith("-") else (BID, text)


def _level(row: _Row) -> Level:
    side, size = _signed(row.amount)
    return side, row.price, size if row.orders else 0


class Route:
    """Tells the symbol of a message by its channel, and whether messages of the connection are missing before it."""

    def __init__(self) -> None:
        self._channels: dict[int, str] = {}
        self._last: int | None = None
        self._numbered = False
        self.missed = False

    def __call__(self, payload: bytes) -> str | None:
        self.missed = False
        try:
            value = decoded(payload)
        except FrameError:
            return None
        if isinstance(value, dict):
            return self._event(value)
        if not (isinstance(value, list) and len(value) > 1 and isinstance(value[0], int)):
            return None
        if self._numbered and isinstance(value[-1], int):
            self.missed = self._last is not None and value[-1] != self._last + 1
            self._last = value[-1]
        return self._channels.get(value[0])

    def _event(self, value: dict[str, Any]) -> str | None:
        flags = value.get("flags")
        if value.get("event") == "conf" and isinstance(flags, int):
            self._numbered = bool(flags & _SEQ_ALL)
        if value.get("event") != "subscribed":
            return None
        try:
            said = formed(value, _Subscribed)
        except FrameError:
            return None
        self._channels[said.chanId] = said.symbol
        return said.symbol


_SEQ_ALL: Final = 65536

VENUE: Final = recorded(
    name="bitfinex",
    addresses={"wss://api.bitfinex.com/ws/2": "bitfinex"},
    parser=Parser,
    reasons=REASONS | {"unknown_channel"},
    rule="snapshots",
    route=Route,
)
