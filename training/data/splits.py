"""Cutting a dataset by time into train, valid and test, so that no label of an earlier part looks into a later one.

A label at time ``t`` is known at ``t + horizon``. The end of each earlier part is therefore *purged*: its last rows,
those whose longest horizon plus an *embargo* reaches the next part, belong to no part (Lopez de Prado, "Advances in
Financial Machine Learning", 2018, chapter 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.errors import EmptyDataError, SettingsError

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Shares of the rows; the test part is what the other two leave."""

    train: float = 0.6
    valid: float = 0.2
    embargo_ns: int = NS_PER_S


@dataclass(frozen=True, kw_only=True)
class Split:
    """Receive times: train is ``[.., train_end)``, valid ``[valid_start, valid_end)``, test ``[test_start, ..]``."""

    train_end_ns: int
    valid_start_ns: int
    valid_end_ns: int
    test_start_ns: int

    def mask(self, part: Part, recv_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows (n,) belong to ``part``; some belong to none."""
        if part == "train":
            return recv_ns < self.train_end_ns
        if part == "valid":
            return (recv_ns >= self.valid_start_ns) & (recv_ns < self.valid_end_ns)
        return recv_ns >= self.test_start_ns


def split_by_time(recv_ns: NDArray[np.int64], longest_horizon_ns: int, config: SplitConfig) -> Split:
    """Bounds that give each part its share of rows, less what is purged.

    Raises:
        SettingsError: shares that leave no test part, or a negative embargo.
        EmptyDataError: a part would have no row.
    """
    if not (config.train > 0 and config.valid > 0 and config.train + config.valid < 1):
        raise SettingsError(
            f"train and valid shares must be positive and leave a test part; saw {config.train} and {config.valid}"
        )
    if config.embargo_ns < 0:
        raise SettingsError(f"the embargo cannot be negative; saw {config.embargo_ns} ns")
    if len(recv_ns) == 0:
        raise EmptyDataError("the dataset has no rows; ingest and featurize more data")
    ordered = np.sort(recv_ns)
    valid_start = int(ordered[int(len(ordered) * config.train)])
    test_start = int(ordered[min(int(len(ordered) * (config.train + config.valid)), len(ordered) - 1)])
    gap = longest_horizon_ns + config.embargo_ns
    split = Split(
        train_end_ns=valid_start - gap,
        valid_start_ns=valid_start,
        valid_end_ns=test_start - gap,
        test_start_ns=test_start,
    )
    for part in PARTS:
        if not split.mask(part, recv_ns).any():
            seconds = (int(ordered[-1]) - int(ordered[0])) / NS_PER_S
            raise EmptyDataError(
                f"the {part} part is empty: {len(recv_ns)} rows over {seconds:.1f} s are too few for a purge of "
                f"{gap / NS_PER_S:.1f} s between parts; ingest more data or lower the embargo"
            )
    return split
