"""The limits of one instrument: the thresholds that the rules of the gate apply to its batches.

An instrument without limits of its own uses those of the table of rules. Limits are learned from batches that passed,
as quantiles with headroom, and take effect only after a person has accepted them (:mod:`pipelines.quality.thresholds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from market.errors import SettingsError
from market.quality.columns import Bounds
from market.quality.figures import Measured
from market.quality.rules import BY_NAME, RULES, Limit, Rule

# A limit lies beyond almost every batch seen, with headroom: warn at 1.5 times what 99 of 100 stay under, hold at 4
# times what 999 of 1,000 do, and at least at twice the warning. Bounds leave half the seen price below and above.
_WARN: Final = (0.99, 1.5)
_HOLD: Final = (0.999, 4.0)
_HOLD_A_WARN: Final = 2.0
_SIZE_ROOM: Final = 10
_SIGNIFICANT: Final = 3  # digits: a person cannot review 17


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits by rule name, for those that differ from the table, and bounds for single events.

    Raises:
        SettingsError: an unknown rule, or a hold limit below its warning.
    """

    limits: Mapping[str, Limit] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if name not in BY_NAME:
                raise SettingsError(f"unknown rule {name!r}; the rules are {', '.join(BY_NAME)}")
            if limit.warn is not None and limit.hold is not None and limit.hold < limit.warn:
                raise SettingsError(f"{name}: expected hold >= warn, saw {limit.hold:g} and {limit.warn:g}")

    def of(self, rule: Rule) -> Limit:
        """The limit in force for a rule."""
        return self.limits.get(rule.name, rule.limit)


def learned(history: Sequence[Measured], prices: tuple[int, int]) -> Limits:
    """Limits from batches that passed; ``prices`` are the lowest and highest seen, in ticks.

    Only rules that the table warns about or leaves open are learned: a rule that quarantines at once (a rejected event)
    does not depend on what is usual. A figure that was always 0 keeps the table's limits: that it never happened does
    not tell how much of it would be too much.
    """
    found = {rule.name: _limit(rule, np.array([each.values[rule.figure] for each in history])) for rule in RULES}
    low, high = prices
    largest = max(int(each.values["largest_size"]) for each in history)
    bounds = Bounds(
        lowest_price=max(1, low // 2), highest_price=high + max(1, high // 2), largest_size=max(1, _SIZE_ROOM * largest)
    )
    return Limits(limits={name: limit for name, limit in found.items() if limit is not None}, bounds=bounds)


def _limit(rule: Rule, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Limit | None:
    at_once = rule.limit.warn is None and rule.limit.hold is not None
    if at_once or not values.any():
        return None
    warn = max(rule.floor, _WARN[1] * float(np.quantile(values, _WARN[0])))
    hold = max(_HOLD_A_WARN * warn, _HOLD[1] * float(np.quantile(values, _HOLD[0])))
    return Limit(warn=_rounded(warn), hold=None if rule.limit.hold is None else _rounded(hold))


def _rounded(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT}g}")
