"""FI-2010 (Ntakaris et al. 2018, "Benchmark dataset for mid-price forecasting of limit order book data").

A text file is a matrix of 149 rows, a column for every ten events of five Finnish stocks on NASDAQ Nordic: rows 0 to 39
are ask price, ask size, bid price, bid size of ten levels; 40 to 143 the authors' features; 144 to 148 the labels for
1, 2, 3, 5 and 10 columns ahead: 1 up, 2 stationary, 3 down (section 3.5 there).

It is not a feed: prices and sizes are normalised, there is no clock, and days and stocks follow each other without a
mark. For comparing with papers it becomes arrays (:func:`read`), never datasets made of events. As a recording it lands
like any other: a frame is a column, its 149 numbers with blanks between, and its levels are the book. All times are 0,
which is the truth about its clock, and the steps are the decimals it is written with. Only files of "decimal precision"
(``DecPre``) have prices above zero; those of the other two normalisations are refused row by row, ``negative``.

Reasons: ``not_text``, ``wrong_columns``, ``bad_number``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``,
``zero_size``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from market.errors import CaptureError
from market.events import F_NO_EXCH_TIME
from market.instruments import Instrument
from market.venues.formats.archives import lines, members
from market.venues.formats.depth_rows import Levels, View
from market.venues.formats.text_rows import decimal_float, fields_of, positive, priced, units
from market.venues.protocol import Frame, Parsed, Venue, always, listed

KEY: Final = "fi2010.STOCKS"

ROWS: Final = 149
LEVELS: Final = 10
LABELS_AHEAD: Final = (1, 2, 3, 5, 10)

_AT_ONCE: Final = 4096  # columns that are put together at a time
_BOOK_ROWS: Final = 4 * LEVELS
_LABEL_ROWS: Final = len(LABELS_AHEAD)
# columns of the files of the setup that papers use (no auctions, decimal precision, first seven days to train)
_KNOWN_COLUMNS: Final = {
    "Train_Dst_NoAuction_DecPre_CF_7": 254_750,
    "Test_Dst_NoAuction_DecPre_CF_7": 55_478,
    "Test_Dst_NoAuction_DecPre_CF_8": 52_172,
    "Test_Dst_NoAuction_DecPre_CF_9": 31_937,
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One file: ``book_TF`` (n, 40), ``features_TF`` (n, 104), ``labels_TK`` (n, 5) with 1, 2 or 3."""

    book_TF: NDArray[np.float64]  # noqa: N815
    features_TF: NDArray[np.float64]  # noqa: N815
    labels_TK: NDArray[np.int8]  # noqa: N815
    sha256: str


def recognise(path: Path) -> str | None:
    """:data:`KEY` where the file is 149 lines of numbers, else None."""
    first, count = b"", 0
    for _, line in islice(lines(path), ROWS + 1):
        first, count = first or line, count + 1
        if count == 1 and not _is_row(first):
            return None
    return KEY if count == ROWS else None


def frames(path: Path) -> Iterator[Frame]:
    """Frame number, 0 as the receive time, column. The whole text is held, the largest file of the benchmark 0.6 GB.

    Raises:
        CaptureError: the lines do not have equally many numbers.
    """
    rows = [np.array(line.split()) for _, line in lines(path)]
    if len({len(row) for row in rows}) > 1:
        raise CaptureError(f"{path.name}: its lines have different lengths; expected a matrix, fetch the file again")
    for start in range(0, len(rows[0]), _AT_ONCE):
        columns = zip(*(row[start : start + _AT_ONCE].tolist() for row in rows), strict=True)
        for number, column in enumerate(columns, start + 1):
            yield number, 0, b" ".join(column)


class Parser:
    """Reads the columns of one file; remembers the one before."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._view = View()

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read the levels of one column.

        Raises:
            FrameError: see the module.
        """
        fields = fields_of(payload, ROWS, " ")[:_BOOK_ROWS]
        asks, bids = self._levels(fields[0::4], fields[1::4]), self._levels(fields[2::4], fields[3::4])
        return Parsed("diff", self._view.changes((0, recv_ns, frame, frame), F_NO_EXCH_TIME, bids, asks))

    def _levels(self, prices: list[str], sizes: list[str]) -> Levels:
        return {
            priced(self._tick.of_float(decimal_float(price, "a price"))): positive(
                self._lot.of_float(decimal_float(size, "a size"))
            )
            for price, size in zip(prices, sizes, strict=True)
        }


def read(path: Path, *, sha256: str | None = None) -> Benchmark:
    """Read a file, plain or packed.

    ``sha256`` is what its bytes must have where given; files with the names of the usual setup must have its columns.

    Raises:
        InputError: the file is missing or may not be read.
        CaptureError: another sum, another shape, a value that is no number, or a label that is none.
    """
    name, text = next((name, file.read()) for name, file in members(path))
    seen = hashlib.sha256(text).hexdigest()
    if sha256 is not None and seen != sha256:
        raise CaptureError(f"{path.name}: expected sha256 {sha256}, saw {seen}; fetch the file again")
    try:
        matrix = np.loadtxt(text.decode("ascii").splitlines(), dtype=np.float64, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise CaptureError(
            f"{path.name}: not a matrix of numbers ({error}); expected {ROWS} rows of equal length"
        ) from None
    expected = _KNOWN_COLUMNS.get(Path(name).stem.partition(".")[0], matrix.shape[1])
    if matrix.shape != (ROWS, expected):
        raise CaptureError(
            f"{path.name}: expected a matrix of {ROWS} x {expected}, saw {matrix.shape[0]} x {matrix.shape[1]}"
        )
    if not np.isfinite(matrix).all():
        raise CaptureError(f"{path.name}: a value is not finite; fetch the file again")
    labels = matrix[-_LABEL_ROWS:]
    if not np.isin(labels, (1, 2, 3)).all():
        raise CaptureError(f"{path.name}: a label is none of 1, 2, 3; its last {_LABEL_ROWS} rows are not labels")
    return Benchmark(
        book_TF=np.ascontiguousarray(matrix[:_BOOK_ROWS].T),
        features_TF=np.ascontiguousarray(matrix[_BOOK_ROWS:-_LABEL_ROWS].T),
        labels_TK=np.ascontiguousarray(labels.T.astype(np.int8)),
        sha256=seen,
    )


def _is_row(line: bytes) -> bool:
    numbers = line.split()
    return len(numbers) > 1 and all(_is_number(text) for text in numbers)


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


VENUE: Final = Venue(
    name="fi2010",
    parser=Parser,
    reasons=listed("bad_number negative not_text off_lot off_tick out_of_range wrong_columns zero_size"),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
)
