"""The ingest stage from end to end: recordings of several instruments, streams, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from kit.stamped_server import StampedServer
from kit.wire_frames import COINM, SPOT, START_NS, USDM, ToyExchange, stamped, write_lines

from market.clock import ManualClock
from market.errors import CaptureError, EmptyDataError, InputError, ServiceError, SettingsError
from market.lake.lake import Lake
from market.lake.rows import events_of
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.workspace import Workspace

CAPTURES = Path(__file__).parents[3] / "shared" / "market" / "binance_raw"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(home=tmp_path / "home", clock=ManualClock(START_NS))


def recording(folder: Path, instrument=USDM, *, seconds=90, name="toy.gz") -> Path:
    return write_lines(folder / name, stamped(ToyExchange(instrument, seed=1).session(seconds=seconds)))


def run(workspace, *paths, **more):
    return ingest(IngestConfig(files=tuple(str(path) for path in paths), **more), workspace=workspace)


def test_recordings_of_three_markets_land_side_by_side(workspace, tmp_path):
    coin = [line.replace(b".000", b"") for line in stamped(ToyExchange(USDM, seed=2).session(seconds=70))]
    coin = [line.replace(b'"s":"BTCUSDT"', b'"s":"BTCUSD_PERP"') for line in coin]
    paths = [
        recording(tmp_path, SPOT, name="spot"),
        recording(tmp_path, USDM, name="usdm.gz"),
        write_lines(tmp_path / "coin.gz", [line for line in coin if b'"q":"0.' not in line]),
    ]
    result = run(workspace, *paths)
    assert result.instruments == (SPOT.key, USDM.key, COINM.key)
    lake = Lake(workspace.lake)
    for landed, path in zip(result.landed, paths, strict=True):
        assert landed.origin == path.name
        rows = lake.read("raw", instrument=landed.instrument)
        assert rows.num_rows == landed.frames == landed.new_frames > 0
        assert set(rows["source"].to_pylist()) == {landed.source}
    assert lake.read("ticks", instrument=SPOT.key).num_rows > result.landed[0].events
    assert (result.first_ns, result.last_ns) == (START_NS, result.landed[0].last_ns)
    assert json.loads(json.dumps(dataclasses.asdict(result)))["sources"] == list(result.sources)
    assert "0 gaps, 0 resyncs, 0 crossed" in result.line()


def test_the_same_recording_twice_is_landed_once(workspace, tmp_path):
    path = recording(tmp_path)
    first, second = run(workspace, path), run(workspace, path, path)
    assert len(second.landed) == 1
    assert second.landed[0] == dataclasses.replace(first.landed[0], new_frames=0)
    assert Lake(workspace.lake).read("raw").num_rows == first.landed[0].frames


def test_a_truncated_recording_is_landed_as_far_as_it_goes_and_says_so(workspace, tmp_path):
    path = recording(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    result = run(workspace, path)
    [landed] = result.landed
    assert landed.truncated
    assert landed.quarantined == {"truncated": 1}
    assert "TRUNCATED" in result.line()
    lake = Lake(workspace.lake)
    assert lake.read("raw").num_rows == landed.frames > 1000
    [entry] = lake.read("quarantine").to_pylist()
    assert (entry["reason"], entry["frame"]) == ("truncated", landed.frames + 1)
    assert "toy.gz: truncated" in entry["detail"]
    again = run(workspace, path)
    assert again.landed[0].new_frames == 0
    assert lake.read("quarantine").num_rows == 1


def test_a_recording_without_a_snapshot_says_that_its_book_is_never_known(workspace, tmp_path):
    lines = [line for line in stamped(ToyExchange().session(seconds=30)) if b"lastUpdateId" not in line]
    result = run(workspace, write_lines(tmp_path / "toy.gz", lines))
    assert not result.landed[0].synced
    assert result.landed[0].trades > 0
    assert "no snapshot to follow" in result.line()


def test_lines_that_are_not_frames_go_to_quarantine_with_their_reasons(workspace, tmp_path):
    lines = list(stamped(ToyExchange().session(seconds=30)))
    lines[100:100] = [b"noise", b"1723161255030314667 noise", b'1723161255030314667 {"e":"kline"}']
    result = run(workspace, write_lines(tmp_path / "toy.gz", lines))
    assert result.landed[0].quarantined == {"clock_unreadable": 1, "not_json": 1, "unknown_frame": 1}
    rows = Lake(workspace.lake).read("quarantine", columns=["frame", "payload"]).to_pylist()
    assert [(row["frame"], row["payload"]) for row in rows] == [
        (101, b"noise"),
        (102, b"noise"),
        (103, b'{"e":"kline"}'),
    ]


def test_the_instrument_may_be_said_where_the_form_does_not_tell(workspace, tmp_path):
    result = run(workspace, recording(tmp_path), instrument="sim-usdm.BTCUSDT")
    assert result.instruments == ("sim-usdm.BTCUSDT",)
    with pytest.raises(InputError, match=r"recording of binance-usdm.BTCUSDT, not of binance-usdm.ETHUSDT"):
        run(workspace, recording(tmp_path), instrument="binance-usdm.ETHUSDT")


def test_input_that_is_no_recording_is_said_before_anything_is_landed(workspace, tmp_path):
    good = recording(tmp_path)
    (tmp_path / "notes").write_text("dear diary")
    (tmp_path / "empty").write_bytes(b"")
    for name, error, match in (
        ("notes", CaptureError, "not a recording"),
        ("empty", EmptyDataError, "holds no frames"),
        ("nowhere", InputError, "No such file"),
        (".", InputError, "directory"),
    ):
        with pytest.raises(error, match=match):
            run(workspace, good, tmp_path / name)
    assert not Lake(workspace.lake).exists("raw")


@pytest.mark.parametrize("config", [IngestConfig(), IngestConfig(files=("a",), url="ws://127.0.0.1:1")])
def test_neither_or_both_of_files_and_url_is_refused(workspace, config):
    with pytest.raises(SettingsError, match="one of the two"):
        ingest(config, workspace=workspace)


def test_a_stream_lands_like_the_recording_of_it(workspace, tmp_path):
    lines = list(stamped(ToyExchange(seed=1).session(seconds=90)))
    with StampedServer(lines) as server:
        streamed = ingest(IngestConfig(url=server.url, instrument=USDM.key), workspace=workspace)
    other = Workspace(home=tmp_path / "recorded")
    recorded = run(other, recording(tmp_path))
    assert streamed.sources[0].startswith("live-20240808T235400-")
    same = {"source": "", "origin": ""}
    assert dataclasses.replace(streamed.landed[0], **same) == dataclasses.replace(recorded.landed[0], **same)
    a, b = (events_of(Lake(w.lake).read("ticks")) for w in (workspace, other))
    assert a.tobytes() == b.tobytes()


def test_a_stream_stops_after_the_seconds_asked_for(workspace):
    lines = list(stamped(ToyExchange(seed=1).session(seconds=90)))
    with StampedServer(lines) as server:
        result = ingest(IngestConfig(url=server.url, instrument=USDM.key, seconds=20), workspace=workspace)
    assert START_NS + 19 * 10**9 < result.last_ns < START_NS + 20 * 10**9
    assert result.landed[0].frames == 401


def test_what_is_wrong_with_a_stream_is_said(workspace):
    with StampedServer([]) as server:
        with pytest.raises(SettingsError, match="expected the instrument"):
            ingest(IngestConfig(url=server.url), workspace=workspace)
        with pytest.raises(EmptyDataError, match="sent no frames"):
            ingest(IngestConfig(url=server.url, instrument=USDM.key), workspace=workspace)
        url = server.url
    with pytest.raises(ServiceError, match="Is the exchange running"):
        ingest(IngestConfig(url=url, instrument=USDM.key), workspace=workspace)
    with pytest.raises(InputError, match="unknown instrument"):
        ingest(IngestConfig(url=url, instrument="x.Y"), workspace=workspace)


@pytest.mark.heavy
@pytest.mark.skipif(not CAPTURES.exists(), reason="the real recordings are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("spot_btcusdt_20240808.gz", "binance-spot.BTCUSDT"),
        ("usdm_btcusdt_20240808.gz", "binance-usdm.BTCUSDT"),
        ("cm_ethusd_perp_20240808.gz", "binance-coinm.ETHUSD_PERP"),
        ("usdm_btcusdt_20230404.dat.gz", "binance-usdm.BTCUSDT"),
    ],
)
def test_a_real_recording_lands_without_a_gap_and_without_a_crossed_book(workspace, name, key):
    result = run(workspace, CAPTURES / name)
    [landed] = result.landed
    assert landed.instrument == key
    assert (landed.gaps, landed.resyncs, landed.crossed, landed.locked, landed.quarantined) == (0, 0, 0, 0, {})
    assert landed.synced
    assert (landed.offset_ms < -1000) == name.endswith("20240808.gz")  # those were made with a slow local clock
    assert run(workspace, CAPTURES / name).landed[0].new_frames == 0


@pytest.mark.skipif(not CAPTURES.exists(), reason="the real recordings are not beside this checkout")
def test_the_real_recording_without_a_snapshot_lands_its_trades_and_tickers(workspace):
    [landed] = run(workspace, CAPTURES / "usdm_btcusdt_20230405.dat.gz").landed
    assert not landed.synced
    assert (landed.trades, landed.slow, landed.quarantined) == (10737, 415, {})
