"""A batch compared with the others of its source: how far its figures are from the usual, and what is missing.

*Usual* is the median over the batches of the source validated together with it and up to :data:`RECENT` before them.
With fewer than :data:`LEAST` there is no usual value, and nothing deviates from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from market.clock import BATCH_NS, NS_PER_S
from market.quality.figures import Measured

RECENT: Final = 60
LEAST: Final = 3
_HALF_MINUTE_S: Final = BATCH_NS / NS_PER_S / 2

Floats = NDArray[np.float64]
Sessions = Callable[[int, int], NDArray[np.int64] | None]


def compared(earlier: Sequence[Measured], judged: Sequence[Measured], sessions: Sessions) -> list[Measured]:
    """``judged`` with the figures that depend on other batches added; both in order of time.

    ``sessions(first, last)`` returns the minutes (UTC minutes since the epoch, ascending) between two, both included,
    in which the venue trades; None if that is unknown.
    """
    recent = [*earlier[-RECENT:], *judged]
    columns = {name: _column(recent, name) for name in _COMPARED}
    usual = {name: _usual(values) for name, values in columns.items()}
    missing = _missing(recent, sessions)[len(recent) - len(judged) :]
    return [
        replace(each, values={**each.values, **_departures(each.values, usual), "missing_minutes": float(gone)})
        for each, gone in zip(judged, missing, strict=True)
    ]


_COMPARED: Final = ("largest_size", "volume", "median_depth", "median_spread_bp", "median_offset_ms")


def _departures(values: Mapping[str, float], usual: Mapping[str, float | None]) -> dict[str, float]:
    offset, usual_offset = values["median_offset_ms"], usual["median_offset_ms"]
    whole = values["span_s"] >= _HALF_MINUTE_S  # part of a minute has little volume, and that means nothing
    return {
        "size_ratio": _times(values["largest_size"], usual["largest_size"]),
        "volume_ratio": _times(values["volume"], usual["volume"]),
        "volume_low_ratio": _times(usual["volume"], values["volume"]) if whole else 0.0,
        "depth_ratio": _either_way(values["median_depth"], usual["median_depth"]),
        "spread_ratio": _either_way(values["median_spread_bp"], usual["median_spread_bp"]),
        "offset_shift_ms": 0.0 if not offset or usual_offset is None else abs(offset - usual_offset),
    }


def _column(batches: Sequence[Measured], name: str) -> Floats:
    return np.array([each.values[name] for each in batches], dtype=np.float64)


def _usual(values: Floats) -> float | None:
    """The median of what is present: a batch without a book has no depth, one without trades no volume."""
    there = values[values != 0]
    return float(np.median(there)) if len(there) >= LEAST else None


def _times(value: float | None, usual: float | None) -> float:
    """A value as a multiple of ``usual``, which is taken to be at least one lot."""
    return 0.0 if value is None or usual is None else value / max(1.0, usual)


def _either_way(value: float, usual: float | None) -> float:
    """How many times more or less than usual; 0 if one of the two is missing."""
    return 0.0 if not value or not usual else max(value / usual, usual / value)


def _missing(batches: Sequence[Measured], sessions: Sessions) -> list[int]:
    """For each batch, the trading minutes between it and the one before it that have no batch."""
    gone = [0] if batches else []
    for before, this in pairwise(batches):
        first, last = before.last_ns // BATCH_NS + 1, this.first_ns // BATCH_NS - 1
        within = sessions(first, last) if last >= first else None
        gone.append(0 if within is None else len(within))
    return gone
