"""A slow, plain reader of Binance frames with ``json`` and ``Decimal``: the reference for the fast one."""

from __future__ import annotations

import json
from decimal import Decimal

from market.events import ASK, BID, CLEAR, DEPTH, TICKER, TRADE
from market.instruments import Instrument

Row = tuple[int, int, int, int, int]  # kind, side, price, size, seq


def events_of(payload: bytes, instrument: Instrument) -> list[Row]:
    """The rows of a well-formed frame; the result for a malformed frame is undefined (any exception, any rows)."""
    outer = json.loads(payload)
    data = outer["data"] if outer.get("data") is not None else outer
    kind = data.get("e")
    if "B" in data and kind in (None, "bookTicker"):
        sides = ((BID, data["b"], data["B"]), (ASK, data["a"], data["A"]))
        return [
            (TICKER, side, _steps(p, instrument.tick), _steps(q, instrument.lot), data["u"]) for side, p, q in sides
        ]
    if kind == "trade":
        if data.get("X", "MARKET") not in ("MARKET", None):
            return []
        assert Decimal(data["q"]) > 0
        side = ASK if data["m"] else BID
        return [(TRADE, side, _steps(data["p"], instrument.tick), _steps(data["q"], instrument.lot), data["t"])]
    if kind == "depthUpdate":
        return _levels(data["b"], data["a"], data["u"], instrument)
    if kind == "markPriceUpdate":
        return []
    seq = outer["lastUpdateId"]
    return [(CLEAR, 0, 0, 0, seq), *_levels(outer["bids"], outer["asks"], seq, instrument)]


def _levels(bids: list, asks: list, seq: int, instrument: Instrument) -> list[Row]:
    return [
        (DEPTH, side, _steps(price, instrument.tick), _steps(size, instrument.lot), seq)
        for side, levels in ((BID, bids), (ASK, asks))
        for price, size in levels
    ]


def _steps(text: str, step: Decimal) -> int:
    steps = Decimal(text) / step
    assert isinstance(text, str)
    assert steps == int(steps) >= 0
    return int(steps)
