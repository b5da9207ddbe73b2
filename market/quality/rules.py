"""The rules of the quality gate, in one table: the figure, and the limits for a warning and for quarantine.

A figure above ``warn`` is reported and the batch passes; above ``hold`` the batch goes to quarantine. None: never.
The limits here are for an instrument without history; :mod:`market.quality.limits` has those of one instrument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["pass", "warn", "quarantine"]
PASS: Final = "pass"  # noqa: S105 a verdict
WARN: Final = "warn"
QUARANTINE: Final = "quarantine"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """``warn`` and ``hold`` of one rule; a value equal to a limit is within it."""

    warn: float | None = None
    hold: float | None = None

    def verdict(self, value: float) -> Verdict:
        """The verdict on a value of the rule's figure."""
        if self.hold is not None and value > self.hold:
            return QUARANTINE
        return WARN if self.warn is not None and value > self.warn else PASS


@dataclass(frozen=True, kw_only=True)
class Rule:
    """``name`` is the stable code that quarantine and counts use. ``floor``: a learned warning is never below it."""

    name: str
    figure: str
    unit: str
    limit: Limit
    floor: float
    says: str


def _rule(name: str, figure: str, unit: str, limits: tuple[float | None, float | None, float], says: str) -> Rule:
    warn, hold, floor = limits
    return Rule(name=name, figure=figure, unit=unit, limit=Limit(warn=warn, hold=hold), floor=floor, says=says)


RULES: Final[tuple[Rule, ...]] = (
    # form and order
    _rule("refused_by_book", "refused", "", (None, 0, 0), "an event that the book rejects"),
    _rule("schema", "schema", "events", (None, 0, 0), "flags, times or row positions that a tick cannot have"),
    _rule("sequence_back", "seq_back", "steps", (0, None, 0), "the venue's ids went backwards"),
    _rule("gap", "gaps", "gaps", (0, None, 0), "updates are missing, the book was resynchronised"),
    _rule("repeated_trade", "repeated_trades", "trades", (0, None, 0), "a trade with the id of the one before it"),
    _rule("missing_trade", "missing_trades", "trades", (0, None, 0), "trade ids are missing"),
    # times
    _rule("clock_back", "clock_back_rate", "share", (0, 0.01, 0), "received earlier than the event before it"),
    _rule("exchange_clock_back", "exch_back_rate", "share", (0.01, None, 0.001), "stamped earlier than the one before"),
    _rule("repeated_time", "repeated_time_rate", "share", (None, None, 0.01), "both times as in the frame before it"),
    _rule("clock_offset", "offset_ms", "ms", (2_000, None, 100), "the two clocks are far apart"),
    _rule("clock_shift", "offset_shift_ms", "ms", (100, None, 20), "the clocks have drifted against each other"),
    _rule("late_event", "offset_spread_ms", "ms", (500, None, 100), "single events far from the usual offset"),
    # the book
    _rule("crossed_book", "crossed_rate", "share", (0, 0.01, 0.001), "best bid above best ask"),
    _rule("locked_book", "locked_rate", "share", (0.05, None, 0.01), "best bid equal to best ask"),
    _rule("price_jump", "largest_jump_bp", "bp", (50, 200, 10), "the mid jumped"),
    _rule("wide_spread", "largest_spread_bp", "bp", (100, 200, 10), "best ask far above best bid"),
    _rule("unusual_spread", "spread_ratio", "times", (10, None, 3), "spread, relative to the usual one"),
    _rule("unusual_depth", "depth_ratio", "times", (10, None, 3), "lots near the touch, relative to the usual"),
    _rule("size_outlier", "size_ratio", "times", (100, 10_000, 10), "the largest level, relative to the usual largest"),
    _rule("stale_book", "stale_s", "s", (2, None, 1), "trades continued while the book did not change"),
    _rule("book_lost", "lost_s", "s", (1, None, 1), "the book was lost for a long time"),
    _rule("price_out_of_bounds", "prices_outside", "prices", (None, 0, 0), "a price beyond the instrument's bounds"),
    _rule("size_out_of_bounds", "sizes_outside", "sizes", (None, 0, 0), "a size beyond the instrument's bound"),
    # trades
    _rule("trade_outside_book", "trade_outside_rate", "share", (0, 0.01, 0.001), "trades far outside the book"),
    _rule("trade_outlier", "trade_alone_bp", "bp", (100, 500, 20), "without a book: far from the median trade"),
    _rule("volume_high", "volume_ratio", "times", (20, 10_000, 5), "lots traded, relative to the recent median"),
    _rule("volume_low", "volume_low_ratio", "times", (1_000, None, 20), "the recent median, relative to lots traded"),
    # what is missing
    _rule("silence", "silence_s", "s", (30, None, 5), "no event for a long time"),
    _rule("missing_minutes", "missing_minutes", "minutes", (0, None, 0), "minutes of the session without a batch"),
)
BY_NAME: Final[Mapping[str, Rule]] = {rule.name: rule for rule in RULES}
