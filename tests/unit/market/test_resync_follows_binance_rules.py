"""The documented rules for keeping a local order book, one by one, for both kinds of market."""

from __future__ import annotations

import pytest

from market.feeds.resync import BUFFERED, Sequence, bridges, follows, is_stale
from market.venues.protocol import Parsed


def diff(first: int, last: int, previous: int = 0) -> Parsed:
    return Parsed("diff", first=first, last=last, previous=previous)


def snap(last: int) -> Parsed:
    return Parsed("snapshot", last=last)


@pytest.mark.parametrize(("last", "stale"), [(99, True), (100, True), (101, False)])
def test_spot_drops_diffs_up_to_the_snapshot_id(last, stale):
    assert is_stale("spot", diff(90, last), 100) is stale


@pytest.mark.parametrize(("last", "stale"), [(99, True), (100, False), (101, False)])
def test_futures_drop_diffs_before_the_snapshot_id_only(last, stale):
    assert is_stale("futures", diff(90, last), 100) is stale


@pytest.mark.parametrize(
    ("first", "last", "fits"), [(101, 105, True), (95, 101, True), (102, 105, False), (90, 100, False)]
)
def test_the_first_spot_diff_covers_the_id_after_the_snapshot(first, last, fits):
    assert bridges("spot", diff(first, last), 100) is fits


@pytest.mark.parametrize(
    ("first", "last", "fits"), [(100, 105, True), (95, 100, True), (101, 105, False), (90, 99, False)]
)
def test_the_first_futures_diff_covers_the_snapshot_id_itself(first, last, fits):
    assert bridges("futures", diff(first, last), 100) is fits


def test_spot_diffs_follow_by_u_plus_one_and_futures_by_pu():
    assert follows("spot", diff(101, 105), 100)
    assert not follows("spot", diff(102, 105), 100)
    assert not follows("spot", diff(100, 105), 100)
    assert follows("futures", diff(500, 505, previous=100), 100)
    assert not follows("futures", diff(101, 105, previous=99), 100)


def test_buffered_diffs_are_applied_after_the_snapshot_from_the_bridging_one_on():
    sequence = Sequence("spot")
    for each in (diff(90, 95), diff(96, 100), diff(101, 104), diff(105, 106)):
        assert sequence.on_diff(each) == "wait"
    assert [d.last for d in sequence.on_snapshot(snap(102))] == [104, 106]
    assert sequence.synced
    assert sequence.on_diff(diff(107, 110)) == "apply"


def test_a_snapshot_newer_than_the_buffer_waits_for_the_bridging_diff():
    sequence = Sequence("futures")
    sequence.on_diff(diff(90, 95, 89))
    assert sequence.on_snapshot(snap(120)) == []
    assert sequence.on_diff(diff(110, 119, 109)) == "duplicate"
    assert sequence.on_diff(diff(118, 125, 117)) == "apply"
    assert sequence.on_diff(diff(130, 140, 125)) == "apply"


def test_after_a_newer_snapshot_a_diff_beyond_it_is_a_gap():
    sequence = Sequence("spot")
    sequence.on_snapshot(snap(120))
    assert sequence.on_diff(diff(122, 130)) == "gap"
    assert not sequence.synced


def test_a_snapshot_older_than_the_buffer_cannot_be_joined():
    sequence = Sequence("spot")
    sequence.on_diff(diff(110, 115))
    assert sequence.on_snapshot(snap(100)) is None
    assert not sequence.synced
    assert [d.last for d in sequence.on_snapshot(snap(112))] == [115]


def test_a_hole_in_the_buffer_discards_what_came_before_it():
    sequence = Sequence("futures")
    sequence.on_diff(diff(90, 95, 89))
    sequence.on_diff(diff(120, 125, 119))
    assert sequence.on_snapshot(snap(93)) is None
    assert [d.last for d in sequence.on_snapshot(snap(121))] == [125]


def test_a_gap_ends_the_sync_and_keeps_the_diff_for_the_next_snapshot():
    sequence = Sequence("futures")
    sequence.on_diff(diff(90, 105, 89))
    sequence.on_snapshot(snap(100))
    assert sequence.on_diff(diff(120, 125, 119)) == "gap"
    assert sequence.on_diff(diff(126, 130, 125)) == "wait"
    assert [d.last for d in sequence.on_snapshot(snap(122))] == [125, 130]


def test_an_update_that_is_already_in_the_book_is_a_duplicate_not_a_gap():
    for market in ("spot", "futures"):
        sequence = Sequence(market)
        sequence.on_snapshot(snap(100))
        sequence.on_diff(diff(100, 105, 99))
        assert sequence.on_diff(diff(100, 105, 99)) == "duplicate"
        assert sequence.synced


def test_the_buffer_is_bounded_and_keeps_the_newest():
    sequence = Sequence("spot")
    for i in range(BUFFERED + 10):
        sequence.on_diff(diff(i, i))
    joined = sequence.on_snapshot(snap(BUFFERED))
    assert [joined[0].first, joined[-1].last] == [BUFFERED + 1, BUFFERED + 9]
    assert Sequence("spot").on_snapshot(snap(5)) == []
