"""The buffer between socket and lake: never waits, sheds nothing while there is room, and reports what it shed."""

from __future__ import annotations

import asyncio
import threading
from random import Random

import pytest
from kit.landed_lake import contents
from kit.wire_frames import START_NS, USDM, ToyExchange, bytes_of

from market.clock import ManualClock
from market.errors import LakeError, ServiceError
from market.feeds.intake import Intake, IntakeConfig
from market.feeds.landing import Lander, recover
from market.feeds.notices import PREFIX, notice, read
from market.feeds.websocket import ConnectionConfig, ConnectionLostError, _Backoff
from market.lake.lake import Lake


class Gated(Lander):
    """A lander that blocks until its gate is opened, like one whose disk hangs."""

    gate = threading.Event()

    def feed(self, frame, recv_ns, payload):
        self.gate.wait()
        return super().feed(frame, recv_ns, payload)


@pytest.fixture
def frames():
    toy = ToyExchange(seed=8)
    found = [(at, bytes_of(frame)) for at, frame in toy.session(seconds=30)]
    last = found[-1][0]
    return [
        *found,
        (last + 1, bytes_of(toy.snapshot())),
        *((last + 2 + n, bytes_of(toy.diff(last // 10**6))) for n in range(9)),
    ]


def lander(lake: Lake, kind: type[Lander] = Lander) -> Lander:
    return kind("live-1", USDM, lake, clock=ManualClock(START_NS))


def test_nothing_is_shed_while_the_lake_can_take_it(frames, tmp_path):
    straight, through = Lake(tmp_path / "straight"), Lake(tmp_path / "through")
    with lander(straight) as each:
        for n, frame in enumerate(frames, 1):
            each.feed(n, *frame)
    told = []

    async def run() -> Intake:
        async with Intake(lander(through), tell=told.append) as intake:
            for frame in frames:
                assert intake.offer(*frame)
        return intake

    intake = asyncio.run(run())
    assert (intake.shed.frames, intake.shed.spans) == (0, 0)
    assert told == list(range(1, len(frames) + 1))
    assert contents(through) == contents(straight)


def test_shed_frames_are_counted_and_reported_in_their_place_and_the_book_recovers(frames, tmp_path):
    lake = Lake(tmp_path)
    Gated.gate = threading.Event()
    slow = lander(lake, Gated)

    async def run() -> tuple[Intake, list[bool]]:
        async with Intake(slow, IntakeConfig(frames=100)) as intake:
            taken = [intake.offer(*frame) for frame in frames[:400]]  # returns at once: nothing is reading
            Gated.gate.set()
            for frame in frames[400:]:
                await intake.room()
                taken.append(intake.offer(*frame))
        return intake, taken

    intake, taken = asyncio.run(run())
    missing = [frame for frame, was in zip(frames, taken, strict=True) if not was]
    assert 0 < len(missing) == intake.shed.frames <= 300
    assert intake.shed.spans == 1
    assert (intake.shed.first_ns, intake.shed.last_ns) == (missing[0][0], missing[-1][0])
    raw = [row["payload"] for row in lake.read("raw").to_pylist()]
    [at] = [n for n, payload in enumerate(raw) if payload.startswith(PREFIX)]
    assert raw[:at] + raw[at + 1 :] == [payload for (_, payload), was in zip(frames, taken, strict=True) if was]
    assert len(raw[:at]) == taken.index(False)
    [kept] = [row for row in lake.read("quarantine").to_pylist() if row["reason"] == "shed"]
    assert f"{len(missing)} frames" in kept["detail"]
    assert "binance-usdm.BTCUSDT" in kept["detail"]
    assert (slow.stats.gaps, slow.stats.resyncs, slow.normaliser.synced) == (1, 1, True)


def test_a_derivation_from_raw_gives_the_same(frames, tmp_path):
    lake, again = Lake(tmp_path / "a"), Lake(tmp_path / "b")
    with lander(lake) as each:
        for n, frame in enumerate([*frames[:200], (frames[200][0], notice("shed", "x")), *frames[250:]], 1):
            each.feed(n, *frame)
    rows = lake.read("raw").to_pylist()
    with Lander("live-1", USDM, again) as each:
        for row in rows:
            each.feed(row["frame"], row["recv_ns"], row["payload"])
    assert contents(again) == contents(lake)
    recover(again, "live-1", USDM)
    assert contents(again) == contents(lake)


def test_bytes_are_bounded_too(frames, tmp_path):
    Gated.gate = threading.Event()

    async def run() -> int:
        async with Intake(lander(Lake(tmp_path), Gated), IntakeConfig(bytes=10_000)) as intake:
            taken = sum(len(payload) for at, payload in frames if intake.offer(at, payload))
            Gated.gate.set()
        return taken

    assert 5_000 < asyncio.run(run()) <= 10_000


def test_an_error_of_the_lake_is_raised_by_the_next_offer(frames, tmp_path):
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "raw").write_text("no folder")
    moving = ManualClock(START_NS)

    async def run() -> None:
        async with Intake(Lander("live-1", USDM, Lake(tmp_path / "lake"), clock=moving)) as intake:
            for frame in frames:
                moving.advance(10**9)
                intake.offer(*frame)

    with pytest.raises(LakeError):
        asyncio.run(run())


def test_only_our_own_format_is_a_notice():
    assert read(notice("silent", 'it "said" nothing')) == ("silent", 'it "said" nothing')
    for other in (b"{}", PREFIX, PREFIX + b"1}", PREFIX + b'{"reason":"fun","detail":"x"}}', PREFIX + b"[]}"):
        assert read(other) is None


def test_delays_grow_with_jitter_up_to_a_ceiling_until_patience_ends():
    slept = []

    async def run(seed: int) -> list[float]:
        backoff = _Backoff(
            ConnectionConfig(first_delay_s=0.001, max_delay_s=0.008, patience_s=0.1, jitter=Random(seed))
        )
        backoff.worked()
        before = 0.0
        while backoff._waited_s < 0.1:
            await backoff.wait(ConnectionLostError("away"))
            slept.append(backoff._waited_s - before)
            before = backoff._waited_s
        with pytest.raises(ServiceError, match="gave up"):
            await backoff.wait(ConnectionLostError("away"))
        return slept

    delays = asyncio.run(run(1))
    ceilings = [min(0.008, 0.001 * 2**n) for n in range(len(slept))]
    assert all(ceiling / 2 <= delay <= ceiling for delay, ceiling in zip(slept, ceilings, strict=True))
    assert len(set(delays[4:])) > 5, "two clients that lost one exchange do not come back together"
