"""nautilus_trader: ``python -m bench.peers.nautilus FILE CUT KEY TICK LOT`` in an environment that has it.

Frames are read as its live data client for Binance reads them (``BinanceCommonDataClient._handle_ws_message``): the
wrapper is decoded for the name of the stream, then the message by that stream's schema, then converted to the object
that strategies receive; snapshots by the schema of the REST response. What else the client does (passing it on) is left
out; the receive time comes from the file instead of a clock.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from nautilus_trader.adapters.binance.common.enums import BinanceAccountType
from nautilus_trader.adapters.binance.common.schemas.market import (
    BinanceDataMsgWrapper,
    BinanceDepth,
    BinanceOrderBookMsg,
    BinanceQuoteMsg,
)
from nautilus_trader.adapters.binance.common.symbol import BinanceSymbol
from nautilus_trader.adapters.binance.futures.schemas.market import BinanceFuturesTradeMsg
from nautilus_trader.model.book import OrderBook
from nautilus_trader.model.data import OrderBookDeltas, QuoteTick, TradeTick
from nautilus_trader.model.enums import BookAction, BookType
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue

from bench.peers.turns import Stopwatch, Work, serve

_VENUE = Venue("BINANCE")
_ACCOUNT = BinanceAccountType.USDT_FUTURES


class _Client:
    """The part of the client between a message and the object made from it."""

    def __init__(self) -> None:
        self._ids: dict[str, InstrumentId] = {}
        self._wrapper = msgspec.json.Decoder(BinanceDataMsgWrapper)
        self._book = msgspec.json.Decoder(BinanceOrderBookMsg)
        self._quote = msgspec.json.Decoder(BinanceQuoteMsg)
        self._trade = msgspec.json.Decoder(BinanceFuturesTradeMsg)
        self._depth = msgspec.json.Decoder(BinanceDepth)
        self._handlers: dict[str, Callable[[bytes, int], Any]] = {
            "@bookTicker": self._on_quote,
            "@trade": self._on_trade,
            "@depth@": self._on_diff,
        }

    def objects(self, path: str) -> Iterator[Any]:
        with gzip.open(path, "rb") as file:
            for line in file:
                stamp, _, raw = line.partition(b" ")
                wrapper = self._wrapper.decode(raw)
                if not wrapper.stream:
                    yield self._depth.decode(raw).parse_to_order_book_snapshot(self._id_of("BTCUSDT"), int(stamp))
                    continue
                for name, handler in self._handlers.items():
                    if name in wrapper.stream:
                        yield handler(raw, int(stamp))

    def _id_of(self, symbol: str) -> InstrumentId:
        name = BinanceSymbol(symbol).parse_as_nautilus(_ACCOUNT)
        found = self._ids.get(name)
        if not found:
            found = self._ids[name] = InstrumentId(Symbol(name), _VENUE)
        return found

    def _on_diff(self, raw: bytes, recv_ns: int) -> OrderBookDeltas:
        data = self._book.decode(raw).data
        return data.parse_to_order_book_deltas(instrument_id=self._id_of(data.s), ts_init=recv_ns)

    def _on_quote(self, raw: bytes, recv_ns: int) -> QuoteTick:
        data = self._quote.decode(raw).data
        return data.parse_to_quote_tick(instrument_id=self._id_of(data.s), ts_init=recv_ns)

    def _on_trade(self, raw: bytes, recv_ns: int) -> TradeTick:
        data = self._trade.decode(raw).data
        return data.parse_to_trade_tick(instrument_id=self._id_of(data.s), ts_init=recv_ns)


def works(path: str, cut: str) -> dict[str, Work]:
    batches = list(_Client().objects(cut))
    single = [delta for batch in batches for delta in batch.deltas]
    return {
        "frames": lambda stopwatch: _frames(stopwatch, path),
        "apply_deltas": lambda stopwatch: _book(stopwatch, batches, single, whole=True),
        "apply_delta": lambda stopwatch: _book(stopwatch, batches, single, whole=False),
    }


def _frames(stopwatch: Stopwatch, path: str) -> dict[str, Any]:
    with stopwatch:
        found = list(_Client().objects(path))
    batches = [each for each in found if isinstance(each, OrderBookDeltas)]
    return {
        "levels": sum(_levels(batch.deltas) for batch in batches),
        "trades": sum(isinstance(each, TradeTick) for each in found),
        "tickers": sum(isinstance(each, QuoteTick) for each in found),
    }


def _levels(deltas: list[Any]) -> int:
    return sum(delta.action != BookAction.CLEAR for delta in deltas)


def _book(stopwatch: Stopwatch, batches: list[Any], single: list[Any], *, whole: bool) -> dict[str, Any]:
    book = OrderBook(batches[0].instrument_id, BookType.L2_MBP)
    with stopwatch:
        if whole:
            for batch in batches:
                book.apply_deltas(batch)
        else:
            for delta in single:
                book.apply_delta(delta)
    sides = [[[float(level.price), float(level.size())] for level in side[:5]] for side in (book.bids(), book.asks())]
    return {"levels": _levels(single), "top": sides}


if __name__ == "__main__":
    serve(lambda: works(sys.argv[1], sys.argv[2]))
