"""kill -9 while frames are being landed: the next run ends with the lake that an undisturbed one leaves.

LAND_KILLS says how many kills (five unless told).
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from kit.forked import Forked
from kit.landed_lake import contents
from kit.stamped_server import StampedServer
from kit.wire_frames import USDM, ToyExchange, bytes_of, stamped, write_lines

from market.feeds import landing
from market.feeds.landing import Lander
from market.lake.lake import Lake
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.workspace import Workspace

KILLS = int(os.environ.get("LAND_KILLS", "5"))


def land(home: Path, kind: str, given: str) -> None:
    file = IngestConfig(files=(given,))
    stream = IngestConfig(url=given, instrument="binance-usdm.BTCUSDT")
    ingest(file if kind == "file" else stream, workspace=Workspace(home=home))


def start(home: Path, kind: str, given: str) -> Forked:
    return Forked(land, home, kind, given)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Twelve minutes with two frames that cannot be read and one line without a time."""
    lines = list(stamped(ToyExchange(seed=3).session(seconds=720, rate=30)))
    lines[5000] = lines[5000][:60]
    lines[5001] = b"no time at all"
    lines[15_000] = lines[15_000].replace(b'"e"', b'"f"')
    return write_lines(tmp_path_factory.mktemp("recording") / "toy.gz", lines)


@pytest.fixture(scope="module")
def undisturbed(recording, tmp_path_factory):
    """What the lake holds after one quiet run, and how long landing took."""
    workspace = Workspace(home=tmp_path_factory.mktemp("undisturbed"))
    child = start(workspace.home, "file", str(recording))
    began = time.monotonic()
    assert child.ended() == 0
    return contents(Lake(workspace.lake)), time.monotonic() - began


@pytest.mark.heavy
def test_a_recording_killed_at_random_moments_is_landed_exactly_once(recording, undisturbed, tmp_path):
    expected, seconds = undisturbed
    assert {len(expected[table]) > 0 for table in expected} == {True}
    chance = random.Random(7)
    killed, lakes, cut_short = 0, 0, 0
    while killed < KILLS:
        lakes += 1
        workspace = Workspace(home=tmp_path / str(lakes))
        finished = False
        while not finished:
            child = start(workspace.home, "file", str(recording))
            time.sleep(chance.uniform(0, seconds))
            finished = not child.kill()
            killed += not finished
            finished = finished or killed >= KILLS
        lake = Lake(workspace.lake)
        cut_short += len(landing.unfinished(lake))
        result = ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
        assert contents(lake) == expected
        assert result.unfinished == ()
        versions = {table: lake.version(table) for table in expected}
        again = ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
        assert again.landed[0].new_frames == 0
        assert contents(lake) == expected
        assert {table: lake.version(table) for table in expected} == versions
    assert cut_short > 0


@pytest.mark.heavy
def test_ctrl_c_on_a_live_stream_lands_what_came_and_leaves_nothing_unfinished(tmp_path):
    lines = list(stamped(ToyExchange(seed=4).session(seconds=400)))
    workspace = Workspace(home=tmp_path)
    lake = Lake(workspace.lake)
    with StampedServer(lines, messages_a_second=1500) as server:
        child = start(workspace.home, "url", server.url)
        while lake.read("raw", columns=["frame"]).num_rows < 1000:
            time.sleep(0.05)
        os.kill(child.process.pid, signal.SIGINT)
        code = child.ended()
    assert code != 0
    assert landing.unfinished(lake) == []
    last = lake.read("raw", columns=["frame"]).num_rows
    assert [lake.position(table, source_of_only(lake)) for table in ("raw", "ticks")] == [last, last]


def source_of_only(lake: Lake) -> str:
    [source] = lake.read("raw", columns=["source"])["source"].unique().to_pylist()
    return str(source)


@pytest.mark.heavy
def test_a_killed_live_stream_is_finished_from_its_raw_frames_by_the_next_run(recording, tmp_path):
    lines = [b"%d %s" % (recv_ns, bytes_of(frame)) for recv_ns, frame in ToyExchange(seed=4).session(seconds=400)]
    workspace = Workspace(home=tmp_path / "killed")
    lake = Lake(workspace.lake)
    with StampedServer(lines, messages_a_second=1500) as server:
        child = start(workspace.home, "url", server.url)
        while lake.read("raw", columns=["frame"]).num_rows < 2000:
            time.sleep(0.05)
        assert child.kill()
    [left] = landing.unfinished(lake)
    assert left.live
    result = ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    assert result.recovered == (left.source,)
    rows = [row for row in lake.read("raw").to_pylist() if row["source"] == left.source]
    assert [b"%d %s" % (row["recv_ns"], row["payload"]) for row in rows] == lines[: len(rows)]

    calm = Lake(tmp_path / "calm")
    with Lander(left.source, USDM, calm) as lander:
        for row in rows:
            lander.feed(row["frame"], row["recv_ns"], row["payload"])
    found = {t: [r for r in rows if r["source"] == left.source] for t, rows in contents(lake).items()}
    assert found == contents(calm)
    assert ingest(IngestConfig(files=(str(recording),)), workspace=workspace).recovered == ()
