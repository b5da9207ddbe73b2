"""The state of the compiled core: one tuple of arrays that every function of the core takes.

Levels lie on a tick grid in two rings (bids, asks), index = price modulo :data:`RING`. Others' size lies within
:data:`KEEP` ticks of the best price, ours within :data:`OWN_REACH` when placed and :data:`OWN_KEEP` later, so that
indices do not collide.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from market.simulator.config import ExchangeConfig, params

RING: Final = 8192
MASK: Final = RING - 1
REACH: Final = 200  # the grid is kept populated this far from the best price
KEEP: Final = 260  # and emptied beyond this
OWN_REACH: Final = 3000
OWN_KEEP: Final = 6000
NEAR: Final = 10  # levels that near flow acts on

# NumPy integers, because numba compiles a function again for every literal it is called with; Any, because to mypy the
# compiled functions take int.
BIDS: Final[Any] = np.int64(0)
ASKS: Final[Any] = np.int64(1)

MAX_OWN: Final = 64
MAX_OUT: Final = 16384
MAX_LEVELS: Final = 65536

# Kinds of output records, and what their columns mean.
#   TRADE    id trade id, price, size; side of the aggressor (BIDS: a buyer)
#   TICKER   id update id, price and size of the best bid, x0 and x1 of the best ask
#   DIFF     id last update id, x0 first, x1 last of the diff before; price offset and size number in `levels`
#   MARK     id next funding time in ms, price funding rate; x0 mark, x1 index, x2 settlement price; all times 1e8
#   FILL     id order id, price, size of this fill, x0 filled so far, x1 trade id; side of the order
#   EXPIRED  id order id, price, size that was left; side of the order
TRADE: Final[Any] = np.int64(1)
TICKER: Final[Any] = np.int64(2)
DIFF: Final[Any] = np.int64(3)
MARK: Final[Any] = np.int64(4)
FILL: Final[Any] = np.int64(5)
EXPIRED: Final[Any] = np.int64(6)

OUT: Final = np.dtype(
    [(name, "<i8") for name in ("kind", "side", "t_ns", "recv_ns", "id", "price", "size", "x0", "x1", "x2")], align=True
)

# id 0: a free slot
OWN: Final = np.dtype([(name, "<i8") for name in ("id", "side", "price", "size", "left", "ahead")], align=True)

STATE: Final = np.dtype(
    [
        ("t_ns", "<i8"),
        ("next_ns", "<i8"),  # pending candidate event; 0: none drawn
        ("excited_ns", "<i8"),  # the time to which `fast` and `slow` refer
        ("slice_ns", "<i8"),  # when the hidden processes move next
        ("diff_ns", "<i8"),
        ("mark_ns", "<i8"),
        ("ticker_ns", "<i8"),  # last sent
        ("recv_ns", "<i8"),  # last receive stamp: without a fault they never go back
        ("update_id", "<i8"),
        ("diff_id", "<i8"),  # update id at the last diff
        ("trade_id", "<i8"),
        ("order_id", "<i8"),
        ("n_out", "<i8"),
        ("n_levels", "<i8"),
        ("n_changed", "<i8"),
        ("low_edge", "<i8"),  # lowest bid price kept
        ("high_edge", "<i8"),
        ("bound", "<f8"),  # total intensity with which the pending candidate was drawn
        ("pressure", "<f8"),
        ("drive", "<f8"),  # pressure as market orders respond to it: later and smoother
        ("alarmed", "<f8"),  # 1 while liquidity withdraws from both sides, else 0
        ("alarm", "<f8"),  # the same, smoothed at its start and end
        ("skew", "<f8"),  # log ratio of what bids and asks revert to: carries no information about the price
        ("index", "<f8"),  # ticks
        ("premium", "<f8"),  # (mark - index) / index
        ("funding", "<f8"),
    ],
    align=True,
)


class Core(NamedTuple):
    """The world's state.

    ``best`` (2,) prices; ``sizes``, ``marked`` (2, RING); ``ticker`` (4,) as last sent. ``changed`` (n,) since the last
    diff and the first column of ``levels`` (n, 2) are ``2 * price + side``; its second column is the size.
    """

    state: Any
    params: Any
    best: Any
    sizes: Any
    marked: Any
    changed: Any
    ticker: Any
    fast: Any
    slow: Any
    own: Any
    out: Any
    levels: Any
    flow_chance: Any
    wire_chance: Any


def new_core(config: ExchangeConfig) -> Core:
    """State of a world that has not started: empty book, no time elapsed."""
    seeds = np.random.SeedSequence(config.seed).generate_state(2, np.uint64)
    state = np.zeros(1, STATE)
    start_ns = config.start_ms * 1_000_000
    for clock in ("t_ns", "excited_ns", "slice_ns", "ticker_ns", "recv_ns"):
        state[clock] = start_ns
    state["diff_ns"] = start_ns + 63_000_000  # off the step grid, so that no step ends exactly on a diff
    state["mark_ns"] = start_ns + 1_004_000_000
    state["update_id"] = state["diff_id"] = 1_000_000_000
    state["trade_id"] = 1_000_000
    state["index"] = config.start_price
    state["funding"] = params(config.regime)["funding"]
    return Core(
        state=state,
        params=params(config.regime),
        best=np.array([config.start_price, config.start_price + 1], np.int64),
        sizes=np.zeros((2, RING), np.int64),
        marked=np.zeros((2, RING), np.int64),
        changed=np.zeros(2 * RING, np.int64),
        ticker=np.zeros(4, np.int64),
        fast=np.zeros(6),
        slow=np.zeros(6),
        own=np.zeros(MAX_OWN, OWN),
        out=np.zeros(MAX_OUT, OUT),
        levels=np.zeros((MAX_LEVELS, 2), np.int64),
        flow_chance=seeds[:1].copy(),
        wire_chance=seeds[1:].copy(),
    )
