"""The always-valid test on simulated block differences: what it promises, it keeps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from training.evaluation.sequential import MIN_EFFECTIVE, sequence

ALPHA = 0.05
RUNS = 2000
BLOCKS = 400


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.8])
def test_equal_arms_differ_significantly_no_more_often_than_promised_with_a_look_after_every_block(
    rho: float, heavy: bool
) -> None:
    """Differences of blocks that follow an autoregression, from its stationary state on; two-sided."""
    rng = np.random.default_rng(11)
    noise = rng.standard_t(3, (RUNS, 100 + BLOCKS)) if heavy else rng.normal(size=(RUNS, 100 + BLOCKS))
    differences = lfilter([1.0], [1.0, -rho], noise, axis=1)[:, 100:]
    wrong = sum(sequence(run, alpha=ALPHA, plan=40).decided_at > 0 for run in differences)
    assert wrong / RUNS <= ALPHA


@pytest.mark.parametrize(("rho", "effect", "blocks"), [(0.0, 0.5, 150), (0.3, 0.5, 250), (0.6, 1.0, 150)])
def test_dependence_costs_blocks_and_a_difference_is_found_all_the_same(rho: float, effect: float, blocks: int) -> None:
    """``effect`` in standard deviations of a block's difference; nine of ten runs end by then."""
    noise = np.random.default_rng(14).normal(size=(200, 100 + blocks))
    differences = lfilter([1.0], [1.0, -rho], noise, axis=1)[:, 100:] * np.sqrt(1 - rho**2) + effect
    found = [sequence(run, alpha=ALPHA, plan=40) for run in differences]
    assert np.mean([each.sign == 1 for each in found]) >= 0.9


def test_a_difference_of_one_standard_deviation_is_found_within_forty_eight_blocks() -> None:
    rng = np.random.default_rng(12)
    found = [sequence(rng.normal(-1.0, 1.0, 48), alpha=ALPHA, plan=30) for _ in range(100)]
    assert np.mean([s.sign == -1 for s in found]) >= 0.95


def test_there_is_no_decision_before_enough_independent_blocks_are_in() -> None:
    seen = sequence(np.linspace(1.0, 1.1, MIN_EFFECTIVE - 1), alpha=ALPHA, plan=30)
    assert seen.decided_at == 0
    assert np.isinf(seen.upper).all()


def test_no_differences_give_an_empty_sequence() -> None:
    seen = sequence(np.empty(0), alpha=ALPHA, plan=30)
    assert (len(seen), seen.decided_at, seen.sign) == (0, 0, 0)


def test_what_was_decided_at_a_look_does_not_depend_on_later_blocks() -> None:
    rng = np.random.default_rng(13)
    x = rng.normal(0.5, 1.0, 80)
    whole, part = sequence(x, alpha=ALPHA, plan=30), sequence(x[:50], alpha=ALPHA, plan=30)
    np.testing.assert_array_equal(whole.lower[:50], part.lower)
