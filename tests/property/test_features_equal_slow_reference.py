import numpy as np
import pytest
from event_streams import random_stream, streams, wild_records
from hypothesis import given, settings
from kit.budget import examples
from slow_reference import SlowFeatures

from market.books.price_book import MAX_SIZE, new_book
from market.events import ASK, BID, DEPTH, EVENT, F_LAST
from market.features.catalog import FEATURES, N_TICK, tick_names
from market.features.kernels import RING, ROW, compute, new_state, step


def check_against_reference(events):
    reference = SlowFeatures()
    expected = [(i, row) for i, row in enumerate(map(reference.step, events)) if row is not None]
    rows = compute(events)
    assert rows.event.tolist() == [i for i, _ in expected]
    for n, (_, (values, mid2, bid, ask, warm, segment)) in enumerate(expected):
        got = (rows.mid2[n], rows.bid_depth[n], rows.ask_depth[n], rows.warm[n], rows.segment[n])
        assert got == (mid2, bid, ask, warm, segment)
        np.testing.assert_allclose(rows.features[n], values, rtol=1e-6, atol=1e-9, err_msg=str(tick_names()))


@given(streams())
@settings(max_examples=examples(60), deadline=None)
def test_features_match_the_catalog(events):
    check_against_reference(events)


@pytest.mark.parametrize("seed", range(4))
def test_features_match_the_catalog_over_a_long_stream(seed):
    check_against_reference(random_stream(seed, 600))


@given(streams(max_frames=60))
@settings(max_examples=examples(60), deadline=None)
def test_batch_and_live_features_are_bit_identical(events):
    rows = compute(events)
    book, state, out = new_book(), new_state(), np.empty(N_TICK, dtype=np.float32)
    live = [out.copy() for event in events if step(book, state, event, out) == ROW]
    assert rows.features.tobytes() == np.array(live, dtype=np.float32).tobytes()


@given(streams(max_frames=60))
@settings(max_examples=examples(30), deadline=None)
def test_computing_in_two_parts_changes_no_bit(events):
    whole = compute(events)
    book, state = new_book(), new_state()
    cut = len(events) // 2
    parts = [compute(part, book=book, state=state) for part in (events[:cut], events[cut:])]
    assert whole.features.tobytes() == b"".join(p.features.tobytes() for p in parts)
    assert whole.warm.tolist() == [w for p in parts for w in p.warm.tolist()]


@given(wild_records())
@settings(max_examples=examples(150), deadline=None)
def test_no_record_however_extreme_gives_a_non_finite_value(events):
    book, state, out = new_book(16), new_state(), np.zeros(N_TICK, dtype=np.float32)
    clips = np.array([f.clip for f in FEATURES[:N_TICK]], dtype=np.float32)
    for event in [*random_stream(0, 3), *events]:
        if step(book, state, event, out) == ROW:
            assert np.isfinite(out).all()
            assert (np.abs(out) <= clips).all()


def test_more_rows_of_the_largest_sizes_than_a_window_holds_do_not_overflow_its_sums():
    rows = RING + 10
    events = np.zeros(2 * rows, dtype=EVENT)
    events["kind"], events["size"] = DEPTH, MAX_SIZE
    events["recv_ns"] = np.repeat(np.arange(rows), 2)  # all within one window
    events["side"] = np.tile([ASK, BID], rows)
    events["price"] = np.ravel(np.column_stack([np.full(rows, 2 * rows), np.arange(1, rows + 1)]))  # a rising bid
    events["flags"] = np.tile([0, F_LAST], rows)
    features = compute(events, book=new_book(2 * rows)).features
    for name in ("ofi_50ms", "ofi_1s"):
        sums = features[:, tick_names().index(name)]
        assert (np.diff(sums[1:RING]) >= 0).all(), "every row buys"
        assert sums[-1] > 0
