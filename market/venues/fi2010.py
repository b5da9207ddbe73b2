"""FI-2010 (Ntakaris et al. 2018, "Benchmark dataset for mid-price forecasting of limit order book data").

A text file is a matrix of 149 rows, a column for every ten events of five Finnish stocks on NASDAQ Nordic: rows 0 to 39
are ask price, ask size, bid price, bid size of ten levels; 40 to 143 the authors' features; 144 to 148 the labels for
1, 2, 3, 5 and 10 columns ahead: 1 up, 2 stationary, 3 down (section 3.5 there).

It is not a feed: prices and sizes are normalised, there is no clock, and days and stocks follow each other without a
mark. It becomes arrays for comparing with papers, never events.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from market.archives import members
from market.errors import CaptureError

ROWS: Final = 149
LEVELS: Final = 10
LABELS_AHEAD: Final = (1, 2, 3, 5, 10)

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


def recognise(path: Path) -> bool:
    """Whether the first line is a row of numbers of the benchmark's form."""
    for _, file in members(path):
        head = file.read(4096).split(b"\n")[0].split()[:-1]
        return len(head) > 1 and all(_is_number(text) for text in head)
    return False


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


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
