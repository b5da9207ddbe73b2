"""The single list of features: names, order, formulas, windows, units and clips.

The order is that of the model's inputs. *Tick* features are computed by :mod:`market.features.kernels` after every
event that ends a batch; *slow* features come last and are joined from outside (funding, mark price).

How windows work, and why the results are bit-identical wherever they are computed:

* ``50ms`` to ``1s`` windows are exact sliding sums over the rows with ``now - window < time <= now``. Everything summed
  is an integer (lots, half ticks, counts), so adding and subtracting never drifts.
* *Slow* means an exponential average with time constant ``tau``, advanced by the implicit Euler step
  ``a += (x - a) * dt / (tau + dt)``, stable for every ``dt >= 0``. It only contracts, so it does not drift either.
* Only ``+ - * / sqrt`` are used, each correctly rounded by IEEE 754; no library ``exp`` or ``log``, whose last bit may
  differ between machines. ``(x - a) / (x + a)`` takes the place of a log ratio: it is ``tanh(log(x / a) / 2)``.
* Time is the receive time; a step backwards counts as zero elapsed time.

``near`` depth is the sum of the best :data:`~market.books.levels.NEAR_LEVELS` levels of a side; the *top* is the fused
best bid and ask (see :mod:`market.books.price_book`). Sizes are divided by the slow average of top or near depth, so
that instruments are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

WARM_NS: Final = 10_000_000_000  # rows are warm once this much time has passed since the windows began

_MS: Final = 1_000_000
_S: Final = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One model input. ``window_ns`` 0 means the current state. Values lie in ``[-clip, clip]``."""

    name: str
    formula: str
    unit: str
    clip: float
    window_ns: int = 0
    source: Literal["tick", "slow"] = "tick"


def _f(name: str, formula: str, unit: str, clip: float, window_ns: int = 0) -> Feature:
    return Feature(name=name, formula=formula, unit=unit, clip=clip, window_ns=window_ns)


# Order flow imbalance: Cont, Kukanov, Stoikov, "The Price Impact of Order Book Events", J. Financial Econometrics 12,
# 2014, section 2.1:
# e = 1[Pb >= Pb'] qb - 1[Pb <= Pb'] qb' - 1[Pa <= Pa'] qa + 1[Pa >= Pa'] qa',
# summed over the window.
_OFI = "sum of e (Cont, Kukanov, Stoikov 2014, section 2.1) / slow top size"
_FLOW = "sum of aggressor side * traded size / slow top size"
_RET = "(mid now - mid before the window) / mid * 1e4"

FEATURES: Final[tuple[Feature, ...]] = (
    # the book now
    _f("spread", "best ask - best bid", "ticks", 100.0),
    _f("micro_offset", "2 * (microprice - mid), microprice = (Pb qa + Pa qb) / (qa + qb)", "half ticks", 100.0),
    _f("imbalance_1", "(qb - qa) / (qb + qa) at the top", "1", 1.0),
    _f("imbalance_5", "(Qb - Qa) / (Qb + Qa), Q = size of the best 5 levels", "1", 1.0),
    _f("imbalance_10", "(Qb - Qa) / (Qb + Qa), Q = size of the best 10 levels", "1", 1.0),
    _f("slope_asymmetry", "(Da - Db) / (Da + Db), D = size-weighted distance from the touch, 10 levels", "1", 1.0),
    _f("bid_depth_rel", "(Qb - slow Qb) / (Qb + slow Qb), near depth, tau 30 s", "1", 1.0, 30 * _S),
    _f("ask_depth_rel", "(Qa - slow Qa) / (Qa + slow Qa), near depth, tau 30 s", "1", 1.0, 30 * _S),
    _f("bid_queue_left", "qb / largest qb since this bid price became best", "1", 1.0),
    _f("ask_queue_left", "qa / largest qa since this ask price became best", "1", 1.0),
    # order flow
    _f("ofi_50ms", _OFI, "slow top sizes", 40.0, 50 * _MS),
    _f("ofi_100ms", _OFI, "slow top sizes", 40.0, 100 * _MS),
    _f("ofi_500ms", _OFI, "slow top sizes", 40.0, 500 * _MS),
    _f("ofi_1s", _OFI, "slow top sizes", 40.0, _S),
    _f("trade_flow_100ms", _FLOW, "slow top sizes", 40.0, 100 * _MS),
    _f("trade_flow_500ms", _FLOW, "slow top sizes", 40.0, 500 * _MS),
    _f("trade_flow_1s", _FLOW, "slow top sizes", 40.0, _S),
    _f("bid_net_500ms", "(added - removed size at near bid levels) / slow near bid depth", "1", 10.0, 500 * _MS),
    _f("ask_net_500ms", "(added - removed size at near ask levels) / slow near ask depth", "1", 10.0, 500 * _MS),
    _f("bid_removed_1s", "removed size at near bid levels / slow near bid depth", "1", 10.0, _S),
    _f("ask_removed_1s", "removed size at near ask levels / slow near ask depth", "1", 10.0, _S),
    # price moves
    _f("ret_100ms", _RET, "bp", 50.0, 100 * _MS),
    _f("ret_500ms", _RET, "bp", 50.0, 500 * _MS),
    _f("ret_1s", _RET, "bp", 50.0, _S),
    _f("vol_1s", "sqrt(sum of squared mid changes) / mid * 1e4", "bp", 100.0, _S),
    _f("vol_10s", "sqrt(sum of squared mid changes decayed with tau 10 s) / mid * 1e4", "bp", 100.0, 10 * _S),
    # time since the last move and trade, and event rates
    _f("mid_age", "t / (t + 1 s), t since the mid last changed", "1", 1.0),
    _f("trade_age", "t / (t + 1 s), t since the last trade", "1", 1.0),
    _f("event_rate_rel", "(n - slow n) / (n + slow n), n rows in the window, tau 60 s", "1", 1.0, 100 * _MS),
    _f("trade_rate_rel", "(n - slow n) / (n + slow n), n trades in the window, tau 60 s", "1", 1.0, _S),
    # joined from another stream, known later; 0 where the venue has none
    Feature(name="funding_rate_bps", formula="funding rate * 1e4", unit="bp", clip=100.0, source="slow"),
    Feature(name="mark_basis_bps", formula="(mark - index) / index * 1e4", unit="bp", clip=500.0, source="slow"),
)

N_INPUTS: Final = len(FEATURES)
N_SLOW: Final = sum(f.source == "slow" for f in FEATURES)
N_TICK: Final = N_INPUTS - N_SLOW


def names() -> tuple[str, ...]:
    """All model inputs in order, tick features first."""
    return tuple(f.name for f in FEATURES)


def tick_names() -> tuple[str, ...]:
    """The inputs that the kernel computes."""
    return names()[:N_TICK]


def slow_names() -> tuple[str, ...]:
    """The inputs joined from outside."""
    return names()[N_TICK:]


def slow_values(*, funding_rate: float, mark_e8: int, index_e8: int) -> tuple[float, float]:
    """The slow features of one mark price record: ``funding_rate`` a fraction, prices times 1e8 (0 where unknown)."""
    basis = (mark_e8 - index_e8) / index_e8 * 1e4 if index_e8 > 0 and mark_e8 > 0 else 0.0
    return clip_slow((funding_rate * 1e4, basis))


def clip_slow(values: Sequence[float]) -> tuple[float, float]:
    """``values`` clipped to the catalog's bounds; NaN counts as unknown, 0.0."""
    clips = [f.clip for f in FEATURES[N_TICK:]]
    first, second = (min(max(v, -c), c) if v == v else 0.0 for v, c in zip(values, clips, strict=True))  # noqa: PLR0124
    return first, second
