"""Rows of a source from its ticks in the lake: what starts a new segment, and that nothing else changes anything."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from kit.small_lake import INSTRUMENT, Market, events_of_market, land, later, with_checkpoints

from market import history
from market.clock import BATCH_NS
from market.events import F_CHECKPOINT, F_RESYNC
from market.history import History, Stretch
from market.lake.lake import Lake
from market.lake.rows import ticks_of

KEY = INSTRUMENT.key
MARKET = Market(seconds=290, frames=10)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def equal(a: History, b: History) -> bool:
    return all(getattr(a, f.name).tobytes() == getattr(b, f.name).tobytes() for f in fields(History))


def in_one_piece(market: Market) -> History:
    events = events_of_market(market)
    return history.replay([Stretch(events, events["recv_ns"] // BATCH_NS)])


def computed(lake: Lake, source: str = MARKET.source) -> History:
    (batches,) = history.batches(lake, KEY, [source])
    return history.compute(lake, KEY, batches)


def test_rows_from_the_lake_are_bit_identical_to_those_of_the_unsplit_stream(lake: Lake) -> None:
    minutes = land(lake, MARKET)
    assert any(minute["flags"][0] & F_CHECKPOINT for minute in minutes)
    rows = computed(lake)
    assert equal(rows, in_one_piece(MARKET))
    assert set(rows.segment) == {0}
    assert rows.warm.any()


def test_a_rejected_minute_starts_a_new_segment_with_cold_windows(lake: Lake) -> None:
    land(lake, MARKET, verdicts={2: "quarantine"})
    rows, whole = computed(lake), in_one_piece(MARKET)
    first = int(MARKET.start_ns // BATCH_NS)
    assert sorted(set(rows.batch)) == [first, first + 1, first + 3, first + 4]
    assert set(rows.segment[rows.batch < first + 2]) == {0}
    assert set(rows.segment[rows.batch > first + 2]) == {1}
    after = rows.recv_ns[rows.batch > first + 2]
    warm = rows.warm[rows.batch > first + 2]
    assert not warm[after < after[0] + 9_900_000_000].any()
    assert warm[after > after[0] + 10_100_000_000].all()
    before = whole.batch < first + 2
    assert rows.features[: before.sum()].tobytes() == whole.features[before].tobytes()


def test_after_a_hole_the_checkpoint_restores_the_book(lake: Lake) -> None:
    land(lake, MARKET, verdicts={1: "quarantine"})
    rows, whole = computed(lake), in_one_piece(MARKET)
    frames, at, where = np.intersect1d(rows.frame, whole.frame, return_indices=True)
    assert len(frames) == len(rows)
    assert np.array_equal(rows.bid_depth[at], whole.bid_depth[where])
    assert np.array_equal(rows.ask_depth[at], whole.ask_depth[where])


def test_every_row_belongs_to_one_frame(lake: Lake) -> None:
    land(lake, MARKET, verdicts={1: "quarantine", 3: "quarantine"})
    rows = computed(lake)
    assert len(np.unique(rows.frame)) == len(rows)


def test_a_minute_not_yet_validated_is_also_a_hole(lake: Lake) -> None:
    land(lake, MARKET, verdicts={2: ""})
    (batches,) = history.batches(lake, KEY)
    assert (len(batches.accepted), len(batches.unjudged)) == (4, 1)
    assert [len(run) for run in batches.runs()] == [2, 2]


def test_a_silent_minute_is_not_a_hole(lake: Lake) -> None:
    events = events_of_market(MARKET)
    first = int(MARKET.start_ns // BATCH_NS)
    quiet = events[events["recv_ns"] // BATCH_NS != first + 2]
    minutes = with_checkpoints(quiet)
    for i, minute in enumerate(minutes):
        lake.append("ticks", ticks_of(minute, source="s", instrument=INSTRUMENT), source="s", position=i)
    accepted = history.Batches(
        source="s", accepted=tuple(int(m["recv_ns"][0] // BATCH_NS) for m in minutes), refused=(), unjudged=()
    )
    rows = history.compute(lake, KEY, accepted)
    assert set(rows.segment) == {0}
    assert equal(rows, history.replay([Stretch(quiet, quiet["recv_ns"] // BATCH_NS)]))


def test_a_resynchronisation_starts_a_new_segment(lake: Lake) -> None:
    events = events_of_market(MARKET)
    middle = int(np.flatnonzero(events["frame"] == 1500)[0])
    events["flags"][middle] |= F_RESYNC
    rows = history.replay([Stretch(events, events["recv_ns"] // BATCH_NS)])
    assert set(rows.segment[rows.frame < 1500]) == {0}
    assert set(rows.segment[rows.frame >= 1500]) == {1}


def test_sources_do_not_share_state_and_come_in_order_of_time(lake: Lake) -> None:
    second = later(MARKET, -600, source="file-zzz", seed=5)
    land(lake, MARKET)
    land(lake, second)
    assert [batches.source for batches in history.batches(lake, KEY)] == ["file-zzz", MARKET.source]
    assert equal(computed(lake, "file-zzz"), in_one_piece(second))
    assert equal(computed(lake), in_one_piece(MARKET))


def test_what_a_live_kernel_saw_includes_the_rejected_minutes(lake: Lake) -> None:
    land(lake, MARKET, verdicts={1: "quarantine", 4: ""})
    fed = history.replay(history.stretches_as_fed(lake, KEY, MARKET.source))
    assert equal(fed, in_one_piece(MARKET))
    until = int(MARKET.start_ns // BATCH_NS) + 1
    part = history.replay(history.stretches_as_fed(lake, KEY, MARKET.source, until_batch=until))
    assert part.batch.max() == until


def test_other_instruments_are_not_read(lake: Lake) -> None:
    land(lake, MARKET)
    assert history.batches(lake, "binance-usdm.BTCUSDT") == []
