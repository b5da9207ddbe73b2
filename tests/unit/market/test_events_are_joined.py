"""Records in one array: as numpy joins them, byte for byte, in memory of their own."""

from __future__ import annotations

import numpy as np
import pytest

from market.events import EVENT, empty, joined
from serving.records import DECISION


@pytest.mark.parametrize("dtype", [EVENT, DECISION], ids=["events", "decisions"])
def test_parts_are_joined_as_numpy_does_it(dtype: np.dtype[np.void]) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, 60 * dtype.itemsize, np.uint8).view(dtype)
    parts = [drawn[:7], drawn[7:7], drawn[7:8].copy(), drawn[20:]]
    found = joined(parts, dtype)
    assert (found.dtype, found.tobytes()) == (dtype, np.concatenate(parts).tobytes())
    before = drawn.tobytes()
    found[:] = 0
    assert drawn.tobytes() == before


def test_nothing_is_an_array_of_nothing() -> None:
    assert joined([]).shape == joined([empty(0)]).shape == (0,)


def test_parts_that_are_not_in_one_piece_or_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError):
        joined([empty(4)[::2]])
    with pytest.raises(TypeError, match="expected records of"):
        joined([empty(1), np.zeros(1, DECISION)])


def test_some_fields_of_records_are_joined_too() -> None:
    rows = np.zeros(6, EVENT)
    rows["price"] = np.arange(6)
    parts = [rows[:2][["recv_ns", "price"]].copy(), rows[2:][["recv_ns", "price"]].copy()]
    assert joined(parts, parts[0].dtype)["price"].tolist() == [0, 1, 2, 3, 4, 5]
