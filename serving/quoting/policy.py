"""What to quote: a symmetric quote about the mid, moved by inventory, widened, cut or pulled by the predictions.

For the bid the danger is that the mid goes down *and* the bid side thins out, both likely at once; for the ask the
mirror image. Danger is graded: 0 up to the first pair of thresholds, 1 from the second on, and the smaller of the two
shares in between. At danger 1 the side is ``widen_bp`` further away and ``cut`` smaller; above the pull thresholds it
is not quoted at all. A quote never crosses the touch, so it is always a maker's quote.

In the safe state (:mod:`serving.risk.safe_state`) both sides are ``safe_widen_ticks`` further away and ``safe_cut``
smaller from the start; what the model says may take them further still, never back.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from market.compiled import compiled
from market.errors import SettingsError
from market.heads import ASK_FALLS, BID_FALLS, DOWN, UP, column
from market.labels import HORIZONS_NS
from serving.records import R_BASE, R_INVENTORY, R_PULL_ASK, R_PULL_BID, R_SAFE, R_SHRINK, R_WIDEN

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings of the quoting policy. Prices in ticks, sizes in lots, probabilities within 0 and 1.

    ``horizon_ns``: whose predictions are read. ``*_from``: where danger begins; ``*_full``: where it is 1; ``*_pull``:
    where the side is pulled. ``move`` is the probability that the mid goes against the side, ``fall`` that its depth
    near the touch falls. ``skew_ticks``: how far both prices are moved at full inventory. ``safe_*``: what the safe
    state adds to both half spreads, and the share it takes off both sizes.
    """

    base_half_spread_ticks: float = 0.5
    size_lots: int = 10
    max_inventory_lots: int = 100
    skew_ticks: float = 1.0
    horizon_ns: int = 500_000_000
    widen_bp: float = 15.0
    cut: float = 0.30
    move_from: float = 0.50
    move_full: float = 0.70
    move_pull: float = 0.85
    fall_from: float = 0.40
    fall_full: float = 0.60
    fall_pull: float = 0.75
    safe_widen_ticks: float = 10.0
    safe_cut: float = 0.50

    def __post_init__(self) -> None:
        if self.horizon_ns not in HORIZONS_NS:
            raise SettingsError(f"expected a horizon of {HORIZONS_NS} ns, saw {self.horizon_ns}")
        if not (0 <= self.move_from < self.move_full <= self.move_pull):
            raise SettingsError(f"expected 0 <= move_from < move_full <= move_pull, saw {self}")
        if not (0 <= self.fall_from < self.fall_full <= self.fall_pull):
            raise SettingsError(f"expected 0 <= fall_from < fall_full <= fall_pull, saw {self}")
        if self.size_lots < 1 or self.max_inventory_lots < 1 or self.base_half_spread_ticks < 0:
            raise SettingsError(f"expected positive size and inventory and a half spread >= 0, saw {self}")
        if not 0 <= self.cut <= 1 or self.widen_bp < 0 or self.skew_ticks < 0:
            raise SettingsError(f"expected a cut within 0 and 1, widening and skew >= 0, saw {self}")
        if not 0 <= self.safe_cut <= 1 or self.safe_widen_ticks < 0:
            raise SettingsError(f"expected a safe_cut within 0 and 1 and safe_widen_ticks >= 0, saw {self}")


# indices of the compiled form of a PolicyConfig
_HALF_SPREAD: Final = 0
_SIZE: Final = 1
_MAX_INVENTORY: Final = 2
_SKEW: Final = 3
_FIRST_PROB: Final = 4
_WIDEN: Final = 5  # share of the price
_CUT: Final = 6
_MOVE: Final = 7  # from, full, pull
_FALL: Final = 10
_SAFE_WIDEN: Final = 13  # ticks
_SAFE_CUT: Final = 14
SAFE: Final = 15  # 1 while the instrument is in the safe state; may be written at any time


def parameters(config: PolicyConfig) -> Floats:
    """``config`` as the compiled :func:`decide` reads it, not in the safe state."""
    first = column(HORIZONS_NS.index(config.horizon_ns), 0)
    words = [config.base_half_spread_ticks, config.size_lots, config.max_inventory_lots, config.skew_ticks]
    words += [first, config.widen_bp * 1e-4, config.cut]
    words += [config.move_from, config.move_full, config.move_pull]
    words += [config.fall_from, config.fall_full, config.fall_pull]
    words += [config.safe_widen_ticks, config.safe_cut, 0.0]
    return np.array(words, dtype=np.float64)


@compiled
def _graded(value: float, policy: Floats, word: int) -> float:
    """0 at ``from``, 1 at ``full``, straight between."""
    start, full = float(policy[word]), float(policy[word + 1])
    return min(max((value - start) / (full - start), 0.0), 1.0)


@compiled
def _pulls(move: float, fall: float, policy: Floats) -> bool:
    if not (move >= 0.0 and fall >= 0.0):
        return True  # non-finite: a broken model must not quote
    return bool(move >= policy[_MOVE + 2] and fall >= policy[_FALL + 2])


@compiled
def _danger(move: float, fall: float, policy: Floats) -> float:
    if not (move >= 0.0 and fall >= 0.0):
        return 0.0  # the side is pulled
    return min(_graded(move, policy, _MOVE), _graded(fall, policy, _FALL))


@compiled
def _whole(policy: Floats) -> float:
    """Lots to quote where there is no danger."""
    return float(policy[_SIZE] * (1.0 - policy[_SAFE_CUT] * policy[SAFE]))


@compiled
def _size(danger: float, policy: Floats, room: int) -> int:
    """Lots to quote: cut by danger, at least one, and never more than inventory leaves room for."""
    size: int = max(floor(_whole(policy) * (1.0 - policy[_CUT] * danger) + 1e-9), 1)
    return int(max(min(size, room), 0))


@compiled
def decide(probs: Any, top: tuple[int, int, int, int], inventory: int, policy: Floats, quote: Any) -> int:
    """Write ``bid_price, bid_size, ask_price, ask_size`` into ``quote`` (4,) int64 and return the reasons (bits).

    ``probs``: (N_OUTPUTS,), laid out as :mod:`market.heads` says. ``top``: best bid and size, best ask and
    size. ``inventory``: lots held, signed. A side that is not quoted has price and size 0.
    """
    first = int(policy[_FIRST_PROB])
    down, up = float(probs[first + DOWN]), float(probs[first + UP])
    bid_fall, ask_fall = float(probs[first + BID_FALLS]), float(probs[first + ASK_FALLS])
    bid_danger, ask_danger = _danger(down, bid_fall, policy), _danger(up, ask_fall, policy)
    limit = int(policy[_MAX_INVENTORY])
    share = min(max(inventory / limit, -1.0), 1.0)
    mid = 0.5 * float(top[0] + top[2])
    fair = mid - policy[_SKEW] * share
    half_spread = policy[_HALF_SPREAD] + policy[_SAFE_WIDEN] * policy[SAFE]
    bid = floor(fair - half_spread - bid_danger * policy[_WIDEN] * mid + 1e-9)
    ask = ceil(fair + half_spread + ask_danger * policy[_WIDEN] * mid - 1e-9)
    quote[0], quote[1] = min(bid, top[2] - 1), _size(bid_danger, policy, limit - inventory)
    quote[2], quote[3] = max(ask, top[0] + 1), _size(ask_danger, policy, limit + inventory)
    reasons = R_SAFE if policy[SAFE] > 0.0 else 0
    worst, whole = max(bid_danger, ask_danger), _size(0.0, policy, int(policy[_SIZE]))
    if worst * policy[_WIDEN] > 0.0:
        reasons |= R_WIDEN
    if _size(worst, policy, whole) < whole:
        reasons |= R_SHRINK
    if inventory != 0 and (policy[_SKEW] > 0.0 or limit - abs(inventory) < whole):
        reasons |= R_INVENTORY
    if _pulls(down, bid_fall, policy):
        quote[1] = 0
        reasons |= R_PULL_BID
    if _pulls(up, ask_fall, policy):
        quote[3] = 0
        reasons |= R_PULL_ASK
    return _strike_out(quote, reasons)


def flat_quotes(
    probs: NDArray[np.floating[Any]], mid2: NDArray[np.int64], config: PolicyConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The quotes (n, 4) that predictions ``probs`` (n, N_OUTPUTS) alone produce, as :func:`decide` writes them, and
    their reasons (n,): the inventory is zero, and the book about ``mid2`` (n,) is as tight as it can be."""
    quotes, reasons = np.zeros((len(mid2), 4), np.int64), np.zeros(len(mid2), np.int64)
    _flat_quotes(np.ascontiguousarray(probs), mid2, parameters(config), quotes, reasons)
    return quotes, reasons


@compiled
def _flat_quotes(probs: Any, mid2: Any, policy: Floats, quotes: Any, reasons: Any) -> None:
    for i in range(len(mid2)):
        bid = (mid2[i] - 1) // 2
        reasons[i] = decide(probs[i], (bid, 1, mid2[i] - bid, 1), 0, policy, quotes[i])


@compiled
def _strike_out(quote: Any, reasons: int) -> int:
    """A side without size, or without a positive price, has neither."""
    for side in range(2):
        if quote[2 * side + 1] <= 0 or quote[2 * side] <= 0:
            quote[2 * side], quote[2 * side + 1] = 0, 0
    if quote[1] > 0 or quote[3] > 0:
        reasons |= R_BASE
    return reasons
