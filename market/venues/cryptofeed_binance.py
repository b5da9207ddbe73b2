"""Binance's streams as cryptofeed recorded them: many symbols of one market over one connection, snapshots by REST.

A snapshot does not say whose it is; its address does. Times are those of the recorder; the rest is
:mod:`market.venues.binance`'s, with its reasons.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from market.venues import binance
from market.venues.formats.cryptofeed import recorded
from market.venues.protocol import Route

_SYMBOL: Final = re.compile(r"/depth\?symbol=([A-Z0-9_]+)&")


class _Data(msgspec.Struct):
    s: str | None = None


class _Frame(_Data):
    data: _Data | None = None
    symbol: str | None = None


_decode = msgspec.json.Decoder(_Frame).decode


def snapshot_frame(address: str, body: bytes) -> bytes | None:
    """A snapshot with its symbol in it; None for an answer to another question."""
    symbol = _SYMBOL.search(address)
    return b'{"symbol":"%s",%s' % (symbol[1].encode(), body[1:]) if symbol and body[:1] == b"{" else None


def route() -> Route:
    """The symbol is in every frame."""
    return _symbol_of


def _symbol_of(payload: bytes) -> str | None:
    try:
        frame = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return (frame.data.s if frame.data else None) or frame.s or frame.symbol


VENUE: Final = recorded(
    name="cryptofeed-binance",
    addresses={
        "wss://stream.binance.com": "binance-spot",
        "wss://fstream.binance.com": "binance-usdm",
        "wss://dstream.binance.com": "binance-coinm",
    },
    parser=binance.Parser,
    reasons=binance.VENUE.reasons,
    rule=binance.market_of,
    route=route,
    answer=snapshot_frame,
)
