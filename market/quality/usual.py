"""A batch beside the others of its source: how far its figures are from what is usual there, and what is missing.

*Usual* is the median over the batches of the source judged together with it and up to :data:`RECENT` before them. With
fewer than :data:`LEAST` there is no usual, and nothing departs from it.
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
    """``judged`` with the figures that need a look at other batches; both in the order of time.

    ``sessions(first, last)`` answers the minutes (UTC minutes since the epoch, ascending) between two, both included,
    in which the venue trades; None where that is not known.
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
    whole = values["span_s"] >= _HALF_MINUTE_S  # a piece of a minute has little volume, and that is no news
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
    """The median of what is there: a batch without a book says nothing of depth, one without trades of volume."""
    there = values[values != 0]
    return float(np.median(there)) if len(there) >= LEAST else None


def _times(value: float | None, usual: float | None) -> float:
    """How many times ``usual`` a value is; at least one lot is taken to be usual."""
    return 0.0 if value is None or usual is None else value / max(1.0, usual)


def _either_way(value: float, usual: float | None) -> float:
    """How many times more or less than usual; 0 where one of the two is not there."""
    return 0.0 if not value or not usual else max(value / usual, usual / value)


def _missing(batches: Sequence[Measured], sessions: Sessions) -> list[int]:
    """For each batch the minutes of a session between it and the one before it, of which there is no batch."""
    gone = [0] if batches else []
    for before, this in pairwise(batches):
        first, last = before.last_ns // BATCH_NS + 1, this.first_ns // BATCH_NS - 1
        within = sessions(first, last) if last >= first else None
        gone.append(0 if within is None else len(within))
    return gone
