"""Each rule of the gate on a minute with exactly its defect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kit.small_lake import Market, events_of_market, with_checkpoints

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import SettingsError
from market.events import CLEAR, DEPTH, F_CLOCK_BACK, F_LAST, F_RESYNC, F_SNAPSHOT, TICKER, TRADE, Events
from market.quality.columns import Bounds, columns
from market.quality.figures import Measured, measure
from market.quality.limits import Limits, learned
from market.quality.rules import BY_NAME, PASS, QUARANTINE, RULES, WARN, Limit, Verdict
from market.quality.usual import compared
from pipelines.quality import trading_hours

MINUTES = with_checkpoints(events_of_market(Market(seconds=600.0, frames=10)))
AT = 5
Spoil = Callable[[Events], Events | None]


def always(first: int, last: int) -> np.ndarray:
    return np.arange(first, last + 1)


def judged(minutes: list[Events], at: int = AT, limits: Limits | None = None) -> dict[str, Verdict]:
    """The rules' verdicts on one minute among the others, without the rules that it passes."""
    limits = limits or Limits()
    measured = [measure(columns(each, bounds=limits.bounds, rows=np.arange(len(each)))) for each in minutes]
    values = compared([], measured, always)[at].values
    said = {rule.name: limits.of(rule).verdict(values[rule.figure]) for rule in RULES}
    return {name: verdict for name, verdict in said.items() if verdict != PASS}


def spoiled(spoil: Spoil) -> list[Events]:
    minutes = [each.copy() for each in MINUTES]
    answer = spoil(minutes[AT])
    minutes[AT] = minutes[AT] if answer is None else answer
    return minutes


def own(events: Events, kind: int) -> np.ndarray:
    """Where events of a kind are that are not part of the checkpoint."""
    return np.flatnonzero((events["kind"] == kind) & (events["frame"] > events["frame"][0]))


def negative_size(events: Events) -> None:
    events["size"][own(events, DEPTH)[-1]] = -1


def unknown_flag(events: Events) -> None:
    events["flags"][own(events, TRADE)[3]] |= 1 << 12


def time_zero(events: Events) -> None:
    events["exch_ns"][own(events, TRADE)[3]] = 0


def ids_back(events: Events) -> None:
    at = own(events, DEPTH)
    events["seq"][at[len(at) // 2]] -= 50


def resync(events: Events) -> None:
    at = np.flatnonzero((events["flags"] & F_LAST != 0) & (events["frame"] > events["frame"][0]))[5]
    events["flags"][at] |= F_RESYNC


def trade_left_out(events: Events) -> None:
    at = own(events, TRADE)
    events["seq"][at] = 10**6 + np.arange(len(at))
    events["seq"][at[10:]] += 1


def clock_back(events: Events) -> None:
    events["flags"][own(events, TRADE)] |= F_CLOCK_BACK


def exchange_back(events: Events) -> None:
    events["exch_ns"][own(events, TRADE)[1::2]] -= 400 * NS_PER_MS


def clocks_apart(events: Events) -> None:
    events["exch_ns"] -= 3 * NS_PER_S


def one_late(events: Events) -> None:
    events["exch_ns"][own(events, TRADE)[4]] -= 90 * NS_PER_S


def crossed_ticker(events: Events) -> None:
    at = own(events, TICKER)
    events["price"][at] += events["side"][at] * 3


def locked_ticker(events: Events) -> None:
    at = own(events, TICKER)
    events["price"][at] = 600_000


def everything_far(events: Events) -> None:
    events["price"][events["frame"] > events["frame"][0] + 200] += 30_000


def far_ask(events: Events) -> None:
    at = own(events, TICKER)
    events["price"][at] += np.where(events["side"][at] < 0, 14_000, 0)


def thick_book(events: Events) -> None:
    events["size"][events["kind"] == DEPTH] *= 40


def huge_level(events: Events) -> None:
    events["size"][own(events, DEPTH)[-1]] = 2**40


def standing_book(events: Events) -> Events:
    from_ns = events["recv_ns"].min() + 10 * NS_PER_S
    keep = (events["kind"] == TRADE) | (events["recv_ns"] < from_ns)
    return events[keep]


def lost_book(events: Events) -> Events:
    start = np.flatnonzero(events["flags"] & F_LAST)[300] + 1
    lone = events[start : start + 1].copy()
    lone["kind"], lone["flags"], lone["size"], lone["side"], lone["price"] = CLEAR, F_LAST, 0, 0, 0
    return np.concatenate([events[:start], lone, events[start:][events["kind"][start:] == TRADE]])


def one_trade_far(events: Events) -> None:
    events["price"][own(events, TRADE)[::20]] *= 2


def without_book(events: Events) -> Events:
    trades = events[own(events, TRADE)]
    trades["price"][7] *= 2
    return trades


def busy(events: Events) -> None:
    events["size"][own(events, TRADE)] *= 50


def half_a_minute(events: Events) -> Events:
    from_ns = events["recv_ns"].min() + 15 * NS_PER_S
    return events[(events["recv_ns"] < from_ns) | (events["recv_ns"] > from_ns + 40 * NS_PER_S)]


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (negative_size, {"refused_by_book": QUARANTINE}),
        (unknown_flag, {"schema": QUARANTINE}),
        (ids_back, {"sequence_back": WARN}),
        (resync, {"gap": WARN}),
        (trade_left_out, {"missing_trade": WARN}),
        (clock_back, {"clock_back": QUARANTINE}),
        (exchange_back, {"exchange_clock_back": WARN}),
        (clocks_apart, {"clock_offset": WARN, "clock_shift": WARN}),
        (one_late, {"late_event": WARN}),
        (locked_ticker, {"locked_book": WARN}),
        (thick_book, {"unusual_depth": WARN}),
        (huge_level, {"size_outlier": QUARANTINE}),
        (standing_book, {"stale_book": WARN}),
        (lost_book, {"book_lost": WARN}),
        (one_trade_far, {"trade_outside_book": QUARANTINE}),
        (without_book, {"trade_outlier": QUARANTINE}),
        (busy, {"volume_high": WARN}),
        (half_a_minute, {"silence": WARN}),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_rule_finds_its_defect_and_no_other_rule_fires(spoil: Spoil, wanted: dict[str, str]) -> None:
    assert judged(spoiled(spoil)) == wanted


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (time_zero, "schema"),
        (crossed_ticker, "crossed_book"),
        (everything_far, "price_jump"),
        (far_ask, "wide_spread"),
        (far_ask, "unusual_spread"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_rule_finds_a_defect_that_other_rules_find_too(spoil: Spoil, rule: str) -> None:
    assert rule in judged(spoiled(spoil))


def test_a_clean_minute_keeps_every_rule() -> None:
    assert [judged(MINUTES, at) for at in range(len(MINUTES))] == [{}] * len(MINUTES)


def test_a_row_out_of_place_is_detected() -> None:
    rows = np.arange(len(MINUTES[0]))
    rows[10:] += 1
    assert measure(columns(MINUTES[0], rows=rows)).values["schema"] == len(rows) - 10


def test_missing_minutes_of_the_session_are_counted() -> None:
    assert judged([*MINUTES[:AT], *MINUTES[AT + 2 :]]) == {"missing_minutes": WARN}
    measured = [measure(columns(each)) for each in (MINUTES[0], MINUTES[4])]
    assert [each.values["missing_minutes"] for each in compared([], measured, always)] == [0, 3]
    assert compared([], measured, lambda _first, _last: None)[1].values["missing_minutes"] == 0


def test_prices_and_sizes_are_checked_against_the_bounds_of_the_instrument() -> None:
    tight = Limits(bounds=Bounds(lowest_price=1, highest_price=500_000, largest_size=40))
    assert judged(MINUTES, limits=tight) == {"price_out_of_bounds": QUARANTINE, "size_out_of_bounds": QUARANTINE}


def test_a_trade_with_the_id_of_the_one_before_is_counted() -> None:
    minute = MINUTES[AT].copy()
    at = own(minute, TRADE)
    minute["seq"][at] = 1000 + np.arange(len(at))
    minute["seq"][at[6]] = minute["seq"][at[5]]
    limits = Limits(limits={"repeated_trade": Limit(warn=0)})
    assert judged([*MINUTES[:AT], minute, *MINUTES[AT + 1 :]], limits=limits)["repeated_trade"] == WARN


def test_ids_may_restart_after_a_clear() -> None:
    minute = MINUTES[AT].copy()
    start = np.flatnonzero(minute["flags"] & F_LAST)[30] + 1
    cleared = minute[start : start + 1].copy()
    cleared["kind"], cleared["flags"], cleared["size"], cleared["side"] = CLEAR, F_SNAPSHOT, 0, 0
    minute["seq"][start:] = 1
    assert measure(columns(np.concatenate([minute[:start], cleared, minute[start:]]))).values["seq_back"] == 0


def test_fewer_than_three_minutes_have_no_usual_values_to_deviate_from() -> None:
    minutes = [MINUTES[0], MINUTES[1].copy()]
    huge_level(minutes[1])
    assert judged(minutes, 1) == {}


def test_recent_minutes_of_an_earlier_run_define_the_usual() -> None:
    spoiled_one = MINUTES[AT].copy()
    huge_level(spoiled_one)
    earlier = [measure(columns(each)) for each in MINUTES[:AT]]
    (beside,) = compared(earlier, [measure(columns(spoiled_one))], always)
    assert BY_NAME["size_outlier"].limit.verdict(beside.values["size_ratio"]) == QUARANTINE


def history(value: float, n: int = 1000) -> list[Measured]:
    (base,) = compared([], [measure(columns(MINUTES[0]))], always)
    return [replace(base, values={**base.values, "largest_spread_bp": value + i / n}) for i in range(n)]


def test_limits_lie_above_what_was_usual_and_bounds_around_what_was_seen() -> None:
    limits = learned(history(20.0), (600_000, 610_000))
    spread = limits.of(BY_NAME["wide_spread"])
    assert (spread.warn, spread.hold) == (31.5, 84.0)
    assert limits.bounds.lowest_price == 300_000
    assert limits.bounds.highest_price == 915_000
    assert "refused_by_book" not in limits.limits
    assert "crossed_book" not in limits.limits


def test_a_limit_that_would_never_warn_before_quarantine_is_rejected() -> None:
    with pytest.raises(SettingsError, match="expected hold >= warn"):
        Limits(limits={"wide_spread": Limit(warn=10, hold=5)})
    with pytest.raises(SettingsError, match="unknown rule 'wide_sprad'"):
        Limits(limits={"wide_sprad": Limit(warn=10)})


def minute_of(text: str) -> int:
    return int(np.datetime64(text, "m").astype(np.int64))


@pytest.mark.parametrize(
    ("venue", "first", "last", "wanted"),
    [
        ("binance-usdm", "2024-08-10T00:00", "2024-08-10T23:59", 1440),  # a Saturday
        ("us-nbbo", "2013-10-07T00:00", "2013-10-07T23:59", 390),
        ("us-nbbo", "2013-10-06T00:00", "2013-10-06T23:59", 0),  # a Sunday
        ("sse", "2023-02-07T00:00", "2023-02-07T23:59", 240),  # a lunch break of 90 minutes
        ("cme", "2023-05-02T00:00", "2023-05-02T23:59", 1380),  # closed from 21:00 to 22:00 UTC
        ("shfe", "2025-06-05T00:00", "2025-06-05T23:59", 225 + 120),
        ("shfe", "2025-06-07T00:00", "2025-06-07T23:59", 0),  # a Saturday
    ],
)
def test_a_venue_is_expected_to_trade_in_its_sessions(venue: str, first: str, last: str, wanted: int) -> None:
    found = trading_hours.minutes(venue, minute_of(first), minute_of(last))
    assert found is not None
    assert len(found) == wanted
    assert (np.diff(found) > 0).all()


def test_no_evening_session_leads_into_a_holiday() -> None:
    evening = (minute_of("2025-09-30T13:00"), minute_of("2025-09-30T15:00"))  # the week of the first of October is off
    found = trading_hours.minutes("shfe", *evening)
    assert found is not None
    assert len(found) == 0


def test_nothing_is_expected_of_days_outside_every_calendar() -> None:
    assert trading_hours.minutes("nasdaq", 0, 600) is None
    assert trading_hours.minutes("fi2010", 0, 600) is None
