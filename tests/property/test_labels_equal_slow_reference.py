import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples
from slow_reference import slow_labels

from market.labels import LabelConfig, labels

rows = st.lists(
    st.tuples(
        st.integers(-30, 300),  # time since the previous row, ms: clocks step back too
        st.integers(1990, 2010),
        st.integers(1, 40),
        st.integers(1, 40),
        st.booleans(),  # a new segment begins
    ),
    max_size=40,
)


@given(rows, st.integers(0, 3), st.sampled_from([20, 50, 100]))
@settings(max_examples=examples(200), deadline=None)
def test_labels_equal_those_of_a_scan_of_every_later_row(rows, threshold, fall):
    config = LabelConfig(threshold_half_ticks=threshold, depth_fall_percent=fall)
    steps, mid2, bid, ask, new = (np.array(c, dtype=np.int64) for c in zip(*rows, strict=True)) if rows else [[]] * 5
    recv_ns = np.cumsum(np.asarray(steps, dtype=np.int64)) * 1_000_000
    segment = np.cumsum(np.asarray(new, dtype=np.int64))
    got = labels(recv_ns, np.asarray(mid2), np.asarray(bid), np.asarray(ask), segment, config)
    for h, horizon in enumerate(config.horizons_ns):
        expected = slow_labels((recv_ns, mid2, bid, ask, segment), horizon, config)
        seen = zip(got.direction[:, h], got.bid_fall[:, h], got.ask_fall[:, h], strict=True)
        assert [tuple(int(v) for v in row) for row in seen] == expected
