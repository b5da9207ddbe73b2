"""Five levels of a Shanghai future as a table, one row each half second, with totals of the trading day.

``bid1`` .. ``askSize5`` are the levels, ``epochTime`` the local clock in us, ``updateTime`` the exchange's time of day
``HH:MM:SS.mmm`` in Shanghai; numbers are doubles.

* Night session, morning in two parts, afternoon: after a break the view begins anew with a snapshot. The night belongs
  to the next trading day but happens on the day its clock says.
* The local clock is now and then a little before the exchange's.
* ``*_chg`` and what a recorder derived from them are not read (those of the first row are totals). A row says how much
  was traded since the last one, not at which prices: there are no trade events.

Reasons: ``not_text``, ``missing_field``, ``wrong_type``, ``wrong_symbol``, ``bad_time``, ``bad_levels``,
``bad_number``, ``zero_size``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import FrameError
from market.instruments import Instrument
from market.venues.formats.depth_rows import View, levels_of
from market.venues.formats.parquet import columns, field, payload_of, row_of, rows
from market.venues.formats.text_rows import midnight_ns, units
from market.venues.protocol import Parsed, Venue, always, listed

EXCHANGE: Final = "shfe"
ZONE: Final = ZoneInfo("Asia/Shanghai")
LEVELS: Final = 5
BREAK_NS: Final = 60 * NS_PER_S

_LOCAL, _EXCHANGE, _SYMBOL = "epochTime", "updateTime", "instrumentID"
_BIDS: Final = [(f"bid{i}", f"bidSize{i}") for i in range(1, LEVELS + 1)]
_ASKS: Final = [(f"ask{i}", f"askSize{i}") for i in range(1, LEVELS + 1)]
_NS_PER_US: Final = 1_000
_CLOCK: Final = len("20:59:00")


def recognise(path: Path) -> str | None:
    """``shfe.SYMBOL`` of the first row of a table of this form, else None."""
    names = set(columns(path) or ())
    if not names >= {_LOCAL, _EXCHANGE, _SYMBOL, *(name for pair in _BIDS + _ASKS for name in pair)}:
        return None
    first = next(rows(path, [_SYMBOL]), None)
    return f"{EXCHANGE}.{first[_SYMBOL]}" if first else None


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, row as JSON."""
    for frame, row in enumerate(rows(path), 1):
        yield frame, row[_LOCAL] * _NS_PER_US, payload_of(row)


class Parser:
    """Reads the rows of one future; remembers the one before and its time."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._name = instrument.symbol
        self._view = View()
        self._last_ns = 0

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        row = row_of(payload)
        if field(row, _SYMBOL, str) != self._name:
            raise FrameError("wrong_symbol", f"expected {self._name}, saw {row[_SYMBOL][:40]!r}")
        exch_ns = _exchange_ns(field(row, _EXCHANGE, str), recv_ns)
        bids, asks = (levels_of(row, names, self._tick, self._lot) for names in (_BIDS, _ASKS))
        if recv_ns - self._last_ns > BREAK_NS:
            self._view = View()
        self._last_ns = recv_ns
        return Parsed("diff", self._view.changes((exch_ns, recv_ns, frame, frame), 0, bids, asks), exch_ns=exch_ns)


def _exchange_ns(text: str, recv_ns: int) -> int:
    """A time of day in Shanghai, on the day that brings it nearest to the receive time."""
    try:
        at = datetime.strptime(text[:_CLOCK], "%H:%M:%S")
        part = int(text[_CLOCK + 1 :].ljust(3, "0")) if text[_CLOCK : _CLOCK + 1] == "." else -1
    except ValueError:
        part = -1
    if not 0 <= part <= 999:
        raise FrameError("bad_time", f"expected a time of day HH:MM:SS.mmm, saw {text[:40]!r}")
    since_ns = (at.hour * 3600 + at.minute * 60 + at.second) * NS_PER_S + part * NS_PER_MS
    day = datetime.fromtimestamp(recv_ns // NS_PER_S, tz=UTC).astimezone(ZONE).date()
    near = [midnight_ns(day + timedelta(days=shift), ZONE) + since_ns for shift in (-1, 0, 1)]
    return min(near, key=lambda ns: abs(ns - recv_ns))


VENUE: Final = Venue(
    name="shfe-levels",
    parser=Parser,
    reasons=listed(
        "bad_levels bad_number bad_time missing_field negative not_text off_lot off_tick out_of_range "
        "wrong_symbol wrong_type zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
)
