"""What a model predicts: by time, from the current mid, at four horizons.

The value at ``t + h`` is the state of the last row whose receive time is not after ``t + h``. Direction compares mids;
depth compares lots near the touch. A label is UNKNOWN where the rows of its segment do not reach ``t + h``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from market.clock import NS_PER_MS
from market.compiled import compiled
from market.errors import SettingsError
from market.heads import NONE, width

HORIZONS_NS: Final = (50 * NS_PER_MS, 100 * NS_PER_MS, 500 * NS_PER_MS, 1000 * NS_PER_MS)
HORIZON_NAMES: Final = ("50ms", "100ms", "500ms", "1s")
N_OUTPUTS: Final = width(len(HORIZONS_NS))  # laid out as market.heads says

UNKNOWN: Final = -1

NS_PER_HOUR: Final = 3_600_000_000_000

Int64s = NDArray[np.int64]
Int8s = NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """What counts as a move and as a fall.

    ``threshold_half_ticks``: the mid must move by more than this many half ticks; 0 = any move.
    ``depth_fall_percent``: depth near the touch must fall by this share or more.
    """

    horizons_ns: tuple[int, ...] = HORIZONS_NS
    threshold_half_ticks: int = 0
    depth_fall_percent: int = 20

    def __post_init__(self) -> None:
        if not self.horizons_ns or min(self.horizons_ns) <= 0 or self.threshold_half_ticks < 0:
            raise SettingsError(f"expected positive horizons and a threshold >= 0, saw {self}; mend the label settings")
        if not 0 < self.depth_fall_percent <= 100:
            raise SettingsError(f"expected a depth fall within 1 and 100 percent, saw {self.depth_fall_percent}")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of ``n`` rows at ``H`` horizons, int8 (n, H).

    ``direction``: DOWN, NONE, UP or UNKNOWN. ``bid_fall``, ``ask_fall``: 1, 0 or UNKNOWN.
    """

    direction: Int8s
    bid_fall: Int8s
    ask_fall: Int8s


def labels(
    recv_ns: Int64s, mid2: Int64s, bid_depth: Int64s, ask_depth: Int64s, segment: Int64s, config: LabelConfig
) -> Labels:
    """Labels of rows in order. All arrays (n,): times in ns, ``mid2`` in half ticks, depths in lots.

    Rows of equal ``segment`` that follow each other are one stretch without holes. A receive time that goes back within
    a segment counts as no time passed, as in the features.
    """
    columns = [np.ascontiguousarray(c, dtype=np.int64) for c in (recv_ns, mid2, bid_depth, ask_depth, segment)]
    if len({len(c) for c in columns}) != 1:
        raise SettingsError(f"expected columns of one length, saw {[len(c) for c in columns]}")
    out = np.full((3, len(recv_ns), len(config.horizons_ns)), UNKNOWN, dtype=np.int8)
    time = _passed(columns[0])
    for h, horizon in enumerate(config.horizons_ns):
        _label(time, columns, horizon, config, out[:, :, h])
    return Labels(direction=out[0], bid_fall=out[1], ask_fall=out[2])


def _passed(recv_ns: Int64s) -> Int64s:
    """Receive time from 0 that never goes back; an hour without rows is as good as any longer one."""
    steps = np.diff(recv_ns, prepend=recv_ns[:1])
    return np.cumsum(np.clip(steps, 0, NS_PER_HOUR))


def _label(time: Int64s, columns: list[Int64s], horizon: int, config: LabelConfig, out: Any) -> None:
    _, mid2, bid_depth, ask_depth, segment = columns
    ends = np.flatnonzero(np.diff(segment)) + 1
    bounds = np.concatenate(([0], ends, [len(segment)])).astype(np.int64)
    at = _rows_at(time, bounds, horizon)
    known = at >= 0
    there = at[known]
    move = mid2[there] - mid2[known]
    out[0, known] = NONE + (move > config.threshold_half_ticks) - (move < -config.threshold_half_ticks)
    keep = 100 - config.depth_fall_percent
    for row, depth in ((1, bid_depth), (2, ask_depth)):
        out[row, known] = 100 * depth[there] <= keep * depth[known]


@compiled
def _rows_at(time: Int64s, bounds: Int64s, horizon: int) -> Int64s:
    """For each row the last row of its segment with time <= its time + horizon; -1 where the segment ends before."""
    out = np.full(len(time), -1, dtype=np.int64)
    for s in range(len(bounds) - 1):
        first, end = bounds[s], bounds[s + 1]
        j = first
        for i in range(first, end):
            until = time[i] + horizon
            while j < end and time[j] <= until:
                j += 1
            if j == end and time[end - 1] < until:
                break  # time only goes on: later rows of the segment do not reach either
            out[i] = j - 1
    return out
