"""The outcome of each fill: was the price we got still good 100 ms and one second later?

Stored are integers (fill price, mid at the fill and later); the measures are functions of them. From the maker's side,
in half ticks, positive is good for us (Huang and Stoll, "Dealer versus auction markets", J. Financial Economics 41,
1996: effective and realised half-spread), all but slippage, which is a cost (Perold, "The implementation shortfall:
paper versus reality", J. Portfolio Management 14(3), 1988: the price got against that on paper when it was decided):

* effective half-spread: ``side * (mid2_fill - 2 * price)``
* realised half-spread after h: ``side * (mid2_h - 2 * price)``
* adverse selection over h: ``side * (mid2_fill - mid2_h)`` = effective - realised
* slippage: ``side * (2 * price - mid2_quote)``, against the mid at the decision that the quote came from. A maker's is
  below zero as long as it is filled at the price it wanted. Slippage + effective = ``side * (mid2_fill - mid2_quote)``:
  what the mid did while the quote stood. The effective spread knows nothing of that, as it begins with the fill

with ``side`` +1 where we bought and ``mid2`` = best bid + best ask in ticks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from market.clock import NS_PER_MS, NS_PER_S
from market.heads import NONE

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

LATER_NS = (100 * NS_PER_MS, NS_PER_S)
UNKNOWN = -1  # no row lies late (or early) enough to tell; mids are positive
COLUMNS = ("side", "price", "size", "fill_ns", "mid2_fill", "mid2_100ms", "mid2_1s", "arm", "block")  # in the lake


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """Columns of one length. ``side`` +1: we bought. Mids that cannot be known are :data:`UNKNOWN`; ``mid2_quote`` is
    that of the decision whose quote was filled."""

    side: Int64s
    price: Int64s
    size: Int64s
    fill_ns: Int64s
    mid2_fill: Int64s
    mid2_100ms: Int64s
    mid2_1s: Int64s
    arm: Int64s
    block: Int64s
    mid2_quote: Int64s

    def __len__(self) -> int:
        return len(self.side)

    @property
    def effective(self) -> Floats:
        """Effective half-spread earned, half ticks; NaN where unknown."""
        return _earned(self.side, self.price, self.mid2_fill)

    @property
    def realised_100ms(self) -> Floats:
        return _earned(self.side, self.price, self.mid2_100ms)

    @property
    def realised_1s(self) -> Floats:
        return _earned(self.side, self.price, self.mid2_1s)

    @property
    def adverse_100ms(self) -> Floats:
        """Adverse selection within 100 ms, half ticks."""
        return self.effective - self.realised_100ms

    @property
    def adverse_1s(self) -> Floats:
        return self.effective - self.realised_1s

    @property
    def slippage(self) -> Floats:
        """What a fill cost beyond the mid of its decision, half ticks."""
        return -_earned(self.side, self.price, self.mid2_quote)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quoted:
    """Quotes in order of time: when each was decided, ns, and its lots on both sides."""

    recv_ns: Int64s
    lots: Int64s


def _earned(side: Int64s, price: Int64s, mid2: Int64s) -> Floats:
    earned = (side * (mid2 - 2 * price)).astype(np.float64)
    earned[mid2 == UNKNOWN] = np.nan
    return earned


def mids_at_fills(fill_ns: Int64s, recv_ns: Int64s, mid2: Int64s, *, end_ns: int) -> tuple[Int64s, Int64s, Int64s]:
    """Mid just before each fill, 100 ms and 1 s after it, from rows ``recv_ns`` (ascending) and ``mid2``.

    Before is strictly before: the fill itself moves the book, and the row of that move may carry the same time. A later
    mid is that of the last row at or before that time, known only if the rows reach it (``end_ns``).
    """
    before = np.searchsorted(recv_ns, fill_ns, side="left") - 1
    mids = [_taken(mid2, before, before >= 0)]
    for later_ns in LATER_NS:
        at = np.searchsorted(recv_ns, fill_ns + later_ns, side="right") - 1
        mids.append(_taken(mid2, at, (at >= 0) & (fill_ns + later_ns <= end_ns)))
    return mids[0], mids[1], mids[2]


def _taken(mid2: Int64s, index: NDArray[np.intp], known: NDArray[np.bool_]) -> Int64s:
    taken = np.full(len(index), UNKNOWN, np.int64)
    taken[known] = mid2[index[known]]
    return taken


@dataclass(frozen=True, kw_only=True)
class BlockMetrics:
    """One block of a session and the result of its active arm. Sums and means weigh fills by their size in lots.

    ``pnl_half_ticks`` is the realised half-spread after one second summed over lots: what the fills were worth once
    the market had moved on, without what inventory did later. A block without a fill made 0. The other ``*_half_ticks``
    are means over lots, NaN without a fill. ``lots_quoted``: of the quotes that began in the block, both sides.
    """

    block: int
    arm: int
    rows: int
    seconds: float
    fills: int
    lots: int
    lots_quoted: int
    pnl_half_ticks: float
    effective_half_ticks: float
    slippage_half_ticks: float
    adverse_100ms_half_ticks: float
    adverse_half_ticks: float

    @property
    def pnl_per_minute(self) -> float:
        """Half ticks times lots a minute, comparable between blocks that were cut short and whole ones."""
        return 60.0 * self.pnl_half_ticks / self.seconds if self.seconds > 0 else 0.0

    @property
    def fill_ratio(self) -> float:
        """Lots filled of lots quoted; NaN where nothing was quoted."""
        return self.lots / self.lots_quoted if self.lots_quoted else float("nan")


def block_metrics(
    outcomes: Outcomes, recv_ns: Int64s, arm: Int64s, *, block_ns: int, quoted: Quoted | None = None
) -> tuple[BlockMetrics, ...]:
    """Metrics of every block that has rows, in order. ``recv_ns`` (ascending), ``arm`` (n,): rows of the session.

    Fills whose later mid is unknown are counted in ``fills`` and left out of what needs it.
    """
    if len(recv_ns) == 0:
        return ()
    row_blocks = recv_ns // block_ns
    starts = np.flatnonzero(np.r_[True, row_blocks[1:] != row_blocks[:-1]])
    ends = np.r_[starts[1:], len(recv_ns)]
    lots = _lots_by_block(quoted, block_ns)
    return tuple(
        _one_block(outcomes, int(row_blocks[a]), int(arm[b - 1]), recv_ns[a:b], lots)
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    )


def _lots_by_block(quoted: Quoted | None, block_ns: int) -> dict[int, int]:
    if quoted is None:
        return {}
    blocks, index = np.unique(quoted.recv_ns // block_ns, return_inverse=True)
    lots = np.bincount(index, weights=quoted.lots, minlength=len(blocks)).astype(np.int64)
    return dict(zip(blocks.tolist(), lots.tolist(), strict=True))


def _one_block(outcomes: Outcomes, block: int, arm: int, recv_ns: Int64s, quoted: dict[int, int]) -> BlockMetrics:
    mine = outcomes.block == block
    size = outcomes.size.astype(np.float64)

    def mean(values: Floats) -> float:
        known = mine & np.isfinite(values)
        return float(np.average(values[known], weights=size[known])) if known.any() else float("nan")

    realised = outcomes.realised_1s
    known = mine & np.isfinite(realised) & (outcomes.mid2_fill != UNKNOWN)
    return BlockMetrics(
        block=block,
        arm=arm,
        rows=len(recv_ns),
        seconds=float(recv_ns[-1] - recv_ns[0]) / NS_PER_S,
        fills=int(mine.sum()),
        lots=int(outcomes.size[mine].sum()),
        lots_quoted=quoted.get(block, 0),
        pnl_half_ticks=float((realised[known] * size[known]).sum()),
        effective_half_ticks=mean(outcomes.effective),
        slippage_half_ticks=mean(outcomes.slippage),
        adverse_100ms_half_ticks=mean(outcomes.adverse_100ms),
        adverse_half_ticks=mean(outcomes.adverse_1s),
    )


def direction_log_loss(
    recv_ns: Int64s, mid2: Int64s, probs: Floats, horizon_ns: int, *, threshold_half_ticks: int
) -> Floats:
    """Log-loss of each row's (n, 3) down/none/up probabilities against the mid at ``horizon_ns`` later, which has moved
    when it lies more than ``threshold_half_ticks`` away, as in the model's labels; NaN where the rows do not reach that
    far. ``recv_ns`` ascending."""
    at = np.searchsorted(recv_ns, recv_ns + horizon_ns, side="right") - 1
    known = recv_ns + horizon_ns <= recv_ns[-1] if len(recv_ns) else np.empty(0, bool)
    move = mid2[at] - mid2
    direction = NONE + (move > threshold_half_ticks).astype(np.int64) - (move < -threshold_half_ticks)
    chosen = np.take_along_axis(probs.astype(np.float64), direction[:, None], axis=1)[:, 0]
    loss = -np.log(np.clip(chosen, 1e-7, 1.0))
    return np.asarray(np.where(known, loss, np.nan))


def from_columns(columns: dict[str, Sequence[int | None]], mid2_quote: Int64s | None = None) -> Outcomes:
    """Outcomes from the lake's :data:`COLUMNS`, where an unknown mid is None. ``mid2_quote`` (n,), where it was looked
    up."""
    read = {n: np.array([UNKNOWN if v is None else v for v in columns[n]], np.int64) for n in COLUMNS}
    unknown = np.full(len(read["side"]), UNKNOWN, np.int64)
    return Outcomes(**read, mid2_quote=unknown if mid2_quote is None else mid2_quote)
