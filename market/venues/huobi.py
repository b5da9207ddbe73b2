"""Huobi's perpetual swaps: ``depth.step0`` and ``trade.detail`` topics, every message compressed.

* A depth message is the whole of the best 150 levels a side, so that nothing needs to follow anything; what changed
  since the one before becomes events.
* cryptofeed wrote the compressed bytes as a Python literal (``b'\\x1f\\x8b...'``); so they stand in the lake.

Reasons: :data:`market.venues.formats.json_frames.REASONS`, ``not_compressed``, ``bad_levels`` (a price twice).
"""

from __future__ import annotations

import ast
import zlib
from typing import Any, Final, Literal

import msgspec

from market.errors import FrameError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.depth_rows import Levels, View
from market.venues.formats.json_frames import (
    REASONS,
    Number,
    formed,
    id_of,
    ns_of_ms,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, routed_by, text_at
from market.venues.formats.text_rows import positive
from market.venues.protocol import Parsed

_SIDES: Final = {"buy": BID, "sell": ASK}
_GZIP_WINDOW: Final = 31  # zlib's name for "expect a gzip header"
_LARGEST: Final = 16 * 2**20  # bytes of an unpacked message
_DEPTH, _TRADES = "depth.step0", "trade.detail"


class _Frame(msgspec.Struct):
    ch: str
    tick: Any


class _Depth(msgspec.Struct):
    ts: int
    bids: list[tuple[Number, Number]]
    asks: list[tuple[Number, Number]]


class _Trade(msgspec.Struct):
    id: int
    ts: int
    price: Number
    amount: Number
    direction: Literal["buy", "sell"]


class _Trades(msgspec.Struct):
    data: list[_Trade]


def unpacked(payload: bytes) -> bytes:
    """The JSON of a message.

    Raises:
        FrameError: ``not_compressed``.
    """
    try:
        packed = ast.literal_eval(payload.decode("ascii"))
        member = zlib.decompressobj(_GZIP_WINDOW)
        text = member.decompress(packed, _LARGEST)
        if not member.eof:
            raise ValueError("it is cut short")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, zlib.error) as error:
        raise FrameError("not_compressed", f"expected a gzip member as a Python literal: {error}") from None
    return text


class Parser(JsonParser):
    """Reads the topics of one contract; remembers the levels before."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument)
        self._view = View()

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if isinstance(value, dict) and any(name in value for name in ("ping", "subbed", "status")):
            return Parsed("other")
        if not (isinstance(value, dict) and "ch" in value):
            raise unknown(payload, "a topic's message")
        said = formed(value, _Frame)
        symbol, kind = _topic(said.ch)
        self._check_symbol(symbol)
        if kind == _DEPTH:
            return self._depth(formed(said.tick, _Depth), recv_ns, frame)
        if kind == _TRADES:
            return self._trades(formed(said.tick, _Trades).data, recv_ns, frame)
        raise unknown(payload, f"{_DEPTH} or {_TRADES}")

    def _depth(self, depth: _Depth, recv_ns: int, frame: int) -> Parsed:
        exch_ns = ns_of_ms(depth.ts)
        bids, asks = self._levels(depth.bids), self._levels(depth.asks)
        return Parsed("diff", self._view.changes((exch_ns, recv_ns, frame, frame), 0, bids, asks), exch_ns=exch_ns)

    def _levels(self, rows: list[tuple[Number, Number]]) -> Levels:
        levels = {self._make.ticks(price): positive(self._make.lots(size)) for price, size in rows}
        if len(levels) != len(rows):
            raise FrameError("bad_levels", "expected every price once")
        return levels

    def _trades(self, told: list[_Trade], recv_ns: int, frame: int) -> Parsed:
        rows = [
            (ns_of_ms(each.ts), id_of(each.id, "a trade id"), _SIDES[each.direction], each.price, each.amount)
            for each in told
        ]
        return self._trades_of(recv_ns, frame, rows) if rows else Parsed("other")


def _topic(name: str) -> tuple[str, str]:
    """Symbol and kind of ``market.BTC-USD.depth.step0``."""
    symbol, _, kind = name.removeprefix("market.").partition(".")
    return symbol, kind


def _symbol_of(value: Any) -> str | None:
    """The contract is in the topic."""
    return _topic(text_at(value, "ch") or "")[0]


VENUE: Final = recorded(
    name="huobi",
    addresses={
        "wss://api.hbdm.com/swap-ws": "huobi-inverse",
        "wss://api.hbdm.com/linear-swap-ws": "huobi-linear",
    },
    parser=Parser,
    reasons=REASONS | {"not_compressed", "bad_levels"},
    rule="open",
    route=routed_by(_symbol_of),
    unpack=unpacked,
)
