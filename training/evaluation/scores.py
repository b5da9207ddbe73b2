"""How good probabilities are: proper scores, discrimination, calibration, confusion; and intervals for differences.

Labels are (n, K, 3): direction (0 down, 1 none, 2 up), bid falls, ask falls; -1 unknown. Probabilities are (n, P) as
:mod:`market.heads` lays them out. Every model of a comparison is scored here on the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.heads import DIRECTIONS, DOWN, HEADS, UP, class_probs
from market.labels import HORIZON_NAMES

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int8]

BINS = 15
_LEAST = 1e-7


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Calibration curve in equal-width bins: mean predicted probability, observed share, rows; empty bins left out."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One head at one horizon. ``brier`` sums over the classes; ``auc`` of the direction is the mean of up and down
    against the rest, NaN where only one class occurs; ``ece`` is the expected calibration error of the likeliest class
    (direction) or of the event (falls). ``confusion`` counts true class (rows) against likeliest class (columns)."""

    head: str
    horizon: str
    rows: int
    share: tuple[float, ...]
    log_loss: float
    brier: float
    auc: float
    accuracy: float
    balanced_accuracy: float
    ece: float
    confusion: tuple[tuple[int, ...], ...]
    reliability: Reliability


def row_losses(probs: Floats, labels: Labels) -> Floats:
    """Log-loss of each row, horizon and head (n, K, 3) in nats; NaN where the label is unknown."""
    losses = np.full(labels.shape, np.nan)
    for k in range(labels.shape[1]):
        for head in range(len(HEADS)):
            known = labels[:, k, head] >= 0
            chosen = class_probs(probs, k, head)[known, labels[known, k, head]]
            losses[known, k, head] = -np.log(np.maximum(chosen, _LEAST))
    return losses


def mean_loss(losses: Floats) -> float:
    """Mean over heads and horizons of each one's mean log-loss: every head counts alike."""
    return float(np.mean(np.nanmean(losses, axis=0)))


def score(probs: Floats, labels: Labels) -> tuple[Score, ...]:
    """Scores of every horizon and head with a known label."""
    found = []
    for k, horizon in enumerate(HORIZON_NAMES[: labels.shape[1]]):
        for head, name in enumerate(HEADS):
            known = labels[:, k, head] >= 0
            if known.any():
                found.append(_score(class_probs(probs, k, head)[known], labels[known, k, head], name, horizon))
    return tuple(found)


def _score(probs: Floats, truth: Labels, head: str, horizon: str) -> Score:
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix

    classes = probs.shape[1]
    likeliest = probs.argmax(axis=1)
    hits = likeliest == truth
    confidence, happened = (probs.max(axis=1), hits) if classes == DIRECTIONS else (probs[:, 1], truth == 1)
    curve = reliability(confidence, happened)
    present = np.unique(truth)
    return Score(
        head=head,
        horizon=horizon,
        rows=len(truth),
        share=tuple(float((truth == c).mean()) for c in range(classes)),
        log_loss=float(-np.log(np.maximum(probs[np.arange(len(truth)), truth], _LEAST)).mean()),
        brier=float(((probs - np.eye(classes)[truth]) ** 2).sum(axis=1).mean()),
        auc=_auc(probs, truth),
        accuracy=float(hits.mean()),
        balanced_accuracy=float(balanced_accuracy_score(truth, likeliest)) if len(present) > 1 else float(hits.mean()),
        ece=expected_calibration_error(curve),
        confusion=tuple(
            tuple(int(v) for v in row) for row in confusion_matrix(truth, likeliest, labels=range(classes))
        ),
        reliability=curve,
    )


def _auc(probs: Floats, truth: Labels) -> float:
    from sklearn.metrics import roc_auc_score

    wanted = (DOWN, UP) if probs.shape[1] == DIRECTIONS else (1,)
    areas = [roc_auc_score(truth == c, probs[:, c]) for c in wanted if 0 < (truth == c).sum() < len(truth)]
    return float(np.mean(areas)) if areas else float("nan")


def reliability(predicted: Floats, happened: NDArray[np.bool_]) -> Reliability:
    """Observed share of ``happened`` (n,) in :data:`BINS` bins of ``predicted`` (n,)."""
    bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, weights=predicted, minlength=BINS)
    hits = np.bincount(bins, weights=happened.astype(float), minlength=BINS)
    filled = np.flatnonzero(rows)
    return Reliability(
        predicted=tuple(float(v) for v in sums[filled] / rows[filled]),
        observed=tuple(float(v) for v in hits[filled] / rows[filled]),
        rows=tuple(int(v) for v in rows[filled]),
    )


def expected_calibration_error(curve: Reliability) -> float:
    """Mean distance of the curve from the diagonal, weighted by rows (Naeini, Cooper, Hauskrecht, AAAI 2015)."""
    rows = np.array(curve.rows, float)
    gaps = np.abs(np.array(curve.predicted) - np.array(curve.observed))
    return float((gaps * rows).sum() / rows.sum())


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean log-loss of one model less another's, with an interval; negative: the first one is better."""

    mean: float
    low: float
    high: float
    level: float
    blocks: int

    @property
    def better(self) -> bool:
        """The first model is better beyond chance."""
        return self.high < 0


def difference(mine: Floats, theirs: Floats, recv_ns: NDArray[np.int64], *, block_ns: int, seed: int) -> Difference:
    """95 % interval of the difference of mean losses (n, K, 3) by a bootstrap over blocks of ``block_ns``.

    Neighbouring rows share their future, so whole blocks are drawn, not rows (Kunsch, Annals of Statistics 17, 1989).
    """
    gaps = (mine - theirs).reshape(len(mine), -1)
    known = ~np.isnan(gaps).all(axis=1)
    gap, blocks = np.nanmean(gaps[known], axis=1), (recv_ns[known] - recv_ns[known][0]) // block_ns
    _, index = np.unique(blocks, return_inverse=True)
    sums, counts = np.bincount(index, weights=gap), np.bincount(index)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(sums), (2000, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(mean=float(gap.mean()), low=float(low), high=float(high), level=0.95, blocks=len(sums))
