"""Marks of Deribit futures at the times of option snapshots, in CSV: perpetuals in one file, dated futures in another.

The header tells the two apart. A row is a slow record of one future: its mark price, which for perpetuals was taken
from the nearest candle by whoever recorded it. Columns about that candle are not read. Rows of a file are of many
futures. There is one time, that of the snapshot; it is the receive time.

Reasons: ``not_text``, ``wrong_columns``, ``wrong_symbol``, ``bad_time``, ``bad_number``, ``negative``,
``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Final

from market.clock import NS_PER_MS
from market.decimals import Unit
from market.errors import FrameError
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.text_rows import decimal_float, fields_of, instant, numbered, priced
from market.venues.protocol import SEVERAL, Parsed, Route, Slow, Venue, always, listed

EXCHANGE: Final = "deribit"

_STARTS: Final = (b"snapshot_file,snapshot_timestamp_ms,", b"timestamp,currency,futures_instrument_name,")
# columns of each form: how many, the future's name, the snapshot's ms, the mark price
_PERPETUAL: Final = (27, 4, 1, 23)
_DATED: Final = (30, 2, 9, 28)
_E8: Final = Unit(Decimal("1e-8"), limit=10**17, off_step="bad_number")


def recognise(path: Path) -> str | None:
    """``deribit.FUTURE`` of a recording under either header, ``deribit.*`` of one with several futures, else None."""
    first = next(lines(path), None)
    if first is None or not first[1].startswith(_STARTS):
        return None
    found = futures(path)
    return f"{EXCHANGE}.{found[0] if len(found) == 1 else SEVERAL}" if found else None


def route() -> Route:
    """What tells the future of a row."""
    return _future


def futures(path: Path) -> list[str]:
    """The futures that a recording has marks of, sorted."""
    return sorted({_future(line) for _, line in islice(lines(path), 1, None)})


def frames(path: Path, future: str = "") -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, row of one future, or of all; the header is no row."""
    rows = (line for _, line in islice(lines(path), 1, None))
    return numbered((row for row in rows if future in ("", _future(row))), received)


def received(row: bytes) -> int:
    """Receive ns of a row.

    Raises:
        FrameError: it has no readable time.
    """
    count, _, at, _ = _form(row)
    return instant(fields_of(row, count)[at], "a time in ms", NS_PER_MS)


def _form(row: bytes) -> tuple[int, int, int, int]:
    return _PERPETUAL if row.count(b",") == _PERPETUAL[0] - 1 else _DATED


def _future(row: bytes) -> str:
    count, name, _, _ = _form(row)
    fields = row.split(b",")
    return fields[name].decode("ascii", "replace") if len(fields) == count else ""


class Parser:
    """Reads the rows of one future. It remembers nothing."""

    def __init__(self, instrument: Instrument) -> None:
        self._future = instrument.symbol

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one row.

        Raises:
            FrameError: see the module.
        """
        count, name, _, mark = _form(payload)
        row = fields_of(payload, count)
        if row[name] != self._future:
            raise FrameError("wrong_symbol", f"expected {self._future}, saw {row[name][:40]!r}")
        mark_e8 = priced(_E8.of_float(decimal_float(row[mark], "a mark price")))
        slow = Slow(
            frame=frame,
            recv_ns=recv_ns,
            exch_ns=0,
            funding_rate=0.0,
            mark_e8=mark_e8,
            index_e8=0,
            next_funding_ns=0,
        )
        return Parsed("slow", slow=slow)


VENUE: Final = Venue(
    name="deribit-marks",
    parser=Parser,
    reasons=listed("bad_number bad_time negative not_text out_of_range wrong_columns wrong_symbol"),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
    route=route,
)
