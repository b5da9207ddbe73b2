"""What a Lander writes to the lake, and that feeding again adds nothing."""

from __future__ import annotations

import numpy as np
import pytest
from kit.landed_lake import contents
from kit.wire_frames import MS, START_NS, USDM, ToyExchange, bytes_of, depth, snapshot

from market.books.price_book import Book
from market.clock import BATCH_NS, NS_PER_S, ManualClock
from market.errors import InputError
from market.events import CLEAR, F_CHECKPOINT, F_LAST, F_SNAPSHOT
from market.feeds import landing
from market.feeds.landing import Lander, recover, unfinished
from market.lake.lake import Lake
from market.lake.rows import events_of
from market.venues.formats.line_files import NO_STAMP


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def frames_of(seconds=150, rate=20, **options):
    session = ToyExchange(**options).session(seconds=seconds, rate=rate)
    return [(i, recv_ns, bytes_of(frame)) for i, (recv_ns, frame) in enumerate(session, 1)]


def land(lake, frames, **options):
    with Lander("s", USDM, lake, **options) as lander:
        fed = [lander.feed(*frame) for frame in frames]
    return lander, fed


def test_raw_holds_every_frame_as_received(lake):
    frames = frames_of()
    land(lake, frames)
    rows = lake.read("raw", columns=["frame", "recv_ns", "payload"]).to_pylist()
    assert [(r["frame"], r["recv_ns"], r["payload"]) for r in rows] == frames


def test_ticks_hold_what_feed_returned_and_a_checkpoint_before_each_later_batch(lake):
    frames = frames_of()
    _, fed = land(lake, frames)
    ticks = lake.read("ticks")
    events = events_of(ticks)
    live = events[events["flags"] & F_CHECKPOINT == 0]
    assert live.tobytes() == np.concatenate(fed).tobytes()
    batch = ticks["batch"].to_numpy()
    assert np.unique(batch).tolist() == [START_NS // BATCH_NS + i for i in range(3)]
    for number in np.unique(batch)[1:]:
        first = events[batch == number][0]
        assert first["kind"] == CLEAR
        assert first["flags"] & F_CHECKPOINT


def test_every_batch_alone_gives_the_book_that_all_batches_give(lake):
    land(lake, frames_of())
    ticks = lake.read("ticks")
    events, batch = events_of(ticks), ticks["batch"].to_numpy()
    whole = Book()
    for number in np.unique(batch):
        alone, part = Book(), events[batch == number]
        alone.apply_batch(part)
        whole.apply_batch(part[part["flags"] & F_CHECKPOINT == 0])
        assert alone.bids(999).tolist() == whole.bids(999).tolist()
        assert alone.asks(999).tolist() == whole.asks(999).tolist()


def test_feeding_the_same_frames_again_adds_nothing(lake):
    frames = [*frames_of(), (9001, START_NS + 200 * NS_PER_S, b"not json")]
    first, _ = land(lake, frames)
    before, versions = contents(lake), {t: lake.version(t) for t in ("raw", "ticks", "slow", "quarantine")}
    again, fed = land(lake, frames)
    assert (first.landed, again.landed) == (len(frames), 0)
    assert sum(map(len, fed)) == again.stats.events > 0
    assert contents(lake) == before
    assert {t: lake.version(t) for t in versions} == versions


def test_slow_records_and_rejected_frames_have_their_own_tables(lake):
    frames = frames_of(seconds=60)
    frames.insert(30, (9001, frames[30][1], b"{"))
    frames = [(i, recv_ns, payload) for i, (_, recv_ns, payload) in enumerate(frames, 1)]
    lander, _ = land(lake, frames)
    assert lake.read("slow").num_rows == lander.stats.slow > 0
    assert lander.slow is not None
    [bad] = lake.read("quarantine").to_pylist()
    assert (bad["stage"], bad["reason"], bad["frame"], bad["payload"]) == ("parse", "not_json", 31, b"{")
    assert bad["batch"] == START_NS // BATCH_NS


def test_a_frame_without_a_time_is_landed_and_quarantined(lake):
    _, fed = land(lake, [(1, START_NS, bytes_of(snapshot(1))), (2, NO_STAMP, b"garbage"), (3, START_NS + 1, b"{}")])
    assert [len(events) for events in fed] == [1, 0, 0]
    rows = lake.read("quarantine", columns=["frame", "reason"]).to_pylist()
    assert [(r["frame"], r["reason"]) for r in rows] == [(2, "clock_unreadable"), (3, "unknown_frame")]
    assert lake.read("raw").num_rows == 3


def test_a_clock_that_steps_back_does_not_reopen_a_batch(lake):
    times = [START_NS, START_NS + BATCH_NS, START_NS + 5, START_NS + BATCH_NS + 5]
    frames = [(1, times[0], bytes_of(snapshot(100, [("1.0", "1")], [("2.0", "1")])))]
    for i, recv_ns in enumerate(times[1:], 1):
        diff = depth(100 + (i > 1) * i, 100 + i, previous=99 + i, bids=[("1.0", str(i))])
        frames.append((i + 1, recv_ns, bytes_of(diff)))
    land(lake, frames)
    rows = lake.read("ticks", columns=["batch", "frame", "flags"]).to_pylist()
    minute = START_NS // BATCH_NS
    assert [r["batch"] - minute for r in rows if not r["flags"] & F_CHECKPOINT] == [0, 0, 0, 1, 1, 1]
    assert [r["frame"] for r in rows if r["flags"] & F_LAST and not r["flags"] & F_SNAPSHOT] == [2, 3, 4]


def test_minutes_without_frames_give_no_batches(lake):
    frames = frames_of(seconds=20)
    later = [(i + len(frames), recv_ns + 10 * BATCH_NS, payload) for i, recv_ns, payload in frames[:5]]
    land(lake, frames + later)
    batches = lake.read("ticks", columns=["batch"])["batch"].unique().to_pylist()
    assert batches == [START_NS // BATCH_NS, START_NS // BATCH_NS + 10]


def test_small_batches_of_a_recording_share_a_commit_and_those_of_a_live_source_do_not(lake, tmp_path):
    frames = frames_of(seconds=300, rate=2)
    land(lake, frames)
    live = Lake(tmp_path / "live")
    land(live, frames, clock=ManualClock(START_NS))
    assert contents(lake) == contents(live)
    assert [each.version("ticks") for each in (lake, live)] == [1, 5]


def test_a_recording_is_fed_again_after_any_of_its_commits(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(landing, "_ROWS_A_COMMIT", 500)
    frames = frames_of(seconds=300, rate=4)
    undisturbed = Lake(tmp_path / "undisturbed")
    land(undisturbed, frames)
    for cut in (400, 600, 800, 1100):
        lander = Lander("s", USDM, lake)
        for frame in frames[:cut]:
            lander.feed(*frame)
        lander._writer.drain()
        lander.abandon()
    land(lake, frames)
    assert contents(lake) == contents(undisturbed)


def test_a_source_that_ended_in_an_error_is_unfinished_and_can_be_fed_again(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(landing, "_ROWS_A_COMMIT", 1)
    frames = frames_of()

    def interrupted():
        with Lander("s", USDM, lake) as lander:
            for frame in frames[:2000]:
                lander.feed(*frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    [left] = unfinished(lake)
    assert (left.source, left.instrument, left.live) == ("s", USDM, False)
    assert 0 < lake.read("raw").num_rows < 2000
    land(lake, frames)
    assert unfinished(lake) == []
    undisturbed = Lake(tmp_path / "undisturbed")
    land(undisturbed, frames)
    assert contents(lake) == contents(undisturbed)


def test_a_live_source_flushes_raw_every_second_and_is_closed_by_an_error_too(lake):
    clock = ManualClock(START_NS)
    seen = []

    def interrupted():
        with Lander("s", USDM, lake, clock=clock) as lander:
            for i, (number, recv_ns, payload) in enumerate(frames_of(seconds=30)):
                lander.feed(number, recv_ns, payload)
                clock.advance(50 * MS)
                if i == 100:
                    lander._writer.finish()
                    seen.append(Lake(lake.uri).read("raw").num_rows)
                    raise KeyboardInterrupt

    with pytest.raises(RuntimeError):  # the writer was stopped to look; closing needs it
        interrupted()
    assert seen[0] >= 80


def test_a_killed_live_source_is_finished_from_raw(lake, tmp_path):
    clock = ManualClock(START_NS)
    frames = frames_of(seconds=100)
    lander = Lander("s", USDM, lake, clock=clock)
    for frame in frames:
        lander.feed(*frame)
        clock.advance(50 * MS)
    lander.abandon()
    [left] = unfinished(lake)
    assert left.live
    recover(lake, left.source, left.instrument)
    assert unfinished(lake) == []
    landed = lake.read("raw").num_rows
    undisturbed = Lake(tmp_path / "undisturbed")
    land(undisturbed, frames[:landed])
    assert contents(lake) == contents(undisturbed)


def test_a_source_has_one_lander_at_a_time(lake):
    with Lander("s", USDM, lake) as lander:
        assert unfinished(lake) == []
        with pytest.raises(InputError, match="s is being landed by another process"):
            Lander("s", USDM, lake)
        lander.feed(*frames_of(seconds=1)[0])
    Lander("s", USDM, lake).close()


def test_a_minute_with_too_many_frames_is_cut(lake, monkeypatch):
    monkeypatch.setattr(landing, "_FRAMES_A_BATCH", 100)
    land(lake, frames_of(seconds=20))
    sizes = lake.read("ticks", columns=["batch"])["batch"].value_counts().to_pylist()
    assert len(sizes) == 5  # 401 frames
    _, fed = land(Lake(lake.folder.parent / "again"), frames_of(seconds=20))
    events = events_of(lake.read("ticks"))
    assert events[events["flags"] & F_CHECKPOINT == 0].tobytes() == np.concatenate(fed).tobytes()
