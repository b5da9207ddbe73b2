"""Runs of batches: nothing lost, nothing joined across a hole, state carried through as if read in one piece."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from event_streams import random_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples

from market.events import F_CHECKPOINT
from market.history import Stretch, replay, runs

BATCHES = st.sets(st.integers(0, 60))


@given(present=BATCHES, missing=BATCHES)
def test_every_batch_is_in_exactly_one_run(present: set[int], missing: set[int]) -> None:
    split = runs(present, holes=missing - present)
    assert [batch for run in split for batch in run] == sorted(present)
    assert all(run for run in split)


@given(present=BATCHES, missing=BATCHES)
def test_runs_break_at_holes_and_nowhere_else(present: set[int], missing: set[int]) -> None:
    holes = missing - present
    split = runs(present, holes=holes)
    for run in split:
        assert not any(low < hole < high for low, high in pairwise(run) for hole in holes)
    for before, after in pairwise(split):
        assert any(before[-1] < hole < after[0] for hole in holes)


@settings(max_examples=examples(20), deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 599), max_size=5))
def test_rows_do_not_depend_on_how_many_minutes_are_read_at_once(seed: int, cuts: list[int]) -> None:
    events = random_stream(seed, 300)
    events = events[events["flags"] & F_CHECKPOINT == 0]
    batch = np.zeros(len(events), dtype=np.int64)
    edges = [0, *sorted({min(cut, len(events)) for cut in cuts}), len(events)]
    pieces = [Stretch(events[a:b], batch[a:b]) for a, b in pairwise(edges)]
    whole, pieced = replay([Stretch(events, batch)]), replay(pieces)
    for name in ("segment", "frame", "recv_ns", "mid2", "bid_depth", "ask_depth", "warm"):
        assert np.array_equal(getattr(whole, name), getattr(pieced, name)), name
    assert whole.features.tobytes() == pieced.features.tobytes()
