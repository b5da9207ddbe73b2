"""Binance's best 1,000 levels as a table, one row about every 100 ms, and its trades as a table of their own (Parquet).

Depth rows have ``ts_ms`` (local), ``exch_ts_ms``, ``symbol``, ``market_type`` (spot, fut), ``seq`` and the lists
``bids_px``, ``bids_qty``, ``asks_px``, ``asks_qty``; trades have ``trade_id``, ``price``, ``qty``, ``side``. Numbers
are doubles. A frame is a row as JSON.

* A depth row is the whole of what is in sight: what changed since the row before becomes events.
* ``side`` of a trade is the aggressor's.

Reasons: those of :mod:`market.venues.formats.parquet` and :mod:`market.venues.formats.json_frames`, and ``bad_levels``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from market.clock import NS_PER_MS
from market.errors import FrameError
from market.events import ASK, BID, F_LAST, TRADE
from market.instruments import Instrument
from market.venues.formats.depth_rows import Levels, View
from market.venues.formats.json_frames import checked_symbol, id_of, ns_of_ms, side_of
from market.venues.formats.parquet import Row, columns, field, payload_of, row_of, rows
from market.venues.formats.text_rows import events_of, positive, priced, units, words
from market.venues.protocol import NO_STAMP, Frame, Parsed, Venue, always, listed

_DEPTH: Final = {"ts_ms", "exch_ts_ms", "symbol", "market_type", "seq", "bids_px", "bids_qty", "asks_px", "asks_qty"}
_TRADES: Final = {"ts_ms", "exch_ts_ms", "symbol", "market_type", "trade_id", "price", "qty", "side"}
_MARKETS: Final = {"spot": "binance-spot", "fut": "binance-usdm"}
_SIDES: Final = {"buy": BID, "sell": ASK}


def recognise(path: Path) -> str | None:
    """The key in the first row of a table of either form, else None."""
    names = set(columns(path) or ())
    if not (names >= _DEPTH or names >= _TRADES):
        return None
    first = next(rows(path, ["market_type", "symbol"]), None)
    market = _MARKETS.get(first["market_type"]) if first else None
    return f"{market}.{first['symbol']}" if first and market else None


def frames(path: Path) -> Iterator[Frame]:
    """Frame number, receive ns, row as JSON."""
    wanted = [name for name in columns(path) or () if name in _DEPTH | _TRADES]
    for frame, row in enumerate(rows(path, wanted), 1):
        local = row["ts_ms"]
        yield frame, local * NS_PER_MS if isinstance(local, int) else NO_STAMP, payload_of(row)


class Parser:
    """Reads the rows of one instrument; remembers the levels before."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._tick, self._lot = units(instrument)
        self._view = View()

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        row = row_of(payload)
        checked_symbol(field(row, "symbol", str), self._instrument)
        exch_ns = ns_of_ms(field(row, "exch_ts_ms", int))
        if "trade_id" in row:
            return self._trade(row, exch_ns, recv_ns, frame)
        seq = id_of(field(row, "seq", int), "an update id")
        bids, asks = (self._levels(row, f"{side}_px", f"{side}_qty") for side in ("bids", "asks"))
        return Parsed("diff", self._view.changes((exch_ns, recv_ns, seq, frame), 0, bids, asks), exch_ns=exch_ns)

    def _levels(self, row: Row, price_name: str, size_name: str) -> Levels:
        prices, sizes = field(row, price_name, list), field(row, size_name, list)
        if len(prices) != len(sizes):
            raise FrameError("bad_levels", f"{len(prices)} prices and {len(sizes)} sizes in {price_name}, {size_name}")
        levels = {
            priced(self._tick.of_float(_double(price))): positive(self._lot.of_float(_double(size)))
            for price, size in zip(prices, sizes, strict=True)
        }
        if len(levels) != len(prices):
            raise FrameError("bad_levels", f"expected every price once in {price_name}")
        return levels

    def _trade(self, row: Row, exch_ns: int, recv_ns: int, frame: int) -> Parsed:
        head = (exch_ns, recv_ns, id_of(field(row, "trade_id", str), "a trade id"), frame)
        side = side_of(field(row, "side", str), _SIDES)
        price = priced(self._tick.of_float(_double(row.get("price"))))
        size = positive(self._lot.of_float(_double(row.get("qty"))))
        return Parsed("trade", events_of(words(head, 0, (side, price, size), (TRADE, F_LAST))), exch_ns=exch_ns)


def _double(value: Any) -> float:
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise FrameError("wrong_type", f"expected a number, saw {str(value)[:40]!r}")
    if isinstance(value, int) and abs(value) >= 2**53:
        raise FrameError("out_of_range", f"{value} is larger than any price or size")
    return float(value)


VENUE: Final = Venue(
    name="binance-levels",
    parser=Parser,
    reasons=listed(
        "not_text missing_field wrong_type wrong_symbol bad_time bad_side bad_levels bad_number zero_size negative "
        "off_tick off_lot out_of_range"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
)
