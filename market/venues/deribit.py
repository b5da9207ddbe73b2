"""Deribit's book summaries of options in CSV, a packed file a snapshot: slow records, not events of a book.

One row an option: bid, ask and mark price in the currency the option is on, implied volatility and Greeks, open
interest and volume in contracts, the forward that it is priced on. All went through doubles.

* A side without orders has an empty field: its price is 0. The recorder's forward can be missing too: then it is the
  one that the exchange interpolated (``underlying``).
* Rows of a recording are of several currencies; ``deribit.BTC`` stands for all options on it.
* All rows of a snapshot carry one time, the recorder's; they were asked for within seconds. There is no exchange time.

Reasons: ``not_text``, ``wrong_columns``, ``wrong_symbol``, ``bad_side``, ``bad_time``, ``bad_number``, ``negative``,
``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Final

from market.decimals import Unit
from market.errors import FrameError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.json_frames import ns_of_iso
from market.venues.formats.text_rows import decimal_float, fields_of, numbered, priced
from market.venues.protocol import SEVERAL, OptionSummary, Parsed, Route, Venue, always, listed

EXCHANGE: Final = "deribit"
COLUMNS: Final = [
    "timestamp",
    "instrument_name",
    "underlying",
    "underlying_name",
    "option_type",
    "strike",
    "expiry_datetime",
    "time_to_maturity",
    "bid_price",
    "ask_price",
    "mark_price",
    "mid_price",
    "futures_price",
    "futures_instrument_name",
    "implied_volatility",
    "delta",
    "vega",
    "open_interest",
    "volume",
    "bid_ask_spread",
    "currency",
    "index_price",
    "volume_usd",
]

_HEADER: Final = ",".join(COLUMNS).encode()
_AT: Final = {name: i for i, name in enumerate(COLUMNS)}
_SIDES: Final = {"call": BID, "put": ASK}
_E8: Final = Unit(Decimal("1e-8"), limit=10**17, off_step="bad_number")


def recognise(path: Path) -> str | None:
    """``deribit.*`` under this header, else None."""
    first = [line for _, line in islice(lines(path), 1)]
    return f"{EXCHANGE}.{SEVERAL}" if first == [_HEADER] else None


def route() -> Route:
    """What tells the currency of a row."""
    return _currency


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, row; headers are no rows."""
    return numbered((line for _, line in lines(path) if line != _HEADER), received)


def received(row: bytes) -> int:
    """Receive ns of a row.

    Raises:
        FrameError: it has no readable time.
    """
    return ns_of_iso(row.partition(b",")[0].decode("ascii", "replace"))


class Parser:
    """Reads the rows of one currency. It remembers nothing."""

    def __init__(self, instrument: Instrument) -> None:
        self._currency = instrument.symbol

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        return Parsed("slow", option=self._summary(payload, recv_ns, frame))

    def _summary(self, payload: bytes, recv_ns: int, frame: int) -> OptionSummary:
        row = fields_of(payload, len(COLUMNS))
        if row[_AT["currency"]] != self._currency:
            raise FrameError("wrong_symbol", f"expected {self._currency}, saw {row[_AT['currency']][:40]!r}")
        form = row[_AT["option_type"]]
        if form not in _SIDES:
            raise FrameError("bad_side", f"expected call or put, saw {form[:40]!r}")
        forward = row[_AT["futures_price"]] or row[_AT["underlying"]]
        return OptionSummary(
            frame=frame,
            recv_ns=recv_ns,
            exch_ns=0,
            option=row[_AT["instrument_name"]],
            side=_SIDES[form],
            strike_e8=priced(_e8(row, "strike")),
            expiry_ns=ns_of_iso(row[_AT["expiry_datetime"]]),
            bid_e8=_e8(row, "bid_price", may_be_missing=True),
            ask_e8=_e8(row, "ask_price", may_be_missing=True),
            mark_e8=_e8(row, "mark_price"),
            index_e8=_e8(row, "index_price"),
            open_interest_e8=_e8(row, "open_interest"),
            volume_e8=_e8(row, "volume"),
            forward=_finite(forward, "a forward price"),
            implied_volatility=_finite(row[_AT["implied_volatility"]], "a volatility"),
            delta=_finite(row[_AT["delta"]], "a delta"),
            vega=_finite(row[_AT["vega"]], "a vega"),
        )


def _currency(row: bytes) -> str | None:
    fields = row.split(b",")
    return fields[_AT["currency"]].decode("ascii", "replace") if len(fields) == len(COLUMNS) else None


def _e8(row: list[str], name: str, *, may_be_missing: bool = False) -> int:
    text = row[_AT[name]]
    return 0 if may_be_missing and not text else _E8.of_float(decimal_float(text, name))


def _finite(text: str, what: str) -> float:
    value = decimal_float(text, what)
    if not isfinite(value):
        raise FrameError("bad_number", f"expected {what}, saw {text[:40]!r}")
    return value


VENUE: Final = Venue(
    name="deribit-options",
    parser=Parser,
    reasons=listed("bad_number bad_side bad_time negative not_text out_of_range wrong_columns wrong_symbol"),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
    route=route,
)
