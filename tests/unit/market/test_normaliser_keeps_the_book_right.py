"""What the normaliser lets through, and the state of a reader's book afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from kit.wire_frames import MS, SPOT, START_NS, USDM, ToyExchange, bytes_of, depth, mark_price, snapshot, ticker, trade

from market.books.price_book import Book
from market.events import (
    CLEAR,
    F_CHECKPOINT,
    F_CLOCK_BACK,
    F_LAST,
    F_RESYNC,
    F_SNAPSHOT,
    TICKER,
    TRADE,
)
from market.feeds.normalise import Normaliser

BIDS, ASKS = [("60000.0", "1"), ("59999.9", "2")], [("60000.1", "1"), ("60000.2", "2")]


class Reader:
    """A normaliser and a second book that only sees its events."""

    def __init__(self, instrument=USDM, **options):
        self.normaliser = Normaliser(instrument, "s", **options)
        self.book = Book()
        self.frame = 0

    def feed(self, frame, recv_ns=None):
        self.frame += 1
        payload = frame if isinstance(frame, bytes) else bytes_of(frame)
        events = self.normaliser.feed(self.frame, START_NS + self.frame * MS if recv_ns is None else recv_ns, payload)
        self.book.apply_batch(events)
        return events

    @property
    def stats(self):
        return self.normaliser.stats

    def levels(self):
        return {
            s: {int(p): int(q) for p, q in rows}
            for s, rows in (("b", self.book.bids(9999)), ("a", self.book.asks(9999)))
        }


def synced(**options) -> Reader:
    reader = Reader(**options)
    reader.feed(depth(95, 101, previous=90, bids=[("60000.0", "5")]))
    reader.feed(snapshot(100, BIDS, ASKS))
    return reader


def test_diffs_wait_for_the_snapshot_and_become_one_batch_with_it():
    reader = Reader()
    assert len(reader.feed(depth(90, 95, previous=89, bids=[("1.0", "1")]))) == 0
    assert len(reader.feed(depth(96, 101, previous=95, bids=[("60000.0", "5")]))) == 0
    batch = reader.feed(snapshot(100, BIDS, ASKS))
    assert batch["kind"][0] == CLEAR
    assert list(np.flatnonzero(batch["flags"] & F_LAST)) == [len(batch) - 1]
    assert set(batch["frame"]) == {3}
    assert set(batch["recv_ns"]) == {START_NS + 3 * MS}
    assert list(batch["flags"] & F_SNAPSHOT > 0) == [True] * 5 + [False]
    assert not np.any(batch["flags"] & F_RESYNC)
    assert reader.levels() == {"b": {600000: 5000, 599999: 2000}, "a": {600001: 1000, 600002: 2000}}
    assert reader.normaliser.synced


@pytest.mark.parametrize("instrument", [SPOT, USDM], ids=lambda i: i.key)
@pytest.mark.parametrize("snapshot_after", [0, 1, 40])
def test_the_book_of_a_session_equals_the_book_of_the_exchange(instrument, snapshot_after):
    exchange = ToyExchange(instrument, seed=snapshot_after)
    reader = Reader(instrument)
    for recv_ns, frame in exchange.session(seconds=30, snapshot_after=snapshot_after):
        reader.feed(frame, recv_ns)
    assert reader.levels() == exchange.levels
    stats = reader.stats
    assert (stats.gaps, stats.crossed, stats.locked, stats.snapshots, dict(stats.rejected)) == (0, 0, 0, 1, {})
    assert stats.offset_mean_ns == pytest.approx(-3 * MS, abs=MS)


def test_trades_and_tickers_do_not_wait_for_a_snapshot():
    reader = Reader()
    assert reader.feed(trade(1, "60000.1", "1"))["kind"].tolist() == [TRADE]
    assert reader.feed(ticker(5, ("60000.0", "1"), ("60000.1", "1")))["kind"].tolist() == [TICKER] * 2
    assert reader.book.empty
    assert not reader.normaliser.synced


def test_a_gap_empties_the_book_at_once_and_the_next_snapshot_resynchronises():
    reader = synced()
    gap = reader.feed(depth(120, 125, previous=119, bids=[("60000.0", "9")]))
    assert gap["kind"].tolist() == [CLEAR]
    assert gap["flags"][0] & F_LAST
    assert reader.book.empty
    assert len(reader.feed(depth(126, 130, previous=125, asks=[("60000.2", "7")]))) == 0
    assert reader.feed(trade(1, "60000.1", "1"))["kind"].tolist() == [TRADE]
    batch = reader.feed(snapshot(122, BIDS, ASKS))
    assert np.all(batch["flags"] & F_RESYNC)
    assert reader.levels() == {"b": {600000: 9000, 599999: 2000}, "a": {600001: 1000, 600002: 7000}}
    after = reader.feed(depth(131, 131, previous=130, bids=[("60000.0", "1")]))
    assert not np.any(after["flags"] & F_RESYNC)
    assert (reader.stats.gaps, reader.stats.resyncs) == (1, 1)


def test_a_gap_without_another_snapshot_leaves_the_book_unsynced():
    reader = synced()
    reader.feed(depth(120, 125, previous=119, bids=[("60000.0", "9")]))
    for i in range(5):
        assert len(reader.feed(depth(126 + i, 126 + i, previous=125 + i, bids=[("60000.0", "9")]))) == 0
    assert not reader.normaliser.synced
    assert reader.book.empty


def test_a_snapshot_that_comes_too_late_to_be_joined_is_not_used():
    reader = synced()
    assert len(reader.feed(snapshot(90, BIDS, ASKS))) == 0
    assert reader.levels()["b"][600000] == 5000
    reader.feed(depth(120, 125, previous=119))
    assert len(reader.feed(snapshot(110, BIDS, ASKS))) == 0
    assert not reader.normaliser.synced
    assert reader.stats.snapshots_unused == 2


def test_a_periodic_snapshot_changes_nothing_while_the_book_is_in_order():
    reader = synced()
    before = reader.levels()
    assert len(reader.feed(snapshot(101, [("1.0", "1")], [("2.0", "1")]))) == 0
    assert reader.levels() == before


def test_a_repeated_diff_is_counted_and_ignored():
    reader = synced()
    again = depth(102, 105, previous=101, bids=[("60000.0", "8")])
    assert len(reader.feed(again)) == 1
    assert len(reader.feed(again)) == 0
    assert reader.stats.duplicates == 1
    assert reader.normaliser.synced


def test_a_clock_that_steps_back_is_flagged_and_kept():
    reader = synced()
    events = reader.feed(depth(102, 105, previous=101, bids=[("60000.0", "8")]), recv_ns=START_NS - 5)
    assert np.all(events["flags"] & F_CLOCK_BACK)
    assert set(events["recv_ns"]) == {START_NS - 5}
    events = reader.feed(depth(106, 106, previous=105, bids=[("60000.0", "7")]), recv_ns=START_NS + 5)
    assert not np.any(events["flags"] & F_CLOCK_BACK)
    assert reader.stats.clock_back == 1
    assert reader.levels()["b"][600000] == 7000


def test_a_bad_diff_is_rejected_and_what_follows_it_is_a_gap():
    reader = synced()
    assert len(reader.feed(depth(102, 105, previous=101, bids=[("60000.05", "8")]))) == 0
    [rejected] = reader.normaliser.rejected
    assert (rejected.frame, rejected.reason) == (3, "off_tick")
    assert rejected.payload.startswith(b'{"stream"')
    assert reader.feed(depth(106, 107, previous=105, bids=[("60000.0", "8")]))["kind"].tolist() == [CLEAR]


def test_a_mark_price_is_kept_alongside_the_events():
    reader = Reader()
    assert len(reader.feed(mark_price("60000.1", "60000.2", "0.0001"))) == 0
    assert [record.frame for record in reader.normaliser.slow] == [1]


def test_a_crossed_book_is_counted_and_not_repaired():
    reader = synced()
    reader.feed(depth(102, 105, previous=101, bids=[("60000.2", "8")]))
    assert reader.book.crossed
    assert reader.stats.crossed == 1
    reader.feed(depth(106, 107, previous=105, bids=[("60000.2", "0"), ("60000.1", "1")]))
    assert (reader.stats.crossed, reader.stats.locked) == (1, 1)


def test_a_checkpoint_rebuilds_the_book_and_there_is_none_without_a_book():
    assert len(Reader().normaliser.checkpoint(1, START_NS)) == 0
    reader = synced()
    events = reader.normaliser.checkpoint(9, START_NS + 77)
    assert np.all(events["flags"] & F_CHECKPOINT)
    assert set(events["frame"]) == {9}
    fresh = Book()
    fresh.apply_batch(events)
    assert fresh.bids(99).tolist() == reader.book.bids(99).tolist()
    assert fresh.asks(99).tolist() == reader.book.asks(99).tolist()
    assert fresh.seq == 101


def test_levels_far_from_the_touch_are_dropped_before_the_room_is_full():
    reader = synced(depth_limit=64)
    last = 101
    for i in range(3):
        far = [(f"{59000 - 40 * i - j}.0", "1") for j in range(20)]
        reader.feed(depth(last + 1, last + 5, previous=last, bids=far))
        last += 5
    assert reader.book.counts()[0] == 32
    assert reader.stats.trimmed == 62 - 32
    assert reader.book.bids(1).tolist() == [[600000, 5000]]
    assert reader.levels() == {
        "b": {int(p): int(q) for p, q in reader.normaliser.checkpoint(1, 1)[1:33][["price", "size"]].tolist()},
        "a": {600001: 1000, 600002: 2000},
    }


def test_a_snapshot_with_more_levels_than_there_is_room_for_keeps_those_near_the_touch():
    reader = Reader(depth_limit=16)
    many = [(f"{59000 - i}.0", "1") for i in range(20)]
    reader.feed(snapshot(100, many, ASKS))
    assert reader.normaliser.synced
    assert reader.stats.trimmed == 20 - 8
    assert reader.book.counts() == (8, len(ASKS))
    assert reader.book.bids(1).tolist() == [[590000, 1000]]


def test_a_diff_that_the_book_rejects_leaves_no_book():
    reader = Reader(depth_limit=16)
    reader.feed(snapshot(100, BIDS, ASKS))
    many = [(f"{59000 - i}.0", "1") for i in range(20)]
    events = reader.feed(depth(99, 101, previous=98, bids=many))
    assert events["kind"].tolist() == [CLEAR]
    assert dict(reader.stats.rejected) == {"book_refused": 1}
    assert not reader.normaliser.synced
