import numpy as np
from event_streams import START, record, streams, wild_records
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples
from slow_reference import SlowBook

from market.books.levels import LAST_DELTA, LAST_NEAR, NEAR_LEVELS, window_base
from market.books.price_book import Book, depth_near
from market.errors import BookError
from market.events import ASK, BID, CLEAR, DEPTH, EVENT, F_LAST


@given(streams(max_frames=50))
@settings(max_examples=examples(60), deadline=None)
def test_book_equals_a_dictionary_of_levels(events):
    fast, slow = Book(), SlowBook()
    for event in events:
        fast.apply(event)
        slow.apply(event)
        assert [tuple(r) for r in fast.bids(99).tolist()] == slow.best_first(BID)
        assert [tuple(r) for r in fast.asks(99).tolist()] == slow.best_first(ASK)
        if event["flags"] & F_LAST:
            assert (fast.top(), fast.status, fast.seq) == (slow.top, slow.status, slow.depth_seq)


@given(streams(max_frames=30))
@settings(max_examples=examples(40), deadline=None)
def test_a_checkpoint_rebuilds_the_levels(events):
    book = Book()
    book.apply_batch(events)
    again = Book()
    again.apply_batch(book.snapshot_events(events[-1]))
    assert (again.bids(99) == book.bids(99)).all()
    assert (again.asks(99) == book.asks(99)).all()
    assert again.seq == book.seq


@given(wild_records())
@settings(max_examples=examples(150), deadline=None)
def test_a_rejected_record_leaves_the_book_unchanged(events):
    book = Book(capacity=8)
    for event in events:
        before = (book.bids(8).tolist(), book.asks(8).tolist(), book.top(), book.status)
        try:
            book.apply(event)
        except BookError:
            assert (book.bids(8).tolist(), book.asks(8).tolist(), book.top(), book.status) == before
        for keys in (book.bids(8)[:, 0], -book.asks(8)[:, 0]):
            assert (np.diff(keys) < 0).all()
            assert len(keys) <= 8


def test_thousands_of_levels_are_kept_in_order():
    rng = np.random.default_rng(3)
    book, slow = Book(), SlowBook()
    events = np.zeros(20_000, dtype=EVENT)
    events["kind"], events["recv_ns"], events["seq"] = DEPTH, START, np.arange(len(events))
    events["side"] = rng.choice([BID, ASK], len(events))
    events["price"] = 100_000 - events["side"].astype(np.int64) * rng.integers(1, 6000, len(events))
    events["size"] = rng.integers(0, 3, len(events)) * 7
    book.apply_batch(events)
    for event in events:
        slow.sides[int(event["side"])].pop(int(event["price"]), None)
        if event["size"]:
            slow.sides[int(event["side"])][int(event["price"])] = int(event["size"])
    assert [tuple(r) for r in book.bids(9999).tolist()] == slow.best_first(BID)
    assert [tuple(r) for r in book.asks(9999).tolist()] == slow.best_first(ASK)


def wandering(seed: int, batches: int) -> np.ndarray:
    """Events of a market whose levels are close together or thousands of ticks apart, and whose price walks and jumps;
    one level in a hundred is far from all others."""
    rng = np.random.default_rng(seed)
    mid, spacing, events = 1 << 20, 1, []
    for _ in range(batches):
        mid += int(rng.normal(0, 3)) if rng.random() < 0.9 else int(rng.choice([-1, 1]) * rng.integers(100, 20_000))
        spacing = int(rng.choice([1, 2, 40, 3000])) if rng.random() < 0.1 else spacing
        count = int(rng.integers(1, 60))
        side = rng.choice([BID, ASK], count)
        away = spacing * rng.geometric(rng.choice([0.02, 0.2]), count)
        away[rng.random(count) < 0.01] *= 500
        batch = np.zeros(count, dtype=EVENT)
        batch["kind"], batch["side"], batch["recv_ns"] = DEPTH, side, START
        batch["price"] = np.maximum(mid - side * away, 1)
        batch["size"] = rng.integers(0, 4, count)
        batch["flags"][-1] = F_LAST
        if rng.random() < 0.02:
            batch["kind"][0] = CLEAR
        events.append(batch)
    return np.concatenate(events)


@given(st.integers(0, 2**32))
@settings(max_examples=examples(40), deadline=None)
def test_a_price_that_walks_and_jumps_leaves_no_stale_level(seed):
    events = wandering(seed, batches=120)
    book, slow = Book(), SlowBook()
    at = 0
    for end in np.flatnonzero(events["flags"] & F_LAST) + 1:
        for event in events[at:end]:
            book.apply(event)
            slow.apply(event)
            if event["kind"] == DEPTH:
                assert (book.array[LAST_DELTA], book.array[LAST_NEAR]) == (slow.delta, slow.rank < NEAR_LEVELS)
        at = end
        bids, asks = slow.best_first(BID), slow.best_first(ASK)
        assert (book.top(), book.status) == (slow.top, slow.status)
        assert book.counts() == (len(bids), len(asks))
        assert [tuple(r) for r in book.bids(9999).tolist()] == bids
        assert [tuple(r) for r in book.asks(9999).tolist()] == asks
        assert depth_near(book.array, BID, 5) == sum(size for _, size in bids[:5])


def test_the_walk_opens_closes_and_moves_windows():
    events, book = wandering(seed=5, batches=3000), Book()
    bases = []
    for batch in np.split(events, np.flatnonzero(events["flags"] & F_LAST) + 1):
        book.apply_batch(batch)
        bases.append(window_base(book.array, BID))
    placed = [base for base in bases if base is not None]
    assert 0.2 < len(placed) / len(bases) < 0.95
    assert len(set(placed)) > 20


def test_the_strategies_produce_valid_event_records():
    assert record(DEPTH).dtype == EVENT
