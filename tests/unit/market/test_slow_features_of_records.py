"""Mark price records to the slow features of the catalog."""

from __future__ import annotations

import numpy as np

from market.features import catalog
from market.features.slow import last_known, slow_vector, slow_vectors

E8 = 10**8


def test_funding_and_basis_are_in_basis_points() -> None:
    assert slow_vector(1e-4, 60_060 * E8, 60_000 * E8).tolist() == [1.0, 10.0]


def test_a_venue_without_an_index_price_has_no_basis() -> None:
    assert slow_vector(-5e-5, 60_000 * E8, 0).tolist() == [-0.5, 0.0]


def test_values_lie_within_the_clips_and_are_never_nan() -> None:
    clips = [f.clip for f in catalog.FEATURES if f.source == "slow"]
    assert slow_vector(3.0, 2 * E8, 1 * E8).tolist() == clips
    assert slow_vector(float("nan"), 1 * E8, 1 * E8).tolist() == [0.0, 0.0]


def test_many_records_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    funding, mark, index = rng.normal(size=9) * 1e-4, rng.integers(1, 10**12, 9), rng.integers(1, 10**12, 9)
    one_by_one = [slow_vector(float(f), int(m), int(i)) for f, m, i in zip(funding, mark, index, strict=True)]
    assert np.array_equal(slow_vectors(funding, mark, index), np.stack(one_by_one))


def test_last_known_is_zero_before_the_first_and_counts_from_its_own_nanosecond() -> None:
    values = np.array([[1, 2], [3, 4]], dtype=np.float32)
    seen = last_known(np.array([10, 20]), values, np.array([25, 9, 10, 19, 20]))
    assert seen.tolist() == [[3, 4], [0, 0], [1, 2], [1, 2], [3, 4]]
