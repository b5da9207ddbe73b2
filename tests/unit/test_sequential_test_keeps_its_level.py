"""The always-valid test on simulated block differences: what it promises, it keeps."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.sequential import MIN_EFFECTIVE, sequence

ALPHA = 0.05
RUNS = 300
# three standard errors of a share of ALPHA over RUNS runs
ALLOWED = ALPHA + 3 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5


def _autocorrelated(rng: np.random.Generator, blocks: int, r: float, heavy: bool) -> np.ndarray:
    noise = rng.standard_t(3, blocks) if heavy else rng.normal(size=blocks)
    x = np.empty(blocks)
    x[0] = noise[0] / np.sqrt(1 - r * r)
    for i in range(1, blocks):
        x[i] = r * x[i - 1] + noise[i]
    return x * np.sqrt(1 - r * r)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("r", [0.0, 0.4, 0.7])
def test_two_equal_arms_are_told_apart_no_more_often_than_promised_with_a_look_after_every_block(
    r: float, heavy: bool
) -> None:
    rng = np.random.default_rng(11)
    wrong = sum(sequence(_autocorrelated(rng, 96, r, heavy), alpha=ALPHA, plan=30).decided_at > 0 for _ in range(RUNS))
    assert wrong / RUNS <= ALLOWED


def test_a_difference_of_one_standard_deviation_is_found_within_forty_eight_blocks() -> None:
    rng = np.random.default_rng(12)
    found = [sequence(rng.normal(-1.0, 1.0, 48), alpha=ALPHA, plan=30) for _ in range(100)]
    assert np.mean([s.sign == -1 for s in found]) >= 0.95


def test_nothing_is_said_before_enough_independent_blocks_are_in() -> None:
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
