"""Whatever the times and shares: the labels of an earlier part never reach into a later part."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from market.errors import EmptyDataError
from training.data.splits import SplitConfig, split_by_time

HORIZON = 1_000_000_000


@given(
    gaps=st.lists(st.integers(0, 3_000_000_000), min_size=1, max_size=300),
    train=st.floats(0.1, 0.7),
    valid=st.floats(0.05, 0.25),
    embargo=st.integers(0, 5_000_000_000),
)
def test_labels_of_an_earlier_part_end_before_the_next_begins(
    gaps: list[int], train: float, valid: float, embargo: int
) -> None:
    recv = np.cumsum(np.array(gaps, np.int64)) + 10**18
    try:
        split = split_by_time(recv, HORIZON, SplitConfig(train=train, valid=valid, embargo_ns=embargo))
    except EmptyDataError:
        return
    parts = [recv[split.mask(part, recv)] for part in ("train", "valid", "test")]
    for earlier, later in pairwise(parts):
        assert earlier.max() + HORIZON + embargo < later.min() + 1
    owners = sum(split.mask(part, recv).astype(int) for part in ("train", "valid", "test"))
    assert owners.max() == 1
