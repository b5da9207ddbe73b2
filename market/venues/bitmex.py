"""BitMEX's realtime API: orderBookL2, trade and quote tables.

* A book row is named by an id; only its insertion says the price, so the parser remembers ids. ``partial`` is the
  snapshot; what came before it is ``other``. There are no numbers.
* ``quote`` rows are the best bid and ask, each a state of its own; a side may be missing.
* Levels and trades of a table message are of one symbol, as the API sends them; others are refused.

Reasons: :data:`market.venues.formats.json_frames.REASONS` and ``unknown_level`` (an id that was never inserted).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from market.errors import FrameError
from market.events import ASK, BID, joined
from market.instruments import Instrument
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Level,
    Number,
    formed,
    ns_of_iso,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, routed_by, text_at
from market.venues.protocol import Parsed

_SIDES: Final = {"Buy": BID, "Sell": ASK}


class _Row(msgspec.Struct):
    symbol: str
    id: int
    side: Literal["Buy", "Sell"]
    size: int | None = None
    price: Number | None = None


class _Trade(msgspec.Struct):
    symbol: str
    timestamp: str
    side: Literal["Buy", "Sell"]
    size: int
    price: Number


class _Quote(msgspec.Struct):
    symbol: str
    timestamp: str
    bidSize: int | None = None  # noqa: N815 the wire's names
    bidPrice: Number | None = None  # noqa: N815
    askSize: int | None = None  # noqa: N815
    askPrice: Number | None = None  # noqa: N815


class _Filter(msgspec.Struct):
    symbol: str | None = None


class _Table(msgspec.Struct):
    table: str
    action: Literal["partial", "insert", "update", "delete"]
    data: list[Any]
    filter: _Filter | None = None


class Parser(JsonParser):
    """Reads the tables of one symbol; remembers the price of every level."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument)
        self._prices: dict[int, Number] | None = None

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if isinstance(value, dict) and any(name in value for name in ("info", "success", "subscribe", "error")):
            return Parsed("other")
        if not (isinstance(value, dict) and "table" in value):
            raise unknown(payload, "a table")
        table = formed(value, _Table)
        if table.table == "orderBookL2":
            return self._book(table, recv_ns, frame)
        if table.table == "trade":
            return self._trades(table, recv_ns, frame)
        if table.table == "quote":
            return self._quotes(table, recv_ns, frame)
        raise unknown(payload, "orderBookL2, trade or quote")

    def _book(self, table: _Table, recv_ns: int, frame: int) -> Parsed:
        rows = [formed(row, _Row) for row in table.data]
        for row in rows:
            self._check_symbol(row.symbol)
        if table.action == "partial":
            prices: dict[int, Number] = {}
            levels = [_level(row, "insert", prices) for row in rows]
            events = self._make.snapshot((0, recv_ns), frame, levels)
            self._prices = prices
            return Parsed("snapshot", events)
        if self._prices is None:
            return Parsed("other")
        prices = dict(self._prices) if len(rows) > 1 else self._prices
        try:
            levels = [_level(row, table.action, prices) for row in rows]
            events = self._make.levels((0, recv_ns), frame, levels)
        except FrameError:
            self._prices = None  # the book is lost until the next partial
            raise
        self._prices = prices
        return Parsed("diff", events)

    def _trades(self, table: _Table, recv_ns: int, frame: int) -> Parsed:
        rows = [formed(row, _Trade) for row in table.data]
        for row in rows:
            self._check_symbol(row.symbol)
        if table.action != "insert":
            return Parsed("other")  # of before the session
        trades = [(ns_of_iso(row.timestamp), frame, _SIDES[row.side], row.price, row.size) for row in rows]
        return self._trades_of(recv_ns, frame, trades)

    def _quotes(self, table: _Table, recv_ns: int, frame: int) -> Parsed:
        parts = []
        exch_ns = 0
        for each in table.data:
            row = formed(each, _Quote)
            self._check_symbol(row.symbol)
            exch_ns = ns_of_iso(row.timestamp)
            bid = (row.bidPrice or 0, row.bidSize or 0)
            ask = (row.askPrice or 0, row.askSize or 0)
            parts.append(self._make.ticker((exch_ns, recv_ns), frame, bid, ask))
        return Parsed("ticker", joined(parts), exch_ns=exch_ns) if parts else Parsed("other")


def _level(row: _Row, action: str, prices: dict[int, Number]) -> Level:
    """The row as a level with its price and its size now."""
    if action == "insert":
        if row.price is None or row.size is None:
            raise FrameError("missing_field", f"level {row.id} is inserted without a price or a size")
        prices[row.id] = row.price
        return _SIDES[row.side], row.price, row.size
    price = prices.get(row.id)
    if price is None:
        raise FrameError("unknown_level", f"level {row.id} was never inserted")
    if action == "delete":
        del prices[row.id]
        return _SIDES[row.side], price, 0
    if row.size is None:
        raise FrameError("missing_field", f"level {row.id} is updated without a size")
    return _SIDES[row.side], price, row.size


def _symbol_of(value: Any) -> str | None:
    """The symbol is in the rows; an empty partial names it in its filter."""
    if not (isinstance(value, dict) and "table" in value):
        return None
    table = formed(value, _Table)
    if table.data and isinstance(table.data[0], dict):
        return text_at(table.data[0], "symbol")
    return table.filter.symbol if table.filter else None


VENUE: Final = recorded(
    name="bitmex",
    addresses={"wss://www.bitmex.com/realtime": "bitmex"},
    parser=Parser,
    reasons=REASONS | {"unknown_level"},
    rule="snapshots",
    route=routed_by(_symbol_of),
)
