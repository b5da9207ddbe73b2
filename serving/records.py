"""The record the hot path writes for each decision: prediction, inputs and quote together, so a quote can be traced.

One record per book state. ``probs`` holds one row per *arm*: row 0 the model whose prediction is acted on when ``arm``
is 0, row 1 the second loaded model (challenger or shadow; NaN when none is loaded).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from market.features.catalog import N_INPUTS
from market.labels import N_OUTPUTS

ARMS: Final = 2

# why a decision is what it is (bit set)
R_BASE: Final = 1  # base quote
R_WIDEN: Final = 2  # widened on the model's prediction
R_SHRINK: Final = 4  # sizes cut on the model's prediction
R_PULL_BID: Final = 8
R_PULL_ASK: Final = 16
R_NO_BOOK: Final = 32  # book not in a usable state (crossed, empty, resynchronising): no quote
R_WARM_UP: Final = 64  # windows not yet full: no quote
R_INVENTORY: Final = 128  # a side pulled or skewed by inventory
R_SAFE: Final = 256  # wider and smaller, since the instrument is in the safe state

DECISION: Final = np.dtype(
    [
        ("n", "<i8"),  # running number of the decision in its session
        ("frame", "<i8"),
        ("seq", "<i8"),
        ("exch_ns", "<i8"),
        ("recv_ns", "<i8"),
        ("mid2", "<i8"),  # best bid + best ask in ticks: twice the mid
        ("bid_price", "<i8"),  # ticks; sizes of 0 mean: no quote on this side
        ("ask_price", "<i8"),
        ("bid_size", "<i8"),  # lots
        ("ask_size", "<i8"),
        ("version", "<i8", (ARMS,)),  # registry version per arm; 0 when none
        ("arm", "<i4"),  # the arm whose prediction was acted on
        ("reasons", "<i4"),
        ("step_ns", "<i8"),  # time from event taken to decision written, by the hot path's own clock; 0 if not measured
        ("probs", "<f4", (ARMS, N_OUTPUTS)),
        ("features", "<f4", (N_INPUTS,)),
    ]
)
