import numpy as np
import pytest
from event_streams import START, record
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples
from slow_orders import RefusedError, SlowOrders, said_to_levels

from market.books.order_book import REASONS, Order, OrderBook
from market.books.price_book import Book
from market.errors import BookError
from market.events import (
    ADD,
    ASK,
    BID,
    CHANGE,
    CLEAR,
    DEPTH,
    EVENT,
    EXECUTE,
    F_LAST,
    FILL,
    REDUCE,
    REMOVE,
    TICKER,
    TRADE,
    empty,
)

KINDS = [ADD, ADD, ADD, ADD, CHANGE, CHANGE, REDUCE, REMOVE, REMOVE, EXECUTE, EXECUTE, FILL, DEPTH, TRADE, CLEAR]


def order_record(kind, order_id, side=0, price=0, size=0, *, flags=0, seq=0):
    event = record(kind, side, price, size, flags=flags, seq=seq)
    event["order_id"] = order_id
    return event


@st.composite
def order_streams(draw, max_events=60):
    """Few ids, few prices, both sides: orders meet, queue, move, and many events must be rejected."""
    rows = []
    for seq in range(draw(st.integers(1, max_events))):
        kind = draw(st.sampled_from(KINDS))
        side = draw(st.sampled_from([BID, ASK] if kind in (ADD, DEPTH) else [BID, ASK, 0]))
        price = draw(st.integers(995, 1005) if kind in (ADD, DEPTH, TRADE) else st.just(0) | st.integers(995, 1005))
        flags = draw(st.sampled_from([0, F_LAST]))
        rows.append(
            order_record(kind, draw(st.integers(1, 9)), side, price, draw(st.integers(0, 9)), flags=flags, seq=seq // 2)
        )
    return np.array(rows, dtype=EVENT)


@st.composite
def wild_order_records(draw):
    out = np.zeros(draw(st.integers(1, 30)), dtype=EVENT)
    extremes = [0, 1, -1, 999, 1000, 2**40, 2**47, 2**57, 2**62, -(2**63), 2**63 - 1]
    for row in out:
        row["kind"] = draw(st.sampled_from([0, *KINDS, TICKER, 11, 255]))
        row["side"] = draw(st.sampled_from([-128, ASK, 0, BID, 2]))
        row["flags"] = draw(st.integers(0, 63))
        row["order_id"] = draw(st.sampled_from([0, 1, 2, 3, -1, 2**63 - 1, -(2**63)]))
        for name in ("price", "size", "seq"):
            row[name] = draw(st.sampled_from(extremes) | st.integers(998, 1002))
    return out


def state_of(book):
    return [(side, p, book.queue(side, p).tolist()) for side in (BID, ASK) for p, _ in book_levels(book, side)]


def book_levels(book, side):
    return [tuple(row) for row in (book.bids(99) if side == BID else book.asks(99)).tolist()]


def check_equal(fast, slow):
    for side in (BID, ASK):
        assert book_levels(fast, side) == slow.levels(side)
    assert len(fast) == slow.named()
    for (side, price), queue in slow.queues.items():
        assert fast.queue(side, price).tolist() == queue
        for place, (order_id, size) in enumerate(queue):
            if order_id:
                assert fast.order(order_id) == Order(side=side, price=price, size=size)
                assert fast.ahead(order_id) == (place, sum(lots for _, lots in queue[:place]))


@given(order_streams() | wild_order_records())
@settings(max_examples=examples(300), deadline=None)
def test_order_book_equals_lists_of_orders(events):
    fast, slow = OrderBook(capacity=6, orders=5), SlowOrders(capacity=6, orders=5)
    for event in events:
        before = (state_of(fast), fast.top(), fast.status)
        refused = None
        try:
            slow.apply(event)
        except RefusedError as error:
            refused = error.args[0]
        if refused:
            with pytest.raises(BookError, match="not applied"):
                fast.apply(event)
            assert (state_of(fast), fast.top(), fast.status) == before
        else:
            fast.apply(event)
        check_equal(fast, slow)


@given(order_streams() | wild_order_records())
@settings(max_examples=examples(300), deadline=None)
def test_sifted_events_are_what_a_book_of_levels_needs(events):
    fast, slow, levels = OrderBook(capacity=6, orders=5), SlowOrders(capacity=6, orders=5), Book(capacity=6)
    said, codes = fast.sift(events)
    expected, reasons = said_to_levels(slow, events)
    assert [REASONS.get(int(code)) for code in codes] == reasons
    rows = said[["kind", "side", "price", "size"]].tolist()
    assert [(*row, bool(flags & F_LAST)) for row, flags in zip(rows, said["flags"], strict=True)] == expected
    check_equal(fast, slow)
    levels.apply_batch(said)
    assert (levels.bids(9).tolist(), levels.asks(9).tolist()) == (fast.bids(9).tolist(), fast.asks(9).tolist())


@given(order_streams())
@settings(max_examples=examples(60), deadline=None)
def test_a_checkpoint_rebuilds_every_queue(events):
    book, again, levels = OrderBook(), OrderBook(), Book()
    book.sift(events)
    again.apply_batch(book.order_events(events[-1]))
    assert state_of(again) == state_of(book)
    assert again.seq == book.seq
    levels.apply_batch(book.snapshot_events(events[-1]))
    assert (levels.bids(9).tolist(), levels.asks(9).tolist()) == (book.bids(9).tolist(), book.asks(9).tolist())


def test_thousands_of_orders_come_and_go():
    rng = np.random.default_rng(5)
    fast, slow = OrderBook(orders=512), SlowOrders()
    alive: list[int] = []
    rows = []
    for order_id in range(1, 4000):
        if len(alive) > 400 or (alive and rng.random() < 0.45):
            gone = alive.pop(int(rng.integers(len(alive))))
            rows.append(order_record(REMOVE, gone * 2**33))
        side = int(rng.choice([BID, ASK]))
        rows.append(order_record(ADD, order_id * 2**33, side, 5000 - side * int(rng.integers(1, 40)), 3))
        alive.append(order_id)
    events = np.array(rows, dtype=EVENT)
    fast.apply_batch(events)
    for event in events:
        slow.apply(event)
    check_equal(fast, slow)


def test_crossed_and_locked_are_flagged_when_the_batch_ends():
    book = OrderBook()
    book.apply(order_record(ADD, 1, BID, 100, 5, flags=F_LAST))
    assert book.empty
    book.apply(order_record(ADD, 2, ASK, 100, 5))
    assert book.empty
    book.apply(order_record(FILL, 2, flags=F_LAST, size=1))
    assert book.locked
    book.apply(order_record(CHANGE, 2, ASK, 99, 5, flags=F_LAST))
    assert book.crossed
    book.apply(order_record(EXECUTE, 2, 0, 0, 5, flags=F_LAST))
    assert book.empty


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (order_record(REMOVE, 7), "order 7 is not in the book"),
        (order_record(ADD, 1, BID, 100, 5), "order 1 is already in the book"),
        (order_record(ADD, 7, BID, 100, 0), "size 0 is not between"),
        (order_record(ADD, 7, BID, 100, -5), "size -5 is not between"),
        (order_record(EXECUTE, 1, BID, 100, 6), "order 1 has fewer than 6 lots"),
        (order_record(REMOVE, 1, ASK), "order 1 does not rest on side -1"),
        (order_record(ADD, 0, BID, 100, 5), "without an order id"),
        (order_record(11, 1), "kind 11 is not one"),
    ],
)
def test_an_invalid_event_is_rejected_with_a_sentence(event, words):
    book = OrderBook()
    book.apply(order_record(ADD, 1, BID, 100, 5))
    with pytest.raises(BookError, match=words):
        book.apply(event)


def test_the_queue_position_of_an_unknown_order_is_an_error():
    with pytest.raises(BookError, match="order 3 is not in the book"):
        OrderBook().ahead(3)


def test_an_unknown_order_is_taken_from_anonymous_lots_where_there_are_enough():
    book = OrderBook()
    book.apply(record(DEPTH, BID, 100, 10))
    book.apply(order_record(ADD, 1, BID, 100, 5))
    book.apply(order_record(REDUCE, 77, BID, 100, 4))
    assert book.queue(BID, 100).tolist() == [[0, 6], [1, 5]]
    assert book.ahead(1) == (1, 6)
    with pytest.raises(BookError, match="order 77 is not in the book"):
        book.apply(order_record(EXECUTE, 77, BID, 100, 7))


def test_nothing_is_sifted_out_of_nothing():
    assert [len(part) for part in OrderBook().sift(empty(0))] == [0, 0]


def test_trades_pass_an_order_book_unchanged():
    said, codes = OrderBook().sift(np.array([record(TRADE, BID, 5, 2, flags=F_LAST), record(CLEAR)], dtype=EVENT))
    assert said[["kind", "price", "size", "flags"]].tolist() == [(TRADE, 5, 2, F_LAST), (CLEAR, 0, 0, 0)]
    assert not codes.any()
    assert said["recv_ns"].tolist() == [START, START]


def test_the_checkpoint_of_an_emptied_book_carries_its_update_id():
    events = empty(2)
    events["kind"], events["side"], events["price"], events["order_id"] = [ADD, REMOVE], BID, 995, 1
    events["size"], events["seq"] = [1, 0], [1, 7]
    book, again, levels = OrderBook(), OrderBook(), Book()
    book.sift(events)
    again.apply_batch(book.order_events(events[-1]))
    levels.apply_batch(book.snapshot_events(events[-1]))
    assert book.seq == again.seq == levels.seq == 7
