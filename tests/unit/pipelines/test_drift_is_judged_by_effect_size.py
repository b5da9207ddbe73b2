"""Drift statistics on a synthetic market with slow and fast factors: quiet when nothing changed, awake when it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples

from market.clock import NS_PER_S
from market.errors import EmptyDataError, SettingsError
from pipelines.monitoring.drift import DriftRule, Judgement, Reference, Sample, verdict

RULE = DriftRule(window_ns=10 * NS_PER_S, bootstrap=200)
SIGNALS = 24
NAMES = tuple(f"signal_{i}" for i in range(SIGNALS))


def _market(seed: int, seconds: float, *, loud: float = 1.0) -> Sample:
    """Rows about 20 a second; each signal mixes autoregressive factors with memories of 0.5 to 20 s and noise; some are
    heavy-tailed, one is a small whole number, one never moves. ``loud`` scales them."""
    rng = np.random.default_rng(seed)
    rows = int(seconds * 20)
    factors = np.empty((rows, 4))
    factors[0] = rng.normal(size=4)
    keep = np.exp(-0.05 / np.array([0.5, 2.0, 5.0, 20.0]))
    noise = rng.normal(size=(rows, 4)) * np.sqrt(1 - keep**2)
    for i in range(1, rows):
        factors[i] = keep * factors[i - 1] + noise[i]
    mix = np.random.default_rng(99).normal(size=(4, SIGNALS))
    x = 0.7 * factors @ (mix / np.linalg.norm(mix, axis=0)) + 0.7 * rng.normal(size=(rows, SIGNALS))
    x[:, :8] = np.exp(0.8 * loud * x[:, :8])
    x[:, 8:20] *= loud
    x[:, 20] = np.round(np.exp(x[:, 20] - 1))
    x[:, 21] = 3.0
    time = (np.cumsum(rng.exponential(0.05, rows)) * NS_PER_S).astype(np.int64)
    return Sample(names=NAMES, values=x, recv_ns=time, segment=np.zeros(rows, dtype=np.int64))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(_market(0, 600), RULE)


def test_an_unchanged_market_raises_no_alarm_in_nineteen_of_twenty_looks(reference: Reference) -> None:
    alarms = [reference.judge(_market(seed, 120)).drifted for seed in range(1, 41)]
    assert np.mean(alarms) <= 0.05


def test_a_market_three_times_as_loud_is_found_and_dated_from_where_it_began(reference: Reference) -> None:
    found = [reference.judge(_market(seed, 120, loud=3.0)) for seed in range(1, 21)]
    assert np.mean([j.drifted for j in found]) >= 0.9
    judged = next(j for j in found if j.drifted)
    assert judged.since_ns in judged.start_ns[judged.violated]
    assert all(effect > threshold for _, effect, threshold, _ in judged.top(5))


def test_windows_that_are_odd_each_in_its_own_way_are_no_drift(reference: Reference) -> None:
    def odd(group: Callable[[int], int]) -> Judgement:
        """Six neighbouring signals are five times as loud in each window."""
        sample = _market(3, 60)
        values = sample.values.copy()
        for i, window in enumerate(np.array_split(np.arange(len(values)), 6)):
            at = 8 + 6 * group(i)
            values[np.ix_(window, np.arange(at, at + 6) % SIGNALS)] *= 5.0
        return reference.judge(replace(sample, values=values))

    alike, each_its_own = odd(lambda _i: 0), odd(lambda i: i)
    assert alike.violated[-4:].all()
    assert each_its_own.violated[-4:].all()
    assert alike.drifted
    assert not each_its_own.drifted
    assert each_its_own.since_ns == 0


def test_drift_that_is_over_is_no_alarm(reference: Reference) -> None:
    loud, quiet = _market(3, 60, loud=3.0), _market(4, 60)
    both = Sample(
        names=NAMES,
        values=np.concatenate([loud.values, quiet.values]),
        recv_ns=np.concatenate([loud.recv_ns, quiet.recv_ns + loud.recv_ns[-1]]),
        segment=np.zeros(len(loud.recv_ns) + len(quiet.recv_ns), dtype=np.int64),
    )
    judged = reference.judge(both)
    assert judged.violated[:4].any()
    assert not judged.drifted


def test_an_effect_is_read_in_units_of_the_usual_spread(reference: Reference) -> None:
    sample = _market(0, 600)
    spread = np.abs(sample.values[:, 9] - np.median(sample.values[:, 9])).mean()
    moved = sample.values.copy()
    moved[:, 9] += 1.5 * spread
    judged = reference.judge(
        Sample(names=NAMES, values=moved, recv_ns=sample.recv_ns, segment=sample.segment),
    )
    assert np.median(judged.shift[:, 9]) == pytest.approx(1.5, abs=0.15)
    assert judged.top(1)[0][0] == "signal_9"
    assert judged.top(1)[0][3] == "higher"


def test_a_signal_that_never_moved_in_the_reference_is_not_judged(reference: Reference) -> None:
    assert not reference.judged[21]
    assert reference.judged[20]


def test_unknown_values_do_not_vote(reference: Reference) -> None:
    sample = _market(5, 60)
    sample.values[:, 9] = np.nan
    judged = reference.judge(sample)
    assert np.isnan(judged.effects[:, 9]).all()
    assert not judged.drifted


def test_a_signal_known_for_the_last_fifth_of_the_reference_is_bounded_by_that_fifth() -> None:
    whole = _market(0, 600)
    part = whole.values.copy()
    known = part[:, 9].copy()
    part[: int(0.8 * len(part)), 9] = np.nan
    last = Reference(Sample(names=NAMES, values=part, recv_ns=whole.recv_ns, segment=whole.segment), RULE)
    assert last.judged[9]
    assert last.thresholds[9] >= Reference(whole, RULE).thresholds[9] * 0.5
    part[:, 9] = np.where(np.arange(len(part)) < 0.95 * len(part), np.nan, known)
    few = Reference(Sample(names=NAMES, values=part, recv_ns=whole.recv_ns, segment=whole.segment), RULE)
    assert not few.judged[9]  # three windows are no distribution


@settings(max_examples=examples(20), deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_within_a_window_changes_nothing(reference: Reference, seed: int) -> None:
    sample = _market(8, 60, loud=1.5)
    rng = np.random.default_rng(seed)
    window = (sample.recv_ns - sample.recv_ns[0]) // RULE.window_ns
    order = np.lexsort((rng.random(len(window)), window))
    mixed = Sample(names=NAMES, values=sample.values[order], recv_ns=sample.recv_ns, segment=sample.segment)
    one, two = reference.judge(sample), reference.judge(mixed)
    np.testing.assert_allclose(one.effects, two.effects, rtol=1e-9)
    assert (one.violated == two.violated).all()


@settings(max_examples=examples(20), deadline=None)
@given(column=st.integers(0, SIGNALS - 1), scale=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3))
def test_the_unit_of_a_signal_changes_nothing(column: int, scale: float, offset: float) -> None:
    reference, sample = _market(0, 120), _market(9, 40, loud=2.0)

    def judged(then: Sample, now: Sample) -> Judgement:
        return Reference(then, RULE).judge(now)

    def in_other_units(said: Sample) -> Sample:
        values = said.values.copy()
        values[:, column] = scale * values[:, column] + offset
        return Sample(names=NAMES, values=values, recv_ns=said.recv_ns, segment=said.segment)

    plain, other = judged(reference, sample), judged(in_other_units(reference), in_other_units(sample))
    np.testing.assert_allclose(plain.effects, other.effects, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(plain.strength, other.strength, rtol=1e-5, atol=1e-8)


def test_who_looks_later_sees_the_same_windows(reference: Reference) -> None:
    sample = _market(10, 120)

    def from_row(first: int) -> Judgement:
        part = [a[first:] for a in (sample.values, sample.recv_ns, sample.segment)]
        return reference.judge(Sample(names=NAMES, values=part[0], recv_ns=part[1], segment=part[2]))

    whole = from_row(0)
    for first in (150, 311, 700):
        later = from_row(first)
        np.testing.assert_array_equal(later.start_ns, whole.start_ns[-len(later.start_ns) :])
        np.testing.assert_array_equal(later.strength, whole.strength[-len(later.strength) :])


def test_windows_do_not_span_segments() -> None:
    sample = _market(6, 90)
    half = len(sample.recv_ns) // 2
    segment = np.repeat([0, 1], [half, len(sample.recv_ns) - half])
    judged = Reference(_market(0, 120), RULE).judge(
        Sample(names=NAMES, values=sample.values, recv_ns=sample.recv_ns, segment=segment)
    )
    assert len(judged.strength) >= 7  # four whole windows and three or four
    turn = int(sample.recv_ns[half])
    assert not ((judged.start_ns < turn) & (judged.end_ns >= turn)).any()


def test_a_reference_too_short_for_a_threshold_is_refused() -> None:
    with pytest.raises(EmptyDataError, match="at least 4 windows of 10 s"):
        Reference(_market(0, 30), RULE)


def test_a_sample_without_one_whole_window_is_refused(reference: Reference) -> None:
    with pytest.raises(EmptyDataError, match="at least one window"):
        reference.judge(_market(1, 5))


@pytest.mark.parametrize(
    ("violated", "expected"),
    [
        ([0, 0, 1, 1, 1], (True, 2)),
        ([0, 1, 1, 0, 1], (True, 1)),
        ([1, 1, 1, 1, 0], (False, -1)),  # the newest is quiet
        ([1, 0, 0, 1, 1], (False, -1)),
        ([1, 1, 0, 0, 0, 1, 1, 1, 1, 1], (True, 5)),
        ([], (False, -1)),
    ],
)
def test_the_verdict_is_three_of_the_last_four_and_the_newest(violated: list[int], expected: tuple[bool, int]) -> None:
    assert verdict(np.array(violated, dtype=bool), k=3, n=4) == expected


def test_newer_windows_do_not_move_the_beginning_of_a_drift() -> None:
    long = np.array([0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1], dtype=bool)
    begun = {verdict(long[:end], k=3, n=4)[1] for end in range(5, 13) if long[end - 1]}
    assert begun == {1}


def test_k_above_n_is_refused() -> None:
    with pytest.raises(SettingsError, match="k <= n"):
        DriftRule(window_ns=NS_PER_S, k=5, n=4)


def _regimes(seed: int, seconds: float, *, wider: float = 1.0) -> Sample:
    """A market that is quiet for a minute and four times as loud for the next, and so on; ``wider`` scales both."""
    sample = _market(seed, seconds)
    loud = (sample.recv_ns // (60 * NS_PER_S)) % 2 == 1
    values = sample.values * np.where(loud, 4.0, 1.0)[:, None] * wider
    return Sample(names=NAMES, values=values, recv_ns=sample.recv_ns, segment=sample.segment)


def test_a_change_smaller_than_that_between_regimes_is_found_within_them() -> None:
    reference = Reference(_regimes(0, 1200), RULE)
    quiet = [reference.judge(_regimes(seed, 240)) for seed in range(1, 9)]
    assert np.mean([j.violated.mean() for j in quiet]) <= 0.15
    assert sum(j.drifted for j in quiet) <= 1
    changed = [reference.judge(_regimes(seed, 240, wider=2.0)) for seed in range(1, 9)]
    assert np.mean([j.violated.mean() for j in changed]) >= 0.5  # where the louder regime got louder: beyond any seen
    assert all(j.drifted for j in changed)
    assert {direction for j in changed for *_, direction in j.top(3)} <= {"wider", "higher", "lower"}


def test_the_share_of_an_unchanged_market_that_is_violated_is_the_rules() -> None:
    mild = Reference(_market(0, 600), replace(RULE, window_alarm=0.3, min_strength=0.0))
    share = np.mean([mild.judge(_market(seed, 120)).violated.mean() for seed in range(1, 31)])
    assert 0.1 <= share <= 0.5


@pytest.mark.parametrize("chance", ["false_alarm", "window_alarm"])
def test_a_chance_of_a_half_is_refused(chance: str) -> None:
    with pytest.raises(SettingsError, match="window_alarm between"):
        replace(RULE, **{chance: 0.5})
