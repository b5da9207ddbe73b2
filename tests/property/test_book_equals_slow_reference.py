import numpy as np
from event_streams import START, record, streams, wild_records
from hypothesis import given, settings
from slow_reference import SlowBook

from market.book import Book
from market.errors import BookError
from market.events import ASK, BID, DEPTH, EVENT, F_LAST


@given(streams(max_frames=50))
@settings(max_examples=60, deadline=None)
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
@settings(max_examples=40, deadline=None)
def test_a_checkpoint_rebuilds_the_levels(events):
    book = Book()
    book.apply_batch(events)
    again = Book()
    again.apply_batch(book.snapshot_events(events[-1]))
    assert (again.bids(99) == book.bids(99)).all()
    assert (again.asks(99) == book.asks(99)).all()
    assert again.seq == book.seq


@given(wild_records())
@settings(max_examples=150, deadline=None)
def test_a_refused_record_leaves_the_book_as_it_was(events):
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


def test_record_of_the_strategies_is_an_event():
    assert record(DEPTH).dtype == EVENT
