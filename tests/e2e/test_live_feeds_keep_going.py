"""Live feeds over real sockets: several in one process, silence, a snapshot that is asked for again."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from urllib.parse import urlsplit

import pytest
from kit.simulated_market import STREAMS, Reader
from kit.stamped_server import StampedServer
from kit.wire_frames import SPOT, USDM, ToyExchange, bytes_of, stamped
from websockets.asyncio.server import serve

from market.clock import ManualClock, SystemClock
from market.errors import ServiceError, SettingsError
from market.feeds import websocket
from market.feeds.notices import read
from market.lake.lake import Lake
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.stack.exchange import SimulateConfig, running_exchange
from pipelines.workspace import Workspace


def recorded(instrument, seed: int) -> list[bytes]:
    return list(stamped(ToyExchange(instrument, seed=seed).session(seconds=90)))


def test_several_venues_are_landed_by_one_process_each_as_if_it_were_alone(tmp_path):
    lines = {SPOT: recorded(SPOT, 1), USDM: recorded(USDM, 2)}
    workspace = Workspace(home=tmp_path)
    with StampedServer(lines[SPOT]) as spot, StampedServer(lines[USDM]) as usdm:
        feeds = (f"{SPOT.key}={spot.url}", f"{USDM.key}={usdm.url}")
        result = ingest(IngestConfig(feeds=feeds), workspace=workspace)
    assert [(each.instrument, each.frames, each.shed, each.synced) for each in result.landed] == [
        (SPOT.key, len(lines[SPOT]), 0, True),
        (USDM.key, len(lines[USDM]), 0, True),
    ]
    assert all(each.clock_offset_ms is not None for each in result.landed)
    for instrument, sent in lines.items():
        rows = Lake(workspace.lake).read("raw", instrument=instrument.key).to_pylist()
        assert [b"%d %s" % (row["recv_ns"], row["payload"]) for row in rows] == sent


def test_a_feed_that_fails_does_not_end_the_others(tmp_path):
    lines = recorded(USDM, 2)
    workspace = Workspace(home=tmp_path)
    with StampedServer(lines) as usdm:
        feeds = (f"{SPOT.key}=ws://127.0.0.1:1/stream?stamp=1", f"{USDM.key}={usdm.url}")
        with pytest.raises(
            ServiceError, match=r"1 of 2 feeds failed, what came of all is landed: binance-spot.BTCUSDT"
        ):
            ingest(IngestConfig(feeds=feeds), workspace=workspace)
    assert Lake(workspace.lake).read("raw").num_rows == len(lines)


@pytest.mark.parametrize(
    "feeds", [("ws://127.0.0.1:1",), ("binance-spot.BTCUSDT=ws://a", "binance-spot.BTCUSDT=ws://b")]
)
def test_feeds_that_cannot_be_are_said(feeds, tmp_path):
    with pytest.raises(SettingsError, match=r"expected (a feed as VENUE.SYMBOL=URL|every instrument in one feed only)"):
        ingest(IngestConfig(feeds=feeds), workspace=Workspace(home=tmp_path))


def test_a_connection_on_which_nothing_comes_is_cut_and_opened_again():
    frames = [bytes_of(frame) for _, frame in ToyExchange(seed=3).session(seconds=3)]
    connections = 0

    async def talk(connection) -> None:
        nonlocal connections
        connections += 1
        for frame in frames[: len(frames) // 2] if connections == 1 else frames[len(frames) // 2 :]:
            await connection.send(frame, text=True)
        if connections == 1:
            await connection.wait_closed()  # open, pings are answered, and nothing is said
        await connection.send('{"stream":"keel@end","data":{}}')

    async def listen() -> list[bytes]:
        async with serve(talk, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"
            config = websocket.ConnectionConfig(silence_s=0.3)
            async with aclosing(websocket.stream(url, clock=ManualClock(1), config=config)) as incoming:
                return [payload async for _, _, payload in incoming]

    came = asyncio.run(listen())
    half = len(frames) // 2
    assert came[:half] + came[half + 1 :] == frames
    reason, detail = read(came[half])
    assert reason == "silent"
    assert "sent nothing for 0.3 s" in detail
    assert connections == 2


def test_a_book_that_lost_its_place_asks_for_a_snapshot_and_is_right_again():
    """The interval of snapshots is ten minutes; nobody waits for that without a book."""
    reader = Reader()
    reader.feed((1, b"{}"))  # compiled before the market runs

    async def listen(port: int) -> None:
        url = f"ws://127.0.0.1:{port}/stream?streams={STREAMS}&pace=4&seconds=12"
        config = websocket.ConnectionConfig(
            snapshot_url=f"http://127.0.0.1:{port}/fapi/v1/depth?symbol=BTCUSDT&limit=1000",
            snapshot_retry_s=0.1,
            wants_snapshot=lambda: not reader.synced,
        )
        async with aclosing(websocket.stream(url, clock=SystemClock(), config=config)) as incoming:
            async for number, recv_ns, payload in incoming:
                reader.feed((recv_ns, payload))
                if number == 120:
                    await websocket.snapshot(f"http://{urlsplit(url).netloc}/sim/fault?kind=drop_diff")

    with running_exchange(SimulateConfig(seed=4)) as exchange:
        asyncio.run(listen(exchange.port))
    assert (reader.stats.gaps, reader.stats.resyncs, reader.synced) == (1, 1, True)
    assert reader.stats.snapshots == 2
