"""The distance that the verdict is made of is the one on Evidently's page: the same window against the same rows."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

from market.clock import NS_PER_S
from pipelines.monitoring.drift import DriftRule, Reference, Sample

os.environ.setdefault("DO_NOT_TRACK", "1")

NAMES = ("calm", "moved", "wider", "skewed", "counts")
WITHIN = {"moved": 0.1, "wider": 0.05, "skewed": 0.2, "counts": 0.02}  # a tail is one wide cell of our distributions
ROWS, WINDOW_S = 6000, 10


def market(seed: int, rows: int, *, shifted: bool) -> Sample:
    """Ten rows a second of independent signals; all but the first change where ``shifted``."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5))
    x[:, 3] = np.exp(x[:, 3])
    x[:, 4] = np.round(np.exp(0.5 * x[:, 4] + 1))
    if shifted:
        x[:, 1] += 0.7
        x[:, 2] *= 2.0
        x[:, 3] *= 1.6
        x[:, 4] += 2
    recv_ns = (np.arange(rows) * NS_PER_S // 10).astype(np.int64)
    return Sample(names=NAMES, values=x, recv_ns=recv_ns, segment=np.zeros(rows, np.int64))


def evidently_distances(then: Sample, now: np.ndarray) -> dict[str, float]:
    """Evidently's Wasserstein figure a column, which it divides by the reference's standard deviation, times that."""
    from evidently import Report
    from evidently.metrics import ValueDrift

    frames = [pd.DataFrame(values, columns=list(NAMES)) for values in (now, then.values)]
    report = Report([ValueDrift(column=name, method="wasserstein") for name in NAMES])
    told = report.run(*frames).dict()["metrics"]
    spread = then.values.std(axis=0)
    return {name: float(each["value"]) * spread[i] for i, (name, each) in enumerate(zip(NAMES, told, strict=True))}


@pytest.mark.filterwarnings("ignore")
def test_the_distance_of_a_window_is_evidentlys_of_the_same_rows() -> None:
    then, now = market(1, ROWS, shifted=False), market(2, 10 * WINDOW_S, shifted=True)
    reference = Reference(then, DriftRule(window_ns=WINDOW_S * NS_PER_S, bootstrap=50))
    window = reference._count(now, [(0, len(now.recv_ns))])
    effects, scale = reference._effects(window, np.ones((1, len(reference._windows))))
    ours = dict(zip(NAMES, (effects * scale)[0].tolist(), strict=True))
    theirs = evidently_distances(then, now.values)
    for name, within in WITHIN.items():
        assert ours[name] == pytest.approx(theirs[name], rel=within), name
    assert ours["calm"] < 0.3 * ours["moved"]
    assert theirs["calm"] < 0.3 * theirs["moved"]
