"""Five levels of a CME future as a table, one row about every 100 ms, and its trades as a table of their own.

Quotes have ``bid_price_0`` .. ``offer_quantity_4`` and ``transact_time``; trades have ``side``, ``price``,
``quantity``, ``transact_time``, ``market_trade_id``. Numbers are doubles.

* A row may be locked. A level without a price is empty; a whole side can be. Rows go on through the daily halt: those
  that change nothing give no event.
* ``side`` of a trade is the side of the book it hit: O the offer (a buyer came), B the bid. A trade id repeats for each
  order it was matched with.
* One clock, ms in UTC: receive and exchange time are equal. The contract is only in the name of the file.

Reasons: ``not_text``, ``missing_field``, ``wrong_type``, ``bad_side``, ``bad_time``, ``bad_levels``, ``bad_number``,
``zero_size``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from market.errors import FrameError
from market.events import ASK, BID, F_LAST, TRADE
from market.instruments import Instrument
from market.venues.formats.depth_rows import View, levels_of
from market.venues.formats.parquet import columns, field, payload_of, row_of, rows
from market.venues.formats.text_rows import events_of, positive, priced, units, words
from market.venues.protocol import Parsed, Venue, always, listed

EXCHANGE: Final = "cme"
LEVELS: Final = 5

_BIDS: Final = [(f"bid_price_{level}", f"bid_quantity_{level}") for level in range(LEVELS)]
_OFFERS: Final = [(f"offer_price_{level}", f"offer_quantity_{level}") for level in range(LEVELS)]
_QUOTES: Final = {name for pair in _BIDS + _OFFERS for name in pair}
_TRADES: Final = {"side", "price", "quantity", "market_trade_id"}
_TIME: Final = "transact_time"
_CONTRACTS: Final = {"gc": "GCM3", "xet": "XETU3"}  # how the recordings at hand are named
_SIDES: Final = {"O": BID, "B": ASK}


def recognise(path: Path) -> str | None:
    """``cme.SYMBOL`` of a table of either form whose name begins with a known contract, else None."""
    names = set(columns(path) or ())
    symbol = _CONTRACTS.get(path.name.partition("_")[0])
    known = _TIME in names and (names >= _QUOTES or names >= _TRADES)
    return f"{EXCHANGE}.{symbol}" if known and symbol else None


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, row as JSON."""
    for frame, row in enumerate(rows(path), 1):
        yield frame, row[_TIME], payload_of(row)


class Parser:
    """Reads the rows of one contract; remembers the quotes before."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._view = View()

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        row = row_of(payload)
        exch_ns = field(row, _TIME, int)
        if not 0 <= exch_ns < 2**63:
            raise FrameError("bad_time", f"expected a time in ns since 1970, saw {exch_ns}")
        head = (exch_ns, recv_ns, frame, frame)
        if "side" in row:
            side = field(row, "side", str)
            if side not in _SIDES:
                raise FrameError("bad_side", f"expected O or B, saw {side[:40]!r}")
            price = priced(self._tick.of_float(field(row, "price", float)))
            size = positive(self._lot.of_float(field(row, "quantity", float)))
            return Parsed(
                "trade", events_of(words(head, 0, (_SIDES[side], price, size), (TRADE, F_LAST))), exch_ns=exch_ns
            )
        bids, asks = (levels_of(row, names, self._tick, self._lot) for names in (_BIDS, _OFFERS))
        return Parsed("diff", self._view.changes(head, 0, bids, asks), exch_ns=exch_ns)


VENUE: Final = Venue(
    name="cme-levels",
    parser=Parser,
    reasons=listed(
        "bad_levels bad_number bad_side bad_time missing_field negative not_text off_lot off_tick "
        "out_of_range wrong_type zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
)
