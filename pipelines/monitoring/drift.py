"""Drift by effect size: how far a window of signals lies from the reference, judged by how far the reference's own
windows lie from each other.

A p-value grows with the number of rows until every difference is "significant", and ticks are not independent; both
make the usual tests cry wolf. So the distance is an effect size, and its threshold comes from the reference itself:

* Like with like: a market has regimes, and a window of one differs from all of them together by more than any drift
  one wants to see. So a window is held against the reference windows most like it (a twentieth of them, over all
  signals together): the nearest neighbours of novelty detection (Ramaswamy, Rastogi, Shim, SIGMOD 2000), pooled.
* Distance: first Wasserstein distance between the window and those, divided by their mean absolute deviation from the
  median. 0.3 reads: "moved by three tenths of the spread that is usual in such windows".
* Threshold: block bootstrap (Künsch, Annals of Statistics 17(3), 1989) with whole windows as blocks, so that
  autocorrelation within a window stays. Each replicate draws a held-out window and a reference made of windows well
  apart from it in time. The bound is the larger of the bootstrap quantile and a one-sided prediction bound for the next
  window on the log scale, ``exp(mean + t * sd * sqrt(1 + 1/m))`` with ``m`` windows of reference: few windows, wide
  bound.
* Window: its strength is the mean over signals of how far each lies beyond its own threshold, in doublings, none below
  it and at most two (so that one broken signal is no drift); violated when stronger than what the replicates show.
* Verdict: k of the last n windows violated, and the newest one; and what these have in common, the median of each
  signal's effect over them, is itself stronger than a window may be. A drift is one thing that lasts; ten odd minutes,
  each for a reason of its own, are not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.errors import EmptyDataError, SettingsError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CELLS = 128  # cells of a signal's distribution
MAX_STARTS = 1000  # reference windows looked at, evenly spread, overlapping when there are fewer
ALIKE = 0.05  # share of the reference windows that a window is held against,
LEAST_ALIKE = 8  # and at least so many windows side by side
LEAST_SPREAD = 0.1  # of the whole reference's spread: what hardly varies in one regime is not divided by nearly nothing
APART = 0.1  # share of the reference on either side of a held-out window that is left out with it
MIN_WINDOWS = 4  # windows the reference must hold for a threshold to mean anything
MOST_DOUBLINGS = 2.0  # a signal four times beyond its threshold weighs as much as any
MIN_ROWS = 20  # a window with fewer rows says nothing


@dataclass(frozen=True, kw_only=True)
class DriftRule:
    """What counts as drift. ``false_alarm`` is the chance, per signal and window, to lie beyond the threshold, and
    ``window_alarm`` that of a window of an unchanged market to be violated: large where k and n are."""

    window_ns: int
    k: int = 3
    n: int = 4
    bootstrap: int = 400
    false_alarm: float = 0.05
    window_alarm: float = 0.05
    min_effect: float = 0.10
    min_strength: float = 0.08
    seed: int = 7

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise SettingsError(f"expected 1 <= k <= n, saw k={self.k}, n={self.n}")
        chances = (self.false_alarm, self.window_alarm)
        if self.window_ns <= 0 or self.bootstrap < 50 or not all(0 < chance < 0.5 for chance in chances):
            raise SettingsError(
                "expected window > 0, bootstrap >= 50, false_alarm and window_alarm between 0 and 0.5, saw "
                f"{self.window_ns} ns, {self.bootstrap}, {self.false_alarm} and {self.window_alarm}"
            )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows over time: ``values`` (rows, signals), not-a-number where a signal is unknown; ``segment`` (rows,) numbers
    stretches that no window may span."""

    names: tuple[str, ...]
    values: Floats
    recv_ns: Ints
    segment: Ints

    def __post_init__(self) -> None:
        rows, signals = self.values.shape
        if signals != len(self.names) or self.recv_ns.shape != (rows,) or self.segment.shape != (rows,):
            raise ValueError("names, values, times and segments disagree in shape")


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """Distributions of ``m`` windows: ``counts`` (m, signals, CELLS + 2) in the reference's cells, ``beyond`` (m,
    signals) mean distance of values outside the reference's range, ``mean`` and ``spread`` (m, signals), the latter the
    mean distance from the reference's median."""

    start_ns: Ints
    end_ns: Ints
    counts: Floats
    beyond: Floats
    mean: Floats
    spread: Floats

    def __len__(self) -> int:
        return len(self.start_ns)

    def lines(self, widths: Floats) -> Floats:
        """(m, signals, CELLS) distribution functions, so scaled that a sum of differences is a Wasserstein distance."""
        scaled: Floats = _cdf(self.counts)[..., :-1] * widths
        return scaled

    def only(self, chosen: Ints) -> _Windows:
        """The windows at ``chosen`` (m,), in that order."""
        return _Windows(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Verdict over ``m`` current windows, oldest first. Arrays are (m, signals) or (m,)."""

    names: tuple[str, ...]
    judged: Bools  # (signals,): false where the reference cannot carry a threshold
    start_ns: Ints
    end_ns: Ints
    effects: Floats
    mean: Floats  # of each signal in each window, in its own unit
    spread: Floats  # mean distance from the reference's median over what it is in the windows alike
    shift: Floats  # mean of the window minus mean of the windows alike, in the same unit as effects
    thresholds: Floats  # (signals,)
    share: Floats  # of the judged signals that lie beyond their thresholds, (m,)
    strength: Floats
    strength_threshold: float
    violated: Bools
    n: int
    drifted: bool
    since_ns: int  # start of the first window of this drift; 0 when there is none

    def top(self, limit: int) -> list[tuple[str, float, float, str]]:
        """Signals furthest beyond their thresholds, in the violated windows of the drift (without one: in the last n
        windows): name, median effect, threshold, direction."""
        recent = np.arange(len(self.violated)) >= len(self.violated) - self.n
        rows = self.violated & (self.start_ns >= self.since_ns) if self.drifted else recent
        effect = _typical(self.effects[rows])
        shift, spread = _typical(self.shift[rows]), _typical(self.spread[rows])
        excess = np.where(self.judged & np.isfinite(effect), effect / self.thresholds, -np.inf)
        order = [int(i) for i in np.argsort(-excess) if excess[i] > 1.0][:limit]
        return [
            (self.names[i], float(effect[i]), float(self.thresholds[i]), _direction(effect[i], shift[i], spread[i]))
            for i in order
        ]


class Reference:
    """What the signals looked like when the model was trained, and how much windows of it differ by themselves.

    ``unjudged`` names signals that have no vote.

    Raises:
        EmptyDataError: fewer than MIN_WINDOWS windows.
    """

    def __init__(self, sample: Sample, rule: DriftRule, unjudged: Collection[str] = ()) -> None:
        self.names = sample.names
        self.rule = rule
        self._cuts = _cuts(sample.values)
        self._widths = np.diff(self._cuts, axis=1)
        self._median, self._scale = _median_and_deviation(sample.values)
        bounds = _starts(sample, rule.window_ns, step_ns=_step(sample, rule.window_ns))
        windows = self._count(sample, bounds)
        self._require_enough(sample, windows)
        moved = (windows.counts > 0).sum(axis=2) > 1
        wanted = np.array([name not in unjudged for name in sample.names])
        # windows side by side in which a signal moved; quality is known for the later part of the reference only
        self._lasting = self._held * moved.mean(axis=0)
        self.judged: Bools = wanted & (self._scale > 0) & (self._lasting >= MIN_WINDOWS)
        self._windows = windows
        self._lines = windows.lines(self._widths)
        side_by_side = len(windows) / self._held
        self._alike = max(round(ALIKE * len(windows)), round(LEAST_ALIKE * side_by_side))
        null = self._bootstrap()
        self.thresholds: Floats = self._bounds(null)
        usual = float(np.quantile(self._strength(null), 1 - rule.window_alarm))
        self.strength_threshold = max(rule.min_strength, usual)

    def judge(self, sample: Sample) -> Judgement:
        """Windows of ``sample`` against the reference.

        Raises:
            EmptyDataError: not one whole window.
        """
        if sample.names != self.names:
            raise ValueError("reference and current signals differ")
        windows = self._count(sample, _by_the_clock(sample, self.rule.window_ns))
        if not len(windows):
            raise EmptyDataError(
                f"expected at least one window of {self.rule.window_ns / NS_PER_S:g} s with {MIN_ROWS} rows to judge, "
                f"saw {_seconds(sample):.1f} s with {len(sample.recv_ns)} rows; serve for longer or shorten the window"
            )
        weights = self._nearest(self._unlikeness(windows), np.ones((len(windows), len(self._windows))))
        effects, scale = self._effects(windows, weights)
        strength = self._strength(effects)
        violated = strength > self.strength_threshold
        drifted, first = self.verdict(violated, effects)
        return Judgement(
            names=self.names,
            judged=self.judged,
            start_ns=windows.start_ns,
            end_ns=windows.end_ns,
            effects=effects,
            mean=windows.mean,
            spread=windows.spread / np.maximum(self._usual(self._windows.spread, weights), 1e-12),
            shift=(windows.mean - self._usual(self._windows.mean, weights)) / scale,
            thresholds=self.thresholds,
            share=(self._doublings(effects) > 0).sum(axis=1) / max(int(self.judged.sum()), 1),
            strength=strength,
            strength_threshold=self.strength_threshold,
            violated=violated,
            n=self.rule.n,
            drifted=drifted,
            since_ns=int(windows.start_ns[first]) if drifted else 0,
        )

    def verdict(self, violated: Bools, effects: Floats) -> tuple[bool, int]:
        """Drift or none at the end of windows in order, and the window it began in: ``violated`` (m,), ``effects`` (m,
        signals)."""
        said, first = verdict(violated, k=self.rule.k, n=self.rule.n)
        if said and self.common(violated, effects) <= self.strength_threshold:
            return False, -1
        return said, first

    def common(self, violated: Bools, effects: Floats) -> float:
        """Strength of what the violated ones of the last n windows have in common, of which there is one or more."""
        newest = slice(-self.rule.n, None)
        typical = _typical(effects[newest][violated[newest]])
        return float(self._strength(typical[np.newaxis])[0])

    # -- inside -------------------------------------------------------------------------------------------------

    def _require_enough(self, sample: Sample, windows: _Windows) -> None:
        held = int(_seconds(sample) * NS_PER_S // self.rule.window_ns)
        if held < MIN_WINDOWS or len(windows) < MIN_WINDOWS:
            raise EmptyDataError(
                f"expected a reference of at least {MIN_WINDOWS} windows of {self.rule.window_ns / NS_PER_S:g} s, saw "
                f"{_seconds(sample):.1f} s with {len(sample.recv_ns)} rows; take a longer dataset or shorten the window"
            )
        self._held = held

    def _count(self, sample: Sample, bounds: Sequence[tuple[int, int]]) -> _Windows:
        m, signals, cells = len(bounds), len(self.names), CELLS + 2
        counts = np.zeros((m, signals, cells))
        beyond, mean, spread = (np.full((m, signals), np.nan) for _ in range(3))
        low, high = self._cuts[:, 0], self._cuts[:, -1]
        cell = _cells(sample.values, self._cuts)
        offset = np.arange(signals) * cells
        for i, (a, b) in enumerate(bounds):
            x = sample.values[a:b]
            known = np.isfinite(x)
            flat = (cell[a:b] + offset)[known]
            counts[i] = np.bincount(flat, minlength=signals * cells).reshape(signals, cells)
            x = np.where(known, x, low)
            n = np.maximum(known.sum(axis=0), 1)
            beyond[i] = (np.maximum(x - high, 0) + np.maximum(low - x, 0)).sum(axis=0) / n
            some = known.any(axis=0)
            mean[i, some] = np.where(known, x, 0.0).sum(axis=0)[some] / n[some]
            spread[i, some] = np.where(known, np.abs(x - self._median), 0.0).sum(axis=0)[some] / n[some]
        time = np.maximum.accumulate(sample.recv_ns) if len(sample.recv_ns) else sample.recv_ns
        start = np.array([time[a] for a, _ in bounds], dtype=np.int64)
        end = np.array([time[b - 1] for _, b in bounds], dtype=np.int64)
        return _Windows(start_ns=start, end_ns=end, counts=counts, beyond=beyond, mean=mean, spread=spread)

    def _unlikeness(self, windows: _Windows) -> Floats:
        """(m, reference windows) mean over the signals of the distance between two windows, in usual deviations."""
        from scipy.spatial.distance import cdist

        voting = np.flatnonzero(self.judged & (self._windows.counts.sum(axis=2) > 0).all(axis=0))
        total = np.zeros((len(windows), len(self._windows)))
        mine = windows.lines(self._widths)
        for j in voting:
            known = windows.counts[:, j].sum(axis=1) > 0
            total[known] += cdist(mine[known, j], self._lines[:, j], "cityblock") / self._scale[j]
        return total / max(len(voting), 1)

    def _nearest(self, unlikeness: Floats, times: Floats) -> Floats:
        """(m, reference windows) how often each counts when the nearest are taken; ``times`` how often it is there."""
        order = np.argsort(unlikeness, axis=1, kind="stable")
        there = np.take_along_axis(times, order, axis=1)
        before = np.cumsum(there, axis=1) - there
        taken = np.clip(self._alike - before, 0, there)
        weights = np.empty_like(taken)
        np.put_along_axis(weights, order, taken, axis=1)
        return weights

    def _effects(self, windows: _Windows, weights: Floats) -> tuple[Floats, Floats]:
        """Effects and what they are divided by, both (m, signals). The integral of |F - G| over the reference's range,
        plus what lies outside it; G pools the reference windows by their ``weights`` (m, reference windows)."""
        counts = self._windows.counts
        pooled = (weights @ counts.reshape(len(counts), -1)).reshape(-1, *counts.shape[1:])
        usual = _cdf(pooled)[..., :-1]
        gap = np.abs(_cdf(windows.counts)[..., :-1] - usual)
        distance = (gap * self._widths).sum(axis=-1) + windows.beyond
        # the mean distance from the median is the integral of the smaller tail
        spread = (np.minimum(usual, 1 - usual) * self._widths).sum(axis=-1)
        scale = np.where(self._scale > 0, np.maximum(spread, LEAST_SPREAD * self._scale), np.inf)
        distance[(windows.counts.sum(axis=-1) == 0) | (pooled.sum(axis=-1) == 0)] = np.nan
        return distance / scale, scale

    def _usual(self, values: Floats, weights: Floats) -> Floats:
        """(m, signals) mean of ``values`` (reference windows, signals) over rows, windows counted by ``weights``."""
        rows = self._windows.counts.sum(axis=2)
        total = weights @ np.where(rows > 0, np.nan_to_num(values) * rows, 0.0)
        usual: Floats = total / np.maximum(weights @ rows, 1.0)
        return usual

    def _bootstrap(self) -> Floats:
        """(replicates, signals) effects of held-out reference windows."""
        rng = np.random.default_rng(self.rule.seed)
        windows = self._windows
        held_out = rng.integers(len(windows), size=self.rule.bootstrap)
        apart_ns = max(1, int(APART * self._held)) * self.rule.window_ns
        times = np.empty((self.rule.bootstrap, len(windows)))
        for i, at in enumerate(held_out):
            apart = np.flatnonzero(np.abs(windows.start_ns - windows.start_ns[at]) >= apart_ns)
            times[i] = np.bincount(rng.choice(apart, size=len(windows), replace=True), minlength=len(windows))
        chosen = windows.only(held_out)
        return self._effects(chosen, self._nearest(self._unlikeness(chosen), times))[0]

    def _bounds(self, null: Floats) -> Floats:
        from scipy.stats import t

        rule, m = self.rule, self._lasting[self.judged]
        known = null[:, self.judged]
        log = np.log(np.maximum(known, 1e-6))
        quantile = np.nanquantile(known, 1 - rule.false_alarm, axis=0)
        wide = t.ppf(1 - rule.false_alarm, m - 1) * np.sqrt(1 + 1 / m)
        predicted = np.exp(np.nanmean(log, axis=0) + wide * np.nanstd(log, axis=0))
        bounds = np.full(len(self.names), rule.min_effect)
        bounds[self.judged] = np.maximum(rule.min_effect, np.maximum(quantile, predicted))
        return bounds

    def _doublings(self, effects: Floats) -> Floats:
        """(m, signals) how often each judged signal's threshold is doubled; 0 below it and where it is unknown."""
        votes = np.isfinite(effects) & self.judged
        ratio = np.where(votes, effects, 0.0) / self.thresholds
        doublings: Floats = np.minimum(np.log2(np.maximum(ratio, 1.0)), MOST_DOUBLINGS)
        return doublings

    def _strength(self, effects: Floats) -> Floats:
        """(m,) mean over the signals that are judged and known in the window."""
        votes = (np.isfinite(effects) & self.judged).sum(axis=1)
        strength: Floats = self._doublings(effects).sum(axis=1) / np.maximum(votes, 1)
        return strength


def verdict(violated: Bools, *, k: int, n: int) -> tuple[bool, int]:
    """Whether the newest window and at least ``k`` of the last ``n`` are violated, and the window the drift began in.

    The beginning is found by walking back while the rule held at each step, so that it stays the same as newer windows
    come in.
    """
    size = len(violated)
    if not size or not violated[-1] or int(violated[-n:].sum()) < k:
        return False, -1
    first = size - 1
    for i in range(size - 1, -1, -1):
        if int(violated[max(0, i - n + 1) : i + 1].sum()) < k:
            break
        if violated[i]:
            first = i
    # the windows that made the rule hold for the first time
    lead = [i for i in range(max(0, first - n + 1), first + 1) if violated[i]]
    return True, lead[0]


def _cuts(values: Floats) -> Floats:
    """(signals, CELLS + 1) cell edges: reference quantiles that are values of the reference, repeated at the end where
    there are fewer distinct ones, so that a discrete signal is measured exactly."""
    edges = np.zeros((values.shape[1], CELLS + 1))
    for i in range(values.shape[1]):
        known = values[np.isfinite(values[:, i]), i]
        if not len(known):
            continue
        distinct = np.unique(known)
        if len(distinct) > CELLS + 1:
            distinct = np.unique(np.quantile(known, np.linspace(0, 1, CELLS + 1), method="inverted_cdf"))
        edges[i, : len(distinct)] = distinct
        edges[i, len(distinct) :] = distinct[-1]
    return edges


def _cells(values: Floats, cuts: Floats) -> NDArray[np.uint8]:
    """(rows, signals) index of the first edge at or above each value; CELLS + 1 above all."""
    out = np.empty(values.shape, dtype=np.uint8)  # a day of rows has to fit into memory
    for i in range(values.shape[1]):
        out[:, i] = np.searchsorted(cuts[i], values[:, i], side="left")
    return out


def _cdf(counts: Floats) -> Floats:
    """(m, signals, CELLS + 1) share of values at or below each edge."""
    total = np.maximum(counts.sum(axis=-1, keepdims=True), 1.0)
    cdf: Floats = counts[..., : CELLS + 1].cumsum(axis=-1) / total
    return cdf


def _median_and_deviation(values: Floats) -> tuple[Floats, Floats]:
    """(signals,) median, and mean absolute deviation from it; zeros where nothing is known."""
    known = np.where(np.isfinite(values), values, np.nan)
    known[:, ~np.isfinite(known).any(axis=0)] = 0.0
    median = np.asarray(np.nanmedian(known, axis=0), dtype=np.float64)
    return median, np.asarray(np.nanmean(np.abs(known - median), axis=0), dtype=np.float64)


def _typical(values: Floats) -> Floats:
    """(signals,) median over windows of what is known; not-a-number where nothing is."""
    known = np.isfinite(values).any(axis=0)
    typical = np.full(values.shape[1], np.nan)
    typical[known] = np.nanmedian(values[:, known], axis=0)
    return typical


def _spans(sample: Sample) -> list[tuple[int, int]]:
    """Row ranges of the contiguous segments."""
    if not len(sample.segment):
        return []
    edges = [0, *(np.flatnonzero(np.diff(sample.segment)) + 1).tolist(), len(sample.segment)]
    return list(pairwise(edges))


def _seconds(sample: Sample) -> float:
    """Time covered by the segments together."""
    total = sum(int(sample.recv_ns[b - 1] - sample.recv_ns[a]) for a, b in _spans(sample))
    return total / NS_PER_S


def _step(sample: Sample, window_ns: int) -> int:
    """Distance of window starts in the reference: five a window, fewer in a long reference."""
    return max(window_ns // 5, int(_seconds(sample) * NS_PER_S / MAX_STARTS), 1)


def _starts(sample: Sample, window_ns: int, *, step_ns: int) -> list[tuple[int, int]]:
    """Row ranges of the whole windows that begin every ``step_ns`` of each segment and hold enough rows."""
    bounds: list[tuple[int, int]] = []
    for a, b in _spans(sample):
        time = np.maximum.accumulate(sample.recv_ns[a:b])  # a receive clock may step back
        bounds += _rows_within(time, a, np.arange(time[0], time[-1] - window_ns + 1, step_ns), window_ns)
    return bounds


def _by_the_clock(sample: Sample, window_ns: int) -> list[tuple[int, int]]:
    """Row ranges of the whole windows that begin at multiples of their length, so that whoever looks again later sees
    the same windows. A twentieth of a window may be without rows at either end."""
    bounds: list[tuple[int, int]] = []
    slack = window_ns // 20
    for a, b in _spans(sample):
        time = np.maximum.accumulate(sample.recv_ns[a:b])
        first, end = -((slack - int(time[0])) // window_ns), (int(time[-1]) + slack) // window_ns
        bounds += _rows_within(time, a, np.arange(first, end, dtype=np.int64) * window_ns, window_ns)
    return bounds


def _rows_within(time: Ints, first_row: int, starts: Ints, window_ns: int) -> list[tuple[int, int]]:
    left = first_row + np.searchsorted(time, starts, side="left")
    right = first_row + np.searchsorted(time, starts + window_ns, side="left")
    return [(int(i), int(j)) for i, j in zip(left, right, strict=True) if j - i >= MIN_ROWS]


def _direction(effect: float, shift: float, spread: float) -> str:
    """A shift of the mean that explains most of the distance is a direction; else the shape changed around it.

    ``spread`` is the mean distance from the reference's median over what it is in the windows alike.
    """
    if abs(shift) >= 0.5 * effect:
        return "higher" if shift > 0 else "lower"
    if spread > 1.1:
        return "wider"
    return "narrower" if spread < 0.9 else "of another shape"
