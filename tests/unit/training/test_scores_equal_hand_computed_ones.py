"""Scores against numbers worked out by hand, and baselines against what they are for."""

from __future__ import annotations

import numpy as np
import pytest

from market import heads
from market.features import catalog
from market.labels import HORIZON_NAMES
from training.evaluation import baselines, scores
from training.evaluation.baselines import Rows
from training.evaluation.calibration import fit_temperature

K = len(HORIZON_NAMES)


def probs_of(direction: list[list[float]], falls: list[float]) -> np.ndarray:
    """The same answer at every horizon."""
    one = np.column_stack([np.array(direction), np.array(falls), np.array(falls)])
    return np.tile(one, (1, K)).astype(np.float32)


def labels_of(direction: list[int], falls: list[int]) -> np.ndarray:
    one = np.column_stack([direction, falls, falls]).astype(np.int8)
    return np.repeat(one[:, None, :], K, axis=1)


def test_log_loss_and_brier_are_the_textbook_ones() -> None:
    found = scores.score(probs_of([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [0.2, 0.9]), labels_of([0, 2], [0, 1]))
    direction, bid = found[0], found[1]
    assert direction.log_loss == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2, abs=1e-6)
    assert direction.brier == pytest.approx((0.25 + 0.0625 + 0.0625 + 0.01 + 0.01 + 0.04) / 2, abs=1e-6)
    assert bid.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.9)) / 2, abs=1e-6)
    assert direction.confusion == ((1, 0, 0), (0, 0, 0), (0, 0, 1))


def test_unknown_labels_count_nowhere() -> None:
    found = scores.score(probs_of([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [0.2, 0.9]), labels_of([0, -1], [0, -1]))
    assert {each.rows for each in found} == {1}
    losses = scores.row_losses(probs_of([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [0.2, 0.9]), labels_of([0, -1], [0, -1]))
    assert np.isnan(losses[1]).all()


def test_calibrated_probabilities_have_no_calibration_error_and_overconfident_ones_do() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, 60_000)
    happened = rng.uniform(size=len(p)) < p
    assert scores.expected_calibration_error(scores.reliability(p, happened)) < 0.01
    too_sure = np.where(p > 0.5, 0.99, 0.01)
    assert scores.expected_calibration_error(scores.reliability(too_sure, happened)) > 0.2


def test_temperature_scaling_undoes_overconfidence() -> None:
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 1.5, 20_000)
    falls = (rng.uniform(size=len(honest)) < 1 / (1 + np.exp(-honest))).astype(np.int8)
    labels = np.full((len(honest), K, 3), -1, np.int8)
    labels[:, :, 1] = falls[:, None]
    logits = np.zeros((len(honest), heads.width(K)), np.float32)
    heads.by_horizon(logits)[..., heads.BID_FALLS] = 3.0 * honest[:, None]
    found = fit_temperature(logits, labels)
    assert found[1] == pytest.approx(3.0, rel=0.05)
    assert found[0] == 1.0


def test_an_interval_of_equal_models_holds_zero_and_of_a_better_one_does_not() -> None:
    rng = np.random.default_rng(2)
    theirs = rng.exponential(1.0, (4000, K, 3))
    times = np.arange(4000) * 50_000_000
    same = scores.difference(theirs + rng.normal(0, 0.1, theirs.shape), theirs, times, block_ns=10**9, seed=0)
    assert same.low < 0 < same.high
    better = scores.difference(theirs - 0.1, theirs, times, block_ns=10**9, seed=0)
    assert better.better
    assert better.mean == pytest.approx(-0.1)


def rows_with_signal(n: int = 3000) -> Rows:
    """The sign of the imbalance decides the direction four times out of five."""
    rng = np.random.default_rng(3)
    features = rng.normal(0, 1, (n, catalog.N_INPUTS)).astype(np.float32)
    column = catalog.names().index("imbalance_1")
    up = np.where(rng.uniform(size=n) < 0.8, features[:, column] > 0, features[:, column] <= 0)
    falls = rng.integers(0, 2, n)
    return Rows(features=features, labels=labels_of((2 * up).tolist(), falls.tolist()), names=catalog.names())


def test_every_baseline_returns_probabilities_and_those_that_can_find_the_signal() -> None:
    train, test = rows_with_signal(), rows_with_signal()
    answers = {
        "prior": baselines.prior(train, test.features),
        "imbalance": baselines.imbalance_rule(train, test.features),
        "last": baselines.last_move_rule(train, test.features),
        "logistic": baselines.logistic(train, test.features, seed=0),
        "trees": baselines.boosted_trees(train, test.features, seed=0, rounds=20),
    }
    areas = {}
    for name, probs in answers.items():
        np.testing.assert_allclose(probs[:, :3].sum(axis=1), 1.0, atol=1e-5)
        areas[name] = scores.score(probs, test.labels)[0].auc
    assert areas["prior"] == pytest.approx(0.5)
    assert areas["last"] < 0.55
    assert min(areas["imbalance"], areas["logistic"], areas["trees"]) > 0.7
