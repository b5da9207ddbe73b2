"""Instruments: who trades where, and in which integer units."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from market.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One tradable thing at one venue.

    ``tick`` is the price step and ``lot`` the size step, both as exact decimals; events carry multiples of them.
    """

    venue: str
    symbol: str
    tick: Decimal
    lot: Decimal

    @property
    def key(self) -> str:
        """``venue.SYMBOL``: safe in paths, table filters and model names."""
        return f"{self.venue}.{self.symbol}"

    def price_of(self, ticks: int) -> Decimal:
        return self.tick * ticks

    def size_of(self, lots: int) -> Decimal:
        return self.lot * lots


def _row(venue: str, symbol: str, tick: str, lot: str) -> Instrument:
    return Instrument(venue=venue, symbol=symbol, tick=Decimal(tick), lot=Decimal(lot))


# Steps as published by the exchanges' exchangeInfo at the time of the recordings in use. Spot sizes use the step that
# was valid earlier: orders older than the change still rest in the book (25.426189 BTC at 200,000).
KNOWN: tuple[Instrument, ...] = (
    _row("binance-spot", "BTCUSDT", "0.01", "0.000001"),
    _row("binance-spot", "ETHUSDT", "0.01", "0.00001"),
    _row("binance-usdm", "BTCUSDT", "0.1", "0.001"),
    _row("binance-usdm", "ETHUSDT", "0.01", "0.001"),
    _row("binance-coinm", "BTCUSD_PERP", "0.1", "1"),
    _row("binance-coinm", "ETHUSD_PERP", "0.01", "1"),
    _row("sim-usdm", "BTCUSDT", "0.1", "0.001"),
    _row("coinbase", "BTC-USD", "0.01", "0.00000001"),
    # order-level and few-level recordings
    _row("bitstamp", "BTCUSD", "0.01", "0.00000001"),
    _row("cme", "ESH4", "0.25", "1"),
    _row("cme", "ESM4", "0.25", "1"),
    _row("sse", "600519", "0.01", "1"),
    _row("cme", "GCM3", "0.1", "1"),
    _row("cme", "XETU3", "0.5", "1"),
    _row("shfe", "rb2510", "1", "1"),
    _row("b3", "PETR4", "0.01", "1"),
    _row("b3", "VALE3", "0.01", "1"),
    _row("sgx", "CN", "5", "1"),
    # options, by the currency of their underlying, in which they are also priced
    _row("deribit", "BTC", "0.0001", "0.1"),
    _row("deribit", "ETH", "0.0001", "1"),
    _row("deribit", "BTC-PERPETUAL", "0.5", "10"),
    _row("deribit", "ETH-PERPETUAL", "0.05", "1"),
    # US stocks are quoted in whole cents and trade between them
    _row("us-nbbo", "BAC", "0.0001", "1"),
    _row("us-nbbo", "IBM", "0.0001", "1"),
    *(_row("nasdaq", symbol, "0.0001", "1") for symbol in ("AAPL", "AMZN", "MSFT")),
)

_BY_KEY = {i.key: i for i in KNOWN}


def is_known(key: str) -> bool:
    """Whether the table has the tick and lot of ``venue.SYMBOL``."""
    return key in _BY_KEY


def find(key: str) -> Instrument:
    """The instrument of ``venue.SYMBOL``.

    Raises:
        InputError: the key is unknown.
    """
    try:
        return _BY_KEY[key]
    except KeyError:
        known = ", ".join(sorted(_BY_KEY))
        raise InputError(
            f"unknown instrument {key!r}; known are {known}. "
            "Add it to market/instruments.py with its tick and lot, or ingest a recording of it"
        ) from None
